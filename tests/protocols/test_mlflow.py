"""`/invocations`: the shapes of MLflow's scoring server, the same rows as everywhere, and its words for errors."""

from __future__ import annotations

import io
import json
from typing import Any

import msgspec
import numpy as np
import pytest

from lagar.errors import (
    DeadlineExceeded,
    InvalidInput,
    InvalidJson,
    ModelFailed,
    NotFound,
    NotReady,
    Overloaded,
    RequestError,
    Unauthorized,
    UnsupportedMediaType,
)
from lagar.protocols.base import Envelope, InferRequest
from lagar.protocols.bodies import PARQUET
from lagar.protocols.mlflow import MlflowAdapter, error_answer
from lagar.protocols.native import NativeAdapter
from lagar.registry.signature import Field, Output, Signature
from lagar.types import Rows
from protocols.views import CHURN_RECORD, OPEN, STRICT, TEXT, WINE_NAMES, WINE_RECORD, WINE_ROW, Hooks, View, view

NAMES = list(WINE_NAMES)
TWO = [WINE_ROW, [value + 1 for value in WINE_ROW]]
RECORDS = [dict(zip(NAMES, row, strict=True)) for row in TWO]


def decoded(body: Any, of: View | str = "wine", content_type: str | None = "application/json") -> InferRequest:
    deployment = view(of) if isinstance(of, str) else of
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    return MlflowAdapter(deployment).decode(text, "r", Envelope(content_type=content_type))


def rows(body: Any, of: View | str = "wine", content_type: str | None = "application/json") -> Rows:
    found = decoded(body, of, content_type).rows
    assert found is not None
    return found


def refusal(body: Any, of: View | str = "wine", content_type: str | None = "application/json") -> RequestError:
    with pytest.raises(RequestError) as caught:
        decoded(body, of, content_type)
    return caught.value


@pytest.mark.parametrize(
    "body",
    [
        {"dataframe_split": {"columns": NAMES, "data": TWO}},
        {"dataframe_split": {"columns": NAMES, "data": TWO, "index": [5, 6]}},
        {"dataframe_split": {"columns": NAMES[::-1], "data": [row[::-1] for row in TWO], "index": ["a", "b"]}},
        {"dataframe_split": {"columns": ["more", *NAMES], "data": [["x", *row] for row in TWO]}},
        {"dataframe_records": RECORDS},
        {"dataframe_records": [{**record, "more": 1} for record in RECORDS]},
        {"instances": RECORDS},
        {"instances": TWO},
        {"inputs": {name: [record[name] for record in RECORDS] for name in NAMES}},
        {"inputs": RECORDS},
        {"inputs": TWO, "signature_name": "serving_default"},
        {"dataframe_records": RECORDS, "params": {}},
        {"dataframe_records": RECORDS, "params": None},
    ],
    ids=lambda body: "-".join(body),
)
def test_every_shape_is_the_rows_that_the_native_protocol_reads(body: Any) -> None:
    native = NativeAdapter(view("wine")).decode(json.dumps(RECORDS).encode(), "r", Envelope()).rows
    found = rows(body)
    assert native is not None
    assert found.matrix is not None
    assert native.matrix is not None
    assert found.matrix.tobytes() == native.matrix.tobytes()


def test_a_single_record_under_inputs_is_one_row() -> None:
    assert rows({"inputs": WINE_RECORD}).n == 1


def test_a_frame_without_names_is_taken_by_position_where_the_model_has_none() -> None:
    frame = {"columns": [0, 1, 2], "index": [0, 1], "data": [[1, 2, 3], [4, 5, 6]]}
    assert rows({"dataframe_split": frame}, View(OPEN)).matrix.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert refusal({"dataframe_split": frame}, "wine").field == "alcohol"


def test_texts_for_a_model_with_one_input_need_no_names() -> None:
    for body in ({"inputs": ["a", "b"]}, {"instances": [["a"], ["b"]]}, {"dataframe_records": [{"text": "a"}] * 2}):
        assert rows(body, View(TEXT)).n == 2
    assert rows({"inputs": "a"}, View(TEXT)).n == 1


