package xenserver

import (
	"strings"
	"testing"
	"unicode/utf8"
)

// TestTapePieces reads a tape to its end, in pieces.
func TestTapePieces(t *testing.T) {
	whole := strings.Repeat("é\r\n", 20_000)
	tp := &tape{}
	for rest := whole; rest != ""; { // cut within characters, too
		n := min(len(rest), 4095)
		tp.add([]byte(rest[:n]), true)
		rest = rest[n:]
	}
	var got strings.Builder
	offset := int64(0)
	for {
		text, next, live := tp.piece(offset)
		if text == "" {
			if next != offset || !live {
				t.Errorf("at the end: next %d after %d, live %v", next, offset, live)
			}
			break
		}
		if len(text) > consolePiece || !utf8.ValidString(text) {
			t.Fatalf("a piece of %d bytes, valid %v", len(text), utf8.ValidString(text))
		}
		got.WriteString(text)
		offset = next
	}
	if got.String() != whole {
		t.Errorf("read %d bytes that differ from the %d that were printed", got.Len(), len(whole))
	}
	if text, next, _ := tp.piece(1 << 30); text != "" || next != 1<<30 {
		t.Errorf("beyond the end: %q, next %d", text, next)
	}
}

// TestTapeForgets says where text is missing that the tape has not kept.
func TestTapeForgets(t *testing.T) {
	tp := &tape{}
	tp.add([]byte(strings.Repeat("a", 1000)), true)
	tp.add([]byte(strings.Repeat("b", keptText-500)), true)
	text, next, _ := tp.piece(0)
	if !strings.HasPrefix(text, lost+"a") || strings.Count(text, "a")-strings.Count(lost, "a") != 500 || len(text) > consolePiece {
		t.Errorf("the beginning is %.120q", text)
	}
	if text, _, _ := tp.piece(next); !strings.HasPrefix(text, "bbb") {
		t.Errorf("after it comes %.60q", text)
	}
	if text, _, _ := tp.piece(tp.end() - 3); text != "bbb" {
		t.Errorf("the end is %q", text)
	}
}

// TestTapeOfAnotherWorker begins with what the worker that booted the VM has saved.
func TestTapeOfAnotherWorker(t *testing.T) {
	tp := &tape{}
	tp.add([]byte("\x00\x1b[2J\xff"+strings.Repeat("x", savedText)+"ready\r\n"), true)
	saved := tp.save()
	if strings.IndexFunc(saved, func(r rune) bool { return r < ' ' || r > '~' }) >= 0 {
		t.Error("the saved text is not plain")
	}
	other := loadTape(saved)
	if other.end() != tp.end() {
		t.Errorf("it ends at %d, not at %d", other.end(), tp.end())
	}
	for _, offset := range []int64{0, 10, tp.end() - 7} {
		want, _, _ := tp.piece(max(offset, other.begin))
		if got, _, _ := other.piece(offset); strings.TrimPrefix(got, lost) != want || strings.HasPrefix(got, lost) != (offset < other.begin) {
			t.Errorf("from %d on: %.60q, want %.60q", offset, got, want)
		}
	}
	for _, wrong := range []string{"", "x", "1", "-1 YQ==", "1 ?"} {
		if tp := loadTape(wrong); wrong != "1" && tp.end() != 0 {
			t.Errorf("%q is a tape that ends at %d", wrong, tp.end())
		}
	}
}
