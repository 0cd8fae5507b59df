"""Packed bodies: gzip and deflate in every form that clients send, and a bound on what comes out of them."""

from __future__ import annotations

import contextlib
import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lagar.errors import InvalidInput, PayloadTooLarge, RequestError, UnsupportedMediaType
from lagar.server.coding import accepted, coding_of, packed, unpacked

TEXT = b'{"inputs": []}' * 100


def raw(data: bytes) -> bytes:
    writer = zlib.compressobj(wbits=-15)
    return writer.compress(data) + writer.flush()


@pytest.mark.parametrize(
    ("body", "coding"),
    [
        (gzip.compress(TEXT), "gzip"),
        (gzip.compress(TEXT[:50]) + gzip.compress(TEXT[50:]), "gzip"),
        (zlib.compress(TEXT), "deflate"),
        (raw(TEXT), "deflate"),
        (packed(TEXT, "gzip"), "gzip"),
        (packed(TEXT, "deflate"), "deflate"),
    ],
)
def test_every_form_is_unpacked(body: bytes, coding: str) -> None:
    assert unpacked(body, coding, len(TEXT)) == TEXT


def test_a_bomb_is_refused_at_its_bound() -> None:
    for coding, bomb in (("gzip", gzip.compress(bytes(50_000_000))), ("deflate", zlib.compress(bytes(50_000_000)))):
        with pytest.raises(PayloadTooLarge, match="larger than 1000 bytes once it is unpacked"):
            unpacked(bomb, coding, 1000)
    with pytest.raises(PayloadTooLarge):
        unpacked(gzip.compress(bytes(600)) * 2, "gzip", 1000)


def test_a_body_of_very_many_members_is_refused() -> None:
    with pytest.raises(InvalidInput, match="more than 16 gzip members"):
        unpacked(gzip.compress(b"") * 10_000, "gzip", 1000)


@pytest.mark.parametrize(
    ("body", "coding", "words"),
    [
        (b"", "gzip", "ends before"),
        (b"", "deflate", "ends before"),
        (TEXT, "gzip", "not gzip"),
        (TEXT, "deflate", "not deflate"),
        (gzip.compress(TEXT)[:-9], "gzip", "ends before"),
        (zlib.compress(TEXT)[:-5], "deflate", "ends before"),
        (zlib.compress(TEXT) + b"x", "deflate", "stand behind"),
        (gzip.compress(TEXT) + b"x", "gzip", "gzip"),
    ],
)
def test_a_body_that_is_not_its_coding_is_refused(body: bytes, coding: str, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        unpacked(body, coding, 100_000)


@given(st.binary(max_size=200), st.sampled_from(["gzip", "deflate"]))
def test_whatever_comes_is_unpacked_or_refused(body: bytes, coding: str) -> None:
    for sent in (body, packed(TEXT, coding)[: len(body)] + body):
        with contextlib.suppress(RequestError):
            assert len(unpacked(sent, coding, 5000)) <= 5000


def test_a_coding_is_known_by_its_header() -> None:
    assert [coding_of(given) for given in (None, "", "identity", "GZIP", " x-gzip", "deflate")] == [
        "", "", "", "gzip", "gzip", "deflate",
    ]  # fmt: skip
    for given_ in ("br", "gzip, deflate", "zstd"):
        with pytest.raises(UnsupportedMediaType, match="gzip, deflate"):
            coding_of(given_)


@pytest.mark.parametrize(
    ("header", "coding"),
    [
        (None, ""), ("", ""), ("identity", ""), ("br", ""), ("gzip", "gzip"), ("gzip, deflate, br", "gzip"),
        ("deflate;q=0.5", "deflate"), ("gzip;q=0, deflate", "deflate"), ("gzip; q=0", ""), ("*", ""),
    ],
)  # fmt: skip
def test_an_answer_is_packed_as_its_client_takes_it(header: str | None, coding: str) -> None:
    assert accepted(header) == coding
