//go:build !amd64

package machine

// TryKVM opens KVM, and runs nothing in it. why is the reason why it cannot be opened, ""
// if it can. err is an error that may pass.
func TryKVM() (why string, err error) {
	f, why, err := openKVM()
	if f != nil {
		_ = f.Close() // nothing was done with it
	}
	return why, err
}
