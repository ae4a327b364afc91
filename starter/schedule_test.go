package main

import (
	"strings"
	"testing"
	"time"

	"github.com/morgana-deploy/morgana/workflows"
)

func TestScheduleTimes(t *testing.T) {
	for _, k := range []struct {
		args []string
		want string // of the error, or of the times
	}{
		{nil, "a schedule needs a time"},
		{[]string{"--cron", "0 4 * * *", "--every", "1h"}, "--every: --cron and --every exclude each other"},
		{[]string{"--every", "often"}, `--every: "often" is no length of time`},
		{[]string{"--every", "-1h"}, `--every: "-1h" is no length of time`},
		{[]string{"--every", "1.5d"}, `--every: "1.5d" is no length of time`},
		{[]string{"--every", "10ms"}, "--every: 10ms is too short"},
		{[]string{"--every", "1h", "--jitter", "x"}, `--jitter: "x" is no length of time`},
		{[]string{"--every", "1h", "--timezone", "UTC"}, "--timezone: --every has no time zone"},
		{[]string{"--every", "9999999h"}, "--every: 9999999h is too long"},
		{[]string{"--every", "10000d"}, "--every: 10000d is too long"},
		{[]string{"--cron", "0 4 31 2 *"}, `--cron: no time fits "0 4 31 2 *"`},
		{[]string{"--cron", "0 0 4 * * *"}, `--cron: "0 0 4 * * *" has 6 fields`},
		{[]string{"--cron", "0 0 4 * * * 2030"}, `--cron: "0 0 4 * * * 2030" has 7 fields`},
		{[]string{"--cron", "CRON_TZ=UTC 0 4 * * *"}, `--cron: "CRON_TZ=UTC 0 4 * * *" has a time zone`},
		{[]string{"--cron", "0 4 * * *", "--timezone", "Mars/Base"}, `--timezone: "Mars/Base" is no time zone`},
		{[]string{"--cron", "0 4 * * *", "--timezone", "Local"}, `--timezone: "Local" is no time zone`},
	} {
		status, out, errOut := morgana(t, append([]string{"schedule", "set", "hello/dev"}, k.args...)...)
		if line, _, _ := strings.Cut(errOut, "\n"); status != 2 || out != "" || line != "error: "+k.want || !strings.Contains(errOut, "\nhint: ") {
			t.Errorf("%q: status %d, %s%s", k.args, status, out, errOut)
		}
	}
	spec, err := times{cron: " 0 4 * * 1-5 # mine", timezone: "Europe/Berlin", jitter: "90m"}.spec()
	if err != nil || spec.CronExpressions[0] != "0 4 * * 1-5 # 0 4 * * 1-5" || spec.TimeZoneName != "Europe/Berlin" || spec.Jitter != 90*time.Minute {
		t.Errorf("cron: %+v, %v", spec, err)
	}
	for _, fits := range []string{"0 4 29 2 *", "@daily", "0 4 * * 7", "*/5 1-3 1,15 jan-mar mon"} {
		if _, err := (times{cron: fits}).spec(); err != nil {
			t.Errorf("%s: %v", fits, err)
		}
	}
	spec, err = times{every: "7d"}.spec()
	if err != nil || spec.Intervals[0].Every != 168*time.Hour {
		t.Errorf("every: %+v, %v", spec, err)
	}
}

func TestNoSchedules(t *testing.T) {
	withServer(t)
	for _, k := range []struct{ which, want string }{{"", "there are no schedules; "}, {"nosuch/dev", "there are no schedules of nosuch/dev; "}} {
		if status, out, errOut := morgana(t, append([]string{"schedule", "list"}, strings.Fields(k.which)...)...); status != 0 || out != "" || !strings.HasPrefix(errOut, k.want) {
			t.Errorf("%q: status %d, %s%s", k.which, status, out, errOut)
		}
	}
}

func TestScheduleTexts(t *testing.T) {
	for d, want := range map[time.Duration]string{24 * time.Hour: "24h", 90 * time.Minute: "1h30m", 2 * time.Second: "2s",
		time.Minute: "1m", 10*time.Minute + time.Second: "10m1s", time.Hour + 10*time.Second: "1h0m10s"} {
		if got := duration(d); got != want {
			t.Errorf("duration %q, want %q", got, want)
		}
	}
	failed := redeployLine{State: "failed", Error: &failure{Field: "source.ref", Message: "no branch\x1b[2J\nhint"}}
	if got := failed.result(); got != "failed: source.ref: no branch" {
		t.Errorf("failed: %q", got)
	}
	changed := redeployLine{State: "deployed", Result: &workflows.RedeployResult{Running: 4, Revision: strings.Repeat("c", 40), Left: []string{"a folder"}}}
	if got := changed.result(); got != "deployed: generation 4 runs, commit cccccccccccc; a folder" {
		t.Errorf("deployed: %q", got)
	}
}
