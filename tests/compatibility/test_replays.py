"""What others recorded, asked again: equal, or listed with its reason in the table that docs/compatibility.md shows."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import httpx
import pytest
from google.protobuf import json_format

from contract.callers import HTTP_STATUS, Server, values_of
from lagar.errors import LagarError
from lagar.intake import mlserver, mlserver_server
from support import compatibility
from support.compatibility import LINES, PAYLOADS, REST, REST_DATATYPES, REST_EMPTY, RPC, SETTINGS, Difference, Payload
from support.inference import message, output
from support.wait import eventually

slow = pytest.mark.slow
MODEL = "classificador-produtos"


class Exchange(NamedTuple):
    title: str
    method: str
    path: str
    body: bytes
    status: int
    headers: str
    answer: str


def rest_transcript(data: Path) -> list[Exchange]:
    """The requests of the transcript, with what MLServer 1.3.2 answered."""
    text = (data / "expected" / "3-mlserver-1.3.2-rest-transcript.txt").read_text()
    found = []
    for part in text.split("\n### ")[1:]:
        title, request, *rest = part.splitlines()
        at = next(number for number, line in enumerate(rest) if line.startswith("-> "))
        status, headers = rest[at][3:].split(" ", 1)
        method, path = request.split()
        answer = rest[at + 1] if len(rest) > at + 1 else ""
        found.append(Exchange(title, method, path, "\n".join(rest[:at]).encode(), int(status), headers, answer))
    return found


@slow
def test_every_rest_exchange_of_mlserver_is_equal_or_listed(replayed: Server, data: Path) -> None:
    exchanges = rest_transcript(data)
    listed = {each.title: each for each in REST}
    for exchange in exchanges:
        answer = replayed.http.request(exchange.method, exchange.path, content=exchange.body or None)
        if exchange.title == "infer after unload":
            answer = once_refused(replayed.http, exchange)
        if exchange.title in listed:
            check_difference(answer, listed[exchange.title])
            continue
        assert answer.status_code == exchange.status, (exchange.title, answer.text)
        if exchange.title in REST_EMPTY:
            assert exchange.answer == ""
            continue
        theirs = json.loads(exchange.answer)
        if exchange.title in REST_DATATYPES:
            assert theirs["outputs"][0].pop("datatype") == "INT32"
            assert answer.json()["outputs"][0]["datatype"] == "INT64"
        assert comparable(answer.json(), theirs) == theirs, exchange.title
        if "ce-specversion" in exchange.headers:
            check_event(answer, exchange)
    assert len(exchanges) == 43
    assert {*listed, *REST_EMPTY, *REST_DATATYPES} <= {exchange.title for exchange in exchanges}


def check_difference(answer: httpx.Response, listed: Difference) -> None:
    assert answer.status_code == int(listed.ours), (listed, answer.text)
    assert listed.words in answer.text, (listed, answer.text)
    assert "Traceback" not in answer.text


def once_refused(client: httpx.Client, exchange: Exchange) -> httpx.Response:
    """The answer once every worker has heard of an unload."""

    def asked() -> httpx.Response:
        return client.post(exchange.path, content=exchange.body)

    eventually(lambda: asked().status_code == 404, 60, "404 of an unloaded model")
    return asked()


def comparable(ours: Any, theirs: Any) -> Any:
    """Our answer with the id that the other server made, and with the members that were compared before left out."""
    if isinstance(ours, list):  # the index, which has the models of the payloads too
        return [each for each in ours if each["name"] in {other["name"] for other in theirs}]
    if "outputs" not in ours:
        return ours
    made = re.fullmatch(r"[0-9a-f]+(-[0-9a-f]+)+", theirs["id"]) is not None
    outputs = [
        {key: value for key, value in told.items() if key in other or key != "datatype"}
        for told, other in zip(ours["outputs"], theirs["outputs"], strict=True)
    ]
    return ours | {"id": theirs["id"] if made else ours["id"], "outputs": outputs}


def check_event(answer: httpx.Response, exchange: Exchange) -> None:
    """The ce-* headers are there, of the same version and type, with the answer's id."""
    for name in ("ce-specversion", "ce-type", "ce-source", "ce-id"):
        assert name in answer.headers, (exchange.title, dict(answer.headers))
    assert answer.headers["ce-id"] == answer.json()["id"]
    for name in ("ce-specversion", "ce-type"):
        assert f"'{name}': '{answer.headers[name]}'" in exchange.headers


