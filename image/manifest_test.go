package image

import (
	"bytes"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/morgana-deploy/morgana/need"
	"github.com/morgana-deploy/morgana/step"
)

const manifestHead = `{"type":"solo5.manifest","version":1,"devices":`

func TestReadManifest(t *testing.T) {
	for _, c := range []struct {
		devices string
		want    []Device
	}{
		{`[]}`, nil},
		{`[{"name":"service","type":"NET_BASIC"}]}`, []Device{{"service", NetBasic}}},
		{` [ { "type": "BLOCK_BASIC", "name": "data0" }, {"name":"data0","type":"NET_BASIC"} ] } ` + "\n",
			[]Device{{"data0", BlockBasic}, {"data0", NetBasic}}},
		{`[{"name":"` + strings.Repeat("a", 67) + `","type":"NET_BASIC"}]}`, []Device{{strings.Repeat("a", 67), NetBasic}}},
	} {
		if got, err := ReadManifest([]byte(manifestHead + c.devices)); err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%s: got %v, %v", c.devices, got, err)
		}
	}
}

func TestReadManifestWrong(t *testing.T) {
	var many []Device
	for i := range 64 {
		many = append(many, Device{fmt.Sprintf("n%d", i), NetBasic})
	}
	tooMany, err := json.Marshal(many)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ manifest, field, want string }{
		{``, "", "this is not JSON: unexpected end of JSON input"},
		{`null`, "type", `"" must be "solo5.manifest"`},
		{`{}{}`, "", "this is not JSON"},
		{`[]`, "", ""},
		{`{"type":"solo5.abi","version":1,"devices":[]}`, "type", `"solo5.abi" must be "solo5.manifest"`},
		{`{"type":"solo5.manifest","version":2,"devices":[]}`, "version", "2 must be 1"},
		{`{"type":"solo5.manifest","version":"1","devices":[]}`, "version", "not a string"},
		{`{"type":"solo5.manifest","version":1}`, "devices", "the list is missing"},
		{`{"type":"solo5.manifest","version":1,"device":[]}`, "device", "unknown"},
		{manifestHead + `{}}`, "devices", "not a mapping"},
		{manifestHead + string(tooMany) + "}", "devices", "there are 64, Solo5 takes at most 63"},
		{manifestHead + `["net0"]}`, "devices[0]", "not a string"},
		{manifestHead + `[null]}`, "devices[0].name", "a device must have a name"},
		{manifestHead + `[{"name":"a","type":"NET_BASIC"},{"name":7,"type":"NET_BASIC"}]}`, "devices[1].name", "not a number"},
		{manifestHead + `[{"name":"a","typ":"NET_BASIC"}]}`, "devices[0].typ", "unknown"},
		{manifestHead + `[{"name":"net-0","type":"NET_BASIC"}]}`, "devices[0].name", `the name "net-0" is not of ASCII letters and digits only`},
		{manifestHead + `[{"name":"größe","type":"NET_BASIC"}]}`, "devices[0].name", "ASCII letters"},
		{manifestHead + `[{"name":"a\n","type":"NET_BASIC"}]}`, "devices[0].name", `"a\n"`},
		{manifestHead + `[{"name":"` + strings.Repeat("a", 68) + `","type":"NET_BASIC"}]}`, "devices[0].name", "has 68 characters, Solo5 takes at most 67"},
		{manifestHead + `[{"name":"a"}]}`, "devices[0].type", `device "a" must have a type, NET_BASIC or BLOCK_BASIC`},
		{manifestHead + `[{"name":"a","type":"PCI_BASIC"}]}`, "devices[0].type", `device "a" has type "PCI_BASIC", not NET_BASIC or BLOCK_BASIC`},
		{manifestHead + `[{"name":"a","type":"NET_BASIC"},{"name":"a","type":"NET_BASIC"}]}`, "devices[1].name", `there is another NET_BASIC device "a"`},
	} {
		_, err := ReadManifest([]byte(c.manifest))
		wantInvalid(t, c.manifest, err, c.want)
		var e *step.Error
		if errors.As(err, &e) && e.Field != c.field {
			t.Errorf("%s: blames %q, want %q: %v", c.manifest, e.Field, c.field, err)
		}
	}
}

// manifestC declares a manifest as solo5-elftool gen-manifest does, with the
// layout of Solo5's headers written anew: the compiler places its fields.
const manifestC = `
#include <stdbool.h>
#include <stdint.h>
struct device {
	char name[68];
	uint32_t type;
	union { struct { uint64_t capacity; uint16_t size; } block; struct { uint8_t mac[6]; uint16_t mtu; } net; } u;
	union { int descriptor; void *data; } b;
	bool attached;
};
struct manifest { uint32_t version, entries; struct device e[3]; };
struct head { uint32_t name_size, size, type; char name[8]; };
struct note { struct head h; struct manifest m; };
__attribute__((section(".note.solo5.manifest"), aligned(4), used))
const struct note manifest = {
	{ 6, sizeof(struct note) - sizeof(struct head), 0x3154464d, "Solo5" },
	{ 1, 3, { { "", 1u << 30 }, { "service", 2 }, { "disk0", 1 } } },
};
struct info { uint32_t target, version, reserved0, reserved1; };
__attribute__((section(".note.solo5.abi"), aligned(4), used))
const struct { struct head h; struct info i; } abi = { { 6, sizeof(struct info), 0x31494241, "Solo5" }, { 1, 2 } };
void _start(void) { for (;;) ; }
`

