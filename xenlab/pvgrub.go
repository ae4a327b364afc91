package xenlab

import "context"

// The paths in dom0 of the two PV GRUBs that [Lab.MakePVGrubs] makes.
const (
	PVGrubHD0  = "/root/pv-grub-hd0"
	PVGrubHD00 = "/root/pv-grub-hd00"
)

// MakePVGrubs makes two PV GRUBs in dom0 that behave as those of EC2: each reads the
// menu.lst of one disk layout.
func (l *Lab) MakePVGrubs(ctx context.Context) error {
	_, err := l.Run(ctx, "sh", "-c", `set -e
cd "$(mktemp -d)"
for kind; do
	set -- $kind
	printf 'set root=%s\nlegacy_configfile /boot/grub/menu.lst\necho no menu on %s\nhalt\n' "$2" "$2" >grub.cfg
	tar -cf memdisk.tar grub.cfg
	echo 'normal (memdisk)/grub.cfg' >early.cfg
	grub-mkimage -O x86_64-xen -o "$1" -c early.cfg -m memdisk.tar -p '(memdisk)' \
		memdisk tar ext2 part_msdos normal configfile legacycfg linux gzio test loadenv echo halt
done
rm -r "$PWD"`, "sh", PVGrubHD0+" (hd0)", PVGrubHD00+" (hd0,msdos1)")
	return err
}
