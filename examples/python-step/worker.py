"""A worker with a target of its own (pyqemu.py) and three steps for any target.

scan.Scan      after package: refuses a kernel that has a private key in it
sign.Sign      after package: adds SHA256SUMS and its signature to the image
slim.Package   instead of pyqemu.Package: a kernel without symbols
"""

import asyncio
import logging
import os
import re
import signal
import socket
import sys
import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from temporalio import activity
from temporalio.client import Client
from temporalio.envconfig import ClientConfig
from temporalio.worker import Worker

from pyqemu import Target
from wire import File, Heartbeats, Image, Kernel, chunks, digest_of, fail, fetch, put, report, sums

SECRET = re.compile(rb"-----BEGIN [A-Z ]{0,20}PRIVATE KEY-----")
KEEP = 64  # more than SECRET can match


@activity.defn(name="scan.Scan")
async def scan(image: Image) -> Image:
    """crunch puts all files of a folder into a MirageOS kernel; one may be a key."""
    for file in image["files"]:
        report(f"scanning {file['name']}")
        tail = b""
        async for chunk in chunks(file["artifact"]):
            if found := SECRET.search(tail + chunk):
                raise fail(
                    "Unsupported",
                    f'{file["name"]} has a private key in it: "{found[0].decode()}"',
                    op="scan the image",
                    hint="keep it out of the kernel: whoever has the image has the key",
                )
            tail = (tail + chunk)[-KEEP:]
    return image


@activity.defn(name="sign.Sign")
async def sign(image: Image) -> Image:
    """The key stays on this worker. It must be Ed25519 (or RSA), whose signatures
    of the same bytes are the same: else each deploy would be another image."""
    key = os.environ.get("SIGN_KEY")
    if not key or not Path(key).exists():
        raise fail(
            "Unauthorized",
            "no key to sign with",
            op="sign the image",
            hint="SIGN_KEY=FILE for the worker, made by ssh-keygen -t ed25519",
        )
    listing = sums(image["files"])
    signature = await output("ssh-keygen", "-q", "-Y", "sign", "-f", key, "-n", "morgana", data=listing)
    beside = image["files"][0]["artifact"]
    files = image["files"] + [
        File(name="SHA256SUMS", artifact=await put(listing, beside)),
        File(name="SHA256SUMS.sig", artifact=await put(signature, beside)),
    ]
    # What the target gets is another image now, so it has another digest.
    return {**image, "files": files, "digest": digest_of(files)}


class Slim:
    def __init__(self, target: Target) -> None:
        self.target = target

    @activity.defn(name="slim.Package")
    async def package(self, kernel: Kernel) -> Image:
        if "solo5-virtio" in (kernel["abis"] or []):
            raise fail(
                "Unsupported",
                "a Solo5 virtio kernel does not boot without its symbols",
                op="strip the kernel",
                hint="remove slim.Package from steps",
            )
        with tempfile.TemporaryDirectory(prefix="slim.") as folder:
            whole, slim = Path(folder) / "whole", Path(folder) / "slim"
            await fetch(kernel["file"], whole)
            await output("strip", "-o", str(slim), str(whole))
            file = await put(slim.read_bytes(), beside=kernel["file"])
        return await self.target.package({**kernel, "file": file})


async def output(*command: str, data: bytes = b"") -> bytes:
    """What a command prints. It is ended if the step is cancelled."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, stderr=pipe)
    try:
        out, err = await process.communicate(data)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise fail(
            "Unsupported", f"{command[0]} ended with {process.returncode}", hint=err.decode(errors="replace").strip()
        )
    return out


async def serve(client: Client, queues: dict[str, list[Callable[..., Any]]]) -> None:
    """Polls until it is told to stop; what goes on then has 10 s, and is handed over."""
    workers = [
        Worker(
            client,
            task_queue=queue,
            activities=activities,
            interceptors=[Heartbeats()],
            graceful_shutdown_timeout=timedelta(seconds=10),
            # The SDK would send every eighth second only, and hear of a cancellation as late.
            max_heartbeat_throttle_interval=timedelta(seconds=2),
        )
        for queue, activities in queues.items()
    ]
    told = asyncio.Event()
    for s in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(s, told.set)
    polling = asyncio.gather(*(w.run() for w in workers))
    stop = asyncio.create_task(told.wait())
    print("serving", *queues, file=sys.stderr, flush=True)
    both: set[asyncio.Future[Any]] = {polling, stop}
    await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
    if not polling.done():
        await asyncio.gather(*(w.shutdown() for w in workers))
    await polling


async def main() -> None:
    logging.basicConfig(level=logging.INFO)
    connection = ClientConfig.load_client_connect_config()  # TEMPORAL_ADDRESS, ... or temporal.toml
    if "target_host" not in connection:
        sys.exit("error: set TEMPORAL_ADDRESS; morgana dev up tells the address of its own server")
    host = os.environ.get("PYQEMU_HOST") or socket.gethostname()
    state = (
        os.environ.get("PYQEMU_STATE")
        or Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "pyqemu"
    )
    target = Target(host, Path(state).resolve())
    stages: list[Callable[..., Any]] = [
        target.check,
        target.package,
        target.register,
        target.boot,
        target.console,
        target.destroy,
    ]
    await serve(
        await Client.connect(**connection),
        # Check and Package on any host; the others where the machine is.
        {"pyqemu": stages, f"pyqemu@{host}": stages, "pysteps": [scan, sign, Slim(target).package]},
    )


if __name__ == "__main__":
    asyncio.run(main())
    # All is done, and the interpreter's own end is left out: threads of the SDK
    # that are still ending crash it now and then (a known fault of 1.35).
    logging.shutdown()
    os._exit(0)
