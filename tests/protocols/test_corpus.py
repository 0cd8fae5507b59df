"""Every request of the corpus has its outcome, quickly or slowly decoded."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import pytest

from lagar.errors import RequestError
from lagar.protocols.base import Adapter, Envelope, InferRequest, Limits
from lagar.protocols.native import NativeAdapter
from lagar.protocols.v2 import V2Adapter
from protocols.corpus import CORPUS, MAX_ROWS, Case
from protocols.views import Hooks, outputs_for, view

LIMITS = Limits(max_rows=MAX_ROWS)


def adapter_for(case: Case, handlers: Any = None) -> Adapter:
    kind = NativeAdapter if case.protocol == "native" else V2Adapter
    return kind(view(case.model, handlers), LIMITS)


def outcome(adapter: Adapter, case: Case) -> InferRequest | RequestError:
    try:
        return adapter.decode(case.body, "r-1", Envelope(content_type=case.content_type))
    except RequestError as error:
        return error


@pytest.mark.parametrize("case", CORPUS, ids=lambda case: f"{case.protocol}-{case.name}")
def test_a_request_of_the_corpus_has_its_outcome(case: Case) -> None:
    adapter = adapter_for(case)
    result = outcome(adapter, case)
    if isinstance(result, RequestError):
        answer = adapter.error(result, "r-1")
        assert answer.status == case.status, result.message
        body = orjson.loads(answer.body)
        if case.protocol == "native":
            assert (body["error"]["field"], body["error"]["row"]) == (case.field, case.row), result.message
        else:
            assert set(body) == {"error"}
            assert type(body["error"]) is str
    else:
        assert case.status == 200
        assert result.rows is not None
        assert result.rows.n == result.n > 0
        signature = view(case.model).signature
        encoded, kind, _ = adapter.encode(result, outputs_for(signature, result.outputs, result.n))
        assert kind == "application/json"
        assert orjson.loads(encoded)


@pytest.mark.parametrize("case", CORPUS, ids=lambda case: f"{case.protocol}-{case.name}")
def test_the_quick_way_and_the_exact_way_agree(case: Case) -> None:
    quick, exact = adapter_for(case), adapter_for(case)
    exact._quick = None  # type: ignore[attr-defined]
    same(outcome(quick, case), outcome(exact, case))


@pytest.mark.parametrize(
    "case",
    [case for case in CORPUS if case.model not in ("strict", "open")],
    ids=lambda case: f"{case.protocol}-{case.name}",
)
def test_a_preprocess_that_does_nothing_changes_nothing(case: Case) -> None:
    hooks = Hooks(preprocess=lambda records: records)
    adapter = adapter_for(case, hooks)
    plain = outcome(adapter_for(case), case)
    result = outcome(adapter, case)
    if isinstance(result, InferRequest):
        assert result.rows is None
        assert result.records is not None
        assert result.rows_of is not None
        assert len(result.records) == result.n
        try:
            result.rows = result.rows_of(hooks.preprocess(result.records))
        except RequestError as error:
            result = error
    if isinstance(plain, InferRequest):
        same(plain, result)
    else:
        assert isinstance(result, RequestError)
        assert type(result) is type(plain)


def same(left: InferRequest | RequestError, right: InferRequest | RequestError) -> None:
    if isinstance(left, RequestError) or isinstance(right, RequestError):
        assert isinstance(left, RequestError), right
        assert isinstance(right, RequestError), left
        assert (type(left), left.message, left.field, left.row) == (type(right), right.message, right.field, right.row)
        return
    assert (left.n, left.outputs, left.ids, left.timeout_s, left.request_id) == (
        right.n,
        right.outputs,
        right.ids,
        right.timeout_s,
        right.request_id,
    )
    same_rows(left.rows, right.rows)


def same_rows(left: Any, right: Any) -> None:
    assert left.n == right.n
    if left.matrix is not None:
        assert left.matrix.dtype == right.matrix.dtype == np.float64
        assert left.matrix.flags.c_contiguous
        assert left.matrix.flags.writeable
        assert left.matrix.tobytes() == right.matrix.tobytes() or np.array_equal(left.matrix, right.matrix, True)
        return
    assert list(left.columns) == list(right.columns)
    for name, column in left.columns.items():
        assert column.dtype == right.columns[name].dtype, name
        assert column.shape == (left.n,)
        np.testing.assert_array_equal(column, right.columns[name], err_msg=name)
