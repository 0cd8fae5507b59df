"""Classes derived from `mlserver.MLModel`: loaded without MLServer, asked with whole requests."""

from __future__ import annotations

import json
import logging
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lagar import runtimes
from lagar.engine.host import HostedPredictor
from lagar.errors import InvalidInput, LagarError, LoadFailed, MissingCode, ModelFailed, NotReady, SetupError
from lagar.intake import paths
from lagar.intake.mlserver import facts_of
from lagar.protocols import v2_metadata
from lagar.protocols.base import Envelope
from lagar.protocols.whole import WholeAdapter
from lagar.protocols.whole_grpc import WholeGrpcAdapter
from lagar.registry.model import Asked, LoadedModel
from lagar.runtimes import mlserver
from lagar.types import Rows
from support import inference
from support.mlserver import SUM, custom, tensor


class Deployed:
    """What an adapter reads of a deployment."""

    def __init__(self, loaded: LoadedModel) -> None:
        self.name, self.version = loaded.source.name, loaded.source.version
        self.signature, self.handlers = loaded.signature, None
        self.native_outputs = loaded.signature.native_outputs


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Any]:
    """Loads a custom runtime of some code and closes it."""
    models: list[LoadedModel] = []

    def load(code: str = SUM, *, cls: str = "SumModel", **said: Any) -> LoadedModel:
        custom(tmp_path / f"m{len(models)}", code, cls=cls, **({"name": "m"} | said))
        (one,) = paths.find(Asked(paths=(str(tmp_path / f"m{len(models)}"),))).found
        models.append(runtimes.load(one.source))
        return models[-1]

    yield load
    for model in models:
        model.predictor.close()


def asked(loaded: LoadedModel, *inputs: Any, **more: Any) -> dict[str, Any]:
    """The answer to a request, through the adapter and the predictor."""
    adapter = WholeAdapter(Deployed(loaded))
    body = json.dumps({"inputs": list(inputs), **more}).encode()
    request = adapter.decode(body, "made-here")
    assert request.rows is not None
    outputs = loaded.predictor.predict(request.rows, request.outputs)
    written, media, lines = adapter.encode(request, outputs)
    assert media == "application/json"
    assert b"ce-id: " in lines
    return json.loads(written)  # type: ignore[no-any-return]


def test_a_runtime_is_loaded_and_answers_whole_requests(opened: Any) -> None:
    model = opened(parameters={"version": "v1", "extra": {"output_name": "sums"}})
    assert model.signature.whole
    assert model.source.version == "v1"
    answer = asked(model, tensor([[1, 2], [3, 4]], datatype="FP32"), id="mine")
    assert answer == {
        "model_name": "m",
        "model_version": "v1",
        "id": "mine",
        "parameters": {},
        "outputs": [
            {
                "name": "sums",
                "shape": [2, 1],
                "datatype": "FP32",
                "parameters": {"content_type": "np"},
                "data": [3.0, 7.0],
            }
        ],
    }
    assert asked(model, tensor([[1, 2]]))["id"] == "made-here"


def test_an_inference_error_is_the_callers_and_anything_else_the_models(
    opened: Any, caplog: pytest.LogCaptureFixture
) -> None:
    code = """
from mlserver import MLModel
from mlserver.errors import InferenceError, MLServerError, ModelNotReady

class Faulty(MLModel):
    async def predict(self, payload):
        what = payload.inputs[0].data[0]
        if what == "caller":
            raise InferenceError("this text is not taken")
        if what == "away":
            raise ModelNotReady(self.name)
        if what == "server":
            raise MLServerError("secret", 500)
        return {"caller": 1}[what]
"""
    model = opened(code, cls="Faulty")
    with pytest.raises(InvalidInput, match="this text is not taken"):
        asked(model, tensor(["caller"], datatype="BYTES"))
    with pytest.raises(NotReady):
        asked(model, tensor(["away"], datatype="BYTES"))
    for what in ("server", "else"):
        with caplog.at_level(logging.ERROR), pytest.raises(ModelFailed) as failed:
            asked(model, tensor([what], datatype="BYTES"))
        assert "secret" not in failed.value.message
    assert "KeyError: 'else'" in caplog.text


