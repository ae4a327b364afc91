"""pyqemu: unikernels in QEMU on the worker's own host.

A machine is a folder, <root>/<app>.<target>.<life>-<generation>/, which Register
makes in one rename and Destroy removes:

    kernel, options.json, ...   the image's files, verified
    machine.json                the image's digest
    lock                        held by whoever starts or removes the machine, and by its QEMU
    pid                         QEMU's; QEMU removes it when it ends by itself
    console.log, qemu.log       what the kernel printed, what QEMU printed

A worker may die at any moment, and two may be told to boot the same machine. So
QEMU inherits the lock: from before the fork until QEMU is gone nobody else can
start or remove it. Nothing is concluded from a number in a file.
"""

import asyncio
import codecs
import dataclasses
import fcntl
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import IO, Never

from temporalio import activity

from wire import ConsoleFrom, ConsoleText, Destroyed, File, Image, Kernel, Machine, Registration, Removal, Spec
from wire import check_files, decode, digest_of, fail, fetch, folder_of, matches, put, report

QEMU = "qemu-system-x86_64"
BOOTS = {"pvh", "multiboot1", "linux-bzimage"}  # what QEMU's -kernel takes
OURS = {"machine.json", "lock", "pid", "console.log", "qemu.log"}


@dataclasses.dataclass(frozen=True)
class Options:
    memory: int = 64  # MiB
    args: str = ""  # the kernel's command line
    expect: str = ""  # text that the console has when the machine is ready; any if empty
    timeout: int = 60  # seconds to get ready


def checked(spec: Spec, abis: list[str] | None) -> Options:
    options = decode(Options, spec.get("options"))
    if options.memory < 1:
        raise fail("InvalidSpec", f"{options.memory} MiB is not enough", field="memory", hint="1 or more")
    if abis and not BOOTS & set(abis):  # nothing known is nothing to object to
        raise fail(
            "Unsupported",
            f"pyqemu cannot boot this kernel ({', '.join(abis)})",
            hint="give it a PVH note; MirageOS: -t virtio",
        )
    return options


class Target:
    def __init__(self, host: str, root: Path) -> None:
        self.host, self.root = host, root

    @activity.defn(name="pyqemu.Check")
    async def check(self, spec: Spec) -> Spec:
        folder_of(spec)
        options = checked(spec, spec["origin"].get("abis"))
        if not shutil.which(QEMU):
            raise fail(
                "Unsupported", f"{QEMU} is not installed on {self.host}", hint="sudo apt-get install qemu-system-x86"
            )
        # From here on Morgana calls the queue pyqemu@<host>.
        return {**spec, "host": self.host, "options": dataclasses.asdict(options)}

    @activity.defn(name="pyqemu.Package")
    async def package(self, kernel: Kernel) -> Image:
        # The options with their defaults, and nothing of tags or host: what
        # changes the machine changes the digest, and nothing else does.
        options = json.dumps(dataclasses.asdict(checked(kernel["spec"], kernel["abis"])), sort_keys=True).encode()
        files = [
            File(name="kernel", artifact=kernel["file"]),
            File(name="options.json", artifact=await put(options, beside=kernel["file"])),
        ]
        return Image(spec=kernel["spec"], digest=digest_of(files), format="kernel", files=files)

    @activity.defn(name="pyqemu.Register")
    async def register(self, image: Image) -> Registration:
        name = folder_of(image["spec"])
        check_files(image["files"])
        folder = self.root / name
        if not folder.exists():
            self.root.mkdir(0o700, parents=True, exist_ok=True)
            made = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=self.root))
            try:
                for file in image["files"]:  # those that an inserted step added, too
                    if file["name"] in OURS:
                        raise fail("InvalidSpec", f"the image has a file named {file['name']!r}", op=f"register {name}")
                    report(f"fetching {file['name']}")
                    await fetch(file["artifact"], made / file["name"])
                (made / "machine.json").write_text(json.dumps({"digest": image["digest"]}))
                (made / "lock").touch()
                made.rename(folder)
                return Registration(spec=image["spec"], digest=image["digest"], id=str(folder), adopted=False)
            except OSError:
                if not folder.exists():  # else another call was faster: adopt what it made
                    raise
            finally:
                shutil.rmtree(made, ignore_errors=True)
        if self.digest(folder) != image["digest"]:
            raise fail("Conflict", f"{name} is another image", op="register", hint="morgana destroy, then deploy again")
        return Registration(spec=image["spec"], digest=image["digest"], id=str(folder), adopted=True)

    @activity.defn(name="pyqemu.Boot")
    async def boot(self, registration: Registration) -> Machine:
        options = decode(Options, registration["spec"].get("options"))
        folder = self.root / folder_of(registration["spec"])
        self.digest(folder)
        report("waiting for the console")
        started = over = False
        deadline = time.monotonic() + options.timeout
        while True:
            if lock := take(folder):  # nothing runs
                with lock:
                    over = started or ended(folder)
                    if not over:
                        start(folder, options, lock)
                        started = True
            text = console(folder)
            if text and options.expect in text:
                ready = f'console has "{options.expect}"' if options.expect else "it printed"
                return Machine(registration=registration, id=folder.name, adopted=not started, ended=over, ready=ready)
            if over:
                not_ready(folder, text, "the machine ended and did not print")
            if time.monotonic() > deadline:
                not_ready(folder, text, f"within {options.timeout} s the console did not have")
            await asyncio.sleep(0.1)  # cancelled here, it leaves the machine for Destroy

    @activity.defn(name="pyqemu.Console")
    async def console(self, at: ConsoleFrom) -> ConsoleText:
        folder = self.root / folder_of(at["machine"]["registration"]["spec"])
        deadline = time.monotonic() + at.get("waitSeconds", 0)
        while True:
            self.digest(folder)
            lock = take(folder)  # asked before the text is read, so that none is missed
            if lock:
                lock.close()
            data, offset = b"", at["offset"]
            if (log := folder / "console.log").exists():
                with log.open("rb") as f:
                    if offset > f.seek(0, os.SEEK_END):
                        offset = 0  # it was started anew
                    f.seek(offset)
                    data = f.read(32 << 10)
            # A character that is cut in two comes whole with the next piece.
            decoder = codecs.getincrementaldecoder("utf-8")("replace")
            text = decoder.decode(data, final=lock is not None)
            if text or lock or time.monotonic() > deadline:
                read = len(data) - len(decoder.getstate()[0])
                return ConsoleText(text=text, next=offset + read, ended=bool(lock) and not text)
            await asyncio.sleep(0.1)

    @activity.defn(name="pyqemu.Destroy")
    async def destroy(self, what: Removal) -> Destroyed:
        removed = []
        for folder in sorted(self.root.glob("*") if self.root.exists() else ()):
            half = folder.name.startswith(".")  # half made, or half removed, by a worker that was killed
            tags = folder.name[1:].rpartition(".")[0] if half else folder.name
            if not matches(what, tags) or half and what.get("keepImage"):
                continue
            if not half:
                gone = folder.with_name(f".{folder.name}.removed")
                try:
                    with await end(folder):
                        if what.get("keepImage"):
                            forget(folder)
                            removed.append(f"machine {tags}")
                            continue
                        folder = folder.rename(gone)  # so that nobody sees half of one
                except FileNotFoundError:
                    continue  # another Destroy was faster
            await asyncio.to_thread(shutil.rmtree, folder)
            removed.append(f"machine {tags}" if not half else f"what was left of {tags}")
        return Destroyed(removed=removed)

    def digest(self, folder: Path) -> str:
        try:
            return str(json.loads((folder / "machine.json").read_text())["digest"])
        except FileNotFoundError:
            raise fail("NotFound", f"no machine {folder.name} on {self.host}", hint="deploy it again") from None


