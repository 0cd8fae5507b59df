"""Tensor data as bytes: little-endian, rows first, without padding; an element of BYTES stands behind its length.

V2's binary extension and the raw contents of gRPC are written this way. A blob is exactly as long as its shape and
datatype say, or it is refused.
Source: Triton, docs/protocol/extension_binary_data.md.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from lagar.errors import InvalidInput
from lagar.types import Array

Buffer = bytes | memoryview

_DTYPES: Final[dict[str, np.dtype[Any]]] = {
    "BOOL": np.dtype("u1"),
    **{f"INT{bits}": np.dtype(f"<i{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"UINT{bits}": np.dtype(f"<u{bits // 8}") for bits in (8, 16, 32, 64)},
    "FP16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
_IN_MEMORY: Final = {**_DTYPES, "BOOL": np.dtype(np.bool_)}
"""The arrays whose own bytes are the blob: numpy's bool is one byte, 0 or 1."""
NUMBERS: Final = {datatype: dtype for datatype, dtype in _DTYPES.items() if datatype not in ("BOOL", "BF16")}
"""How the datatypes lie in memory whose bytes are the numbers themselves, whatever they are."""
_LENGTH: Final = struct.Struct("<I")
LENGTH_BYTES: Final = _LENGTH.size
"""What stands before each element of BYTES."""


def size_of(datatype: str) -> int:
    """Bytes of one value of a datatype other than BYTES."""
    return _DTYPES[datatype].itemsize


def read(name: str, datatype: str, shape: Sequence[int], blob: Buffer) -> Array | list[Any]:
    """The flat values of an input: an array, or a list of str for BYTES; raises InvalidInput.

    BF16 comes as float32, which holds each of its values; the array owns its memory.
    """
    if datatype == "BYTES":
        return texts(name, blob, math.prod(shape), per_row=math.prod(shape[1:]))
    dtype = _DTYPES[datatype]
    needed = math.prod(shape) * dtype.itemsize
    if len(blob) != needed:
        raise InvalidInput(
            f"input '{name}' has shape {list(shape)} of {datatype}, which is {needed} bytes, but {len(blob)} were sent",
            field=name,
        )
    stored = np.frombuffer(blob, dtype)
    if datatype == "BF16":
        return (stored.astype(np.uint32) << 16).view(np.float32)
    if datatype == "BOOL":
        if stored.size and stored.max() > 1:
            place = int(np.argmax(stored > 1))
            row = place // max(1, math.prod(shape[1:]))
            raise InvalidInput(
                f"input '{name}' is BOOL, whose bytes are 0 or 1, got {int(stored[place])} in row {row}",
                field=name,
                row=row,
            )
        return stored.astype(np.bool_)
    return stored.astype(dtype.newbyteorder("="))


def texts(name: str, blob: Buffer, count: int | None, *, per_row: int = 1, plain: bool = False) -> list[Any]:
    """The elements of a BYTES input as text: `count` of them, None for as many as there are; raises InvalidInput.

    `plain` ones are any bytes.
    """
    found: list[Any] = []
    place, end = 0, len(blob)
    view = memoryview(blob)
    while place < end if count is None else len(found) < count:
        start = place + LENGTH_BYTES
        size = _LENGTH.unpack_from(view, place)[0] if start <= end else 0
        if start + size > end:
            wanted = "" if count is None else f" of {count}"
            raise InvalidInput(
                f"input '{name}' ends within its element {len(found) + 1}{wanted}: each element of BYTES is its length "
                "in 4 bytes, little-endian, and then so many bytes",
                field=name,
            )
        place = start + size
        try:
            found.append(bytes(view[start:place]) if plain else str(view[start:place], "utf-8"))
        except UnicodeDecodeError as error:
            row = len(found) // max(1, per_row)
            raise InvalidInput(
                f"input '{name}' must be UTF-8 text, its byte {error.start} in row {row} is none", field=name, row=row
            ) from None
    if place != end:
        raise InvalidInput(
            f"input '{name}' has {end - place} bytes behind its last element: its shape says {count} elements",
            field=name,
        )
    return found


def rounded(values: Array | Sequence[Any]) -> Array:
    """Numbers as BF16, to the nearest, as whole numbers of 16 bits."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    nearest = (bits + (np.uint32(0x7FFF) + (bits >> 16 & 1))) >> 16
    return np.where(np.isnan(bits.view(np.float32)), bits >> 16 | 0x40, nearest).astype("<u2")


def write(datatype: str, values: Array | Sequence[Any]) -> bytes:
    """The blob of an output; a null among texts is an empty one, as BYTES has no word for it."""
    if datatype == "BYTES":
        parts: list[bytes] = []
        for value in values:
            text = b"" if value is None else value if isinstance(value, bytes) else str(value).encode()
            parts += (_LENGTH.pack(len(text)), text)
        return b"".join(parts)
    if datatype == "BF16":
        return rounded(values).tobytes()
    if isinstance(values, np.ndarray) and values.dtype == _IN_MEMORY[datatype]:
        return values.tobytes()
    return np.ascontiguousarray(values, _DTYPES[datatype]).tobytes()