def test_requests_of_one_call_run_side_by_side_and_fail_alone(opened: Any) -> None:
    code = """
import asyncio
from mlserver import MLModel
from mlserver.errors import InferenceError
from mlserver.types import InferenceResponse

class Meeting(MLModel):
    async def load(self):
        self.present, self.all_here = 0, asyncio.Event()
        return True

    async def predict(self, payload):
        if payload.inputs[0].data[0] == 0:
            raise InferenceError("alone")
        self.present += 1
        if self.present == 2:
            self.all_here.set()
        await self.all_here.wait()
        return InferenceResponse(model_name=self.name, outputs=[])
"""
    model = opened(code, cls="Meeting")
    requests = [mlserver.rows_of({"id": str(n), "inputs": [tensor([n])]}) for n in (1, 0, 2)]
    outcomes = model.predictor.predict(Rows.join(requests), (mlserver.ANSWER,))[mlserver.ANSWER]
    assert [outcome.get("status") for outcome in outcomes] == [None, 400, None]
    assert [mlserver.answer_of(outcomes[place], "m")["id"] for place in (0, 2)] == ["1", "2"]


def test_load_and_predict_share_a_loop_that_is_not_the_callers(opened: Any) -> None:
    code = """
import asyncio, threading
from mlserver import MLModel
from mlserver.types import InferenceResponse, ResponseOutput

class Where(MLModel):
    async def load(self):
        self.loop, self.thread = asyncio.get_running_loop(), threading.current_thread().name
        self.beats = 0
        self.task = asyncio.create_task(self.beat())
        return True

    async def beat(self):
        while True:
            self.beats += 1
            await asyncio.sleep(0.001)

    async def predict(self, payload):
        before = self.beats
        while self.beats < before + 3:
            await asyncio.sleep(0.001)
        same = asyncio.get_running_loop() is self.loop
        output = ResponseOutput(name="o", datatype="BYTES", shape=[2], data=[self.thread, str(same)])
        return InferenceResponse(model_name=self.name, outputs=[output])

    async def unload(self):
        self.task.cancel()
        return True
"""
    answer = asked(opened(code, cls="Where"), tensor([1]))
    thread, same = answer["outputs"][0]["data"]
    assert same == "True"
    assert thread != threading.current_thread().name


def test_a_missing_file_of_the_model_is_named(opened: Any) -> None:
    code = SUM.replace(
        "        return True",
        "        from mlserver.utils import get_model_uri\n        return bool(await get_model_uri(self.settings))",
    )
    with pytest.raises(LoadFailed, match=r"Invalid URI specified for model m .*weights\.json"):
        opened(code, parameters={"uri": "./weights.json"})


def test_a_models_own_file_is_found_beside_its_settings(opened: Any, tmp_path: Path) -> None:
    code = """
from mlserver import MLModel
from mlserver.types import InferenceResponse, ResponseOutput
from mlserver.utils import get_model_uri

class Reader(MLModel):
    async def load(self):
        with open(await get_model_uri(self.settings, wellknown_filenames=["weights.txt"])) as file:
            self.text = file.read()
        return True

    async def predict(self, payload):
        s = self.settings
        said = [self.text, s.platform, s.versions[0], s.parameters.extra["k"], s.parameters.own, s.inputs[0].name]
        output = ResponseOutput(name="said", datatype="BYTES", shape=[len(said)], data=said)
        return InferenceResponse(model_name=self.name, outputs=[output])
"""
    (tmp_path / "m0").mkdir()
    (tmp_path / "m0/weights.txt").write_text("seven")
    model = opened(
        code,
        cls="Reader",
        platform="mine",
        versions=["lib/1"],
        inputs=[{"name": "prompt", "datatype": "BYTES", "shape": [1]}],
        parameters={"extra": {"k": "value"}, "own": "thing"},
    )
    assert asked(model, tensor([1]))["outputs"][0]["data"] == ["seven", "mine", "lib/1", "value", "thing", "prompt"]