// Identify reads a manifest that a C compiler and a linker made.
func TestDevicesOfLinkedKernel(t *testing.T) {
	need.Tools(t, "cc", "ld", "readelf")
	dir := t.TempDir()
	source, kernel := filepath.Join(dir, "kernel.c"), filepath.Join(dir, "kernel")
	if err := os.WriteFile(source, []byte(manifestC), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"cc", "-O2", "-fno-pic", "-ffreestanding", "-fcf-protection=none", "-c", "-o", kernel + ".o", source},
		{"ld", "-static", "--build-id=none", "-o", kernel, kernel + ".o"},
	} {
		if out, err := exec.CommandContext(t.Context(), args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	out, err := exec.CommandContext(t.Context(), "readelf", "--wide", "--notes", kernel).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "0x3154464d") || !strings.Contains(string(out), "0x00000144") {
		t.Fatalf("readelf: %v\n%s", err, out)
	}
	raw, err := os.ReadFile(kernel)
	if err != nil {
		t.Fatal(err)
	}
	info, err := identify(raw)
	want := Info{ABIs: []string{Solo5HVT}, Machine: "x86_64", Devices: []Device{{"service", NetBasic}, {"disk0", BlockBasic}}, End: info.End}
	if err != nil || !equal(info, want) {
		t.Errorf("got %+v, %v, want %+v\n%s", info, err, want, out)
	}
}

func TestManifestNoteWrong(t *testing.T) {
	const value = 20 // of the note, in which the manifest begins at 4
	const entry1 = value + 12 + 104
	edit := func(at int, b ...byte) []byte {
		note := manifestNote(Device{"service", NetBasic}, Device{"disk0", BlockBasic})
		copy(note[at:], b)
		return note
	}
	for _, c := range []struct {
		name string
		note []byte
		want string
	}{
		{"empty", oneNote("Solo5", solo5Manifest, nil), "the Solo5 manifest has 0 bytes, its head alone has 12"},
		{"one byte short", oneNote("Solo5", solo5Manifest, edit(0)[value:len(edit(0))-1]), "has 311 bytes for 3 entries of 104"},
		{"4 bytes more", oneNote("Solo5", solo5Manifest, append(edit(0)[value:], 0, 0, 0, 0)), "has 316 bytes for 3 entries of 104"},
		{"size past the end", edit(4, 0x45), "runs past the end"},
		{"version", edit(value+4, 2), "the Solo5 manifest has version 2, not 1"},
		{"no entries", edit(value+8, 0), "has 0 entries, not 1 to 64"},
		{"very many", edit(value+8, 0xff, 0xff, 0xff, 0xff), "has 4294967295 entries, not 1 to 64"},
		{"first has a name", edit(value+12, 'x'), "entry 0 is not the reserved one"},
		{"first is a device", edit(value+12+68, 1, 0, 0, 0), "entry 0 is not the reserved one"},
		{"name without end", edit(entry1, bytes.Repeat([]byte{'x'}, 68)...), "entry 1 is not as a linker leaves it"},
		{"attached", edit(entry1+96, 1), "entry 1 is not as a linker leaves it"},
		{"no name", edit(entry1, 0), "entry 1: a device must have a name"},
		{"strange name", edit(entry1, '-'), `entry 1: the name "-ervice" is not of ASCII letters and digits only`},
		{"unknown type", edit(entry1+68, 3), `entry 1: device "service" has type "3", not NET_BASIC or BLOCK_BASIC`},
		{"twice", edit(entry1+104, append([]byte("service"), append(make([]byte, 61), 2)...)...), `entry 2: there is another NET_BASIC device "service"`},
	} {
		kernel := testELF{segments: []testPart{load(someCode), {kind: uint32(elf.PT_NOTE), bytes: c.note, align: 8}, note(solo5Note(1))}}.build()
		_, err := identify(kernel)
		wantInvalid(t, c.name, err, c.want)
	}
}

func FuzzReadManifest(f *testing.F) {
	f.Add([]byte(manifestHead + `[{"name":"service","type":"NET_BASIC"},{"name":"disk0","type":"BLOCK_BASIC"}]}`))
	f.Add([]byte(manifestHead + `[]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		devices, err := ReadManifest(b)
		if err != nil {
			wantInvalid(t, "fuzz", err, "read manifest: ")
			return
		}
		again, err := json.Marshal(devices)
		if err != nil {
			t.Fatal(err)
		}
		if len(devices) == 0 {
			again = []byte("[]")
		}
		if got, err := ReadManifest([]byte(manifestHead + string(again) + "}")); err != nil || !slices.Equal(got, devices) {
			t.Errorf("%s: read again it is %v, %v", b, got, err)
		}
	})
}
