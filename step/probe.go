package step

// Probing is no stage of a deploy. It comes after the last one if the policy has a probe.
const Probing Stage = "health"

// Probation is the input of Probe: a machine that has just become ready, and the probe by
// which it is to be looked at for the probe's window.
type Probation struct {
	Machine Machine `json:"machine"`
	Probe   Probe   `json:"probe"`
}

// ProbeCheck is the input of ProbeCheck: a spec as Check completed it, and the probe of its
// future machine.
type ProbeCheck struct {
	Spec  Spec  `json:"spec"`
	Probe Probe `json:"probe"`
}

// Probed is the result of Probe: the app was healthy until the window's end.
type Probed struct {
	// Answer is the last answer in one line: "GET http://127.0.0.1:8080/: 200 OK".
	Answer string `json:"answer"`
}

// Of returns the spec of the machine.
func (p Probation) Of() Spec { return p.Machine.Of() }

// Valid refuses an invalid machine or probe.
func (p Probation) Valid() error {
	if err := p.Machine.Valid(); err != nil {
		return err
	}
	return p.Probe.valid()
}