def test_answers_may_hold_objects_bytes_and_arrays(opened: Any) -> None:
    code = """
import numpy as np
from mlserver import MLModel, types

class Objects(MLModel):
    async def predict(self, payload: types.InferenceRequest) -> types.InferenceResponse:
        results = [{"text": t, "confidence": np.float32(0.5), "all": np.arange(2)} for t in payload.inputs[0].data]
        return types.InferenceResponse(id=payload.id, model_name=self.name, parameters={"a": 1}, outputs=[
            types.ResponseOutput(name="objects", shape=[len(results)], datatype="BYTES", data=results),
            types.ResponseOutput(name="bytes", shape=[1], datatype="BYTES", data=b"caf\\xc3\\xa9"),
            types.ResponseOutput(name="array", shape=[2, 2], datatype="INT64", data=np.arange(4).reshape(2, 2)),
            types.ResponseOutput(name="nan", shape=[1], datatype="FP64", data=[float("nan")]),
        ])
"""
    answer = asked(opened(code, cls="Objects"), tensor(["um", "dois"], datatype="BYTES", shape=[9]))
    data = {output["name"]: output["data"] for output in answer["outputs"]}
    assert data["objects"] == [
        {"text": "um", "confidence": 0.5, "all": [0, 1]},
        {"text": "dois", "confidence": 0.5, "all": [0, 1]},
    ]
    assert (data["bytes"], data["array"], data["nan"]) == (["café"], [[0, 1], [2, 3]], [None])
    assert answer["parameters"] == {"a": 1}


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        ("class Other:\n    pass", MissingCode, "has no class 'SumModel'"),
        ("class SumModel:\n    pass", SetupError, "derived from mlserver.MLModel"),
        ("from mlserver import MLModel\nclass SumModel(MLModel):\n    pass", SetupError, "has no predict"),
        ("import nothing_like_it", MissingCode, "pip install nothing_like_it"),
        ("from mlserver.kafka import server", MissingCode, "no counterpart of"),
        ("1/0", LoadFailed, "ZeroDivisionError"),
        (SUM.replace("return True", "return False"), LoadFailed, "returned False"),
        (SUM.replace("return True", "raise ValueError('no weights')"), LoadFailed, "ValueError: no weights"),
        (
            "from mlserver import MLModel\nclass SumModel(MLModel):\n    async def predict_stream(self, p):\n"
            "        yield",
            SetupError,
            "streams",
        ),
    ],
)
def test_a_class_that_cannot_be_served_is_refused_when_it_is_loaded(
    opened: Any, code: str, kind: type[LagarError], words: str
) -> None:
    with pytest.raises(kind, match=words):
        opened(code)


def test_two_versions_may_have_modules_of_one_name(opened: Any) -> None:
    first = opened(SUM.replace(".sum(axis=1)", ".sum(axis=1) + 1"))
    second = opened(SUM)
    answers = [asked(model, tensor([[1, 2]]))["outputs"][0]["data"] for model in (first, second, first)]
    assert answers == [[4.0], [3.0], [4.0]]


def test_rows_of_other_protocols_become_a_request_where_all_is_columns(opened: Any) -> None:
    code = """
from mlserver import MLModel
from mlserver.codecs import PandasCodec

class Frames(MLModel):
    async def predict(self, payload):
        frame = self.decode_request(payload, default_codec=PandasCodec)
        frame["total"] = frame["a"] * 2
        frame["text"] = frame["b"] + "!"
        return PandasCodec.encode_response(self.name, frame[["total", "text"]], self.version)
"""
    model = opened(
        code,
        cls="Frames",
        inputs=[
            {"name": "a", "datatype": "FP64", "shape": [-1]},
            {"name": "b", "datatype": "BYTES", "shape": [-1, 1], "parameters": {"content_type": "str"}},
        ],
        outputs=[
            {"name": "total", "datatype": "FP64", "shape": [-1, 1]},
            {"name": "text", "datatype": "BYTES", "shape": [-1, 1]},
        ],
    )
    assert model.signature.names == ("a", "b")
    rows = Rows(2, columns={"a": np.array([1.0, 2.0]), "b": np.array(["x", "y"], dtype=object)})
    outputs = model.predictor.predict(rows, ("total", "text"))
    assert outputs["total"].tolist() == [2.0, 4.0]
    assert outputs["text"].tolist() == ["x!", "y!"]


