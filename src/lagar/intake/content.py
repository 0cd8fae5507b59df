"""What a version is made of: files with their places in it, and the rules that say how they are read.

A found model is gathered without being copied, so that one look at its hashes says whether it is known; what is not is
copied to where it can change no more. Files of a version: `model/` has the model file or the whole model folder,
`code/` what --code named.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from lagar.errors import SetupError
from lagar.intake.archive import Bounds
from lagar.registry.manifest import FileEntry, Manifest
from lagar.registry.model import Kind, ModelSource

_HIDDEN: Final = ("__pycache__", "node_modules")
_CHUNK: Final = 4 * 1024**2


class Made(msgspec.Struct, frozen=True):
    """All that a version follows from, but for the libraries that open it; paths are those in the version."""

    files: tuple[FileEntry, ...]
    kind: Kind
    entry: str
    pickled: bool
    trust: bool
    class_name: str | None
    handlers: str | None
    code: tuple[str, ...]
    field_rules: dict[str, dict[str, Any]]
    options: dict[str, Any]
    example: str

    def same(self, manifest: Manifest) -> bool:
        """Whether a version was made of just this."""
        return not manifest.requirements and _bytes(self) == _bytes(made_of(manifest))

    def may_be(self, manifest: Manifest) -> bool:
        """Whether a version can have been made of this; whether it was tried with the same rows does not matter."""
        return all(
            getattr(self, name) == getattr(made_of(manifest), name)
            for name in self.__struct_fields__
            if name != "example"
        )


class Content:
    """A found model: its files, each with its place in the version."""

    def __init__(self, found: ModelSource, bounds: Bounds) -> None:
        self.found = found
        self.files: dict[str, Path] = {}
        """Place in the version → file on disk."""
        self.given: dict[str, str] = {}
        """Place of a file or folder → the path that was given: people are told of theirs."""
        self._moved: dict[str, str] = {}
        self._bytes = 0
        self._bounds = bounds
        self._gather()

    def _gather(self) -> None:
        found = self.found
        given = Path(found.folder) if found.folder else Path(found.path)
        whole = Path(found.path) if given.is_file() else given
        self._take(whole, f"model/{whole.name}" if whole.is_file() else "model")
        for index, text in enumerate(dict.fromkeys(found.code)):
            if self.place(text) is None:
                name = Path(text).name or "code"
                taken = f"code/{name}" in self.given
                self._take(Path(text), f"code-{index}/{name}" if taken else f"code/{name}")
        for wanted in (found.path, found.handlers):
            if wanted and self.place(wanted) is None:
                raise SetupError(f"{wanted} lies outside of {whole}; put it into the model's folder")

    def place(self, text: str) -> str | None:
        """Where a path lies in the version; None when it is no part of it."""
        path = Path(text)
        for was, now in self._moved.items():
            if path.is_relative_to(was):
                return (Path(now) / path.relative_to(was)).as_posix()
        return None

    def made(self) -> Made:
        """What the version would be made of: every file is read once."""
        found = self.found
        return Made(
            files=tuple(entry(self.files[place], place) for place in sorted(self.files)),
            kind=found.kind,
            entry=self.place(found.path) or "",
            pickled=found.pickled,
            trust=found.trust,
            class_name=found.class_name,
            handlers=self.place(found.handlers) if found.handlers else None,
            code=tuple(self.place(text) or text for text in found.code),
            field_rules=found.field_rules,
            options=found.options,
            example=self.example(),
        )

    def example(self) -> str:
        """Which rows it is tried with: their place in the version, or the SHA-256 of a file beside it."""
        text = self.found.example
        if text is None:
            return ""
        return self.place(text) or entry(Path(text), "").sha256

    def copy(self, root: Path, version: str) -> ModelSource:
        """The files copied to their places below root, and the source that lies there."""
        for place, file in self.files.items():
            target = root / place
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)

        def there(text: str) -> str:
            place = self.place(text)
            return text if place is None else str(root / place)

        found = self.found
        return msgspec.structs.replace(
            found,
            version=version,
            path=there(found.path),
            folder=str(root / "model") if found.folder else None,
            code=tuple(there(text) for text in found.code),
            handlers=there(found.handlers) if found.handlers else None,
        )

    def _take(self, source: Path, place: str) -> None:
        """A file, or a folder without hidden files and caches; links that lead out of the folder are refused."""
        self._moved[str(source)] = place
        self.given[place] = str(source)
        if source.is_file():
            self._file(source, place)
            return
        root = source.resolve()
        for where, folders, names in os.walk(source, followlinks=False):
            folders[:] = sorted(name for name in folders if name[0] != "." and name not in _HIDDEN)
            for name in (*folders, *sorted(names)):
                path = Path(where) / name
                if path.is_symlink() and not path.resolve().is_relative_to(root):
                    raise SetupError(
                        f"{path} is a link to {os.readlink(path)!r}, outside of the folder; put a copy there"
                    )
                if path.is_symlink() and path.is_dir():
                    raise SetupError(f"{path} is a link to a folder; put a copy there")
            for name in sorted(names):
                if name[0] != "." and not name.endswith(".pyc"):
                    path = Path(where) / name
                    self._file(path, f"{place}/{path.relative_to(source).as_posix()}")

    def _file(self, source: Path, place: str) -> None:
        if not source.is_file():
            raise SetupError(f"{source} is no regular file; leave it out of the model's folder")
        self.files[place] = source
        self._bytes += source.stat().st_size
        bounds = self._bounds
        if len(self.files) > bounds.max_files:
            raise SetupError(
                f"{source.parent} has more than {bounds.max_files:,} files; push only what the model needs"
            )
        if self._bytes > bounds.max_bytes:
            raise SetupError(
                f"the version has more than {bounds.max_bytes:,} bytes with {source}; push only what the model needs"
            )


def made_of(manifest: Manifest) -> Made:
    """What a version was made of."""
    original = manifest.original
    return Made(
        files=tuple(sorted(original.files, key=lambda file: file.path)),
        kind=original.kind,
        entry=original.entry,
        pickled=manifest.pickled,
        trust=manifest.trust,
        class_name=manifest.class_name,
        handlers=manifest.handlers,
        code=manifest.code,
        field_rules=manifest.field_rules,
        options=manifest.options,
        example=manifest.example,
    )


def fingerprint(manifest: Manifest) -> str:
    """A hash of all that a version follows from, the libraries that opened it included."""
    environment: Mapping[str, Any] = {"python": manifest.python, "libraries": manifest.libraries}
    return hashlib.sha256(_bytes(made_of(manifest)) + _bytes(environment)).hexdigest()


def files_hash(files: tuple[FileEntry, ...]) -> str:
    """The hash of all files of a version: what `NAME@HASH8` is made of."""
    lines = sorted(f"{file.path}\0{file.sha256}\n" for file in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def entry(path: Path, place: str) -> FileEntry:
    """The file as a manifest names it."""
    digest = hashlib.sha256()
    size = 0
    with path.open("rb") as file:
        while piece := file.read(_CHUNK):
            digest.update(piece)
            size += len(piece)
    return FileEntry(place, digest.hexdigest(), size)


def _bytes(what: Any) -> bytes:
    return msgspec.json.encode(what, order="sorted")
