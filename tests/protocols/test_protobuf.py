"""Our reading and writing of protocol buffers against Google's."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from lagar.errors import InvalidInput
from lagar.protocols import protobuf
from support.inference import files, message

INT64 = st.integers(-(1 << 63), (1 << 63) - 1)
PARAMETER = st.one_of(
    st.builds(dict, bool_param=st.booleans()),
    st.builds(dict, int64_param=INT64),
    st.builds(dict, string_param=st.text(max_size=20)),
    st.builds(dict, double_param=st.floats(allow_nan=False)),
    st.builds(dict, uint64_param=st.integers(0, (1 << 64) - 1)),
)
TENSOR = st.fixed_dictionaries(
    {},
    optional={
        "name": st.text(max_size=10),
        "datatype": st.sampled_from(["FP64", "BYTES"]),
        "shape": st.lists(INT64, max_size=5),
        "parameters": st.dictionaries(st.text(max_size=5), PARAMETER, max_size=3),
    },
)
METADATA = st.fixed_dictionaries(
    {},
    optional={
        "name": st.text(max_size=300),
        "versions": st.lists(st.text(max_size=8), max_size=4),
        "platform": st.text(max_size=8),
        "inputs": st.lists(TENSOR, max_size=4),
        "outputs": st.lists(TENSOR, max_size=4),
    },
)


def ours(name: str) -> Any:
    return next(file.messages[name] for file in files() if name in file.messages)


@given(METADATA)
def test_what_we_write_google_reads(values: dict[str, Any]) -> None:
    name = "inference.ModelMetadataResponse"
    read = message(name).FromString(ours(name).encode(values))
    assert read == message(name)(**values)


@given(METADATA)
def test_what_google_writes_we_read(values: dict[str, Any]) -> None:
    name = "inference.ModelMetadataResponse"
    written = message(name)(**values)
    read = ours(name).decode(written.SerializeToString())
    assert message(name)(**read) == written


@given(st.lists(st.integers(0, (1 << 64) - 1), max_size=200))
def test_packed_numbers_are_read_whatever_their_number(values: list[int]) -> None:
    data = protobuf.varints(values)
    assert protobuf.packed_varints(b"x" + data, 1, 1 + len(data)).tolist() == values


@pytest.mark.parametrize("size", [8, 64])
@pytest.mark.parametrize("end", [b"\x80", b"\xff" * 11 + b"\x01"])
def test_packed_numbers_that_do_not_end_are_refused(size: int, end: bytes) -> None:
    data = b"\x01" * size + end
    with pytest.raises(InvalidInput, match="protocol buffers"):
        protobuf.packed_varints(data, 0, len(data))


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    judge = message("inference.ModelMetadataResponse")
    try:
        read = ours("inference.ModelMetadataResponse").decode(data)
    except InvalidInput:
        return  # a group, or a field of another wire type: protobuf skips what we refuse
    with contextlib.suppress(DecodeError):  # of a field number beyond those that there are
        told = judge.FromString(data)
        told.DiscardUnknownFields()
        assert told == judge(**read)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"\x0a\x05ab", "longer than its message"),
        (b"\x0a", "ends within a field"),
        (b"\x08" + b"\xff" * 11, "more than 64 bits"),
        (b"\x0b", "wire type 3"),
        (b"\x02\x00", "number 0"),
        (b"\x0a\x01\xff", "not UTF-8"),
    ],
)
def test_why_bytes_are_no_message_is_said(data: bytes, why: str) -> None:
    with pytest.raises(InvalidInput, match=why):
        ours("inference.ModelMetadataRequest").decode(data)


def test_negative_numbers_are_written_as_their_complement() -> None:
    assert protobuf.varint(-1) == b"\xff" * 9 + b"\x01"
    assert np.array([protobuf.varint_at(protobuf.varint(-5), 0)[0]], np.uint64).view(np.int64)[0] == -5


def test_fields_without_end_are_refused_and_those_that_repeat_are_walked() -> None:
    """Two bytes of a message would become 150 of memory."""
    many = b"\x12\x00" * (protobuf.MAX_FIELDS + 1)
    assert len(protobuf.fields(many[2:])) == protobuf.MAX_FIELDS
    with pytest.raises(InvalidInput, match="more than 65536 fields"):
        protobuf.fields(many)
    assert sum(1 for _ in protobuf.walk(many, 0, len(many))) == protobuf.MAX_FIELDS + 1
