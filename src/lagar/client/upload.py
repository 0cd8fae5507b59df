"""A version to push as one multipart body, made while it is sent: no file is read whole, no folder packed first."""

from __future__ import annotations

import secrets
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from lagar.errors import SetupError
from lagar.registry.answers import FOLDER_TYPE

PIECE_BYTES: Final = 256 * 1024
_LEFT_OUT: Final = ("__pycache__", ".git", ".venv")


class Upload:
    """Fields and files of a multipart body, in the order in which they are sent."""

    def __init__(self) -> None:
        self._boundary = f"lagar-{secrets.token_hex(16)}"
        self._fields: list[tuple[str, str]] = []
        self._files: list[tuple[str, Path]] = []

    @property
    def content_type(self) -> str:
        return f"multipart/form-data; boundary={self._boundary}"

    def field(self, name: str, value: str) -> None:
        self._fields.append((name, value))

    def file(self, name: str, path: Path) -> None:
        """A file or a folder; one that is not there is refused now, before anything is sent."""
        if not path.exists():
            raise SetupError(f"{path} does not exist: name a file or a folder")
        self._files.append((name, path.absolute()))

    def pieces(self) -> Iterator[bytes]:
        """The body."""
        for name, value in self._fields:
            yield self._head(f'name="{name}"') + value.encode() + b"\r\n"
        for name, path in self._files:
            filename = path.name.replace("\\", "\\\\").replace('"', '\\"')
            if path.is_dir():
                yield self._head(f'name="{name}"; filename="{filename}"', FOLDER_TYPE)
                yield from _packed(path)
            else:
                yield self._head(f'name="{name}"; filename="{filename}"', "application/octet-stream")
                with path.open("rb") as source:
                    while piece := source.read(PIECE_BYTES):
                        yield piece
            yield b"\r\n"
        yield f"--{self._boundary}--\r\n".encode()

    def _head(self, disposition: str, content_type: str | None = None) -> bytes:
        kind = "" if content_type is None else f"Content-Type: {content_type}\r\n"
        return f"--{self._boundary}\r\nContent-Disposition: form-data; {disposition}\r\n{kind}\r\n".encode()


def _packed(folder: Path) -> Iterator[bytes]:
    """A tar archive of the folder's files, links followed."""
    for path in _files_of(folder):
        info = tarfile.TarInfo(f"{folder.name}/{path.relative_to(folder).as_posix()}")
        info.size = left = path.stat().st_size
        yield info.tobuf(tarfile.PAX_FORMAT)
        with path.open("rb") as source:
            while left and (piece := source.read(min(PIECE_BYTES, left))):
                left -= len(piece)
                yield piece
        if left:
            raise SetupError(f"{path} became shorter while it was sent: push again")
        yield bytes(-info.size % tarfile.BLOCKSIZE)
    yield bytes(2 * tarfile.BLOCKSIZE)


def _files_of(folder: Path) -> Sequence[Path]:
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and not set(path.relative_to(folder).parts).intersection(_LEFT_OUT)
    )
