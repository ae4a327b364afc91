package workflows

import (
	"testing"
	"time"

	"github.com/morgana-deploy/morgana/step"
)

// A day's upload outlives any number of restarts of its worker, and still ends.
// (The test environment ends every activity after ten tries.)
func TestRegisterAndBootAreBoundedByTime(t *testing.T) {
	for _, stage := range step.Stages {
		o := optionsOf(stage)
		byTime := o.RetryPolicy.MaximumAttempts == 0
		if byTime != (stage == step.Register || stage == step.Boot) {
			t.Errorf("%s: bounded by time: %v", stage, byTime)
		}
		if byTime && (o.ScheduleToCloseTimeout < 2*24*time.Hour || o.ScheduleToCloseTimeout < 2*o.StartToCloseTimeout) {
			t.Errorf("%s: a second try after a day's first has no time: %s of %s", stage, o.StartToCloseTimeout, o.ScheduleToCloseTimeout)
		}
	}
}
