"""Triton's gRPC client against V2 over gRPC."""

from __future__ import annotations

import contextlib
import threading

import ml_dtypes
import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.utils import InferenceServerException
from verdicts import Case, Judge, refusal

judge = Judge("V2 over gRPC")
LIMIT_S = 60


def client(case: Case) -> triton.InferenceServerClient:
    return triton.InferenceServerClient(case.grpc)


def matrix(case: Case, module: object = triton) -> triton.InferInput:
    rows = np.array(case.wine["rows"])
    return triton.InferInput("x", list(rows.shape), "FP64").set_data_from_numpy(rows)


def wanted() -> list[triton.InferRequestedOutput]:
    return [triton.InferRequestedOutput(name) for name in ("predict", "predict_proba")]


def check_wine(case: Case, answer: triton.InferResult) -> None:
    assert answer.as_numpy("predict").ravel().tolist() == case.wine["labels"]
    assert answer.as_numpy("predict_proba").tolist() == case.wine["probabilities"]


@judge.feature("liveness and readiness of server, model and version")
def health(case: Case) -> None:
    with client(case) as asked:
        assert asked.is_server_live(client_timeout=LIMIT_S)
        assert asked.is_server_ready(client_timeout=LIMIT_S)
        assert asked.is_model_ready("wine")
        assert asked.is_model_ready("wine", case.wine["version"])
        error = refusal(InferenceServerException, lambda: asked.is_model_ready("nobody") or 1 / 0)
        assert error.status() == "StatusCode.NOT_FOUND", error


@judge.feature("server metadata")
def server_metadata(case: Case) -> None:
    with client(case) as asked:
        told = asked.get_server_metadata()
        assert told.name == "lagar"
        assert told.version
        assert told.extensions


@judge.feature("model metadata, from the signature")
def model_metadata(case: Case) -> None:
    with client(case) as asked:
        told = asked.get_model_metadata("wine", case.wine["version"])
        assert told.name == "wine"
        assert list(told.versions) == [case.wine["version"]]
        assert [each.name for each in told.inputs] in (case.wine["names"], ["input"])
        assert [each.name for each in told.outputs] == ["predict", "predict_proba"]
        assert asked.get_model_metadata("wine", as_json=True)["platform"]


@judge.feature("raw contents, in and out")
def raw(case: Case) -> None:
    with client(case) as asked:
        answer = asked.infer("wine", [matrix(case)], outputs=wanted(), client_timeout=LIMIT_S)
        check_wine(case, answer)
        assert len(answer.get_response().raw_output_contents) == 2


@judge.feature("BYTES")
def text(case: Case) -> None:
    words = np.array([word.encode() for word in case.products["rows"]], dtype=np.object_)
    with client(case) as asked:
        for shape in ([len(words)], [len(words), 1]):
            tensor = triton.InferInput("text", shape, "BYTES").set_data_from_numpy(words.reshape(shape))
            found = asked.infer("products", [tensor]).as_numpy("predict").ravel()
            assert [each.decode() for each in found] == case.products["labels"]


DTYPES = {
    "INT8": np.int8, "INT16": np.int16, "INT32": np.int32, "INT64": np.int64, "UINT8": np.uint8, "UINT16": np.uint16,
    "UINT32": np.uint32, "UINT64": np.uint64, "FP16": np.float16, "FP32": np.float32, "FP64": np.float64,
    "BF16": ml_dtypes.bfloat16,
}  # fmt: skip


@judge.feature("every numeric datatype, BF16 among them")
def datatypes(case: Case) -> None:
    rows = np.array([[1, 2, 3, 4], [4, 3, 2, 1]])
    outputs = [triton.InferRequestedOutput("predict_proba")]
    with client(case) as asked:
        answers = []
        for datatype, dtype in DTYPES.items():
            tensor = triton.InferInput("x", [2, 4], datatype)
            tensor.set_data_from_numpy(rows.astype(np.float32).astype(dtype))
            answers.append(asked.infer("logistic", [tensor], outputs=outputs).as_numpy("predict_proba").tolist())
        assert all(answer == answers[0] for answer in answers), answers


@judge.feature("gzip and deflate")
def compressed(case: Case) -> None:
    with client(case) as asked:
        for coding in ("gzip", "deflate"):
            check_wine(case, asked.infer("wine", [matrix(case)], outputs=wanted(), compression_algorithm=coding))


@judge.feature("version, request id and a time-out")
def options(case: Case) -> None:
    with client(case) as asked:
        answer = asked.infer(
            "wine", [matrix(case)], case.wine["version"], wanted(), "flower-7", timeout=60_000_000, priority=0
        ).get_response()
        assert (answer.model_name, answer.model_version, answer.id) == ("wine", case.wine["version"], "flower-7")


@judge.feature("a deadline of the client")
def deadline(case: Case) -> None:
    with client(case) as asked:
        slow = [
            triton.InferInput(name, [1], "FP64").set_data_from_numpy(np.array([value]))
            for name, value in (("seconds", 0.9), ("tag", 1.0))
        ]
        error = refusal(InferenceServerException, lambda: asked.infer("scripted", slow, client_timeout=0.2))
        assert error.status() == "StatusCode.DEADLINE_EXCEEDED"
        check_wine(case, asked.infer("wine", [matrix(case)], outputs=wanted()))


