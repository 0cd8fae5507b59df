"""ModelInfer against V2's JSON: the same rows, the same words, the same answers; and a status for every error."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import orjson
import pytest

from lagar.errors import RequestError
from lagar.protocols import base, grpc
from lagar.protocols.base import PLAIN
from lagar.protocols.grpc import GrpcAdapter
from lagar.protocols.protobuf import of_length, tag, varint
from lagar.protocols.v2 import V2Adapter
from lagar.types import Rows
from protocols.views import CHURN_RECORD, SIGNATURES, TEXT, WINE_ROW, Hooks, View, view
from support.inference import LISTS, blob, message, output, request

Tensors = tuple[tuple[str, str, list[int], list[Any]], ...]


def by_grpc(model: View, tensors: Tensors, *, raw: bool, **fields: Any) -> Any:
    return GrpcAdapter(model).decode(request(model.name, *tensors, raw=raw, **fields).SerializeToString(), "r-1", PLAIN)


def by_json(model: View, tensors: Tensors, **fields: Any) -> Any:
    inputs = [{"name": n, "datatype": d, "shape": s, "data": values} for n, d, s, values in tensors]
    return V2Adapter(model).decode(orjson.dumps({"inputs": inputs, **fields}), "r-1")


def same(ours: Rows, theirs: Rows) -> bool:
    if ours.matrix is not None and theirs.matrix is not None:
        return np.array_equal(ours.matrix, theirs.matrix)
    assert ours.columns is not None
    assert theirs.columns is not None
    return all(
        column.dtype == theirs.columns[name].dtype and column.tolist() == theirs.columns[name].tolist()
        for name, column in ours.columns.items()
    )


def test_every_error_has_a_status() -> None:
    assert set(grpc.STATUS) == set(base.STATUS)


NUMBERS = [1.0, 2.0, 3.0, 4.0, 100.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 127.0]


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("datatype", sorted(set(LISTS) - {"BYTES", "BOOL"}))
def test_a_matrix_of_any_datatype_is_that_of_json(datatype: str, n: int, raw: bool) -> None:
    values: list[Any] = [value if datatype.startswith("FP") else int(value) for value in NUMBERS * n]
    tensors: Tensors = (("x", datatype, [n, 13], values),)
    assert same(by_grpc(view("wine"), tensors, raw=raw).rows, by_json(view("wine"), tensors).rows)


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("values", [[-5, 1 << 40], [0, -1], [1] * 2])
def test_large_and_negative_numbers_keep_their_value(values: list[int], raw: bool) -> None:
    model = view("open")
    tensors: Tensors = (("x", "INT64", [1, 2], values),)
    assert by_grpc(model, tensors, raw=raw).rows.matrix.tolist() == [[float(value) for value in values]]


def test_half_precision_is_raw_only() -> None:
    values = [0.5, 1.5]
    halves = by_grpc(view("open"), (("x", "FP16", [1, 2], values),), raw=True).rows
    assert halves.matrix.tolist() == [values]
    asked = request("open")
    asked.inputs.add(name="x", datatype="FP16", shape=[1, 2])
    with pytest.raises(RequestError, match="only raw_input_contents can hold"):
        GrpcAdapter(view("open")).decode(asked.SerializeToString(), "r-1", PLAIN)


@pytest.mark.parametrize("raw", [False, True])
def test_columns_of_text_numbers_and_flags_are_those_of_json(raw: bool) -> None:
    datatypes = {str: "BYTES", int: "INT64", float: "FP64", bool: "BOOL"}
    record = CHURN_RECORD | {"discount": 0.5}
    tensors = tuple((name, datatypes[type(value)], [2], [value, value]) for name, value in record.items())
    sent = tuple((n, d, s, [v.encode() if d == "BYTES" else v for v in values]) for n, d, s, values in tensors)
    model = view("churn")
    assert same(by_grpc(model, sent, raw=raw).rows, by_json(model, tensors).rows)


def test_numbers_may_stand_one_by_one() -> None:
    """Not packed: proto2 writers do so, and every reader has to take it."""
    contents = b"".join(tag(3, 0) + varint(value) for value in (1, 300))
    tensor = of_length(1, b"x") + of_length(2, b"INT64") + b"".join(tag(3, 0) + varint(size) for size in (1, 2))
    body = of_length(1, b"open") + of_length(5, tensor + of_length(5, contents))
    assert GrpcAdapter(view("open")).decode(body, "r-1", PLAIN).rows.matrix.tolist() == [[1.0, 300.0]]


def test_texts_may_be_many_and_numbers_one_by_one_are_few() -> None:
    tensor = of_length(1, b"text") + of_length(2, b"BYTES") + of_length(3, varint(70_000))
    body = of_length(1, b"text") + of_length(5, tensor + of_length(5, of_length(8, b"ab") * 70_000))
    assert GrpcAdapter(View(TEXT)).decode(body, "r-1", PLAIN).rows.columns["text"].tolist() == ["ab"] * 70_000
    tensor = of_length(1, b"x") + of_length(2, b"INT64") + of_length(3, varint(35_000) + varint(2))
    body = of_length(1, b"open") + of_length(5, tensor + of_length(5, b"\x18\x01" * 70_000))
    with pytest.raises(RequestError, match="send them packed, or raw"):
        GrpcAdapter(view("open")).decode(body, "r-1", PLAIN)


MISTAKES: dict[str, tuple[str, Tensors]] = {
    "datatype": ("wine", (("x", "FP128", [1, 13], []),)),
    "shape": ("wine", (("x", "FP64", [-1, 13], []),)),
    "size": ("wine", (("x", "FP64", [1, 12], WINE_ROW),)),
    "width": ("wine", (("x", "FP64", [1, 12], WINE_ROW[:12]),)),
    "rows": ("wine", (("x", "FP64", [0, 13], []),)),
    "missing": ("churn", (("gender", "BYTES", [1], ["male"]),)),
    "category": ("churn", tuple((n, "BYTES", [1], ["male"]) for n in ("gender", "contract"))),
    "extra": ("strict", tuple((n, "FP64", [1], [1.0]) for n in ("a", "b", "k", "z"))),
    "not whole": ("strict", tuple((n, "FP64", [1], [1.5]) for n in ("a", "b", "k"))),
    "depth": ("wine", (("x", "FP64", [1, 1, 13], WINE_ROW),)),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_have_the_words_of_json(mistake: str) -> None:
    name, tensors = MISTAKES[mistake]
    with pytest.raises(RequestError) as told:
        by_json(view(name), tensors)
    asked = message("inference.ModelInferRequest")(model_name=name)
    for tensor, datatype, shape, values in tensors:
        added = asked.inputs.add(name=tensor, datatype=datatype, shape=shape)
        sent = [value.encode() if isinstance(value, str) else value for value in values]
        getattr(added.contents, LISTS.get(datatype, "fp64_contents")).extend(sent)
    with pytest.raises(RequestError) as refused:
        GrpcAdapter(view(name)).decode(asked.SerializeToString(), "r-1", PLAIN)
    assert (refused.value.message, refused.value.code) == (told.value.message, told.value.code)


def test_nan_is_what_null_is_in_json() -> None:
    tensors: Tensors = (("x", "FP64", [1, 13], [float("nan"), *WINE_ROW[1:]]),)
    with pytest.raises(RequestError, match="input 'alcohol' must not be NaN in row 0"):
        by_grpc(view("wine"), tensors, raw=True)


def test_a_model_with_a_preprocess_gets_records() -> None:
    model = view("wine", Hooks(preprocess=lambda records: records))
    tensors: Tensors = (("x", "FP64", [1, 13], WINE_ROW),)
    got, told = by_grpc(model, tensors, raw=True), by_json(model, tensors)
    assert got.records == told.records
    assert got.rows is None


def test_parameters_count_as_over_http() -> None:
    asked = request("wine", ("x", "FP64", [1, 13], WINE_ROW))
    asked.parameters["timeout"].int64_param = 2_500_000
    assert GrpcAdapter(view("wine")).decode(asked.SerializeToString(), "r-1", PLAIN).timeout_s == 2.5
    asked.inputs[0].parameters["content_type"].string_param = "nonsense"
    with pytest.raises(RequestError, match="content_type \"nonsense\" of input 'x' is not known here"):
        GrpcAdapter(view("wine")).decode(asked.SerializeToString(), "r-1", PLAIN)


@pytest.mark.parametrize(
    "array",
    [
        np.array([1, 200, -3]),
        np.array([1, 2, 3], np.int8),
        np.array([7, 8, 9], np.uint64),
        np.array([0.5, np.nan, np.inf]),
        np.array([0.5, 1, 2], np.float32),
        np.array([True, False, True]),
        np.array(["a", "ü", ""], object),
        np.array([[0.25, 0.75], [1.0, 0.0], [0.5, 0.5]]),
        np.arange(6)[::2],
    ],
)
@pytest.mark.parametrize("raw", [False, True])
def test_outputs_of_every_kind_are_those_of_json(array: Any, raw: bool) -> None:
    model = view("wine")
    tensors: Tensors = (("x", "FP64", [3, 13], WINE_ROW * 3),)
    adapter = GrpcAdapter(model)
    asked = adapter.decode(request("wine", *tensors, raw=raw, id="i").SerializeToString(), "r-1", PLAIN)
    data, _, _ = adapter.encode(asked, {"predict": array})
    answer = message("inference.ModelInferResponse").FromString(data)
    (told,) = orjson.loads(V2Adapter(model).encode(by_json(model, tensors), {"predict": array})[0])["outputs"]
    tensor = answer.outputs[0]
    assert (answer.model_name, answer.model_version, answer.id) == ("wine", "1", "i")
    assert (tensor.name, tensor.datatype, list(tensor.shape)) == (told["name"], told["datatype"], told["shape"])
    values = [value.decode() if isinstance(value, bytes) else value for value in output(answer)]
    if tensor.datatype == "BOOL":
        values = [bool(value) for value in values]
    assert [None if isinstance(v, float) and not np.isfinite(v) else v for v in values] == told["data"]
    assert bool(answer.raw_output_contents) is raw


@pytest.mark.parametrize("raw", [False, True])
def test_single_precision_goes_out_in_its_own_list(raw: bool) -> None:
    signature = SIGNATURES["wine"]
    single = tuple(msgspec.structs.replace(output, datatype="FP32") for output in signature.outputs)
    adapter = GrpcAdapter(View(msgspec.structs.replace(signature, outputs=single)))
    tensors: Tensors = (("x", "FP64", [1, 13], WINE_ROW),)
    asked = adapter.decode(request("wine", *tensors, raw=raw).SerializeToString(), "r", PLAIN)
    value = float(np.float32(0.1))
    data, _, _ = adapter.encode(asked, {"predict": np.array([value])})
    answer = message("inference.ModelInferResponse").FromString(data)
    assert (answer.outputs[0].datatype, output(answer)) == ("FP32", [value])


def test_half_precision_goes_out_raw_or_as_single() -> None:
    adapter = GrpcAdapter(view("open"))
    for raw, datatype in ((True, "FP16"), (False, "FP32")):
        asked = adapter.decode(request("open", ("x", "FP64", [1, 1], [1.0]), raw=raw).SerializeToString(), "r", PLAIN)
        data, _, _ = adapter.encode(asked, {"predict": np.array([0.5], np.float16)})
        answer = message("inference.ModelInferResponse").FromString(data)
        assert answer.outputs[0].datatype == datatype
        assert output(answer) == [0.5]


def test_an_output_says_the_content_type_that_was_asked_for() -> None:
    adapter = GrpcAdapter(View(TEXT, "text"))
    asked = request("text", ("text", "BYTES", [1], [b"um jogo"]), outputs=["predict"])
    asked.outputs[0].parameters["content_type"].string_param = "base64"
    decoded = adapter.decode(asked.SerializeToString(), "r-1", PLAIN)
    data, _, _ = adapter.encode(decoded, {"predict": np.array(["livro"], object)})
    answer = message("inference.ModelInferResponse").FromString(data)
    assert answer.outputs[0].parameters["content_type"].string_param == "base64"
    assert output(answer) == [b"bGl2cm8="]


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_half_a_message_is_refused(cut: int) -> None:
    body = request("wine", ("x", "FP64", [1, 13], WINE_ROW)).SerializeToString()[:-cut]
    with pytest.raises(RequestError):
        GrpcAdapter(view("wine")).decode(body, "r-1", PLAIN)


def test_raw_text_must_be_whole() -> None:
    asked = request("text", ("text", "BYTES", [1], [b"um jogo"]), raw=True)
    asked.raw_input_contents[0] = blob("BYTES", [b"um jogo"])[:-1]
    with pytest.raises(RequestError, match="ends within its element 1"):
        GrpcAdapter(View(TEXT, "text")).decode(asked.SerializeToString(), "r-1", PLAIN)


def test_parameters_of_bodies_over_http_have_no_effect() -> None:
    asked = request("wine", ("x", "FP64", [1, 13], WINE_ROW), raw=True, outputs=["predict"])
    asked.parameters["binary_data_output"].bool_param = True
    asked.inputs[0].parameters["binary_data_size"].int64_param = 104
    asked.outputs[0].parameters["binary_data"].bool_param = False
    adapter = GrpcAdapter(view("wine"))
    data, _, _ = adapter.encode(adapter.decode(asked.SerializeToString(), "r-1", PLAIN), {"predict": np.array([1])})
    assert message("inference.ModelInferResponse").FromString(data).raw_output_contents
