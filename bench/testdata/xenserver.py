# Deploys a disk by the official client, with the calls that Morgana makes. Prints the seconds.
import http.client, socket, ssl, sys, time, urllib.parse
import XenAPI

url, user, password, ca, path, size, text = sys.argv[1:]
tls = ssl.create_default_context(cafile=ca)
at = urllib.parse.urlsplit(url)
began = time.monotonic()
session = XenAPI.Session(url)
session.login_with_password(user, password, "2.20", "bench")
x = session.xenapi


def wait(task):
    while x.task.get_status(task) == "pending":
        time.sleep(0.01)
    record = x.task.get_record(task)
    x.task.destroy(task)
    if record["status"] != "success":
        sys.exit(str(record["error_info"]))


pool = x.pool.get_all()[0]
host, sr = x.pool.get_master(pool), x.pool.get_default_SR(pool)
network = [n for n, r in x.network.get_all_records().items() if r["PIFs"]][0]
vdi = x.VDI.create({"name_label": "bench", "name_description": "", "SR": sr, "virtual_size": size, "type": "user", "sharable": False,
                    "read_only": False, "other_config": {}, "xenstore_data": {}, "sm_config": {}, "tags": []})
task = x.task.create("bench", "")
put = http.client.HTTPSConnection(at.hostname, at.port, context=tls)
put.putrequest("PUT", "/import_raw_vdi?" + urllib.parse.urlencode({"session_id": session.handle, "task_id": task, "vdi": vdi, "format": "raw"}))
put.putheader("Content-Length", size)
put.endheaders()
answer = put.getresponse()
with open(path, "rb") as disk:
    while piece := disk.read(256 << 10):
        answer.fp.raw._sock.sendall(piece)
wait(task)
vm = x.VM.create({
    "name_label": "bench", "name_description": "", "user_version": "1", "is_a_template": False, "affinity": "OpaqueRef:NULL",
    "memory_static_max": str(128 << 20), "memory_dynamic_max": str(128 << 20), "memory_dynamic_min": str(128 << 20), "memory_static_min": str(128 << 20),
    "VCPUs_params": {}, "VCPUs_max": "1", "VCPUs_at_startup": "1",
    "actions_after_shutdown": "destroy", "actions_after_reboot": "destroy", "actions_after_crash": "destroy",
    "PV_bootloader": "pygrub", "PV_kernel": "", "PV_ramdisk": "", "PV_args": "", "PV_bootloader_args": "", "PV_legacy_args": "",
    "HVM_boot_policy": "", "HVM_boot_params": {}, "platform": {"nx": "true", "pae": "true"}, "PCI_bus": "", "other_config": {}, "recommendations": "",
    "tags": [], "domain_type": "pvh"})
x.VBD.create({"VM": vm, "VDI": vdi, "userdevice": "0", "bootable": True, "mode": "RO", "type": "Disk", "unpluggable": False, "empty": False,
              "other_config": {}, "qos_algorithm_type": "", "qos_algorithm_params": {}})
x.VIF.create({"device": "0", "network": network, "VM": vm, "MAC": "", "MTU": "1500", "other_config": {}, "qos_algorithm_type": "", "qos_algorithm_params": {}})
wait(x.Async.VM.start(vm, True, False))
x.VM.unpause(vm)
[console] = [c for c, r in x.console.get_all_records().items() if r["VM"] == vm and r["protocol"] == "vt100"]
s = tls.wrap_socket(socket.create_connection((at.hostname, at.port)), server_hostname=at.hostname)
s.sendall(f"CONNECT /console?ref={console}&session_id={session.handle} HTTP/1.1\r\nHost: bench\r\n\r\n".encode())
read = s.recv(1000)
while text.encode() not in read:
    more = s.recv(1000)
    if not more:
        sys.exit(f"the console has only {read!r}")
    read += more
print(time.monotonic() - began)
x.VM.hard_shutdown(vm)
x.VM.destroy(vm)
x.VDI.destroy(vdi)
session.logout()
