#!/bin/sh
# deps.sh installs the missing tools as Debian packages. Without root or sudo it prints the
# command. deps.sh lab also installs the tools that build xenlab/. deps.sh test also
# installs those of all tests.
set -eu

PATH=$PATH:/usr/sbin:/sbin # for mke2fs and sgdisk
missing=
need() { command -v "$1" >/dev/null 2>&1 || missing="$missing $2"; }
need gcc gcc
need ld binutils
need git git
need qemu-system-x86_64 qemu-system-x86
# For boot disks (image/disk) and their tests.
need mke2fs e2fsprogs
need grub-mkimage grub-common
need mformat mtools
need sgdisk gdisk
need sfdisk fdisk
need fsck.fat dosfstools
need file file
need xz xz-utils
need bzip2 bzip2
need ip iproute2
need ssh openssh-client
[ -d /usr/lib/grub/i386-pc ] || missing="$missing grub-pc-bin"
[ -d /usr/lib/grub/x86_64-efi ] || missing="$missing grub-efi-amd64-bin"
[ -e /usr/share/OVMF/OVMF_CODE_4M.fd ] || missing="$missing ovmf"
# For examples/python-step and the judges of ec2lab. Debian's python3 lacks ensurepip.
python3 -c 'import ensurepip, venv' 2>/dev/null || missing="$missing python3 python3-venv"
case ${1-} in
lab | test) # xenlab/build.sh
	need mmdebstrap mmdebstrap
	need depmod kmod
	need cpio cpio
	need qemu-img qemu-utils
	;;
esac
if [ "${1-}" = test ]; then
	# The headers of libxlutil, which parses xl's configuration files.
	[ -e /usr/include/libxlutil.h ] || missing="$missing libxen-dev"
	# For the tests of remote/.
	need sshd openssh-server
	need busybox busybox
	# The tests of carrier/ fetch Debian's cloud kernel. This makes apt-get update run.
	apt-cache show linux-image-cloud-amd64 >/dev/null 2>&1 || missing="$missing apt"
fi
if ! command -v go >/dev/null 2>&1; then
	echo "error: Go is not installed; see https://go.dev/doc/install (version in go.mod)" >&2
	exit 2
fi
# go test -race uses cgo, which needs the C library's headers.
[ -e /usr/include/stdlib.h ] || missing="$missing libc6-dev"
[ -n "$missing" ] || exit 0

command="apt-get install -y --no-install-recommends$missing"
if ! command -v apt-get >/dev/null 2>&1; then
	echo "error: missing Debian packages$missing; install their equivalents on this system" >&2
	exit 2
fi
if [ "$(id -u)" = 0 ]; then
	sudo=
elif sudo -n true 2>/dev/null; then
	sudo=sudo
else
	echo "error: missing$missing; run: sudo apt-get update && sudo $command" >&2
	exit 2
fi
echo "installing$missing"
export DEBIAN_FRONTEND=noninteractive
case $missing in
*openssh-server*) # mask the service: the tests start sshd themselves
	if [ -d /etc/systemd/system ]; then
		echo "ssh.service is masked: systemctl unmask ssh.service, if you want it"
		$sudo ln -sf /dev/null /etc/systemd/system/ssh.service
	fi
	;;
esac
$sudo apt-get update -qq
# shellcheck disable=SC2086 # a list of words
$sudo $command >/dev/null
