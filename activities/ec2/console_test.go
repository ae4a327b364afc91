package ec2

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/morgana-deploy/morgana/step"
)

// kept returns what EC2 keeps of a console.
func kept(all string) []byte { return []byte(all[max(0, len(all)-64<<10):]) }

// lines returns the lines from number first on, of which none is like another.
func lines(first, count int) string {
	var b strings.Builder
	for i := range count {
		fmt.Fprintf(&b, "line %d of a console that goes on\n", first+i)
	}
	return b.String()
}

// A reader gets each byte once, however often the console was printed to between its calls.
func TestPieces(t *testing.T) {
	for _, perCall := range []int{1, 7, 100, 500, 700} { // lines of about 40 bytes
		all, read, offset := "", "", int64(0)
		for call := range 20 {
			all += lines(call*perCall, perCall)
			for {
				text, next := piece(kept(all), offset)
				if len(text) > consolePiece {
					t.Fatalf("a piece of %d bytes", len(text))
				}
				if (text == "") != (next == offset) || next < offset {
					t.Fatalf("offset %d, %d bytes of text, then offset %d", offset, len(text), next)
				}
				if read, offset = read+text, next; text == "" {
					break
				}
			}
		}
		if read != all {
			t.Errorf("%d lines a call: read %d bytes, not the %d that were printed", perCall, len(read), len(all))
		}
	}
}

// Where text is lost the reader is told so, and still gets no text twice.
func TestPieceAfterAGap(t *testing.T) {
	all := lines(0, 10)
	first, offset := piece(kept(all), 0)
	all += lines(10, 5000)
	second, offset := piece(kept(all), offset)
	if first != lines(0, 10) || !strings.HasPrefix(second, lost) {
		t.Errorf("the piece behind the gap begins with %.80q", second)
	}
	if third, _ := piece(kept(all), offset); !strings.HasSuffix(all, third) || !strings.Contains(all, strings.TrimPrefix(second, lost)+third) {
		t.Errorf("%d bytes go on with %.40q", len(second), third)
	}
	if whole, _ := piece(kept(all), 0); !strings.HasPrefix(whole, lost) {
		t.Errorf("read anew the console begins with %.80q", whole)
	}
}

func TestPieceOfAConsoleThatBeganAnew(t *testing.T) {
	_, offset := piece([]byte(lines(0, 100)), 0)
	for _, anew := range []string{lines(500, 3), lines(500, 300)} {
		if text, next := piece([]byte(anew), offset); text != anew || next == offset {
			t.Errorf("got %.40q and offset %d", text, next)
		}
	}
	if text, next := piece(nil, offset); text != "" || next != offset {
		t.Errorf("an empty console: %q, %d", text, next)
	}
}

// The starter asks for offsets of its own choice to find the end of a console.
func TestPieceAtAnOffsetOfTheCallers(t *testing.T) {
	for offset, want := range map[int64]string{2: "llo", 5: "", 1 << 20: "", 1 << 30: ""} {
		if text, next := piece([]byte("hello"), offset); text != want || want == "" && next != offset {
			t.Errorf("offset %d: %q, then %d", offset, text, next)
		}
	}
	if text, next := piece([]byte("hello\xc3"), 2); text != "llo" {
		t.Errorf("a character that is cut off: %q, %d", text, next)
	} else if rest, _ := piece([]byte("hello\xc3\xa9"), next); rest != "é" {
		t.Errorf("and its rest: %q", rest)
	}
}

func TestHealth(t *testing.T) {
	launched := time.Date(2026, 11, 26, 5, 0, 0, 0, time.UTC)
	instance := func(state types.InstanceStateName, code, message, transition string) types.Instance {
		in := types.Instance{InstanceId: aws.String("i-1"), State: &types.InstanceState{Name: state}, LaunchTime: &launched,
			PublicIpAddress: aws.String("192.0.2.1"), StateTransitionReason: aws.String(transition)}
		if code != "" {
			in.StateReason = &types.StateReason{Code: aws.String(code), Message: aws.String(message)}
		}
		return in
	}
	later := launched.Add(time.Hour)
	for _, test := range []struct {
		in   types.Instance
		want step.Health
	}{
		{types.Instance{}, step.Health{State: step.Gone}},
		{instance("pending", "", "", ""), step.Health{State: step.Running, Since: launched}},
		{instance("running", "", "", ""), step.Health{State: step.Running, Since: launched}},
		{instance("stopped", "Client.InstanceInitiatedShutdown", "Client.InstanceInitiatedShutdown: Instance initiated shutdown", ""),
			step.Health{State: step.Ended, How: "shut down by itself", Success: true}},
		{instance("stopped", "Client.UserInitiatedShutdown", "Client.UserInitiatedShutdown: User initiated shutdown", "User initiated (2026-11-26 06:00:00 GMT)"),
			step.Health{State: step.Ended, How: "was stopped or terminated through EC2's API", Since: later}},
		{instance("terminated", "Client.InstanceInitiatedShutdown", "", ""), step.Health{State: step.Ended, How: "shut down by itself", Success: true}},
		{instance("shutting-down", "Server.SpotInstanceTermination", "Server.SpotInstanceTermination: Spot instance termination", ""),
			step.Health{State: step.Gone, How: "was terminated: EC2 has no spot capacity"}},
		{instance("terminated", "Client.VolumeLimitExceeded", "Client.VolumeLimitExceeded: Volume limit exceeded", "Server.InternalError (2026-11-26 06:00:00 GMT)"),
			step.Health{State: step.Gone, How: "ended: volume limit exceeded", Since: later}},
	} {
		got := healthOf(test.in, 80)
		addresses := step.Addresses(got.Addresses, " ")
		got.Addresses = nil
		if fmt.Sprint(got) != fmt.Sprint(test.want) || got.State == step.Running != (addresses == "192.0.2.1:80") {
			t.Errorf("%+v: %+v at %q, not %+v", test.in.State, got, addresses, test.want)
		}
	}
}

// The console of a type without Nitro comes late, which is said once.
func TestLateConsole(t *testing.T) {
	environ(t)
	b := newBench(t)
	b.options(func(o *Options) { o.Expect, o.InstanceType = "", "m3.medium" })
	b.lab.ConsoleDelay(time.Hour)
	m := b.boot(1)
	read := func(offset int64, wait int) step.ConsoleText {
		t.Helper()
		text, err := New(b.site).Console(t.Context(), step.ConsoleFrom{Machine: m, Offset: offset, WaitSeconds: wait})
		no(t, err)
		return text
	}
	first := read(0, 1)
	if !strings.Contains(first.Text, "minutes late") || first.Ended {
		t.Errorf("got %+v", first)
	}
	if again := read(first.Next, 1); again.Text != "" || again.Next != first.Next {
		t.Errorf("then %+v", again)
	}
	b.lab.ConsoleDelay(0)
	if at := read(first.Next, 1); at.Text != b.g.text {
		t.Errorf("then %+v", at)
	}
	b.g.set(strings.Repeat("much more\n", 10_000), false)
	if whole := read(0, 0); !strings.HasPrefix(whole.Text, lost) || len(whole.Text) > consolePiece {
		t.Errorf("a long console begins with %.80q", whole.Text)
	}
}