@slow
def test_probabilities_of_the_transcript_agree_to_three_digits(replayed: Server, data: Path) -> None:
    exchange = next(exchange for exchange in rest_transcript(data) if exchange.title == "predict_proba")
    ours = replayed.http.post(exchange.path, content=exchange.body).json()["outputs"]
    theirs = json.loads(exchange.answer)["outputs"]
    assert ours[0] == theirs[0]
    assert (ours[1]["name"], ours[1]["shape"], ours[1]["datatype"]) == ("predict_proba", [1, 4], "FP64")
    assert ours[1]["data"] == pytest.approx(theirs[1]["data"], abs=1e-3)


def rpc_transcript(data: Path) -> dict[str, Any]:
    """Title → the answer as JSON, or the name of the status."""
    text = (data / "expected" / "3-mlserver-1.3.2-grpc-transcript.txt").read_text()
    found: dict[str, Any] = {}
    for part in text.split("\n### ")[1:]:
        title, answer = part.split("\n", 1)
        told = re.match(r" ERR StatusCode\.(\w+)", answer)
        found[title.strip()] = told[1] if told else json.loads(answer)
    return found


def texts(*words: str, version: str = "1.1", shape: list[int] | None = None, kind: str = "str", **more: Any) -> Any:
    """A ModelInferRequest for the product classifier."""
    asked = message("inference.ModelInferRequest")(model_name=MODEL, model_version=version, **more)
    tensor = asked.inputs.add(name="predict", datatype="BYTES", shape=shape or [len(words)])
    tensor.contents.bytes_contents.extend(word.encode() for word in words)
    if kind:
        tensor.parameters["content_type"].string_param = kind
    return asked


def iris(*, raw: bool = False) -> Any:
    asked = message("inference.ModelInferRequest")(model_name="iris-dtc", model_version="1.0")
    tensor = asked.inputs.add(name="predict", datatype="FP32", shape=[1, 4])
    row = [6.0, 2.9, 4.5, 1.5]
    if raw:
        import numpy as np

        asked.raw_input_contents.append(np.array(row, "<f4").tobytes())
    else:
        tensor.contents.fp32_contents.extend(row)
    return asked


def infer(asked: Any) -> Callable[[Server], Any]:
    return lambda server: server.grpc.infer(asked)


def named(method: str, **fields: Any) -> Callable[[Server], Any]:
    return lambda server: server.grpc.call(method, **fields)


def _book(word: str) -> Any:
    return infer(texts(word, shape=[len(word.encode())]))


OTHER_MODEL = texts("x")
OTHER_MODEL.model_name = "nada"
CALLS: dict[str, Callable[[Server], Any]] = {
    "ServerLive": named("ServerLive"),
    "ServerReady": named("ServerReady"),
    "ServerMetadata": named("ServerMetadata"),
    "ModelReady 1.1": named("ModelReady", name=MODEL, version="1.1"),
    "ModelReady unknown": named("ModelReady", name="nada"),
    "ModelMetadata": named("ModelMetadata", name=MODEL),
    "book gRPC: boneca de pano shape=bytes, content_type=str, v1.1": _book("boneca de pano"),
    "book gRPC: Senhos dos anéis shape=bytes, content_type=str, v1.1": _book("Senhos dos anéis"),
    "book gRPC: Senor dos aneis shape=bytes, content_type=str, v1.1": _book("Senor dos aneis"),
    "shape [1] content_type str": infer(texts("boneca")),
    "shape [1] no content_type": infer(texts("boneca", kind="")),
    "shape [6] no content_type": infer(texts("boneca", kind="", shape=[6])),
    "3 strings shape [3] str v1.0": infer(texts("Minecraft", "Senhor dos aneis", "Senhor dos anéis", version="1.0")),
    "no version": infer(texts("Senhor dos aneis", version="")),
    "id": infer(texts("boneca", id="k-7")),
    "unknown model": infer(OTHER_MODEL),
    "unknown version": infer(texts("x", version="9.9")),
    "iris-dtc": infer(iris()),
    "iris-dtc raw_input_contents": infer(iris(raw=True)),
}
"""The transcript has answers only; these are the requests that its titles tell of."""


