"""The walk through trees as machine code of this machine: `walk.c`, compiled once where a C compiler is at hand.

The library lies beside this module, as compiled Python does, under a name that holds the hash of the source: it belongs
to the installation, no model brings any code, and nothing in a model store is ever run. It is made outside the confined
process that opens strangers' models. Where there is none, trees run on ONNX Runtime.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

FORM: Final = "trees-native"
SYMMETRIC: Final = "catboost-native"
FORMS: Final = frozenset({FORM, SYMMETRIC})
"""The names of the forms that need the library."""
SOURCE: Final = Path(__file__).with_name("walk.c")
BLOCK: Final = 64
"""Rows that symmetric trees take side by side: their columns are so many numbers long, or a multiple."""
_OPTIONS: Final = ("-O2", "-shared", "-fPIC", "-fno-fast-math", "-ffp-contract=off", "-fno-tree-vectorize")
_COMPILE_S: Final = 60.0


class Trees(ctypes.Structure):
    """`struct trees` of the source."""

    _fields_ = (
        ("nodes", ctypes.c_void_p),
        ("roots", ctypes.c_void_p),
        ("targets", ctypes.c_void_p),
        ("table", ctypes.c_void_p),
        ("each", ctypes.c_int64),
        ("all", ctypes.c_int64),
        ("count", ctypes.c_int64),
        ("width", ctypes.c_int64),
    )


class Levels(ctypes.Structure):
    """`struct levels` of the source."""

    _fields_ = (
        ("borders", ctypes.c_void_p),
        ("columns", ctypes.c_void_p),
        ("leaves", ctypes.c_void_p),
        ("count", ctypes.c_int64),
        ("depth", ctypes.c_int64),
        ("each", ctypes.c_int64),
    )


def path() -> Path:
    """Where the library lies, if it does: its name says source, options and processor."""
    digest = hashlib.sha256(SOURCE.read_bytes() + " ".join(_OPTIONS).encode()).hexdigest()[:16]
    return SOURCE.with_name(f"_walk-{digest}-{platform.system().lower()}-{platform.machine()}.so")


def prepare() -> bool:
    """Compile the library if it is not there; False where there is no compiler or the folder cannot be written.

    Takes half a second, once for an installation. Not for a process that has opened a model.
    """
    wanted = path()
    if wanted.exists():
        return True
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None or not os.access(wanted.parent, os.W_OK):
        return False
    with tempfile.TemporaryDirectory(dir=wanted.parent, prefix="_walk-") as folder:
        made = Path(folder) / wanted.name
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            done = subprocess.run(
                [compiler, *_OPTIONS, "-o", str(made), str(SOURCE)],
                capture_output=True,
                timeout=_COMPILE_S,
                check=False,
            )
            if done.returncode == 0:
                made.replace(wanted)
                library.cache_clear()
    return wanted.exists()


@functools.cache
def library() -> ctypes.CDLL | None:
    """The loaded library; None where it was not prepared."""
    try:
        return ctypes.CDLL(str(path()))
    except OSError:
        return None
