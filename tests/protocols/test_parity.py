"""Any rows, through every shape and protocol: the same rows, or the same class of error at the same place."""

from __future__ import annotations

import csv
import io
import json
import math
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lagar.errors import InvalidJson, RequestError
from lagar.protocols import json_body
from lagar.protocols.base import Envelope
from lagar.protocols.columns import Plan
from lagar.protocols.native import NativeAdapter
from lagar.protocols.v2 import V2Adapter
from lagar.registry.signature import Field, Output, Signature
from lagar.types import Rows
from protocols.corpus import dumped, tensor, v2
from protocols.views import View

NAMES = ("a", "b c", "data")
MATRIX = Signature(
    fields=tuple(Field(name) for name in NAMES), outputs=(Output("predict"),), native_outputs=("predict",), named=True
)
RULED = Signature(
    fields=(
        Field("n", "int", minimum=-5, maximum=1000),
        Field("x", "float", nullable=True),
        Field("k", "string", categories=("a", "b", "é")),
        Field("t", "string"),
        Field("f", "bool"),
    ),
    outputs=(Output("predict"),),
    native_outputs=("predict",),
    layout="columns",
    named=True,
)

numbers = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False),
    st.integers(-(2**53), 2**53),
)
odd = st.one_of(
    st.integers(2**53 - 2, 2**53 + 2),
    st.integers(),
    st.sampled_from([None, True, "1", "", [], {}, [1.0], 1e308, -0.0, 2**63, 2**64]),
)
values = st.one_of(numbers, numbers, numbers, numbers, odd)
tables = st.lists(st.lists(values, min_size=3, max_size=3), min_size=1, max_size=60)


def outcome(adapter: Any, body: bytes, **head: Any) -> Rows | tuple[str, str | None, int | None]:
    try:
        rows = adapter.decode(body, "r", Envelope(**head)).rows
    except RequestError as error:
        return (type(error).__name__, error.field, error.row)
    assert isinstance(rows, Rows)
    return rows


def same(left: Any, right: Any) -> bool:
    if isinstance(left, tuple) or isinstance(right, tuple):
        return bool(left == right)
    if left.matrix is not None:
        return left.matrix.tobytes() == right.matrix.tobytes()
    return all(
        column.dtype == right.columns[name].dtype
        and (column.tolist() == right.columns[name].tolist() or np.array_equal(column, right.columns[name], True))
        for name, column in left.columns.items()
    )


@given(tables)
@settings(deadline=None)
def test_every_native_shape_of_a_matrix_is_the_same_rows(table: list[list[Any]]) -> None:
    adapter = NativeAdapter(View(MATRIX))
    records = [dict(zip(NAMES, row, strict=True)) for row in table]
    expected = outcome(adapter, dumped(records))
    shapes = [
        {"batches": table},
        {"instances": records},
        {"instances": table, "columns": list(NAMES)},
        {"input_data": {"columns": list(NAMES), "data": table}},
        table,
    ]
    for body in shapes:
        assert same(expected, outcome(adapter, dumped(body))), body
    lines = b"\n".join(dumped(record) for record in records)
    assert same(expected, outcome(adapter, lines, content_type="application/x-ndjson"))
    assert same(expected, outcome(adapter, json.dumps(records, indent=1).encode()))


@given(tables)
@settings(deadline=None)
def test_v2_gives_the_rows_that_the_native_protocol_gives(table: list[list[Any]]) -> None:
    native = outcome(NativeAdapter(View(MATRIX)), dumped({"batches": table}))
    adapter = V2Adapter(View(MATRIX))
    n = len(table)
    flat = [value for row in table for value in row]
    columns = [tensor([row[place] for row in table], [n], name=name) for place, name in enumerate(NAMES)]
    nested_cells = any(isinstance(value, list) for value in flat)
    for body in (v2(tensor(table, [n, 3])), v2(tensor(flat, [n, 3])), v2(*columns)):
        result = outcome(adapter, body)
        if isinstance(native, tuple):
            assert isinstance(result, tuple)
            assert result[0] == native[0]
            assert nested_cells or result[2] in (native[2], None) or result[0] == "InvalidInput"
        else:
            assert same(native, result)


