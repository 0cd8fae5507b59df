"""This process's memory: giving freed heap back to the system, and how much the process holds."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import resource
from pathlib import Path


def give_back() -> None:
    """Return freed heap to the system, which glibc keeps otherwise: two thirds of what loading a forest took."""
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)


def held() -> int:
    """Bytes of this process alone and its share of what is mapped by several (PSS).

    Freed heap is given back first: what imports freed must not hide what a model takes.
    """
    gc.collect()
    give_back()
    try:
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    except (OSError, StopIteration):  # another system, or a container that hides it
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
