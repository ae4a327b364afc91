package ec2

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/morgana-deploy/morgana/remote"
	"github.com/morgana-deploy/morgana/step"
)

// The scripts that run on the helper. Blocks are those of a snapshot, 512 KiB.
const (
	// findVolume prints the device of a volume. $1 is its serial number, and the other
	// arguments are its names where there is none.
	findVolume = `for b in /sys/block/*; do
	s=$(cat "$b/serial" "$b/device/serial" 2>/dev/null | tr -d ' \n')
	if [ "$s" = "$1" ]; then echo "/dev/${b##*/}"; exit; fi
done
shift
for d; do if [ -b "$d" ]; then echo "$d"; exit; fi; done`
	// sumBlocks prints the SHA-256 of blocks of device $1. Their indices are lines of stdin. It
	// ends with dd's status if that fails.
	sumBlocks = `while read -r at; do
	sum=$({ { dd if="$1" bs=512k skip="$at" count=1 iflag=direct status=none </dev/null || echo "dd $?" >&3; } | sha256sum; } 3>&1) || exit
	case "$sum" in "dd "*) sum=${sum#dd }; exit "${sum%%[!0-9]*}"; esac
	printf '%s %s\n' "$at" "$sum"
done`
	// writeBlocks writes to device $1. For each run of blocks stdin has a line with the first
	// index and the count, and then the blocks.
	writeBlocks = `set -e
[ -b "$1" ]
while read -r at n; do dd of="$1" bs=512k seek="$at" count="$n" iflag=fullblock oflag=direct conv=notrunc status=none; done
sync`
)

// longestRun is the number of blocks that dd writes at most.
const longestRun = 64

// writing is a helper that writes a volume.
type writing struct {
	*dance
	host   *remote.Host
	device string
}

// write writes the blocks of the disk that are not zero to a volume and compares their
// digests with those of the image. A fresh volume has zeros alone. On one that an earlier
// try has begun, only blocks that differ are written.
func (d *dance) write(ctx context.Context, helper types.Instance, volume string, fresh bool) error {
	list, err := d.blockList(ctx)
	if err != nil {
		return err
	}
	w := &writing{dance: d}
	if err := w.reach(ctx, helper); err != nil {
		return err
	}
	if err := w.find(ctx, volume); err != nil {
		return err
	}
	lack := list
	if !fresh {
		if lack, err = w.lacking(ctx, list); err != nil {
			return err
		}
	}
	if len(lack) == 0 {
		return nil
	}
	if err := w.send(ctx, lack, volume); err != nil {
		return err
	}
	if lack, err = w.lacking(ctx, list); err == nil && len(lack) > 0 {
		err = fmt.Errorf("%d blocks of %s are not those that were written, the first is %d", len(lack), volume, lack[0].index)
	}
	return err
}

// reach sets host and waits until it takes commands. Its sshd has the host key of the keys,
// or nothing is sent to it.
func (w *writing) reach(ctx context.Context, helper types.Instance) error {
	address, id := helperAddress(helper), *helper.InstanceId
	user := w.options.Helper.User
	host, err := remote.Open("ssh://" + user + "@" + net.JoinHostPort(address, fmt.Sprint(sshPort)))
	if err != nil {
		return err
	}
	w.host = host.With(w.keys.file(sshConfig))
	began := time.Now()
	var last error
	var refusedAt time.Time // the first of the refusals in a row
	reached, err := poll(ctx, w.limits.reach, func() (bool, error) {
		step.Report(ctx, step.Progress{Note: fmt.Sprintf("waiting for ssh of the helper %s at %s (%s)", id, address, time.Since(began).Round(time.Second))})
		last = w.run(ctx, nil, nil, "true")
		var exit *remote.Exit
		switch {
		case last == nil || ctx.Err() != nil:
			return last == nil, ctx.Err()
		case !errors.As(last, &exit) && !step.KindOf(last).Final():
			refusedAt = time.Time{}
			_, err := w.listedHelper(ctx, id)
			return false, err
		case refusedAt.IsZero():
			refusedAt = time.Now()
		}
		if time.Since(refusedAt) >= w.limits.grace {
			return false, refusal(last, id, address, user)
		}
		return false, nil
	})
	if err == nil && !reached {
		err = &step.Error{Kind: step.NotFound, Field: "helper.subnet", Op: "log in to the helper",
			Err:  fmt.Errorf("the worker could not reach port %d of %s at %s within %s: %w", sshPort, id, address, w.limits.reach, cause(last)),
			Hint: "see that the network ACL and the routes of its subnet, and this host's own network, let TCP port 22 through; if AWS sees another address of this host, helper: {from: ...}"}
	}
	return err
}

// cause returns an error without its operation.
func cause(err error) error {
	var e *step.Error
	if errors.As(err, &e) {
		return e.Err
	}
	return err
}