@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "n": st.one_of(st.integers(-6, 1001), st.just(3.0), st.just(2.5), st.just("3")),
                "x": st.one_of(st.floats(-10, 10), st.none(), st.integers(-3, 3)),
                "k": st.sampled_from(["a", "b", "é", "c", None]),
                "t": st.one_of(st.text(max_size=5), st.just(1)),
                "f": st.sampled_from([True, False, 1, "true"]),
            }
        ),
        min_size=1,
        max_size=5,
    )
)
@settings(deadline=None)
def test_fields_with_rules_are_the_same_by_record_row_and_column(records: list[dict[str, Any]]) -> None:
    adapter = NativeAdapter(View(RULED))
    names = [field.name for field in RULED.fields or ()]
    expected = outcome(adapter, dumped(records))
    table = [[record[name] for name in names] for record in records]
    assert same(expected, outcome(adapter, dumped({"batches": table})))
    assert same(expected, outcome(adapter, dumped({"data": table, "columns": names})))
    assert same(expected, outcome(adapter, dumped({"inputs": {n: [r[n] for r in records] for n in names}})))
    if isinstance(expected, Rows):
        kinds = {"n": "INT64", "x": "FP64", "k": "BYTES", "t": "BYTES", "f": "BOOL"}
        inputs = [tensor([r[n] for r in records], [len(records), 1], kinds[n], n) for n in names]
        assert same(expected, outcome(V2Adapter(View(RULED)), v2(*inputs)))


@given(st.lists(st.lists(st.floats(-1e12, 1e12), min_size=3, max_size=3), min_size=1, max_size=20))
@settings(deadline=None)
def test_csv_gives_the_rows_that_json_gives(table: list[list[float]]) -> None:
    adapter = NativeAdapter(View(MATRIX))
    out = io.StringIO()
    csv.writer(out).writerows([NAMES, *table])
    expected = outcome(adapter, dumped(table))
    assert same(expected, outcome(adapter, out.getvalue().encode(), content_type="text/csv"))


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text()),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=3), inner, max_size=4)),
    max_leaves=30,
)


@given(json_values, st.sampled_from([None, 1]), st.booleans())
def test_every_json_document_reads_as_it_was_written(value: Any, indent: int | None, ascii_only: bool) -> None:
    body = json.dumps(value, indent=indent, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    assert json_body.parse(body) == value


@given(st.binary(max_size=40))
def test_any_bytes_are_read_or_refused_and_never_anything_else(body: bytes) -> None:
    for adapter in (NativeAdapter(View(MATRIX)), V2Adapter(View(RULED))):
        outcome(adapter, body)
        for kind in ("text/csv", "application/x-ndjson", "application/vnd.apache.parquet"):
            outcome(adapter, body, content_type=kind)


@given(json_values)
def test_any_json_is_read_or_refused_and_never_anything_else(value: Any) -> None:
    for body in (dumped(value), dumped({"inputs": value}), dumped({"inputs": [value], "ids": value})):
        for signature in (MATRIX, RULED):
            outcome(NativeAdapter(View(signature)), body)
            outcome(V2Adapter(View(signature)), body)


@given(st.dictionaries(st.text(min_size=1, max_size=4), st.integers(0, 9), min_size=1, max_size=6), st.data())
def test_a_duplicate_key_is_always_seen(members: dict[str, int], data: st.DataObject) -> None:
    again = data.draw(st.sampled_from(sorted(members)))
    pairs = [*members.items(), (again, 1)]
    text = "{" + ",".join(f"{json.dumps(key)}:{value}" for key, value in pairs) + "}"
    for body in (text, f"[{text}]", f'{{"x":{{"y":[{text}]}}}}'):
        try:
            json_body.parse(body.encode())
        except InvalidJson as error:
            assert error.field == again  # noqa: PT017  the body must raise: see the else branch
        else:
            raise AssertionError(body)


@given(st.lists(st.floats(), min_size=3, max_size=3))
def test_what_a_preprocess_made_is_checked_like_a_body(row: list[float]) -> None:
    plan = Plan(MATRIX)
    try:
        rows = plan.from_records([dict(zip(NAMES, row, strict=True))])
    except RequestError:
        assert not all(map(math.isfinite, row))
    else:
        assert all(map(math.isfinite, row))
        assert rows.matrix is not None
        assert rows.matrix.tolist() == [row]
