"""Opens what joblib and gzip compress, in memory and with a bound on the size."""

from __future__ import annotations

import bz2
import io
import lzma
import zlib
from typing import Any, Protocol

from lagar.errors import LoadFailed, MissingLibrary

MAX_BYTES = 2 * 1024**3
MAX_RATIO = 1000
"""Decompressed over compressed size; checked above FREE_BYTES. A matrix of zeros reaches 1000 with zlib."""
FREE_BYTES = 256 * 1024**2
_CHUNK = 4 * 1024**2
_PREFIXES = (
    (b"\x1f\x8b", "gzip"),
    (b"\x78", "zlib"),
    (b"BZh", "bz2"),
    (b"\xfd7zXZ", "xz"),
    (b"\x5d\x00", "lzma"),
    (b"\x04\x22\x4d\x18", "lz4"),
)


class _Decompressor(Protocol):
    eof: bool
    unused_data: bytes | None

    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


def method(data: bytes) -> str | None:
    """The compression that the first bytes tell, or None; none of them begins a pickle."""
    return next((name for prefix, name in _PREFIXES if data.startswith(prefix)), None)


def opened(data: bytes, source: str, *, max_bytes: int = MAX_BYTES, max_ratio: int = MAX_RATIO) -> bytes:
    """The bytes inside `data`; data itself when it is not compressed.

    Raises LoadFailed when they are broken, cut short, or would come to more than max_bytes, or than max_ratio times
    the size of `data`.
    """
    name = method(data)
    if name is None:
        return data
    limit = min(max_bytes, max(FREE_BYTES, max_ratio * len(data)))
    try:
        return _expand(data, name, limit, source)
    except (zlib.error, lzma.LZMAError, OSError, ValueError, EOFError, RuntimeError) as error:
        raise LoadFailed(
            f"{source} begins like {name} but cannot be decompressed: {error}; copy or save it again"
        ) from None


def _expand(data: bytes, name: str, limit: int, source: str) -> bytes:
    made = io.BytesIO()
    rest = data
    while rest:
        stream = _decompressor(name, source)
        feed = rest
        while not stream.eof:
            piece = stream.decompress(feed, _CHUNK)
            made.write(piece)
            if made.tell() > limit:
                raise LoadFailed(
                    f"{source} has {len(data):,} bytes that decompress ({name}) to more than {limit:,}; "
                    "files that grow so much are refused: save the model again without compression"
                )
            feed = getattr(stream, "unconsumed_tail", b"")
            if not piece and not feed and not stream.eof:
                raise LoadFailed(f"{source} ends in the middle of its {name} data; copy or save it again")
        rest = stream.unused_data or b""
        if name != method(rest) or name == "zlib":
            break  # padding or garbage after the last member is not read
    return made.getvalue()


def _decompressor(name: str, source: str) -> _Decompressor:
    made: Any
    if name == "gzip":
        made = zlib.decompressobj(31)
    elif name == "zlib":
        made = zlib.decompressobj()
    elif name == "bz2":
        made = bz2.BZ2Decompressor()
    elif name in ("xz", "lzma"):
        made = lzma.LZMADecompressor(memlimit=MAX_BYTES)
    else:
        try:
            from lz4.frame import LZ4FrameDecompressor  # type: ignore[import-not-found,import-untyped,unused-ignore]
        except ImportError:
            raise MissingLibrary(f"{source} is compressed with lz4; pip install lz4") from None
        made = LZ4FrameDecompressor()
    return made  # type: ignore[no-any-return]