def test_nan_is_a_missing_number_as_in_what_mlflows_own_client_sends() -> None:
    record = json.dumps({"dataframe_records": [{**CHURN_RECORD, "discount": float("nan")}]})
    assert "NaN" in record
    columns = rows(record.encode(), "churn").columns
    assert columns is not None
    assert np.isnan(columns["discount"]).all()
    assert "must not be null" in refusal(json.dumps({"inputs": [[float("nan"), *WINE_ROW[1:]]]}).encode()).message
    words = rows(b'{"inputs": ["NaN", "a NaN \\" NaN", "Ba\\\\"], "signature_name": NaN}', View(TEXT)).columns
    assert words is not None
    assert words["text"].tolist() == ["NaN", 'a NaN " NaN', "Ba\\"]
    for body in (b'{"inputs": [[-NaN]]}', b'{"inputs": [[NaN1]]}', b'{"inputs": [[Infinity]]}', b'{"inputs": [NaN'):
        assert isinstance(refusal(body), InvalidJson), body


def test_dates_of_parquet_and_arrow_are_read_where_the_field_takes_such() -> None:
    import datetime

    import pyarrow as pa
    import pyarrow.parquet as pq

    fields = (Field("when", "string", content_type="datetime"), Field("word", "string"))
    signature = Signature(fields, (Output("predict"),), ("predict",), layout="columns", named=True, task="custom")
    moment = datetime.datetime.fromisoformat("2026-01-31T12:30:00")
    for when in (pa.array([moment, None], pa.timestamp("us")), pa.array([moment.date(), None])):
        packed = io.BytesIO()
        pq.write_table(pa.table({"when": when, "word": ["a", "b"]}), packed)
        fields = (msgspec.structs.replace(fields[0], nullable=True), fields[1])
        of = View(msgspec.structs.replace(signature, fields=fields))
        columns = rows(packed.getvalue(), of, "application/vnd.apache.parquet").columns
        assert columns is not None
        first, second = columns["when"].tolist()
        assert (datetime.datetime.fromisoformat(first).date(), second) == (moment.date(), None)
    packed = io.BytesIO()
    pq.write_table(pa.table({"when": ["2026-01-31"], "word": pa.array([moment])}), packed)
    assert "is of type timestamp" in refusal(packed.getvalue(), View(signature), PARQUET).message


def test_values_of_a_single_input_need_no_names_beside_params() -> None:
    one = msgspec.structs.replace(PARAMS, fields=(PARAMS.fields or ())[1:])
    for body in ({"inputs": [1, 2]}, {"instances": [[1], [2]]}, {"inputs": [1, 2], "params": {"limit": 0.5}}):
        columns = rows(body, View(one)).columns
        assert columns is not None
        assert (columns["b"].tolist(), columns["params.limit"].tolist()) == ([1.0, 2.0], [0.5, 0.5])
    assert "row 0 must be a list or an object" in refusal({"inputs": [1, 2]}, View(PARAMS)).message


def test_csv_parquet_and_arrow_are_the_same_rows() -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    text = ",".join(("", *NAMES)) + "\n" + "\n".join(",".join(map(str, (place, *row))) for place, row in enumerate(TWO))
    table = pa.Table.from_pylist(RECORDS)
    packed, streamed = io.BytesIO(), io.BytesIO()
    pq.write_table(table, packed)
    with pa.ipc.new_stream(streamed, table.schema) as writer:
        writer.write_table(table)
    bodies = {
        "text/csv": text.encode(),
        "text/csv; charset=utf-8": text.encode(),
        "application/vnd.apache.parquet": packed.getvalue(),
        "application/vnd.apache.arrow.stream": streamed.getvalue(),
    }
    for kind, body in bodies.items():
        assert rows(body, "wine", kind).matrix.tolist() == TWO, kind


