"""Tables in and out: CSV, Arrow IPC streams and Parquet.

What is read becomes one list of values per column. pyarrow is imported when such a body comes, never before: it costs
45 MB and half a second. Bounds are checked before anything is decompressed.
"""

from __future__ import annotations

import csv
import io
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from lagar.errors import InvalidInput, PayloadTooLarge, UnsupportedMediaType
from lagar.protocols.base import Limits, shown

Columns = dict[str, list[Any]]

_NUMBER: Final = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_WHOLE: Final = re.compile(r"[+-]?\d{1,400}", re.ASCII)
_CHARSETS: Final = {
    "utf-8": "utf-8-sig",  # spreadsheets write a byte order mark
    "utf8": "utf-8-sig",
    "us-ascii": "ascii",
    "ascii": "ascii",
    "iso-8859-1": "latin-1",
    "latin-1": "latin-1",
    "latin1": "latin-1",
    "windows-1252": "cp1252",
    "cp1252": "cp1252",
    "utf-16": "utf-16",
}


def read_csv(body: bytes, charset: str | None, limits: Limits) -> Columns:
    """The cells of a CSV body with a header, as text; raises InvalidInput with the row."""
    encoding = _CHARSETS.get(charset or "utf-8")
    if encoding is None:
        raise UnsupportedMediaType(f"charset {shown(charset)} is not understood: send UTF-8")
    try:
        text = body.decode(encoding)
    except UnicodeError as error:
        raise InvalidInput(f"the CSV body is not {charset or 'UTF-8'}: {error}") from None
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except csv.Error as error:
        raise InvalidInput(f"the body is not CSV: {error}") from None
    while rows and not rows[-1]:
        rows.pop()
    if not rows or not any(rows[0]):
        raise InvalidInput("the CSV body is empty: a header line and at least one row were expected")
    header = rows.pop(0)
    _check_names(header)
    if not rows:
        raise InvalidInput("the CSV body has a header and no rows")
    _check_rows(len(rows), limits)
    for row, cells in enumerate(rows):
        if len(cells) != len(header):
            got = "is blank" if not cells else f"has {len(cells)} cells"
            raise InvalidInput(f"row {row} {got}, the header has {len(header)}", row=row)
    return {name: list(cells) for name, cells in zip(header, zip(*rows, strict=True), strict=True)}


def cells_as(kind: str, cells: Sequence[str], *, nullable: bool) -> list[Any]:
    """Text cells as values of a field's type; what does not read as one stays text, for the field's rule to refuse.

    An empty cell is null, except in a text field that does not take null: there it is the empty text.
    """
    if kind == "string":
        return [None if cell == "" and nullable else cell for cell in cells]
    if kind == "bool":
        return [_BOOLS.get(cell.strip().lower(), cell) if cell.strip() else None for cell in cells]
    return [_number_or_text(cell) for cell in cells]


_BOOLS: Final[dict[str, Any]] = {"true": True, "false": False}


def _number_or_text(cell: str) -> Any:
    text = cell.strip()
    if not text:
        return None
    if _WHOLE.fullmatch(text):
        return int(text)
    return float(text) if _NUMBER.fullmatch(text) else cell


def _check_names(names: Sequence[Any]) -> None:
    seen: set[Any] = set()
    for name in names:
        if name in seen:
            raise InvalidInput(f"the column {shown(name)} is there twice", field=str(name))
        seen.add(name)


def _check_rows(n: int, limits: Limits) -> None:
    if n > limits.max_rows:
        raise PayloadTooLarge(f"the request has {n} rows, at most {limits.max_rows} are taken at once")


