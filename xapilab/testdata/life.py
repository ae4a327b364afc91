# The whole life of a VM, by the official client. Prints what is wrong.
import http.client, socket, ssl, sys, time, urllib.parse
import XenAPI

url, member, user, password, ca, disk, domain_type, expect = sys.argv[1:]
tls = ssl.create_default_context(cafile=ca)


def check(what, got, want):
    if got != want:
        print(f"{what}: {got!r}, not {want!r}")


def refused(call, *args):
    """Returns the error of a call."""
    try:
        return ["no error", call(*args)]
    except XenAPI.Failure as failure:
        return failure.details


def wait(task):
    while x.task.get_status(task) == "pending":
        time.sleep(0.01)
    record = x.task.get_record(task)
    x.task.destroy(task)
    return record


check("wrong password", refused(XenAPI.Session(url).login_with_password, user, "wrong", "1.0", "life"),
      ["SESSION_AUTHENTICATION_FAILED", user, "Authentication failure"])
member = XenAPI.Session(member)
check("member", refused(member.login_with_password, user, password, "1.0", "life"),
      ["HOST_IS_SLAVE", "127.0.0.1"])
session = XenAPI.Session(url)
session.login_with_password(user, password, "1.0", "life")
x = session.xenapi
host = x.pool.get_master(x.pool.get_all()[0])
check("version", x.host.get_software_version(host)["xapi_build"], "25.14.0")
sr = x.pool.get_default_SR(x.pool.get_all()[0])
[network] = x.network.get_by_name_label("Pool-wide network associated with eth0")
with open(disk, "rb") as file:
    content = file.read()
pv = domain_type != "hvm"
vm = {
    "name_label": "life <&>", "name_description": "", "user_version": "1", "is_a_template": False, "affinity": "OpaqueRef:NULL",
    "memory_static_max": str(32 << 20), "memory_dynamic_max": str(32 << 20), "memory_dynamic_min": str(32 << 20), "memory_static_min": str(16 << 20),
    "VCPUs_params": {}, "VCPUs_max": "1", "VCPUs_at_startup": "1",
    "actions_after_shutdown": "destroy", "actions_after_reboot": "restart", "actions_after_crash": "destroy",
    "PV_bootloader": "pygrub" if pv else "", "PV_kernel": "", "PV_ramdisk": "", "PV_args": "stay a=b" if pv else "",
    "PV_bootloader_args": "--kernel=/boot/kernel" if pv else "", "PV_legacy_args": "",
    "HVM_boot_policy": "" if pv else "BIOS order", "HVM_boot_params": {} if pv else {"order": "c"},
    "platform": {"nx": "true", "pae": "true", "apic": "true", "acpi": "1"}, "PCI_bus": "", "other_config": {"a": "", "b": "2"}, "recommendations": "",
    "tags": ["life"], "domain_type": domain_type, "unknown": "ignored",
}
vm = x.VM.create(vm)
check("tags", x.VM.get_tags(vm), ["life"])
check("other_config", x.VM.get_other_config(vm), {"a": "", "b": "2"})
check("by name", x.VM.get_by_name_label("life <&>"), [vm])
check("duplicate", refused(x.VM.add_to_other_config, vm, "b", "3")[0], "MAP_DUPLICATE_KEY")
vdi = {"name_label": "life", "name_description": "", "SR": sr, "virtual_size": str(len(content)), "type": "user", "sharable": False,
       "read_only": False, "other_config": {}, "xenstore_data": {}, "sm_config": {}, "tags": []}
missing = dict(vdi)
del missing["SR"]
check("missing", refused(x.VDI.create, missing), ["INTERNAL_ERROR", 'Server_helpers.Dispatcher_FieldNotFound("SR")'])
check("too big", refused(x.VDI.create, vdi | {"virtual_size": str(1 << 50)})[0], "SR_BACKEND_FAILURE_44")
vdi = x.VDI.create(vdi)
vbd = {"VM": vm, "VDI": vdi, "userdevice": "0", "bootable": True, "mode": "RW", "type": "Disk", "unpluggable": False, "empty": False,
       "other_config": {}, "qos_algorithm_type": "", "qos_algorithm_params": {}}
x.VBD.create(vbd)
check("device", refused(x.VBD.create, vbd), ["DEVICE_ALREADY_EXISTS", "0"])
x.VIF.create({"device": "0", "network": network, "VM": vm, "MAC": "", "MTU": "1500", "other_config": {}, "qos_algorithm_type": "", "qos_algorithm_params": {}})

