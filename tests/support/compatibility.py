"""What clients of others find here: the one table that the tests of the judges assert and docs/compatibility.md shows.

`python -m support.compatibility` (make compatibility) writes the page; tests/compatibility holds both to it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "compatibility.md"
JUDGES_FOLDER = ROOT / "tests" / "judges"


class Judge(NamedTuple):
    """Someone else's client, or what someone else's server was seen to answer."""

    name: str
    about: str
    script: str = ""
    """In tests/judges; empty for what needs no environment of its own."""
    lock: str = ""
    package: str = ""


JUDGES: dict[str, Judge] = {
    "triton-http": Judge("tritonclient", "Triton's HTTP client", "triton_http.py", "triton", "tritonclient"),
    "triton-grpc": Judge("tritonclient", "Triton's gRPC client", "triton_grpc.py", "triton", "tritonclient"),
    "kserve": Judge("kserve", "KServe's inference clients, REST and gRPC", "kserve_client.py", "kserve", "kserve"),
    "mlflow": Judge("mlflow", "MLflow's scoring client", "mlflow_client.py", "mlflow", "mlflow-skinny"),
    "grpcio": Judge("grpcio", "grpc's reflection and health clients", "grpcio_client.py", "grpcio", "grpcio"),
    "openapi": Judge(
        "schemathesis", "requests made up from `/openapi.json`", "schemathesis_run.py", "schemathesis", "schemathesis"
    ),
    "transcript": Judge("MLServer", "what MLServer 1.3.2 answered, over REST and gRPC, asked again"),
    "payloads": Judge("payloads", "the requests and settings in the repositories of the protocol, MLServer and KServe"),
    "contract": Judge("contract", "the same rows and mistakes through every protocol: tests/contract"),
}


class Feature(NamedTuple):
    """A row of the page; every judge named here has a verdict of that name, and no judge has another."""

    protocol: str
    name: str
    judges: tuple[str, ...]
    without: str = ""
    """It is not there: why, and what to do instead. The judge then asserts a clean refusal."""
    note: str = ""


HTTP, GRPC, MLFLOW, V1, OPENAPI, ALL = "V2 over HTTP", "V2 over gRPC", "MLflow", "KServe V1", "OpenAPI", "All of them"
HEALTH = "liveness and readiness of server, model and version"
ERRORS = "errors: status and words"

FEATURES: tuple[Feature, ...] = (
    Feature(HTTP, HEALTH, ("triton-http", "kserve", "transcript")),
    Feature(HTTP, "server metadata", ("triton-http",)),
    Feature(HTTP, "model metadata, from the signature", ("triton-http",)),
    Feature(HTTP, "tensors in JSON", ("triton-http", "kserve", "transcript", "payloads")),
    Feature(HTTP, "binary tensors, in and out", ("triton-http", "kserve", "payloads")),
    Feature(HTTP, "binary and JSON tensors in one request", ("triton-http",)),
    Feature(HTTP, "BYTES, as JSON and binary", ("triton-http", "kserve", "transcript", "payloads")),
    Feature(HTTP, "every numeric datatype, BF16 among them", ("triton-http",)),
    Feature(HTTP, "gzip and deflate, both ways", ("triton-http",)),
    Feature(HTTP, "version, request id and a time-out", ("triton-http", "transcript")),
    Feature(HTTP, "many requests at once: async_infer and asyncio", ("triton-http",)),
    Feature(HTTP, "keys in headers", ("triton-http", "kserve")),
    Feature(HTTP, ERRORS, ("triton-http", "kserve", "transcript", "payloads")),
    Feature(HTTP, "model configuration", ("triton-http",)),
    Feature(HTTP, "statistics", ("triton-http",)),
    Feature(HTTP, "repository: index, unload, load", ("triton-http", "transcript")),
    Feature(HTTP, "sequence ids", ("triton-http",), note="taken, and without effect: no model here has a state"),
    Feature(
        HTTP, "shared memory", ("triton-http",),
        without="rows of tables are small; binary tensors cost little more. 404, and 400 for a tensor that lies there",
    ),
    Feature(HTTP, "trace and log settings", ("triton-http",), without="`X-Request-Id` and the log settings do; 404"),
    Feature(
        HTTP, "classification of an output (class_count)", ("triton-http",),
        without="`predict` has the label, `predict_proba` every probability; 400",
    ),
    Feature(GRPC, HEALTH, ("triton-grpc", "kserve", "transcript")),
    Feature(GRPC, "server metadata", ("triton-grpc",)),
    Feature(GRPC, "model metadata, from the signature", ("triton-grpc",)),
    Feature(GRPC, "raw contents, in and out", ("triton-grpc", "kserve", "transcript")),
    Feature(GRPC, "typed contents, in and out", ("kserve", "transcript", "payloads")),
    Feature(GRPC, "BYTES", ("triton-grpc", "transcript")),
    Feature(GRPC, "every numeric datatype, BF16 among them", ("triton-grpc",)),
    Feature(GRPC, "gzip and deflate", ("triton-grpc",)),
    Feature(GRPC, "version, request id and a time-out", ("triton-grpc", "transcript")),
    Feature(GRPC, "a deadline of the client", ("triton-grpc",)),
    Feature(GRPC, "many requests at once: async_infer and asyncio", ("triton-grpc",)),
    Feature(GRPC, "keys in metadata", ("triton-grpc",)),
    Feature(GRPC, ERRORS, ("triton-grpc", "kserve", "transcript", "payloads")),
    Feature(GRPC, "repository: index, unload, load", ("triton-grpc",)),
    Feature(GRPC, "model configuration", ("triton-grpc",)),
    Feature(GRPC, "statistics", ("triton-grpc",)),
    Feature(GRPC, "reflection: services, messages and a call made of them", ("grpcio",)),
    Feature(GRPC, "`grpc.health.v1`: Check and Watch", ("grpcio",)),
    Feature(GRPC, "a method that is not there", ("grpcio",), note="`UNIMPLEMENTED`"),
    Feature(
        GRPC, "streams (ModelStreamInfer)", ("triton-grpc",),
        without="Triton and MLServer send different messages under this name; one call per request. `UNIMPLEMENTED`",
    ),
    Feature(GRPC, "shared memory", ("triton-grpc",), without="as over HTTP; `UNIMPLEMENTED`"),
    Feature(GRPC, "trace and log settings", ("triton-grpc",), without="as over HTTP; `UNIMPLEMENTED`"),
    Feature(MLFLOW, "`/ping`, `/health`, `/version`", ("mlflow",)),
    Feature(MLFLOW, "DataFrames (`dataframe_split`)", ("mlflow",)),
    Feature(MLFLOW, "arrays and lists by name (`inputs`)", ("mlflow",)),
    Feature(MLFLOW, "`dataframe_records` and `instances`", ("mlflow",)),
    Feature(MLFLOW, "CSV", ("mlflow",)),
    Feature(MLFLOW, "missing values that the model does not take", ("mlflow",), note="400, as NaN and as null"),
    Feature(
        MLFLOW, "`params` that the model does not have", ("mlflow",), note="400 that names them, not passed over"
    ),
    Feature(MLFLOW, "errors: status, `error_code` and words", ("mlflow",)),
    Feature(V1, "readiness of a model", ("kserve",)),
    Feature(
        V1, "liveness of the server (`is_server_live`)", ("kserve",),
        without="it asks `/` for JSON, which is the page for people here; `/healthz` has what it looks for",
    ),
    Feature(V1, "instances as lists, objects, frames and bare values", ("kserve", "payloads")),
    Feature(V1, "keys in headers", ("kserve",)),
    Feature(V1, ERRORS, ("kserve",)),
    Feature(V1, "explanations (`:explain`)", ("kserve",), without="no model here explains itself; 404"),
    Feature(OPENAPI, "no 5xx", ("openapi",), note="but for 504, where a made-up `timeout` has passed"),
    Feature(OPENAPI, "no status that is not documented", ("openapi",)),
    Feature(OPENAPI, "no media type that is not documented", ("openapi",)),
    Feature(OPENAPI, "bodies as their schema says", ("openapi",)),
    Feature(OPENAPI, "`Allow` names every method of a path", ("openapi",)),
    Feature(OPENAPI, "every operation is tried, and nothing else is wrong", ("openapi",)),
    Feature(ALL, "the same rows are the same numbers, to the last bit", ("contract",)),
    Feature(ALL, "requests of different protocols share one call of the model", ("contract",)),
    Feature(ALL, "the same mistake is the same class of error", ("contract",)),
    Feature("MLServer's folders", "settings files, honoured or refused by name", ("payloads",)),
)  # fmt: skip


class Difference(NamedTuple):
    """An exchange of MLServer's that is answered otherwise here."""

    title: str
    theirs: str
    ours: str
    """A status, which the test compares, and words that the answer has."""
    words: str
    why: str


