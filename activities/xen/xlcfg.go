package xen

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/morgana-deploy/morgana/step"
)

// The files of an image, in its folder on the Xen host.
const (
	kernelFile = "kernel"
	packedDisk = "disk.tar" // as it is sent
	bootDisk   = "disk.img" // as it is unpacked
	domainFile = "domain.json"
)

// domain is a domain's configuration without the names and paths that depend on its host
// and its rollout; see place. It is the image's file domain.json.
type domain struct {
	// Host is option host. It is here so that each host gives another digest.
	Host string `json:"host,omitempty"`
	Tool string `json:"tool"`
	Type string `json:"type"` // pv, pvh or hvm
	// Loader starts the kernel on the first disk of a pv domain: pygrub, or the path of a
	// pv-grub. If it is empty, Xen starts the image's kernel, or an hvm domain its disk.
	Loader  string `json:"loader,omitempty"`
	Root    string `json:"root,omitempty"` // where pv-grub finds the file system of the disk: hd0 or hd0,0
	Ramdisk string `json:"ramdisk,omitempty"`
	Args    string `json:"args,omitempty"`
	Memory  int    `json:"memory"` // MiB
	VCPUs   int    `json:"vcpus"`
	// XenConsole says that the kernel of an hvm domain writes to Xen's console and not to a
	// serial port.
	XenConsole bool     `json:"xen_console,omitempty"`
	Vif        []device `json:"vif,omitempty"`
	Disks      []volume `json:"disks,omitempty"` // the boot disk is the first
	OnCrash    string   `json:"on_crash"`
	Extra      []string `json:"extra,omitempty"` // lines
}

// device is an element of xl.cfg's vif. Its name is the one in @NETWORK:name@ of an
// xl.in, until an option is bound to it.
type device struct {
	Vif           // without a MAC, one is derived from the UUID
	More []string `json:"more,omitempty"` // as "rate=10Mb/s"
}

// volume is an element of xl.cfg's disk: a file of the image, or a path of the host. Its
// name is the one in @BLOCK:name@ of an xl.in, until an option is bound to it.
type volume struct {
	Disk
	More []string `json:"more,omitempty"` // as "backendtype=qdisk"
}

// own reports whether the domain gets its own copy of the file, to write to.
func (v volume) own() bool { return v.File != "" && v.Access == "w" }

// copies returns the files of the image that are copied to the domain's folder.
func (d domain) copies() []string {
	var all []string
	for _, v := range d.Disks {
		if v.own() {
			all = append(all, v.File)
		}
	}
	return all
}

// writes returns the disks of the host that the domain writes to.
func (d domain) writes() []string {
	var all []string
	for _, v := range d.Disks {
		if v.Path != "" && v.Access != "r" {
			all = append(all, v.Path)
		}
	}
	return all
}

// place has the names that depend on the host and the rollout.
type place struct {
	Name   string // of the domain
	UUID   string
	Image  string // the folder of the image's files
	Folder string // the domain's own folder
}

// ours maps the keys of xl.cfg that Morgana sets to their option, "" if there is none.
var ours = map[string]string{
	"name": "", "uuid": "", "kernel": "", "builder": "type", "type": "type", "ramdisk": "modules",
	"extra": "args", "cmdline": "args", "root": "args", "memory": "memory", "vcpus": "vcpus", "vif": "vif", "disk": "disks",
	"on_crash": "on_crash", "bootloader": "bootloader", "bootloader_args": "bootloader", "serial": "", "boot": "",
}

// usual are lines that every domain, or every hvm domain, has unless Extra says
// otherwise.
var (
	// As on other targets, a reset ends the domain; it could reset for ever.
	usual = []setting{{Key: "on_reboot", Value: text("destroy")}}
	// Nobody looks at the screen, and a VNC server would listen on a port.
	usualHVM = []setting{{Key: "vga", Value: text("none")}, {Key: "vnc", Value: number(0)}, {Key: "sdl", Value: number(0)}}
)

// render writes the configuration for xl create. A text that xl's syntax cannot express
// is InvalidSpec.
func (d domain) render(at place) ([]byte, error) {
	w := &writer{}
	fmt.Fprintf(&w.out, "# Domain %s, written by Morgana.\n", at.Name)
	w.set("name", text(at.Name))
	w.set("uuid", text(at.UUID))
	d.renderType(w, at)
	w.set("memory", number(d.Memory))
	w.set("vcpus", number(d.VCPUs))
	var vifs, disks []value
	for i, v := range d.Vif {
		vifs = append(vifs, text(v.spec(at.UUID, i)))
	}
	for _, v := range d.Disks {
		if d.Tool == toolXM {
			disks = append(disks, text(v.oldSpec(at)))
		} else {
			disks = append(disks, text(v.spec(at)))
		}
	}
	w.set("vif", list(vifs...))
	w.set("disk", list(disks...))
	w.set("on_crash", text(d.OnCrash))
	extra, err := d.extra()
	if err != nil {
		return nil, err
	}
	lines := usual
	if d.Type == typeHVM {
		lines = slices.Concat(usual, usualHVM)
	}
	for _, line := range lines {
		if !slices.ContainsFunc(extra, func(s setting) bool { return s.Key == line.Key }) {
			w.set(line.Key, line.Value)
		}
	}
	for _, line := range d.Extra {
		w.out.WriteString(line + "\n")
	}
	return w.out.Bytes(), w.err
}

