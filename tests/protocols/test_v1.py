"""KServe's V1: `instances` or `inputs` in, `predictions` out."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import numpy as np
import pytest

from lagar.errors import InvalidInput, InvalidJson, ModelFailed, NotFound, RequestError, UnsupportedMediaType
from lagar.protocols.base import Envelope, InferRequest
from lagar.protocols.native import NativeAdapter
from lagar.protocols.v1 import V1Adapter, error_answer, model_ready, models_list
from protocols.views import TEXT, WINE_NAMES, WINE_RECORD, WINE_ROW, View, view

TWO = [WINE_ROW, [value + 1 for value in WINE_ROW]]
RECORDS = [dict(zip(WINE_NAMES, row, strict=True)) for row in TWO]


def decoded(body: Any, of: View | str = "wine", **envelope: Any) -> InferRequest:
    deployment = view(of) if isinstance(of, str) else of
    return V1Adapter(deployment).decode(json.dumps(body).encode(), "r", Envelope(**envelope))


def refusal(body: Any, of: View | str = "wine", **envelope: Any) -> RequestError:
    with pytest.raises(RequestError) as caught:
        decoded(body, of, **envelope)
    return caught.value


@pytest.mark.parametrize(
    "body",
    [
        {"instances": TWO},
        {"instances": RECORDS},
        {"inputs": TWO},
        {"inputs": RECORDS},
        {"inputs": {name: [record[name] for record in RECORDS] for name in WINE_NAMES}},
        {"instances": [{name: [value] for name, value in record.items()} for record in RECORDS]},
        {"instances": [{name: [record[name] for record in RECORDS] for name in WINE_NAMES}]},
        {"instances": [RECORDS]},
        {"instances": [RECORDS[:1], RECORDS[1:]]},
        {"instances": TWO, "signature_name": "serving_default", "parameters": {}},
    ],
)
def test_every_shape_is_the_rows_that_the_native_protocol_reads(body: Any) -> None:
    native = NativeAdapter(view("wine")).decode(json.dumps(RECORDS).encode(), "r", Envelope()).rows
    found = decoded(body).rows
    assert native is not None
    assert found is not None
    assert native.matrix is not None
    assert found.matrix is not None
    assert found.matrix.tobytes() == native.matrix.tobytes()


def test_texts_for_a_model_with_one_input_need_no_names() -> None:
    found = decoded({"instances": ["Figura", "Senhor dos aneis", "Senhor dos anéis"]}, View(TEXT)).rows
    assert found is not None
    assert found.columns is not None
    assert found.columns["text"].tolist() == ["Figura", "Senhor dos aneis", "Senhor dos anéis"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (TWO, "an object with 'instances' or 'inputs'"),
        ({}, "either 'instances' or 'inputs', got neither"),
        ({"rows": TWO}, "either 'instances' or 'inputs', got rows"),
        ({"instances": TWO, "inputs": TWO}, "got both"),
        ({"instances": WINE_RECORD}, "'instances' must be a list of rows"),
        ({"instances": "x"}, "'instances' must be a list of rows"),
        ({"inputs": 1}, "'inputs' must be a list of rows"),
        ({"instances": []}, "no rows"),
        ({"instances": [{"alcohol": [1], "ash": [1, 2]}]}, "of one length"),
        ({"instances": [RECORDS, TWO[0]]}, "instances[1] must be a frame"),
        ({"instances": TWO, "parameters": {"k": 1}}, "param 'k' is none of this model's"),
        ({"instances": [TWO[0], TWO[1][:3]]}, "row 1 has 3 values, this model takes 13"),
    ],
)
def test_a_body_of_another_shape_is_refused_in_words(body: Any, words: str) -> None:
    error = refusal(body)
    assert isinstance(error, InvalidInput)
    assert words in error.message


def test_what_is_announced_as_no_json_is_refused_and_curls_own_type_is_not() -> None:
    assert isinstance(refusal({"instances": TWO}, content_type="text/csv"), UnsupportedMediaType)
    assert decoded({"instances": TWO}, content_type="application/x-www-form-urlencoded").n == 2
    with pytest.raises(InvalidJson):
        V1Adapter(view("wine")).decode(b"{", "r", Envelope())


def test_a_deadline_is_read_from_its_header() -> None:
    assert decoded({"instances": TWO}, timeout="0.5").timeout_s == 0.5
    assert refusal({"instances": TWO}, timeout="soon").field == "timeout"


def test_the_answer_is_a_list_under_predictions() -> None:
    adapter = V1Adapter(view("wine"))
    request = adapter.decode(json.dumps({"instances": TWO}).encode(), "r", Envelope())
    assert adapter.encode(request, {"predict": np.array([1, 0])}) == (b'{"predictions":[1,0]}', "application/json", b"")


def test_an_error_is_one_message_with_its_own_status() -> None:
    answer = error_answer(NotFound("Model x not found"), "r")
    assert (answer.status, msgspec.json.decode(answer.body)) == (404, {"error": "Model x not found"})
    failed = error_answer(ModelFailed("the model failed"), "r-1")
    assert (failed.status, msgspec.json.decode(failed.body)) == (500, {"error": "the model failed (request r-1)"})


def test_models_are_listed_and_said_to_be_ready() -> None:
    assert msgspec.json.decode(models_list(["a", "b"])) == {"models": ["a", "b"]}
    assert msgspec.json.decode(model_ready("a")) == {"name": "a", "ready": True}
