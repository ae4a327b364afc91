//go:build !amd64

package local

import "github.com/morgana-deploy/morgana/machine"

// tryKVM gives why "" if KVM can be opened: what it can do is not tried here.
// err is trouble that may pass.
func tryKVM() (why string, err error) {
	f, why, err := machine.OpenKVM()
	if f != nil {
		_ = f.Close() // nothing was done with it
	}
	return why, err
}
