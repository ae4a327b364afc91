package config

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"path/filepath"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"github.com/morgana-deploy/morgana/step"
)

const profiles = `[profile.default]
namespace = "from-file"
[profile.cloud]
address = "cloud.example:7233"
namespace = "ours"
api_key = "key"
[profile.local]
namespace = "mine"
`

func temporalFlags(t *testing.T, args ...string) *pflag.FlagSet {
	t.Helper()
	fs := pflag.NewFlagSet("", pflag.ContinueOnError)
	StarterFlags(fs)
	if err := fs.Parse(args); err != nil {
		t.Fatal(err)
	}
	return fs
}

func TestTemporal(t *testing.T) {
	for name, c := range map[string]struct {
		file               string
		env                map[string]string
		args               []string
		address, namespace string
		configured, tls    bool
	}{
		"nothing":             {"", nil, nil, "localhost:7233", "default", false, false},
		"address":             {"", map[string]string{"TEMPORAL_ADDRESS": "a:1"}, nil, "a:1", "default", true, false},
		"empty address":       {"", map[string]string{"TEMPORAL_ADDRESS": ""}, nil, "localhost:7233", "default", false, false},
		"namespace":           {"", map[string]string{"TEMPORAL_NAMESPACE": "n"}, nil, "localhost:7233", "n", false, false},
		"API key":             {"", map[string]string{"TEMPORAL_API_KEY": "k"}, nil, "localhost:7233", "default", true, true},
		"TLS":                 {"", map[string]string{"TEMPORAL_TLS": "true"}, nil, "localhost:7233", "default", true, true},
		"no TLS":              {"", map[string]string{"TEMPORAL_TLS": "false"}, nil, "localhost:7233", "default", false, false},
		"default profile":     {profiles, nil, nil, "localhost:7233", "from-file", false, false},
		"profile by env":      {profiles, map[string]string{"TEMPORAL_PROFILE": "cloud"}, nil, "cloud.example:7233", "ours", true, true},
		"profile, no address": {profiles, map[string]string{"TEMPORAL_PROFILE": "local"}, nil, "localhost:7233", "mine", true, false},
		"profile by flag": {profiles, map[string]string{"TEMPORAL_PROFILE": "local"}, []string{"--profile=cloud"},
			"cloud.example:7233", "ours", true, true},
		"env over profile": {profiles, map[string]string{"TEMPORAL_PROFILE": "cloud", "TEMPORAL_NAMESPACE": "n"}, nil,
			"cloud.example:7233", "n", true, true},
		"flags over all": {profiles, map[string]string{"TEMPORAL_PROFILE": "cloud", "TEMPORAL_ADDRESS": "a:1", "TEMPORAL_NAMESPACE": "n"},
			[]string{"--address=f:1", "--namespace=f"}, "f:1", "f", true, true},
	} {
		t.Run(name, func(t *testing.T) {
			folder := alone(t)
			t.Setenv("XDG_CONFIG_HOME", folder)
			if c.file != "" {
				write(t, "temporalio/temporal.toml", c.file)
			}
			for k, v := range c.env {
				t.Setenv(k, v)
			}
			o, configured, err := Temporal(temporalFlags(t, c.args...))
			if err != nil {
				t.Fatal(err)
			}
			if o.HostPort != c.address || o.Namespace != c.namespace || configured != c.configured || (o.ConnectionOptions.TLS != nil) != c.tls {
				t.Errorf("got %s %s configured %v TLS %v; want %s %s %v %v", o.HostPort, o.Namespace, configured,
					o.ConnectionOptions.TLS != nil, c.address, c.namespace, c.configured, c.tls)
			}
		})
	}
}

func TestTemporalCertificate(t *testing.T) {
	alone(t)
	cert, key := certificate(t)
	write(t, "cert.pem", cert)
	write(t, "key.pem", key)
	t.Setenv("TEMPORAL_ADDRESS", "a:1")
	t.Setenv("TEMPORAL_TLS_CLIENT_CERT_PATH", "cert.pem")
	t.Setenv("TEMPORAL_TLS_CLIENT_KEY_PATH", "key.pem")
	o, configured, err := Temporal(nil)
	if err != nil || !configured || o.ConnectionOptions.TLS == nil || len(o.ConnectionOptions.TLS.Certificates) != 1 {
		t.Errorf("got %+v, %v, %v", o.ConnectionOptions, configured, err)
	}
}

