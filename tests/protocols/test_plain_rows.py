"""The quick way into V1, /invocations and the native protocol: what it takes is what the exact way reads, and what is
not certainly good it leaves to that."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from lagar.errors import RequestError
from lagar.protocols.base import Envelope, Limits
from lagar.protocols.columns import Plan
from lagar.protocols.mlflow import MlflowAdapter
from lagar.protocols.plain_rows import PlainRows
from lagar.protocols.v1 import V1Adapter
from lagar.types import Rows
from protocols.views import CHURN_RECORD, WINE_NAMES, WINE_ROW, view

NAMES = list(WINE_NAMES)
LIMITS = Limits(max_rows=500)
MEMBERS, FRAMES = ("instances", "inputs"), ("dataframe_records",)
LENGTHS = (2, 40)
"""Rows of a short body, and of one that simdjson reads."""


def plain(name: str = "wine") -> PlainRows:
    signature = view(name).signature
    return PlainRows(signature, Plan(signature), LIMITS, MEMBERS, FRAMES)


def table(n: int) -> list[list[float]]:
    return [[value + row / 8 for value in WINE_ROW] for row in range(n)]


def records(n: int) -> list[dict[str, float]]:
    return [dict(zip(NAMES, row, strict=True)) for row in table(n)]


def quickly(body: Any) -> Rows | None:
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    reader = plain()
    return reader.in_member(text) or reader.in_split(text)


def split(n: int, **more: Any) -> dict[str, Any]:
    return {"dataframe_split": {"columns": NAMES, "data": table(n), **more}}


@pytest.mark.parametrize("n", LENGTHS)
def test_plain_rows_are_read_wherever_they_stand(n: int) -> None:
    bodies = [
        {"instances": table(n)}, {"inputs": records(n)}, {"dataframe_records": records(n)}, split(n),
        split(n, index=list(range(n))), {"dataframe_split": {"index": [7] * n, **split(n)["dataframe_split"]}},
    ]  # fmt: skip
    for body in bodies:
        rows = quickly(body)
        assert rows is not None, list(body)
        assert rows.matrix is not None
        assert rows.matrix.tolist() == table(n)
    bare = plain().bare(json.dumps(table(n)).encode())
    assert bare is not None
    assert np.array_equal(bare.matrix, np.array(table(n)))


def spoiled(n: int) -> dict[str, Any]:
    """Bodies that are wrong, or need a closer look."""
    rows, frame = table(n), records(n)
    huge = [[2.0**53, *row[1:]] for row in rows]
    text = json.dumps(frame)
    return {
        "another member": {"data": rows},
        "two members": {"instances": rows, "inputs": rows},
        "a member beside": {"instances": rows, "params": {}},
        "a member twice": b'{"instances": [], "instances": %b}' % json.dumps(rows).encode(),
        "lists as records": {"dataframe_records": rows},
        "no rows": {"instances": []},
        "empty rows": {"instances": [[]] * n},
        "a ragged table": {"instances": [*rows[1:], rows[0][:3]]},
        "a table too wide": {"instances": [[*row, 1.0] for row in rows]},
        "rows in rows": {"instances": [[row] for row in rows]},
        "one value nested": {"instances": [[[row[0]], *row[1:]] for row in rows]},
        "a flag": {"instances": [[True, *rows[0][1:]], *rows[1:]]},
        "a text": {"instances": [["1", *rows[0][1:]], *rows[1:]]},
        "a null": {"instances": [[None, *rows[0][1:]], *rows[1:]]},
        "beyond 2^53": {"instances": huge},
        "a number twice": {"instances": frame, "x": 1},
        "a field twice": b'{"instances": ' + text.replace('"hue"', '"ash": 1, "hue"', 1).encode() + b"}",
        "a field too many": {"instances": [{**frame[0], "more": 1}, *frame[1:]]},
        "a field missing": {"instances": [{k: v for k, v in frame[0].items() if k != "hue"}, *frame[1:]]},
        "more rows than are taken": {"instances": table(501)},
        "columns in another order": {"dataframe_split": {"columns": NAMES[::-1], "data": rows}},
        "columns missing": {"dataframe_split": {"data": rows}},
        "an index too short": split(n, index=[1]),
        "an index of lists": split(n, index=[[1]] * n),
        "an index that is an object": split(n, index={"a": 1}),
        "an unknown member": split(n, dtype=1),
        "a split beside params": {**split(n), "params": {}},
        "a broken body": b'{"instances": [[1, 2',
    }


@pytest.mark.parametrize("n", LENGTHS)
@pytest.mark.parametrize("what", spoiled(2))
def test_what_is_not_certainly_good_is_left_to_the_exact_way(what: str, n: int) -> None:
    assert quickly(spoiled(n)[what]) is None


@pytest.mark.parametrize("adapter", [V1Adapter, MlflowAdapter])
@pytest.mark.parametrize("name", ["wine", "churn", "strict", "text", "open"])
def test_adapters_read_the_same_rows_with_a_space_that_only_the_exact_way_passes_over(name: str, adapter: Any) -> None:
    """A member that has no effect keeps a body from the quick way."""
    record = {"wine": records(1)[0], "churn": CHURN_RECORD, "strict": {"a": 1, "b": 2.5, "k": 0}, "text": {"text": "é"}}
    one = record.get(name, {"x0": 1.5, "x1": 2})
    for rows in ([one] * 3, [list(one.values())] * 3, [list(one.values())] * 200):
        found = []
        for body in ({"instances": rows}, {"instances": rows, "signature_name": "x"}):
            try:
                read = adapter(view(name), LIMITS).decode(json.dumps(body).encode(), "r", Envelope()).rows
            except RequestError as error:
                found.append(error.message)
                continue
            assert read is not None
            values = read.columns if read.matrix is None else {"": read.matrix}
            assert values is not None
            found.append(str({key: (column.dtype, column.tolist()) for key, column in values.items()}))
        assert found[0] == found[1]
