package xen

import (
	"errors"
	"testing"

	"github.com/morgana-deploy/morgana/step"
)

// What xl 4.17 printed, each time with the exit status 3 or 1.
func TestSaid(t *testing.T) {
	for name, test := range map[string]struct {
		stderr, want string
		kind         step.Kind
		field        string
	}{
		"PVH kernel as pv": {`Parsing config from domain.cfg
xc: error: panic: xc_dom_core.c:689: xc_dom_find_loader: no loader found: Invalid kernel
libxl: error: libxl_dom.c:571:libxl__build_dom: xc_dom_parse_image failed
libxl: error: libxl_create.c:1640:domcreate_rebuild_done: Domain 5:cannot (re-)build domain: -3
libxl: error: libxl_domain.c:1183:libxl__destroy_domid: Domain 5:Non-existant domain
libxl: error: libxl_domain.c:1137:domain_destroy_callback: Domain 5:Unable to destroy guest
libxl: error: libxl_domain.c:1064:domain_destroy_cb: Domain 5:Destruction of domain failed
`, "no loader found: Invalid kernel", step.Unsupported, "type"},
		"PV kernel as pvh": {`Parsing config from domain.cfg
xc: error: panic: xc_dom_hvmloader.c:0: image not capable of booting inside a HVM container: Invalid kernel
libxl: error: libxl_dom.c:571:libxl__build_dom: xc_dom_parse_image failed
`, "image not capable of booting inside a HVM container: Invalid kernel", step.Unsupported, "type"},
		"no bridge": {`Parsing config from domain.cfg
libxl: error: libxl_exec.c:117:libxl_report_child_exitstatus: /etc/xen/scripts/vif-bridge online [2019] exited with error status 1
libxl: error: libxl_device.c:1265:device_hotplug_child_death_cb: script: Could not find bridge device nobr0
libxl: error: libxl_create.c:1862:domcreate_attach_devices: Domain 7:unable to add vif devices
`, "Could not find bridge device nobr0", step.NotFound, "vif"},
		"no disk": {`Parsing config from domain.cfg
libxl: error: libxl_device.c:311:libxl__device_disk_set_backend: Disk vdev=xvda failed to stat: /nope.img: No such file or directory
libxl: error: libxl_create.c:1276:initiate_domain_create: Domain 8:Unable to set disk defaults for disk 0
`, "Disk vdev=xvda failed to stat: /nope.img: No such file or directory", step.NotFound, "disks"},
		"no memory":     {"Parsing config from domain.cfg\nfailed to free memory for the domain\n", "failed to free memory for the domain", step.Conflict, "memory"},
		"not a dom0":    {"xencall: error: Could not obtain handle on privileged command interface: No such file or directory\nlibxl: error: libxl.c:102:libxl_ctx_alloc: cannot open libxc handle: No such file or directory\ncannot init xl context\n", "Could not obtain handle on privileged command interface: No such file or directory", step.Unsupported, "host"},
		"bad line":      {"domain.cfg:9: config parsing error near `foo': syntax error, unexpected IDENT, expecting STRING or NUMBER or '['\nFailed to parse config: Invalid argument\n", "domain.cfg:9: config parsing error near `foo': syntax error, unexpected IDENT, expecting STRING or NUMBER or '['", step.InvalidSpec, "extra"},
		"bootloader":    {"libxl: error: libxl_bootloader.c:649:bootloader_finished: Domain 3:bootloader failed - consult logfile /var/log/xen/bootloader.3.log\nlibxl: error: libxl_exec.c:117:libxl_report_child_exitstatus: bootloader [1312] exited with error status 1\n", "bootloader failed - consult logfile /var/log/xen/bootloader.3.log", step.Unsupported, "bootloader"},
		"no qemu":       {"libxl: error: libxl_dm.c:3200:libxl__spawn_local_dm: Domain 4:device model /usr/bin/qemu-system-i386 is not executable: No such file or directory\n", "device model /usr/bin/qemu-system-i386 is not executable: No such file or directory", step.Unsupported, "type"},
		"xm":            {"Using config file \"domain.cfg\".\nError: Boot loader didn't return any data!\n", "Boot loader didn't return any data!", step.BootFailed, ""},
		"warnings only": {"WARNING: you seem to be using a deprecated option\nlibxl: warning: libxl.c:1:f: hm\n", "xl ended without a word", step.BootFailed, ""},
		"nothing":       {"", "xl ended without a word", step.BootFailed, ""},
	} {
		t.Run(name, func(t *testing.T) {
			var e *step.Error
			if err := said(test.stderr); !errors.As(err, &e) || e.Err.Error() != test.want || e.Kind != test.kind || e.Field != test.field || e.Field != "" && e.Hint == "" {
				t.Errorf("got %+v (%v)", e, e.Err)
			}
		})
	}
}
