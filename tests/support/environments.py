"""Environments for tests, made of what is installed: a venv with the libraries of this one and one of its own."""

from __future__ import annotations

import hashlib
import platform
import sysconfig
import textwrap
import venv
from collections.abc import Callable
from pathlib import Path

from lagar.intake.environment import Environment
from lagar.intake.lock import Requirements
from lagar.registry import environments
from lagar.registry.environments import Environments

Isolate = Callable[[Requirements, bool, Callable[[str], None]], Environment]

MODEL = """
    import os
    import threading

    import factors


    class Scaled:
        def load(self, path):
            self.factor = factors.FACTOR

        def predict(self, rows):
            for row in rows:
                if row["x"] == 13:
                    os._exit(3)
                if row["x"] == 14:
                    threading.Event().wait()
                if row["x"] == 15:
                    raise RuntimeError("a fault of the model")
            return [row["x"] * self.factor for row in rows]
"""
"""Multiplies x by the FACTOR of the library `factors`; 13 ends its process, 14 never returns, 15 is a fault."""

HANDLERS = """
    import factors


    def preprocess(records):
        return [{"x": record["text_x"] and float(record["text_x"])} for record in records]


    def postprocess(outputs, records, single=False):
        return {"made_with": factors.__version__, "doubled": outputs["predict"]}
"""


def scaled_folder(folder: Path, *, handlers: bool = False) -> Path:
    """A model that needs the library `factors`."""
    folder.mkdir(parents=True)
    (folder / "lagar.toml").write_text('class = "scaled:Scaled"\n[fields.x]\ntype = "float"\n')
    (folder / "scaled.py").write_text(textwrap.dedent(MODEL))
    if handlers:
        (folder / "handlers.py").write_text(textwrap.dedent(HANDLERS))
    return folder


def requirements(path: Path, version: str) -> Path:
    path.write_text(f"factors=={version}\n")
    return path


def isolating(place: Environments, factor: float) -> Isolate:
    """What stands for uv: environments that hold `factors` in the version that is asked for."""

    def isolate(wanted: Requirements, trust: bool, say: Callable[[str], None]) -> Environment:
        text = "".join(f"{line}\n" for line in wanted.lines)
        key = environments.key_of(hashlib.sha256(text.encode()).hexdigest(), platform.python_version())
        with place.alone(key):
            if place.interpreter(key) is None:
                with place.draft() as draft:
                    _make(draft / "venv", wanted.lines[0].rpartition("==")[2], factor)
                    place.put(key, draft / "venv")
        python = place.interpreter(key)
        assert python is not None
        say("made of what is installed")
        return Environment(python, text, "an environment for a test")

    return isolate


def _make(folder: Path, version: str, factor: float) -> None:
    venv.EnvBuilder(symlinks=True).create(folder)
    (packages,) = folder.glob("lib/python*/site-packages")
    # the libraries of this environment, but not what their own .pth files add: Lagar itself
    (packages / "installed.pth").write_text(f"{sysconfig.get_path('purelib')}\n{sysconfig.get_path('platlib')}\n")
    (packages / "factors.py").write_text(f"__version__ = {version!r}\nFACTOR = {factor!r}\n")
    info = packages / f"factors-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: factors\nVersion: {version}\n")
    (info / "top_level.txt").write_text("factors\n")
    (info / "RECORD").write_text("factors.py,,\n")