@slow
def test_every_grpc_exchange_of_mlserver_is_equal_or_listed(replayed: Server, data: Path) -> None:
    transcript, listed = rpc_transcript(data), {each.title: each for each in RPC}
    assert set(transcript) == set(CALLS)
    assert set(listed) < set(CALLS)
    for title, theirs in transcript.items():
        status, ours = answered(CALLS[title], replayed)
        if title in listed:
            assert status == listed[title].ours, (title, ours)
            assert listed[title].words in str(ours), (title, ours)
        elif isinstance(theirs, str):
            assert status == theirs, (title, ours)
        else:
            if "outputs" in theirs and "id" not in theirs:
                assert ours.pop("id"), title  # ours has the request's
            assert ours == theirs, title
    assert compatibility.render().count("of 19 exchanges") == 1


def answered(call: Callable[[Server], Any], server: Server) -> tuple[str, Any]:
    """The status of a call, and its answer as the transcript writes it, or its words."""
    try:
        answer = call(server)
    except grpc.RpcError as error:
        return error.code().name, error.details()  # type: ignore[attr-defined]
    return "OK", json_format.MessageToDict(answer, preserving_proto_field_name=True)


@slow
@pytest.mark.parametrize("payload", PAYLOADS, ids=lambda payload: payload.file)
def test_a_payload_is_answered_as_the_table_says(replayed: Server, data: Path, payload: Payload) -> None:
    file = data / "inference-protocol" / payload.file
    if "grpc" in payload.file:
        status, told = sent_over_grpc(replayed, payload, json.loads(file.read_text()))
    else:
        status, told = sent(replayed, payload, file)
    assert status == payload.status, told
    if status == 200 and payload.answer:
        assert told == json.loads(payload.answer)
    elif status != 200:
        assert payload.answer in told


def sent(server: Server, payload: Payload, file: Path) -> tuple[int, Any]:
    """Status, and values or words."""
    body, headers = file.read_bytes(), {"Content-Type": "application/json"}
    if file.suffix == ".bin":
        about = json.loads((file.parent / "README.json").read_text())[file.name]
        length = str(about["Inference-Header-Content-Length"])
        headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": length}
    v1 = b'"instances"' in body
    path = f"/v1/models/{payload.model}:predict" if v1 else f"/v2/models/{payload.model}/infer"
    answer = server.http.post(path, content=body, headers=headers)
    if answer.status_code != 200:
        return answer.status_code, answer.json()["error"]
    return 200, answer.json()["predictions"] if v1 else answer.json()["outputs"][0].get("data")


def sent_over_grpc(server: Server, payload: Payload, body: Any) -> tuple[int, Any]:
    asked = json_format.ParseDict(body, message("inference.ModelInferRequest")())
    asked.model_name = payload.model
    try:
        return 200, output(server.grpc.infer(asked))
    except grpc.RpcError as error:
        return HTTP_STATUS[error.code()], error.details()  # type: ignore[attr-defined]


