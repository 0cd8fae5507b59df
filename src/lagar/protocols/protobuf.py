"""Protocol buffers on the wire: fields out of bytes, bytes out of fields.

Tensors are read straight into numpy arrays: an object per value costs more than a small model does.
Source: protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from lagar.errors import InvalidInput

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
_MAX_VARINT_BYTES = 10
MAX_FIELDS: Final = 65_536
"""Beside each other in one message: each takes 150 bytes here, and may be two of the message."""
_SHORT: Final = 24
"""Up to so many bytes a loop over packed numbers is quicker than numpy."""

Found = tuple[int, int, int]
"""Tag (field number and wire type), and where the value begins and ends; for VARINT the value itself, and 0."""


def fields(data: bytes, at: int = 0, stop: int | None = None) -> list[Found]:
    """The fields of the message in data[at:stop], in their order; raises InvalidInput when it is none.

    Of a message with as many as `MAX_FIELDS` it is that too: what repeats without end is read with `walk`.
    """
    end = len(data) if stop is None else stop
    found, at = _some(data, at, end)
    if at < end:
        raise InvalidInput(f"the message has more than {MAX_FIELDS} fields beside each other")
    return found


def walk(data: bytes, at: int, stop: int) -> Iterator[Found]:
    """The same one by one, however many there are."""
    while at < stop:
        found, at = _some(data, at, stop)
        yield from found


def _some(data: bytes, at: int, end: int) -> tuple[list[Found], int]:
    """The first fields of data[at:end], and where the next one begins."""
    found: list[Found] = []
    try:
        while at < end and len(found) < MAX_FIELDS:
            tag = data[at]
            at += 1
            if tag > 127:
                tag, at = varint_at(data, at - 1)
            kind = tag & 7
            if kind == LENGTH:
                size = data[at]
                at += 1
                if size > 127:
                    size, at = varint_at(data, at - 1)
                found.append((tag, at, at + size))
                at += size
            elif kind == VARINT:
                value, at = varint_at(data, at)
                found.append((tag, value, 0))
            elif kind in (FIXED64, FIXED32):
                size = 8 if kind == FIXED64 else 4
                found.append((tag, at, at + size))
                at += size
            else:
                raise malformed(f"a field of wire type {kind}")
            if tag < 8:
                raise malformed("a field of number 0")
    except IndexError:
        raise malformed("it ends within a field") from None
    if at > end:
        raise malformed("a field is longer than its message")
    return found, at


def malformed(why: str) -> InvalidInput:
    """The refusal of bytes that are no message."""
    return InvalidInput(f"the message cannot be read as protocol buffers: {why}")


def varint_at(data: bytes, at: int) -> tuple[int, int]:
    """The number that begins at data[at], of 64 bits without a sign, and where it ends."""
    value = shift = 0
    for _ in range(_MAX_VARINT_BYTES):
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & 0xFFFF_FFFF_FFFF_FFFF, at
        shift += 7
    raise malformed("a number of more than 64 bits")


def signed(value: int) -> int:
    """A number of 64 bits as its two's complement says."""
    return value - (1 << 64) if value >= 1 << 63 else value


def text_at(data: bytes, at: int, stop: int) -> str:
    """The text in data[at:stop]; raises InvalidInput unless it is UTF-8."""
    try:
        return data[at:stop].decode("utf-8")
    except UnicodeDecodeError:
        raise malformed("a text is not UTF-8") from None


def packed_varints(data: bytes, at: int, stop: int) -> NDArray[np.uint64]:
    """The numbers that stand behind each other in data[at:stop]."""
    if stop - at <= _SHORT:
        values: list[int] = []
        while at < stop:
            try:
                value, at = varint_at(data, at)
            except IndexError:
                at = stop + 1
            values.append(value if at <= stop else 0)
        if at > stop:
            raise malformed("a number ends behind its list")
        return np.array(values, np.uint64)
    raw = np.frombuffer(data, np.uint8, stop - at, at)
    ends = np.flatnonzero(raw < 128)
    if not ends.size or ends[-1] != raw.size - 1:
        raise malformed("a number ends behind its list")
    if ends.size == raw.size:
        return raw.astype(np.uint64)
    starts = np.concatenate((np.zeros(1, ends.dtype), ends[:-1] + 1))
    lengths = ends - starts + 1
    if lengths.max() > _MAX_VARINT_BYTES:
        raise malformed("a number of more than 64 bits")
    shifts = 7 * (np.arange(raw.size) - np.repeat(starts, lengths))
    parts = (raw & 127).astype(np.uint64) << shifts.astype(np.uint64)
    found: NDArray[np.uint64] = np.bitwise_or.reduceat(parts, starts)
    return found


# Bytes out of fields.


def varint(value: int) -> bytes:
    """A number of 64 bits; a negative one as its two's complement."""
    if 0 <= value < 128:
        return _ONE_BYTE[value]
    value &= 0xFFFF_FFFF_FFFF_FFFF
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


_ONE_BYTE: Final = [bytes((value,)) for value in range(128)]


def tag(number: int, kind: int) -> bytes:
    return varint(number << 3 | kind)


def of_length(number: int, value: bytes) -> bytes:
    """A field of bytes, of text, of a message or of packed numbers."""
    return tag(number, LENGTH) + varint(len(value)) + value


def of_number(number: int, value: int) -> bytes:
    return tag(number, VARINT) + varint(value)


def of_double(number: int, value: float) -> bytes:
    return tag(number, FIXED64) + struct.pack("<d", value)


def varints(values: Iterable[int]) -> bytes:
    """Numbers behind each other."""
    return b"".join([varint(value) for value in values])


def dimensions(shape: Sequence[int]) -> bytes:
    """A shape as packed numbers: nearly always a byte each."""
    return varints(shape)