@judge.feature("many requests at once: async_infer and asyncio")
async def at_once(case: Case) -> None:
    found: list[object] = []
    done = threading.Semaphore(0)

    def answered(result: object, error: object) -> None:
        found.append(error or result)
        done.release()

    with client(case) as asked:
        for _ in range(12):
            asked.async_infer("wine", [matrix(case)], answered, outputs=wanted(), client_timeout=LIMIT_S)
        for _ in range(12):
            assert done.acquire(timeout=LIMIT_S)
    for each in found:
        check_wine(case, each)
    async with triton_aio.InferenceServerClient(case.grpc) as asked:
        assert await asked.is_server_ready()
        for _ in range(3):
            check_wine(case, await asked.infer("wine", [matrix(case)], outputs=wanted()))


@judge.feature("keys in metadata")
def keys(case: Case) -> None:
    with triton.InferenceServerClient(case.keyed["grpc"]) as asked:
        tensor = matrix(case)
        headers = {"authorization": f"Bearer {case.keyed['infer']}"}
        assert asked.infer("wine", [tensor], headers=headers).as_numpy("predict") is not None
        error = refusal(InferenceServerException, lambda: asked.infer("wine", [tensor]))
        assert error.status() == "StatusCode.UNAUTHENTICATED", error
        headers = {"x-api-key": case.keyed["read"]}
        error = refusal(InferenceServerException, lambda: asked.infer("wine", [tensor], headers=headers))
        assert error.status() == "StatusCode.PERMISSION_DENIED", error
        assert asked.is_server_live()


@judge.feature("errors: status and words")
def errors(case: Case) -> None:
    with client(case) as asked:
        error = refusal(InferenceServerException, lambda: asked.infer("nobody", [matrix(case)]))
        assert (error.status(), error.message()) == ("StatusCode.NOT_FOUND", "Model nobody not found")
        narrow = triton.InferInput("x", [1, 2], "FP64").set_data_from_numpy(np.array([[1.0, 2.0]]))
        error = refusal(InferenceServerException, lambda: asked.infer("wine", [narrow]))
        assert error.status() == "StatusCode.INVALID_ARGUMENT"
        assert "[1, 2]" in error.message()


@judge.feature("repository: index, unload, load")
def repository(case: Case) -> None:
    with client(case) as asked:

        def state() -> dict[str, str]:
            return {each.name: each.state for each in asked.get_model_repository_index().models}

        assert state()["logistic"] == "READY"
        asked.unload_model("logistic")
        assert state()["logistic"] == "UNAVAILABLE"
        asked.load_model("logistic")
        assert state()["logistic"] == "READY"
        error = refusal(InferenceServerException, lambda: asked.load_model("nobody"))
        assert error.status() == "StatusCode.NOT_FOUND", error


def unimplemented(call: object) -> None:
    assert refusal(InferenceServerException, call).status() == "StatusCode.UNIMPLEMENTED"


@judge.feature("model configuration")
def configuration(case: Case) -> None:
    with client(case) as asked:
        told = asked.get_model_config("wine", case.wine["version"]).config
        assert told.name == "wine"
        assert [each.name for each in told.output] == ["predict", "predict_proba"]


@judge.feature("statistics")
def statistics(case: Case) -> None:
    with client(case) as asked:
        [told] = asked.get_inference_statistics("wine", case.wine["version"]).model_stats
        before = told.inference_stats.success.count
        asked.infer("wine", [matrix(case)])
        [told] = asked.get_inference_statistics("wine", case.wine["version"]).model_stats
        assert told.inference_stats.success.count > before


@judge.feature("shared memory")
def shared_memory(case: Case) -> None:
    with client(case) as asked:
        unimplemented(lambda: asked.register_system_shared_memory("a", "/a", 64))
        tensor = triton.InferInput("x", [1, 13], "FP64")
        tensor.set_shared_memory("a", 104)
        error = refusal(InferenceServerException, lambda: asked.infer("wine", [tensor]))
        assert error.status() == "StatusCode.INVALID_ARGUMENT", error


@judge.feature("trace and log settings")
def settings(case: Case) -> None:
    with client(case) as asked:
        unimplemented(asked.get_trace_settings)
        unimplemented(asked.get_log_settings)


@judge.feature("streams (ModelStreamInfer)")
def streams(case: Case) -> None:
    found: list[object] = []
    done = threading.Event()

    def answered(result: object, error: object) -> None:
        found.append(error or result)
        done.set()

    with client(case) as asked:
        asked.start_stream(answered)
        with contextlib.suppress(InferenceServerException):  # the refusal may have come before
            asked.async_stream_infer("wine", [matrix(case)])
        assert done.wait(LIMIT_S)
        asked.stop_stream()
    assert isinstance(found[0], InferenceServerException), found
    assert found[0].status() == "StatusCode.UNIMPLEMENTED", found


if __name__ == "__main__":
    judge.main()
