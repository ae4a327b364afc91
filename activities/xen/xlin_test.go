package xen

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"github.com/morgana-deploy/morgana/image"
	"github.com/morgana-deploy/morgana/step"
)

func TestParse(t *testing.T) {
	got, err := parse("# c\r\na = 'x\\'\"' # d\n\nb=12;c=[1,\n \"y\", # e\n [],]\nd += \"\\\\\\n\"\n#")
	want := []setting{
		{Key: "a", Value: text(`x'"`), Line: 2},
		{Key: "b", Value: number(12), Line: 4},
		{Key: "c", Value: list(number(1), text("y"), list()), Line: 4},
		{Key: "d", Add: true, Value: text("\\\n"), Line: 7},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v\ngot  %+v\nwant %+v", err, got, want)
	}
	for src, text := range map[string]string{
		"a": "want = behind a", "A = 1": "lower case", "a = b": "string in quotes", "a = -1": "a number",
		"a = 'x": "want ' at the string's end", "a = 'x\n'": "want ' at the string's end", `a = "\x41"`: "backslash", `a = "\`: "want \"",
		"a = [1 2]": ", or ]", "a = [1": ", or ]", "a = 1 b = 2": "end of the line", "a = [,]": "a number", "a = ": "a value",
		"x=1\n\ny=": "line 3", "a = " + strings.Repeat("[", 20): "lists within",
	} {
		if _, err := parse(src); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%q: got %v, want %q", src, err, text)
		}
	}
}

// Xl's own library reads the corpus of FuzzParse as parse does, or refuses as well.
func TestParseAsXL(t *testing.T) {
	xl := newJudge(t)
	files, err := filepath.Glob("testdata/fuzz/FuzzParse/*")
	if err != nil || len(files) < 10 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		_, quoted, _ := strings.Cut(strings.TrimSpace(string(b)), "string(")
		src, err := strconv.Unquote(strings.TrimSuffix(quoted, ")"))
		if err != nil {
			t.Fatal(file, err)
		}
		if _, err := parse(src); err == nil {
			xl.agree(t, src)
		} else if _, theirs := xl.read(t, src); theirs == nil && xl != "" {
			t.Errorf("%s: xl reads %q, and we do not: %v", file, src, err)
		}
	}
}

// What is read is what is written.
func FuzzParse(f *testing.F) {
	f.Add(mirageXLIn)
	for _, g := range goldens {
		f.Add(g.in)
	}
	f.Fuzz(func(t *testing.T, src string) {
		all, err := parse(src)
		if err != nil {
			return
		}
		for _, s := range all {
			for _, again := range []string{s.String(), s.line()} {
				got, err := parse(again + "\n")
				if s.Line = 1; err != nil || len(got) != 1 || !reflect.DeepEqual(got[0], s) {
					t.Errorf("%+v is written %q, and read %+v, %v", s, again, got, err)
				}
			}
			if _, err := parseLine(s.line()); err != nil && s.Value.check() == nil && !hasControl(s) {
				t.Errorf("%q: %v", s.line(), err)
			}
		}
		_, _ = readTemplate(src) // whatever it says, it returns
	})
}

// hasControl reports whether a line of it would have a control character, which
// is the same in quotes.
func hasControl(s setting) bool {
	return strings.ContainsFunc(s.line(), func(r rune) bool { return r < ' ' || r == 0x7f })
}

func TestTemplateRefuses(t *testing.T) {
	const net, block = "vif = ['bridge=@NETWORK:service@']", "disk = ['format=raw, vdev=xvdb, access=rw, target=@BLOCK:disk.img@']"
	for _, test := range []struct{ in, options, field, text string }{
		{"vif = ", "{}", "", "the xl.in: line 1: want a value"},
		{net, `{}`, "vif", "@NETWORK:service@ of the xl.in is not bound"},
		{net, `{}`, "vif", `write vif: [{name: "service", bridge: xenbr0}]`},
		{net, `{"vif":[{"name":"sevrice","bridge":"br0"}]}`, "vif", "@NETWORK:service@"},
		{net, `{"vif":[{"name":"service"},{"name":"other"}]}`, "vif[1].name", "it asks for service"},
		{"vif = ['bridge=@NETWORK:a@', 'bridge=@NETWORK:a@']", `{"vif":[{"name":"a"}]}`, "vif", "@NETWORK:a@ of the xl.in is not bound"},
		{block, `{}`, "disks", `write disks: [{name: "disk.img", path: /dev/vg/data}]`},
		{block, `{"disks":[{"name":"disk.img","path":"/a"},{"path":"/b","vdev":"xvdb"}]}`, "disks", "two disks are xvdb"},
		{block, `{"disks":[{"name":"disk.img","path":"/a"},{"name":"disc.img","path":"/b"}]}`, "disks[1].name", `"disk.img"`},
		{"disk = ['/a,raw,xvdb,w']", `{"disks":[{"path":"/a"}]}`, "disks", "two disks have /a"},
		{"disk = ['target=a.img']", `{}`, "", `"a.img" is neither @BLOCK:name@ nor a path`},
		{"disk = ['/a,raw,xvdb,w,x']", `{}`, "", "too much"},
		{"disk = ['/a,raw,xvdb,x']", `{}`, "", `unknown access "x"`},
		{"disk = ['/a,xyz,xvdb,w']", `{}`, "", `unknown format "xyz"`},
		{"disk = '/a'", `{}`, "", "line 1: disk is no list"},
		{"vif = ['bridge']", `{}`, "", `"bridge" is not key=value`},
		{"vif = ['bridge=x@NETWORK:y@']", `{}`, "", "@NETWORK:y@ is not known here"},
		{"\nmemory = 'lots'", `{}`, "", `line 2: memory is "lots"`},
		{"x = '@FOO@'", `{}`, "", "@FOO@ is not known"},
		{"on_crash = 'x'", `{}`, "", `on_crash is "x"`},
		{"ramdisk = '/x'", `{}`, "", "use the target's options"},
		{"extra = ['x']", `{}`, "", "extra is a list"},
	} {
		_, err := domainOf(test.options, test.in, image.XenPVH)
		var e *step.Error
		if !errors.As(err, &e) || e.Kind != step.InvalidSpec || e.Field != test.field || !strings.Contains(e.Error()+"\n"+e.Hint, test.text) {
			t.Errorf("%q with %s: got %+v, want InvalidSpec of %q with %q", test.in, test.options, err, test.field, test.text)
		}
	}
}

func TestChooseStart(t *testing.T) {
	hello := []string{image.PVH, image.Multiboot2, image.XenPV, image.XenPVH}
	for _, test := range []struct {
		options string
		abis    []string
		want    start
		field   string // of Unsupported
	}{
		{`{}`, hello, start{typePVH, image.XenPVH}, ""},
		{`{"type":"pv"}`, hello, start{typePV, image.XenPV}, ""},
		{`{"tool":"xm"}`, hello, start{typePV, image.XenPV}, ""},
		{`{"via":"disk","expect":"x"}`, hello, start{typePV, image.XenPV}, ""},
		{`{"via":"disk","expect":"x","type":"hvm"}`, hello, start{typeHVM, image.Multiboot2}, ""},
		{`{"via":"disk","expect":"x"}`, []string{image.Multiboot1}, start{typeHVM, image.Multiboot1}, ""},
		{`{}`, []string{image.XenPV}, start{typePV, image.XenPV}, ""},
		{`{}`, []string{image.LinuxBzImage}, start{typePVH, image.LinuxBzImage}, ""},
		{`{}`, nil, start{typePVH, ""}, ""},
		{`{"type":"pv"}`, []string{image.Solo5Xen, image.XenPVH}, start{}, "type"},
		{`{"type":"pvh"}`, []string{image.XenPV}, start{}, "type"},
		{`{"tool":"xm"}`, []string{image.XenPVH}, start{}, "tool"},
		{`{"via":"disk","expect":"x"}`, []string{image.Solo5Xen, image.XenPVH}, start{typeHVM, image.Solo5Xen}, ""},
		{`{"via":"disk","expect":"x","type":"pv"}`, []string{image.Solo5Xen, image.XenPVH}, start{}, "via"},
		{`{"via":"disk","expect":"x","bootloader":"pygrub"}`, []string{image.Multiboot1}, start{}, ""},
		{`{}`, []string{image.Multiboot1}, start{}, ""},
	} {
		s, err := complete([]byte(test.options))
		if err != nil {
			t.Fatal(err)
		}
		got, err := s.chooseStart(test.abis, "")
		var e *step.Error
		switch {
		case got != test.want:
			t.Errorf("%s, %q: got %+v, %v", test.options, test.abis, got, err)
		case test.want == start{} && (!errors.As(err, &e) || e.Kind != step.Unsupported || e.Field != test.field || e.Hint == ""):
			t.Errorf("%s, %q: got %+v", test.options, test.abis, err)
		}
	}
}

func TestPygrubTakesOneModule(t *testing.T) {
	_, err := domainOf(`{"via":"disk","expect":"x","modules":["a","b"]}`, "", image.XenPV)
	if step.KindOf(err) != step.InvalidSpec || !strings.HasPrefix(err.Error(), "modules: ") {
		t.Errorf("got %v", err)
	}
}

func TestPlaceOfHVM(t *testing.T) {
	for options, text := range map[string]string{
		`"disks":[{"path":"/a","vdev":"xvda"}]`:              "two disks are xvda",
		`"disks":[{"path":"/a","vdev":"hdb","access":"r"}]`:  "cannot be read-only",
		`"disks":[{"path":"/a","vdev":"xvdb","access":"r"}]`: "cannot be read-only",
	} {
		_, err := domainOf(`{"via":"disk","type":"hvm","expect":"x",`+options+`}`, "", image.Multiboot1)
		if step.KindOf(err) != step.InvalidSpec || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: got %v, want %q", options, err, text)
		}
	}
}
