"""V2's binary tensor extension: tensors behind the JSON, in and out, and bodies that are nothing but a tensor."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lagar.errors import InvalidInput, PayloadTooLarge, RequestError, UnsupportedMediaType
from lagar.protocols.base import PLAIN, Envelope, InferRequest, Limits
from lagar.protocols.v2 import V2Adapter
from lagar.registry.signature import Field, Output, Signature
from protocols.corpus import churn_inputs, dumped, tensor, v2
from protocols.test_corpus import same_rows
from protocols.views import CHURN, CHURN_RECORD, SIGNATURES, WINE_NAMES, WINE_RECORD, WINE_ROW, Hooks, View, view

DATA = Path(__file__).parents[3] / "shared" / "data"
OCTETS = "application/octet-stream"
NUMPY = {
    "BOOL": "?", "INT8": "<i1", "INT16": "<i2", "INT32": "<i4", "INT64": "<i8", "UINT8": "<u1", "UINT16": "<u2",
    "UINT32": "<u4", "UINT64": "<u8", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8",
}  # fmt: skip


def blob_of(values: Any, datatype: str) -> bytes:
    if datatype == "BYTES":
        texts = [text if isinstance(text, bytes) else text.encode() for text in values]
        return b"".join(struct.pack("<I", len(text)) + text for text in texts)
    if datatype == "BF16":
        return (np.asarray(values, "<f4").view("<u4") >> 16).astype("<u2").tobytes()
    return np.array(values, NUMPY[datatype]).tobytes()


def behind(*inputs: tuple[str, str, list[int], bytes], **members: Any) -> tuple[bytes, Envelope]:
    """A request whose inputs (name, datatype, shape, blob) stand behind its JSON."""
    tensors = [
        {"name": name, "shape": shape, "datatype": datatype, "parameters": {"binary_data_size": len(blob)}}
        for name, datatype, shape, blob in inputs
    ]
    return mixed(dumped({"inputs": tensors, **members}), *(blob for *_, blob in inputs))


def mixed(text: bytes, *blobs: bytes, length: Any = None) -> tuple[bytes, Envelope]:
    said = str(len(text) if length is None else length)
    return text + b"".join(blobs), Envelope(OCTETS, header_length=said)


def wine(values: Any = WINE_ROW, shape: Any = (1, 13), datatype: str = "FP64") -> tuple[str, str, list[int], bytes]:
    return "x", datatype, list(shape), blob_of(values, datatype)


def decoded(model: Any, sent: tuple[bytes, Envelope], **limits: Any) -> InferRequest:
    deployment = view(model) if isinstance(model, str) else model
    return V2Adapter(deployment, Limits(**limits)).decode(sent[0], "r-1", sent[1])


def refused(model: Any, sent: tuple[bytes, Envelope], *words: str, kind: Any = InvalidInput) -> None:
    with pytest.raises(kind) as caught:
        decoded(model, sent)
    for word in words:
        assert word in caught.value.message, caught.value.message


def encoded(model: Any, request: InferRequest, outputs: dict[str, Any]) -> tuple[Any, bytes, str, dict[str, str]]:
    """The JSON of an answer, what stands behind it, its type and its headers."""
    deployment = view(model) if isinstance(model, str) else model
    body, kind, lines = V2Adapter(deployment).encode(request, outputs)
    headers = dict(line.split(": ", 1) for line in lines.decode().split("\r\n")[:-1])
    size = int(headers.get("inference-header-content-length", len(body)))
    return orjson.loads(body[:size]), body[size:], kind, headers


# In


@pytest.mark.parametrize("datatype", [*NUMPY, "BF16"])
def test_every_numeric_datatype_gives_the_rows_that_json_gives(datatype: str) -> None:
    if datatype == "BOOL":
        fields = (Field("a", "bool"), Field("b", "bool"))
        rows: list[Any] = [[True, False], [False, False]]
    else:
        fields = (Field("a"), Field("b"))
        rows = [[1, 2], [3, 100]]
    deployment = View(Signature(fields, (Output("predict"),), ("predict",)))
    sent = behind(("x", datatype, [2, 2], blob_of(rows, datatype)))
    plain = v2(tensor(rows, [2, 2], "BOOL" if datatype == "BOOL" else "FP64"))
    same_rows(decoded(deployment, sent).rows, V2Adapter(deployment).decode(plain, "r-1").rows)


def test_flags_of_a_model_of_numbers_are_1_and_0() -> None:
    numbers = (Field("a"), Field("b", "int"))
    deployment = View(Signature(numbers, (Output("predict"),), ("predict",)))
    plain = V2Adapter(deployment).decode(v2(tensor([1, 0, 0, 1], [2, 2])), "r-1").rows
    adapter = V2Adapter(deployment)
    same_rows(adapter.decode(v2(tensor([True, False, False, True], [2, 2], "BOOL")), "r-1").rows, plain)
    columns = [tensor([True, False], [2], "BOOL", "a"), tensor([False, True], [2, 1], "BOOL", "b")]
    same_rows(adapter.decode(v2(*columns), "r-1").rows, plain)
    same_rows(decoded(deployment, behind(("x", "BOOL", [2, 2], b"\x01\x00\x00\x01"))).rows, plain)
    mixed = behind(("b", "BOOL", [2], b"\x00\x01"), ("a", "FP32", [2], np.array([1, 0], "<f4").tobytes()))
    same_rows(decoded(deployment, mixed).rows, plain)
    refused(deployment, (v2(tensor([True, False], [1, 2], "FP64")), PLAIN), "holds numbers", "got true")


def test_text_stands_behind_its_length() -> None:
    texts = ["Minecraft", "", "Senhor dos anéis", "a:b"]
    rows = decoded("text", behind(("x", "BYTES", [4], blob_of(texts, "BYTES")))).rows
    assert rows is not None
    assert rows.columns is not None
    assert rows.columns["text"].tolist() == texts


def test_columns_of_every_kind_are_the_rows_of_json() -> None:
    inputs = [
        (name, datatype, [1], blob_of([CHURN_RECORD[name]], datatype))
        for name, datatype in (
            ("gender", "BYTES"), ("contract", "BYTES"), ("plan", "BYTES"), ("tenure", "INT32"), ("charges", "FP64"),
            ("paperless", "BOOL"), ("visits", "UINT8"), ("zone", "BYTES"),
        )
    ]  # fmt: skip
    missing = ("discount", "FP64", [1], blob_of([np.nan], "FP64"))
    rows = decoded("churn", behind(*inputs, missing)).rows
    same_rows(rows, V2Adapter(view("churn")).decode(v2(*churn_inputs()), "r-1").rows)


def test_some_inputs_may_stand_in_the_json_and_some_behind_it() -> None:
    names = list(WINE_RECORD)
    tensors: list[dict[str, Any]] = [tensor([WINE_RECORD[name]], [1], name=name) for name in names]
    for place in (2, 7):
        del tensors[place]["data"]
        tensors[place]["parameters"] = {"binary_data_size": 8}
    sent = mixed(v2(*tensors), *(blob_of([WINE_RECORD[names[place]]], "FP64") for place in (2, 7)))
    rows = decoded("wine", sent).rows
    assert rows is not None
    assert rows.matrix is not None
    assert rows.matrix.tolist() == [WINE_ROW]


def test_thirteen_columns_in_any_order_are_a_matrix() -> None:
    inputs = [(name, "FP64", [2, 1], blob_of([WINE_RECORD[name], 1], "FP64")) for name in reversed(WINE_NAMES)]
    rows = decoded("wine", behind(*inputs)).rows
    assert rows is not None
    assert rows.matrix is not None
    assert rows.matrix.tolist() == [WINE_ROW, [1.0] * 13]


def test_whole_numbers_keep_every_digit_or_are_refused() -> None:
    signature = Signature((Field("n", "int"), Field("t", "string")), (Output("p"),), ("p",), layout="columns")
    inputs = [("n", "INT64", [1], blob_of([2**53 + 1], "INT64")), ("t", "BYTES", [1], blob_of(["x"], "BYTES"))]
    rows = decoded(View(signature), behind(*inputs)).rows
    assert rows is not None
    assert rows.columns is not None
    assert rows.columns["n"].tolist() == [2**53 + 1]
    refused("wine", behind(wine([2**53 + 1, *[1] * 12], datatype="INT64")), "'alcohol'", "2^53")
    refused("wine", behind(wine([2**64 - 1, *[1] * 12], datatype="UINT64")), "'alcohol'", "2^53")


def test_the_rows_own_their_memory() -> None:
    rows = decoded("wine", behind(wine())).rows
    assert rows is not None
    assert rows.matrix is not None
    assert rows.matrix.flags.writeable
    assert rows.matrix.flags.aligned


def test_nan_is_null_where_null_is_allowed() -> None:
    fields = (Field("a", nullable=True), Field("b"))
    deployment = View(Signature(fields, (Output("p"),), ("p",), named=True))
    rows = decoded(deployment, behind(("x", "FP32", [2, 2], blob_of([[np.nan, 1], [2, 3]], "FP32")))).rows
    assert rows is not None
    assert rows.matrix is not None
    np.testing.assert_array_equal(rows.matrix, [[np.nan, 1], [2, 3]])
    refused(deployment, behind(("x", "FP32", [1, 2], blob_of([1, np.nan], "FP32"))), "'b'", "NaN", "row 0")
    refused(deployment, behind(("x", "FP64", [1, 2], blob_of([np.inf, 1], "FP64"))), "'a'", "finite")


def test_a_preprocess_gets_plain_values() -> None:
    hooks = Hooks(preprocess=lambda records: records)
    assert decoded(view("wine", hooks), behind(wine())).records == [WINE_RECORD]
    sent = behind(("x", "BYTES", [2, 1], blob_of(["a", "b"], "BYTES")))
    assert decoded(view("text", hooks), sent).records == [{"text": "a"}, {"text": "b"}]


# Lengths


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (behind(wine(WINE_ROW[:12])), ["'x'", "[1, 13]", "104 bytes", "96 were sent"]),
        (behind(("x", "FP64", [9, 2**62, 2**62], b"")), ["'x'", "bytes", "0 were sent"]),
        (mixed(v2({**tensor([], [1, 13]), "parameters": {"binary_data_size": 104}}), bytes(104)), ["both"]),
        (mixed(behind(wine())[0][:-104], bytes(103)), ["104", "103 bytes"]),
        (mixed(behind(wine())[0][:-104], bytes(105)), ["1 bytes", "no input"]),
        (mixed(v2(tensor(WINE_ROW, [1, 13])), b"x"), ["1 bytes", "no input"]),
        (mixed(b"{}", length=3), ["3", "2 bytes"]),
        (mixed(b"{}", length=-1), ["Inference-Header-Content-Length", '"-1"']),
        (mixed(b"{}", length="x"), ["Inference-Header-Content-Length", '"x"']),
        (mixed(b"{}", length="9" * 30), ["Inference-Header-Content-Length"]),
        (mixed(b"{}", length="\u00b2"), ["Inference-Header-Content-Length"]),
        (mixed(b"{}", length=""), ["Inference-Header-Content-Length"]),
        (mixed(v2({"name": "x", "shape": [1], "datatype": "FP64", "parameters": {"binary_data_size": "8"}}), bytes(8)),
         ["binary_data_size", '"8"']),
        (mixed(v2({"name": "x", "shape": [1], "datatype": "FP64", "parameters": {"binary_data_size": -8}}), bytes(8)),
         ["binary_data_size", "-8"]),
        (mixed(v2({"name": "x", "shape": [1], "datatype": "FP64", "parameters": {"binary_data_size": True}}), b"x"),
         ["binary_data_size", "true"]),
    ],
)  # fmt: skip
def test_a_length_that_does_not_fit_is_named(sent: tuple[bytes, Envelope], words: list[str]) -> None:
    refused("wine", sent, *words)


@pytest.mark.parametrize(
    ("count", "blob", "words"),
    [
        (2, blob_of(["a"], "BYTES"), ["element 2 of 2"]),
        (1, blob_of(["a", "b"], "BYTES"), ["5 bytes", "last element"]),
        (1, b"\x05\x00\x00\x00abc", ["element 1"]),
        (1, b"\xff\xff\xff\xffabc", ["element 1"]),
        (1, b"\x05\x00", ["element 1"]),
        (1, blob_of([b"\xff\xfe"], "BYTES"), ["UTF-8", "row 0"]),
    ],
)
def test_text_that_does_not_fit_its_lengths_is_named(count: int, blob: bytes, words: list[str]) -> None:
    refused("text", behind(("x", "BYTES", [count], blob)), "'x'", *words, kind=RequestError)


def test_too_many_rows_are_refused_before_they_are_read() -> None:
    with pytest.raises(PayloadTooLarge, match="11 rows, at most 10"):
        decoded("wine", behind(wine([WINE_ROW] * 11, [11, 13])), max_rows=10)
    with pytest.raises(PayloadTooLarge, match="2305843009213693952 rows"):
        decoded("text", behind(("x", "BYTES", [2**61], b"\x00")), max_rows=10)


def test_a_bool_is_0_or_1() -> None:
    deployment = View(Signature((Field("a", "bool"), Field("b", "bool")), (Output("p"),), ("p",)))
    refused(deployment, behind(("x", "BOOL", [2, 2], b"\x00\x01\x01\x02")), "0 or 1", "got 2", "row 1")


def test_data_behind_the_json_needs_the_header() -> None:
    body, _ = behind(wine())
    text = body[:-104]
    refused("wine", (text, Envelope()), "binary_data_size", "Inference-Header-Content-Length is missing")
    refused("wine", (body, Envelope(OCTETS)), "Inference-Header-Content-Length", kind=UnsupportedMediaType)


def test_shared_memory_is_refused_by_name() -> None:
    sent = {"name": "x", "shape": [1, 13], "datatype": "FP64", "parameters": {"shared_memory_region": "r"}}
    refused("wine", (v2(sent), Envelope()), "shared_memory_region", "send the data in the body")
    asked = [{"name": "predict", "parameters": {"classification": 2}}]
    refused("wine", (v2(tensor(WINE_ROW, [1, 13]), outputs=asked), Envelope()), "classification", "predict_proba")


@given(st.data())
@settings(deadline=None, max_examples=200)
def test_no_body_does_anything_but_answer_or_refuse(data: Any) -> None:
    body, envelope = behind(wine(), ("t", "BYTES", [1], blob_of(["abc"], "BYTES")), id="i")
    place = data.draw(st.integers(0, len(body)))
    cut = data.draw(st.integers(0, 8))
    changed = body[:place] + data.draw(st.binary(max_size=8)) + body[place + cut :]
    length = data.draw(st.sampled_from([envelope.header_length, "0", str(len(changed)), str(place)]))
    for model in ("wine", "text", "open"):
        adapter = V2Adapter(view(model), Limits(max_rows=1000))
        try:
            status = 200 if adapter.decode(changed, "r-1", Envelope(OCTETS, header_length=length)).n else 500
        except RequestError as error:
            status = adapter.error(error, "r-1").status
        assert status in (200, 400, 413)


# Raw bodies


RAW = Envelope(OCTETS, header_length="0")


def test_a_raw_body_is_rows_of_a_model_of_numbers() -> None:
    request = decoded("wine", (blob_of([WINE_ROW, WINE_ROW], "FP64"), RAW))
    assert request.rows is not None
    assert request.rows.matrix is not None
    assert request.rows.matrix.tolist() == [WINE_ROW, WINE_ROW]
    answer, rest, kind, _ = encoded("wine", request, {"predict": np.array([1, 2])})
    assert kind == OCTETS
    assert answer["outputs"][0]["parameters"] == {"binary_data_size": 16}
    assert np.frombuffer(rest, "<i8").tolist() == [1, 2]


def test_a_raw_body_is_the_text_of_a_model_of_texts() -> None:
    rows = decoded("text", ("Senhor dos anéis".encode(), RAW)).rows
    assert rows is not None
    assert rows.columns is not None
    assert rows.columns["text"].tolist() == ["Senhor dos anéis"]
    refused("text", (b"\xff", RAW), "UTF-8")


def test_a_raw_body_that_is_no_rows_is_refused() -> None:
    refused("wine", (bytes(103), RAW), "13 FP64", "104 bytes", "103 bytes")
    refused("wine", (b"", RAW), "at least one")
    refused("churn", (bytes(8), RAW), "9 inputs", "send JSON")
    refused("open", (bytes(8), RAW), "unknown number of inputs")
    with pytest.raises(PayloadTooLarge):
        decoded("wine", (blob_of([WINE_ROW] * 3, "FP64"), RAW), max_rows=2)


def test_a_raw_body_of_a_single_field_is_of_its_datatype() -> None:
    deployment = View(Signature((Field("n", "int"),), (Output("p"),), ("p",), layout="columns"))
    rows = decoded(deployment, (blob_of([1, 2, 3], "INT64"), RAW)).rows
    assert rows is not None
    assert rows.columns is not None
    assert rows.columns["n"].tolist() == [1, 2, 3]


# Out


def test_outputs_stand_behind_the_json_when_they_are_asked_for_so() -> None:
    asked = [{"name": "predict_proba", "parameters": {"binary_data": True}}, {"name": "predict"}]
    request = decoded("wine", (v2(tensor(WINE_ROW, [1, 13]), outputs=asked), Envelope()))
    outputs = {"predict": np.array([1]), "predict_proba": np.array([[0.25, 0.5, 0.25]], np.float32)}
    answer, rest, kind, _ = encoded("wine", request, outputs)
    assert kind == OCTETS
    assert answer["outputs"] == [
        {"name": "predict_proba", "shape": [1, 3], "datatype": "FP32", "parameters": {"binary_data_size": 12}},
        {"name": "predict", "shape": [1, 1], "datatype": "INT64", "data": [1]},
    ]
    assert np.frombuffer(rest, "<f4").tolist() == [0.25, 0.5, 0.25]


@pytest.mark.parametrize(
    ("members", "binary"),
    [
        ({"parameters": {"binary_data_output": True}}, [True]),
        ({"parameters": {"binary_data_output": False}}, [False]),
        ({}, [False]),
        (
            {
                "parameters": {"binary_data_output": True},
                "outputs": [{"name": "predict"}, {"name": "predict_proba", "parameters": {"binary_data": False}}],
            },
            [True, False],
        ),
    ],
)
def test_one_word_for_all_outputs_and_one_for_each(members: dict[str, Any], binary: list[bool]) -> None:
    for sent in ((v2(tensor(WINE_ROW, [1, 13]), **members), Envelope()), behind(wine(), **members)):
        request = decoded("wine", sent)
        outputs = {"predict": np.array([1]), "predict_proba": np.array([[0.25, 0.5, 0.25]])}
        answer, _, _, _ = encoded("wine", request, outputs)
        assert ["data" not in output for output in answer["outputs"]] == binary


@pytest.mark.parametrize(
    ("array", "datatype", "blob"),
    [
        (np.array([1, 2], np.int8), "INT8", b"\x01\x02"),
        (np.array([1.5], np.float16), "FP16", np.array([1.5], "<f2").tobytes()),
        (np.array([np.nan, np.inf]), "FP64", np.array([np.nan, np.inf], "<f8").tobytes()),
        (np.array([True, False]), "BOOL", b"\x01\x00"),
        (np.array(["é", "", None], object), "BYTES", blob_of(["é", "", ""], "BYTES")),
        (np.array(["é", "b"]), "BYTES", blob_of(["é", "b"], "BYTES")),
        (np.array([True], object), "BOOL", b"\x01"),
        (np.array([1, 2.5], object), "FP64", np.array([1, 2.5]).tobytes()),
        (np.array([[1, 2], [3, 4]]).T, "INT64", np.array([1, 3, 2, 4]).tobytes()),
    ],
)
def test_outputs_of_every_kind_have_their_bytes(array: Any, datatype: str, blob: bytes) -> None:
    n = len(array)
    members = {"parameters": {"binary_data_output": True}}
    request = decoded("wine", behind(wine([WINE_ROW] * n, [n, 13]), **members))
    answer, rest, _, _ = encoded("wine", request, {"predict": array})
    assert answer["outputs"][0]["datatype"] == datatype
    assert answer["outputs"][0]["parameters"] == {"binary_data_size": len(blob)}
    assert rest == blob


def test_an_output_of_single_precision_is_the_same_number_in_half_the_bytes() -> None:
    signature = SIGNATURES["wine"]
    single = tuple(msgspec.structs.replace(output, datatype="FP32") for output in signature.outputs)
    deployment = View(msgspec.structs.replace(signature, outputs=single))
    values = np.array([0.1, 1 / 3, 7e-9], np.float32).astype(np.float64)
    for binary in (False, True):
        body = v2(tensor(WINE_ROW * 3, [3, 13]), parameters={"binary_data_output": binary})
        adapter = V2Adapter(deployment)
        answer, _, lines = adapter.encode(adapter.decode(body, "r-1"), {"predict": values})
        size = int(lines.rpartition(b": ")[2]) if binary else len(answer)
        (output,) = orjson.loads(answer[:size])["outputs"]
        assert output["datatype"] == "FP32"
        assert (np.frombuffer(answer[size:], "<f4").tolist() if binary else output["data"]) == values.tolist()


def test_flags_must_be_true_or_false() -> None:
    refused("wine", behind(wine(), parameters={"binary_data_output": 1}), "binary_data_output", "true or false")
    asked = [{"name": "predict", "parameters": {"binary_data": "yes"}}]
    refused("wine", behind(wine(), outputs=asked), "binary_data", "true or false")


def test_an_answer_names_its_event() -> None:
    request = decoded("wine", (v2(tensor(WINE_ROW, [1, 13]), id="abc-1"), Envelope()))
    *_, headers = encoded("wine", request, {"predict": np.array([1])})
    assert headers == {
        "ce-specversion": "0.3",
        "ce-source": "io.seldon.serving.deployment.lagar",
        "ce-type": "io.seldon.serving.inference.response",
        "ce-id": "abc-1",
    }
    request.request_id = 'a b"é\r\nx: y%'
    *_, headers = encoded("wine", request, {"predict": np.array([1])})
    assert headers["ce-id"] == "a%20b%22%C3%A9%0D%0Ax:%20y%25"


# What others have written


@pytest.mark.parametrize("name", ["iris_v2_binary_request.bin", "produtos_bytes_binary_request.bin"])
def test_requests_written_after_the_extension_are_read(name: str) -> None:
    folder = DATA / "inference-protocol" / "binary"
    if not folder.exists():
        pytest.skip(f"{folder} is not here")
    facts = json.loads((folder / "README.json").read_text())[name]
    body = (folder / name).read_bytes()
    assert len(body) == facts["Content-Length"]
    envelope = Envelope(facts["Content-Type"], header_length=str(facts["Inference-Header-Content-Length"]))
    four = Signature(tuple(Field(f"x{place}") for place in range(4)), (Output("output-0"),), ("output-0",))
    deployment = view("text") if "produtos" in name else View(four)
    assert decoded(deployment, (body, envelope)).n == (3 if "produtos" in name else 2)


def test_the_exact_way_reads_what_the_quick_way_reads() -> None:
    members = {"id": "i", "outputs": [{"name": "predict", "parameters": {"binary_data": True}}]}
    for deployment, sent in (
        (view("wine"), behind(wine(), **members)),
        (view("wine"), behind(wine([WINE_ROW] * 3, [3, 13], "FP32"))),
        (View(CHURN), behind(("gender", "BYTES", [1], blob_of(["x"], "BYTES")))),
    ):
        quick, exact = V2Adapter(deployment), V2Adapter(deployment)
        exact._quick = exact._binary = None
        results: list[Any] = []
        for adapter in (quick, exact):
            try:
                request = adapter.decode(sent[0], "r-1", sent[1])
                results.append((request.n, request.outputs, request.request_id, request.extra))
            except RequestError as error:
                results.append((type(error), error.message, error.field))
        assert results[0] == results[1]
