"""V2 bodies that differ in nothing but their numbers and their id.

A client writes the same text around its numbers again and again: names, shapes, datatypes, even its blanks. Once a body
with one input per field was found good, the next one that has the same text around its numbers is that request with
other numbers, and only these are left to be read: 39 inputs then cost little more than one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from lagar.protocols import json_body
from lagar.protocols.v2_request import MAX_ID

MIN_BODY_BYTES: Final = 512
"""A smaller one is read as quickly as its layout is found; and a small matrix is not looked up in vain."""
MAX_BODY_BYTES: Final = 64 * 1024
"""Of larger ones reading the numbers is nearly all."""
_MAX_LAYOUTS: Final = 32
_MAX_TEXT_BYTES: Final = 32 * 1024
"""Of one layout."""
_MAX_BYTES: Final = 256 * 1024
"""Of the texts of all layouts of a model."""
_LEARN_EVERY: Final = 16
"""With all places taken, or where another layout begins alike, one in so many is learned: learning is not free."""
_DATA: Final = b'"data"'
_ID_FIRST: Final = (b'{"id": "', b'{"id":"')
_ID_LAST: Final = (b'"id": "', b'"id":"')
_MARK: Final = re.compile(rb'"data"[ \t\r\n]*:[ \t\r\n]*\[')
_FENCE: Final = b"1e300"
"""Set behind the numbers of each input before they are read as one list: where one input has too many and another too
few, a fence is out of its place, and stands among the numbers as one beyond 2^53, which the caller never takes."""
_FENCED: Final = b",%b," % _FENCE


class Layout:
    """The text around the numbers of a body."""

    __slots__ = ("around", "datatypes", "head", "mark", "n", "order", "tails", "width")

    def __init__(
        self, head: bytes, mark: bytes, tails: list[bytes], n: int, datatypes: tuple[str, ...], order: list[int] | None
    ) -> None:
        self.head = head
        """All before the first number."""
        self.mark = mark
        """What comes before the first number of every input: the key, the colon, the bracket."""
        self.tails = tails
        """What stands between the last number of an input and the mark of the next one, or the end."""
        self.width = len(tails)
        self.n = n
        self.datatypes = datatypes[0] if len(set(datatypes)) == 1 else datatypes
        """In the order of the fields, or the one of all."""
        self.order = order
        """The place of each field in the body, where that is not the order of the fields."""
        self.around = len(head) + sum(map(len, tails)) + (len(mark) - len(_FENCED)) * (self.width - 1)
        """By how many bytes a body is longer than its numbers with fences between the inputs."""


class Layouts:
    """The layouts of the bodies that one model was sent."""

    __slots__ = ("_bytes", "_known", "_missed")

    def __init__(self) -> None:
        self._known: dict[bytes, Layout] = {}
        self._bytes = 0
        self._missed = 0

    def read(self, body: bytes) -> tuple[Layout, NDArray[np.float64], str | None] | None:
        """The layout, the numbers by field and row, and the id of a body of a known layout.

        A number that is 1e300 may be out of place: its body needs a closer look, as with any number beyond 2^53.
        """
        if not self._known or not MIN_BODY_BYTES <= len(body) <= MAX_BODY_BYTES:
            return None
        body, given_id = anonymous(body)
        end = body.find(b"[", body.find(_DATA)) + 1
        layout = self._known.get(body[:end])
        if layout is None:
            return None
        pieces = body[end:].split(layout.mark)
        if len(pieces) != layout.width:
            return None
        text = _FENCED.join(map(bytes.removesuffix, pieces, layout.tails))
        if len(text) != len(body) - layout.around:
            return None  # an input that ends otherwise has kept its end
        flat = json_body.read_numbers(b"[%b,%b]" % (text, _FENCE), _flat)
        width, n = layout.width, layout.n
        if flat is None or flat.size != width * (n + 1) or b"[" in text:
            return None
        values = flat.reshape(width, n + 1)[:, :n]
        return layout, values if layout.order is None else values[layout.order], given_id

    def learn(
        self, body: bytes, given_id: str | None, datatypes: Sequence[str], n: int, order: list[int] | None
    ) -> None:
        """Remember the layout of a body of n rows that has one flat list per field and no other members, each key once.

        `datatypes` are in the order of the fields, `order` is as in `Layout`.
        """
        if not MIN_BODY_BYTES <= len(body) <= MAX_BODY_BYTES:
            return
        body, found_id = anonymous(body)
        if found_id != given_id:
            return
        start = body.find(_DATA)
        end = body.find(b"[", start) + 1
        head, mark = body[:end], body[start:end]
        if not _MARK.fullmatch(mark):
            return  # the first input is called "data"
        if (len(self._known) == _MAX_LAYOUTS or head in self._known) and not self._is_due():
            return
        pieces = body[end:].split(mark)
        # A mark is a key and its list: a string would have to write its quotes as \". As many marks as inputs: the data
        # of every input stands behind one. And a list of numbers goes on to the first bracket.
        if len(pieces) == len(datatypes):
            tails = [piece[piece.find(b"]") :] for piece in pieces]
            self._keep(Layout(head, mark, tails, n, tuple(datatypes), order))

    def _is_due(self) -> bool:
        """Whether a body is learned although another layout is lost with it."""
        self._missed += 1
        return self._missed % _LEARN_EVERY == 0

    def _keep(self, layout: Layout) -> None:
        size = len(layout.head) + sum(map(len, layout.tails))
        if size > _MAX_TEXT_BYTES:
            return
        if len(self._known) == _MAX_LAYOUTS or self._bytes + size > _MAX_BYTES:
            self._known.clear()
            self._bytes = 0
        self._bytes += size
        self._known[layout.head] = layout


def anonymous(text: bytes) -> tuple[bytes, str | None]:
    """A JSON text without the characters of its member `id`, and that id.

    (text, None) unless it stands first or last and has no character that is written otherwise in JSON. Whoever finds
    the shortened text to be a good request has found the text to be one, with this id.
    """
    if text.startswith(_ID_FIRST):
        start = text.find(b'"', 5) + 1
        stop = text.find(b'"', start)
    elif text.endswith(b'"}'):
        stop = len(text) - 2
        start = text.rfind(b'"', 0, stop) + 1
        if not text.endswith(_ID_LAST, 0, start):
            return text, None
    else:
        return text, None
    given = text[start:stop]
    if stop < 0 or len(given) > MAX_ID or b"\\" in given or not given.isascii():
        return text, None
    given_id = given.decode("ascii")
    return (text[:start] + text[stop:], given_id) if given_id.isprintable() else (text, None)


def _flat(document: Any) -> NDArray[np.float64]:
    return np.frombuffer(document.as_buffer(of_type="d"))
