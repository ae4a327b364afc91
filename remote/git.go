package remote

import (
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/morgana-deploy/morgana/step"
)

// GitEnviron returns the variables with which git runs ssh as this package does: with host
// keys checked, without prompts, by MORGANA_SSH_CONFIG. Git passes the command to a shell;
// the text is constant, and the shell takes the file's name from its environment.
func GitEnviron() ([]string, error) {
	words := []string{"ssh", "-T", `${MORGANA_SSH_CONFIG:+-F "$MORGANA_SSH_CONFIG"}`}
	alone := []string{"ControlMaster=no", "ControlPath=none", "ControlPersist=no"} // win over those in options
	for _, o := range slices.Concat(alone, options) {
		words = append(words, "-o", o)
	}
	env := []string{"GIT_SSH_COMMAND=" + strings.Join(words, " "), "GIT_SSH_VARIANT=ssh", "SSH_ASKPASS_REQUIRE=never"}
	if file := os.Getenv("MORGANA_SSH_CONFIG"); file != "" {
		whole, err := filepath.Abs(file)
		if err != nil {
			return nil, step.During("find MORGANA_SSH_CONFIG", err)
		}
		env = append(env, "MORGANA_SSH_CONFIG="+whole)
	}
	return env, nil
}

// Said returns the error for the output of an ssh that could not connect to h: see
// [Host.Run] for its kinds.
func (h *Host) Said(op, output string) error { return said(op, h, output) }
