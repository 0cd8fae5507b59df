"""How much of the machine is ours: cores by affinity and cgroup quota, and from them workers and thread counts.

A container that may use two cores of a 64-core machine must not start 64 threads per library: other servers that do
lose 10 to 90 times their speed (xgboost#7653, LightGBM#7399).
"""

from __future__ import annotations

import contextlib
import math
import os
from pathlib import Path, PurePosixPath

from lagar.settings import worker_range

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "RAYON_NUM_THREADS",
    "POLARS_MAX_THREADS",
    "ARROW_NUM_THREADS",
)
"""What BLAS, OpenMP and their kin read once, when they are loaded; ONNX Runtime takes a number per session."""


def cores(root: Path = Path("/")) -> float:
    """Cores this process may use: the smaller of its CPU affinity and the quota of every cgroup above it.

    A quota may be a fraction (0.5). `root` is where `proc` and `sys` lie.
    """
    return min(float(_affinity()), quota(root))


def quota(root: Path = Path("/")) -> float:
    """Cores by cgroup quota, v2 and v1, the smallest on the way to the root; `math.inf` without one."""
    least = math.inf
    for controllers, group in _groups(root):
        if controllers == "":
            for folder in _folders(root, ("sys/fs/cgroup", "sys/fs/cgroup/unified"), group):
                least = min(least, _quota_v2(folder))
        elif "cpu" in controllers.split(","):
            mounts = (f"sys/fs/cgroup/{controllers}", "sys/fs/cgroup/cpu", "sys/fs/cgroup/cpu,cpuacct")
            for folder in _folders(root, mounts, group):
                least = min(least, _quota_v1(folder))
    return least


def worker_counts(asked: int | str, available: float) -> tuple[int, int]:
    """The least and the most workers: as asked, or one per whole core (at least one) when 0 is asked."""
    least, most = worker_range(asked) or (0, 0)
    return (least, most) if least > 0 else (max(1, math.floor(available)),) * 2


def memory_bytes(root: Path = Path("/")) -> int:
    """Memory that this process may use: the least of the machine's and the limit of every cgroup above it."""
    least = 1 << 62
    with contextlib.suppress(OSError, ValueError, IndexError):
        lines = (root / "proc/meminfo").read_text().splitlines()
        least = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemTotal:"))
    for controllers, group in _groups(root):
        if controllers == "":
            folders, name = _folders(root, ("sys/fs/cgroup", "sys/fs/cgroup/unified"), group), "memory.max"
        elif "memory" in controllers.split(","):
            folders, name = _folders(root, ("sys/fs/cgroup/memory",), group), "memory.limit_in_bytes"
        else:
            continue
        for folder in folders:
            with contextlib.suppress(OSError, ValueError):  # no such group, or "max"
                least = min(least, int((folder / name).read_text()))
    return least


def thread_count(workers: int, available: float) -> int:
    """Threads for BLAS, OpenMP and ONNX Runtime in each of the workers: the cores shared among them, at least one."""
    return max(1, math.floor(available / workers))


def thread_variables(threads: int) -> dict[str, str]:
    """Environment variables for a child that is to use this many threads; they count when set before it starts.

    OpenMP threads wait passively: one that spins for its next call takes the core from the event loop.
    """
    return dict.fromkeys(THREAD_VARIABLES, str(threads)) | {"OMP_WAIT_POLICY": "PASSIVE"}


def _affinity() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0)) or 1
    return os.cpu_count() or 1


def _groups(root: Path) -> list[tuple[str, str]]:
    """(controllers, path) of each line of /proc/self/cgroup; controllers is "" for v2."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    parts = (line.split(":", 2) for line in lines)
    return [(part[1], part[2]) for part in parts if len(part) == 3]


def _folders(root: Path, mounts: tuple[str, ...], group: str) -> list[Path]:
    """The group's folder and all above it, under each mount point.

    Inside a container the path often names the host's tree, which is not mounted there: the mount point itself is the
    container's group then, and it is in the list as the last one.
    """
    inside = PurePosixPath("/" + group.strip("/"))
    ways = [inside, *inside.parents]
    return [
        root / mount / str(way).lstrip("/") for mount in dict.fromkeys(mounts) for way in ways if ".." not in way.parts
    ]


def _quota_v2(folder: Path) -> float:
    try:
        limit, period = (folder / "cpu.max").read_text().split()[:2]
        return math.inf if limit == "max" else _ratio(limit, period)
    except (OSError, ValueError):
        return math.inf


def _quota_v1(folder: Path) -> float:
    try:
        return _ratio((folder / "cpu.cfs_quota_us").read_text(), (folder / "cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        return math.inf


def _ratio(limit: str, period: str) -> float:
    limit_us, period_us = int(limit), int(period)
    return limit_us / period_us if limit_us > 0 and period_us > 0 else math.inf
