//go:build !amd64

package machine

// TryKVM opens KVM, and tries nothing in it. why says what is wrong, "" if it opens. err is
// an error that may pass.
func TryKVM() (why string, err error) {
	f, why, err := openKVM()
	if f != nil {
		_ = f.Close() // nothing was done with it
	}
	return why, err
}
