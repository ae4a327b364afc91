package local

import "github.com/morgana-deploy/morgana/machine"

const kvmInstead = "build the kernel with -t spt, which needs none"

// needKVM refuses a host where KVM does not work.
func needKVM() error {
	why, err := tryKVM()
	if why != "" {
		return machine.NoKVM("", kvmInstead, why)
	}
	return err
}
