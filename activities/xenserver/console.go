package xenserver

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/morgana-deploy/morgana/machine"
	"github.com/morgana-deploy/morgana/step"
)

const (
	consolePiece = 32 << 10
	// keptText is how many bytes of a console a worker keeps.
	keptText = 256 << 10
	// savedText is how many bytes of a console the pool keeps, in other_config.
	savedText = 16 << 10
	// overlap is how many bytes show that a console goes on with what is on a tape.
	overlap = 256
	// tick is the time between two looks at a tape.
	tick = 25 * time.Millisecond
)

// lost is the text in the place of text that no worker has kept.
const lost = "\n[text is missing here: no worker read the console, or it printed too much]\n"

// tape has the end of a VM's console. A pool keeps no text that a guest prints. So the worker
// that boots a VM reads its console from then on, and saves the text in the VM's other_config
// when the VM is ready. The tape of another worker, which reads the console when somebody
// wants to see it, begins with that.
type tape struct {
	attaching sync.Mutex

	mu    sync.Mutex
	text  []byte
	begin int64 // how many bytes came before text
	live  bool  // the console is being read
}

// tapes has the tapes of a worker by the VM's UUID. Its zero value has none.
type tapes struct {
	mu  sync.Mutex
	all map[string]*tape
}

// of returns the tape of a VM.
func (ts *tapes) of(vm vmRecord) *tape {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if ts.all == nil {
		ts.all = map[string]*tape{}
	}
	tp := ts.all[vm.UUID]
	if tp == nil {
		tp = loadTape(vm.OtherConfig[keyConsole])
		ts.all[vm.UUID] = tp
	}
	return tp
}

func (ts *tapes) drop(uuid string) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	delete(ts.all, uuid)
}

// loadTape returns the tape of a text that save returned, an empty one of any other text.
func loadTape(saved string) *tape {
	begin, text, _ := strings.Cut(saved, " ")
	n, err := strconv.ParseInt(begin, 10, 64)
	b, wrong := base64.StdEncoding.DecodeString(text)
	if errors.Join(err, wrong) != nil || n < 0 {
		return &tape{}
	}
	return &tape{text: b, begin: n}
}

// save returns the tape's end as a text that XML carries.
func (tp *tape) save() string {
	tp.mu.Lock()
	defer tp.mu.Unlock()
	cut := max(0, len(tp.text)-savedText)
	return fmt.Sprintf("%d %s", tp.begin+int64(cut), base64.StdEncoding.EncodeToString(tp.text[cut:]))
}

// add adds a piece of the console. live is false if it is the last.
func (tp *tape) add(piece []byte, live bool) {
	tp.mu.Lock()
	defer tp.mu.Unlock()
	tp.live = live
	tp.text = append(tp.text, piece...)
	if extra := len(tp.text) - keptText; extra > 0 {
		tp.text = append(tp.text[:0], tp.text[extra:]...)
		tp.begin += int64(extra)
	}
}

// end returns the offset of the end.
func (tp *tape) end() int64 {
	tp.mu.Lock()
	defer tp.mu.Unlock()
	return tp.begin + int64(len(tp.text))
}

// from returns the bytes at an offset and the offset of the first of them. An offset beyond
// the end, as after another worker's tape, counts as the end.
func (tp *tape) from(offset int64) (b []byte, at int64, live bool) {
	tp.mu.Lock()
	defer tp.mu.Unlock()
	at = min(max(offset, tp.begin), tp.begin+int64(len(tp.text)))
	return append([]byte(nil), tp.text[at-tp.begin:]...), at, tp.live
}

// piece returns the text at an offset, and the next offset.
func (tp *tape) piece(offset int64) (text string, next int64, live bool) {
	b, at, live := tp.from(offset)
	note := ""
	if at > offset {
		note = lost
	}
	text, n := machine.Text(b[:min(len(b), consolePiece-len(note))])
	if n == 0 {
		return "", offset, live
	}
	return note + text, at + int64(n), live
}

// errNoConsole says that a VM has no console of text.
var errNoConsole = errors.New("the pool shows no console of text")