def test_a_body_without_a_type_is_json_and_one_of_another_type_is_refused() -> None:
    assert rows({"inputs": TWO}, "wine", None).n == 2
    assert rows({"inputs": TWO}, "wine", "application/json; charset=utf-8").n == 2
    for kind in ("text/plain", "application/json; charset=latin-1", "image/png"):
        assert isinstance(refusal({"inputs": TWO}, "wine", kind), UnsupportedMediaType), kind


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ([TWO], "exactly one of dataframe_split, dataframe_records, instances, inputs, got"),
        ({"columns": NAMES, "data": TWO}, "got columns, data"),
        ({}, "got none"),
        ({"inputs": TWO, "instances": TWO}, "got instances, inputs"),
        ({"dataframe_records": {"a": 1}}, "'dataframe_records' must be a list of objects"),
        ({"dataframe_records": TWO}, "'dataframe_records' must be a list of objects"),
        ({"dataframe_records": []}, "no rows"),
        ({"dataframe_split": TWO}, "'dataframe_split' must be an object with 'data'"),
        ({"dataframe_split": {"columns": NAMES}}, "'dataframe_split' must be an object with 'data'"),
        ({"dataframe_split": {"columns": NAMES, "data": 1}}, "'data' must be a list of rows"),
        ({"dataframe_split": {"columns": NAMES, "data": []}}, "no rows"),
        ({"dataframe_split": {"columns": NAMES, "data": [TWO[0], TWO[1][:3]]}}, "row 1 has 3 values"),
        ({"dataframe_split": {"columns": NAMES, "data": RECORDS}}, "row 0 has {"),
        ({"dataframe_split": {"columns": NAMES, "data": TWO, "dtype": 1}}, "'dataframe_split' must be an object"),
        ({"dataframe_split": {"columns": NAMES, "data": TWO, "index": [0]}}, "'index' must be a list with 2 entries"),
        ({"dataframe_split": {"columns": NAMES[:3], "data": TWO}}, "row 0 has 13 values, 'columns' has 3 names"),
        ({"instances": None}, "'instances' must be a list of rows, got null"),
        ({"inputs": {"alcohol": [1], "ash": [1, 2]}}, "input 'ash' has 2 values where the first has 1"),
        ({"inputs": TWO, "params": [1]}, "'params' must be an object"),
        ({"inputs": TWO, "params": {"a": 1}, "parameters": {"a": 1}}, "send them once"),
    ],
)
def test_a_body_of_another_shape_is_refused_in_words(body: Any, words: str) -> None:
    error = refusal(body)
    assert isinstance(error, InvalidInput)
    assert words in error.message


def test_a_missing_column_is_named_and_one_too_many_is_passed_over() -> None:
    short = {name: value for name, value in WINE_RECORD.items() if name != "hue"}
    error = refusal({"dataframe_records": [WINE_RECORD, short]})
    assert (error.field, error.row) == ("hue", 1)
    assert rows({"dataframe_records": [{**WINE_RECORD, "id": None}]}).n == 1
    assert refusal({"dataframe_records": [{"a": 1, "b": 1, "k": 0, "id": 1}]}, View(STRICT)).field == "id"


@pytest.mark.parametrize(
    ("name", "value", "good"),
    [
        ("tenure", 41, True),  # long
        ("tenure", 41.0, True),
        ("tenure", 41.5, False),  # MLflow makes 41 of it
        ("tenure", "41", False),  # MLflow makes a number of it
        ("charges", 80, True),  # long → double
        ("charges", "80", False),
        ("charges", True, False),
        ("paperless", True, True),
        ("paperless", 1, False),
        ("gender", "other", False),
        ("gender", 1, False),
        ("discount", None, True),
        ("tenure", None, False),
    ],
)
def test_numbers_are_widened_and_nothing_is_converted_that_would_change(name: str, value: Any, good: bool) -> None:
    body = {"dataframe_records": [CHURN_RECORD, {**CHURN_RECORD, name: value}]}
    if good:
        assert rows(body, "churn").n == 2
    else:
        error = refusal(body, "churn")
        assert (error.field, error.row) == (name, 1)


PARAMS = Signature(
    fields=(
        Field("a"),
        Field("b"),
        Field("params.limit", "float", default=0.5, has_default=True),
        Field("params.words[]", "string", default="[]", has_default=True),
    ),
    outputs=(Output("label", "BYTES"), Output("score", "FP64")),
    native_outputs=("label", "score"),
    layout="columns",
    named=True,
    task="custom",
)


@pytest.mark.parametrize("key", ["params", "parameters"])
@pytest.mark.parametrize(
    "data",
    [
        {"inputs": [[1, 2], [3, 4]]},
        {"dataframe_records": [{"a": 1, "b": 2}, {"a": 3, "b": 4}]},
        {"dataframe_split": {"columns": ["b", "a"], "data": [[2, 1], [4, 3]]}},
        {"inputs": {"a": [1, 3], "b": [2, 4]}},
    ],
)
def test_params_of_the_signature_reach_every_row(data: dict[str, Any], key: str) -> None:
    columns = rows({**data, key: {"limit": 0.75, "words": ["x"]}}, View(PARAMS)).columns
    assert columns is not None
    assert {name: column.tolist() for name, column in columns.items()} == {
        "a": [1.0, 3.0], "b": [2.0, 4.0], "params.limit": [0.75, 0.75], "params.words[]": ['["x"]', '["x"]'],
    }  # fmt: skip
    defaults = rows(data, View(PARAMS)).columns
    assert defaults is not None
    assert defaults["params.limit"].tolist() == [0.5, 0.5]


