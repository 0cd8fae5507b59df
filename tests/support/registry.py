"""Registries for tests: where they lie, small manifests for them, a clock that stands still."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sqlalchemy.engine import Connection

from lagar.registry.manifest import FileEntry, Form, Golden, Manifest, Provenance
from lagar.registry.releases import Releases, Version, Who, open_releases
from lagar.registry.signature import Field, Output, Signature

ANA = Who("ana", "laptop")
RUI = Who("rui", "ci-7")
LONG_AGO = -60.0
"""As the age for gc: everything counts as old, also where times are whole seconds."""


STARTED: list[subprocess.Popen[str]] = []
"""Processes of this test; they end with it."""


def end_started() -> None:
    """Kill what is still running, as after a test that has failed."""
    while STARTED:
        with STARTED.pop() as process, contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


class Clock:
    """The catalog's clock, which moves only when it is told to."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self, _connection: Connection) -> float:
        return self.now


@dataclass(frozen=True)
class Place:
    """Where a registry lies; several processes may open it."""

    home: Path
    catalog: str | None = None
    store: str | None = None
    endpoint: str | None = None
    clock: Clock = field(default_factory=Clock)

    def open(self, *, stopped: bool = False) -> Releases:
        """The registry, with a clock that stands still if that is asked for."""
        return open_releases(
            self.home,
            catalog=self.catalog,
            store=self.store,
            endpoint=self.endpoint,
            clock=self.clock if stopped else None,
        )

    def elsewhere(self, home: Path) -> Place:
        """The same catalog and store as another machine sees them; an SQLite file is on one machine only."""
        return replace(self, home=home) if self.catalog else self

    def start(self, script: str, *args: object, count: int = 1) -> subprocess.Popen[str]:
        """A process that runs the script with `releases` open and `args`, or `count` of them at once.

        They are forked from one that has imported everything, and each opens the registry itself; `number` tells them
        apart. The one fails when any of them does.
        """
        said = json.dumps([str(self.home), self.catalog, self.store, self.endpoint])
        tests = Path(__file__).resolve().parent.parent
        process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", _HEAD, said, str(count), script, *map(str, args)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tests,
            start_new_session=True,
        )
        STARTED.append(process)
        return process


_HEAD = """
import json, os, signal, sys
from pathlib import Path
import lagar.registry.postgres, lagar.registry.s3, lagar.registry.sqlite, alembic.command, psycopg
from lagar.registry.releases import open_releases
from support.registry import *

home, catalog, store, endpoint = json.loads(sys.argv[1])
count, script, args = int(sys.argv[2]), sys.argv[3], sys.argv[4:]

def print(word, flush=True):
    os.write(1, f"{word}\\n".encode())  # in one piece: others write there too

def run(number):
    with open_releases(Path(home), catalog=catalog, store=store, endpoint=endpoint) as releases:
        exec(script, {**globals(), "releases": releases, "number": number})

children = []
for number in range(count) if count > 1 else ():
    child = os.fork()
    if child == 0:
        code = 1
        try:
            run(number)
            code = 0
        except BaseException:
            import traceback
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(code)
    children.append(child)
if count == 1:
    run(0)
sys.exit(any([os.waitpid(child, 0)[1] for child in children]))
"""


def together(process: subprocess.Popen[str]) -> list[str]:
    """End the input that they wait for, so that all begin at once; the words that they print."""
    out, problems = process.communicate("", timeout=120)
    assert process.returncode == 0, problems
    return out.split()


def manifest_of(files: dict[str, bytes], model: str = "wine", version: str = "", **more: Any) -> Manifest:
    """A version of one ONNX file and whatever else lies beside it; the first file is the model."""
    entries = tuple(FileEntry(path, hashlib.sha256(data).hexdigest(), len(data)) for path, data in files.items())
    values: dict[str, Any] = {
        "signature": Signature(
            fields=(Field("age"), Field("plan", type="string", categories=("a", "b"))),
            outputs=(Output("predict"),),
            native_outputs=("predict",),
        ),
        "forms": (Form("original", "onnx", next(iter(files)), entries),),
        "golden": Golden(({"age": 1.0, "plan": "a"},), {"predict": [0.5]}),
        "python": "3.11",
        "libraries": {"onnxruntime": "1.20"},
        "provenance": Provenance("ana", "laptop", 0.0, "model.onnx", "0.1"),
    }
    return Manifest(format=1, model=model, version=version, **{**values, **more})


def push(
    releases: Releases, folder: Path, data: bytes | dict[str, bytes] = b"weights", version: str = "",
    model: str = "wine", *, alias: str | None = None, who: Who = ANA, **more: Any,
) -> Version:  # fmt: skip
    """Commit a version with these bytes as its model file, or these files."""
    files = data if isinstance(data, dict) else {"model.onnx": data}
    paths = {}
    for name, content in files.items():
        path = folder / "pushed" / hashlib.sha256(content).hexdigest() / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        paths[name] = path
    return releases.commit(manifest_of(files, model, version, **more), paths, who, alias=alias)