// refusal returns the error of a helper that answers and does not let the worker work.
func refusal(err error, id, address, user string) error {
	e := &step.Error{Kind: step.Unauthorized, Op: "log in to the helper", Err: cause(err)}
	var exit *remote.Exit
	const names = "the login name of the image, as helper: {user: ec2-user}; Debian's is admin, Ubuntu's ubuntu"
	switch {
	case errors.Is(err, remote.ErrHostKey):
		e.Err = fmt.Errorf("%s at %s has not the host key that it was given", id, address)
		e.Hint = "its image may lack cloud-init: helper: {image: ...}; or another host answers at that address"
	case errors.Is(err, remote.ErrRefused):
		e.Field, e.Err, e.Hint = "helper.user", fmt.Errorf("%s does not let %s log in: %w", id, user, cause(err)), names
	case errors.As(err, &exit) && user != "root":
		e.Field, e.Err, e.Hint = "helper.user", fmt.Errorf("%s may not use sudo without a password: %w", user, exit), names
	case step.KindOf(err) == step.Unsupported:
		e.Field, e.Hint = "helper.user", names
	default:
		return err
	}
	return e
}

// run runs a script on the helper as root.
func (w *writing) run(ctx context.Context, stdin io.Reader, stdout io.Writer, script string, args ...string) error {
	argv := append([]string{"sh", "-c", script, "sh"}, args...)
	if w.options.Helper.User != "root" {
		argv = append([]string{"sudo", "-n"}, argv...)
	}
	return w.host.Run(ctx, remote.Command{Argv: argv, Stdin: stdin, Stdout: stdout})
}

// find sets device. The device of a volume appears a moment after it is attached.
func (w *writing) find(ctx context.Context, volume string) error {
	serial, letter := strings.Replace(volume, "-", "", 1), volumeDevice[len(volumeDevice)-1:]
	found, err := poll(ctx, visible, func() (bool, error) {
		var out bytes.Buffer
		err := w.run(ctx, nil, &out, findVolume, serial, volumeDevice, "/dev/xvd"+letter)
		w.device = strings.TrimSpace(out.String())
		return w.device != "", err
	})
	if err == nil && !found {
		err = fmt.Errorf("the helper has no device for %s within %s", volume, visible)
	}
	return err
}

// lacking returns the blocks of the list that the device has not.
func (w *writing) lacking(ctx context.Context, list blocks) (lack blocks, err error) {
	var asked strings.Builder
	for _, b := range list {
		fmt.Fprintln(&asked, b.index)
	}
	var sums bytes.Buffer
	lines := 0
	count := each(func(p []byte) {
		lines += bytes.Count(p, []byte("\n"))
		w.report(ctx, int64(lines)*blockSize, len(list), "comparing the blocks on "+w.device)
	})
	if err := w.run(ctx, strings.NewReader(asked.String()), io.MultiWriter(&sums, count), sumBlocks, w.device); err != nil {
		return nil, lacksTool(err)
	}
	has := map[string]bool{}
	for line := range strings.Lines(sums.String()) {
		if f := strings.Fields(line); len(f) > 1 {
			has[f[0]+" "+f[1]] = true
		}
	}
	for _, b := range list {
		if !has[fmt.Sprintf("%d %x", b.index, b.sum)] {
			lack = append(lack, b)
		}
	}
	return lack, nil
}

// each is a writer that calls a function with what is written.
type each func(p []byte)

func (f each) Write(p []byte) (int, error) {
	f(p)
	return len(p), nil
}

// send writes blocks to the device.
func (w *writing) send(ctx context.Context, list blocks, volume string) (err error) {
	disk, done, err := w.unpack(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, done()) }()
	var all []io.Reader
	sent := int64(0)
	count := each(func(p []byte) {
		sent += int64(len(p))
		w.report(ctx, sent, len(list), "writing to "+volume)
	})
	for from := 0; from < len(list); {
		to := from + 1
		for to < len(list) && to-from < longestRun && list[to].index == list[to-1].index+1 {
			to++
		}
		first, n := list[from].index, to-from
		all = append(all, strings.NewReader(fmt.Sprintf("%d %d\n", first, n)),
			io.TeeReader(io.NewSectionReader(disk, int64(first)*blockSize, int64(n)*blockSize), count))
		from = to
	}
	return lacksTool(w.run(ctx, io.MultiReader(all...), nil, writeBlocks, w.device))
}

// lacksTool returns an error of a script as one about the image if a program is not there.
func lacksTool(err error) error {
	var exit *remote.Exit
	if errors.As(err, &exit) && (exit.Status == 126 || exit.Status == 127) {
		return &step.Error{Kind: step.Unsupported, Op: "write on the helper", Field: "helper.image", Err: exit, Hint: "an image of Linux with GNU coreutils, as Amazon Linux"}
	}
	return err
}

func (w *writing) report(ctx context.Context, done int64, of int, note string) {
	step.Report(ctx, step.Progress{Done: done, Total: int64(of) * blockSize, Unit: "bytes", Note: note})
}