// renderType writes the domain's type, and its kernel or boot loader.
func (d domain) renderType(w *writer, at place) {
	switch {
	case d.Tool == toolXM && d.Type == typeHVM:
		w.set("builder", text("hvm"))
		w.set("kernel", text("hvmloader")) // found by xm
	case d.Tool == toolXM: // xm's only other type is pv
	default:
		w.set("type", text(d.Type))
	}
	switch {
	case d.Type == typeHVM:
		w.set("boot", text("c"))
		if !d.XenConsole {
			w.set("serial", text("pty"))
		}
		return // the kernel's arguments are on the disk
	case path.Base(d.Loader) == pygrub:
		w.set("bootloader", text(d.Loader))
		if d.Tool == toolXL {
			w.set("bootloader_args", d.pygrubArgs())
		}
		return
	case d.Loader != "":
		w.set("kernel", text(d.Loader))
		w.set("extra", text("("+d.Root+")/boot/grub/menu.lst"))
		return
	}
	w.set("kernel", text(path.Join(at.Image, kernelFile)))
	if d.Ramdisk != "" {
		w.set("ramdisk", text(path.Join(at.Image, d.Ramdisk)))
	}
	if d.Args != "" {
		w.set("extra", text(d.Args))
	}
}

// pygrubArgs returns pygrub's arguments: the kernel, ramdisk and command line of the
// disk's menu.lst. Without them pygrub would read the disk's grub.cfg, which it does not
// understand.
func (d domain) pygrubArgs() value {
	all := []value{text("--kernel=/boot/kernel")}
	if d.Ramdisk != "" {
		all = append(all, text("--ramdisk=/boot/"+d.Ramdisk))
	}
	if d.Args != "" {
		all = append(all, text("--args="+d.Args))
	}
	return list(all...)
}

func (d domain) extra() ([]setting, error) {
	var all []setting
	for i, line := range d.Extra {
		s, err := parseLine(line)
		if err != nil {
			return nil, step.Invalid(fmt.Sprintf("extra[%d]", i), extraHint, "%w", err)
		}
		all = append(all, s)
	}
	return all, nil
}

// spec returns the device's string in xl.cfg's list vif.
func (v device) spec(uuid string, i int) string {
	all := []string{"mac=" + v.mac(uuid, i)}
	for _, p := range [][2]string{{"bridge", v.Bridge}, {"ip", v.IP}, {"script", v.Script}, {"model", v.Model}} {
		if p[1] != "" {
			all = append(all, p[0]+"="+p[1])
		}
	}
	return strings.Join(append(all, v.More...), ",")
}

// mac returns the MAC of device i. By default it is derived from the UUID, because two
// generations run side by side for a while and need different MACs. 00:16:3e is Xen's
// range.
func (v device) mac(uuid string, i int) string {
	if v.MAC != "" {
		return v.MAC
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\n%d", uuid, i))
	return fmt.Sprintf("00:16:3e:%02x:%02x:%02x", sum[0]&0x7f, sum[1], sum[2]) // xl clears this bit too
}

// target returns the volume's path on the host.
func (v volume) target(at place) string {
	switch {
	case v.own():
		return path.Join(at.Folder, v.File)
	case v.File != "":
		return path.Join(at.Image, v.File)
	}
	return v.Path
}

// spec returns the volume's string in xl.cfg's list disk. The target comes last, because
// it takes the rest of the string. xl removes one comma at its end.
func (v volume) spec(at place) string {
	all := append([]string{"format=" + v.Format, "vdev=" + v.Vdev, "access=" + v.Access}, v.More...)
	target := v.target(at)
	if strings.HasSuffix(target, ",") {
		target += ","
	}
	return strings.Join(append(all, "target="+target), ",")
}

// oldSpec returns the string for xm. xm cannot quote a comma: read refuses such paths.
func (v volume) oldSpec(at place) string {
	target := v.target(at)
	how := "file:"
	switch {
	case v.Format != "raw":
		how = "tap:" + v.Format + ":"
	case v.File == "" && strings.HasPrefix(target, "/dev/"):
		how = "phy:"
	}
	return how + target + "," + v.Vdev + "," + v.Access
}

type writer struct {
	out bytes.Buffer
	err error // the first
}

func (w *writer) set(key string, v value) {
	if err := v.check(); err != nil && w.err == nil {
		field := key
		if option := ours[key]; option != "" {
			field = option
		}
		w.err = &step.Error{Kind: step.InvalidSpec, Field: field, Err: err}
	}
	if v.IsList && len(v.List) == 0 {
		return
	}
	fmt.Fprintf(&w.out, "%s\n", setting{Key: key, Value: v})
}
