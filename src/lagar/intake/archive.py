"""Zip and tar archives of a model → a folder, bounded and held inside it.

What an archive says of itself is not believed: bytes are counted as they are unpacked. Names that lead out of the
folder, links, devices and encrypted entries are refused by name; file modes and owners are not taken over.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import IO, Any, Final, cast

import msgspec

from lagar.errors import SetupError

SUFFIXES: Final = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
_CHUNK: Final = 1024 * 1024
_MAX_HEADER: Final = 16 * _CHUNK
"""tarfile reads an entry's extended header at once, as long as the archive says it is."""
_BROKEN: Final = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, ValueError,
                  NotImplementedError, RuntimeError)  # fmt: skip


class Bounds(msgspec.Struct, frozen=True):
    """How large a version may be, packed or not."""

    max_files: int = 10_000
    max_bytes: int = 8 * 1024**3
    max_ratio: int = 1000
    """Unpacked over packed size; looked at above `free_bytes`."""
    free_bytes: int = 256 * 1024**2


def is_archive(path: Path) -> bool:
    """Whether a path is meant as an archive: told by its name, since compressed pickles have the same first bytes."""
    return path.name.lower().endswith(SUFFIXES) and path.is_file()


def unpack(path: Path, folder: Path, bounds: Bounds | None = None) -> Path:
    """Unpack into the empty folder; returns it, or the one folder that the archive consists of.

    Raises SetupError that names the archive, the entry, the rule and the value; what was unpacked so far stays in
    the folder, which is the caller's to remove.
    """
    unpacking = _Unpacking(path, folder, bounds or Bounds())
    try:
        if path.name.lower().endswith(".zip"):
            _zip(path, unpacking)
        else:
            _tar(path, unpacking)
    except SetupError:
        raise
    except _BROKEN as error:
        raise SetupError(
            f"{path} cannot be unpacked: {' '.join(str(error).split()) or type(error).__name__}; pack it again"
        ) from None
    if not unpacking.files:
        raise SetupError(f"{path} holds no file; pack the model's folder again")
    entries = list(folder.iterdir())
    return entries[0] if len(entries) == 1 and entries[0].is_dir() else folder


class _Unpacking:
    """The count of what came out of one archive."""

    def __init__(self, path: Path, folder: Path, bounds: Bounds) -> None:
        self.path = path
        self.folder = folder
        self.bounds = bounds
        self.files = 0
        self._entries = 0
        self._bytes = 0
        self._seen: set[str] = set()
        packed = path.stat().st_size
        self.limit = min(bounds.max_bytes, max(bounds.free_bytes, bounds.max_ratio * packed))

    def enter(self, name: str, size: int) -> Path:
        """Where an entry goes; refuses names that lead out, too many entries, and a size over the limit."""
        self._entries += 1
        if self._entries > self.bounds.max_files:
            raise SetupError(f"{self.path} has more than {self.bounds.max_files:,} entries; pack only what is needed")
        pure = PurePosixPath(name)
        parts = [part for part in pure.parts if part != "."]
        odd = any(ord(mark) < 32 or mark in "\\\x7f" for mark in name)
        if pure.is_absolute() or ".." in parts or odd or (parts and ":" in parts[0]):
            raise SetupError(
                f"{self.path}: the entry {name!r} leads out of the archive's folder; names are relative, "
                "without '..', backslash or control characters"
            )
        key = "/".join(parts)
        if parts and key in self._seen:
            raise SetupError(f"{self.path}: the entry {name!r} comes twice; pack it again")
        self._seen.add(key)
        if size + self._bytes > self.limit:
            self._too_large(size + self._bytes)
        return self.folder.joinpath(*parts)

    def write(self, source: IO[bytes], target: Path, name: str) -> None:
        """Copy one entry's bytes, counted."""
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as file:
                while piece := source.read(_CHUNK):
                    self._bytes += len(piece)
                    if self._bytes > self.limit:
                        self._too_large(self._bytes)
                    file.write(piece)
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            raise SetupError(f"{self.path}: the entry {name!r} is a file and a folder; pack it again") from None
        self.files += 1

    def folder_at(self, target: Path, name: str) -> None:
        """Make the folder of one entry."""
        try:
            target.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise SetupError(f"{self.path}: the entry {name!r} is a file and a folder; pack it again") from None

    def _too_large(self, size: int) -> None:
        packed = self.path.stat().st_size
        raise SetupError(
            f"{self.path} has {packed:,} bytes and unpacks to at least {size:,}, the limit is {self.limit:,}; "
            "archives that grow so much are refused: give the folder itself, or leave out what is not needed"
        )


def _zip(path: Path, unpacking: _Unpacking) -> None:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if info.flag_bits & 0x1:
                raise SetupError(f"{path}: the entry {info.filename!r} is encrypted; pack it without a password")
            kind = (info.external_attr >> 16) & 0o170000
            if kind not in (0, 0o100000, 0o040000):
                raise SetupError(
                    f"{path}: the entry {info.filename!r} is a link or a device; pack the files themselves"
                )
            target = unpacking.enter(info.filename, info.file_size)
            if info.is_dir():
                unpacking.folder_at(target, info.filename)
                continue
            with archive.open(info) as source:
                unpacking.write(source, target, info.filename)


def _tar(path: Path, unpacking: _Unpacking) -> None:
    with (
        path.open("rb") as raw,
        _Bounded(_opened(raw, path.name.lower()), path) as stream,
        tarfile.open(fileobj=cast("IO[bytes]", stream), mode="r:") as archive,
    ):
        for member in archive:
            if not (member.isreg() or member.isdir()) or member.issparse():
                raise SetupError(
                    f"{path}: the entry {member.name!r} is {_kind(member)}; pack the files themselves "
                    "(tar --dereference)"
                )
            target = unpacking.enter(member.name, member.size)
            if member.isdir():
                unpacking.folder_at(target, member.name)
                continue
            source = archive.extractfile(member)
            assert source is not None
            unpacking.write(source, target, member.name)


def _kind(member: tarfile.TarInfo) -> str:
    if member.issym() or member.islnk():
        return f"a link to {member.linkname!r}"
    return "a sparse file" if member.issparse() else "a device or a pipe"


def _opened(raw: IO[bytes], name: str) -> Any:
    if name.endswith((".gz", ".tgz")):
        return gzip.GzipFile(fileobj=raw)
    if name.endswith((".bz2", ".tbz2")):
        return bz2.BZ2File(raw)
    return lzma.LZMAFile(raw) if name.endswith((".xz", ".txz")) else raw


class _Bounded:
    """A stream that refuses to be read in pieces larger than any honest header."""

    def __init__(self, stream: Any, path: Path) -> None:
        self._stream = stream
        self._path = path

    def read(self, size: int = -1) -> bytes:
        if size < 0 or size > _MAX_HEADER:
            raise SetupError(f"{self._path}: a header of {size:,} bytes, the limit is {_MAX_HEADER:,}; pack it again")
        return self._stream.read(size)  # type: ignore[no-any-return]

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._stream.seek(offset, whence)  # type: ignore[no-any-return]

    def tell(self) -> int:
        return self._stream.tell()  # type: ignore[no-any-return]

    def __enter__(self) -> _Bounded:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()
