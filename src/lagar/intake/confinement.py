"""What a process gives up before it opens a stranger's model: memory, time, files, network, writing elsewhere.

Limits hold everywhere. Network and files need the system's help (a network namespace, Landlock): `confine` says what it
got. All of it is inherited by children and cannot be taken back.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import struct
import sys
from pathlib import Path
from typing import Final

import msgspec

_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS, _PR_SET_CHILD_SUBREAPER = 1, 38, 36
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
"""Landlock's system calls, the same numbers on every architecture."""
_WRITE_FILE, _TRUNCATE = 1 << 1, 1 << 14
_CHANGES: Final = 0b1111111110000 | _WRITE_FILE
"""Landlock's rights of its first version to write, make and remove; not to read or execute."""


_YIELDING: Final = 10
"""The nice value of work that nobody waits for; at 19 it would never end beside a server that is always busy."""


class Limits(msgspec.Struct, frozen=True):
    """What a process may take."""

    memory_bytes: int = 0
    """Address space; 0: four fifths of the machine's or the container's memory, at least 4 GiB."""
    wall_s: float = 120.0
    cpu_s: int = 120
    open_files: int = 1024
    file_bytes: int = 4 * 1024**3
    """The largest file that it may write."""
    yields: bool = False
    """True: whatever else this machine computes goes first; for work that nobody waits for."""

    def effective(self) -> Limits:
        """The same with every number filled in."""
        return self if self.memory_bytes else msgspec.structs.replace(self, memory_bytes=_most_memory())


class Confined(msgspec.Struct, frozen=True):
    """What the system granted beside the limits."""

    no_network: bool
    no_writes: bool
    """True: files are written in the private folder only."""


def confine(limits: Limits, folder: Path) -> Confined:
    """Take from this process, and from all that it will start, what a model does not need.

    `folder` is where it may still write. `limits` are effective ones. Call it from the only thread.
    """
    _limit(limits)
    if limits.yields:
        _yield_to_others()
    with contextlib.suppress(OSError):
        # the system's own killer takes this process before any server on the machine
        Path("/proc/self/oom_score_adj").write_text("1000")
    no_network = _leave_network()
    no_writes, no_tcp = _landlock(folder)
    return Confined(no_network or no_tcp, no_writes)


def die_with_parent(number: int, parent: int) -> None:
    """Have the kernel send this process the signal when its parent is gone; exit at once when it is gone already."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(1)


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent ends, so that none gets away."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _limit(limits: Limits) -> None:
    for kind, soft, hard in (
        (resource.RLIMIT_AS, limits.memory_bytes, limits.memory_bytes),
        (resource.RLIMIT_CPU, limits.cpu_s, limits.cpu_s + 5),
        (resource.RLIMIT_NOFILE, limits.open_files, limits.open_files),
        (resource.RLIMIT_FSIZE, limits.file_bytes, limits.file_bytes),
        (resource.RLIMIT_CORE, 0, 0),
    ):
        most = resource.getrlimit(kind)[1]
        if most != resource.RLIM_INFINITY:
            soft, hard = min(soft, most), min(hard, most)
        resource.setrlimit(kind, (soft, hard))


def _yield_to_others() -> None:
    """Get a tenth of a core that others want too.

    Where Linux shares the processor among sessions first, the number of a process says nothing outside its own: the
    session, which is the guard's alone, gets the same.
    """
    os.nice(_YIELDING)
    with contextlib.suppress(OSError):
        Path("/proc/self/autogroup").write_text(str(_YIELDING))


def _leave_network() -> bool:
    """Move into a network namespace without interfaces, with a user namespace where that needs one."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "unshare"):
        return False
    if libc.unshare(_CLONE_NEWNET) == 0:
        return True
    uid, gid = os.geteuid(), os.getegid()
    if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) != 0:
        return False
    with contextlib.suppress(OSError):  # without a mapping this user's files could be read and none written
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
    return True


def landlock_version() -> int:
    """The version of Landlock that the kernel offers; 0 for none."""
    libc = ctypes.CDLL(None, use_errno=True)
    return max(int(libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(1))), 0)


def _landlock(folder: Path) -> tuple[bool, bool]:
    """Refuse writing outside the folder, and TCP where the kernel can: what of both it grants."""
    libc = ctypes.CDLL(None, use_errno=True)
    version = landlock_version()
    if version < 1:
        return False, False
    changes = _CHANGES | (1 << 13 if version >= 2 else 0) | (_TRUNCATE if version >= 3 else 0)
    network = 0b11 if version >= 4 else 0  # bind and connect TCP
    scoped = 0b11 if version >= 6 else 0  # abstract sockets of others, signals to others
    attributes = struct.pack("=QQQ", changes, network, scoped)[: 8 if version < 4 else 16 if version < 6 else 24]
    ruleset = libc.syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), ctypes.c_uint32(0))
    if ruleset < 0:
        return False, False
    try:
        allowed = _allow(libc, ruleset, folder, changes)
        for path, rights in (("/dev/shm", changes), ("/dev", changes & (_WRITE_FILE | _TRUNCATE))):  # noqa: S108
            with contextlib.suppress(OSError):
                _allow(libc, ruleset, Path(path), rights)
        if not allowed or libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
            return False, False
        done = libc.syscall(_RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint32(0)) == 0
        return done, done and version >= 4
    finally:
        os.close(ruleset)


def _allow(libc: ctypes.CDLL, ruleset: int, path: Path, rights: int) -> bool:
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        beneath = struct.pack("=Qi", rights, descriptor)
        done = libc.syscall(_ADD_RULE, ctypes.c_int(ruleset), ctypes.c_int(1), beneath, ctypes.c_uint32(0))
        return bool(done == 0)
    finally:
        os.close(descriptor)


def _most_memory() -> int:
    most = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for name in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            most = min(most, int(Path(name).read_text()))
    return max(most * 4 // 5, 4 * 1024**3)