TRACEBACK = "a caller's mistake, there a failure of the server with its traceback"
SHAPE = "one shape for every error"
SIGNATURE = "the signature is known here"

REST: tuple[Difference, ...] = (
    Difference("server metadata", "200", "200", "lagar", "the name, version and extensions of another server"),
    Difference("model metadata", "200, empty lists", "200", "BYTES", SIGNATURE),
    Difference("model metadata 1.1", "200, empty lists", "200", "BYTES", SIGNATURE),
    Difference("shape [3,1]", "500", "200", "livro", "`[n, 1]` is a column like `[n]`"),
    Difference("shape lies [2] for 3 items", "500", "400", "shape", TRACEBACK),
    Difference("bad datatype", "500", "400", "STRING", TRACEBACK),
    Difference("empty data", "500", "400", "no rows", TRACEBACK),
    Difference("iris wrong features", "500", "400", "[n,4]", TRACEBACK),
    Difference("iris shape mismatch", "500", "400", "shape", TRACEBACK),
    Difference("inputs missing", "422, a list in `detail`", "400", "inputs", SHAPE),
    Difference("bad json", "422, a list in `detail`", "400", "JSON", SHAPE),
    Difference("missing datatype", "422, a list in `detail`", "400", "datatype", SHAPE),
    Difference("GET infer", "405, `detail`", "405", "POST", f"{SHAPE}; the same status"),
    Difference("inputs []", "400", "400", "inputs", "the same status; the words there name a codec of MLServer's"),
    Difference(
        "bad output name", "400", "400", "(foo was received)",
        "the same status; the words there name `transform`, which no classifier has",
    ),
    Difference("infer after unload", "404", "404", "Model iris-dtc", "the same status; words of an unloaded model"),
    Difference(
        "index after unload", "200, `reason` empty", "200", '"version":"1.0","state":"UNAVAILABLE","reason":"unloaded"',
        "a model that is not there says why",
    ),
    Difference("docs", "200", "200", "openapi", "the paths of this server, in OpenAPI 3.1"),
    Difference(
        "predict_proba", "200", "200", "predict_proba",
        "the same to three digits: the model of the transcript was trained with another list of stop words",
    ),
)  # fmt: skip
INT64 = "labels that are whole numbers are INT64, whichever width the classes had"
REST_DATATYPES = ("iris 1", "iris 10 nested", "iris 10 flat")
"""Equal but for INT32 there."""
REST_EMPTY = (
    "server live", "server ready", "model ready 1.0", "model ready (no version)", "ready after unload", "unload",
    "load",
)  # fmt: skip
"""Empty answers there; the same status here, and health says itself in JSON, as KServe's does."""

