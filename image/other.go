package image

import (
	"bytes"
	"path"
	"strings"
	"unicode"
	"unicode/utf8"
)

const unpack = "unpack it first: only plain kernels and those packed once by gzip, xz or bzip2 are read"

// others lists file formats that are mistaken for kernels: magic is at offset at.
var others = []struct {
	at          int
	magic, what string
	hint        string
}{
	{0, "\x28\xb5\x2f\xfd", "a zstd file", unpack},
	{0, "\x04\x22\x4d\x18", "an lz4 file", unpack},
	{0, "\x89LZO", "an lzop file", unpack},
	{0, "PK\x03\x04", "a zip file", unpack},
	{257, "ustar", "a tar file", unpack},
	{0, "MZ", "a Windows or EFI program", wanted},
	{0, "\xcf\xfa\xed\xfe", "a macOS program", wanted},
	{0, "\xca\xfe\xba\xbe", "a macOS program or a Java class", wanted},
	{0, "\x00asm", "a WebAssembly module", wanted},
	{0, "!<arch>\ndebian", "a Debian package", wanted},
	{0, "!<arch>\n", "a static library", wanted},
	{0, "QFI\xfb", "a qcow2 disk image", wanted},
	{0, "KDMV", "a VMDK disk image", wanted},
	{0, "vhdxfile", "a VHDX disk image", wanted},
	{0, "conectix", "a VHD disk image", wanted},
	{32769, "CD001", "an ISO 9660 image", wanted},
	{510, "\x55\xaa", "a disk image", wanted},
}

// notKernel makes the error for a file that is no kernel. It names the file's format.
func notKernel(head []byte) error {
	if len(head) == 0 {
		return invalid("the file is empty", wanted)
	}
	if p := packing(head); p != nil {
		return invalid("this is packed once more, by "+p.name, unpack)
	}
	if interpreter, ok := script(head); ok {
		if strings.HasSuffix(interpreter, "sh") {
			return invalid("this is a shell script, not a kernel", wanted)
		}
		return invalid("this is a script, not a kernel", wanted)
	}
	for _, o := range others {
		if o.at < len(head) && bytes.HasPrefix(head[o.at:], []byte(o.magic)) {
			return invalid("this is "+o.what+", not a kernel", o.hint)
		}
	}
	if isText(head) {
		return invalid("this is text, not a kernel", wanted)
	}
	return invalid("this is no kind of kernel that is known here", wanted)
}

// script returns the name of the interpreter on a file's "#!" line.
func script(head []byte) (interpreter string, ok bool) {
	rest, ok := bytes.CutPrefix(head, []byte("#!"))
	if !ok {
		return "", false
	}
	line, _, _ := bytes.Cut(rest[:min(len(rest), 256)], []byte("\n"))
	words := strings.Fields(string(line))
	if len(words) > 1 && path.Base(words[0]) == "env" {
		words = words[1:]
	}
	if len(words) == 0 {
		return "", true
	}
	return path.Base(words[0]), true
}

// isText reports whether the first 512 bytes are UTF-8 text. The last character may
// be cut off.
func isText(head []byte) bool {
	head = head[:min(len(head), 512)]
	for len(head) > 0 {
		r, n := utf8.DecodeRune(head)
		if r == utf8.RuneError && n == 1 {
			return !utf8.FullRune(head)
		}
		if unicode.IsControl(r) && !unicode.IsSpace(r) {
			return false
		}
		head = head[n:]
	}
	return true
}
