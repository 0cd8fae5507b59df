"""Versions laid out as folders on the local disk, ready to be loaded: every file checked, every time.

cache/
├─ <key>/            the files of one form; the key is the hash of their paths and hashes
├─ <key>.lock        held while the folder is made or checked; its time is the last use
└─ manifests/        manifests by their SHA-256
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from lagar.errors import ChangedArtifact, InvalidVersion
from lagar.registry import manifest as manifests
from lagar.registry.home import explained
from lagar.registry.manifest import FileEntry, Form, Manifest
from lagar.registry.model import ModelSource
from lagar.registry.proof import ORIGINAL
from lagar.registry.store import Store, sha256_of


class Cache:
    """The folder `cache/` of a home, shared by all processes on it."""

    def __init__(self, root: Path, store: Store) -> None:
        self.root = root
        self._store = store

    def lay_out(self, manifest: Manifest, form: str = "original") -> Path:
        """The folder with the files of a form, and the handlers and code of its version.

        Several processes that ask at once wait for the one that fetches. Raises ChangedArtifact with both hashes when
        any file, here or in the store, is not what was committed; StoreAway; InvalidVersion for an unknown form.
        """
        files = files_of(manifest, form)
        key = key_of(files)
        folder = self.root / key
        with explained(self.root, "cannot hold laid-out versions"), self._locked(key):
            if folder.is_dir():
                for entry in files:
                    _check(folder, entry, manifest)
            else:
                self._fetch(files, folder)
        return folder

    def write_manifest(self, data: bytes, sha256: str) -> Path:
        """The manifest as a file, for processes that know no catalog."""
        path = self.root / "manifests" / f"{sha256}.json"
        with explained(self.root, "cannot hold laid-out versions"):
            if not path.is_file() or sha256_of(path) != sha256:
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                descriptor, name = tempfile.mkstemp(dir=path.parent)
                with open(descriptor, "wb") as file:
                    file.write(data)
                os.replace(name, path)
        return path

    def unused(self, older_than_s: float, keep: Iterable[str]) -> Iterator[str]:
        """Keys of folders that nobody has asked for since, but for those to keep."""
        kept = set(keep)
        until = time.time() - older_than_s
        with contextlib.suppress(FileNotFoundError):
            for lock in sorted(self.root.glob("*.lock")):
                if lock.stem not in kept and lock.stat().st_mtime < until:
                    yield lock.stem

    def touch(self, key: str) -> None:
        """Say that a folder is in use: it is not among the unused ones for a while."""
        with explained(self.root, "cannot be changed"), contextlib.suppress(FileNotFoundError):
            os.utime(self.root / f"{key}.lock")

    def remove(self, key: str) -> None:
        """Remove one folder; who asks for it later gets it laid out again."""
        with explained(self.root, "cannot be changed"), self._locked(key):
            shutil.rmtree(self.root / key, ignore_errors=True)
            (self.root / f"{key}.lock").unlink(missing_ok=True)

    def _fetch(self, files: Sequence[FileEntry], folder: Path) -> None:
        draft = self.root / f"{folder.name}.tmp"
        shutil.rmtree(draft, ignore_errors=True)  # of a process that was killed: we hold the lock
        try:
            for entry in files:
                target = draft / entry.path
                target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._store.fetch(entry.sha256, target)
            draft.mkdir(mode=0o700, exist_ok=True)
            os.replace(draft, folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    @contextlib.contextmanager
    def _locked(self, key: str) -> Iterator[None]:
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self.root / f"{key}.lock"
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                if not _is_at(descriptor, path):
                    continue  # removed while we waited: whoever comes next would not see this lock
                os.utime(descriptor)
                yield
                return
            finally:
                os.close(descriptor)


def files_of(manifest: Manifest, form: str) -> tuple[FileEntry, ...]:
    """What must lie on disk to load a form: its files, and of the original the handlers and the code."""
    wanted = form_of(manifest, form)
    files = {entry.path: entry for entry in wanted.files}
    shared = [*manifest.code, *([manifest.handlers] if manifest.handlers else [])]
    for entry in manifest.original.files:
        if any(PurePosixPath(entry.path).is_relative_to(path) for path in shared):
            files.setdefault(entry.path, entry)
    return tuple(files[path] for path in sorted(files))


def form_of(manifest: Manifest, name: str) -> Form:
    """The form of a version by its name; raises InvalidVersion that lists those there are."""
    for form in manifest.forms:
        if form.name == name:
            return form
    raise InvalidVersion(
        f"{manifest.model}@{manifest.version} has no form {name!r}, it has {', '.join(f.name for f in manifest.forms)}"
    )


def key_of(files: Iterable[FileEntry]) -> str:
    """The name of a folder with exactly these files."""
    lines = sorted(f"{entry.path}\0{entry.sha256}\n" for entry in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def check(source: ModelSource) -> None:
    """Every file that a load of a registered version opens is what was committed, now.

    Whoever laid it out has looked; a process that takes a dead one's place loads it hours later. Raises ChangedArtifact
    with both hashes.
    """
    if source.manifest is None or source.folder is None:
        return
    data = Path(source.manifest).read_bytes()
    committed, seen = Path(source.manifest).stem, hashlib.sha256(data).hexdigest()
    if seen != committed:
        raise ChangedArtifact(
            f"{source.name}@{source.version}: the file {source.manifest} was changed: its SHA-256 is {seen}, committed "
            f"was {committed}; remove it, and it is written again from the catalog"
        )
    manifest = manifests.decode(data)
    if not source.forms or any(form.folder is None for form in source.forms):
        for entry in files_of(manifest, ORIGINAL):
            _check(Path(source.folder), entry, manifest)
    for form in source.forms:
        if form.folder is not None and not form.sha256:  # what was compiled here is looked at by `Compiled.find`
            depth = len(PurePosixPath(form_of(manifest, form.name).entry).parts)
            for entry in form_of(manifest, form.name).files:
                _check(Path(form.folder).parents[depth - 1], entry, manifest)


def _check(folder: Path, entry: FileEntry, manifest: Manifest) -> None:
    path = folder / entry.path
    stored = False
    try:
        seen = sha256_of(path)
        stored = path.stat().st_nlink > 1
    except FileNotFoundError:
        seen = "none: the file is gone"
    if seen == entry.sha256:
        return
    again = f"remove the folder {folder}, and it is laid out again from the store"
    if stored:  # laid out as a link: whoever wrote into one has written into both
        again = f"it is the stored file too: push the model again, or restore that from a backup; then {again}"
    error = ChangedArtifact(
        f"{manifest.model}@{manifest.version}: the file {path} was changed: its SHA-256 is {seen}, committed was "
        f"{entry.sha256}; {again}"
    )
    error.sha256 = entry.sha256 if stored else ""
    raise error


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether path is still the file that is open."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
