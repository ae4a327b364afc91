package step

import (
	"encoding/json"
	"errors"
	"reflect"
	"testing"
)

func TestReadPolicy(t *testing.T) {
	for in, want := range map[string]Policy{
		``:                        {Restart: RestartNever, Keep: 2},
		`{"health":null}`:         {Restart: RestartNever, Keep: 2},
		`{"restart":"always"}`:    {Restart: RestartAlways, Keep: 2},
		`{"keep":1}`:              {Restart: RestartNever, Keep: 1},
		`{"health":{"tcp":8080}}`: {Restart: RestartNever, Keep: 2, Health: &Probe{TCP: 8080, Interval: "5s", Failures: 3, Window: "1m"}},
		`{"health":{"http":":81/up?deep=1","interval":"250ms","failures":1,"window":"2h"}}`: {Restart: RestartNever, Keep: 2,
			Health: &Probe{HTTP: ":81/up?deep=1", Interval: "250ms", Failures: 1, Window: "2h"}},
	} {
		got, err := ReadPolicy(json.RawMessage(in))
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, %v, want %+v", in, got, err, want)
		}
		if again := got.WithDefaults(); !reflect.DeepEqual(again, want) {
			t.Errorf("%s: defaults change it to %+v", in, again)
		}
		var sent Policy // as another client may send it
		if in != "" && json.Unmarshal([]byte(in), &sent) != nil || !reflect.DeepEqual(sent.WithDefaults(), want) {
			t.Errorf("%s: with defaults %+v, want %+v", in, sent.WithDefaults(), want)
		}
	}
	for in, want := range map[string]struct{ field, text, hint string }{
		`{"restart":"onfailure"}`:             {"restart", `"onfailure" is no restart policy`, `did you mean "on-failure"?`},
		`{"restart":true}`:                    {"restart", "want a string, not true or false", "a string, as \"always\""},
		`{"keep":0}`:                          {"keep", "0 generations cannot be kept", "1, the running generation alone, to 50"},
		`{"keep":51}`:                         {"keep", "51 generations cannot be kept", "1, the running generation alone, to 50"},
		`{"health":{}}`:                       {"health", "want one of http, tcp and console, not 0", "as in `health: {http: /healthz}`"},
		`{"health":{"tcp":1,"http":"/"}}`:     {"health", "want one of http, tcp and console, not 2", "as in `health: {http: /healthz}`"},
		`{"health":{"htp":"/"}}`:              {"health.htp", "unknown field", `did you mean "http"?`},
		`{"health":{"http":"healthz"}}`:       {"health.http", `"healthz" is no path`, "a path as /healthz, or :8080/healthz"},
		`{"health":{"http":":0/"}}`:           {"health.http", `":0/" is no path`, "a path as /healthz, or :8080/healthz"},
		`{"health":{"http":":80"}}`:           {"health.http", `":80" is no path`, "a path as /healthz, or :8080/healthz"},
		`{"health":{"http":"/a b"}}`:          {"health.http", `"/a b" is no path`, "a path as /healthz, or :8080/healthz"},
		`{"health":{"tcp":70000}}`:            {"health.tcp", "70000 is no port", "1 to 65535"},
		`{"health":{"console":"["}}`:          {"health.console", "error parsing regexp: missing closing ]: `[`", "https://golang.org/s/re2syntax"},
		`{"health":{"tcp":1,"failures":0}}`:   {"health.failures", "0 failures in a row cannot be counted", "1 to 1000"},
		`{"health":{"tcp":1,"interval":"5"}}`: {"health.interval", `"5" is no time between probes`, "100ms to 1h, as 5s"},
		`{"health":{"tcp":1,"interval":5}}`:   {"health.interval", "want a string, not a number", `a string, as "5s"`},
		`{"health":{"tcp":1,"window":"4s"}}`:  {"health.window", `"4s" is no time to probe`, "from interval to 24h, as 1m"},
		`{"health":{"tcp":1,"failures":99}}`:  {"health.window", "99 probes in 8m10s do not fit into 1m0s", "a longer window, a shorter interval or fewer failures"},
	} {
		_, err := ReadPolicy(json.RawMessage(in))
		var e *Error
		if !errors.As(err, &e) || e.Kind != InvalidSpec || e.Field != want.field || e.Err.Error() != want.text || e.Hint != want.hint {
			t.Errorf("%s: %#v, want %+v", in, err, want)
		}
	}
}

func TestProbeRequest(t *testing.T) {
	for in, want := range map[string]struct {
		port int
		path string
	}{"/": {0, "/"}, "/a/b?c": {0, "/a/b?c"}, ":8080/x": {8080, "/x"}} {
		if port, path := (&Probe{HTTP: in}).Request(); port != want.port || path != want.path {
			t.Errorf("%s: %d %s", in, port, path)
		}
	}
}
