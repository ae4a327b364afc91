//go:build !amd64

package local

// tryKVM is "" if KVM can be opened: what it can do is not tried here.
func tryKVM() (why string) {
	f, why := openKVM()
	if f != nil {
		_ = f.Close() // nothing was done with it
	}
	return why
}