@slow
def test_the_binary_request_of_iris_is_answered_by_the_output_that_there_is(replayed: Server, data: Path) -> None:
    body = (data / "inference-protocol/binary/iris_v2_binary_request.bin").read_bytes()
    about = json.loads((data / "inference-protocol/binary/README.json").read_text())["iris_v2_binary_request.bin"]
    size = about["Inference-Header-Content-Length"]
    text = body[:size].replace(b"output-0", b"predict")
    headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(text))}
    answer = replayed.http.post("/v2/models/iris-dtc/infer", content=text + body[size:], headers=headers)
    assert answer.status_code == 200, answer.text
    told = json.loads(answer.content[: int(answer.headers.get("inference-header-content-length", len(answer.content)))])
    assert told["outputs"][0]["shape"] == [2, 1]
    if "data" in told["outputs"][0]:
        assert told["outputs"][0]["data"] == about["expected labels"]
    else:
        assert values_of("INT64", answer.content[-16:]) == about["expected labels"]


@slow
def test_every_request_of_the_repositories_stands_in_the_table(data: Path) -> None:
    folder = data / "inference-protocol"
    found = {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if re.search(r"request.*\.(json|bin)$|-input\.json$", path.name) and "generate" not in path.name
    }
    tested = {payload.file for payload in PAYLOADS}
    large = {f"mlserver/benchmarking/sum-model-{kind}-requests.json" for kind in ("rest", "grpc")}
    assert found == tested | large
    settings = {str(path.relative_to(folder)) for path in folder.rglob("*settings*.json")}
    assert settings == set(SETTINGS)


@slow
@pytest.mark.parametrize("name", LINES)
def test_lines_of_requests_are_answered_one_by_one(replayed: Server, data: Path, name: str) -> None:
    lines = (data / "inference-protocol/mlserver/testdata/batch_processing" / name).read_text().splitlines()
    for line in filter(str.strip, lines):
        given = json.loads(line)["inputs"][0]
        answer = replayed.http.post("/v2/models/sum-model/infer", content=line)
        if "datatype" not in given:
            assert (answer.status_code, "datatype" in answer.text) == (400, True), answer.text
        elif given["datatype"] == "BYTES":
            assert answer.status_code == 500
            assert "Traceback" not in answer.text
        else:
            [told] = answer.json()["outputs"]
            assert (told["name"], told["data"]) == ("total", [sum(given["data"])])
            if "id" in json.loads(line):
                assert answer.json()["id"] == json.loads(line)["id"]


@slow
@pytest.mark.parametrize("file", SETTINGS)
def test_a_settings_file_is_honoured_or_refused_by_name(file: str, data: Path, tmp_path: Path) -> None:
    source = data / "inference-protocol" / file
    said = json.loads(source.read_text())
    of_model = file.endswith("model-settings.json")
    (tmp_path / ("model-settings.json" if of_model else "settings.json")).write_text(source.read_text())
    if of_model:
        implementation = said["implementation"]
        module, _, cls = implementation.rpartition(".")
        if not module.startswith("mlserver"):
            code = tmp_path.joinpath(*module.split(".")).with_suffix(".py")
            code.parent.mkdir(parents=True, exist_ok=True)
            code.write_text(f"from mlserver import MLModel\n\n\nclass {cls}(MLModel):\n    pass\n")
        uri = said.get("parameters", {}).get("uri") or {"mlserver_xgboost.XGBoostModel": "model.json"}.get(
            implementation, "model.joblib"
        )
        place = tmp_path / uri
        place.parent.mkdir(parents=True, exist_ok=True)
        if "mlflow" in implementation:
            place.mkdir()
            (place / "MLmodel").write_text("flavors: {sklearn: {pickled_model: model.pkl}}\n")
        else:
            place.write_bytes(b"")
    else:
        (tmp_path / "m").mkdir()
        (tmp_path / "m" / "model-settings.json").write_text("{}")
    if not SETTINGS[file]:
        taken(tmp_path, of_model=of_model, said=said)
        return
    with pytest.raises(LagarError) as refused:
        taken(tmp_path, of_model=of_model, said=said)
    assert SETTINGS[file] in str(refused.value)


def taken(folder: Path, *, of_model: bool, said: dict[str, Any]) -> None:
    if not of_model:
        assert mlserver_server.said(folder)
        return
    settled = mlserver.read(folder, folder)
    assert settled is not None
    assert said["name"] in str(settled)
