"""Intake of a version that came over HTTP, in a process of its own: control's loop goes on answering meanwhile.

`python -m lagar.control.pushing` reads a Task as one line of JSON on stdin and writes lines of JSON on stdout: the
steps, then the version or the error. It ends, with everything that it has started, when its stdin is closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import tempfile
import threading
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from lagar import settings
from lagar.errors import LagarError
from lagar.registry.answers import PushLine, Told, VersionReport
from lagar.registry.model import without_folders
from lagar.settings import Compile

_LINE_BYTES: Final = 64 * 1024 * 1024


class Part(msgspec.Struct, frozen=True):
    """One received file."""

    name: str
    """Which it is: "model", "example", …"""
    path: str
    packed: bool
    """True for a folder in a tar archive."""


class Task(msgspec.Struct, frozen=True):
    """What is to be taken in."""

    home: str
    folder: str
    """Where its files lie, and where intake puts its own: removed when the push has ended, however it did."""
    model: str
    parts: tuple[Part, ...]
    who: str
    host: str
    version: str | None = None
    alias: str | None = None
    note: str = ""
    metrics: dict[str, float] = {}
    compile: Compile | None = None
    trust: bool = False


_lines = msgspec.json.Decoder(PushLine)
_tasks = msgspec.json.Decoder(Task)


async def lines(task: Task) -> AsyncGenerator[PushLine, None]:
    """Take a version in: its steps as they are done, then how it ended. Closing this ends the process and its own."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "lagar.control.pushing", stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE, limit=_LINE_BYTES, start_new_session=True,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    ended = False
    try:
        process.stdin.write(msgspec.json.encode(task) + b"\n")
        while data := await process.stdout.readline():
            line = _lines.decode(data)
            ended = line.version is not None or line.error is not None
            yield line
        if not ended:
            code = await process.wait()
            yield PushLine(error=Told("internal", f"intake ended with {code}; the server's log has the reason"))
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


def main() -> None:
    """One push; see the module."""
    task = _tasks.decode(sys.stdin.buffer.readline())
    answer = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what anything else prints is no line of the answer
    threading.Thread(target=_end_with_stdin, daemon=True).start()

    def on_step(step: str, words: str) -> None:
        tell(PushLine(step, without_folders(words)))

    def tell(line: PushLine) -> None:
        answer.write(msgspec.json.encode(line) + b"\n")

    try:
        tell(PushLine(version=_push(task, on_step)))
    except LagarError as error:
        tell(PushLine(error=Told(error.code, without_folders(error.message), step=getattr(error, "step", None))))


def _end_with_stdin() -> None:
    """Whoever started this has gone: nothing may go on that nobody waits for."""
    while os.read(0, 4096):
        pass
    os.killpg(0, signal.SIGKILL)


def _push(task: Task, on_step: Callable[[str, str], None]) -> VersionReport:
    from lagar.intake import environment
    from lagar.intake.push import push
    from lagar.registry.answers import version_report
    from lagar.registry.releases import Who, open_releases

    tempfile.tempdir = task.folder
    # a home may lie in somebody's repository, whose commit is not that of the pushed files
    settings.set_own_environment({"GIT_CEILING_DIRECTORIES": str(Path(task.folder).resolve().parent)})
    given: dict[str, list[Path]] = {}
    for part in task.parts:
        given.setdefault(part.name, []).append(_path(part))
    single: dict[str, Any] = {name: paths[0] for name, paths in given.items() if name not in ("model", "code")}
    with open_releases(
        Path(task.home), catalog=settings.catalog_url(), store=settings.store_url(), endpoint=settings.s3_endpoint()
    ) as releases:
        version = push(
            releases, task.model, given["model"][0], version=task.version, code=tuple(given.get("code", ())),
            metrics=task.metrics, alias=task.alias, note=task.note, trust=task.trust, who=Who(task.who, task.host),
            on_step=on_step, isolate=environment.isolation(releases.environments), compiling=task.compile, **single,
        )  # fmt: skip
        return version_report(releases, task.model, version.version)


def _path(part: Part) -> Path:
    """Where a part lies, a folder unpacked."""
    from lagar.intake.archive import unpack

    path = Path(part.path)
    if not part.packed:
        return path
    folder = path.with_name("unpacked")
    folder.mkdir()
    found = unpack(path, folder)
    path.unlink()
    return found


if __name__ == "__main__":
    main()