# The import: the answer comes before the body is read, and the task has the verdict.
task = x.task.create("life", "import")
query = urllib.parse.urlencode({"session_id": session.handle, "task_id": task, "vdi": vdi, "format": "raw"})
at = urllib.parse.urlsplit(url)
put = http.client.HTTPSConnection(at.hostname, at.port, context=tls)
put.putrequest("PUT", "/import_raw_vdi?" + query)
put.putheader("Content-Length", str(len(content)))
put.endheaders()
answer = put.getresponse()
check("import", answer.status, 200)
while not any(x.VBD.get_currently_attached(vbd) for vbd in x.VDI.get_VBDs(vdi)):
    time.sleep(0.01)  # it is attached after the answer
check("busy", refused(x.VDI.destroy, vdi), ["VDI_IN_USE", vdi, "destroy"])
answer.fp.raw._sock.sendall(content)
answer.read()
verdict = wait(task)
check("verdict", [verdict["status"], verdict["error_info"], verdict["progress"]], ["success", [], 1.0])

token = session.xenapi_request("event.from", (["vm"], "", 0.0))["token"]
x.VM.assert_can_boot_here(vm, host)
verdict = wait(x.Async.VM.start(vm, True, False))
check("start", [verdict["status"], verdict["error_info"], verdict["result"]], ["success", [], "<value></value>"])
check("state", [x.VM.get_power_state(vm), x.VM.get_resident_on(vm)], ["Paused", host])
check("again", refused(x.VM.start, vm, False, False), ["VM_BAD_POWER_STATE", vm, "halted", "paused"])
batch = session.xenapi_request("event.from", (["vm"], token, 300.0))
events = batch["events"]
check("counts", batch["valid_ref_counts"], {"vm": len(x.VM.get_all())})
check("events", ["Paused"], [e["snapshot"]["power_state"] for e in events if e["ref"] == vm])
consoles = {x.console.get_protocol(c): c for c in x.VM.get_consoles(vm)}
check("consoles", sorted(consoles), ["rfb", "vt100"] if pv else ["rfb"])


def attach(ref):
    s = tls.wrap_socket(socket.create_connection((at.hostname, at.port)), server_hostname=at.hostname)
    s.sendall(f"CONNECT /console?ref={ref}&session_id={session.handle} HTTP/1.1\r\nHost: lab\r\n\r\n".encode())
    s.settimeout(300)
    return s


s = attach(consoles["rfb"])
check("paused console", s.recv(100).split(b"\r\n")[0], b"HTTP/1.1 500 Internal Server Error")
x.VM.unpause(vm)
s = attach(consoles["vt100" if pv else "rfb"])
text = b""
while (expect if pv else "RFB ").encode() not in text:
    try:
        more = s.recv(1000)
    except TimeoutError:
        more = b""
    if not more:
        print(f"the console has only {text!r}")
        break
    text += more.replace(b"\r\n", b"\n")
check("console", text.split(b"\n")[0], b"HTTP/1.1 200 OK")
check("no tools", refused(x.VM.clean_shutdown, vm), ["VM_LACKS_FEATURE", vm])
check("destroy a VM that runs", refused(x.VM.destroy, vm), ["VM_BAD_POWER_STATE", vm, "halted", "running"])
x.VM.hard_shutdown(vm)
if pv:
    x.VM.set_HVM_boot_policy(vm, "BIOS order")
    x.VM.set_HVM_boot_policy(vm, "")
    check("domain_type", x.VM.get_domain_type(vm), "pv")
x.VM.destroy(vm)
check("VBDs", x.VBD.get_all(), [])
check("VIFs", x.VIF.get_all(), [])
check("gone", refused(x.VM.get_record, vm), ["HANDLE_INVALID", "VM", vm])
check("VDI stays", x.VDI.get_all_records()[vdi]["virtual_size"], str(-(-len(content) >> 21 << 21)))  # a multiple of 2 MiB
x.VDI.destroy(vdi)
check("parameters", refused(x.VM.destroy), ["MESSAGE_PARAMETER_COUNT_MISMATCH", "VM.destroy", "1", "0"])
check("method", refused(x.VM.fly, vm), ["MESSAGE_METHOD_UNKNOWN", "VM.fly"])
session.logout()