// attach reads the console of a VM that runs or is paused, unless it is being read. late says
// that the VM has run before.
func (tp *tape) attach(ctx context.Context, p *pool, vm vmRecord, late bool) error {
	tp.attaching.Lock()
	defer tp.attaching.Unlock()
	if _, _, live := tp.from(0); live {
		return nil
	}
	for _, c := range vm.Consoles {
		is, err := one[consoleRecord](ctx, p, "console", c)
		if err != nil {
			return err
		}
		if is.Protocol == "vt100" {
			return tp.read(ctx, p, c, late)
		}
	}
	hint := "give address and expectPort instead of expect; or type: pv, whose console every version has"
	if vm.DomainType == typeHVM {
		hint = "type: pvh or pv; the screen is seen in XenCenter or Xen Orchestra"
	}
	return &step.Error{Kind: step.Unsupported, Hint: hint, Err: fmt.Errorf("%w of the %s VM %s", errNoConsole, vm.DomainType, vm.Name)}
}

// read connects to a console, and reads it until it ends: with the VM, not with ctx.
func (tp *tape) read(ctx context.Context, p *pool, console ref, late bool) error {
	long, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, cancel)
	r, err := p.console(long, console)
	if !stop() && err == nil { // ctx was done while it connected
		err = errors.Join(ctx.Err(), r.Close())
	}
	if err != nil {
		cancel()
		return err
	}
	tp.add(nil, true)
	go func() {
		defer cancel()
		defer r.Close() //nolint:errcheck // only read
		for buffer := make([]byte, consolePiece); ; {
			n, err := r.Read(buffer)
			piece := buffer[:n]
			if late && n > 0 {
				piece, late = tp.follow(piece), false
			}
			tp.add(piece, err == nil)
			if err != nil {
				return
			}
		}
	}()
	return nil
}

// follow returns what of the first piece of a console is not on the tape: it may begin with
// the last lines that the VM has printed.
func (tp *tape) follow(piece []byte) []byte {
	text, _, _ := tp.from(0)
	last := text[max(0, len(text)-overlap):]
	if len(last) == 0 {
		return piece
	}
	if i := bytes.LastIndex(piece, last); i >= 0 {
		return piece[i+len(last):]
	}
	return append([]byte(lost), piece...)
}

// Console returns a piece of the console, as far as a worker has read it: see [tape]. Bytes
// that are not UTF-8 become U+FFFD. The console of a destroyed VM is NotFound.
func (t *Target) Console(ctx context.Context, from step.ConsoleFrom) (step.ConsoleText, error) {
	text, err := t.console(ctx, from)
	if err != nil {
		return step.ConsoleText{}, step.During("read console", err)
	}
	return text, nil
}

func (t *Target) console(ctx context.Context, from step.ConsoleFrom) (text step.ConsoleText, err error) {
	if from.Offset < 0 {
		return text, step.Invalid("offset", "0 or more", "%d is no offset", from.Offset)
	}
	p, _, err := t.reach(ctx, from.Machine.Registration.Spec)
	if err != nil || p == nil {
		return text, err
	}
	deadline := time.Now().Add(time.Duration(from.WaitSeconds) * time.Second)
	every := time.NewTicker(tick)
	defer every.Stop()
	var vm vmRecord
	for asked := (time.Time{}); ; {
		if time.Since(asked) > time.Second {
			if vm, err = t.listen(ctx, p, from.Machine); err != nil {
				return text, err
			}
			asked = time.Now()
		}
		var live bool
		text.Text, text.Next, live = t.tapes.of(vm).piece(from.Offset)
		over := vm.PowerState == halted && !live
		if text.Text != "" || over || !time.Now().Before(deadline) {
			text.Ended = over && text.Text == ""
			return text, nil
		}
		step.Report(ctx, step.Progress{Note: "waiting for the console"})
		select {
		case <-every.C:
		case <-ctx.Done():
			return text, ctx.Err()
		}
	}
}

// listen looks up the VM of a machine, and has its console read if it runs.
func (t *Target) listen(ctx context.Context, p *pool, m step.Machine) (vmRecord, error) {
	r, vm, err := p.vm(ctx, m)
	if err != nil {
		return vm, err
	}
	if r == null {
		t.tapes.drop(m.ID)
		return vm, &step.Error{Kind: step.NotFound, Err: fmt.Errorf("the VM %s does not exist", m.ID), Hint: "it was destroyed; deploy it again"}
	}
	if vm.PowerState == running {
		err = t.tapes.of(vm).attach(ctx, p, vm, true)
	}
	return vm, err
}
