"""KServe's inference clients: V1 and V2 over HTTP, V2 over gRPC."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

import grpc
import httpx
import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.protocol.infer_type import RequestedOutput
from verdicts import Case, Judge

judge = Judge("V2 over HTTP")
V1, GRPC = "KServe V1", "V2 over gRPC"


def rest(protocol: str) -> InferenceRESTClient:
    return InferenceRESTClient(RESTConfig(protocol=protocol, timeout=60))


def wine(case: Case, *, binary: bool, outputs: bool = True) -> InferRequest:
    rows = np.array(case.wine["rows"])
    tensor = InferInput("x", list(rows.shape), "FP64")
    tensor.set_data_from_numpy(rows, binary_data=binary)
    wanted = [RequestedOutput(name, {"binary_data": True} if binary else None) for name in ("predict", "predict_proba")]
    return InferRequest("wine", [tensor], request_id="flower-7", request_outputs=wanted if outputs else None)


def check_wine(case: Case, answer: Any) -> None:
    assert (answer.model_name, answer.id) == ("wine", "flower-7")  # its client passes over model_version
    outputs = {each.name: each.as_numpy() for each in answer.outputs}
    assert outputs["predict"].ravel().tolist() == case.wine["labels"]
    if "predict_proba" in outputs:
        assert outputs["predict_proba"].tolist() == case.wine["probabilities"]


async def refused(call: Awaitable[Any], kind: type[Exception] = httpx.HTTPStatusError) -> Any:
    try:
        answer = await call
    except kind as error:
        return error
    raise AssertionError(f"it was not refused: {answer!r}")


@judge.feature("liveness and readiness of server, model and version")
async def health(case: Case) -> None:
    async with rest("v2") as asked:
        assert await asked.is_server_live(case.url) is True
        assert await asked.is_server_ready(case.url) is True
        assert await asked.is_model_ready(case.url, "wine") is True
        assert await asked.is_model_ready(case.url, "nobody") is False


@judge.feature("tensors in JSON")
async def in_json(case: Case) -> None:
    async with rest("v2") as asked:
        check_wine(case, await asked.infer(case.url, wine(case, binary=False), "wine"))
        plain = await asked.infer(case.url, wine(case, binary=False, outputs=False), "wine")
        check_wine(case, plain)


@judge.feature("binary tensors, in and out")
async def binary(case: Case) -> None:
    async with rest("v2") as asked:
        check_wine(case, await asked.infer(case.url, wine(case, binary=True), "wine"))


@judge.feature("BYTES, as JSON and binary")
async def text(case: Case) -> None:
    words = np.array([word.encode() for word in case.products["rows"]], dtype=np.object_)
    async with rest("v2") as asked:
        for is_binary in (True, False):
            tensor = InferInput("text", [len(words)], "BYTES")
            tensor.set_data_from_numpy(words, binary_data=is_binary)
            answer = await asked.infer(case.url, InferRequest("products", [tensor]), "products")
            found = answer.outputs[0].as_numpy().ravel().tolist()
            assert [each.decode() if isinstance(each, bytes) else each for each in found] == case.products["labels"]


@judge.feature("keys in headers")
async def keys(case: Case) -> None:
    url = case.keyed["url"]
    async with rest("v2") as asked:
        request = wine(case, binary=False)
        headers = {"Authorization": f"Bearer {case.keyed['infer']}"}
        check_wine(case, await asked.infer(url, request, "wine", headers=headers))
        assert (await refused(asked.infer(url, request, "wine"))).response.status_code == 401
        assert await asked.is_server_ready(url)


@judge.feature("errors: status and words")
async def errors(case: Case) -> None:
    async with rest("v2") as asked:
        error = await refused(asked.infer(case.url, wine(case, binary=False), "nobody"))
        assert error.response.status_code == 404
        assert str(error).startswith("Model nobody not found, '404 Not Found'"), error


@judge.feature("liveness and readiness of server, model and version", GRPC)
async def grpc_health(case: Case) -> None:
    async with InferenceGRPCClient(case.grpc) as asked:
        assert await asked.is_server_live()
        assert await asked.is_server_ready()
        assert await asked.is_model_ready("wine")


@judge.feature("typed contents, in and out", GRPC)
async def typed(case: Case) -> None:
    rows = np.array(case.wine["rows"])
    tensor = InferInput("x", list(rows.shape), "FP64", data=rows.ravel().tolist())
    wanted = [RequestedOutput(name) for name in ("predict", "predict_proba")]
    async with InferenceGRPCClient(case.grpc) as asked:
        request = InferRequest("wine", [tensor], request_id="flower-7", request_outputs=wanted)
        check_wine(case, await asked.infer(request))


@judge.feature("raw contents, in and out", GRPC)
async def raw(case: Case) -> None:
    async with InferenceGRPCClient(case.grpc) as asked:
        check_wine(case, await asked.infer(wine(case, binary=True)))


@judge.feature("errors: status and words", GRPC)
async def grpc_errors(case: Case) -> None:
    request = wine(case, binary=False, outputs=False)
    request.model_name = "nobody"
    async with InferenceGRPCClient(case.grpc) as asked:
        error: Any = await refused(asked.infer(request), grpc.RpcError)
        assert (error.code(), error.details()) == (grpc.StatusCode.NOT_FOUND, "Model nobody not found")


@judge.feature("readiness of a model", V1)
async def v1_health(case: Case) -> None:
    async with rest("v1") as asked:
        assert await asked.is_model_ready(case.url, "wine") is True
        error = await refused(asked.is_model_ready(case.url, "nobody"))
        assert error.response.status_code == 404


@judge.feature("liveness of the server (`is_server_live`)", V1)
async def v1_live(case: Case) -> None:
    async with rest("v1") as asked:
        await refused(asked.is_server_live(case.url), ValueError)  # JSON is what it looks for
    async with httpx.AsyncClient() as plain:
        assert (await plain.get(f"{case.url}/healthz")).json() == {"status": "alive"}


@judge.feature("instances as lists, objects, frames and bare values", V1)
async def instances(case: Case) -> None:
    rows, names = case.wine["rows"], case.wine["names"]
    bodies = [
        {"instances": rows},
        {"instances": [dict(zip(names, row, strict=True)) for row in rows]},
        {"inputs": rows},
        {"instances": [{name: [row[place] for row in rows] for place, name in enumerate(names)}]},
    ]
    async with rest("v1") as asked:
        for body in bodies:
            assert await asked.infer(case.url, body, "wine") == {"predictions": case.wine["labels"]}
        answer = await asked.infer(case.url, {"instances": case.products["rows"]}, "products")
        assert answer == {"predictions": case.products["labels"]}


@judge.feature("keys in headers", V1)
async def v1_keys(case: Case) -> None:
    url, body = case.keyed["url"], {"instances": case.wine["rows"]}
    async with rest("v1") as asked:
        headers = {"Authorization": f"Bearer {case.keyed['infer']}"}
        assert await asked.infer(url, body, "wine", headers=headers) == {"predictions": case.wine["labels"]}
        assert (await refused(asked.infer(url, body, "wine"))).response.status_code == 401


@judge.feature("errors: status and words", V1)
async def v1_errors(case: Case) -> None:
    async with rest("v1") as asked:
        error = await refused(asked.infer(case.url, {"instances": [[1.0]]}, "wine"))
        assert error.response.status_code == 400
        error = await refused(asked.infer(case.url, {"instances": [[1.0]]}, "nobody"))
        assert str(error).startswith("Model nobody not found, '404 Not Found'"), error


@judge.feature("explanations (`:explain`)", V1)
async def explain(case: Case) -> None:
    async with rest("v1") as asked:
        error = await refused(asked.explain(case.url, "wine", {"instances": case.wine["rows"]}))
        assert error.response.status_code == 404


if __name__ == "__main__":
    judge.main()