RPC: tuple[Difference, ...] = (
    Difference("ServerMetadata", "mlserver 1.3.2", "OK", "lagar", "the name and version of another server"),
    Difference("ModelReady unknown", "UNKNOWN", "NOT_FOUND", "Model nada", "as its ModelInfer says it"),
    Difference("ModelMetadata", "the name alone", "OK", "predict", SIGNATURE),
    Difference("shape [1] no content_type", "INTERNAL", "OK", "", "a BYTES tensor is text, with or without `str`"),
    Difference("shape [6] no content_type", "INTERNAL", "INVALID_ARGUMENT", "shape", TRACEBACK),
    Difference("iris-dtc", "INT32", "OK", "INT64", INT64),
    Difference("iris-dtc raw_input_contents", "INT32", "OK", "INT64", INT64),
    *(
        Difference(title, "`id` is empty", "OK", "", "an answer has the request's id, so that it is found in the log")
        for title in ()
    ),
)


class Payload(NamedTuple):
    """A request of a public repository, and what it is answered."""

    file: str
    model: str
    status: int
    answer: str
    """The values of the first output, or words of the refusal."""
    why: str = ""
    """Where the answer is not the original's."""


_SUM, _THREE = "sum-model", "three"
NO_SUCH_ROWS = "three numbers of shape `[3]` are one column of three rows; the model has three columns"
PAYLOADS: tuple[Payload, ...] = (
    Payload("mlserver/testdata/inference-request.json", _SUM, 200, "[6]"),
    Payload("mlserver/testdata/inference-request-with-output.json", _SUM, 200, "[6]"),
    Payload(
        "mlserver/testdata/inference-request-invalid-datatype.json", _SUM, 400, "INT322",
        "422 there, with a list in `detail`",
    ),
    Payload("mlserver/testdata/grpc/model-infer-request.json", _SUM, 200, "[6]"),
    Payload("mlserver/testdata/grpc/model-infer-request-invalid-datatype.json", _SUM, 400, "INT322"),
    Payload("mlserver/benchmarking/iris-rest-requests.json", "iris", 200, ""),
    Payload("mlserver/benchmarking/iris-grpc-requests.json", "iris", 200, ""),
    Payload("mlserver/runtimes/lightgbm-inference-request.json", _THREE, 200, ""),
    Payload("mlserver/runtimes/xgboost-inference-request.json", _THREE, 200, ""),
    Payload("mlserver/runtimes/alibi-detect-inference-request.json", _THREE, 200, ""),
    Payload("mlserver/runtimes/sklearn-inference-request.json", _THREE, 400, "missing", NO_SUCH_ROWS),
    Payload(
        "mlserver/runtimes/catboost-inference-request.json", "ten", 400, "[10]",
        "one row of ten numbers whose shape says ten rows of one: said to be `[1, 10]`, it is answered",
    ),
    Payload(
        "mlserver/runtimes/mlflow-inference-request.json", _THREE, 400, "missing",
        "a column `foo` for a model made up by its author; columns by name need no content type `dict`",
    ),
    Payload(
        "mlserver/examples/sklearn-inference-request.json", "digits", 400, "not JSON",
        "`0.` is no number in JSON (RFC 8259), and its shape `[3]` does not hold 64 of them",
    ),
    Payload(
        "mlserver/examples/kafka-inference-request.json", "digits", 400, "not JSON",
        "the same body; over Kafka nothing is asked here",
    ),
    Payload("kserve/sklearn-v2-iris-input.json", "iris", 200, ""),
    Payload("kserve/mixedtype-input.json", "housing", 200, ""),
    Payload(
        "binary/iris_v2_binary_request.bin", "iris-dtc", 400, "output-0",
        "it asks for an output `output-0`, which MLServer's scikit-learn runtime refuses too; as `predict`, `[1, 1]`",
    ),
    Payload("binary/produtos_bytes_binary_request.bin", "classificador-produtos", 200, '["game", "livro", "livro"]'),
)  # fmt: skip
LINES = {
    "single.txt": "[6]", "single_with_id.txt": "[6]", "many.txt": "[1] to [6]",
    "invalid.txt": "400", "invalid_among_many.txt": "400 for the third, the others answered", "bytes.txt": "500",
}  # fmt: skip
"""mlserver/testdata/batch_processing: one request per line, asked one after the other. `bytes.txt` makes the runtime,
which is code of the folder, fail; so it does there."""

