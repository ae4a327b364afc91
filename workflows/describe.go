package workflows

import (
	"fmt"
	"strings"
	"time"

	"go.temporal.io/sdk/workflow"

	"github.com/morgana-deploy/morgana/step"
)

// describe shows the rollout's stages in the UI.
func (r *rollout) describe() {
	var b strings.Builder
	t := r.in.Spec.Tags
	fmt.Fprintf(&b, "**%s/%s** generation %d, life %s", t.App, t.Target, t.Generation, t.Life)
	if r.status.Commit != "" {
		fmt.Fprintf(&b, ", commit %s", r.status.Commit)
	}
	b.WriteString("\n\n")
	b.WriteString("| stage | state | time | result |\n|---|---|---|---|\n")
	for _, s := range r.status.Stages {
		took := ""
		if !s.Ended.IsZero() {
			took = s.Ended.Sub(s.Started).Round(time.Millisecond).String()
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", s.Stage, s.State, took, cell(s.Result))
	}
	if r.status.Undoing {
		b.WriteString("\nremoving what it made\n")
	}
	workflow.SetCurrentDetails(r.ctx, b.String())
}

// cell keeps a text from breaking out of its table cell.
func cell(text string) string {
	return strings.NewReplacer("|", "\\|", "\n", " ", "<", "&lt;").Replace(text)
}

// result describes a value of a stage in one line.
func result(out any) string {
	switch v := out.(type) {
	case step.Spec:
		if o := v.Origin; o.Git != nil && o.Archive == nil && o.Kernel == nil {
			return o.Git.String()
		}
		if v.Host != "" {
			return "on host " + v.Host
		}
		return "target " + v.Kind
	case step.Source:
		if v.Tree == "" {
			return "nothing to configure"
		}
		return "tree on host " + v.Host
	case step.Kernel:
		how := ""
		if v.Cached {
			how = ", from an earlier build"
		}
		return fmt.Sprintf("kernel %s (%s)%s", Size(v.File.Size), strings.Join(v.ABIs, ", "), how)
	case step.Image:
		return fmt.Sprintf("%s image %.12s", v.Format, v.Digest)
	case step.Registration:
		return v.ID + adopted(v.Adopted)
	case step.Probed:
		return v.Answer
	case step.Machine:
		return strings.TrimSpace(v.ID + adopted(v.Adopted) + " " + v.Ready + " " + step.Addresses(v.Addresses, " "))
	}
	return ""
}

func adopted(yes bool) string {
	if yes {
		return " (was there)"
	}
	return ""
}

// Size formats a number of bytes, rounded down: "91 KiB".
func Size(n int64) string {
	for _, u := range []string{"bytes", "KiB", "MiB"} {
		if n < 1<<10 {
			return fmt.Sprintf("%d %s", n, u)
		}
		n >>= 10
	}
	return fmt.Sprintf("%d GiB", n)
}

// describe shows the deployment in the UI.
func (d *deployment) describe() {
	s := d.status()
	from := s.Folder
	if s.Git != nil {
		from = s.Git.String()
	}
	var b strings.Builder
	fmt.Fprintf(&b, "**%s/%s** on %s, from %s\n\n", d.Last.App, d.Last.Target, s.Kind, cell(from))
	b.WriteString("| | |\n|---|---|\n")
	if s.Commit != "" {
		fmt.Fprintf(&b, "| commit | %s |\n", s.Commit)
	}
	fmt.Fprintf(&b, "| last generation | %d |\n", s.Generation)
	if m := s.Machine; m != nil {
		back := ""
		if s.RolledBackTo != 0 {
			back = fmt.Sprintf(", rolled back to the image of generation %d", s.RolledBackTo)
		}
		fmt.Fprintf(&b, "| machine | %s of generation %d%s |\n", cell(m.ID), m.Registration.Spec.Generation, back)
		fmt.Fprintf(&b, "| ready | %s |\n| addresses | %s |\n", cell(m.Ready), cell(step.Addresses(m.Addresses, " ")))
	}
	d.describeWatch(&b)
	if s.Rolling != nil {
		fmt.Fprintf(&b, "| rolling out | generation %d |\n", s.Rolling.Generation)
	}
	if s.LastDeploy != "" {
		fmt.Fprintf(&b, "| last deploy %s | %s |\n", s.LastDeploy, cell(s.Failure))
	}
	if s.Destroying {
		b.WriteString("| | being destroyed |\n")
	}
	workflow.SetCurrentDetails(d.ctx, b.String())
}
