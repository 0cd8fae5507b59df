"""Files of rows, cut into bodies that the native protocol decodes: what a server would get in several requests.

JSON is one body, since it cannot be cut; CSV, NDJSON and Parquet come in pieces of some megabytes, so that a file of
any size is scored in little memory.
"""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, NamedTuple

import msgspec

from lagar.errors import InvalidInput, SetupError

Format = Literal["json", "csv", "ndjson", "parquet"]
FORMATS: Final[tuple[Format, ...]] = ("json", "csv", "ndjson", "parquet")
SUFFIXES: Final[dict[str, Format]] = {
    ".json": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".ndjson": "ndjson",
    ".jsonl": "ndjson",
    ".parquet": "parquet",
    ".pq": "parquet",
}
MEDIA_TYPES: Final[dict[Format, str]] = {
    "json": "application/json",
    "csv": "text/csv",
    "ndjson": "application/x-ndjson",
    "parquet": "application/vnd.apache.arrow.stream",
}
"""Parquet is cut into Arrow streams."""
PIECE_BYTES: Final = 4 * 1024 * 1024
PIECE_ROWS: Final = 20_000
_BOM: Final = b"\xef\xbb\xbf"


class Piece(NamedTuple):
    """Some rows of a file as a request's body; `work` is how far the file has come, in the unit of `Source.total`."""

    body: bytes
    content_type: str
    work: int