func TestBadTemporal(t *testing.T) {
	for name, c := range map[string]struct {
		file       string
		env        map[string]string
		kind       step.Kind
		want, hint string
	}{
		"bad TOML": {"[profile.default]\naddress = x\n", nil, step.InvalidSpec,
			`read temporalio/temporal.toml: toml: line 2 (last key "profile.default.address"): expected value but found "x" instead`, ""},
		"wrong type": {"[profile.default]\naddress = 1\n", nil, step.InvalidSpec,
			`read temporalio/temporal.toml: toml: line 2 (last key "profile.default.address"): incompatible types: TOML value has type int64; destination has type string`, ""},
		"no profile": {profiles, map[string]string{"TEMPORAL_PROFILE": "clout"}, step.NotFound,
			`read temporalio/temporal.toml: no profile "clout"`, `did you mean "cloud"?`},
		"nothing near": {profiles, map[string]string{"TEMPORAL_PROFILE": "zzzzzzzz"}, step.NotFound,
			`read temporalio/temporal.toml: no profile "zzzzzzzz"`, "one of cloud, default, local"},
		"no file, but a profile": {"", map[string]string{"TEMPORAL_PROFILE": "x"}, step.NotFound,
			`read temporalio/temporal.toml: no profile "x"`, ""},
		"no file": {"", map[string]string{"TEMPORAL_CONFIG_FILE": "nope.toml"}, step.NotFound,
			"read nope.toml: no such file or directory", "correct or unset TEMPORAL_CONFIG_FILE"},
		"file a folder": {profiles, map[string]string{"TEMPORAL_CONFIG_FILE": "temporalio"}, step.InvalidSpec,
			"read temporalio: is a directory", "correct or unset TEMPORAL_CONFIG_FILE"},
		"file a device": {"", map[string]string{"TEMPORAL_CONFIG_FILE": "/dev/zero"}, step.InvalidSpec,
			"read /dev/zero: not a regular file", "correct or unset TEMPORAL_CONFIG_FILE"},
		"CA a device": {"", map[string]string{"TEMPORAL_TLS_SERVER_CA_CERT_PATH": "/dev/zero"}, step.InvalidSpec,
			"set up TLS to Temporal: open /dev/zero: not a regular file", ""},
		"no certificate": {"", map[string]string{"TEMPORAL_TLS_CLIENT_CERT_PATH": "cert.pem", "TEMPORAL_TLS_CLIENT_KEY_PATH": "key.pem"}, step.NotFound,
			"set up TLS to Temporal: open cert.pem: no such file or directory", ""},
		"no CA": {"", map[string]string{"TEMPORAL_TLS_SERVER_CA_CERT_PATH": "ca.pem"}, step.NotFound,
			"set up TLS to Temporal: open ca.pem: no such file or directory", ""},
		"half a pair": {"", map[string]string{"TEMPORAL_TLS_CLIENT_CERT_PATH": "cert.pem"}, step.InvalidSpec,
			"set up TLS to Temporal: if either client cert or key path is present, other must be present too", ""},
	} {
		t.Run(name, func(t *testing.T) {
			folder := alone(t)
			t.Setenv("XDG_CONFIG_HOME", folder)
			if c.file != "" {
				write(t, "temporalio/temporal.toml", c.file)
			}
			for k, v := range c.env {
				t.Setenv(k, v)
			}
			_, _, err := Temporal(nil)
			wantError(t, err, c.kind, c.want, c.hint)
		})
	}
}

func certificate(t *testing.T) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}))
}

func TestTemplate(t *testing.T) {
	for _, kernel := range []string{"hello", "dist/hello.xen", "a b: #c", "12", "it's \"k\"", "line\nbreak", "- x", "\u2028é"} {
		folder := alone(t)
		p := load(t, string(Template{App: "hello", Toolchain: "command", Kernel: kernel, Kind: "qemu"}.YAML()))
		var got struct {
			Build  [][]string `json:"build"`
			Kernel string     `json:"kernel"`
		}
		if err := step.Decode(p.Toolchain.Options, &got); err != nil {
			t.Fatal(err)
		}
		if p.App != "hello" || p.Source != folder || p.Toolchain.Kind != "command" || got.Kernel != kernel || got.Build[0][0] != "make" {
			t.Errorf("command, %q: got %+v, options %s", kernel, p, p.Toolchain.Options)
		}
		for _, kind := range []string{"qemu", "xen", "local", "ec2"} {
			p = load(t, string(Template{App: "null", Toolchain: Prebuilt, Kernel: kernel, Kind: kind}.YAML()))
			if p.App != "null" || p.Kernel != filepath.Join(folder, kernel) || p.Toolchain.Options != nil || p.Targets[0].Kind != kind {
				t.Errorf("prebuilt, %q, %s: got %+v", kernel, kind, p)
			}
		}
	}
}
