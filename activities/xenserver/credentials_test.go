package xenserver

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/morgana-deploy/morgana/step"
)

// TestLogin reads credentials from all places, as "user:password@host".
func TestLogin(t *testing.T) {
	const a, b = "https://a.example.org", "https://b.example.org"
	for name, test := range map[string]struct {
		options Options
		env     map[string]string
		files   map[string]string // of the home folder
		want    string            // or a part of the error or its hint
		kind    step.Kind
	}{
		"environment":            {Options{}, map[string]string{"XENSERVER_HOST": "a.example.org", "XENSERVER_USERNAME": "ann", "XENSERVER_PASSWORD": "p=1,2"}, nil, "ann:p=1,2@" + a, ""},
		"a URL and no user":      {Options{}, map[string]string{"XENSERVER_HOST": a, "XENSERVER_PASSWORD": "p"}, nil, "root:p@" + a, ""},
		"no server":              {Options{Host: b}, map[string]string{"XENSERVER_PASSWORD": "p"}, nil, "names no server\nadd server=", step.Unauthorized},
		"another form of a host": {Options{Host: "https://A.example.org:443/"}, map[string]string{"XENSERVER_HOST": "a.example.org", "XENSERVER_PASSWORD": "p"}, nil, "root:p@https://A.example.org:443/", ""},
		"another host's are not sent": {Options{Host: b}, map[string]string{"XENSERVER_HOST": "a.example.org", "XENSERVER_PASSWORD": "p"}, nil,
			"the worker has no password for " + b + ": XENSERVER_PASSWORD of the worker is for " + a + "\ncorrect server= or XENSERVER_HOST there", step.Unauthorized},
		"the next source is": {Options{Host: b}, map[string]string{"XENSERVER_HOST": "a.example.org", "XENSERVER_PASSWORD": "p"},
			map[string]string{".xe": "server=b.example.org\nusername=bob\npassword=q\n"}, "bob:q@" + b, ""},
		"password file":    {Options{}, nil, map[string]string{".xe": "server=a.example.org:8443\npasswordfile=~/pw", "pw": "ann\np=w \n"}, "ann:p=w @" + a + ":8443", ""},
		"no password file": {Options{}, nil, map[string]string{".xe": "server=a.example.org\npasswordfile=~/pw"}, "~/.xe: no such file as ~/pw\ncorrect passwordfile=", step.Unauthorized},
		"rc file":          {Options{}, nil, map[string]string{".xe": "# mine\nserver=a.example.org\r\nusername=ann\r\npassword=p#\r\n"}, "ann:p#@" + a, ""},
		"profile":          {Options{Profile: "prod"}, map[string]string{"XENSERVER_PASSWORD": "other"}, map[string]string{".xe.d/prod": "server=a.example.org\npassword=p"}, "root:p@" + a, ""},
		"profile for another host": {Options{Profile: "prod", Host: b}, nil, map[string]string{".xe.d/prod": "server=a.example.org\npassword=p"},
			"no password for " + b + ": ~/.xe.d/prod is for " + a, step.Unauthorized},
		"no profile":                   {Options{Profile: "prod", Host: a}, map[string]string{"XENSERVER_HOST": a, "XENSERVER_PASSWORD": "p"}, nil, "no file ~/.xe.d/prod", step.Unauthorized},
		"profile without a server":     {Options{Profile: "prod", Host: a}, nil, map[string]string{".xe.d/prod": "username=ann\npassword=p\n"}, "names no server\nadd server=", step.Unauthorized},
		"the form of xe -pwf has none": {Options{Profile: "prod", Host: a}, nil, map[string]string{".xe.d/prod": "ann\np\n"}, "has no password", step.Unauthorized},
		"an empty profile":             {Options{Profile: "prod", Host: a}, nil, map[string]string{".xe.d/prod": ""}, "~/.xe.d/prod has no password\nadd the line password=...", step.Unauthorized},
		"a profile that is a folder":   {Options{Profile: "prod", Host: a}, nil, map[string]string{".xe.d/prod/a": ""}, "~/.xe.d/prod: is a directory\nput a file there", step.Unauthorized},
		"nothing":                      {Options{}, nil, nil, "https://xen1.example.org", step.InvalidSpec},
		"no password":                  {Options{Host: a}, nil, nil, "no password for " + a + "\nput the lines server=, username= and password= into ~/.xe;", step.Unauthorized},
		"others may read":              {Options{Profile: "open", Host: a}, nil, map[string]string{".xe.d/open": "ann\np\n"}, "chmod 600", step.Unauthorized},
		"no https":                     {Options{}, map[string]string{"XENSERVER_HOST": "http://a", "XENSERVER_PASSWORD": "p"}, nil, "no https URL", step.Unauthorized},
	} {
		t.Run(name, func(t *testing.T) {
			home := t.TempDir()
			t.Setenv("HOME", home)
			for _, key := range []string{"XENSERVER_HOST", "XENSERVER_USERNAME", "XENSERVER_USER", "XENSERVER_PASSWORD"} {
				t.Setenv(key, test.env[key])
			}
			for file, text := range test.files {
				path := filepath.Join(home, file)
				mode := os.FileMode(0o600)
				if file == ".xe.d/open" {
					mode = 0o644
				}
				if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(strings.Replace(text, "~", home, 1)), mode)); err != nil {
					t.Fatal(err)
				}
			}
			s := settings{Options: test.options}
			c, err := s.login()
			if test.kind == "" {
				if got := c.user + ":" + c.password + "@" + s.Host; err != nil || got != test.want {
					t.Errorf("got %s, %v, want %s", got, err, test.want)
				}
				return
			}
			var e *step.Error
			if !errors.As(err, &e) || e.Kind != test.kind || !strings.Contains(strings.ReplaceAll(e.Error()+"\n"+e.Hint, home, "~"), test.want) {
				t.Errorf("got %v, want %s with %q", err, test.kind, test.want)
			}
		})
	}
}

// A host without credentials cannot deploy.
func TestNeedsCredentials(t *testing.T) {
	t.Setenv("HOME", t.TempDir())
	t.Setenv("XENSERVER_PASSWORD", "")
	if keys := new(Target).Needs(t.Context())[0]; keys.Found != "" || keys.Optional || !strings.Contains(keys.Fix, "~/.xe") {
		t.Errorf("got %+v", keys)
	}
	t.Setenv("XENSERVER_PASSWORD", "p")
	if keys := new(Target).Needs(t.Context())[0]; !strings.Contains(keys.Found, "XENSERVER_PASSWORD") || keys.Fix != "" {
		t.Errorf("got %+v", keys)
	}
}

// Destroy of what it cannot see is no success.
func TestDestroyWithoutAPool(t *testing.T) {
	web := httptest.NewTLSServer(http.NotFoundHandler())
	defer web.Close()
	for _, test := range []struct {
		options string
		kind    step.Kind
		text    string
	}{
		{`{"host":"https://xen1","profile":"gone"}`, step.Unauthorized, "no file ~/.xe.d/gone"},
		{fmt.Sprintf(`{"host":%q,"profile":%q,"fingerprint":%q}`, web.URL, profile(web.URL), fingerprint(digestOf(web))), step.InvalidSpec, "HTTP 404"},
	} {
		spec := step.Spec{Tags: step.Tags{App: "web", Target: "lab"}, Kind: Kind, Options: json.RawMessage(test.options)}
		_, err := New(step.Site{Host: "testhost", State: t.TempDir()}).Destroy(t.Context(), step.Removal{Spec: spec})
		told(t, err, test.kind, test.text)
	}
}
