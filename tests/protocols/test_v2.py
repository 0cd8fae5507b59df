"""V2 answers as MLServer 1.3.2 gives them, output selection, metadata, columns and integers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from lagar import __version__
from lagar.errors import InvalidInput
from lagar.protocols import v2 as protocol
from lagar.protocols import v2_metadata as metadata
from lagar.protocols.base import Envelope
from lagar.protocols.v2 import V2Adapter
from lagar.registry.signature import Field, Output, Signature
from protocols.corpus import churn_inputs, dumped, tensor, v2
from protocols.views import CHURN, CHURN_RECORD, OPEN, TEXT, WINE, WINE_RECORD, WINE_ROW, Hooks, View, view

DATA = Path(__file__).parents[3] / "shared" / "data"
ONE = v2(tensor(WINE_ROW, [1, 13]))


def encoded(model: View, outputs: dict[str, Any], body: bytes, request_id: str = "r-1") -> bytes:
    adapter = V2Adapter(model)
    request = adapter.decode(body, request_id)
    answer, kind, _ = adapter.encode(request, outputs)
    assert kind == "application/json"
    return answer


def test_an_answer_is_byte_for_byte_what_mlserver_gives() -> None:
    model = View(TEXT, "classificador-produtos", "1.1")
    body = v2(tensor(["boneca"], [1], "BYTES", "predict"), id="abc-1")
    assert encoded(model, {"predict": np.array(["brinquedo"], object)}, body) == (
        b'{"model_name":"classificador-produtos","model_version":"1.1","id":"abc-1","parameters":{},"outputs":'
        b'[{"name":"predict","shape":[1,1],"datatype":"BYTES","data":["brinquedo"]}]}'
    )


def test_requested_outputs_come_in_the_order_asked_for() -> None:
    outputs = {"predict": np.array([1]), "predict_proba": np.array([[0.25, 0.5, 0.25]])}
    body = v2(tensor(WINE_ROW, [1, 13]), outputs=[{"name": "predict_proba"}, {"name": "predict"}])
    answer = orjson.loads(encoded(view("wine"), outputs, body))
    assert answer["outputs"] == [
        {"name": "predict_proba", "shape": [1, 3], "datatype": "FP64", "data": [0.25, 0.5, 0.25]},
        {"name": "predict", "shape": [1, 1], "datatype": "INT64", "data": [1]},
    ]


def test_without_outputs_the_first_one_is_answered() -> None:
    assert V2Adapter(view("wine")).decode(ONE, "r-1").outputs == ("predict",)


def test_the_request_id_stands_in_for_an_id_that_is_not_given() -> None:
    answer = orjson.loads(encoded(view("wine"), {"predict": np.array([1])}, ONE, 'r"1'))
    assert answer["id"] == 'r"1'


@pytest.mark.parametrize(
    ("array", "datatype", "shape", "data"),
    [
        (np.array([1, 2]), "INT64", [2, 1], [1, 2]),
        (np.array([1, 2], np.int32), "INT32", [2, 1], [1, 2]),
        (np.array([1, 2], np.int8), "INT8", [2, 1], [1, 2]),
        (np.array([1, 2], np.uint8), "UINT8", [2, 1], [1, 2]),
        (np.array([0.5, np.nan]), "FP64", [2, 1], [0.5, None]),
        (np.array([0.5, np.inf], np.float32), "FP32", [2, 1], [0.5, None]),
        (np.array([0.5, 1], np.float16), "FP16", [2, 1], [0.5, 1.0]),
        (np.array([True, False]), "BOOL", [2, 1], [True, False]),
        (np.array(["a", "ü"]), "BYTES", [2, 1], ["a", "ü"]),
        (np.array(["a", "ü"], object), "BYTES", [2, 1], ["a", "ü"]),
        (np.array([1, 2], object), "INT64", [2, 1], [1, 2]),
        (np.array([True, False], object), "BOOL", [2, 1], [True, False]),
        (np.array([1, 2.5], object), "FP64", [2, 1], [1.0, 2.5]),
        (np.array(["a", None], object), "BYTES", [2, 1], ["a", None]),
        (np.array([{"a": 1}, "x"], object), "BYTES", [2, 1], ['{"a":1}', "x"]),
        (np.array([[1.0], [2.0]]), "FP64", [2, 1], [1.0, 2.0]),
        (np.array([[1, 2], [3, 4]]).T, "INT64", [2, 2], [1, 3, 2, 4]),
        (np.zeros((2, 2, 2)), "FP64", [2, 2, 2], [0.0] * 8),
        (np.arange(4)[::2], "INT64", [2, 1], [0, 2]),
    ],
)
def test_outputs_of_every_kind_have_their_datatype(
    array: Any, datatype: str, shape: list[int], data: list[Any]
) -> None:
    body = v2(tensor(WINE_ROW * 2, [2, 13]))
    (output,) = orjson.loads(encoded(view("wine"), {"predict": array}, body))["outputs"]
    assert output == {"name": "predict", "shape": shape, "datatype": datatype, "data": data}


def test_an_unknown_output_is_refused_naming_what_exists() -> None:
    with pytest.raises(InvalidInput) as caught:
        V2Adapter(view("wine")).decode(v2(tensor(WINE_ROW, [1, 13]), outputs=[{"name": "foo"}]), "r-1")
    message = "Model wine only supports 'predict' and 'predict_proba' as outputs (foo was received)"
    assert caught.value.message == message


def test_whole_numbers_of_64_bits_keep_every_digit() -> None:
    inputs = churn_inputs(visits=2**60 + 1)
    rows = V2Adapter(view("churn")).decode(v2(*inputs), "r-1").rows
    assert rows is not None
    assert rows.columns is not None
    assert rows.columns["visits"].tolist() == [2**60 + 1]


def test_a_preprocess_gets_named_columns_and_a_text_under_its_own_name() -> None:
    hooks = Hooks(preprocess=lambda records: records)
    request = V2Adapter(view("churn", hooks)).decode(v2(*churn_inputs()), "r-1")
    assert request.records == [CHURN_RECORD]
    assert request.rows is None
    assert not request.postprocess
    request = V2Adapter(view("text", hooks)).decode(v2(tensor(["a", "b"], [2], "BYTES", "predict")), "r-1")
    assert request.records == [{"text": "a"}, {"text": "b"}]
    request = V2Adapter(view("wine", hooks)).decode(ONE, "r-1")
    assert request.records == [WINE_RECORD]


def test_a_postprocess_is_not_for_v2() -> None:
    request = V2Adapter(view("wine", Hooks(postprocess=lambda outputs, records: 1))).decode(ONE, "r-1")
    assert not request.postprocess
    assert request.rows is not None


def test_a_timeout_parameter_beats_the_header() -> None:
    adapter = V2Adapter(view("wine"))
    assert adapter.decode(ONE, "r-1", Envelope(timeout="3")).timeout_s == 3.0
    body = v2(tensor(WINE_ROW, [1, 13]), parameters={"timeout": 2_000_000})
    assert adapter.decode(body, "r-1", Envelope(timeout="3")).timeout_s == 2.0
    with pytest.raises(InvalidInput, match="number of seconds above 0"):
        adapter.decode(ONE, "r-1", Envelope(timeout="soon"))
    for wrong in (2.5, "5", -1, True):
        body = v2(tensor(WINE_ROW, [1, 13]), parameters={"timeout": wrong})
        with pytest.raises(InvalidInput, match=r"whole number of microseconds .* the header 'timeout' takes seconds"):
            adapter.decode(body, "r-1")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (v2(tensor([WINE_ROW, WINE_ROW[:12]], [2, 13])), ["'input'", "[2, 13]", "12 values", "row 1"]),
        (v2(tensor(WINE_ROW, [2, 13])), ["[2, 13]", "26 values", "has 13"]),
        (v2(tensor(WINE_ROW, [1, 13], "INT8")), ["INT8", "-128 to 127", "13.2", "row 0"]),
        (v2(tensor(WINE_ROW[:12], [1, 12])), ["[1, 12]", "[n,13]", "alcohol"]),
        (v2(tensor([*WINE_ROW, *WINE_ROW[:12], "x"], [2, 13])), ["FP64", '"x"', "row 1"]),
        (v2(tensor([1.0], [1], name="alcohol")), ["'malic_acid'", "missing"]),
    ],
)
def test_a_message_names_input_rule_and_value(body: bytes, words: list[str]) -> None:
    with pytest.raises(InvalidInput) as caught:
        V2Adapter(view("wine")).decode(body, "r-1")
    for word in words:
        assert word in caught.value.message


def test_404_texts_are_those_clients_of_mlserver_know() -> None:
    assert protocol.unknown_model("nada").message == "Model nada not found"
    assert protocol.unknown_model("m", "v0").message == "Model m with version v0 not found"


def test_server_metadata_names_us() -> None:
    assert orjson.loads(metadata.server_metadata()) == {
        "name": "lagar",
        "version": __version__,
        "extensions": list(metadata.EXTENSIONS),
    }


def test_model_metadata_lists_named_fields_as_columns() -> None:
    meta = orjson.loads(metadata.model_metadata("churn", ["1", "2"], "sklearn", CHURN))
    assert meta["versions"] == ["1", "2"]
    assert meta["platform"] == "sklearn"
    assert {entry["name"]: entry["datatype"] for entry in meta["inputs"]} == {
        "gender": "BYTES",
        "contract": "BYTES",
        "plan": "BYTES",
        "tenure": "INT64",
        "charges": "FP64",
        "discount": "FP64",
        "paperless": "BOOL",
        "visits": "INT64",
        "zone": "BYTES",
    }
    assert meta["outputs"] == [
        {"name": "predict", "datatype": "BOOL", "shape": [-1, 1]},
        {"name": "predict_proba", "datatype": "FP64", "shape": [-1, 2]},
    ]


def test_model_metadata_of_unnamed_fields_is_one_matrix() -> None:
    unnamed = Signature(fields=(Field("x0"), Field("x1")), outputs=(Output("predict"),), native_outputs=("predict",))
    meta = orjson.loads(metadata.model_metadata("m", ["1"], "onnx", unnamed))
    assert meta["inputs"] == [{"name": "input", "datatype": "FP64", "shape": [-1, 2]}]
    assert orjson.loads(metadata.model_metadata("m", ["1"], "onnx", OPEN))["inputs"][0]["shape"] == [-1, -1]


def test_a_request_built_from_the_metadata_works() -> None:
    for signature in (WINE, CHURN, TEXT):
        meta = orjson.loads(metadata.model_metadata("m", ["1"], "sklearn", signature))
        record = CHURN_RECORD if signature is CHURN else {**WINE_RECORD, "text": "t"}
        inputs = [
            tensor([record.get(entry["name"], "t")], [1, 1], entry["datatype"], entry["name"])
            for entry in meta["inputs"]
        ]
        assert V2Adapter(View(signature)).decode(v2(*inputs), "r-1").n == 1


@pytest.mark.parametrize("name", ["seed-8.4-infer.json", "book-8.2.1-infer.json", "book-8.3-infer.json"])
def test_the_text_requests_of_the_product_tutorial_are_read(name: str) -> None:
    path = DATA / "products" / "requests" / name
    if not path.exists():
        pytest.skip(f"{path} is not here")
    rows = V2Adapter(view("text")).decode(path.read_bytes(), "r-1").rows
    assert rows is not None
    assert rows.columns is not None
    assert rows.columns["text"].tolist() == json.loads(path.read_text())["inputs"][0]["data"]


def test_the_iris_requests_of_the_product_tutorial_are_read() -> None:
    path = DATA / "products" / "requests" / "book-8.2.4-iris-10.json"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    fields = tuple(Field(f"x{place}") for place in range(4))
    signature = Signature(fields=fields, outputs=(Output("predict"),), native_outputs=("predict",))
    rows = V2Adapter(View(signature)).decode(path.read_bytes(), "r-1").rows
    assert rows is not None
    assert rows.matrix is not None
    assert rows.matrix.shape == (10, 4)


def test_decoding_many_bodies_one_after_another_never_mixes_them() -> None:
    adapter = V2Adapter(view("wine"))
    kept = []
    for size in (200, 9000, 200, 100):
        data = [[float(size + column) for column in range(13)] for _ in range(size)]
        rows = adapter.decode(v2(tensor(data, [size, 13])), "r-1").rows
        broken = v2(tensor([*data, ["x"] * 13], [size + 1, 13]))
        with pytest.raises(InvalidInput):
            adapter.decode(broken, "r-1")
        assert rows is not None
        kept.append((size, rows))
    for size, rows in kept:
        assert rows.n == size
        assert rows.matrix is not None
        assert (rows.matrix == np.arange(size, size + 13)).all()


def test_a_model_of_unknown_width_takes_any_matrix() -> None:
    rows = V2Adapter(view("open")).decode(dumped({"inputs": [tensor([[1], [2]], [2, 1])]}), "r-1").rows
    assert rows is not None
    assert rows.matrix is not None
    assert rows.matrix.tolist() == [[1.0], [2.0]]


def test_bodies_that_are_good_take_the_quick_way() -> None:
    """One matrix, one input per field, short and long, and tensors behind the JSON."""
    for n in (1, 3, 60, 400):
        rows = [[float(row + column) for column in range(13)] for row in range(n)]
        columns = [tensor([row[place] for row in rows], [n, 1], name=name) for place, name in enumerate(WINE_RECORD)]
        quick = V2Adapter(view("wine"))._quick
        assert quick is not None
        for body in (v2(tensor(rows, [n, 13])), v2(*columns), v2(*reversed(columns), id="i")):
            found = quick.read(body)
            assert found is not None, n
            assert found[0].matrix is not None
            assert found[0].matrix.tolist() == rows
    quick = V2Adapter(view("churn"))._quick
    assert quick is not None
    good = [{**sent, "data": [1.5]} if sent["name"] == "discount" else sent for sent in churn_inputs()]
    assert quick.read(v2(*good)) is not None
