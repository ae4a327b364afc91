package config

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"

	"github.com/spf13/pflag"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/contrib/envconfig"

	"github.com/morgana-deploy/morgana/files"
	"github.com/morgana-deploy/morgana/step"
)

// Temporal returns the options of a connection to Temporal. It reads a profile of the
// TOML file ($TEMPORAL_CONFIG_FILE, by default temporalio/temporal.toml in the user's
// configuration folder), as Temporal's own tools do. TEMPORAL_* variables win over the
// profile, and --address, --namespace and --profile win over both (see [StarterFlags];
// flags may be nil).
//
// configured is true if an address, an API key, TLS settings or a profile's name is
// given. If not, the options are for localhost:7233 and the starter may run a server of
// its own.
//
// Errors are InvalidSpec or NotFound and name the file or profile.
func Temporal(flags *pflag.FlagSet) (options client.Options, configured bool, err error) {
	flag := func(name string) string {
		if flags == nil || flags.Lookup(name) == nil {
			return ""
		}
		return flags.Lookup(name).Value.String()
	}
	named := cmp.Or(flag("profile"), os.Getenv("TEMPORAL_PROFILE"))
	profile, err := temporalProfile(named)
	if err != nil {
		return client.Options{}, false, err
	}
	if err := profile.ApplyEnvVars(nil); err != nil {
		return client.Options{}, false, &step.Error{Kind: step.InvalidSpec, Op: "read the TEMPORAL_ variables", Err: err}
	}
	profile.Address = cmp.Or(flag("address"), profile.Address)
	profile.Namespace = cmp.Or(flag("namespace"), profile.Namespace)
	configured = named != "" || profile.Address != "" || profile.APIKey != "" ||
		profile.TLS != nil && !profile.TLS.Disabled
	profile.Address = cmp.Or(profile.Address, client.DefaultHostPort)
	profile.Namespace = cmp.Or(profile.Namespace, client.DefaultNamespace)
	if err := checkTLSFiles(profile.TLS); err != nil {
		return client.Options{}, false, badTLS(err)
	}
	options, err = profile.ToClientOptions(envconfig.ToClientOptionsRequest{})
	if err != nil {
		return client.Options{}, false, badTLS(err)
	}
	return options, configured, nil
}

// temporalProfile reads a profile of the TOML file, the default one if named is empty. A
// file in TEMPORAL_CONFIG_FILE and a named profile must exist; the library would ignore
// a missing file.
func temporalProfile(named string) (envconfig.ClientConfigProfile, error) {
	given := os.Getenv("TEMPORAL_CONFIG_FILE")
	file := cmp.Or(given, envconfig.DefaultConfigFilePath())
	data, err := files.Read(file, maxBytes)
	if err != nil && (given != "" || !errors.Is(err, fs.ErrNotExist)) {
		e := Unreadable(asTyped(file), err)
		if given != "" {
			e.Hint = "correct or unset TEMPORAL_CONFIG_FILE"
		}
		return envconfig.ClientConfigProfile{}, e
	}
	var all envconfig.ClientConfig
	if err := all.FromTOML(data, envconfig.ClientConfigFromTOMLOptions{}); err != nil {
		return envconfig.ClientConfigProfile{}, &step.Error{Kind: step.InvalidSpec, Op: "read " + asTyped(file), Err: err}
	}
	profile, ok := all.Profiles[cmp.Or(named, envconfig.DefaultConfigFileProfile)]
	if ok {
		return *profile, nil
	}
	if named != "" {
		known := slices.Sorted(maps.Keys(all.Profiles))
		e := &step.Error{Kind: step.NotFound, Op: "read " + asTyped(file), Err: fmt.Errorf("no profile %q", named)}
		if len(known) > 0 {
			e.Hint = step.OneOf(named, known...)
		}
		return envconfig.ClientConfigProfile{}, e
	}
	return envconfig.ClientConfigProfile{}, nil
}

// checkTLSFiles refuses pipes and devices, which may block the library for ever. It does
// not refuse a missing file: the library does.
func checkTLSFiles(tls *envconfig.ClientConfigTLS) error {
	if tls == nil || tls.Disabled {
		return nil
	}
	for _, path := range []string{tls.ClientCertPath, tls.ClientKeyPath, tls.ServerCACertPath} {
		f, _, err := files.Open(path)
		if err == nil {
			_ = f.Close() // nothing was read
		}
		if errors.Is(err, files.ErrNotRegular) {
			return err
		}
	}
	return nil
}

func badTLS(err error) error {
	e := &step.Error{Kind: step.InvalidSpec, Op: "set up TLS to Temporal", Err: err}
	if inner := errors.Unwrap(err); inner != nil { // the library's text repeats Op
		e.Err = inner
	}
	if pathErr := (*fs.PathError)(nil); errors.As(err, &pathErr) {
		e.Err = pathErr
	}
	if errors.Is(err, fs.ErrNotExist) {
		e.Kind = step.NotFound
	}
	return e
}
