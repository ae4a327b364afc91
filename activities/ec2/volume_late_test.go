package ec2

import (
	"bytes"
	"testing"
)

// TestVolumeAdoptsOtherAMI removes the parts of its dance also if another rollout has registered
// the image meanwhile.
func TestVolumeAdoptsOtherAMI(t *testing.T) {
	environ(t)
	d := newDancer(t)
	d.img.Spec.Generation = 2
	_, err := d.try(t.Context())
	d.closed(err)
	d.once()
	other := d.img
	other.Spec.Options = bytes.Replace(other.Spec.Options, []byte(`"backing":"volume","helper":{"type":"t3.micro","user":"ec2-user"}`), []byte(`"backing":"direct"`), 1)
	other.Spec.Generation = 1
	if _, err := hasty(d.site).Register(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	reg, err := d.try(t.Context())
	if err != nil || !reg.Adopted {
		t.Fatalf("adopted %t, %v", reg.Adopted, err)
	}
	d.alone()
}