def test_rows_are_refused_where_the_settings_name_no_columns(opened: Any) -> None:
    model = opened()
    with pytest.raises(InvalidInput, match="takes whole V2 requests: POST /v2/models/m/infer"):
        model.predictor.predict(Rows(1, columns={}), ())


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("[]", "must be an object with 'inputs'"),
        ("{}", "'inputs' must be a list"),
        ('{"inputs": [1]}', r"inputs\[0\] must be an object"),
        ('{"inputs": [{"name": "x", "shape": [1], "data": [1]}]}', "input 'x' has no 'datatype'"),
        ('{"inputs": [{"name": "x", "shape": [1], "datatype": "INT322", "data": [1]}]}', "INT322"),
        ('{"inputs": [{"name": "x", "shape": [-1], "datatype": "FP32", "data": [1]}]}', "whole numbers"),
        ('{"inputs": [], "outputs": [1]}', "'outputs' must be a list"),
        ('{"inputs": [], "id": 5}', "'id' must be a string"),
        ('{"inputs": [], "parameters": 5}', "'parameters' of the request"),
    ],
)
def test_a_body_that_is_no_v2_request_is_refused_before_the_model_sees_it(opened: Any, body: str, words: str) -> None:
    adapter = WholeAdapter(Deployed(opened()))
    with pytest.raises(InvalidInput, match=words):
        adapter.decode(body.encode(), "id")


def test_a_shape_that_its_data_does_not_fill_is_the_callers_mistake(opened: Any) -> None:
    with pytest.raises(InvalidInput, match="shape \\[3, 2\\]"):
        asked(opened(), tensor([1.0, 2.0], shape=[3, 2]))


def test_its_own_endpoints_and_metrics_are_told_of_and_do_no_harm(
    opened: Any, caplog: pytest.LogCaptureFixture
) -> None:
    code = (
        f"import mlserver\nfrom mlserver.handlers import custom_handler\n{SUM}"
        + """
    @custom_handler(rest_path="/my-endpoint")
    async def mine(self, payload):
        return 1
""".replace("\n    @", "\n    @")
    )
    code = code.replace(
        "        return True\n",
        "        mlserver.register('seen', 'rows')\n        mlserver.log(seen=1)\n        return True\n",
    )
    model = opened(code)
    assert any("/my-endpoint" in warning for warning in model.warnings)
    assert "'seen'" in caplog.text
    assert asked(model, tensor([[1, 2]]))["outputs"][0]["data"] == [3.0]


def test_tensors_may_stand_behind_the_json_both_ways(opened: Any) -> None:
    model = opened()
    adapter = WholeAdapter(Deployed(model))
    described = tensor(None, shape=[2, 2], datatype="FP32", binary_data_size=16)
    del described["data"]
    text = json.dumps({"inputs": [described], "parameters": {"binary_data_output": True}}).encode()
    blob = np.array([1, 2, 3, 4], dtype="<f4").tobytes()
    request = adapter.decode(text + blob, "id", Envelope(header_length=str(len(text))))
    assert request.rows is not None
    body, media, lines = adapter.encode(request, model.predictor.predict(request.rows, request.outputs))
    assert media == "application/octet-stream"
    size = int(lines.rpartition(b": ")[2])
    output = json.loads(body[:size])["outputs"][0]
    assert output["parameters"]["binary_data_size"] == len(body) - size == 8
    assert np.frombuffer(body[size:], "<f4").tolist() == [3.0, 7.0]
    for wrong, words in ((blob[:-1], "15 bytes are left"), (blob + b"x", "1 bytes behind the JSON belong to no input")):
        with pytest.raises(InvalidInput, match=words):
            adapter.decode(text + wrong, "id", Envelope(header_length=str(len(text))))


