"""A version that is pushed over HTTP, from the wire to a folder: written as it comes, never held."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import IO, Any, Final

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from lagar.control.pushing import Part
from lagar.errors import InvalidInput
from lagar.registry.answers import FOLDER_TYPE
from lagar.settings import suggestion

FIELDS: Final = ("version", "alias", "note", "metric", "compile", "trust")
"""What is said of a version: form fields before the files, or the query of a body that is the model's file itself."""
FILES: Final = ("model", "example", "training_data", "requirements", "code")
_REPEATED: Final = ("metric", "code")
MAX_FIELD_BYTES: Final = 16 * 1024
MAX_PARTS: Final = 200
_WRITE_BYTES: Final = 1024 * 1024
_CODINGS: Final = ("", "identity")


class Received:
    """What came: texts by field, files by part, in the order in which they came."""

    def __init__(self) -> None:
        self.fields: dict[str, list[str]] = {}
        self.files: list[Part] = []

    def add_field(self, name: str, value: str) -> None:
        if name not in FIELDS:
            raise InvalidInput(f"a push has no field {name!r}{_hint(name, (*FIELDS, *FILES))}")
        values = self.fields.setdefault(name, [])
        values.append(value)
        if len(values) > 1 and name not in _REPEATED:
            raise InvalidInput(f"the field {name!r} is given {len(values)} times, once is the rule")

    def add_file(self, folder: Path, name: str, filename: str, content_type: str) -> IO[bytes]:
        """The open file for a part, in a folder of its own; raises InvalidInput for a part that there is not."""
        if name not in FILES:
            raise InvalidInput(f"a push has no file {name!r}{_hint(name, (*FILES, *FIELDS))}")
        if name not in _REPEATED and any(part.name == name for part in self.files):
            raise InvalidInput(f"the file {name!r} is given twice, once is the rule")
        packed = content_type == FOLDER_TYPE
        place = folder / f"{len(self.files)}"
        place.mkdir()
        path = place / (plain_name(filename) + (".tar" if packed else ""))
        self.files.append(Part(name, str(path), packed))
        return path.open("xb")


def _hint(name: str, known: tuple[str, ...]) -> str:
    return suggestion(name, known) or f"; there are {', '.join(known)}"


def plain_name(filename: str) -> str:
    """The name of a file as a caller gave it, without folders; raises InvalidInput for one that no file can have."""
    name = re.split(r"[/\\]", filename)[-1]
    if name in ("", ".", "..") or len(name.encode()) > 200 or not name.isprintable():
        raise InvalidInput(f"a file needs a name of 1 to 200 printable characters, got {filename[:80]!r}")
    return name


async def receive(request: Request, folder: Path) -> Received:
    """Write the body of a push into the folder: multipart/form-data, or the model's file itself.

    Raises InvalidInput, and starlette's ClientDisconnect when the body ends before its end.
    """
    coding = request.headers.get("content-encoding", "").strip().lower()
    if coding not in _CODINGS:
        raise InvalidInput(f"content-encoding {coding[:40]!r} is not read here: send the file as it is")
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if kind == b"multipart/form-data":
        boundary = options.get(b"boundary", b"")
        if not 0 < len(boundary) <= 200:
            raise InvalidInput("multipart/form-data needs a boundary of 1 to 200 characters in Content-Type")
        return await _receive_parts(request, folder, boundary)
    return await _receive_file(request, folder, kind.decode("latin-1"))


async def _receive_file(request: Request, folder: Path, kind: str) -> Received:
    received = Received()
    query = list(request.query_params.multi_items())
    filename = next((value for name, value in query if name == "filename"), None)
    for name, value in query:
        if name != "filename":
            received.add_field(name, value)
    if filename is None:
        raise InvalidInput(
            "the model's file needs a name: add ?filename=model.joblib, or send multipart/form-data with a part 'model'"
        )
    size = 0
    with received.add_file(folder, "model", filename, kind) as file:
        async for piece in _pieces(request):
            size += len(piece)
            await asyncio.to_thread(file.write, piece)
    if not size:
        raise InvalidInput("the body is empty: send the model's file as it is, or multipart/form-data")
    return received


async def _receive_parts(request: Request, folder: Path, boundary: bytes) -> Received:
    received = Received()
    parts = _Parts(received, folder)
    parser = MultipartParser(boundary, parts.callbacks())
    try:
        async for piece in _pieces(request):
            await asyncio.to_thread(parser.write, piece)
        parser.finalize()
    except MultipartParseError as error:
        raise InvalidInput(f"the body is not multipart/form-data: {error}") from None
    finally:
        parts.close()
    if not parts.ended:
        raise InvalidInput("the multipart body ends before its last boundary: send it again")
    for name, value in request.query_params.multi_items():
        received.add_field(name, value)
    return received


async def _pieces(request: Request) -> Any:
    """The body in larger pieces than it comes in: each is a trip to a thread."""
    held: list[bytes] = []
    size = 0
    async for piece in request.stream():
        held.append(piece)
        size += len(piece)
        if size >= _WRITE_BYTES:
            yield b"".join(held)
            held, size = [], 0
    if size:
        yield b"".join(held)


class _Parts:
    """What the parser calls as it reads a multipart body."""

    def __init__(self, received: Received, folder: Path) -> None:
        self._received = received
        self._folder = folder
        self._headers: dict[str, bytes] = {}
        self._name = b""
        self._value = b""
        self._field = ""
        self._text = b""
        self._file: IO[bytes] | None = None
        self._count = 0
        self.ended = False

    def callbacks(self) -> Any:
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._header_name,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_part_data": self._data,
            "on_part_end": self._end,
            "on_end": self._all,
        }

    def _begin(self) -> None:
        self._count += 1
        if self._count > MAX_PARTS:
            raise InvalidInput(f"a push has at most {MAX_PARTS} parts: pack the code into one folder")
        self._headers = {}
        self._text = b""

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]
        self._check(len(self._name))

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]
        self._check(len(self._value))

    def _header_end(self) -> None:
        self._headers[self._name.decode("latin-1").lower()] = self._value
        self._check(len(self._headers) * 256)
        self._name = self._value = b""

    def _headers_finished(self) -> None:
        disposition, options = parse_options_header(self._headers.get("content-disposition", b""))
        name = options.get(b"name", b"").decode("utf-8", "replace")
        if disposition != b"form-data" or not name:
            raise InvalidInput("each part of the body needs Content-Disposition: form-data with a name")
        if b"filename" in options:
            filename = options[b"filename"].decode("utf-8", "replace")
            content_type = parse_options_header(self._headers.get("content-type", b""))[0].decode("latin-1")
            self._file = self._received.add_file(self._folder, name, filename, content_type)
        elif name in FILES:
            raise InvalidInput(f"the part {name!r} is a file: give it a filename (curl -F {name}=@FILE)")
        else:
            self._field = name

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._file is not None:
            self._file.write(data[start:end])
            return
        self._text += data[start:end]
        self._check(len(self._text))

    def _end(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
            return
        try:
            self._received.add_field(self._field, self._text.decode())
        except UnicodeDecodeError:
            raise InvalidInput(f"the field {self._field!r} is not UTF-8") from None

    def _all(self) -> None:
        self.ended = True

    def _check(self, size: int) -> None:
        if size > MAX_FIELD_BYTES:
            raise InvalidInput(f"a field or a header of a part has more than {MAX_FIELD_BYTES} bytes")

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
