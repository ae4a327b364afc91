package xapilab

import "time"

// Fault makes calls go wrong.
type Fault struct {
	// Call is the method of the calls as received, such as "Async.VM.start", "PUT
	// /import_raw_vdi" or "CONNECT /console"; "" is each call.
	Call string
	// Skip is how many of these calls go right before.
	Skip int
	// Times is how many then go wrong; 0 is one, a negative number is all.
	Times int
	// Delay is a pause before the call.
	Delay time.Duration
	// Lose closes the connection instead of an answer.
	Lose Lose
	// Error is a code and its parameters. It is the answer instead of the effect, and for
	// an asynchronous call the verdict of its task.
	Error []string
	// TaskError makes the task of an asynchronous call, or of an import, fail with these
	// after the call had its effect.
	TaskError []string
	// Status is the HTTP status that is the answer instead of the effect. The task of an
	// import then stays pending for ever.
	Status int
	// Cut closes the connection of an import after so many bytes of its body.
	Cut int64
	// Redirect sends an import to the other host of the pool with a 302.
	Redirect bool
}

// Lose says when a connection is closed.
type Lose int

// Before and After lose a call before and after its effect. Restarts loses it before, by a
// [Lab.Restart]. Expires ends all sessions before the call, which is then answered.
const (
	Nothing Lose = iota
	Before
	After
	Restarts
	Expires
)

// lost waits for the delay of a fault, and reports whether the call is lost without an effect.
func (l *Lab) lost(f Fault) bool {
	switch f.Lose {
	case Restarts:
		l.Restart()
	case Expires:
		l.Expire()
	}
	return !l.sleep(f.Delay) || f.Lose == Before || f.Lose == Restarts
}

// Fault adds a fault. Remove takes it away. If several are for one call, the first has
// effect; delays add up.
func (l *Lab) Fault(f Fault) (remove func()) {
	if f.Times == 0 {
		f.Times = 1
	}
	l.locked(func() { l.faults = append(l.faults, &f) })
	return func() { l.locked(func() { f.Times = 0 }) }
}

// fault returns the fault of a call.
func (l *Lab) fault(name string) (found Fault) {
	l.mu.Lock()
	defer l.mu.Unlock()
	hit := false
	for _, f := range l.faults {
		switch only := f.Lose == Nothing && f.Error == nil && f.TaskError == nil && f.Status == 0 && f.Cut == 0 && !f.Redirect; {
		case f.Times == 0 || f.Call != "" && f.Call != name:
		case f.Skip > 0:
			f.Skip--
		case only:
			f.Times--
			found.Delay += f.Delay
		case !hit:
			f.Times--
			delay := found.Delay
			found, hit = *f, true
			found.Delay += delay
		}
	}
	return found
}