class Source:
    """An open file of rows, or stdin for `-`."""

    def __init__(self, name: str, *, piece_rows: int = PIECE_ROWS) -> None:
        self._piece_rows = piece_rows
        self.name = "stdin" if name == "-" else Path(name).name
        self._file: BinaryIO
        if name == "-":
            self._file = sys.stdin.buffer
            self.total: int | None = None
        else:
            path = Path(name)
            try:
                self._file = path.open("rb")
                self.total = path.stat().st_size
            except OSError as error:
                raise SetupError(
                    f"{name} cannot be read: {error.strerror}; name a file of rows, or - for stdin"
                ) from None
        try:
            self._first = self._file.readline(PIECE_BYTES)
            self.format: Format = SUFFIXES.get(Path(name).suffix.lower()) or self._sniffed()
        except OSError as error:
            self.close()
            raise SetupError(f"{name} cannot be read: {error.strerror}") from None
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        if self._file is not sys.stdin.buffer:
            self._file.close()

    def _sniffed(self) -> Format:
        """The format by content: Parquet's mark, one JSON value per line, one JSON value, or CSV."""
        if self._first.startswith(b"PAR1"):
            return "parquet"
        start = self._first.removeprefix(_BOM).lstrip()
        if start[:1] not in (b"{", b"["):
            return "csv" if start else "json"
        try:
            msgspec.json.decode(start)
        except (msgspec.DecodeError, RecursionError):
            return "json"
        following = self._file.readline(PIECE_BYTES)
        self._first += following
        return "ndjson" if following.strip() else "json"

    def pieces(self, *, whole: bool) -> Iterator[Piece]:
        """The file from its beginning, once; in one piece when `whole`. At least one piece, even of an empty file."""
        if self.format == "parquet":
            return self._parquet(whole)
        if self.format == "json" or (whole and self.format == "ndjson"):
            return self._whole()
        if self.format == "ndjson":
            return self._lines()
        mark = self._delimiter()
        if mark != ",":
            return self._foreign_csv(mark, whole)
        return self._whole() if whole else self._csv()

    def _whole(self) -> Iterator[Piece]:
        body = self._first + self._file.read()
        yield Piece(body, MEDIA_TYPES[self.format], len(body))

    def _all_lines(self) -> Iterator[bytes]:
        """Every line; the first reading may have gone over one line end, or stopped before it."""
        head = self._first
        if not head.endswith(b"\n"):
            head += self._file.readline()
        return chain((part + b"\n" for part in head.split(b"\n")[:-1]) if head.endswith(b"\n") else [head], self._file)

    def _lines(self) -> Iterator[Piece]:
        held: list[bytes] = []
        size = sent = 0
        for line in self._all_lines():
            held.append(line)
            size += len(line)
            if size >= PIECE_BYTES or len(held) >= self._piece_rows:
                if any(part.strip() for part in held):
                    yield Piece(b"".join(held), MEDIA_TYPES["ndjson"], size)
                    sent += 1
                held, size = [], 0
        if not sent or any(part.strip() for part in held):
            yield Piece(b"".join(held), MEDIA_TYPES["ndjson"], size)

    def _csv(self) -> Iterator[Piece]:
        records = _csv_records(self._all_lines())
        header = next(records, b"")
        if not header.endswith(b"\n"):
            header += b"\n"
        held: list[bytes] = []
        size = sent = 0
        for record in records:
            held.append(record)
            size += len(record)
            # not after a blank line: at a body's end it would be overlooked, in the middle it is an error
            if (size >= PIECE_BYTES or len(held) >= self._piece_rows) and record.strip():
                yield Piece(header + b"".join(held), MEDIA_TYPES["csv"], size)
                held, size, sent = [], 0, sent + 1
        if not sent or any(record.strip() for record in held):
            yield Piece((header if header.strip() else b"") + b"".join(held), MEDIA_TYPES["csv"], size)

    def _delimiter(self) -> str:
        """What separates the header's cells: a semicolon or a tab only where there is no comma."""
        header = self._first.splitlines()[0] if self._first.strip() else b""
        return next((mark for mark in ",;\t" if mark.encode() in header), ",")

    def _foreign_csv(self, mark: str, whole: bool) -> Iterator[Piece]:
        """CSV with semicolons or tabs, written again with commas."""
        text = io.TextIOWrapper(io.BufferedReader(_Joined(self._all_lines())), encoding="utf-8-sig", newline="")
        try:
            rows = csv.reader(text, delimiter=mark, strict=True)
            header = next(rows)
            held: list[list[str]] = []
            sent = 0
            for row in rows:
                held.append(row)
                if len(held) >= self._piece_rows and row and not whole:
                    yield _comma_piece([header, *held])
                    held, sent = [], sent + 1
            if held or not sent:
                yield _comma_piece([header, *held])
        except (csv.Error, UnicodeDecodeError) as error:
            raise InvalidInput(f"the body is not CSV: {error}") from None

    def _parquet(self, whole: bool) -> Iterator[Piece]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        content: Any = self._file
        if self._file.seekable():
            self._file.seek(0)
        else:
            content = io.BytesIO(self._first + self._file.read())
        try:
            file = pq.ParquetFile(content)
            self.total = file.metadata.num_rows
            if whole or not self.total:
                yield _arrow_piece(file.schema_arrow, file.read().to_batches(), self.total)
                return
            for batch in file.iter_batches(batch_size=self._piece_rows):
                yield _arrow_piece(batch.schema, [batch], batch.num_rows)
        except (pa.ArrowException, OSError) as error:
            first = (str(error).splitlines() or [""])[0]
            raise InvalidInput(f"the body is not a readable Parquet file: {first}") from None


class _Joined(io.RawIOBase):
    """An iterator of bytes as a readable file."""

    def __init__(self, parts: Iterator[bytes]) -> None:
        self._parts = parts
        self._left = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._left:
            self._left = next(self._parts, b"")
        size = min(len(buffer), len(self._left))
        buffer[:size] = self._left[:size]
        self._left = self._left[size:]
        return size


def _csv_records(lines: Iterator[bytes]) -> Iterator[bytes]:
    """Lines joined while a quoted cell is open: an even number of quotes ends a record."""
    held = b""
    for line in lines:
        held = held + line if held else line
        if not held.count(b'"') & 1:
            yield held
            held = b""
    if held:
        yield held


def _comma_piece(rows: list[list[str]]) -> Piece:
    out = io.StringIO(newline="")
    csv.writer(out, lineterminator="\n").writerows(rows)
    body = out.getvalue().encode()
    return Piece(body, MEDIA_TYPES["csv"], len(body))


def _arrow_piece(schema: Any, batches: list[Any], rows: int) -> Piece:
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return Piece(sink.getvalue().to_pybytes(), MEDIA_TYPES["parquet"], rows)