@pytest.mark.parametrize("raw", [False, True])
def test_grpc_carries_the_same_request_and_answer(opened: Any, raw: bool) -> None:
    model = opened(parameters={"version": "v1"})
    adapter = WholeGrpcAdapter(Deployed(model))
    sent = inference.request("m", ("x", "FP32", [2, 2], [1.0, 2.0, 3.0, 4.0]), raw=raw, id="7").SerializeToString()
    request = adapter.decode(sent, "made-here")
    assert request.rows is not None
    body, _, _ = adapter.encode(request, model.predictor.predict(request.rows, request.outputs))
    answer = inference.message("inference.ModelInferResponse").FromString(body)
    assert (answer.model_name, answer.model_version, answer.id) == ("m", "v1", "7")
    (output,) = answer.outputs
    assert (output.name, output.datatype, list(output.shape)) == ("total", "FP32", [2, 1])
    assert output.parameters["content_type"].string_param == "np"
    blob = answer.raw_output_contents[0] if raw else np.array(output.contents.fp32_contents, "<f4").tobytes()
    assert np.frombuffer(blob, "<f4").tolist() == [3.0, 7.0]


HEADERS = """
from mlserver import MLModel
from mlserver.types import InferenceResponse, Parameters


class Headers(MLModel):
    async def predict(self, payload):
        sent = {"X-Names": ",".join(payload.parameters.headers), "bad": "a\\r\\nx: y", "Content-Length": "1", "n": 5}
        return InferenceResponse(model_name=self.name, outputs=[], parameters=Parameters(headers=sent, more=1))
"""


def test_headers_reach_the_class_and_its_own_the_caller(opened: Any, caplog: pytest.LogCaptureFixture) -> None:
    model = opened(HEADERS, cls="Headers")
    adapter = WholeAdapter(Deployed(model))
    headers = [(b"x-team", b"a"), (b"authorization", b"Bearer secret"), (b"traceparent", b"00-1")]
    request = adapter.decode(json.dumps({"inputs": []}).encode(), "id", Envelope(headers=headers))
    assert request.rows is not None
    with caplog.at_level(logging.WARNING):
        body, _, lines = adapter.encode(request, model.predictor.predict(request.rows, request.outputs))
    assert json.loads(body)["parameters"] == {"more": 1}
    assert lines.split(b"\r\n")[-3:] == [b"X-Names: x-team,traceparent", b"n: 5", b""]
    assert "'bad: a" in caplog.text
    assert "'Content-Length: 1'" in caplog.text


COUNTED = """
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.errors import InferenceError
from mlserver.types import InferenceResponse


class Counted(MLModel):
    async def load(self):
        self.calls = []
        return True

    async def predict(self, payload):
        rows = self.decode(payload.inputs[0], default_codec=NumpyCodec)
        self.calls.append(len(rows))
        if (rows < 0).any():
            raise InferenceError("no row may be below 0")
        outputs = [NumpyCodec.encode_output("total", rows.sum(axis=1)), NumpyCodec.encode_output("twice", rows * 2)]
        whole = [NumpyCodec.encode_output("all", rows.sum(axis=0))] if rows[0, 0] == 7 else []
        return InferenceResponse(model_name=self.name, outputs=outputs + whole)
"""


def together(loaded: LoadedModel, *requests: dict[str, Any]) -> tuple[list[Any], list[int]]:
    """The answers to requests of one call, or what refuses them, and how many rows each call of the class had."""
    adapter = WholeAdapter(Deployed(loaded))
    decoded = [adapter.decode(json.dumps(request).encode(), f"id-{n}") for n, request in enumerate(requests)]
    rows = Rows.join([request.rows for request in decoded if request.rows is not None])
    outcomes = loaded.predictor.predict(rows, decoded[0].outputs)[mlserver.ANSWER]
    answers = []
    for request, outcome in zip(decoded, outcomes, strict=True):
        try:
            written, _, _ = adapter.encode(request, {mlserver.ANSWER: [outcome]})  # type: ignore[dict-item]
            answers.append(json.loads(written))
        except InvalidInput as error:
            answers.append(error.message)
    return answers, loaded.predictor._model.calls


