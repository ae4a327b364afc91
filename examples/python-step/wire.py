"""The wire between Morgana and steps written in Python: docs/steps.md as code.

Values, errors, options, heartbeats, the file:// store. It knows of no target:
copy it as it is.
"""

import asyncio
import contextvars
import difflib
import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NotRequired, TypedDict, TypeVar, get_type_hints
from urllib.parse import unquote, urlsplit

from temporalio import activity
from temporalio.exceptions import ApplicationError, FailureError
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

# Values are TypedDicts, not dataclasses: the SDK keeps members that it has no
# type for, and a later Morgana may add some. Go writes an empty list as null.


class Artifact(TypedDict):
    uri: str
    sha256: str
    size: int


class File(TypedDict):
    name: str
    artifact: Artifact


class Tags(TypedDict):
    app: str
    target: str
    life: NotRequired[str]
    generation: NotRequired[int]


class Origin(TypedDict, total=False):
    kernel: Artifact
    abis: list[str] | None


class Spec(Tags):
    kind: str
    options: NotRequired[dict[str, Any] | None]
    origin: Origin
    host: NotRequired[str]


class Kernel(TypedDict):
    spec: Spec
    file: Artifact
    abis: list[str] | None


class Image(TypedDict):
    spec: Spec
    digest: str
    format: str
    files: list[File]


class Registration(TypedDict):
    spec: Spec
    digest: str
    id: str
    adopted: bool


class Machine(TypedDict):
    registration: Registration
    id: str
    ready: str
    adopted: bool
    ended: bool


class ConsoleFrom(TypedDict):
    machine: Machine
    offset: int
    waitSeconds: NotRequired[int]


class ConsoleText(TypedDict):
    text: str
    next: int
    ended: bool


class Removal(TypedDict):
    spec: Spec
    notLife: NotRequired[str]
    keepImage: NotRequired[bool]


class Destroyed(TypedDict):
    removed: list[str]


def fail(
    kind: str, cause: str, *, op: str = "", field: str = "", hint: str = "", left: list[str] | None = None
) -> ApplicationError:
    """An error as Morgana reads it: the kind is its type, details[0] says the rest."""
    details = {"op": op, "field": field, "hint": hint, "left": left or []}
    return ApplicationError(
        cause, {k: v for k, v in details.items() if v}, type=kind, non_retryable=kind != "Exhausted"
    )


_NAME = re.compile(r"[a-z][a-z0-9-]{0,39}")
_FOLDER = re.compile(r"([a-z][a-z0-9-]{0,39})\.([a-z][a-z0-9-]{0,39})\.([0-9a-f]{1,32})-([1-9][0-9]{0,8})")


def folder_of(tags: Tags) -> str:
    """The name of what one rollout has on a host: "hello.dev.98767bcc-1". It leads nowhere."""
    name = f"{tags['app']}.{tags['target']}.{tags.get('life', '')}-{tags.get('generation', 0)}"
    if not _FOLDER.fullmatch(name):
        raise fail("InvalidSpec", f"{name} does not name a rollout")
    return name


def matches(what: Removal, folder: str) -> bool:
    """Whether a folder is one that Destroy is asked for. An empty life or generation matches all."""
    want = what["spec"]
    if not (_NAME.fullmatch(want["app"]) and _NAME.fullmatch(want["target"])):
        raise fail("InvalidSpec", f"{want['app']!r} and {want['target']!r} are no names")
    have = _FOLDER.fullmatch(folder)
    return (
        have is not None
        and (have[1], have[2]) == (want["app"], want["target"])
        and want.get("life") in (None, "", have[3])
        and (not what.get("notLife") or what.get("notLife") != have[3])
        and want.get("generation") in (None, 0, int(have[4]))
    )


def check_files(files: list[File]) -> None:
    """Refuses names that lead out of a folder: a step of somebody else's may have made the image."""
    names = [file["name"] for file in files]
    for name in names:
        if not re.fullmatch(r"[^./-][^/]{0,199}", name) or not name.isprintable() or names.count(name) > 1:
            raise fail("InvalidSpec", f"the image has a file named {name!r}", field="files")


T = TypeVar("T")
_WORDS = {int: "a whole number", str: "a string", bool: "true or false", list: "a list"}


def decode(into: type[T], options: dict[str, Any] | None) -> T:
    """Options as a dataclass, strictly: nothing unknown, nothing of another type."""
    known = get_type_hints(into)
    for name, value in (options or {}).items():
        if name not in known:
            near = difflib.get_close_matches(name, known, 1, 0.5)
            hint = f'did you mean "{near[0]}"?' if near else "known fields: " + ", ".join(sorted(known))
            raise fail("InvalidSpec", "unknown field", field=name, hint=hint)
        if type(value) is not known[name]:  # not isinstance: True is an int
            raise fail("InvalidSpec", f"want {_WORDS[known[name]]}, not {json.dumps(value)}", field=name)
    return into(**(options or {}))


