package disk

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/morgana-deploy/morgana/image"
	"github.com/morgana-deploy/morgana/step"
)

// texts are the configuration files of the boot loaders.
type texts struct {
	grub string // /boot/grub/grub.cfg, for GRUB 2
	menu string // /boot/grub/menu.lst, for GRUB legacy and pv-grub; "" for other layouts
}

// loader says how GRUB starts kernels of an ABI.
type loader struct {
	kernel, module string   // the commands of GRUB 2
	menuModule     string   // the command of GRUB legacy
	layouts        []Layout // the layouts in which GRUB has these commands
	path           bool     // the first argument is the kernel's path
	initrd         bool     // modules are in one command and have no arguments
	before         string   // the lines of grub.cfg before boot
}

var (
	machine = []Layout{BIOS, UEFI}
	xen     = []Layout{Whole, Partition}
	both    = []Layout{Whole, Partition, BIOS, UEFI}
)

// loaders has the commands for each ABI. GRUB legacy has none for multiboot2. GRUB 2
// for Xen starts PV kernels by its commands multiboot and module.
var loaders = map[string]loader{
	image.Multiboot1:      {kernel: "multiboot", module: "module", menuModule: "modulenounzip", layouts: both, path: true},
	image.Multiboot1ELF64: {kernel: "multiboot", module: "module", menuModule: "modulenounzip", layouts: both, path: true},
	image.Multiboot2:      {kernel: "multiboot2", module: "module2", layouts: machine},
	image.LinuxBzImage:    {kernel: "linux", module: "initrd", menuModule: "initrd", layouts: both, initrd: true},
	image.XenPV:           {kernel: "multiboot", module: "module", menuModule: "modulenounzip", layouts: xen},
	// Only pygrub starts it, in a pvh domain. It goes by menu.lst.
	image.XenPVH: {kernel: "multiboot", module: "module", menuModule: "module", layouts: xen},
	// In an hvm domain of Xen. The kernel takes Xen's events only, and would die of the first
	// interrupt of the PC's timer: these lines mask the interrupt controllers. Its arguments
	// begin at the first word, unlike those of Solo5's virtio kernels.
	image.Solo5Xen: {kernel: "multiboot", module: "module", layouts: []Layout{BIOS}, before: "outb 0x21 0xff\noutb 0xa1 0xff\n"},
}

const (
	kernelPath = "/boot/kernel"
	// maxMenuLine is the longest line of GRUB legacy (NEW_HEAPSIZE). It drops the
	// rest without an error.
	maxMenuLine = 1499
	// maxXenArgs is the size of the command line in Xen's start_info, without the
	// zero at its end.
	maxXenArgs = 1023
)

// render checks the layout, the ABI, names and arguments, and makes the configuration
// files.
func render(l Layout, b Boot) (texts, error) {
	if !slices.Contains(both, l) {
		return texts{}, &step.Error{Kind: step.InvalidSpec, Op: opWrite, Field: "layout",
			Err: fmt.Errorf("%q is no layout", l), Hint: `"hd0", "hd0,0", "bios" or "uefi"`}
	}
	how, ok := loaders[b.ABI]
	if !ok || !slices.Contains(how.layouts, l) {
		return texts{}, &step.Error{Kind: step.Unsupported, Op: opWrite,
			Err: fmt.Errorf("no boot loader starts a kernel of ABI %q from a disk of layout %q", b.ABI, l)}
	}
	if err := checkNames(b.Modules); err != nil {
		return texts{}, err
	}
	if how.initrd {
		for i, m := range b.Modules {
			if m.Args != "" {
				return texts{}, invalid(moduleField(i)+".args", errors.New("an initrd of Linux has no arguments"))
			}
		}
	}
	if b.ABI == image.XenPV && len(b.Args) > maxXenArgs {
		return texts{}, invalid("args", fmt.Errorf("%d bytes, and Xen passes on %d", len(b.Args), maxXenArgs))
	}
	grub, err := renderConfig(l, b, how)
	if err != nil || !slices.Contains(xen, l) {
		return texts{grub: grub}, err
	}
	menu, err := renderMenu(l, b, how)
	return texts{grub: grub, menu: menu}, err
}

// renderConfig makes grub.cfg. If the kernel does not start, GRUB prints an error and
// halts the machine instead of waiting at a prompt.
func renderConfig(l Layout, b Boot, how loader) (string, error) {
	var s strings.Builder
	s.WriteString("set timeout=0\n")
	if slices.Contains(machine, l) {
		// Without a serial port GRUB uses the console alone.
		s.WriteString("if serial --unit=0 --speed=115200; then\n" +
			"  terminal_input console serial\n  terminal_output console serial\nfi\n")
	}
	args, err := configArgs(l, "args", b.Args)
	if err != nil {
		return "", err
	}
	if how.path {
		args = append([]word{{value: kernelPath}}, args...)
	}
	commands := []string{command(how.kernel, kernelPath, args)}
	if how.initrd && len(b.Modules) > 0 {
		var initrds []word
		for _, path := range modulePaths(b.Modules)[1:] {
			initrds = append(initrds, word{value: path})
		}
		commands = append(commands, command(how.module, modulePaths(b.Modules)[0], initrds))
	}
	for i, path := range modulePaths(b.Modules) {
		if how.initrd {
			break
		}
		args, err := configArgs(l, moduleField(i)+".args", b.Modules[i].Args)
		if err != nil {
			return "", err
		}
		commands = append(commands, command(how.module+" --nounzip", path, append([]word{{value: path}}, args...)))
	}
	for _, c := range commands {
		s.WriteString("if " + c + "; then\n")
	}
	s.WriteString(how.before + "boot\n" + strings.Repeat("fi\n", len(commands)))
	s.WriteString("echo 'GRUB did not start the kernel'\nhalt\n")
	return s.String(), nil
}

