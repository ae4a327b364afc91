package ec2lab

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
)

// volumeSizes are the least and the most GiB of a volume by its type.
var volumeSizes = map[string][2]int{
	"standard": {1, 1024}, "gp2": {1, 16384}, "gp3": {1, 65536}, "io1": {4, 16384}, "io2": {4, 65536}, "st1": {125, 16384}, "sc1": {125, 16384},
}

func createVolume(r *request) (*volume, error) {
	l := r.lab
	v := &volume{
		ID: newID(volumes.prefix), Zone: r.get("AvailabilityZone"), Type: r.or("VolumeType", "gp2"), Size: r.number("Size", 0),
		State: "creating", Created: now(), Encrypted: l.encrypt || r.bool("Encrypted", false), Snapshot: r.get("SnapshotId"),
	}
	if _, err := find[*zone](l, v.Zone); err != nil {
		return nil, refuse("InvalidZone.NotFound", "The zone '%s' does not exist.", v.Zone)
	}
	switch limits := volumeSizes[v.Type]; {
	case v.Snapshot != "":
		s, err := find[*snapshot](l, v.Snapshot)
		if err != nil {
			return nil, err
		}
		if s.State != "completed" {
			return nil, refuse("IncorrectState", "Snapshot is in invalid state - %s", s.State)
		}
		if v.Size == 0 {
			v.Size = s.Size
		}
		if v.Size < s.Size {
			return nil, refuse("InvalidParameterValue", "The volume size of %dGiB is smaller than that of the snapshot '%s', %dGiB", v.Size, s.ID, s.Size)
		}
		v.Encrypted = v.Encrypted || s.Encrypted
	case v.Size == 0:
		return nil, refuse("MissingParameter", "The request must contain the parameter size or snapshotId")
	case v.Size < limits[0]:
		return nil, refuse("InvalidParameterValue", "Volume of %dGiB is too small for volume type %s; minimum is %dGiB.", v.Size, v.Type, limits[0])
	case v.Size > limits[1]:
		return nil, refuse("InvalidParameterValue", "Volume of %dGiB is too large for volume type %s; maximum is %dGiB.", v.Size, v.Type, limits[1])
	}
	return v, nil
}

func (v *volume) begin(r *request) (err error) {
	v.file = filepath.Join(r.lab.dir, v.ID+".raw")
	if v.Snapshot != "" {
		var s *snapshot
		if s, err = r.lab.snapshot(v.Snapshot); err == nil {
			err = s.write(v.file, s.blocks())
		}
	} else {
		err = sparse(v.file, 0)
	}
	if err == nil {
		err = os.Truncate(v.file, int64(v.Size)<<30)
	}
	return err
}

func (v *volume) ripen(*Lab) { v.State = "available" }

// sparse makes a file without data.
func sparse(path string, size int64) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	err = f.Truncate(size)
	if closed := f.Close(); err == nil {
		err = closed
	}
	return err
}

// VolumeFile returns the path of the file that has the bytes of a volume.
func (l *Lab) VolumeFile(id string) (string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	v, err := find[*volume](l, id)
	if err != nil {
		return "", err
	}
	return v.file, nil
}

var deviceName = regexp.MustCompile(`^(/dev/)?(sd[a-z]|xvd[a-z]{1,2}|sda1)[0-9]{0,2}$`)

// plugging returns the volume and the instance of AttachVolume and DetachVolume, if the user
// may do that.
func (r *request) plugging() (v *volume, i *instance, err error) {
	if err := r.allow(volumes.arn(r.get("VolumeId"))); err != nil {
		return nil, nil, err
	}
	if v, err = find[*volume](r.lab, r.get("VolumeId")); err == nil && r.has("InstanceId") {
		i, err = find[*instance](r.lab, r.get("InstanceId"))
	}
	return v, i, err
}

func attachVolume(r *request) (any, error) {
	v, i, err := r.plugging()
	if err != nil {
		return nil, err
	}
	device := r.get("Device")
	switch {
	case v.State == "in-use":
		return nil, refuse("VolumeInUse", "%s is already attached to an instance", v.ID)
	case v.State != "available":
		return nil, refuse("IncorrectState", "Volume '%s' is not 'available'.", v.ID)
	case i.State.Name != "running" && i.State.Name != "stopped":
		return nil, refuse("IncorrectState", "Instance '%s' is not 'running'.", i.ID)
	case v.Zone != i.Place.Zone:
		return nil, refuse("InvalidVolume.ZoneMismatch", "The volume '%s' is not in the same availability zone as instance '%s'", v.ID, i.ID)
	case !deviceName.MatchString(device):
		return nil, refuse("InvalidParameterValue", "Value (%s) for parameter device is invalid. %[1]s is not a valid EBS device name.", device)
	case slices.ContainsFunc(i.Disks, func(d attachedDisk) bool { return d.Device == device }):
		return nil, refuse("InvalidParameterValue", "Invalid value '%s' for unixDevice. Attachment point %[1]s is already in use", device)
	}
	if err := r.dry(); err != nil {
		return nil, err
	}
	v.State = "in-use"
	v.Attachments = []attachment{{Volume: v.ID, Instance: i.ID, Device: device, State: "attaching", At: now()}}
	d := attachedDisk{Device: device}
	d.EBS.Volume, d.EBS.Status = v.ID, "attaching"
	i.Disks = append(i.Disks, d)
	answer := v.Attachments[0]
	r.lab.after(r.stuck, func() { r.lab.plug(v, i) })
	return answer, nil
}