def test_requests_are_one_where_the_settings_ask_for_batches(opened: Any) -> None:
    model = opened(COUNTED, cls="Counted", max_batch_size=3, max_batch_time=0.1)
    one, two = {"id": "a", "inputs": [tensor([[1, 2]])]}, {"inputs": [tensor([[3, 4], [5, 6]])]}
    flat = {"inputs": [tensor([1, 1], shape=[1, 2])]}
    other = {"inputs": [tensor([[1, 2]])], "parameters": {"mine": 1}}
    answers, calls = together(model, one, two, flat, other, one, one)
    assert sorted(calls) == [1, 1, 1, 4], "three of a kind at most, and what differs is apart"
    assert [answer["id"] for answer in answers] == ["a", "id-1", "id-2", "id-3", "a", "a"]
    assert [answer["outputs"][0]["data"] for answer in answers] == [[3.0], [7.0, 11.0], [2.0], [3.0], [3.0], [3.0]]
    assert [answer["outputs"][0]["shape"] for answer in answers[:2]] == [[1, 1], [2, 1]]
    assert (answers[1]["outputs"][1]["shape"], answers[1]["outputs"][1]["data"]) == ([2, 2], [6.0, 8.0, 10.0, 12.0])


def test_a_request_that_a_batch_cannot_hold_is_answered_alone(opened: Any) -> None:
    model = opened(COUNTED, cls="Counted", max_batch_size=8, max_batch_time=0.1)
    good, bad = {"inputs": [tensor([[1, 2]])]}, {"inputs": [tensor([[-1, 2]])]}
    answers, calls = together(model, good, bad, good)
    assert [answer if isinstance(answer, str) else answer["outputs"][0]["data"] for answer in answers] == [
        [3.0], "no row may be below 0", [3.0],
    ]  # fmt: skip
    assert calls == [3, 1, 1, 1]
    not_by_rows = {"inputs": [tensor([[7, 2]])]}
    answers, calls = together(model, not_by_rows, good, good)
    assert [len(answer["outputs"]) for answer in answers] == [3, 2, 2]
    assert calls[4:] == [3, 1, 1, 1]


def test_nothing_is_put_together_that_nobody_asked_for(opened: Any) -> None:
    one = {"inputs": [tensor([[1, 2]])]}
    for said in ({}, {"max_batch_size": 8}, {"max_batch_time": 1.0}):
        assert together(opened(COUNTED, cls="Counted", **said), one, one)[1] == [1, 1]


IMAGE = b"\xff\xd8\xff\xe0 no text"
LENGTHS = """
from mlserver import MLModel, types

class Lengths(MLModel):
    async def predict(self, payload):
        (image,) = payload.inputs[0].data
        assert type(image) is bytes
        return types.InferenceResponse(model_name=self.name, outputs=[
            types.ResponseOutput(name="n", shape=[1], datatype="INT64", data=[len(image)])])
"""