// configArgs returns the words of arguments for grub.cfg. For layouts that GRUB 2 boots
// it refuses arguments that GRUB 2 would change. pv-grub reads menu.lst, where they
// are unchanged.
func configArgs(l Layout, field, args string) ([]word, error) {
	all, err := words(args)
	if err = errors.Join(plain(args), err); err != nil {
		return nil, invalid(field, err)
	}
	if err := changed(all); err != nil && slices.Contains(machine, l) {
		return nil, &step.Error{Kind: step.InvalidSpec, Op: opWrite, Field: field, Err: err,
			Hint: `via: kernel, or no single quotes and backslashes; for a kernel that reads \' as ', such as MirageOS, write \'`}
	}
	return all, nil
}

func command(name, path string, words []word) string {
	var s strings.Builder
	s.WriteString(name + " " + path)
	for _, w := range words {
		s.WriteString(" " + quote(w.value))
	}
	return s.String()
}

// renderMenu makes menu.lst, which has no quoting: the kernel gets the rest of its line
// unchanged.
func renderMenu(l Layout, b Boot, how loader) (string, error) {
	s := "default 0\ntimeout 0\ntitle morgana\nroot (" + string(l) + ")\n"
	line, err := menuLine("kernel "+kernelPath, b.Args)
	if err != nil {
		return "", invalid("args", err)
	}
	s += line
	paths := modulePaths(b.Modules)
	if how.initrd && len(paths) > 0 {
		if len(paths) > 1 {
			return "", invalid(moduleField(1), errors.New("menu.lst can name only one initrd of Linux"))
		}
		return s + "initrd " + paths[0] + "\n", nil
	}
	for i, path := range paths {
		line, err := menuLine(how.menuModule+" "+path, b.Modules[i].Args)
		if err != nil {
			return "", invalid(moduleField(i)+".args", err)
		}
		s += line
	}
	return s, nil
}

func menuLine(command, args string) (string, error) {
	line := command
	if args != "" {
		line += " " + args
	}
	switch {
	case strings.ContainsAny(args, "\t\r"):
		return "", errors.New("a tab or carriage return, which menu.lst cannot hold")
	case strings.HasSuffix(args, `\`):
		return "", errors.New("a backslash at the end, which joins lines in menu.lst")
	case len(line) > maxMenuLine:
		return "", fmt.Errorf("a line of %d bytes in menu.lst, where lines have at most %d", len(line), maxMenuLine)
	}
	return line + "\n", nil
}

// plain refuses text that a line of a configuration file cannot hold.
func plain(text string) error {
	if strings.ContainsAny(text, "\n\x00") {
		return errors.New("a newline or NUL, which no boot loader passes on")
	}
	return nil
}

var moduleName = regexp.MustCompile(`^[0-9A-Za-z_+-][0-9A-Za-z._+-]{0,63}$`)

func checkNames(modules []Module) error {
	taken := map[string]bool{"kernel": true, "grub": true}
	for i, m := range modules {
		name := m.name(i)
		// FAT drops a period at the end.
		if !moduleName.MatchString(name) || strings.HasSuffix(name, ".") {
			return &step.Error{Kind: step.InvalidSpec, Op: opWrite, Field: moduleField(i) + ".name",
				Err: fmt.Errorf("%q is no name for a module", name), Hint: `up to 64 letters, digits and "._+-"`}
		}
		key := strings.ToLower(name)
		if taken[key] {
			return &step.Error{Kind: step.InvalidSpec, Op: opWrite, Field: moduleField(i) + ".name",
				Err: fmt.Errorf("%q is taken", name), Hint: "give it another name"}
		}
		taken[key] = true
	}
	return nil
}

func (m Module) name(i int) string {
	if m.Name == "" {
		return fmt.Sprint("module", i)
	}
	return m.Name
}

func modulePaths(modules []Module) []string {
	var paths []string
	for i, m := range modules {
		paths = append(paths, "/boot/"+m.name(i))
	}
	return paths
}

func moduleField(i int) string { return fmt.Sprintf("modules[%d]", i) }

func invalid(field string, err error) error {
	return &step.Error{Kind: step.InvalidSpec, Op: opWrite, Field: field, Err: err}
}