// plug gives a volume to the guest of an instance. The lab is locked.
func (l *Lab) plug(v *volume, i *instance) {
	if !v.attached(i, "attaching") {
		return
	}
	guest, _ := i.running.(RunningLinux)
	if guest == nil || l.trouble.DeviceDelay > 0 {
		l.setAttached(v, i, "attached")
	}
	if guest == nil {
		return
	}
	d := Disk{v.ID, v.file, v.Attachments[0].Device}
	l.later(l.trouble.DeviceDelay, func() {
		there := true
		l.set(func() { there = v.attached(i, "attaching") || v.attached(i, "attached") })
		if !there {
			return
		}
		err := guest.Plug(d)
		l.set(func() {
			if err == nil && v.attached(i, "attaching") {
				l.setAttached(v, i, "attached")
			}
			l.broken(i, guest, err)
		})
	})
}

// broken ends an instance whose guest fails. The lab is locked.
func (l *Lab) broken(i *instance, guest Running, err error) {
	if err != nil && !guest.Ended() {
		i.StateWhy = &why{"Server.InternalError", err.Error()}
		l.terminate(i, false)
	}
}

// attached reports whether a volume is attached to an instance in that state.
func (v *volume) attached(i *instance, state string) bool {
	return len(v.Attachments) > 0 && v.Attachments[0].Instance == i.ID && v.Attachments[0].State == state
}

// setAttached sets the state of an attachment; "" ends it.
func (l *Lab) setAttached(v *volume, i *instance, state string) {
	at := slices.IndexFunc(i.Disks, func(d attachedDisk) bool { return d.EBS.Volume == v.ID })
	if state == "" {
		v.State, v.Attachments = "available", nil
		i.Disks = slices.Delete(slices.Clone(i.Disks), at, at+1)
		return
	}
	v.Attachments[0].State, i.Disks[at].EBS.Status = state, state
}

func detachVolume(r *request) (any, error) {
	v, i, err := r.plugging()
	if err != nil {
		return nil, err
	}
	switch {
	case len(v.Attachments) == 0:
		return nil, refuse("IncorrectState", "Volume '%s' is in the '%s' state.", v.ID, v.State)
	case i != nil && i.ID != v.Attachments[0].Instance, r.has("Device") && r.get("Device") != v.Attachments[0].Device:
		return nil, refuse("InvalidAttachment.NotFound", "The volume '%s' is not attached to instance '%s' as device '%s'", v.ID, r.get("InstanceId"), r.get("Device"))
	}
	if i, err = find[*instance](r.lab, v.Attachments[0].Instance); err != nil {
		return nil, err
	}
	force := r.bool("Force", false)
	switch {
	case v.attached(i, "detaching") && !force:
		return nil, refuse("IncorrectState", "Volume '%s' is in the 'detaching' state.", v.ID)
	case v.Attachments[0].Device == i.RootName && i.State.Name != "stopped":
		return nil, refuse("OperationNotPermitted", "Unable to detach root volume '%s' from instance '%s'", v.ID, i.ID)
	}
	if err := r.dry(); err != nil {
		return nil, err
	}
	r.lab.setAttached(v, i, "detaching")
	answer := v.Attachments[0]
	r.lab.after(r.stuck, func() { r.lab.unplug(v, i, force) })
	return answer, nil
}

// unplug takes a volume from the guest of an instance. The lab is locked.
func (l *Lab) unplug(v *volume, i *instance, force bool) {
	if !v.attached(i, "detaching") {
		return
	}
	guest, _ := i.running.(RunningLinux)
	if guest == nil {
		l.setAttached(v, i, "")
		return
	}
	d := Disk{v.ID, v.file, v.Attachments[0].Device}
	l.later(0, func() {
		err := guest.Unplug(d, force)
		l.set(func() {
			if v.attached(i, "detaching") { // nothing has forced it meanwhile
				if err == nil {
					l.setAttached(v, i, "")
				}
				l.broken(i, guest, err)
			}
		})
	})
}
