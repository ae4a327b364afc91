package config

import (
	"maps"
	"strconv"

	"github.com/morgana-deploy/morgana/step"
)

// Replaceable are the steps of a route that the key `steps` can replace: all but those
// of After.
var Replaceable = append(step.Stages[:], step.Fetch, "console", "destroy", "clean", "observe", "watch", "probe", "list", "forecast")

// replace sets the step called which, one of [Replaceable], of a route.
func replace(route *step.Route, which step.Stage, s step.Step) {
	place := map[step.Stage]*step.Step{
		"console": &route.Console, "destroy": &route.Destroy, "clean": &route.Clean,
		"observe": &route.Observe, "watch": &route.Watch, "probe": &route.Probe, "list": &route.List, "forecast": &route.Forecast,
	}[which]
	if place == nil {
		place = route.Stage(which)
	}
	*place = s
}

// readSteps reads the keys steps and after of mapping v, which is at path. The keys in
// steps are any of [Replaceable], those in after only stages.
func readSteps(v *value, path string) (map[step.Stage]step.Step, map[step.Stage][]step.Step, error) {
	steps := map[step.Stage]step.Step{}
	err := eachStage(v, path, "steps", Replaceable, func(stage step.Stage, f field, path string) (err error) {
		steps[stage], err = readStep(f.value, path)
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	after := map[step.Stage][]step.Step{}
	err = eachStage(v, path, "after", step.Stages[:], func(stage step.Stage, f field, path string) error {
		if err := f.want(path, list); err != nil {
			return err
		}
		after[stage] = []step.Step{} // a target's empty list replaces the file's list
		for i, item := range f.items {
			s, err := readStep(item, path+"["+strconv.Itoa(i)+"]")
			if err != nil {
				return err
			}
			after[stage] = append(after[stage], s)
		}
		return nil
	})
	return steps, after, err
}

func eachStage(v *value, path, name string, stages []step.Stage, read func(step.Stage, field, string) error) error {
	f := v.field(name)
	if f == nil {
		return nil
	}
	path = join(path, name)
	if err := f.want(path, mapping); err != nil {
		return err
	}
	names := make([]string, 0, len(stages))
	for _, s := range stages {
		names = append(names, string(s))
	}
	if err := f.known(path, names...); err != nil {
		return err
	}
	for _, sf := range f.fields {
		if err := read(step.Stage(sf.name), sf, join(path, sf.name)); err != nil {
			return err
		}
	}
	return nil
}

const stepHint = "a step is {activity: acme.Build, taskQueue: acme}"

func readStep(v *value, path string) (s step.Step, err error) {
	if v.is != mapping {
		return s, invalid(v.at, path, stepHint, "want a mapping, not %s", v.is)
	}
	if err := v.known(path, "activity", "taskQueue", "onHost"); err != nil {
		return s, err
	}
	if s.Activity, err = stepName(v, path, "activity"); err != nil {
		return s, err
	}
	if s.TaskQueue, err = stepName(v, path, "taskQueue"); err != nil {
		return s, err
	}
	if f := v.field("onHost"); f != nil {
		if err := f.want(join(path, "onHost"), boolean); err != nil {
			return s, err
		}
		s.OnHost = string(f.scalar) == "true"
	}
	return s, nil
}

func stepName(v *value, path, name string) (string, error) {
	path = join(path, name)
	f := v.field(name)
	if f == nil {
		return "", invalid(v.at, path, stepHint, "missing")
	}
	if err := f.want(path, text); err != nil {
		return "", err
	}
	if f.text == "" {
		return "", invalid(f.at, path, "", "want a name, not an empty string")
	}
	return f.text, nil
}

// overlay returns base with the entries of own, which win; nil if both are empty.
func overlay[V any](base, own map[step.Stage]V) map[step.Stage]V {
	if len(base)+len(own) == 0 {
		return nil
	}
	both := maps.Clone(base)
	maps.Copy(both, own)
	return both
}

// wantName checks that f is a string and a valid name.
func wantName(f *field, path string) error {
	if err := f.want(path, text); err != nil {
		return err
	}
	return checkName(f.at, path, f.text)
}

func checkName(at, path, name string) error {
	return step.Amend(step.CheckName(path, name), func(e *step.Error) { e.Op = at })
}
