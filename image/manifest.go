package image

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/morgana-deploy/morgana/step"
)

// Device is a device of a Solo5 kernel's manifest. The kernel starts only if exactly the
// devices of its manifest are attached.
type Device struct {
	// Name is 1 to 67 ASCII letters and digits, unique among devices of its Type.
	Name string `json:"name"`
	// Type is NetBasic or BlockBasic.
	Type string `json:"type"`
}

// The types of devices.
const (
	NetBasic   = "NET_BASIC"
	BlockBasic = "BLOCK_BASIC"
)

const (
	manifestType    = "solo5.manifest"
	manifestVersion = 1
	// maxDevices is Solo5's MFT_MAX_ENTRIES less the reserved first entry.
	maxDevices = 63
	// maxDeviceName is MFT_NAME_MAX.
	maxDeviceName = 67
)

// ReadManifest reads manifest.json, which mirage configure writes and
// solo5-elftool links into the kernel:
//
//	{"type":"solo5.manifest","version":1,"devices":[{"name":"service","type":"NET_BASIC"}]}
//
// It is as strict as solo5-elftool gen-manifest. The error is InvalidSpec, with the
// JSON path as Field: "devices[0].name".
func ReadManifest(raw []byte) ([]Device, error) {
	var manifest struct {
		Type    string             `json:"type"`
		Version int                `json:"version"`
		Devices *[]json.RawMessage `json:"devices"`
	}
	if err := json.Unmarshal(raw, new(json.RawMessage)); err != nil {
		return nil, badManifest("", fmt.Errorf("this is not JSON: %w", err))
	}
	if err := step.Decode(raw, &manifest); err != nil {
		return nil, badManifest("", err)
	}
	switch {
	case manifest.Type != manifestType:
		return nil, badManifest("type", fmt.Errorf("%.40q must be %q", manifest.Type, manifestType))
	case manifest.Version != manifestVersion:
		return nil, badManifest("version", fmt.Errorf("%d must be %d", manifest.Version, manifestVersion))
	case manifest.Devices == nil:
		return nil, badManifest("devices", errors.New("the list is missing, [] if there are none"))
	case len(*manifest.Devices) > maxDevices:
		return nil, badManifest("devices", fmt.Errorf("there are %d, Solo5 takes at most %d", len(*manifest.Devices), maxDevices))
	}
	var devices []Device
	for i, raw := range *manifest.Devices {
		var d Device
		field := fmt.Sprintf("devices[%d]", i)
		if err := step.Decode(raw, &d); err != nil {
			return nil, badManifest(field, err)
		}
		devices = append(devices, d)
		if part, err := checkDevice(devices); err != nil {
			return nil, badManifest(field+"."+part, err)
		}
	}
	return devices, nil
}

// badManifest makes the error of a field. If err is one of step.Decode, its field
// is appended.
func badManifest(field string, err error) error {
	var e *step.Error
	if errors.As(err, &e) {
		if field != "" && e.Field != "" {
			field += "."
		}
		field, err = field+e.Field, e.Err
	}
	return &step.Error{Kind: step.InvalidSpec, Op: "read manifest", Field: field, Err: err,
		Hint: `a manifest is {"type": "solo5.manifest", "version": 1, "devices": [{"name": "service", "type": "NET_BASIC"}]}`}
}

// checkDevice checks the last of devices by Solo5's rules. Its name must differ from the
// names of the devices before it. field is the device's field that the error is about.
func checkDevice(devices []Device) (field string, err error) {
	last := len(devices) - 1
	d := devices[last]
	strange := func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9')
	}
	switch {
	case d.Name == "":
		return "name", errors.New("a device must have a name")
	case len(d.Name) > maxDeviceName:
		return "name", fmt.Errorf("the name %.20q... has %d characters, Solo5 takes at most %d", d.Name, len(d.Name), maxDeviceName)
	case strings.ContainsFunc(d.Name, strange):
		return "name", fmt.Errorf("the name %q is not of ASCII letters and digits only", d.Name)
	case d.Type == "":
		return "type", fmt.Errorf("device %q must have a type, %s or %s", d.Name, NetBasic, BlockBasic)
	case d.Type != NetBasic && d.Type != BlockBasic:
		return "type", fmt.Errorf("device %q has type %.40q, not %s or %s", d.Name, d.Type, NetBasic, BlockBasic)
	case slices.Contains(devices[:last], d):
		return "name", fmt.Errorf("there is another %s device %q", d.Type, d.Name)
	}
	return "", nil
}

// addManifest reads the value of a manifest note: 4 bytes of padding and struct mft
// of Solo5's include/mft_abi.h. The padding aligns the struct to 8 bytes behind the
// note's header of 20. The checks are those of Solo5's mft_validate.
func (all *notes) addManifest(value []byte, order binary.ByteOrder) error {
	const (
		pad, headSize, entrySize = 4, 8, 104
		typeAt, attachedAt       = maxDeviceName + 1, 96
		reservedFirst            = 1 << 30
	)
	if len(value) < pad+headSize {
		return fmt.Errorf("the Solo5 manifest has %d bytes, its head alone has %d", len(value), pad+headSize)
	}
	version, count, entries := order.Uint32(value[pad:]), order.Uint32(value[pad+4:]), value[pad+headSize:]
	switch {
	case version != manifestVersion:
		return fmt.Errorf("the Solo5 manifest has version %d, not %d", version, manifestVersion)
	case count < 1 || count > maxDevices+1:
		return fmt.Errorf("the Solo5 manifest has %d entries, not 1 to %d", count, maxDevices+1)
	case len(entries) != int(count)*entrySize:
		return fmt.Errorf("the Solo5 manifest has %d bytes for %d entries of %d", len(entries), count, entrySize)
	}
	var devices []Device
	for i := range int(count) {
		entry := entries[i*entrySize:][:entrySize]
		name, kind := cString(entry[:typeAt]), order.Uint32(entry[typeAt:])
		if entry[maxDeviceName] != 0 || entry[attachedAt] != 0 {
			return fmt.Errorf("the Solo5 manifest's entry %d is not as a linker leaves it", i)
		}
		if i == 0 {
			if name != "" || kind != reservedFirst {
				return errors.New("the Solo5 manifest's entry 0 is not the reserved one")
			}
			continue
		}
		devices = append(devices, Device{Name: name, Type: deviceType(kind)})
		if _, err := checkDevice(devices); err != nil {
			return fmt.Errorf("the Solo5 manifest's entry %d: %w", i, err)
		}
	}
	all.devices = devices
	return nil
}

// deviceType translates Solo5's enum mft_type to the words of manifest.json.
func deviceType(kind uint32) string {
	switch kind {
	case 1:
		return BlockBasic
	case 2:
		return NetBasic
	}
	return strconv.FormatUint(uint64(kind), 10)
}
