"""Python environments of versions whose libraries are not Lagar's own: where they lie, and how one is started.

$LAGAR_HOME/environments/
├─ <key>/            a venv with everything of one hashed lock, never changed; it is there whole or not at all
├─ <key>.lock        held alone while the venv is made or removed, shared by each process that runs in it
└─ drafts/           venvs that are being made

The key is the hash of the lock and of the Python's version, so versions that need the same share one.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import lagar
from lagar import settings
from lagar.registry.home import explained
from lagar.registry.manifest import Manifest

FOLDER: Final = "environments"
SIGNALS: Final = {signal.SIGINT, signal.SIGTERM}
_OWNER: Final = "owner.lock"
_BOOT: Final = """
import importlib.util, runpy, sys
spec = importlib.util.spec_from_file_location("lagar", sys.argv[1] + "/__init__.py",
                                              submodule_search_locations=[sys.argv[1]])
sys.modules["lagar"] = package = importlib.util.module_from_spec(spec)
spec.loader.exec_module(package)
del sys.argv[:2]
sys.argv.insert(0, "-c")
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""
"""Runs a module of this Lagar in another interpreter: the package alone, whatever lies beside it on the disk."""
_FOREIGN: Final = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__")
"""Variables that would put the libraries of one environment into another."""


class Environments:
    """The folder `environments/` of a home, shared by all processes on it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def interpreter(self, key: str) -> str | None:
        """The Python of a finished environment; None where there is none, or its base Python is gone."""
        python = self.root / key / "bin" / "python"
        return str(python) if os.access(python, os.X_OK) else None

    @contextlib.contextmanager
    def draft(self) -> Iterator[Path]:
        """A folder to make an environment in, removed at the end; those of makers that have died are removed first."""
        drafts = self.root / "drafts"
        with explained(self.root, "cannot hold an environment"):
            drafts.mkdir(mode=0o700, parents=True, exist_ok=True)
            _sweep(drafts)
            folder = Path(tempfile.mkdtemp(prefix="draft-", dir=drafts))
            descriptor = os.open(folder / _OWNER, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(descriptor)

    @contextlib.contextmanager
    def alone(self, key: str, *, wait: bool = True) -> Iterator[bool]:
        """Alone with an environment; with `wait` False, False at once where somebody makes it or runs in it."""
        descriptor = self._open(key, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        try:
            yield descriptor is not None
        finally:
            if descriptor is not None:
                os.close(descriptor)

    def put(self, key: str, draft: Path) -> None:
        """Make a finished draft the environment; call it alone with the key."""
        with explained(self.root, "cannot hold an environment"):
            shutil.rmtree(self.root / key, ignore_errors=True)  # its base Python is gone
            os.replace(draft, self.root / key)

    def hold(self, key: str) -> int:
        """A descriptor that keeps the environment from being removed until it is closed, in children too."""
        descriptor = self._open(key, fcntl.LOCK_SH)
        assert descriptor is not None
        return descriptor

    def unused(self, older_than_s: float, keep: Iterable[str]) -> Iterator[str]:
        """Keys of environments that nothing has been started in since, but for those to keep."""
        kept = set(keep)
        until = time.time() - older_than_s
        for lock in sorted(self.root.glob("*.lock")):
            with contextlib.suppress(FileNotFoundError):
                if lock.stem not in kept and lock.stat().st_mtime < until:
                    yield lock.stem

    def remove(self, key: str) -> bool:
        """Remove an environment unless it is in use; who needs it later makes it again."""
        with self.alone(key, wait=False) as free:
            if free:
                shutil.rmtree(self.root / key, ignore_errors=True)
                (self.root / f"{key}.lock").unlink(missing_ok=True)
            return free

    def _open(self, key: str, how: int) -> int | None:
        """The locked lock file; None when it could not be had at once."""
        path = self.root / f"{key}.lock"
        with explained(self.root, "cannot hold an environment"):
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            while True:
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                try:
                    fcntl.flock(descriptor, how)
                    if _is_at(descriptor, path):
                        os.utime(descriptor)
                        return descriptor
                except BlockingIOError:
                    os.close(descriptor)
                    return None
                os.close(descriptor)  # removed while we waited: whoever comes next would not see this lock


def of_home(home: Path) -> Environments:
    """The environments of the home in this folder."""
    return Environments(home / FOLDER)


def key_of(lock: str, python: str) -> str:
    """The name of an environment: `lock` is the SHA-256 of its lock, `python` the version that it was made with."""
    return hashlib.sha256(f"{lock}\n{minor(python)}\n".encode()).hexdigest()[:32]


def key_for(manifest: Manifest) -> str | None:
    """The environment that a version was checked in; None for one that needs none of its own."""
    if not manifest.requirements or manifest.lock is None:
        return None
    return key_of(manifest.lock.sha256, manifest.python)


def minor(python: str) -> str:
    """The "3.11" of "3.11.7": libraries are built for that."""
    return ".".join(python.split(".")[:2])


# Starting Lagar in an environment.


def command(python: str | None, module: str, *arguments: str) -> list[str]:
    """The command line that runs a module of this Lagar; `python` None for this process's own interpreter.

    Another interpreter needs msgspec and numpy, and what the module's own work imports; nothing that is installed
    beside this Lagar is seen there.
    """
    if python is None:
        return [sys.executable, "-m", module, *arguments]
    return [python, "-c", _BOOT, str(Path(lagar.__file__).parent), module, *arguments]


def variables(python: str | None, given: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment variables of such a process: this one's (or those given) without other libraries' places."""
    found = dict(settings.child_environment({}) if given is None else given)
    if python is None:
        return found
    for name in _FOREIGN:
        found.pop(name, None)
    return {**found, "PYTHONSAFEPATH": "1", "PYTHONNOUSERSITE": "1"}


def spawn(
    python: str | None, module: str, descriptors: Sequence[int], given: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start a module of this Lagar that gets open descriptors; its arguments are their numbers.

    Its environment is kept from `lagar gc` while it lives. A Ctrl-C during its imports waits until it has unblocked
    `SIGNALS`: the mask is inherited.
    """
    held = None if python is None else _held(python)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        return subprocess.Popen(
            command(python, module, *map(str, descriptors)),
            pass_fds=[*descriptors, *([] if held is None else [held])],
            env=variables(python, given),
            stdin=subprocess.DEVNULL,
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if held is not None:
            os.close(held)


def _held(python: str) -> int | None:
    """Keep the environment of an interpreter, as `Environments.hold` does; None for one that is no environment's."""
    folder = Path(python).parent.parent
    return Environments(folder.parent).hold(folder.name) if folder.parent.name == FOLDER else None


def _sweep(drafts: Path) -> None:
    for folder in drafts.iterdir():
        with contextlib.suppress(OSError):
            descriptor = os.open(folder / _OWNER, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether path is still the file that is open."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