@pytest.mark.parametrize("sent", ["binary", "raw", "contents"])
def test_a_class_gets_bytes_that_are_no_text_as_they_are(opened: Any, sent: str) -> None:
    model = opened(LENGTHS, cls="Lengths")
    if sent == "binary":
        blob = struct.pack("<I", len(IMAGE)) + IMAGE
        image = {"name": "x", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": len(blob)}}
        text = json.dumps({"inputs": [image]}).encode()
        request = WholeAdapter(Deployed(model)).decode(text + blob, "id", Envelope(header_length=str(len(text))))
    else:
        body = inference.request("m", ("x", "BYTES", [1], [IMAGE]), raw=sent == "raw").SerializeToString()
        request = WholeGrpcAdapter(Deployed(model)).decode(body, "id")
    assert request.rows is not None
    answer = mlserver.answer_of(model.predictor.predict(request.rows, request.outputs)[mlserver.ANSWER][0], "m")
    assert answer["outputs"][0]["data"] == [len(IMAGE)]


def test_bf16_is_read_and_written(opened: Any) -> None:
    code = """
from mlserver import MLModel, types
from mlserver.codecs import NumpyCodec

class Halves(MLModel):
    async def predict(self, payload):
        halves = self.decode(payload.inputs[0], default_codec=NumpyCodec) / 2
        return types.InferenceResponse(model_name=self.name, outputs=[
            types.ResponseOutput(name="y", shape=[3], datatype="BF16", data=halves)])
"""
    model = opened(code, cls="Halves")
    blob = (np.array([3.0, -0.5, 2.0**100], np.float32).view(np.uint32) >> 16).astype("<u2").tobytes()
    x = {"name": "x", "shape": [3], "datatype": "BF16", "parameters": {"binary_data_size": len(blob)}}
    text = json.dumps({"inputs": [x], "parameters": {"binary_data_output": True}}).encode()
    adapter = WholeAdapter(Deployed(model))
    request = adapter.decode(text + blob, "id", Envelope(header_length=str(len(text))))
    assert request.rows is not None
    body, _, _ = adapter.encode(request, model.predictor.predict(request.rows, request.outputs))
    halves = np.frombuffer(body[-6:], "<u2").astype(np.uint32) << 16
    assert halves.view(np.float32).tolist() == [1.5, -0.25, 2.0**99]


def test_objects_and_texts_go_over_grpc_as_bytes(opened: Any) -> None:
    code = """
from mlserver import MLModel, types

class Objects(MLModel):
    async def predict(self, payload):
        data = [{"text": t} for t in payload.inputs[0].data] + ["é", b"b", None]
        return types.InferenceResponse(model_name=self.name, parameters={"n": -1, "yes": True, "share": 0.5}, outputs=[
            types.ResponseOutput(name="o", shape=[len(data)], datatype="BYTES", data=data)])
"""
    model = opened(code, cls="Objects")
    adapter = WholeGrpcAdapter(Deployed(model))
    request = adapter.decode(inference.request("m", ("x", "BYTES", [1], [b"um"])).SerializeToString(), "id")
    assert request.rows is not None
    body, _, _ = adapter.encode(request, model.predictor.predict(request.rows, request.outputs))
    answer = inference.message("inference.ModelInferResponse").FromString(body)
    assert list(answer.outputs[0].contents.bytes_contents) == [b'{"text":"um"}', "é".encode(), b"b", b""]
    parameters = answer.parameters
    assert (parameters["n"].int64_param, parameters["yes"].bool_param, parameters["share"].double_param) == (
        -1,
        True,
        0.5,
    )


def test_a_host_process_answers_whole_requests_as_well(opened: Any) -> None:
    source = opened().source
    hosted = HostedPredictor(source, 1)
    try:
        good = mlserver.rows_of({"id": "1", "inputs": [tensor([[1.0, 2.0]])]})
        bad = mlserver.rows_of({"id": "2", "inputs": []})
        outcomes = hosted.predict(Rows.join([good, bad]), (mlserver.ANSWER,))[mlserver.ANSWER]
        assert mlserver.answer_of(outcomes[0], "m")["outputs"][0]["data"] == [3.0]
        with pytest.raises(InvalidInput, match="0 were received"):
            mlserver.answer_of(outcomes[1], "m")
    finally:
        hosted.close()


def test_an_installed_mlserver_is_not_hidden_from_anybody_else(tmp_path: Path) -> None:
    custom(tmp_path / "m", name="m")
    (tmp_path / "site/mlserver").mkdir(parents=True)
    (tmp_path / "site/mlserver/__init__.py").write_text("INSTALLED = True\n")
    code = f"""
import sys
sys.path.insert(0, {str(tmp_path / "site")!r})
from lagar.intake import paths
from lagar.intake.mlserver import facts_of
from lagar.protocols import v2_metadata
from lagar.registry.model import Asked
from lagar.runtimes import mlserver
(one,) = paths.find(Asked(paths=({str(tmp_path / "m")!r},))).found
assert mlserver.hides_another(one.source)
sys.path.pop(0)
assert not mlserver.hides_another(one.source)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr


TOLD = """
from mlserver import MLModel
from mlserver.types import InferenceRequest, InferenceResponse, MetadataTensor, Parameters


class Told(MLModel):
    async def load(self) -> bool:
        text = Parameters(content_type="str")
        self.inputs = [MetadataTensor(name="words", datatype="BYTES", shape=[-1, 3], parameters=text)]
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        return InferenceResponse(model_name=self.name, outputs=[])
"""


def test_metadata_is_what_the_class_says_once_it_is_loaded(opened: Any) -> None:
    said = [{"name": "length", "datatype": "INT64", "shape": [-1]}]
    model = opened(TOLD, cls="Told", outputs=said)
    facts = facts_of(model.source.options)
    metadata = json.loads(v2_metadata.model_metadata("m", ["1"], "mlserver", model.signature, facts))
    words = {"name": "words", "datatype": "BYTES", "shape": [-1, 3], "parameters": {"content_type": "str"}}
    assert (metadata["inputs"], metadata["outputs"]) == ([words], said)
