#!/bin/bash
# build.sh OUT: makes a Xen dom0 of Debian packages, for QEMU. Into the empty
# folder OUT come
#   xen         the hypervisor, as QEMU's -kernel takes it
#   vmlinuz     dom0's kernel
#   initrd.img  dom0's initrd
#   dom0.img    dom0's root: ext4, sparse
#   id_ed25519  the key that root's sshd lets in, and
#   host.pub    that sshd's own public key
# The packages come from wherever the host's apt gets its own; the host has to be
# a Debian 12, which is the one with Xen 4.17. Must be root: the files of dom0
# belong to root.
set -euo pipefail
export LC_ALL=C PATH=$PATH:/usr/sbin:/sbin
here=$(cd "$(dirname "$0")" && pwd)
out=$(cd "${1:?folder for what is made}" && pwd)
say() { printf 'xenlab: %4ds %s\n' "$SECONDS" "$*" >&2; }
die() {
	printf 'xenlab: %s\n' "$@" >&2
	exit 1
}

missing=
need() { command -v "$1" >/dev/null || missing+=" $2"; }
need mmdebstrap mmdebstrap
need depmod kmod
need cpio cpio
need mke2fs e2fsprogs
need qemu-img qemu-utils
need ssh-keygen openssh-client
[ -z "$missing" ] || die "missing$missing" "apt-get install -y --no-install-recommends$missing"
[ "$(id -u)" = 0 ] || die "must be root to make dom0's files"

work=$(mktemp -d "$out/.work-XXXXXX")
trap 'rm -rf "$work"' EXIT
root=$work/root

# deb822 or the older kind, as the host has it.
sources=()
for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources; do
	[ ! -s "$file" ] || sources+=("$file")
done
[ "${#sources[@]}" -gt 0 ] || die "apt has no sources: nothing in /etc/apt/sources.list*"

# Proxies and the like.
apt-config dump Acquire >"$work/apt.conf"

# The packages are unpacked, not configured: configuring takes minutes and is for
# a system with an init. What it would have done that matters is done below.
say "packages: fetching and unpacking (a minute or two)"
packages=$(grep -v '^#' "$here/dom0/packages" | paste -sd,)
mmdebstrap --quiet --mode=root --variant=extract --format=directory \
	--aptopt="$work/apt.conf" --aptopt='Apt::Install-Recommends "false"' --include="$packages" \
	'' "$root" "${sources[@]}" >"$work/log" 2>&1 ||
	die "mmdebstrap: $(tail -n 3 "$work/log")"

say "kernel"
kernel=$(basename "$root"/boot/vmlinuz-*)
version=${kernel#vmlinuz-}
mv "$root/boot/$kernel" "$out/vmlinuz"
zcat "$root/boot/xen-4.17-amd64.gz" >"$out/xen" # gunzipped it is a multiboot ELF

# Of the kernel's modules only the ones for QEMU's virtio devices and for Xen.
mv "$root/lib/modules/$version" "$work/modules.all"
mkdir -p "$work/all/lib/modules" "$root/lib/modules/$version"
mv "$work/modules.all" "$work/all/lib/modules/$version"
depmod -b "$work/all" "$version"
modules() { # the files of modules $@ and of those they need, in the order of loading
	for module; do
		modprobe -d "$work/all" -S "$version" --show-depends "$module"
	done | sed -n 's/^insmod \([^ ]*\).*/\1/p' | awk '!seen[$0]++'
}
initrd=$work/initrd
mkdir -p "$initrd"/{bin,dev,proc,sys,mnt,modules}
for file in $(modules virtio_pci virtio_blk ext4); do
	cp "$file" "$initrd/modules/"
	basename "$file" >>"$initrd/modules/list"
done
install -m755 "$root/bin/busybox" "$initrd/bin/busybox"
install -m755 "$here/dom0/initrd-init" "$initrd/init"
(cd "$initrd" && find . | cpio --quiet -o -H newc) >"$out/initrd.img"

for file in $(modules virtio_net xen-privcmd xen-evtchn xen-gntdev xen-gntalloc xenfs \
	xen-blkback xen-netback bridge loop tun); do
	install -D -m644 "$file" "$root/${file#"$work/all/"}"
done
cp "$work/all/lib/modules/$version"/modules.{order,builtin,builtin.modinfo} "$root/lib/modules/$version/"
depmod -b "$root" "$version"

say "dom0"
# What is not needed to run guests: documentation, firmware of other machines.
rm -rf "$root"/usr/share/{doc,man,locale,info,lintian,bug,bash-completion,i18n,perl5,zoneinfo} \
	"${root:?}"/boot "$root"/var/{cache,lib}/apt "$root"/var/lib/dpkg "$root"/usr/lib/xen-debug \
	"$root"/usr/share/initramfs-tools "$root"/usr/share/qemu/{edk2-*,hppa-*,skiboot*,opensbi-*,u-boot*,openbios-*,slof.bin,s390-*,palcode*,npcm*,vof*,*.dtb}
# What the maintainer scripts would have done.
mkdir -p "$root"/{proc,sys,dev,run,tmp,mnt,root} "$root"/var/{log/xen/console,lib/xen,lib/morgana,tmp,lock}
rm -rf "$root/var/run" "$root/var/lock"
ln -s /run "$root/var/run"
ln -s /run/lock "$root/var/lock"
link() { [ -e "$root/$2" ] || [ -L "$root/$2" ] || ln -s "$1" "$root/$2"; }
link bash bin/sh
link mawk usr/bin/awk
link busybox usr/bin/logger # of the hotplug scripts
link "$(basename "$root"/usr/bin/python3.*[0-9])" usr/bin/python3
chroot "$root" ldconfig
cp "$root/usr/share/base-passwd/passwd.master" "$root/etc/passwd"
cp "$root/usr/share/base-passwd/group.master" "$root/etc/group"
echo 'sshd:x:100:65534::/run/sshd:/usr/sbin/nologin' >>"$root/etc/passwd"
sed -i -e 's/^root:[^:]*:/root:*:/' -e 's#^\(root:.*\):[^:]*$#\1:/bin/bash#' "$root/etc/passwd"
rm -f "$root/sbin/init"
install -m755 "$here/dom0/init" "$root/sbin/init"
echo 'vif.default.bridge="xenbr0"' >>"$root/etc/xen/xl.conf"

# Keys, no passwords. Session limits are sshd's own, as on people's hosts.
ssh-keygen -q -t ed25519 -N '' -C xenlab -f "$out/id_ed25519"
install -d -m700 "$root/root/.ssh"
install -m600 "$out/id_ed25519.pub" "$root/root/.ssh/authorized_keys"
rm -f "$root"/etc/ssh/ssh_host_*
ssh-keygen -q -t ed25519 -N '' -C xenlab -f "$root/etc/ssh/ssh_host_ed25519_key"
cp "$root/etc/ssh/ssh_host_ed25519_key.pub" "$out/host.pub"
cat >"$root/etc/ssh/sshd_config" <<-'END'
	PermitRootLogin prohibit-password
	PasswordAuthentication no
	UsePAM no
	UseDNS no
	PrintMotd no
	HostKey /etc/ssh/ssh_host_ed25519_key
	Subsystem sftp /usr/lib/openssh/sftp-server
END

mke2fs -q -t ext4 -O ^has_journal -E lazy_itable_init=1 -m 0 -d "$root" "$out/dom0.img" 2G
say "made: root $(du -sh "$root" | cut -f1), disk $(du -h "$out/dom0.img" | cut -f1)"
