"""The quick ways of V2 against the exact one: what was seen before helps to read what comes, and never changes it."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lagar.errors import InvalidInput, RequestError
from lagar.protocols import v2_binary, v2_layouts
from lagar.protocols.base import PLAIN, Envelope, Limits
from lagar.protocols.v2 import V2Adapter
from lagar.registry.signature import Field, Output, Signature
from protocols.corpus import dumped, tensor, v2
from protocols.test_corpus import same_rows
from protocols.views import STRICT, View

NAMES = ("a", "b c", "data", "\u00e9 that is long enough" * 20)
"""A body of few bytes is not looked up."""
PLAIN_NUMBERS = Signature(tuple(map(Field, NAMES)), (Output("p"), Output("q")), ("p", "q"), named=True)
RULED = Signature(
    (Field("a", "int", minimum=-5), Field("b c", nullable=True), Field("data", categories=(1, 2)), Field(NAMES[3])),
    (Output("p"), Output("q")),
    ("p", "q"),
    named=True,
)
SIGNATURES = (PLAIN_NUMBERS, RULED)
LIMITS = Limits(max_rows=50)


def exact_only(signature: Signature) -> V2Adapter:
    adapter = V2Adapter(View(signature), LIMITS)
    adapter._quick = adapter._binary = None
    return adapter


def outcome(adapter: V2Adapter, body: bytes, envelope: Envelope = PLAIN) -> Any:
    try:
        request = adapter.decode(body, "r-1", envelope)
    except RequestError as error:
        return type(error), error.message, error.field, error.row
    return request


def agree(adapter: V2Adapter, exact: V2Adapter, body: bytes, envelope: Envelope = PLAIN) -> None:
    left, right = outcome(adapter, body, envelope), outcome(exact, body, envelope)
    if isinstance(left, tuple) or isinstance(right, tuple):
        assert left == right
        return
    assert (left.n, left.outputs, left.request_id, left.timeout_s, left.extra) == (
        right.n,
        right.outputs,
        right.request_id,
        right.timeout_s,
        right.extra,
    )
    same_rows(left.rows, right.rows)


ids = st.one_of(
    st.text(max_size=3),
    st.text("abc-0", max_size=300),
    st.sampled_from(["i", "a b", 'a"b', "a\\", "a:b", "\u00e9", "\x7f", "\n", '","id":"x', None, 1]),
)


def written(request: dict[str, Any], given_id: Any, place: str, indent: int | None = None) -> bytes:
    """A body with its id first or last."""
    named = {"first": {"id": given_id, **request}, "last": {**request, "id": given_id}, "": request}[place]
    return json.dumps(named, indent=indent).encode()


# One input per field, again and again.

numbers = st.one_of(
    st.floats(-1e6, 1e6), st.integers(-6, 6), st.sampled_from([1, 2, 1.0, 1e300, -1e300, 2**53, 2**53 + 1, 1e308, -0.0])
)
odd = st.sampled_from([None, True, "1", [], [1.0], {}, "]", '"data": [', 2**64, -(2**70)])


def columns(draw: Any, n: int) -> list[dict[str, Any]]:
    values = [draw(st.lists(numbers, min_size=n, max_size=n)) for _ in NAMES]
    return [tensor(data, [n, 1], name=name) for name, data in zip(NAMES, values, strict=True)]


def changed(draw: Any, inputs: list[dict[str, Any]], n: int) -> dict[str, Any]:
    """The members of a request in which one thing is otherwise."""
    place = draw(st.integers(0, len(inputs) - 1))
    one, members = dict(inputs[place]), {}
    match draw(st.integers(0, 10)):
        case 0:
            one["datatype"] = draw(st.sampled_from(["FP32", "FP16", "INT8", "INT64", "BOOL", "BYTES", "fp64", 1]))
        case 1:
            one["shape"] = draw(st.sampled_from([[n], [n, 1], [1, n], [n + 1], [n, 1, 1], [], [float(n), 1], [True]]))
        case 2:
            one["name"] = draw(st.sampled_from([*NAMES, "x", "", '"data": [', "a:b"]))
        case 3:
            one["data"] = [*one["data"], 1.0]
        case 4:
            one["data"] = one["data"][1:]
        case 5:
            one["data"] = [*one["data"][:-1], draw(odd)]
        case 6:
            one["data"] = [[value] for value in one["data"]]
        case 7:
            one = {key: one[key] for key in draw(st.permutations(list(one)))}
        case 8:
            one[draw(st.sampled_from(["parameters", "x"]))] = {}
        case 9:
            members = draw(st.sampled_from([{"parameters": {}}, {"outputs": []}, {"id": None}, {"id": 1}, {"x": 1}]))
        case _:
            other = draw(st.integers(0, len(inputs) - 1))  # one has too many, another too few
            moved = dict(inputs[other])
            moved["data"], one["data"] = moved["data"][:-1], [*one["data"], *moved["data"][-1:]]
            inputs = [*inputs[:other], moved, *inputs[other + 1 :]]
    return {"inputs": [*inputs[:place], one, *inputs[place + 1 :]], **members}


@given(
    st.data(),
    st.sampled_from(SIGNATURES),
    st.integers(1, 4),
    st.sampled_from([None, 1]),
    st.sampled_from(["", "", "first", "last"]),
)
@settings(deadline=None, max_examples=300)
def test_a_body_is_read_the_same_whatever_was_read_before_it(
    data: Any, signature: Signature, n: int, indent: int | None, place: str
) -> None:
    adapter, exact = V2Adapter(View(signature), LIMITS), exact_only(signature)
    order = data.draw(st.permutations(range(len(NAMES))))
    seen = [tensor([1.0] * n, [n, 1], name=NAMES[place]) for place in order]
    adapter.decode(written({"inputs": seen}, "r", place, indent), "r-0")
    for _ in range(3):
        fresh = columns(data.draw, n)
        inputs = [fresh[place] for place in order]
        agree(adapter, exact, written({"inputs": inputs}, data.draw(ids), place, indent))
        agree(adapter, exact, written(changed(data.draw, inputs, n), data.draw(ids), place, indent))


@given(st.data(), st.integers(1, 3))
@settings(deadline=None, max_examples=300)
def test_no_bytes_within_a_known_layout_change_what_is_right(data: Any, n: int) -> None:
    adapter, exact = V2Adapter(View(PLAIN_NUMBERS), LIMITS), exact_only(PLAIN_NUMBERS)
    given_id = data.draw(st.sampled_from(["", "first", "last"]))
    body = written({"inputs": [tensor([1.5] * n, [n], name=name) for name in NAMES]}, "r", given_id)
    adapter.decode(body, "r-0")
    place, cut = data.draw(st.integers(0, len(body))), data.draw(st.integers(0, 12))
    pieces = st.sampled_from([b'"data": [', *b' , ] [ [1.5] 1 ,1e300 ,2 ]} NaN - \n " \\'.split(b" ")])
    agree(adapter, exact, body[:place] + data.draw(pieces) + body[place + cut :])
    agree(adapter, exact, body.replace(b"1.5", data.draw(pieces), data.draw(st.integers(1, 4))))


def test_numbers_of_one_input_never_become_those_of_another() -> None:
    adapter, exact = V2Adapter(View(PLAIN_NUMBERS), LIMITS), exact_only(PLAIN_NUMBERS)
    good = [[1.0, 2.0]] * 4
    for data in (
        good,
        [[1.0, 2.0, 3.0], [4.0], *good[2:]],
        [[1.0, 2.0, 1e300], [3.0], *good[2:]],  # what is set between the inputs
        [[1.0], [1e300, 2.0, 3.0], *good[2:]],
        [[1e300, 2.0], *good[1:]],
    ):
        agree(adapter, exact, v2(*(tensor(values, [2], name=name) for name, values in zip(NAMES, data, strict=True))))


def test_an_input_that_does_not_end_is_seen() -> None:
    adapter, exact = V2Adapter(View(PLAIN_NUMBERS), LIMITS), exact_only(PLAIN_NUMBERS)
    body = v2(*(tensor([1.0], [1], name=name) for name in NAMES))
    adapter.decode(body, "r-0")
    (layout,) = layouts_of(adapter)._known.values()
    for tail in layout.tails:
        agree(adapter, exact, body.replace(tail, b"", 1))


@pytest.mark.parametrize(
    "given_id", ["i", "a b", 'a"b', "a\\", "a:b", "\u00e9", "\x7f", "\n", "", None, "x" * 256, "x" * 257]
)
@pytest.mark.parametrize("place", ["first", "last"])
@pytest.mark.parametrize("indent", [None, 1])
def test_the_id_of_a_body_sent_again_is_its_own(given_id: Any, place: str, indent: int | None) -> None:
    adapter, exact = V2Adapter(View(PLAIN_NUMBERS), LIMITS), exact_only(PLAIN_NUMBERS)
    body = written({"inputs": [tensor([1.0], [1], name=name) for name in NAMES]}, given_id, place, indent)
    sent = {"name": "x", "shape": [1, 4], "datatype": "FP64", "parameters": {"binary_data_size": 32}}
    text = written({"inputs": [sent]}, given_id, place, indent)
    for _ in range(2):
        agree(adapter, exact, body)
        agree(adapter, exact, text + bytes(32), Envelope(header_length=str(len(text))))


def layouts_of(adapter: V2Adapter) -> v2_layouts.Layouts:
    assert adapter._quick is not None
    return adapter._quick._layouts


@pytest.mark.parametrize("order", [NAMES, NAMES[::-1], (NAMES[1], NAMES[2], NAMES[3], NAMES[0])])
@pytest.mark.parametrize("n", [1, 2, 50])
def test_the_second_body_of_a_layout_is_read_by_its_numbers(order: tuple[str, ...], n: int) -> None:
    adapter = V2Adapter(View(PLAIN_NUMBERS), LIMITS)
    for start in (0, 100, -7):
        values = {name: [start + place + row / 8 for row in range(n)] for place, name in enumerate(NAMES)}
        body = v2(*(tensor(values[name], [n, 1], name=name) for name in order))
        assert (layouts_of(adapter).read(body) is not None) == (start != 0)
        rows = adapter.decode(body, "r-1").rows
        assert rows is not None
        assert rows.matrix is not None
        assert rows.matrix.T.tolist() == [values[name] for name in NAMES]


def test_what_is_kept_of_bodies_is_bounded() -> None:
    adapter = V2Adapter(View(PLAIN_NUMBERS), Limits())
    layouts = layouts_of(adapter)
    for blanks in range(3 * v2_layouts._MAX_LAYOUTS):
        body = v2(*(tensor([1.0], [1], name=name) for name in NAMES)).replace(b"[{", b"[" + b" " * blanks + b"{")
        for _ in range(v2_layouts._LEARN_EVERY):
            adapter.decode(body, "r-1")
        assert len(layouts._known) <= v2_layouts._MAX_LAYOUTS
    layouts._known.clear()
    adapter.decode(body.replace(b"[  ", b"[" + b" " * v2_layouts._MAX_TEXT_BYTES), "r-1")
    assert not layouts._known
    long = v2(*(tensor([1.0] * v2_layouts.MAX_BODY_BYTES, [v2_layouts.MAX_BODY_BYTES], name=name) for name in NAMES))
    adapter.decode(long, "r-1")
    assert not layouts._known


def test_a_layout_that_begins_as_another_takes_its_place_in_the_end() -> None:
    adapter = V2Adapter(View(PLAIN_NUMBERS), LIMITS)
    one = v2(*(tensor([1.0], [1], name=name) for name in NAMES))
    other = one.replace(b"FP64", b"FP32").replace(b"FP32", b"FP64", 1)
    adapter.decode(one, "r-1")
    for _ in range(2 * v2_layouts._LEARN_EVERY):
        adapter.decode(other, "r-1")
    assert layouts_of(adapter).read(other) is not None
    assert layouts_of(adapter).read(one) is None


def test_a_strict_model_names_what_is_wrong_behind_a_known_layout() -> None:
    adapter = V2Adapter(View(STRICT), LIMITS)
    good, bad = (
        written(
            {"inputs": [tensor([1.0], [1], name="a"), tensor([b], [1], name="b"), tensor([1], [1], name="k")]},
            "",
            "",
            9,
        )
        for b in (1.0, 1.5)
    )
    adapter.decode(good, "r-1")
    assert layouts_of(adapter).read(bad) is not None
    with pytest.raises(InvalidInput, match="'b' must be a whole number"):
        adapter.decode(bad, "r-1")


# Tensors behind the JSON.

NUMPY = {"FP64": "<f8", "FP32": "<f4", "FP16": "<f2", "INT64": "<i8", "UINT64": "<u8", "INT8": "<i1", "UINT8": "<u1"}
binary_values = {
    "f": st.sampled_from([0.0, 1.0, 2.0, -3.5, float("nan"), float("inf"), 65504.0]),
    "i": st.sampled_from([0, 1, 2, -5, 100]),
    "u": st.sampled_from([0, 1, 2, 100, 255]),
}
large = st.sampled_from([2**53 - 1, 2**53, 2**53 + 1, 2**62])


@st.composite
def binary_requests(draw: Any) -> tuple[dict[str, Any], bytes]:
    """One matrix or one tensor per field, mostly of one datatype, mostly good."""
    n = draw(st.integers(0, 3))
    by_column = draw(st.booleans())
    names = draw(st.permutations(NAMES)) if by_column else [draw(st.sampled_from(["x", "a"]))]
    inputs, blob = [], b""
    first = draw(st.sampled_from(sorted(NUMPY)))
    for name in names:
        datatype = first if draw(st.integers(0, 9)) else draw(st.sampled_from([*NUMPY, "BOOL", "BF16", "BYTES"]))
        shapes = [[n, 1], [n]] if by_column else [[n, 4]]
        shape = draw(st.sampled_from(shapes if draw(st.integers(0, 9)) else [[n, 3], [4, n], [n, 2, 2], [], [n, 1, 1]]))
        count = int(np.prod(shape))
        kind = NUMPY.get(datatype, "<u1" if datatype == "BOOL" else "<u2")
        values = binary_values[kind[1]]
        values = large if datatype in ("INT64", "UINT64") and not draw(st.integers(0, 4)) else values
        part = np.array(draw(st.lists(values, min_size=count, max_size=count)), kind).tobytes()
        size = len(part) if draw(st.integers(0, 9)) else draw(st.sampled_from([0, len(part) + 8, -8]))
        inputs.append({"name": name, "shape": shape, "datatype": datatype, "parameters": {"binary_data_size": size}})
        blob += part
    request: dict[str, Any] = {"inputs": inputs}
    if draw(st.booleans()):
        request["outputs"] = [{"name": draw(st.sampled_from(["p", "q", "z"])), "parameters": {"binary_data": True}}]
    if draw(st.booleans()):
        request["parameters"] = {"binary_data_output": draw(st.booleans())}
    return request, blob


@given(st.data(), st.sampled_from(SIGNATURES))
@settings(deadline=None, max_examples=400)
def test_tensors_behind_a_json_seen_before_are_read_as_any(data: Any, signature: Signature) -> None:
    adapter, exact = V2Adapter(View(signature), LIMITS), exact_only(signature)
    request, blob = data.draw(binary_requests())
    place = data.draw(st.sampled_from(["", "first", "last"]))
    for behind in (blob, blob, bytes(len(blob)), blob[::-1], blob[:-1], blob + b"\x00"):
        text = written(request, data.draw(ids), place)
        agree(adapter, exact, text + behind, Envelope(header_length=str(len(text))))


@given(st.data())
@settings(deadline=None, max_examples=300)
def test_no_bytes_within_a_known_json_change_what_is_right(data: Any) -> None:
    adapter, exact = V2Adapter(View(PLAIN_NUMBERS), LIMITS), exact_only(PLAIN_NUMBERS)
    sent = {"name": "x", "shape": [1, 4], "datatype": "FP64", "parameters": {"binary_data_size": 32}}
    text = written({"inputs": [sent]}, "r", data.draw(st.sampled_from(["", "first", "last"])))
    adapter.decode(text + bytes(32), "r-0", Envelope(header_length=str(len(text))))
    place, cut = data.draw(st.integers(0, len(text))), data.draw(st.integers(0, 12))
    pieces = st.sampled_from([b"", b'"', b"\\", b"x", b'"id": "x"', b'"id": "x",', b"}", b"\n", b":", b"\xff", b"4"])
    text = text[:place] + data.draw(pieces) + text[place + cut :]
    agree(adapter, exact, text + bytes(32), Envelope(header_length=str(len(text))))


@pytest.mark.parametrize("names", [("x",), NAMES, NAMES[::-1]])
@pytest.mark.parametrize("datatype", sorted(NUMPY))
def test_numbers_of_one_datatype_are_read_as_one_array(names: tuple[str, ...], datatype: str) -> None:
    adapter = V2Adapter(View(PLAIN_NUMBERS), LIMITS)
    binary = adapter._binary
    assert binary is not None
    table = np.arange(8).reshape(2, 4).astype(NUMPY[datatype])
    by_name = dict(zip(NAMES, table.T, strict=True))
    parts = [table.tobytes()] if len(names) == 1 else [by_name[name].tobytes() for name in names]
    shape = [2, 4] if len(names) == 1 else [2]
    sizes = [{"binary_data_size": len(part)} for part in parts]
    inputs = [
        {"name": name, "shape": shape, "datatype": datatype, "parameters": size}
        for name, size in zip(names, sizes, strict=True)
    ]
    text = dumped({"inputs": inputs})
    for _ in range(2):
        found = binary.read(text, memoryview(b"".join(parts)))
        assert found is not None
        rows = found[0]
        assert binary._heads[text].table is not None
        assert rows.matrix is not None
        assert rows.matrix.tolist() == table.tolist()
        assert rows.matrix.flags.c_contiguous
        assert rows.matrix.flags.writeable


def test_what_is_kept_of_the_json_before_tensors_is_bounded() -> None:
    adapter = V2Adapter(View(PLAIN_NUMBERS), LIMITS)
    assert adapter._binary is not None
    heads = adapter._binary._heads

    def send(name: str, **members: Any) -> None:
        sent = {"name": name, "shape": [1, 4], "datatype": "FP64", "parameters": {"binary_data_size": 32}}
        text = dumped({"inputs": [sent], **members})
        adapter.decode(text + bytes(32), "r-1", Envelope(header_length=str(len(text))))

    for number in range(5):
        send("x", id=f"one of many, \u00e9, {number}")
    assert not heads
    for number in range(5):
        send("x", id=f"{number} of many")
    assert len(heads) == 1
    heads.clear()
    send("x" * v2_binary._MAX_HEAD_BYTES)
    assert not heads
    for number in range(3 * v2_binary._MAX_HEADS):
        send(f"x{number}")
        assert 0 < len(heads) <= v2_binary._MAX_HEADS
