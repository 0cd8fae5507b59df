"""The store of artifacts: every file of every version once, under its SHA-256.

A folder in the home, or S3-compatible storage (`s3.py`) where LAGAR_STORE names it. What is in it never changes, so
that storing the same file twice, at once or later, is no conflict.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import unquote, urlsplit

import msgspec

from lagar.errors import ChangedArtifact, SettingsError
from lagar.registry.home import Home, explained

CHUNK: Final = 1 << 20
_WRITTEN_S: Final = 3600.0
"""A half-written file that was written to within this time may be a push that is still at it."""
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


class Stored(msgspec.Struct, frozen=True):
    """One object in a store; `modified_at` is by the store's clock, which `Store.now` tells."""

    sha256: str
    bytes: int
    modified_at: float


class Store(Protocol):
    """What a folder and S3 do each in its own way. All raise StoreAway or HomeError where the place fails."""

    name: str
    """How messages call it."""

    def put(self, file: Path, sha256: str) -> None:
        """Store the file; one that is there already becomes young again. Raises ChangedArtifact for another hash."""

    def find(self, sha256: str) -> Stored | None:
        """The object with this hash, None where there is none."""

    def fetch(self, sha256: str, target: Path) -> None:
        """Make `target`, which is not there yet, the object. Raises ChangedArtifact naming both hashes."""

    def delete(self, sha256: str) -> None: ...

    def objects(self) -> Iterator[Stored]: ...

    def now(self) -> float:
        """The clock by which `modified_at` is."""

    def sweep(self, older_than_s: float) -> None:
        """Remove what pushes that were killed have left half written."""


def open_store(home: Home, url: str | None = None, endpoint: str | None = None) -> Store:
    """The store that LAGAR_STORE names: None for the home's own, file:///path, s3://bucket/prefix.

    `endpoint` is where S3 answers, None for AWS. Raises SettingsError and MissingLibrary.
    """
    if url is None:
        return FolderStore(home.artifacts)
    parts = urlsplit(url)
    if parts.scheme == "file" and parts.path.startswith("/") and not parts.netloc:
        return FolderStore(Path(unquote(parts.path)))
    if parts.scheme == "s3" and parts.netloc:
        from lagar.registry.s3 import S3Store

        return S3Store(parts.netloc, parts.path.strip("/"), endpoint)
    raise SettingsError(f"LAGAR_STORE must be s3://BUCKET/PREFIX or file:///FOLDER, got {url!r}")


def sha256_of(file: Path) -> str:
    """The hex SHA-256 of a file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def is_sha256(text: str) -> bool:
    """Whether text is a hash as objects are named by."""
    return _SHA256.fullmatch(text) is not None


class FolderStore:
    """Objects as read-only files `ab/ab12…` in a folder; half-written ones lie in `tmp/`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.name = f"the store {root}"

    def put(self, file: Path, sha256: str) -> None:
        place = self._place(sha256)
        with explained(self.root, "cannot store artifacts"):
            if self._refresh(place, sha256):
                return
            with self._temporary() as (descriptor, name):
                with open(descriptor, "wb") as target, file.open("rb") as source:
                    seen = _copy(source.fileno(), target.fileno())
                    os.fchmod(target.fileno(), 0o444)
                    os.fsync(target.fileno())
                if seen != sha256:
                    raise changed_while_read(file, sha256, seen)
                place.parent.mkdir(mode=0o700, exist_ok=True)
                os.replace(name, place)
            for folder in (place.parent, self.root):  # the name must survive a power cut as well
                _sync(folder)

    def find(self, sha256: str) -> Stored | None:
        with explained(self.root, "cannot be read"):
            try:
                found = self._place(sha256).stat()
            except FileNotFoundError:
                return None
            return Stored(sha256, found.st_size, found.st_mtime)

    def fetch(self, sha256: str, target: Path) -> None:
        place = self._place(sha256)
        with explained(self.root, "cannot be read"):
            try:
                try:
                    os.link(place, target)  # no second copy: both are read-only, and hashed at every load
                except FileNotFoundError:
                    raise
                except OSError:  # another disk, or one without links
                    shutil.copyfile(place, target)
            except FileNotFoundError:
                raise gone(sha256, self.name) from None
            seen = sha256_of(target)
        if seen != sha256:
            target.unlink()
            error = ChangedArtifact(
                f"the artifact {place} was changed: its SHA-256 is {seen}, committed was {sha256}; "
                "restore it from a backup, or push the model again"
            )
            error.sha256 = sha256
            raise error

    def delete(self, sha256: str) -> None:
        with explained(self.root, "cannot be changed"):
            self._place(sha256).unlink(missing_ok=True)

    def objects(self) -> Iterator[Stored]:
        with explained(self.root, "cannot be read"):
            for folder in sorted(self.root.glob("[0-9a-f][0-9a-f]")):
                for file in sorted(folder.iterdir()):
                    found = self.find(file.name) if is_sha256(file.name) else None
                    if found is not None:
                        yield found

    def now(self) -> float:
        with explained(self.root, "cannot be written to"), self._temporary() as (descriptor, _):
            try:
                return os.fstat(descriptor).st_mtime
            finally:
                os.close(descriptor)

    def sweep(self, older_than_s: float) -> None:
        until = self.now() - max(older_than_s, _WRITTEN_S)
        for file in (self.root / "tmp").iterdir():
            with contextlib.suppress(OSError):
                if file.stat().st_mtime < until:
                    file.unlink()

    def _place(self, sha256: str) -> Path:
        return self.root / sha256[:2] / sha256

    def _refresh(self, place: Path, sha256: str) -> bool:
        """Whether the object is there and whole; it is young from now on. A damaged one is written anew."""
        try:
            os.utime(place)  # before its hash is taken: no gc that looks from now on takes it
            return sha256_of(place) == sha256
        except FileNotFoundError:
            return False

    @contextlib.contextmanager
    def _temporary(self) -> Iterator[tuple[int, str]]:
        folder = self.root / "tmp"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=folder)
        try:
            yield descriptor, name
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)


def changed_while_read(file: Path, sha256: str, seen: str) -> ChangedArtifact:
    """The error of a file whose hash, taken before, is no longer its hash."""
    return ChangedArtifact(
        f"{file.name} was changed while it was pushed: its SHA-256 was {sha256} and is now {seen}; push it again"
    )


def gone(sha256: str, store: str) -> ChangedArtifact:
    """The error of an object that a version needs and a store does not have."""
    return ChangedArtifact(
        f"the artifact {sha256} is not in {store}: restore it from a backup, or push the model again; "
        "servers on one catalog need one store, LAGAR_STORE"
    )


def _copy(source: int, target: int) -> str:
    digest = hashlib.sha256()
    while chunk := os.read(source, CHUNK):
        digest.update(chunk)
        view = memoryview(chunk)
        while view:
            view = view[os.write(target, view) :]
    return digest.hexdigest()


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