@pytest.mark.parametrize(
    ("of", "params", "words"),
    [
        ("wine", {"limit": 1}, "param 'limit' is none of this model's: its signature has no params"),
        ("params", {"limits": 1}, "param 'limits' is none of this model's: it takes limit, words"),
        ("params", {"limit": [1]}, "param 'limit' must be a single value"),
        ("params", {"words": "x"}, "param 'words' must be a list"),
        ("params", {"limit": "much"}, "input 'params.limit' must be a number"),
    ],
)
def test_a_param_that_the_model_does_not_take_is_refused_by_name(of: str, params: dict[str, Any], words: str) -> None:
    body = {"inputs": TWO if of == "wine" else [[1, 2]], "params": params}
    error = refusal(body, View(PARAMS) if of == "params" else of)
    assert words in error.message


def test_a_preprocess_gets_the_records_and_the_answer_is_the_models_own() -> None:
    hooks = Hooks(
        preprocess=lambda records: [{"a": 1, "b": 2, "k": 0} for _ in records], postprocess=lambda *_: "never"
    )
    adapter = MlflowAdapter(View(STRICT, handlers=hooks))
    request = adapter.decode(b'{"dataframe_records": [{"raw": "x"}]}', "r", Envelope())
    assert request.rows is None
    assert request.records == [{"raw": "x"}]
    assert not request.postprocess
    assert request.rows_of is not None
    assert request.rows_of([{"a": 1, "b": 2, "k": 0}]).n == 1


def test_the_answer_is_the_first_output_of_a_model_as_a_list() -> None:
    adapter = MlflowAdapter(view("wine"))
    request = adapter.decode(json.dumps({"inputs": TWO}).encode(), "r", Envelope())
    assert request.outputs == ("predict",)
    assert adapter.encode(request, {"predict": np.array([1, 0])}) == (b'{"predictions":[1,0]}', "application/json", b"")
    numbers = {"predict": np.array([[0.5, np.nan], [1.0, np.inf]])}
    assert msgspec.json.decode(adapter.encode(request, numbers)[0]) == {"predictions": [[0.5, None], [1.0, None]]}
    texts = {"predict": np.array(["livro", "é"])}
    assert msgspec.json.decode(adapter.encode(request, texts)[0]) == {"predictions": ["livro", "é"]}


def test_code_that_names_what_it_answers_is_answered_by_name() -> None:
    adapter = MlflowAdapter(View(PARAMS))
    request = adapter.decode(b'{"inputs": [[1, 2], [3, 4]]}', "r", Envelope())
    assert request.outputs == ("label", "score")
    body, _, _ = adapter.encode(request, {"label": np.array(["a", "b"]), "score": np.array([0.5, np.nan])})
    answer = msgspec.json.decode(body)
    assert answer == {"predictions": [{"label": "a", "score": 0.5}, {"label": "b", "score": None}]}


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (InvalidInput("x"), 400, "INVALID_PARAMETER_VALUE"),
        (InvalidJson("x"), 400, "BAD_REQUEST"),
        (UnsupportedMediaType("x"), 415, "BAD_REQUEST"),
        (Unauthorized("x"), 401, "UNAUTHENTICATED"),
        (NotFound("x"), 404, "RESOURCE_DOES_NOT_EXIST"),
        (Overloaded("x"), 429, "REQUEST_LIMIT_EXCEEDED"),
        (ModelFailed("x"), 500, "INTERNAL_ERROR"),
        (NotReady("x"), 503, "TEMPORARILY_UNAVAILABLE"),
        (DeadlineExceeded("x"), 504, "DEADLINE_EXCEEDED"),
        (ZeroDivisionError("secret"), 500, "INTERNAL_ERROR"),
    ],
)
def test_an_error_has_mlflows_shape_and_its_own_status(error: Exception, status: int, code: str) -> None:
    answer = error_answer(error, "id-1")
    body = msgspec.json.decode(answer.body)
    assert (answer.status, body["error_code"], set(body)) == (status, code, {"error_code", "message"})
    assert "secret" not in body["message"]
    assert ("id-1" in body["message"]) == (status == 500)