class Heartbeats(Interceptor):
    """Beats for every step, so that a dead worker is noticed after 10 s, and a
    cancellation arrives, which comes as the answer to a heartbeat."""

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        return _Beating(super().intercept_activity(next))


_progress: contextvars.ContextVar[list[dict[str, Any]]] = contextvars.ContextVar("progress")


class _Beating(ActivityInboundInterceptor):
    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        # A heartbeat without details would wipe what the last try left.
        _progress.set(list(activity.info().heartbeat_details[:1]))
        beat = asyncio.create_task(self.beat())
        try:
            return await super().execute_activity(input)
        except FailureError:
            raise
        except OSError as e:
            activity.logger.exception("step")
            kind = {errno.ENOSPC: "NoSpace", errno.EDQUOT: "NoSpace", errno.EACCES: "Unauthorized"}.get(e.errno or 0)
            raise (fail(kind, str(e)) if kind else ApplicationError(str(e))) from None
        except Exception as e:
            # Without this the exception's class would be the kind of error, and a
            # cloud library's NotFound or Conflict would end the deploy.
            activity.logger.exception("step")
            raise ApplicationError(f"{type(e).__name__}: {e}") from None
        finally:
            beat.cancel()

    async def beat(self) -> None:
        while True:
            activity.heartbeat(*_progress.get())
            await asyncio.sleep(2)


def report(note: str, **numbers: Any) -> None:
    """Tells people how far it is: report("fetching", done=1, total=3, unit="bytes")."""
    _progress.get()[:] = [{"note": note, **numbers}]
    activity.heartbeat(*_progress.get())


def digest_of(files: list[File]) -> str:
    """Identifies an image: what `sha256sum` prints of its files, sorted, hashed."""
    return hashlib.sha256(sums(files)).hexdigest()


def sums(files: list[File]) -> bytes:
    return "".join(sorted(f"{f['artifact']['sha256']}  {f['name']}\n" for f in files)).encode()


def _key(sha256: str) -> str:
    if not re.fullmatch("[0-9a-f]{64}", sha256):
        raise fail("InvalidSpec", f"{sha256!r} is not a SHA-256 in hex")
    return f"/sha256/{sha256[:2]}/{sha256}"


def _base(artifact: Artifact) -> str:
    """The store that an artifact is in."""
    base = artifact["uri"].removesuffix(_key(artifact["sha256"]))
    if base == artifact["uri"]:
        raise fail("InvalidSpec", f"artifact {artifact['uri']} does not have its digest in its name")
    if urlsplit(base).scheme != "file":
        raise fail(
            "Unsupported",
            f"this worker reads file:// stores only, not {base}",
            hint="set MORGANA_STORE to a file:// URL",
        )
    return base


async def chunks(artifact: Artifact) -> AsyncIterator[bytes]:
    """An artifact's bytes. It fails at the end if they are not those of the digest."""
    _base(artifact)
    digest, size = hashlib.sha256(), 0
    try:
        # Off the event loop, on which heartbeats are sent; and in pieces, for
        # a thread cannot be cancelled.
        with await asyncio.to_thread(open, unquote(urlsplit(artifact["uri"]).path), "rb") as f:
            while chunk := await asyncio.to_thread(f.read, 1 << 20):
                digest.update(chunk)
                size += len(chunk)
                yield chunk
    except FileNotFoundError:
        raise fail(
            "NotFound", f"{artifact['uri']} is not in the store", hint="let this worker see the same MORGANA_STORE"
        ) from None
    if size != artifact["size"] or digest.hexdigest() != artifact["sha256"]:
        raise fail("Conflict", f"{artifact['uri']} has other bytes", hint="remove it and deploy again")


async def fetch(artifact: Artifact, path: Path) -> None:
    """Writes an artifact to a new file, which is worth nothing if this fails."""
    with path.open("xb") as f:
        async for chunk in chunks(artifact):
            await asyncio.to_thread(f.write, chunk)


async def put(data: bytes, beside: Artifact) -> Artifact:
    """Puts data into the store that another artifact is in, whole or not at all."""
    sha256 = hashlib.sha256(data).hexdigest()
    artifact = Artifact(uri=_base(beside) + _key(sha256), sha256=sha256, size=len(data))
    path = Path(unquote(urlsplit(artifact["uri"]).path))

    def write() -> None:
        path.parent.mkdir(0o700, parents=True, exist_ok=True)
        # By this name and lock Morgana tells a file in the making from a leftover.
        temp = path.with_name(f"{sha256}.{secrets.token_hex(8)}.tmp")
        try:
            with temp.open("xb") as f:
                fcntl.flock(f, fcntl.LOCK_EX)
                f.write(data)
                f.flush()
                os.fsync(f.fileno())
                temp.rename(path)
        finally:
            temp.unlink(missing_ok=True)

    if not (path.exists() and path.stat().st_size == len(data)):
        await asyncio.to_thread(write)
    return artifact
