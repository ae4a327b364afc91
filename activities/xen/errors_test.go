package xen

import (
	"errors"
	"testing"

	"github.com/morgana-deploy/morgana/step"
)

// What xl 4.17 printed on a real host, but for "PV kernel as pvh", "no memory", "not
// a dom0", "no qemu" and "xm", which are put together from their sources' words.
func TestSaid(t *testing.T) {
	const later = `libxl: error: libxl_create.c:1640:domcreate_rebuild_done: Domain 2:cannot (re-)build domain: -3
libxl: error: libxl_domain.c:1137:domain_destroy_callback: Domain 2:Unable to destroy guest
libxl: error: libxl_domain.c:1064:domain_destroy_cb: Domain 2:Destruction of domain failed
`
	for name, test := range map[string]struct {
		stderr, want string
		kind         step.Kind
		field        string
	}{
		"no kernel for pv": {`Parsing config from domain.cfg
xc: error: panic: xg_dom_core.c:689: xc_dom_find_loader: no loader found: Invalid kernel
libxl: error: libxl_dom.c:571:libxl__build_dom: xc_dom_parse_image failed
` + later, "no loader found: Invalid kernel", step.Unsupported, "type"},
		"no file": {`Parsing config from domain.cfg
xc: error: panic: xg_dom_core.c:205: failed to open file '/tmp/none': No such file or directory: Internal error
libxl: error: libxl_dom.c:646:libxl__build_pv: xc_dom_kernel_file failed: No such file or directory
` + later, "failed to open file '/tmp/none': No such file or directory: Internal error", step.NotFound, ""},
		"no bridge": {`Parsing config from domain.cfg
libxl: error: libxl_exec.c:117:libxl_report_child_exitstatus: /etc/xen/scripts/vif-bridge online [2019] exited with error status 1
libxl: error: libxl_device.c:1337:device_hotplug_child_death_cb: script: Could not find bridge device nobr0
libxl: error: libxl_create.c:1862:domcreate_attach_devices: Domain 7:unable to add vif devices
`, "Could not find bridge device nobr0", step.NotFound, "vif"},
		"no disk": {`Parsing config from domain.cfg
libxl: error: libxl_device.c:455:libxl__device_disk_set_backend: Disk vdev=xvda failed to stat: /nope.img: No such file or directory
libxl: error: libxl_create.c:1318:initiate_domain_create: Domain 4:Unable to set disk defaults for disk 0
`, "Disk vdev=xvda failed to stat: /nope.img: No such file or directory", step.NotFound, "disks"},
		"no memory":        {"Parsing config from domain.cfg\nfailed to free memory for the domain\n", "failed to free memory for the domain", step.Conflict, "memory"},
		"not a dom0":       {"xencall: error: Could not obtain handle on privileged command interface: No such file or directory\nlibxl: error: libxl.c:102:libxl_ctx_alloc: cannot open libxc handle: No such file or directory\ncannot init xl context\n", "Could not obtain handle on privileged command interface: No such file or directory", step.Unsupported, "host"},
		"bad line":         {"domain.cfg:2: config parsing error near `bar': syntax error, unexpected IDENT, expecting STRING or NUMBER or '['\nFailed to parse config: Invalid argument\n", "domain.cfg:2: config parsing error near `bar': syntax error, unexpected IDENT, expecting STRING or NUMBER or '['", step.InvalidSpec, "extra"},
		"bad disk":         {"domain.cfg: config parsing error in disk specification: unknown value for format: near `xyz' in `format=xyz,vdev=xvda'\n", "domain.cfg: config parsing error in disk specification: unknown value for format: near `xyz' in `format=xyz,vdev=xvda'", step.InvalidSpec, "disks"},
		"read-only IDE":    {"libxl: error: libxl_dm.c:2008:libxl__build_device_model_args_new: Domain 9:qemu-xen doesn't support read-only IDE disk drivers\nlibxl: error: libxl_dm.c:3161:device_model_spawn_outcome: Domain 9:(null): spawn failed (rc=-6)\n" + later, "qemu-xen doesn't support read-only IDE disk drivers", step.InvalidSpec, "disks"},
		"bootloader":       {"libxl: error: libxl_bootloader.c:767:bootloader_finished: Domain 3:bootloader failed - consult logfile /var/log/xen/bootloader.3.log\nlibxl: error: libxl_exec.c:117:libxl_report_child_exitstatus: bootloader [1312] exited with error status 1\n", "bootloader failed - consult logfile /var/log/xen/bootloader.3.log", step.Unsupported, "bootloader"},
		"no qemu":          {"libxl: error: libxl_dm.c:3200:libxl__spawn_local_dm: Domain 4:device model /usr/bin/qemu-system-i386 is not executable: No such file or directory\n", "device model /usr/bin/qemu-system-i386 is not executable: No such file or directory", step.Unsupported, "type"},
		"no script":        {"libxl: cannot execute /etc/xen/scripts/vif-nope: No such file or directory\nlibxl: error: libxl_exec.c:117:libxl_report_child_exitstatus: /etc/xen/scripts/vif-nope online [231] exited with error status 255\n" + later, "cannot execute /etc/xen/scripts/vif-nope: No such file or directory", step.NotFound, "vif"},
		"no memory at all": {"xc: error: panic: xg_dom_boot.c:119: xc_dom_boot_mem_init: can't allocate low memory for domain: Out of memory\nlibxl: error: libxl_dom.c:586:libxl__build_dom: xc_dom_boot_mem_init failed: Cannot allocate memory\n" + later, "can't allocate low memory for domain: Out of memory", step.Conflict, "memory"},
		"little memory":    {"xc: error: panic: xg_dom_core.c:536: xc_dom_chk_alloc_pages: segment kernel too large (0xf > 0x100 - 0x100 pages): Out of memory\n" + later, "segment kernel too large (0xf > 0x100 - 0x100 pages): Out of memory", step.InvalidSpec, "memory"},
		"little for pvh":   {"libxl: error: libxl_dom.c:1470:libxl__domain_set_paging_mempool_size: Domain 4:Failed to set paging mempool size to 4kB: Cannot allocate memory\n" + later, "Failed to set paging mempool size to 4kB: Cannot allocate memory", step.InvalidSpec, "memory"},
		"name taken":       {"libxl: error: libxl_domain.c:81:libxl__domain_rename: Domain 6:Domain with name \"p\" already exists.\nlibxl: error: libxl_create.c:1296:initiate_domain_create: Domain 6:cannot make domain: -6\n" + later, "Domain with name \"p\" already exists", step.Conflict, ""},
		"bad value":        {"Parsing config from p.cfg\nInvalid pcpu range: x.\n", "Invalid pcpu range: x", step.InvalidSpec, "extra"},
		"xm":               {"Using config file \"domain.cfg\".\nError: Boot loader didn't return any data!\n", "Boot loader didn't return any data!", step.BootFailed, ""},
		"warnings only":    {"WARNING: you seem to be using a deprecated option\nlibxl: warning: libxl.c:1:f: hm\n", "it ended without a word", step.BootFailed, ""},
		"nothing":          {"", "it ended without a word", step.BootFailed, ""},
	} {
		t.Run(name, func(t *testing.T) {
			var e *step.Error
			if err := said(test.stderr); !errors.As(err, &e) || e.Err.Error() != test.want || e.Kind != test.kind || e.Field != test.field || e.Field != "" && e.Hint == "" {
				t.Errorf("got %+v (%v)", e, e.Err)
			}
		})
	}
}