SETTINGS: dict[str, str] = {
    "mlserver/testdata/settings.json": "",
    "mlserver/testdata/settings-cache.json": "",
    "mlserver/testdata/settings-stream.json": "",
    "mlserver/testdata/settings-custom-md-repo.json": "model_repository_implementation",
    "mlserver/examples/mms-settings.json": "",
    "mlserver/examples/sklearn-settings.json": "",
    "mlserver/examples/streaming-settings.json": "",
    "mlserver/testdata/model-settings.json": "",
    "mlserver/examples/catboost-model-settings.json": "",
    "mlserver/examples/content-type-model-settings.json": "",
    "mlserver/examples/custom-json-model-settings.json": "",
    "mlserver/examples/lightgbm-model-settings.json": "",
    "mlserver/examples/mlflow-model-settings.json": "",
    "mlserver/examples/mms-models-mnist-svm-model-settings.json": "",
    "mlserver/examples/mms-models-mushroom-xgboost-model-settings.json": "",
    "mlserver/examples/sklearn-model-settings.json": "",
    "mlserver/examples/streaming-model-settings.json": "",
    "mlserver/examples/xgboost-model-settings.json": "",
    "kserve/sklearn-v2-model-settings.json": "",
}
"""A settings file, and the word that its refusal names; empty: it is honoured."""
SETTINGS_WHY = {
    "mlserver/testdata/settings-custom-md-repo.json": "a repository class of one's own is code of MLServer's insides",
}


