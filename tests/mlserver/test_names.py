"""The names that user code imports as `mlserver`, and the codecs behind them."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lagar.mlserver import codecs, decoding, objects, types
from lagar.mlserver.errors import CodecError
from lagar.mlserver.model import MLModel
from lagar.mlserver.settings import ModelSettings
from lagar.mlserver.types import InferenceRequest, InferenceResponse, Parameters, RequestInput, RequestOutput

IMPORTS = """
import mlserver
from mlserver import MLModel, ModelSettings, Settings, types
from mlserver.codecs import NumpyCodec, StringCodec, PandasCodec, decode_args, DecodedParameterName
from mlserver.codecs.numpy import NumpyRequestCodec
from mlserver.codecs import InputCodecLike
from mlserver.codecs.json import JSONCodec, decode_from_bytelike_json_to_dict, encode_to_json_bytes
from mlserver.codecs.lists import as_list, is_list_of
from mlserver.codecs.string import StringRequestCodec, decode_str, encode_str
from mlserver.codecs.utils import get_decoded_or_raw
from mlserver.errors import InferenceError, MLServerError
from mlserver.handlers.custom import custom_handler
from mlserver.logging import logger
from mlserver.model import MLModel as Same
from mlserver.settings import ModelParameters
from mlserver.types import InferenceRequest, Datatype
from mlserver.utils import get_model_uri, generate_uuid
from mlserver_sklearn import SKLearnModel
from mlserver_sklearn.sklearn import PREDICT_OUTPUT
from mlserver_xgboost import XGBoostModel
from mlserver_lightgbm import LightGBMModel
assert Same is MLModel and mlserver.codecs.NumpyCodec is NumpyCodec and mlserver.types is types
"""


def run(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr


def test_every_name_that_runtimes_import_is_there_and_brings_no_library() -> None:
    heavy = "assert not {'pandas', 'sklearn', 'xgboost', 'lightgbm', 'pydantic'} & set(sys.modules), sys.modules"
    run(f"import sys\nfrom lagar.mlserver import names\nnames.install()\n{IMPORTS}\n{heavy}")


def test_nothing_is_called_mlserver_before_such_a_class_is_loaded() -> None:
    run(
        "import sys\nimport lagar.server.worker, lagar.runtimes.mlserver, lagar.intake.paths\n"
        "assert 'mlserver' not in sys.modules"
    )


def request_input(data: Any, datatype: str, shape: list[int], **parameters: Any) -> RequestInput:
    return RequestInput(name="x", datatype=datatype, shape=shape, data=data, parameters=parameters or None)


@pytest.mark.parametrize(
    ("codec", "datatype", "data", "shape", "value"),
    [
        (codecs.NumpyCodec, "FP32", [1, None, 3, 4], [2, 2], np.array([[1, np.nan], [3, 4]], dtype="float32")),
        (codecs.NumpyCodec, "INT64", [[1, 2], [3, 4]], [2, 2], np.array([[1, 2], [3, 4]])),
        (codecs.NumpyCodec, "BOOL", [True, False], [2], np.array([True, False])),
        (codecs.NumpyCodec, "BYTES", ["é", "b"], [2], np.array(["é", "b"])),
        (codecs.NumpyCodec, "FP64", np.array([1.5, 2.5]).tobytes(), [2, 1], np.array([[1.5], [2.5]])),
        (codecs.StringCodec, "BYTES", ["é", b"b"], [2], ["é", "b"]),
        (codecs.StringCodec, "BYTES", b"abcd", [2, 2], ["ab", "cd"]),
        (codecs.StringCodec, "BYTES", ["é", None], [2], ["é", None]),
        (objects.JSONCodec, "BYTES", ['{"a": 1}', b"[2]"], [2], [{"a": 1}, [2]]),
        (codecs.Base64Codec, "BYTES", ["Y2Fm6Q=="], [1], [b"caf\xe9"]),
        (
            codecs.DatetimeCodec,
            "BYTES",
            ["2024-01-02T03:04:05+00:00"],
            [1],
            [datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC)],
        ),
    ],
)
def test_tensors_are_decoded_as_their_codec_says(codec: Any, datatype: str, data: Any, shape: Any, value: Any) -> None:
    decoded = codec.decode_input(request_input(data, datatype, shape))
    if isinstance(value, np.ndarray):
        np.testing.assert_array_equal(decoded, value)
        assert decoded.dtype.kind == value.dtype.kind
    else:
        assert decoded == value


@pytest.mark.parametrize(
    ("codec", "tensor", "words"),
    [
        (codecs.NumpyCodec, request_input([1, 2, 3], "FP32", [2, 2]), "cannot reshape"),
        (codecs.NumpyCodec, request_input(["a"], "FP32", [1]), "could not convert"),
        (codecs.Base64Codec, request_input(["not base64!"], "BYTES", [1]), "is not base64"),
        (codecs.DatetimeCodec, request_input(["yesterday"], "BYTES", [1]), "ISO 8601"),
        (codecs.DatetimeCodec, request_input([None], "BYTES", [1]), "ISO 8601"),
        (objects.JSONCodec, request_input(["{"], "BYTES", [1]), "is not JSON"),
    ],
)
def test_what_a_codec_cannot_read_is_an_error_of_the_caller(codec: Any, tensor: RequestInput, words: str) -> None:
    with pytest.raises(CodecError, match=words) as refused:
        codec.decode_input(tensor)
    assert refused.value.status_code == 400


@pytest.mark.parametrize(
    ("payload", "datatype", "shape", "data", "content_type"),
    [
        (np.array([1.5, np.nan]), "FP64", [2, 1], [1.5, None], "np"),
        (np.array([[1, 2]], dtype="int32"), "INT32", [1, 2], [1, 2], "np"),
        (np.array(["a", "b"], dtype=object), "BYTES", [2, 1], ["a", "b"], "str"),
        (["a"], "BYTES", [1, 1], ["a"], "str"),
        ([b"caf"], "BYTES", [1, 1], ["Y2Fm"], "base64"),
        ([datetime(2024, 1, 2, tzinfo=UTC)], "BYTES", [1, 1], ["2024-01-02T00:00:00+00:00"], "datetime"),
    ],
)
def test_a_value_is_written_by_the_codec_of_its_type(
    payload: Any, datatype: str, shape: Any, data: Any, content_type: str
) -> None:
    model = MLModel(ModelSettings(name="m"))
    output = model.encode(payload, RequestOutput(name="o"))
    assert (output.datatype, output.shape, output.data.root) == (datatype, shape, data)
    assert output.parameters is not None
    assert output.parameters.content_type == content_type


def test_a_value_is_written_as_json_where_that_is_asked_for() -> None:
    wanted = RequestOutput(name="o", parameters=Parameters(content_type="json"))
    output = MLModel(ModelSettings(name="m")).encode([{"a": np.float64(1.5), "b": b"c"}], wanted)
    assert (output.shape, output.data.root) == ([1, 1], [b'{"a":1.5,"b":"c"}'])


def test_the_request_says_how_it_is_decoded_before_the_metadata_and_that_before_the_default() -> None:
    settings = ModelSettings(
        name="m",
        inputs=[{"name": "x", "datatype": "BYTES", "shape": [1], "parameters": {"content_type": "base64"}}],
        parameters={"content_type": "str"},
    )
    model = MLModel(settings)
    assert model.decode(request_input(["YQ=="], "BYTES", [1])) == [b"a"]
    assert model.decode(request_input(["YQ=="], "BYTES", [1], content_type="str")) == ["YQ=="]
    request = InferenceRequest(inputs=[request_input(["YQ=="], "BYTES", [1])])
    assert model.decode_request(request) == [b"a"]
    plain = MLModel(ModelSettings(name="m"))
    assert list(plain.decode(request_input([1, 2], "INT64", [2]))) == [1, 2]
    decoded = plain.decode_request(
        InferenceRequest(inputs=[request_input([1], "INT64", [1])]), codecs.NumpyRequestCodec
    )
    assert decoded.tolist() == [1]
    unknown = request_input([1], "INT64", [1], content_type="nothing")
    with pytest.raises(CodecError, match="nothing"):
        plain.decode(unknown)


def test_frames_are_read_and_written_a_column_a_tensor() -> None:
    frame = pd.DataFrame({"a": [1.0, np.nan], "b": ["x", "y"], "c": [{"k": 1}, [2]]})
    request = decoding.PandasCodec.encode_request(frame)
    assert [(tensor.name, tensor.datatype, tensor.data.root) for tensor in request.inputs] == [
        ("a", "FP64", [1.0, None]),
        ("b", "BYTES", ["x", "y"]),
        ("c", "BYTES", ['{"k": 1}', "[2]"]),
    ]
    model = MLModel(ModelSettings(name="m"))
    request.inputs = request.inputs[:2]
    back = model.decode_request(request)
    assert back["b"].tolist() == ["x", "y"]
    assert back["a"].isna().tolist() == [False, True]
    with pytest.raises(CodecError, match="different lengths"):
        decoding.PandasCodec.decode_request(
            InferenceRequest(
                inputs=[
                    RequestInput(name="a", datatype="INT64", shape=[1], data=[1]),
                    RequestInput(name="b", datatype="INT64", shape=[2], data=[1, 2]),
                ]
            )
        )


async def _decorated(request: InferenceRequest) -> InferenceResponse:
    class Decorated(MLModel):
        @decoding.decode_args
        async def predict(self, payload: np.ndarray, words: list[str]) -> np.ndarray:  # type: ignore[override]
            return payload * len(words)

    answer: InferenceResponse = await Decorated(ModelSettings(name="m")).predict(request)
    return answer


def test_arguments_are_decoded_by_their_annotations() -> None:
    import asyncio

    request = InferenceRequest(
        id="7",
        inputs=[
            RequestInput(name="payload", datatype="FP64", shape=[2], data=[1, 2]),
            RequestInput(name="words", datatype="BYTES", shape=[3], data=["a", "b", "c"]),
        ],
    )
    answer = asyncio.run(_decorated(request))
    assert (answer.id, answer.outputs[0].data.root) == ("7", [3.0, 6.0])
    request.inputs.pop()
    with pytest.raises(CodecError, match="'words' was not found"):
        asyncio.run(_decorated(request))


def test_types_are_made_of_dicts_and_dumped_to_them() -> None:
    said = {
        "id": "1",
        "parameters": {"content_type": "pd", "mine": 5},
        "inputs": [{"name": "x", "shape": [1], "datatype": "INT64", "data": [1], "parameters": None}],
        "outputs": [{"name": "o", "parameters": None}],
    }
    request = types.InferenceRequest.parse_obj(said)
    assert request.parameters is not None
    assert request.parameters.mine == 5  # type: ignore[attr-defined]
    assert request.dict() == request.model_dump() == said
    assert types.InferenceRequest.model_validate_json(request.model_dump_json()) == request
    codecs.save_decoded(request.inputs[0], np.array([1]))
    assert request.inputs[0].dict(exclude={"parameters"}) == {
        "name": "x",
        "shape": [1],
        "datatype": "INT64",
        "data": [1],
    }
    assert "_decoded_payload" not in request.json()
    assert request.model_copy(update={"id": "2"}).id == "2"
    assert len(request.inputs[0].data) == 1
    assert np.asarray(request.inputs[0].data).tolist() == [1]
    assert Parameters(a=1) == Parameters(a=1)
