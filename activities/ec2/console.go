package ec2

import (
	"context"
	"encoding/base64"
	"fmt"
	"hash/crc32"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/morgana-deploy/morgana/machine"
	"github.com/morgana-deploy/morgana/step"
)

// EC2 keeps the last 64 KiB of a console and does not tell how much came before. So an
// offset of Console has two parts: the number of bytes that were read, and a checksum of
// the last of them, by which the next call finds its place in what EC2 has kept. An offset
// without a first part is a place in the bytes that EC2 has kept.
const (
	consolePiece = 32 << 10
	// fullConsole is a size at which a console has probably lost its beginning.
	fullConsole = 60 << 10
	// overlap is the number of bytes of a checksum. Text that repeats itself for longer
	// looks as if nothing had been printed.
	overlap = 256
	// noted is the offset of a reader who was told that the console is late. Its place is 0.
	noted = 1
	// countBit is where the number of bytes begins in an offset.
	countBit = 32
)

// lost is the text in the place of text that EC2 has not kept.
const lost = "\n[text is missing here: EC2 keeps the last 64 KiB of a console]\n"

// Console returns a piece of the console. EC2 keeps its last 64 KiB; a line says where text
// is missing. Bytes that are not UTF-8 become U+FFFD. The console of a destroyed instance is
// NotFound.
func (t *Target) Console(ctx context.Context, from step.ConsoleFrom) (text step.ConsoleText, err error) {
	defer step.SetOp("read console", &err)
	if from.Offset < 0 {
		return text, step.Invalid("offset", "0 or more", "%d is no offset", from.Offset)
	}
	c, _, err := reach(ctx, from.Machine.Registration.Spec)
	if err != nil || c == nil {
		return text, err
	}
	var in types.Instance
	over, late := false, false
	_, err = poll(ctx, time.Duration(from.WaitSeconds)*time.Second, func() (bool, error) {
		in, err = c.instance(ctx, from.Machine)
		if err != nil {
			return false, err
		}
		if in.InstanceId == nil || isDead(in) && !byItself(in) {
			return false, &step.Error{Kind: step.NotFound, Err: fmt.Errorf("instance %s is terminated", from.Machine.ID), Hint: "deploy it again"}
		}
		over = in.State.Name == types.InstanceStateNameStopped || isDead(in)
		kept, latest, err := c.console(ctx, in)
		if err != nil {
			return false, err
		}
		late = !latest
		text.Text, text.Next = piece(kept, from.Offset)
		step.Report(ctx, step.Progress{Note: "waiting for the console"})
		return text.Text != "" || over && latest, nil
	})
	if err != nil {
		return text, err
	}
	text.Ended = over && text.Text == ""
	if late && !over && text.Text == "" && from.Offset == 0 && from.WaitSeconds > 0 {
		text.Text, text.Next = "["+lateConsole(in)+"]\n", noted
	}
	return text, nil
}

// lateConsole says why the console of an instance is empty.
func lateConsole(in types.Instance) string {
	return fmt.Sprintf("EC2 shows no console yet: that of a running %s instance comes minutes late", in.InstanceType)
}

// console returns what EC2 has kept of an instance's console. latest is false if it is
// minutes late, as on all types without Nitro.
func (c *cloud) console(ctx context.Context, in types.Instance) (kept []byte, latest bool, err error) {
	ask := &ec2.GetConsoleOutputInput{InstanceId: in.InstanceId}
	if in.VirtualizationType != types.VirtualizationTypeParavirtual {
		ask.Latest = aws.Bool(true)
	}
	out, err := c.ec2.GetConsoleOutput(ctx, ask)
	if ask.Latest != nil && code(err) == "UnsupportedOperation" {
		ask.Latest = nil
		out, err = c.ec2.GetConsoleOutput(ctx, ask)
	}
	if err != nil {
		return nil, false, failed("get console output of "+aws.ToString(in.InstanceId), err)
	}
	kept, err = base64.StdEncoding.DecodeString(aws.ToString(out.Output))
	return kept, ask.Latest != nil, err
}

// kernelFailure returns the text by which a kernel reports in its console that it failed.
func kernelFailure(kept []byte) string {
	m := machine.NewMatch(nil)
	m.Add(kept)
	return machine.Solo5Failure(m.Tail())
}

// piece returns the text at an offset, "" if there is none, and the next offset.
func piece(kept []byte, offset int64) (text string, next int64) {
	at, missing := place(kept, offset)
	note := ""
	if missing {
		note = lost
	}
	text, n := machine.Text(kept[at:min(len(kept), at+consolePiece-len(note))])
	if n == 0 {
		return "", offset
	}
	count := offset >> countBit
	if count == 0 || at == 0 {
		count = int64(at)
	}
	return note + text, offsetAt(kept, at+n, count+int64(n))
}

// place returns the place in kept of an offset, and whether text before it is missing.
func place(kept []byte, offset int64) (at int, missing bool) {
	count := offset >> countBit
	switch {
	case offset == 0 || offset == noted:
		return 0, len(kept) >= fullConsole
	case count == 0:
		return int(min(offset, int64(len(kept)))), false
	}
	if len(kept) < fullConsole && count <= int64(len(kept)) && offsetAt(kept, int(count), count) == offset {
		return int(count), false
	}
	size := int(min(count, overlap))
	for at := len(kept); at >= size; at-- { // the last place: text is never returned twice
		if offsetAt(kept, at, count) == offset {
			return at, false
		}
	}
	if len(kept) < fullConsole {
		return 0, false // the instance was started anew
	}
	return size, true // it may have returned the first bytes already
}

// offsetAt returns the offset of a place in kept before which count bytes were read.
func offsetAt(kept []byte, at int, count int64) int64 {
	last := kept[max(0, at-int(min(count, overlap))):at]
	return count<<countBit | int64(crc32.ChecksumIEEE(last))
}
