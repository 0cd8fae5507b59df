"""Versions in the order in which people read them: v1.0.10 after v1.0.9, 10 after 9."""

from __future__ import annotations

import re
from collections.abc import Iterable

_PIECE = re.compile(r"\d+|[^\d]+")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def natural_key(version: str) -> tuple[tuple[int, int, str], ...]:
    """The key by which versions sort: digits as numbers, a leading v dropped, `1.0-rc1` before `1.0`.

    The text itself comes last, so that two versions never tie ("1" and "01").
    """
    text = version[1:] if re.match(r"[vV]\d", version) else version
    key: list[tuple[int, int, str]] = []
    for piece in _PIECE.findall(text):
        if piece.isdigit():
            key.append((2, int(piece), ""))
        else:
            # A pre-release ("-rc1", "-beta") sorts before the end of the text, any other text after it.
            rank = 0 if re.match(r"[-._]?(dev|a|alpha|b|beta|c|rc|pre|preview)(?![a-z])", piece.lower()) else 3
            key.append((rank, 0, piece))
    key.append((1, 0, ""))
    return (*key, (0, 0, version))


def greatest(versions: Iterable[str]) -> str:
    """The last version in natural order; ValueError when there is none."""
    return max(versions, key=natural_key)


def short(sha256: str) -> str:
    """The first eight digits of a hash; more where these alone are a number: a push would count on from it."""
    length = 8
    while sha256[:length].isdigit() and length < len(sha256):
        length += 1
    return sha256[:length]


def is_name(text: str) -> bool:
    """Whether text may name a model or a version: it stands in paths, labels and file names."""
    return _NAME.fullmatch(text) is not None
