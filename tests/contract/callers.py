"""One caller per protocol: the same records or matrix in, the same values or the same class of error out.

A caller puts what it is given into its protocol's own form, and takes the answer out of it; a refusal must have the
shape of its protocol before its status and words are handed on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import grpc
import httpx
import numpy as np

from support.inference import Client, blob, output, request
from support.server import LagarServer, is_ready_line

Record = dict[str, Any]


class Refused(Exception):
    """A refusal in the words of HTTP, whatever the protocol called it."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status
        self.message = re.sub(r" \(request [^)]*\)$", "", message)


class Server(NamedTuple):
    """A running server and the ways to it."""

    running: LagarServer
    http: httpx.Client
    grpc: Client
    default: str
    """The model that answers where none is named."""
    key: str = ""
    """What callers send who send no other key; empty: none is needed."""


class Caller:
    """A protocol as a client speaks it."""

    name = ""
    protocol = ""
    """As `lagar_requests_total` counts it."""
    names_models = True
    """The caller says which model, and which version, is to answer."""
    chooses_outputs = True
    """The caller may ask for probabilities."""

    def ask(
        self,
        server: Server,
        model: str,
        rows: list[Record] | list[list[float]],
        *,
        version: str = "",
        wanted: Sequence[str] = (),
        key: str | None = None,
        timeout_s: float | None = None,
    ) -> dict[str, list[Any]]:
        """Output → one value, or list of values, per row; raises Refused.

        `rows` are records, or a matrix as lists; without `key` the server's own is sent, "" is none.
        """
        raise NotImplementedError


def _headers(server: Server, key: str | None, timeout_s: float | None) -> dict[str, str]:
    headers = {"Content-Type": "application/json"}
    if server.key if key is None else key:
        headers["Authorization"] = f"Bearer {server.key if key is None else key}"
    if timeout_s is not None:
        headers["Timeout"] = repr(timeout_s)
    return headers


class OverHttp(Caller):
    """What the JSON protocols share: one POST, and a refusal whose shape `words` reads."""

    def post(self, server: Server, path: str, body: bytes, headers: dict[str, str]) -> httpx.Response:
        answer = server.http.post(path, content=body, headers=headers)
        if answer.status_code != 200:
            assert answer.headers["content-type"] == "application/json", answer.headers
            raise Refused(answer.status_code, self.words(answer.json()))
        return answer

    def words(self, answer: Any) -> str:
        """The message of a refusal: `{"error": "message"}` in V2 and V1."""
        assert list(answer) == ["error"], answer
        assert isinstance(answer["error"], str)
        return str(answer["error"])


class Native(OverHttp):
    name = protocol = "native"

    def ask(self, server: Server, model: str, rows: Any, *, version: str = "", wanted: Sequence[str] = (),
            key: str | None = None, timeout_s: float | None = None) -> dict[str, list[Any]]:  # fmt: skip
        path = f"/models/{model}/versions/{version}/predict" if version else f"/models/{model}/predict"
        body = json.dumps({"batches": rows} if isinstance(rows[0], list) else {"instances": rows})
        answer = self.post(server, path, body.encode(), _headers(server, key, timeout_s)).json()
        found = {"predict": answer["predictions"]}
        return found | ({"predict_proba": answer["probabilities"]} if "probabilities" in answer else {})

    def words(self, answer: Any) -> str:
        assert list(answer) == ["error"], answer
        assert set(answer["error"]) == {"code", "message", "field", "row", "request_id"}
        return str(answer["error"]["message"])


DATATYPES = {float: "FP64", int: "INT64", bool: "BOOL", str: "BYTES"}


class Tensor(NamedTuple):
    name: str
    datatype: str
    shape: list[int]
    values: list[Any]
    """Flat; None is a missing value."""


def tensors(rows: Any) -> list[Tensor]:
    """One matrix, or a column per field with the datatype that its values have together."""
    if isinstance(rows[0], list):
        return [Tensor("x", "FP64", [len(rows), len(rows[0])], [value for row in rows for value in row])]
    found = []
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [row[name] for row in rows if name in row]
        kinds = {type(value) for value in values} - {type(None)}
        kind = str if str in kinds else float if float in kinds or not kinds else kinds.pop()
        typed = [value if value is None else kind(value) for value in values]
        found.append(Tensor(name, DATATYPES[kind], [len(values)], typed))
    return found


def _raw(tensor: Tensor) -> bytes:
    """The bytes of a tensor: where no number is, there is NaN."""
    values = [np.nan if value is None else value for value in tensor.values]
    return blob(tensor.datatype, values)


def _nested(values: list[Any], shape: Sequence[int]) -> list[Any]:
    """Flat values as one per row, or one list per row."""
    rows, width = shape[0], int(np.prod(shape[1:]))
    assert len(values) == rows * width
    return values if width == 1 else [values[at * width : (at + 1) * width] for at in range(rows)]


class V2(OverHttp):
    name, protocol = "v2 json", "v2"

    def ask(self, server: Server, model: str, rows: Any, *, version: str = "", wanted: Sequence[str] = (),
            key: str | None = None, timeout_s: float | None = None) -> dict[str, list[Any]]:  # fmt: skip
        path = f"/v2/models/{model}/versions/{version}/infer" if version else f"/v2/models/{model}/infer"
        inputs, blobs = self.written(tensors(rows))
        body: Any = {"inputs": inputs, **({"outputs": [{"name": name} for name in wanted]} if wanted else {})}
        headers = _headers(server, key, timeout_s)
        if blobs is None:
            return self.read(self.post(server, path, json.dumps(body).encode(), headers))
        text = json.dumps(body | {"parameters": {"binary_data_output": True}}).encode()
        headers |= {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(text))}
        return self.read(self.post(server, path, text + blobs, headers))

    def written(self, given: list[Tensor]) -> tuple[list[Any], bytes | None]:
        """The inputs as JSON, and what stands behind it."""
        return [
            {"name": name, "datatype": datatype, "shape": shape, "data": values}
            for name, datatype, shape, values in given
        ], None

    def read(self, answer: httpx.Response) -> dict[str, list[Any]]:
        return {each["name"]: _nested(each["data"], each["shape"]) for each in answer.json()["outputs"]}


