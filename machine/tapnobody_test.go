package machine

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/morgana-deploy/morgana/step"
)

// asNobody, when set, makes TestTapAsNobody the worker without rights.
const asNobody = "MORGANA_TEST_TAP_NOBODY"

// Without CAP_NET_ADMIN a tap cannot be made, but one's own can be opened.
func TestTapAsNobody(t *testing.T) {
	if os.Getenv(asNobody) != "" {
		says := map[string]string{}
		say := func(what string, err error) {
			says[what] = ""
			if err != nil {
				says[what] = string(step.KindOf(err)) + ": " + err.Error()
			}
		}
		tags := step.Tags{App: "taptest", Target: "nobody", Life: "0a1b2c3d", Generation: 1}
		none := In(step.Site{State: os.TempDir()}, "none")
		say("check", none.CheckTap(TapConfig{Tags: tags}))
		_, err := OpenTap(context.Background(), TapConfig{Tags: tags})
		say("open", err)
		say("check own", none.CheckTap(TapConfig{Tags: tags, Name: "mgtesttap4"}))
		_, err = OpenTap(context.Background(), TapConfig{Tags: tags, Name: "mgtesttap4"})
		say("open own", err)
		say("check another's", none.CheckTap(TapConfig{Tags: tags, Name: "mgtesttap5"}))
		_, err = OpenTap(context.Background(), TapConfig{Tags: tags, Name: "mgtesttap5"})
		say("open another's", err)
		_, err = OpenTap(context.Background(), TapConfig{Tags: tags, Name: "mgtesttap6"})
		say("open the machine's", err)
		say("needs", nil)
		for _, n := range TapNeeds() {
			says["needs"] += n.What + "=" + n.Found + " "
			says["fix "+n.What] = n.Fix
		}
		_ = json.NewEncoder(os.Stdout).Encode(says)
		os.Exit(0)
	}
	needTaps(t)
	if os.Getuid() != 0 {
		t.Skip("becomes another user")
	}
	const uid = 54321
	// A node of the device that everybody may open, as udev makes it elsewhere.
	for name, owner := range map[string]uint32{"mgtesttap4": uid, "mgtesttap5": uid + 1} {
		addLink(t, &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: name}, Mode: netlink.TUNTAP_MODE_TAP, Flags: netlink.TUNTAP_NO_PI,
			Owner: owner, Group: owner})
	}
	addLink(t, &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: "mgtesttap6"}, Mode: netlink.TUNTAP_MODE_TAP, Flags: netlink.TUNTAP_NO_PI,
		Owner: uid, Group: uid})
	if link, err := netlink.LinkByName("mgtesttap6"); err != nil || netlink.LinkSetAlias(link, "morgana taptest/nobody/0a1b2c3d/1") != nil {
		t.Fatal(err)
	}
	run := func(opens bool) map[string]string {
		exe, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		open, err := os.MkdirTemp("", "morgana-tap-*") // t.TempDir is closed to others
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(open) //nolint:errcheck // a test's
		copied := filepath.Join(open, "test")
		if out, err := exec.Command("sh", "-c", `chmod 755 "$1" && install -m 755 "$2" "$3"`, "sh", open, exe, copied).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		cmd := exec.Command("unshare", "-m", "sh", "-c", `
			set -e
			if [ "$1" = true ]; then chmod=666; else chmod=600; fi
			mknod "$2/tun" c 10 200 && chmod $chmod "$2/tun" && mount --bind "$2/tun" /dev/net/tun
			exec setpriv --reuid 54321 --regid 54321 --clear-groups "$3" -test.run '^TestTapAsNobody$'`, "sh",
			map[bool]string{true: "true", false: "false"}[opens], t.TempDir(), copied)
		cmd.Env = append(os.Environ(), asNobody+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		out, err := cmd.Output()
		if err != nil {
			var e *exec.ExitError
			if errors.As(err, &e) {
				out = append(out, e.Stderr...)
			}
			t.Fatalf("%v: %s", err, out)
		}
		var says map[string]string
		if err := json.Unmarshal(out, &says); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return says
	}
	const no = "Unauthorized: "
	says := run(true)
	for what, want := range map[string]string{
		"check": no + "tap: the worker may not make", "open": no + "open tap mg", "check own": "", "open own": "",
		"check another's": no + "tap: mgtesttap5 belongs to another user", "open another's": no + "open tap mgtesttap5",
		"open the machine's": no + "open tap mgtesttap6: tap: the worker may not change network devices",
		"needs":              "/dev/net/tun=/dev/net/tun CAP_NET_ADMIN= ",
	} {
		if got := says[what]; !strings.HasPrefix(got, want) || want == "" && got != "" {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
	}
	closed := run(false)
	if got := closed["check own"]; got != no+"tap: the worker may not open /dev/net/tun" {
		t.Errorf("a device that may not be opened: %q", got)
	}
	if got := closed["open own"]; got != no+"open tap mgtesttap4: tap: the worker may not open /dev/net/tun" {
		t.Errorf("a device that may not be opened: %q", got)
	}
	if got := closed["fix /dev/net/tun"]; !strings.HasPrefix(got, "sudo chmod 666 /dev/net/tun") {
		t.Errorf("a device that may not be opened is to be mended by %q", got)
	}
}
