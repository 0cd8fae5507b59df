"""Registries for tests: where they lie, small manifests for them, a clock that stands still."""

from __future__ import annotations

import hashlib
import json
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

    def start(self, script: str, *args: object) -> subprocess.Popen[str]:
        """A process that runs the script with `releases` open and `args`."""
        said = json.dumps([str(self.home), self.catalog, self.store, self.endpoint])
        head = (
            "import json, os, signal, sys; from pathlib import Path\n"
            "from lagar.registry.releases import open_releases\n"
            "from support.registry import *\n"
            "home, catalog, store, endpoint = json.loads(sys.argv[1]); args = sys.argv[2:]\n"
            "releases = open_releases(Path(home), catalog=catalog, store=store, endpoint=endpoint)\n"
        )
        tests = Path(__file__).resolve().parent.parent
        return subprocess.Popen(
            [sys.executable, "-W", "error", "-c", head + script, said, *map(str, args)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tests,
        )


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
