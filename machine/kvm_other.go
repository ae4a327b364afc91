//go:build !amd64

package machine

// TryKVM says what is wrong with KVM, "" if it can be opened: what it can do is not
// tried here. err is trouble that may pass.
func TryKVM() (why string, err error) {
	f, why, err := openKVM()
	if f != nil {
		_ = f.Close() // nothing was done with it
	}
	return why, err
}