def version_of(judge: Judge) -> str:
    """The version of a judge's package in its lock."""
    found = re.search(
        rf"^{re.escape(judge.package)}==(\S+)", (JUDGES_FOLDER / f"{judge.lock}.lock").read_text(), re.MULTILINE
    )
    assert found, judge
    return found[1]


def render() -> str:
    """docs/compatibility.md."""
    parts = [
        "# Compatibility",
        "What clients that nobody here wrote find when they ask Lagar. Each line below is a verdict of a test: the\n"
        "judges run in environments of their own against a real server (`make test-all`); a verdict without a line,\n"
        "or a line without its verdict, fails. `make compatibility` writes this page.",
        *_judges(),
        *(part for protocol in dict.fromkeys(feature.protocol for feature in FEATURES) for part in _features(protocol)),
        *_differences(),
        *_payloads(),
    ]
    return "\n\n".join(parts) + "\n"


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _judges() -> list[str]:
    seen: dict[tuple[str, str], list[str]] = {}
    for judge in JUDGES.values():
        version = version_of(judge) if judge.package else ""
        seen.setdefault((judge.name, version), []).append(judge.about)
    rows = [(f"{name} {version}".strip(), "; ".join(about)) for (name, version), about in seen.items()]
    return ["## The judges", _table(("judge", "what it is"), rows)]


def _features(protocol: str) -> list[str]:
    rows = []
    for feature in FEATURES:
        if feature.protocol != protocol:
            continue
        judges = ", ".join(dict.fromkeys(JUDGES[name].name for name in feature.judges))
        rows.append((feature.name, "no" if feature.without else "yes", judges, feature.without or feature.note))
    return [f"## {protocol}", _table(("feature", "", "judged by", ""), rows)]


def _differences() -> list[str]:
    head = ("exchange", "MLServer 1.3.2", "Lagar", "why")
    rest = [(each.title, each.theirs, each.ours, each.why) for each in REST]
    rest += [(title, "INT32", "INT64", INT64) for title in REST_DATATYPES]
    empty = "no body there; here health and readiness say themselves in JSON, as KServe's do"
    rest += [(", ".join(REST_EMPTY), "200", "200", empty)]
    rpc = [(each.title, each.theirs, each.ours, each.why) for each in RPC]
    return [
        "## What MLServer 1.3.2 answered otherwise",
        "Its transcript was asked again, with the same folder of models. All answers are equal, status and body, but\n"
        "for these. Ids are made by the server that answers, and so differ.",
        "Over REST, of 43 exchanges:",
        _table(head, rest),
        "Over gRPC, of 19 exchanges; and an answer has an `id` where the request had none, which finds it in the log:",
        _table(head, rpc),
    ]


def _payloads() -> list[str]:
    rows = [(f"`{each.file}`", f"{each.status} {each.answer}".strip(), each.why) for each in PAYLOADS]
    rows += [(f"`mlserver/testdata/batch_processing/{name}`", told, "") for name, told in LINES.items()]
    settings = [
        (f"`{file}`", f"refused: `{word}`" if word else "honoured", SETTINGS_WHY.get(file, ""))
        for file, word in SETTINGS.items()
    ]
    return [
        "## Payloads of public repositories",
        _table(("request", "answer", "why it is another than there"), rows),
        _table(("settings", "", "why"), settings),
        "`generate` requests are for models of text that stream; no model here does.",
    ]


if __name__ == "__main__":
    PAGE.write_text(render())
