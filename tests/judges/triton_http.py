"""Triton's HTTP client against V2 over REST."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from tritonclient.utils import InferenceServerException
from verdicts import Case, Judge, refusal

judge = Judge("V2 over HTTP")


def client(case: Case, **options: object) -> triton.InferenceServerClient:
    return triton.InferenceServerClient(case.http, connection_timeout=60, network_timeout=60, **options)


def matrix(case: Case, datatype: str = "FP64", dtype: object = np.float64, *, binary: bool = True) -> triton.InferInput:
    rows = np.array(case.wine["rows"], dtype)
    return triton.InferInput("x", list(rows.shape), datatype).set_data_from_numpy(rows, binary_data=binary)


def wanted(*, binary: bool = True) -> list[triton.InferRequestedOutput]:
    return [triton.InferRequestedOutput(name, binary_data=binary) for name in ("predict", "predict_proba")]


def check_wine(case: Case, answer: triton.InferResult) -> None:
    assert answer.as_numpy("predict").ravel().tolist() == case.wine["labels"]
    assert answer.as_numpy("predict_proba").tolist() == case.wine["probabilities"]


@judge.feature("liveness and readiness of server, model and version")
def health(case: Case) -> None:
    with client(case) as asked:
        assert asked.is_server_live()
        assert asked.is_server_ready()
        assert asked.is_model_ready("wine")
        assert asked.is_model_ready("wine", case.wine["version"])
        assert not asked.is_model_ready("nobody")
        assert not asked.is_model_ready("wine", "v99")


@judge.feature("server metadata")
def server_metadata(case: Case) -> None:
    with client(case) as asked:
        told = asked.get_server_metadata()
        assert told["name"] == "lagar"
        assert told["version"]
        for extension in ("binary_tensor_data", "model_repository", "model_configuration", "statistics"):
            assert any(each.startswith(extension) for each in told["extensions"]), told


@judge.feature("model metadata, from the signature")
def model_metadata(case: Case) -> None:
    with client(case) as asked:
        told = asked.get_model_metadata("wine", case.wine["version"])
        assert told["name"] == "wine"
        assert case.wine["version"] in told["versions"]
        assert [each["name"] for each in told["inputs"]] in (case.wine["names"], ["input"])
        assert [each["name"] for each in told["outputs"]] == ["predict", "predict_proba"]


@judge.feature("tensors in JSON")
def in_json(case: Case) -> None:
    with client(case) as asked:
        check_wine(case, asked.infer("wine", [matrix(case, binary=False)], outputs=wanted(binary=False)))


@judge.feature("binary tensors, in and out")
def binary(case: Case) -> None:
    with client(case) as asked:
        answer = asked.infer("wine", [matrix(case)], outputs=wanted())
        check_wine(case, answer)
        assert answer.get_output("predict_proba")["parameters"]["binary_data_size"] > 0
        check_wine(case, asked.infer("wine", [matrix(case)], outputs=wanted(binary=False)))
        assert asked.infer("wine", [matrix(case)]).as_numpy("predict").ravel().tolist() == case.wine["labels"]


@judge.feature("binary and JSON tensors in one request")
def mixed(case: Case) -> None:
    rows = np.array(case.wine["rows"])
    inputs = []
    for place, name in enumerate(case.wine["names"]):
        column = rows[:, place]
        tensor = triton.InferInput(name, [len(column)], "FP64")
        inputs.append(tensor.set_data_from_numpy(np.ascontiguousarray(column), binary_data=place % 2 == 0))
    outputs = [
        triton.InferRequestedOutput("predict", binary_data=True),
        triton.InferRequestedOutput("predict_proba", binary_data=False),
    ]
    with client(case) as asked:
        check_wine(case, asked.infer("wine", inputs, outputs=outputs))


@judge.feature("BYTES, as JSON and binary")
def text(case: Case) -> None:
    words = np.array([word.encode() for word in case.products["rows"]], dtype=np.object_)
    with client(case) as asked:
        for is_binary in (True, False):
            for shape in ([len(words)], [len(words), 1]):
                tensor = triton.InferInput("text", shape, "BYTES")
                tensor.set_data_from_numpy(words.reshape(shape), binary_data=is_binary)
                outputs = [triton.InferRequestedOutput("predict", binary_data=is_binary)]
                found = asked.infer("products", [tensor], outputs=outputs).as_numpy("predict").ravel()
                labels = [each.decode() if isinstance(each, bytes) else each for each in found]
                assert labels == case.products["labels"], labels


DTYPES = {
    "INT8": np.int8, "INT16": np.int16, "INT32": np.int32, "INT64": np.int64, "UINT8": np.uint8, "UINT16": np.uint16,
    "UINT32": np.uint32, "UINT64": np.uint64, "FP16": np.float16, "FP32": np.float32, "FP64": np.float64,
}  # fmt: skip


@judge.feature("every numeric datatype, BF16 among them")
def datatypes(case: Case) -> None:
    rows = np.array([[1, 2, 3, 4], [4, 3, 2, 1]])
    with client(case) as asked:
        answers = []
        for datatype, dtype in DTYPES.items():
            tensor = triton.InferInput("x", [2, 4], datatype).set_data_from_numpy(rows.astype(dtype))
            outputs = [triton.InferRequestedOutput("predict_proba")]
            answers.append(asked.infer("logistic", [tensor], outputs=outputs).as_numpy("predict_proba").tolist())
        tensor = triton.InferInput("x", [2, 4], "BF16").set_data_from_numpy(rows.astype(ml_dtypes.bfloat16))
        outputs = [triton.InferRequestedOutput("predict_proba")]
        answers.append(asked.infer("logistic", [tensor], outputs=outputs).as_numpy("predict_proba").tolist())
        assert all(answer == answers[0] for answer in answers), answers


@judge.feature("gzip and deflate, both ways")
def compressed(case: Case) -> None:
    with client(case) as asked:
        for coding in ("gzip", "deflate"):
            answer = asked.infer(
                "wine", [matrix(case)], outputs=wanted(), request_compression_algorithm=coding,
                response_compression_algorithm=coding,
            )  # fmt: skip
            check_wine(case, answer)


@judge.feature("version, request id and a time-out")
def options(case: Case) -> None:
    with client(case) as asked:
        answer = asked.infer(
            "wine", [matrix(case)], case.wine["version"], wanted(), "flower-7", timeout=60_000_000, priority=0
        )
        check_wine(case, answer)
        told = answer.get_response()
        assert (told["model_name"], told["model_version"], told["id"]) == ("wine", case.wine["version"], "flower-7")


@judge.feature("many requests at once: async_infer and asyncio")
async def at_once(case: Case) -> None:
    with client(case, concurrency=4) as asked:
        pending = [asked.async_infer("wine", [matrix(case)], outputs=wanted()) for _ in range(12)]
        for each in pending:
            check_wine(case, each.get_result(timeout=60))
    async with triton_aio.InferenceServerClient(case.http) as asked:
        assert await asked.is_server_ready()
        for _ in range(3):
            check_wine(case, await asked.infer("wine", [matrix(case)], outputs=wanted()))


@judge.feature("keys in headers")
def keys(case: Case) -> None:
    with triton.InferenceServerClient(case.keyed["http"]) as asked:
        headers = {"Authorization": f"Bearer {case.keyed['infer']}"}
        tensor = matrix(case)
        assert asked.infer("wine", [tensor], headers=headers).as_numpy("predict") is not None
        error = refusal(InferenceServerException, lambda: asked.infer("wine", [tensor]))
        assert error.status() == "401", error
        headers = {"X-Api-Key": case.keyed["read"]}
        error = refusal(InferenceServerException, lambda: asked.infer("wine", [tensor], headers=headers))
        assert error.status() == "403", error
        assert asked.is_server_live()


@judge.feature("errors: status and words")
def errors(case: Case) -> None:
    with client(case) as asked:
        error = refusal(InferenceServerException, lambda: asked.infer("nobody", [matrix(case)]))
        assert (error.status(), error.message()) == ("404", "Model nobody not found")
        narrow = triton.InferInput("x", [1, 2], "FP64").set_data_from_numpy(np.array([[1.0, 2.0]]))
        error = refusal(InferenceServerException, lambda: asked.infer("wine", [narrow]))
        assert error.status() == "400"
        assert "[1, 2]" in error.message()
        outputs = [triton.InferRequestedOutput("foo")]
        error = refusal(InferenceServerException, lambda: asked.infer("wine", [matrix(case)], outputs=outputs))
        assert error.status() in ("400", "404")
        assert "foo" in error.message()


@judge.feature("model configuration")
def configuration(case: Case) -> None:
    with client(case) as asked:
        told = asked.get_model_config("wine", case.wine["version"])
        assert told["name"] == "wine"
        assert told["max_batch_size"] >= 0
        assert {each["name"] for each in told["output"]} == {"predict", "predict_proba"}
        assert all(each["data_type"].startswith("TYPE_") for each in told["input"] + told["output"])


@judge.feature("statistics")
def statistics(case: Case) -> None:
    with client(case) as asked:

        def counted() -> int:
            [told] = asked.get_inference_statistics("wine", case.wine["version"])["model_stats"]
            assert told["inference_stats"]["success"]["ns"] > 0
            return int(told["inference_stats"]["success"]["count"])

        before = counted()
        asked.infer("wine", [matrix(case)])
        assert counted() > before
        names = {each["name"] for each in asked.get_inference_statistics()["model_stats"]}
        assert {"wine", "products", "logistic"} <= names


@judge.feature("repository: index, unload, load")
def repository(case: Case) -> None:
    with client(case) as asked:

        def state() -> dict[str, str]:
            return {each["name"]: each["state"] for each in asked.get_model_repository_index()}

        assert state()["logistic"] == "READY"
        asked.unload_model("logistic")
        assert state()["logistic"] == "UNAVAILABLE"
        assert not asked.is_model_ready("logistic")
        assert asked.is_server_ready()
        asked.load_model("logistic")
        assert state()["logistic"] == "READY"
        assert asked.is_model_ready("logistic")
        error = refusal(InferenceServerException, lambda: asked.load_model("nobody"))
        assert error.status() == "404", error


@judge.feature("shared memory")
def shared_memory(case: Case) -> None:
    with client(case) as asked:
        error = refusal(InferenceServerException, lambda: asked.register_system_shared_memory("a", "/a", 64))
        assert error.status() == "404", error
        tensor = triton.InferInput("x", [1, 13], "FP64")
        tensor.set_shared_memory("a", 104)
        error = refusal(InferenceServerException, lambda: asked.infer("wine", [tensor]))
        assert error.status() == "400", error


@judge.feature("trace and log settings")
def settings(case: Case) -> None:
    with client(case) as asked:
        for call in (asked.get_trace_settings, asked.get_log_settings):
            assert refusal(InferenceServerException, call).status() == "404"


@judge.feature("classification of an output (class_count)")
def classification(case: Case) -> None:
    outputs = [triton.InferRequestedOutput("predict_proba", class_count=2)]
    with client(case) as asked:
        error = refusal(InferenceServerException, lambda: asked.infer("wine", [matrix(case)], outputs=outputs))
        assert error.status() == "400", error


@judge.feature("sequence ids")
def sequences(case: Case) -> None:
    with client(case) as asked:
        answer = asked.infer("wine", [matrix(case)], outputs=wanted(), sequence_id=7, sequence_start=True)
        check_wine(case, answer)


if __name__ == "__main__":
    judge.main()
