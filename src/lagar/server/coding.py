"""Content codings of bodies: gzip and deflate, bounded by what comes out of them; the same for answers where asked."""

from __future__ import annotations

import zlib
from typing import Final

from lagar.errors import InvalidInput, PayloadTooLarge, UnsupportedMediaType

GZIP, DEFLATE = "gzip", "deflate"
CODINGS: Final = (GZIP, DEFLATE)
_WINDOWS: Final = {GZIP: 31, DEFLATE: zlib.MAX_WBITS}
"""zlib's words for a gzip and a zlib frame."""
_RAW: Final = -zlib.MAX_WBITS
_MAX_FRAMES: Final = 16
"""Of gzip; each is read by itself, and a body of a million empty ones would take minutes."""
LARGE_AT_ONCE: Final = 2
"""Bodies that a worker unpacks and reads at the same time, of those that take long: 60 kB of gzip may be 60 MB, and
hundreds of them would wait in memory, each for the thread that reads it."""
_LEVEL: Final = 1
"""Numbers as text hardly become smaller at more than twice the cost."""


def coding_of(content_encoding: str | None) -> str:
    """The coding of a body by its header, "" for none; raises UnsupportedMediaType."""
    name = (content_encoding or "").strip().lower()
    if name in ("", "identity"):
        return ""
    if name == "x-gzip":
        return GZIP
    if name not in CODINGS:
        raise UnsupportedMediaType(
            f"content-encoding {content_encoding!r:.60} is not read here: send the body as it is, or in one of "
            f"{', '.join(CODINGS)}"
        )
    return name


def unpacked(body: bytes, coding: str, limit: int) -> bytes:
    """What was packed, of at most `limit` bytes; raises PayloadTooLarge, and InvalidInput for what is not that coding.

    Never more than `limit` bytes and one are made, however small the body is.
    """
    parts: list[bytes] = []
    size = 0
    while body or not parts:
        if len(parts) == _MAX_FRAMES:
            raise InvalidInput(f"the body has more than {_MAX_FRAMES} {coding} members: send it as one")
        piece, body = _frame(body, coding, limit + 1 - size)
        parts.append(piece)
        size += len(piece)
        if size > limit:
            raise PayloadTooLarge(
                f"the body is larger than {limit} bytes once it is unpacked; send fewer rows per request, or raise the "
                "server's max_body_bytes"
            )
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _frame(body: bytes, coding: str, limit: int) -> tuple[bytes, bytes]:
    """What is in the first frame, and what stands behind it: gzip may have several."""
    try:
        reader = zlib.decompressobj(_WINDOWS[coding])
        try:
            data = reader.decompress(body, limit)
        except zlib.error:
            if coding != DEFLATE:
                raise
            reader = zlib.decompressobj(_RAW)  # what many clients call deflate has no frame
            data = reader.decompress(body, limit)
    except zlib.error as error:
        reason = str(error).partition(": ")[2] or str(error)
        raise InvalidInput(f"the body is not {coding}, as its content-encoding says: {reason}") from None
    if not reader.eof and len(data) < limit:
        raise InvalidInput(f"the body ends before its {coding} data does")
    if reader.unused_data and coding == DEFLATE:
        raise InvalidInput(f"{len(reader.unused_data)} bytes stand behind the deflate data of the body")
    return data, reader.unused_data


def accepted(accept_encoding: str | None) -> str:
    """The coding that a client takes its answer in, the first of ours that it does not rule out; "" for none."""
    for item in (accept_encoding or "").lower().split(","):
        name, _, parameters = item.partition(";")
        name = name.strip()
        if name in CODINGS and parameters.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000"):
            return name
    return ""


def packed(body: bytes, coding: str) -> bytes:
    """The body in a coding."""
    writer = zlib.compressobj(_LEVEL, zlib.DEFLATED, _WINDOWS[coding])
    return writer.compress(body) + writer.flush()