class V2Binary(V2):
    name, protocol = "v2 binary", "v2"

    def written(self, given: list[Tensor]) -> tuple[list[Any], bytes | None]:
        blobs = [_raw(tensor) for tensor in given]
        inputs = [
            {"name": name, "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": len(data)}}
            for (name, datatype, shape, _), data in zip(given, blobs, strict=True)
        ]
        return inputs, b"".join(blobs)

    def read(self, answer: httpx.Response) -> dict[str, list[Any]]:
        size = int(answer.headers["inference-header-content-length"])
        rest, found = answer.content[size:], {}
        for told in json.loads(answer.content[:size])["outputs"]:
            length = told["parameters"]["binary_data_size"]
            found[told["name"]] = _nested(values_of(told["datatype"], rest[:length]), told["shape"])
            rest = rest[length:]
        assert not rest
        return found


def values_of(datatype: str, data: bytes) -> list[Any]:
    """The values in a raw tensor of an answer."""
    if datatype != "BYTES":
        return list(np.frombuffer(data, {"INT64": "<i8", "FP64": "<f8", "BOOL": "?"}[datatype]).tolist())
    found = []
    while data:
        size = int.from_bytes(data[:4], "little")
        found.append(data[4 : 4 + size].decode())
        data = data[4 + size :]
    return found


HTTP_STATUS = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.INTERNAL: 500,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}


class Grpc(Caller):
    name, protocol = "v2 grpc", "grpc"
    raw = False

    def ask(self, server: Server, model: str, rows: Any, *, version: str = "", wanted: Sequence[str] = (),
            key: str | None = None, timeout_s: float | None = None) -> dict[str, list[Any]]:  # fmt: skip
        given = []
        for name, datatype, shape, values in tensors(rows):
            plain = [np.nan if value is None else value for value in values]
            given.append((name, datatype, shape, [v.encode() if isinstance(v, str) else v for v in plain]))
        asked = request(model, *given, raw=self.raw, outputs=wanted, version=version)
        key = server.key if key is None else key
        metadata = [("authorization", f"Bearer {key}")] if key else []
        if timeout_s is not None:  # grpcio's own deadline would end the call on this side
            asked.parameters["timeout"].int64_param = round(timeout_s * 1e6)
        try:
            answer = server.grpc.infer(asked, timeout=60, metadata=metadata)
        except grpc.RpcError as error:
            raise self.refused(error) from error
        assert bool(answer.raw_output_contents) is self.raw
        found = {}
        for place, told in enumerate(answer.outputs):
            values = [v.decode() if isinstance(v, bytes) else v for v in output(answer, place)]
            found[told.name] = _nested(values, list(told.shape))
        return found

    def refused(self, error: Any) -> Refused:
        code, trailing = error.code(), dict(error.trailing_metadata() or ())
        if code is grpc.StatusCode.RESOURCE_EXHAUSTED:  # for want of room, or too large
            return Refused(429 if "retry-after" in trailing else 413, error.details())
        return Refused(HTTP_STATUS[code], error.details())


class GrpcRaw(Grpc):
    name, protocol, raw = "v2 grpc raw", "grpc", True


class Mlflow(OverHttp):
    name = protocol = "mlflow"
    names_models = chooses_outputs = False

    def ask(self, server: Server, model: str, rows: Any, *, version: str = "", wanted: Sequence[str] = (),
            key: str | None = None, timeout_s: float | None = None) -> dict[str, list[Any]]:  # fmt: skip
        assert model == server.default
        body = json.dumps({"inputs": rows} if isinstance(rows[0], list) else {"dataframe_records": rows})
        answer = self.post(server, "/invocations", body.encode(), _headers(server, key, timeout_s)).json()
        assert list(answer) == ["predictions"]
        return {"predict": answer["predictions"]}

    def words(self, answer: Any) -> str:
        assert list(answer) == ["error_code", "message"], answer
        assert re.fullmatch("[A-Z_]+", answer["error_code"])
        return str(answer["message"])


class V1(OverHttp):
    name = protocol = "v1"
    chooses_outputs = False

    def ask(self, server: Server, model: str, rows: Any, *, version: str = "", wanted: Sequence[str] = (),
            key: str | None = None, timeout_s: float | None = None) -> dict[str, list[Any]]:  # fmt: skip
        path = f"/v1/models/{model}/versions/{version}:predict" if version else f"/v1/models/{model}:predict"
        body = json.dumps({"instances": rows})
        answer = self.post(server, path, body.encode(), _headers(server, key, timeout_s)).json()
        assert list(answer) == ["predictions"]
        return {"predict": answer["predictions"]}


CALLERS: tuple[Caller, ...] = (Native(), V2(), V2Binary(), Grpc(), GrpcRaw(), Mlflow(), V1())


def grpc_target(server: LagarServer) -> str:
    """Where a server says that it listens for gRPC."""
    found = re.search(r"  grpc: (\S+)  models: ", server.wait_line(is_ready_line))
    assert found
    return found[1]
