package tree

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
	"path/filepath"

	"github.com/morgana-deploy/morgana/step"
)

const tenderFix = "opam install solo5, or give tender: with its path"

// Tender finds a Solo5 tender by its name or path: in the worker's PATH, then in the opam
// switch in which the kernel is made, or else the current one, where opam installs tenders.
// An error has the Field "tender"; it is Unsupported if there is no such program.
func Tender(ctx context.Context, name string, from step.Recipe) (string, error) {
	path, err := exec.LookPath(name)
	switch {
	case err == nil:
		return path, nil
	case errors.Is(err, exec.ErrNotFound):
		var options struct{ Switch string }
		_ = json.Unmarshal(from.Options, &options) // the toolchain checks them
		argv := []string{"opam", "var", "bin"}
		if from.Kind == "mirage" && options.Switch != "" {
			argv = []string{"opam", "var", "--switch=" + options.Switch, "bin"}
		}
		bin, opamErr := EnvironOf(nil).Output(ctx, argv...)
		if path, err := exec.LookPath(filepath.Join(bin, name)); opamErr == nil && filepath.IsAbs(path) && err == nil {
			return path, nil
		}
		err = fmt.Errorf("%s is neither in the worker's PATH nor in its opam switch", name)
	case !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission):
		return "", &step.Error{Field: "tender", Err: err}
	}
	return "", &step.Error{Kind: step.Unsupported, Field: "tender", Hint: tenderFix, Err: err}
}

// TenderNeed is the need of a tender, met or not, for a purpose.
func TenderNeed(ctx context.Context, name, purpose string) step.Need {
	n := step.Need{For: purpose, What: name, Optional: true}
	var err error
	if n.Found, err = Tender(ctx, name, step.Recipe{}); err != nil {
		n.Fix = tenderFix
	}
	return n
}
