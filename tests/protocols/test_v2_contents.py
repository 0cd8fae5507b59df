"""Content types of V2: chosen as MLServer chooses, decoded here, and refused by name where they are unknown."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import orjson
import pytest

from lagar.errors import InvalidInput, RequestError
from lagar.protocols import v2_metadata
from lagar.protocols.v2 import V2Adapter
from lagar.registry.signature import Field, Output, Signature
from protocols.corpus import churn_inputs, tensor, v2
from protocols.test_v2_binary import behind, blob_of, decoded
from protocols.views import WINE_RECORD, WINE_ROW, Hooks, View, view

TWO = Signature(
    (Field("t", "string"), Field("x")), (Output("predict", "BYTES"), Output("score")), ("predict",), layout="columns",
    named=True,
)  # fmt: skip


def typed(values: Any, content_type: str | None, name: str = "text", shape: Any = None, kind: str = "BYTES") -> Any:
    sent = tensor(values, [len(values)] if shape is None else shape, kind, name)
    return sent if content_type is None else {**sent, "parameters": {"content_type": content_type}}


def texts(model: Any, *inputs: Any, **members: Any) -> list[Any]:
    deployment = view(model) if isinstance(model, str) else model
    rows = V2Adapter(deployment).decode(v2(*inputs, **members), "r-1").rows
    assert rows is not None
    assert rows.columns is not None
    return list(next(iter(rows.columns.values())).tolist())


def refused(model: Any, *inputs: Any, words: list[str], **members: Any) -> None:
    deployment = view(model) if isinstance(model, str) else model
    with pytest.raises(RequestError) as caught:
        V2Adapter(deployment).decode(v2(*inputs, **members), "r-1")
    assert caught.value.code in ("invalid_input", "invalid_json")
    for word in words:
        assert word in caught.value.message, caught.value.message


def coded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("content_type", "sent", "got"),
    [
        (None, ["a", "é"], ["a", "é"]),
        ("np", ["a", "é"], ["a", "é"]),
        ("pd", ["a", "é"], ["a", "é"]),
        ("str", ["a", "é"], ["a", "é"]),
        ("base64", [coded("a"), coded("é")], ["a", "é"]),
        ("datetime", ["2026-11-20", "2026-11-20T15:00:00+02:00"], ["2026-11-20", "2026-11-20T15:00:00+02:00"]),
        ("pd_json", ['"a"', '"é"'], ["a", "é"]),
    ],
)
def test_each_content_type_gives_what_its_elements_stand_for(content_type: Any, sent: list[str], got: Any) -> None:
    assert texts("text", typed(sent, content_type)) == got
    if content_type is not None and content_type != "pd_json":
        assert texts("text", typed(sent, None), parameters={"content_type": content_type}) == got
    if content_type is not None:
        parameters = {"content_type": content_type, "binary_data_size": len(blob_of(sent, "BYTES"))}
        body, envelope = behind(("text", "BYTES", [2], blob_of(sent, "BYTES")))
        written = {"name": "text", "shape": [2], "datatype": "BYTES", "parameters": parameters}
        text = orjson.dumps({"inputs": [written]})
        envelope = type(envelope)(envelope.content_type, header_length=str(len(text)))
        rows = V2Adapter(view("text")).decode(text + blob_of(sent, "BYTES"), "r-1", envelope).rows
        assert rows is not None
        assert rows.columns is not None
        assert rows.columns["text"].tolist() == got
        assert body


@pytest.mark.parametrize("content_type", ["hg_json", "raw", "STR", "", 1, ["str"], "hf"])
def test_an_unknown_one_is_refused_by_name(content_type: Any) -> None:
    given = {"content_type": content_type}
    sent = typed(["a"], None)
    shown = orjson.dumps(content_type).decode()
    refused("text", {**sent, "parameters": given}, words=[shown, "input 'text'", "base64, datetime"])
    refused("text", sent, words=[shown, "the request", "dict"], parameters=given)
    asked = [{"name": "predict", "parameters": given}]
    refused("text", sent, words=[shown, "output 'predict'", "datetime"], outputs=asked)


@pytest.mark.parametrize(
    ("content_type", "sent", "words"),
    [
        ("base64", ["YQ==", "boneca!"], ["base64", '"boneca!"', "row 1"]),
        ("base64", ["/w=="], ["UTF-8", "row 0"]),
        ("datetime", ["2026-11-20", "soon"], ["ISO 8601", '"soon"', "row 1"]),
        ("pd_json", ['{"a"'], ["JSON", "row 0"]),
        ("str", [1], ["BYTES", "row 0"]),
    ],
)
def test_an_element_that_is_none_is_named(content_type: str, sent: list[Any], words: list[str]) -> None:
    refused("text", typed(sent, content_type), words=["'text'", *words])


def test_a_content_type_of_text_is_for_bytes() -> None:
    for content_type in ("str", "base64", "datetime", "pd_json"):
        refused("wine", {**tensor(WINE_ROW, [1, 13]), "parameters": {"content_type": content_type}}, words=["FP64"])


def test_texts_count_themselves() -> None:
    for shape in ([1], [9], [1, 9], [3, 1]):
        assert texts("text", typed(["a", "b", "c"], "str", shape=shape)) == ["a", "b", "c"]
        whole = {"parameters": {"content_type": "str"}}
        assert texts("text", typed(["a", "b", "c"], None, shape=shape), **whole) == ["a", "b", "c"]
    refused("text", typed(["a", "b", "c"], None, shape=[1]), words=["[1]", "3"])


def test_str_of_a_request_is_for_bytes() -> None:
    words = ["'str' of the request", "FP64"]
    refused("wine", tensor(WINE_ROW, [1, 13]), words=words, parameters={"content_type": "str"})


def test_np_and_str_of_a_request_take_one_input() -> None:
    inputs = churn_inputs()
    for content_type in ("np", "str"):
        refused("churn", *inputs, words=["single input", "9 were sent"], parameters={"content_type": content_type})
    for content_type in ("pd", "dict"):
        body = v2(*inputs, parameters={"content_type": content_type})
        assert V2Adapter(view("churn")).decode(body, "r-1").n == 1


def test_np_of_a_request_is_a_matrix_and_pd_is_columns() -> None:
    one = tensor([1.0], [1], name="alcohol")
    refused("wine", one, words=["'malic_acid'", "missing"])
    refused("wine", one, words=["[n,13]"], parameters={"content_type": "np"})
    refused("wine", tensor(WINE_ROW, [1, 13]), words=["one of several inputs"], parameters={"content_type": "pd"})
    columns = [tensor([value], [1], name=name) for name, value in WINE_RECORD.items()]
    assert V2Adapter(view("wine")).decode(v2(*columns, parameters={"content_type": "pd"}), "r-1").n == 1


def test_an_input_decides_before_the_metadata_and_that_before_the_request() -> None:
    fields = (Field("t", "string", content_type="base64"), Field("x"))
    signature = Signature(fields, (Output("p"),), ("p",), layout="columns", named=True)
    deployment, x = View(signature), tensor([1.0], [1], name="x")
    assert texts(deployment, typed([coded("a")], None, "t"), x) == ["a"]
    assert texts(deployment, typed(["YQ=="], "str", "t"), x) == ["YQ=="]
    assert texts(deployment, typed([coded("a")], None, "t"), x, parameters={"content_type": "datetime"}) == ["a"]
    assert texts(View(TWO), typed([coded("a")], None, "t"), x, parameters={"content_type": "base64"}) == ["a"]


def test_a_model_may_say_that_it_takes_columns() -> None:
    signature = Signature((Field("a"), Field("b")), (Output("p"),), ("p",), named=True, content_type="pd")
    adapter = V2Adapter(View(signature))
    with pytest.raises(InvalidInput, match="one of several inputs"):
        adapter.decode(v2(tensor([1.0, 2.0], [1, 2])), "r-1")
    assert adapter.decode(v2(tensor([1.0, 2.0], [1, 2]), parameters={"content_type": "np"}), "r-1").n == 1


def test_metadata_tells_the_content_types_that_were_set() -> None:
    fields = (Field("t", "string", content_type="base64"), Field("x"))
    outputs = (Output("p", "BYTES", content_type="str"),)
    signature = Signature(fields, outputs, ("p",), layout="columns", named=True, content_type="pd")
    meta = orjson.loads(v2_metadata.model_metadata("m", ["1"], "sklearn", signature))
    assert meta["parameters"] == {"content_type": "pd"}
    assert meta["inputs"][0]["parameters"] == {"content_type": "base64"}
    assert "parameters" not in meta["inputs"][1]
    assert meta["outputs"][0]["parameters"] == {"content_type": "str"}


def answered(model: Any, values: dict[str, Any], **members: Any) -> list[dict[str, Any]]:
    adapter = V2Adapter(model)
    request = adapter.decode(v2(typed(["a"], None, "t"), tensor([1.0], [1], name="x"), **members), "r-1")
    return list(orjson.loads(adapter.encode(request, values)[0])["outputs"])


def test_an_output_is_written_in_the_type_that_is_asked_for() -> None:
    values = {"predict": np.array(["é"], object), "score": np.array([0.5])}
    for content_type, data in (("str", ["é"]), ("base64", [coded("é")]), ("np", ["é"])):
        asked = [{"name": "predict", "parameters": {"content_type": content_type}}]
        assert answered(View(TWO), values, outputs=asked) == [
            {"name": "predict", "shape": [1, 1], "datatype": "BYTES", "parameters": {"content_type": content_type},
             "data": data}
        ]  # fmt: skip
    asked = [{"name": "score", "parameters": {"content_type": "base64"}}]
    refused(View(TWO), typed(["a"], None, "t"), tensor([1.0], [1], name="x"), words=["'score'", "BYTES"], outputs=asked)


def test_the_model_s_own_type_of_an_output_is_what_nobody_has_to_ask_for() -> None:
    outputs = (Output("predict", "BYTES", content_type="base64"),)
    model = View(Signature(TWO.fields, outputs, ("predict",), layout="columns", named=True))
    (output,) = answered(model, {"predict": np.array(["é"], object)})
    assert (output["data"], output["parameters"]) == ([coded("é")], {"content_type": "base64"})


def test_null_stays_null() -> None:
    fields = (Field("t", "string", nullable=True), Field("x"))
    signature = Signature(fields, (Output("p"),), ("p",), layout="columns", named=True)
    x = tensor([1.0, 2.0], [2], name="x")
    assert texts(View(signature), typed([coded("a"), None], "base64", "t"), x) == ["a", None]


def test_a_preprocess_gets_what_the_elements_stand_for() -> None:
    hooks = Hooks(preprocess=lambda records: records)
    body = v2(typed(['{"a": [1]}'], "pd_json"))
    assert V2Adapter(view("text", hooks)).decode(body, "r-1").records == [{"text": {"a": [1]}}]


def test_a_raw_body_is_of_the_type_that_the_metadata_names() -> None:
    field = Field("t", "string", content_type="base64")
    deployment = View(Signature((field,), (Output("p"),), ("p",), layout="columns"))
    _, envelope = behind()
    rows = decoded(deployment, (coded("é").encode(), type(envelope)(header_length="0"))).rows
    assert rows is not None
    assert rows.columns is not None
    assert rows.columns["t"].tolist() == ["é"]