def take(folder: Path) -> IO[bytes] | None:
    """The lock of a machine that does not run. None: it runs, or another call has it."""
    lock = (folder / "lock").open("rb+")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    if not os.path.samestat(os.fstat(lock.fileno()), os.stat(folder / "lock")):
        lock.close()
        raise FileNotFoundError(f"{folder} was removed meanwhile")
    return lock


def start(folder: Path, options: Options, lock: IO[bytes]) -> None:
    (folder / "console.log").unlink(missing_ok=True)  # of a run that was killed
    # Relative names: the machine's folder is QEMU's working folder, by which Destroy finds it.
    command = [
        QEMU, "-name", folder.name, "-accel", "tcg", "-cpu", "max", "-m", str(options.memory),
        "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-serial", "file:console.log",
        "-pidfile", "pid", "-kernel", "kernel", "-append", options.args,
    ]  # fmt: skip
    with (folder / "qemu.log").open("wb") as log:
        qemu = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # it outlives the worker
            pass_fds=[lock.fileno()],
            env={"PATH": os.environ["PATH"]},  # none of the worker's credentials
        )
    threading.Thread(target=qemu.wait, daemon=True).start()  # no zombie stays


def ended(folder: Path) -> bool:
    """Whether a machine that does not run came to its own end; one that was killed leaves its pid."""
    return console(folder) != "" and not (folder / "pid").exists()


def forget(folder: Path) -> None:
    """Removes the traces of a run: the machine can be booted as if it had never run."""
    for name in ("pid", "console.log", "qemu.log"):
        (folder / name).unlink(missing_ok=True)


def console(folder: Path) -> str:
    log = folder / "console.log"
    return log.read_bytes().decode(errors="replace").replace("\r", "") if log.exists() else ""


def not_ready(folder: Path, text: str, why: str) -> Never:
    said = text or (folder / "qemu.log").read_text(errors="replace")
    options = json.loads((folder / "options.json").read_text())
    raise fail(
        "BootFailed", f'{why} "{options["expect"]}"', op=f"boot {folder.name}", hint="\n".join(said.splitlines()[-20:])
    )


async def end(folder: Path) -> IO[bytes]:
    """Ends what runs in a folder, and gives its lock."""
    began = time.monotonic()
    while not (lock := take(folder)):
        since = time.monotonic() - began
        for pid in running(folder):
            try:
                handle = os.pidfd_open(pid)
            except ProcessLookupError:
                continue
            try:
                if pid in running(folder):  # the number may have been given to another meanwhile
                    signal.pidfd_send_signal(handle, signal.SIGTERM if since < 3 else signal.SIGKILL)
            except ProcessLookupError:
                pass
            finally:
                os.close(handle)
        if since > 10:
            raise fail("Conflict", f"machine {folder.name} does not end", left=[str(folder)])
        await asyncio.sleep(0.1)
    return lock


def running(folder: Path) -> list[int]:
    """The QEMU whose working folder it is: found, never remembered."""
    found = []
    for proc in Path("/proc").glob("[0-9]*"):
        try:
            if (proc / "cwd").readlink() == folder and QEMU.startswith((proc / "comm").read_text().strip()):
                found.append(int(proc.name))
        except OSError:  # it ended, or is not ours
            pass
    return found
