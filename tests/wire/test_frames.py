"""Header blocks: what is remembered of them is what a decoder would say again, and no bytes take it long."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hpack import Decoder, Encoder
from hypothesis import given
from hypothesis import strategies as st

from lagar.server import frames
from lagar.server.frames import ConnectionBroken, ErrorCode, HeaderBlocks, changes_table

NAMES = st.sampled_from([b":path", b"x-a", b"x-b", b"grpc-timeout", b"authorization", b"content-type"])
VALUES = st.sampled_from([b"", b"a", b"application/grpc", b"1m", b"2m", b"x" * 200])
HEADERS = st.lists(st.tuples(NAMES, VALUES, st.booleans()), min_size=1, max_size=6)


def plain(headers: Any) -> Any:
    """In the place of a head: the headers themselves."""
    return [(bytes(name), bytes(value)) for name, value in headers]


@given(st.lists(HEADERS, min_size=1, max_size=30))
def test_blocks_mean_what_a_decoder_says_whatever_came_before(sent: list[list[tuple[bytes, bytes, bool]]]) -> None:
    encoder, blocks = Encoder(), HeaderBlocks(16_384, plain)
    for headers in [*sent, *sent]:  # the second time many are only indices
        block = encoder.encode(headers)
        assert blocks.get(block) == [(name, value) for name, value, _ in headers]


@given(st.binary(max_size=40))
def test_whether_any_bytes_change_the_table_is_told_or_they_are_broken(block: bytes) -> None:
    decoder = Decoder()
    before = decoder.header_table.maxsize, len(decoder.header_table.dynamic_entries)
    try:
        changes = changes_table(block)
    except (ValueError, IndexError):
        return
    with contextlib.suppress(Exception):
        decoder.decode(block, raw=True)
    after = decoder.header_table.maxsize, len(decoder.header_table.dynamic_entries)
    assert changes or before == after


@pytest.mark.parametrize("block", [b"\xff" * 30_000, b"\x7f" + b"\xff" * 30_000, b"\x00\xff" + b"\xff" * 30_000])
def test_a_number_without_an_end_is_refused_before_it_is_built(block: bytes) -> None:
    with pytest.raises(ConnectionBroken) as broken:
        HeaderBlocks(32_768).get(block)
    assert broken.value.code is ErrorCode.COMPRESSION


def test_a_small_block_that_stands_for_many_headers_is_refused() -> None:
    block = b"\x40\x01a\x7f\x81\x1e" + b"b" * 286 + b"\xbe" * 5000  # one header, and 5,000 times its index
    with pytest.raises(ConnectionBroken):
        HeaderBlocks(32_768).get(block)


@given(st.binary(max_size=300), st.binary(min_size=1, max_size=20))
def test_what_we_write_is_read(value: bytes, name: bytes) -> None:
    assert plain(Decoder().decode(frames.literal(name, value), raw=True)) == [(name, value)]


def test_a_status_is_written_as_a_decoder_knows_it() -> None:
    assert plain(Decoder().decode(frames.status_block(415), raw=True)) == [(b":status", b"415")]
    assert plain(Decoder().decode(frames.STATUS_200, raw=True)) == [(b":status", b"200")]
