package disk

import (
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/morgana-deploy/morgana/image"
	"github.com/morgana-deploy/morgana/step"
)

var update = flag.Bool("update", false, "write the golden files anew")

func TestRender(t *testing.T) {
	two := []Module{{Path: "a"}, {Path: "b", Name: "store.img", Args: `key="a b" $x`}}
	for name, c := range map[string]struct {
		layout Layout
		boot   Boot
	}{
		"bios-multiboot2": {BIOS, Boot{ABI: image.Multiboot2, Args: "a=b", Modules: two}},
		"uefi-multiboot1": {UEFI, Boot{ABI: image.Multiboot1, Args: `it\'s $5; \\ {é}`, Modules: two}},
		"bios-linux":      {BIOS, Boot{ABI: image.LinuxBzImage, Args: `console=ttyS0  "a b"`, Modules: []Module{{}, {}}}},
		"hd0-linux":       {Whole, Boot{ABI: image.LinuxBzImage, Modules: []Module{{Name: "initrd.gz"}}}},
		"hd0-xen":         {Whole, Boot{ABI: image.XenPV, Args: `--hello="Hello World" $x;#'`, Modules: two}},
		"bios-solo5-xen":  {BIOS, Boot{ABI: image.Solo5Xen, Args: "--ipv4=10.0.0.2/24"}},
		"hd00-multiboot1": {Partition, Boot{ABI: image.Multiboot1ELF64}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := render(c.layout, c.boot)
			if err != nil {
				t.Fatal(err)
			}
			golden(t, name+".cfg", got.grub)
			if got.menu != "" {
				golden(t, name+".lst", got.menu)
			}
			if want := c.layout == Whole || c.layout == Partition; want != (got.menu != "") {
				t.Errorf("menu.lst is %q", got.menu)
			}
		})
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil || got != string(want) {
		t.Errorf("%s: %v\n got %s\nwant %s", path, err, got, want)
	}
}