def write_csv(columns: Mapping[str, Sequence[Any]]) -> bytes:
    """CSV with a header; null and NaN are empty cells."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    for row in zip(*columns.values(), strict=True):
        writer.writerow(["" if value is None or value != value else value for value in row])
    return out.getvalue().encode()


def write_arrow(columns: Mapping[str, Any]) -> bytes:
    """An Arrow IPC stream of one record batch."""
    import pyarrow as pa

    table = pa.table({name: pa.array(values) for name, values in columns.items()})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def read_arrow(
    body: bytes, limits: Limits, wanted: frozenset[str] | None = None, moments: frozenset[str] = frozenset()
) -> Columns:
    """The columns of an Arrow IPC stream; `wanted` None: all of them; `moments` may be dates and times."""
    rows, size = _arrow_sizes(body)
    _check_rows(rows, limits)
    _check_size(size, limits)
    import pyarrow as pa

    try:
        with pa.ipc.open_stream(pa.py_buffer(body)) as reader:
            names = reader.schema.names
            batches = list(reader)
        for batch in batches:
            batch.validate(full=True)  # offsets of a hostile body would be followed blindly
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise InvalidInput(f"the body is not an Arrow IPC stream: {_first_line(error)}") from None
    return _columns_of(names, batches, wanted, moments)


def read_parquet(
    body: bytes, limits: Limits, wanted: frozenset[str] | None = None, moments: frozenset[str] = frozenset()
) -> Columns:
    """The columns of a Parquet file; rows and sizes are checked in its footer before a page is read."""
    if len(body) < 12 or body[:4] != b"PAR1" or body[-4:] != b"PAR1":
        raise InvalidInput("the body is not Parquet: it must begin and end with PAR1")
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        source = pa.BufferReader(body)
        meta = pq.read_metadata(source)
        _check_rows(meta.num_rows, limits)
        _check_size(sum(meta.row_group(index).total_byte_size for index in range(meta.num_row_groups)), limits)
        schema = meta.schema.to_arrow_schema()
        # Dictionary pages stay dictionaries: one long text in a million rows is then one text.
        texts = [field.name for field in schema if _is_text(field.type)]
        names = [name for name in schema.names if wanted is None or name in wanted]
        file = pq.ParquetFile(pa.BufferReader(body), read_dictionary=texts)
        batches, size = [], 0
        for batch in file.iter_batches(batch_size=4096, columns=names, use_threads=False):
            size += batch.nbytes
            _check_size(size, limits)
            batch.validate(full=True)
            batches.append(batch)
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise InvalidInput(f"the body is not a readable Parquet file: {_first_line(error)}") from None
    return _columns_of(schema.names, batches, wanted, moments)


def _check_size(size: int, limits: Limits) -> None:
    if size > limits.max_decoded_bytes:
        raise PayloadTooLarge(f"the body unpacks to {size} bytes, at most {limits.max_decoded_bytes} are taken at once")


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _columns_of(
    names: Sequence[str], batches: Sequence[Any], wanted: frozenset[str] | None, moments: frozenset[str]
) -> Columns:
    _check_names(names)
    if not sum(batch.num_rows for batch in batches):
        raise InvalidInput("there are no rows in the body")
    columns: Columns = {}
    for name in names:
        if wanted is None or name in wanted:
            values: list[Any] = []
            for batch in batches:
                values.extend(_values(name, batch.column(batch.schema.names.index(name)), moment=name in moments))
            columns[name] = values
        else:
            columns[name] = []  # its name may matter, its values never do
    return columns


def _values(name: str, array: Any, *, moment: bool = False) -> list[Any]:
    """The values of a column; those of dates and times are ISO 8601 where the field takes such."""
    import pyarrow as pa

    if moment and (pa.types.is_timestamp(array.type) or pa.types.is_date(array.type)):
        array = array.cast(pa.string())
    kind = array.type
    if pa.types.is_dictionary(kind):
        known = _values(name, array.dictionary)
        return [None if index is None else known[index] for index in array.indices.to_pylist()]
    plain = _is_text(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    if not plain and not pa.types.is_null(kind):
        raise InvalidInput(
            f"column {shown(name)} is of type {kind}: numbers, true/false and text are taken", field=name
        )
    values: list[Any] = array.to_pylist()
    return values


# Arrow's stream framing, read just far enough to know what it will unpack to (Arrow format, "Encapsulated message
# format" and Message.fbs). A compressed buffer begins with its unpacked length.

_RECORD_BATCH: Final = 3
_DICTIONARY_BATCH: Final = 2


def _arrow_sizes(body: bytes) -> tuple[int, int]:
    """(rows, bytes once decompressed) that the stream announces; raises InvalidInput when it is no stream."""
    rows = size = 0
    try:
        for kind, header, start, length in _messages(body):
            if kind == _DICTIONARY_BATCH:
                header = _reference(body, header, 1)
            elif kind != _RECORD_BATCH:
                continue
            else:
                rows += _signed(body, _slot(body, header, 0))
            size += _unpacked(body, header, start) if _slot(body, header, 3) else length
            if rows < 0 or size < 0:
                raise IndexError
    except (struct.error, IndexError):
        raise InvalidInput("the body is not an Arrow IPC stream") from None
    return rows, size


def _messages(body: bytes) -> Iterator[tuple[int, int, int, int]]:
    """(header type, offset of the header table, offset of the message body, its length) per message."""
    at = 0
    if len(body) < 8:
        raise IndexError
    while at + 4 <= len(body):
        (length,) = struct.unpack_from("<i", body, at)
        at += 4
        if length == -1:
            (length,) = struct.unpack_from("<i", body, at)
            at += 4
        if length == 0:
            return
        if length < 0 or at + length > len(body):
            raise IndexError
        table = at + struct.unpack_from("<I", body, at)[0]
        kind_at, header = _slot(body, table, 1), _reference(body, table, 2)
        start, size = at + length, _signed(body, _slot(body, table, 3))
        if size < 0 or start + size > len(body):
            raise IndexError
        yield body[kind_at] if kind_at else 0, header, start, size
        at = start + size


def _slot(body: bytes, table: int, index: int) -> int:
    """Offset of a field of a flatbuffer table; 0 when it is absent."""
    vtable = table - struct.unpack_from("<i", body, table)[0]
    if vtable < 0 or table < 0:
        raise IndexError
    (size,) = struct.unpack_from("<H", body, vtable)
    entry = 4 + 2 * index
    if entry + 2 > size:
        return 0
    (offset,) = struct.unpack_from("<H", body, vtable + entry)
    return table + offset if offset else 0


def _reference(body: bytes, table: int, index: int) -> int:
    at = _slot(body, table, index)
    if not at:
        raise IndexError
    return at + int(struct.unpack_from("<I", body, at)[0])


def _signed(body: bytes, at: int) -> int:
    return int(struct.unpack_from("<q", body, at)[0]) if at else 0


def _unpacked(body: bytes, batch: int, start: int) -> int:
    vector = _reference(body, batch, 2)
    (count,) = struct.unpack_from("<I", body, vector)
    total = 0
    for index in range(count):
        offset, length = struct.unpack_from("<qq", body, vector + 4 + 16 * index)
        if length <= 0:
            continue
        if offset < 0:
            raise IndexError
        (unpacked,) = struct.unpack_from("<q", body, start + offset)
        if unpacked < -1:
            raise IndexError
        total += length if unpacked == -1 else unpacked
    return total