func TestRenderRefuses(t *testing.T) {
	long := strings.Repeat("x", 1024)
	for name, c := range map[string]struct {
		layout Layout
		boot   Boot
		field  string
	}{
		"newline":                {BIOS, Boot{ABI: image.Multiboot2, Args: "a\nb"}, "args"},
		"NUL":                    {UEFI, Boot{ABI: image.Multiboot2, Args: "a\x00b"}, "args"},
		"newline in menu.lst":    {Whole, Boot{ABI: image.XenPV, Args: "a\nb"}, "args"},
		"tab in menu.lst":        {Whole, Boot{ABI: image.XenPV, Args: "a\tb"}, "args"},
		"return in menu.lst":     {Whole, Boot{ABI: image.XenPV, Args: "a\r"}, "args"},
		"joined lines":           {Whole, Boot{ABI: image.XenPV, Args: `a\\`}, "args"},
		"long for Xen":           {Whole, Boot{ABI: image.XenPV, Args: long}, "args"},
		"long for menu.lst":      {Whole, Boot{ABI: image.LinuxBzImage, Args: long + long}, "args"},
		"open quote":             {BIOS, Boot{ABI: image.Multiboot2, Args: `a="b`}, "args"},
		"empty word":             {BIOS, Boot{ABI: image.Multiboot2, Args: `a "" b`}, "args"},
		"backslash at the end":   {BIOS, Boot{ABI: image.Multiboot2, Args: `a\`}, "args"},
		"hexadecimal":            {BIOS, Boot{ABI: image.Multiboot2, Args: `a\\xg1\\x41`}, "args"},
		"single quotes":          {BIOS, Boot{ABI: image.Multiboot2, Args: `--x='q'`}, "args"},
		"backslash":              {UEFI, Boot{ABI: image.Multiboot2, Args: `a c\d`}, "args"},
		"backslash and blank":    {BIOS, Boot{ABI: image.LinuxBzImage, Args: `a\ b`}, "args"},
		"quotes in quotes":       {BIOS, Boot{ABI: image.Multiboot2, Args: `--x="a \"b\""`}, "args"},
		"module's single quote":  {BIOS, Boot{ABI: image.Multiboot2, Modules: []Module{{}, {Args: `it's`}}}, "modules[1].args"},
		"module's newline":       {BIOS, Boot{ABI: image.Multiboot2, Modules: []Module{{Args: "\n"}}}, "modules[0].args"},
		"module's tab":           {Whole, Boot{ABI: image.XenPV, Modules: []Module{{}, {Args: "\t"}}}, "modules[1].args"},
		"initrd with arguments":  {BIOS, Boot{ABI: image.LinuxBzImage, Modules: []Module{{Args: "a"}}}, "modules[0].args"},
		"two initrds, menu.lst":  {Whole, Boot{ABI: image.LinuxBzImage, Modules: []Module{{}, {}}}, "modules[1]"},
		"name in another folder": {BIOS, Boot{ABI: image.Multiboot2, Modules: []Module{{Name: "../x"}}}, "modules[0].name"},
		"name with a blank":      {BIOS, Boot{ABI: image.Multiboot2, Modules: []Module{{Name: "a b"}}}, "modules[0].name"},
		"name of the kernel":     {BIOS, Boot{ABI: image.Multiboot2, Modules: []Module{{Name: "Kernel"}}}, "modules[0].name"},
		"name taken":             {BIOS, Boot{ABI: image.Multiboot2, Modules: []Module{{Name: "a"}, {Name: "A"}}}, "modules[1].name"},
		"name that FAT changes":  {UEFI, Boot{ABI: image.Multiboot2, Modules: []Module{{Name: "a."}}}, "modules[0].name"},
		"no such layout":         {"floppy", Boot{ABI: image.Multiboot2}, "layout"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := render(c.layout, c.boot)
			_ = wantError(t, err, step.InvalidSpec, c.field)
		})
	}
	for l, abi := range map[Layout]string{Whole: image.Multiboot2, Partition: image.PVH, BIOS: image.XenPV, UEFI: ""} {
		_, err := render(l, Boot{ABI: abi})
		_ = wantError(t, err, step.Unsupported, "")
	}
}

// Every ABI that image says GRUB starts has its commands here.
func TestEveryABIHasALoader(t *testing.T) {
	for target, l := range map[string]Layout{"pv-grub": Whole, "grub": UEFI, image.GRUBOnXen: BIOS} {
		for _, abi := range []string{image.Solo5Xen, image.PVH, image.XenPVH, image.XenPV, image.Multiboot1, image.Multiboot1ELF64,
			image.Multiboot2, image.LinuxBzImage, image.LinuxExecutable, image.ELF} {
			if _, err := image.Supports(target, []string{abi}); err != nil {
				continue
			}
			if _, err := render(l, Boot{ABI: abi}); err != nil {
				t.Errorf("%s boots %s, but: %v", target, abi, err)
			}
		}
	}
}

func TestWords(t *testing.T) {
	for line, want := range map[string][]string{
		``:                      nil,
		`a`:                     {"a"},
		` a  b `:                {"", "a", "", "b", ""},
		`--hello="Hello World"`: {"--hello=Hello World"},
		`a\ b \"c\\`:            {"a b", `"c\`},
		`a"b"c it's`:            {"abc", "it's"},
		"a\tb \xff":             {"a\tb", "\xff"},
	} {
		all, err := words(line)
		var got, given []string
		for _, w := range all {
			got, given = append(got, w.value), append(given, w.given)
		}
		if err != nil || !slices.Equal(got, want) || strings.Join(given, " ") != line {
			t.Errorf("words(%q) = %q, %v, want %q", line, all, err, want)
		}
	}
}

// TestBoot sees it under a real GRUB.
func TestArrives(t *testing.T) {
	for line, want := range map[string]string{
		`a  b=c $x`:                 `a  b=c $x`,
		`--hello="Hello World" "a"`: `"--hello=Hello World" a`,
		`\'q\' \"q\" c\\d`:          `\'q\' \"q\" c\\d`,
		`"it\'s \"so\""`:            `"it\'s \"so\""`,
		`--x='q'`:                   ``,
		`a c\d`:                     ``,
		`a\ b`:                      ``,
		`a"\'b"`:                    ``,
	} {
		all, err := words(line)
		var got []string
		for _, w := range all {
			got = append(got, w.arrives())
		}
		refused := changed(all) != nil
		if err != nil || refused != (want == "") || !refused && strings.Join(got, " ") != want {
			t.Errorf("%q arrives as %q, %v, refused: %v; want %q", line, got, err, refused, want)
		}
	}
}
