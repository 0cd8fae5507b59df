"""The OpenAPI 3.1 document of a running server: each loaded model with its own paths, fields and answers."""

from __future__ import annotations

import json
import re
from typing import Any, Final
from urllib.parse import quote

import lagar
from lagar.control import schemas
from lagar.control.facts import TASK_WORDS
from lagar.control.openapi_verbs import verb_paths, verb_schemas
from lagar.control.schemas import ARROW, CSV, JSON, NDJSON, PARQUET, Schema
from lagar.control.state import ControlState
from lagar.errors import NotFound
from lagar.registry.model import ModelInfo

ERRORS: dict[int, tuple[str, str]] = {
    400: ("invalid_input", "The body or a value in it is wrong; `field` and `row` say where."),
    401: ("unauthorized", "No valid API key."),
    403: ("forbidden", "The key lacks the scope that this needs."),
    404: ("not_found", "No such path, model or version."),
    405: ("method_not_allowed", "Another method; `Allow` names those that work."),
    406: ("not_acceptable", "`Accept` names nothing that can be written."),
    408: ("request_timeout", "The request came too slowly."),
    413: ("payload_too_large", "The body, or the number of rows in it, is over the limit."),
    415: ("unsupported_media_type", "`Content-Type` names nothing that can be read."),
    429: ("overloaded", "The model's queue is full; `Retry-After` says when to come back."),
    431: ("headers_too_large", "The header section is over the limit."),
    500: ("model_failed", "The model or its code raised; the log has the reason under the request id."),
    503: ("not_ready", "Loading, draining, or a part of the server is away."),
    504: ("deadline_exceeded", "The deadline passed before the answer was there."),
}
_LOOK_ERRORS = (401, 403, 404, 405, 431, 503)
_PREDICT_ERRORS = tuple(ERRORS)
VERB_ERRORS: dict[int, tuple[str, str]] = {
    409: ("version_exists", "The label is taken by another content, or another change of traffic is being prepared."),
    422: ("refused", "Intake refused what was pushed; `step` says where, and nothing of it is kept."),
}
_RETRY = {429, 503}
_BODY_ERRORS = (400, 408, 413)
OCTETS = "application/octet-stream"

Operation = dict[str, Any]


def openapi(state: ControlState, prefix: str) -> dict[str, Any]:
    """The document for what is loaded now; `prefix` is the path below which callers see the server."""
    paths: dict[str, dict[str, Operation]] = {}
    components = _components(state)
    for name in state.shown:
        for info in state.versions(name):
            components["schemas"].update(_model_schemas(info))
            for base in native_bases(state, info):
                paths[f"{base}/predict"] = {"post": _predict(info, base)}
                paths[f"{base}/example"] = {"get": _example(info, base)}
            for base in v2_bases(info):
                paths[base] = {"get": _v2_metadata(info, base)}
                paths[f"{base}/ready"] = {"get": _v2_model_ready(info, base)}
                paths[f"{base}/infer"] = {"post": _v2_infer(info, base)}
                paths |= _v2_facts(info, base)
            paths |= _v1_paths(info)
            if info.live and name == state.default:
                paths["/invocations"] = {"post": _invocations(info)}
            for base in native_bases(state, info):
                if base:
                    paths[base] = {"get": _about(info, base)}
            if info.live:
                versions = f"/models/{quote(name, safe='')}/versions"
                paths[versions] = {"get": _about(info, versions)}
    paths.update(_server_paths())
    paths.update(_v2_server_paths(state))
    paths.update(verb_paths(state))
    components["schemas"].update(verb_schemas())
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "Lagar",
            "version": lagar.__version__,
            "description": _description(state),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": prefix or "/"}],
        "tags": _tags(state),
        "paths": paths,
        "components": components,
    }
    if state.wants_key:
        document["security"] = [{"bearer": []}, {"apiKey": []}]
    return document


_REFERENCE: Final = re.compile(r'"#/components/([^/"]+)/([^"]+)"')


def v2_document(
    state: ControlState, prefix: str, model: str | None = None, version: str | None = None
) -> dict[str, Any]:
    """The part of the document below `/v2`, of one model or version if one is named; raises NotFound for an unknown."""
    document = openapi(state, prefix)
    base = "/v2"
    if model is not None:
        base += f"/models/{quote(model, safe='')}" + ("" if version is None else f"/versions/{quote(version, safe='')}")
        if base not in document["paths"]:
            raise NotFound(f"Model {model}{'' if version is None else f' with version {version}'} not found")
    document["paths"] = {
        path: ways for path, ways in document["paths"].items() if path == base or path.startswith(f"{base}/")
    }
    used = json.dumps(document["paths"])
    document["tags"] = [tag for tag in document["tags"] if json.dumps(tag["name"]) in used]
    _drop_unused(document)
    return document


def _drop_unused(document: dict[str, Any]) -> None:
    """Leave the components that the paths lead to."""
    components = document["components"]
    found: set[tuple[str, str]] = set()
    texts = [json.dumps(document["paths"])]
    while texts:
        for section, name in _REFERENCE.findall(texts.pop()):
            if (section, name) not in found:
                found.add((section, name))
                texts.append(json.dumps(components[section][name]))
    for section in components.keys() - {"securitySchemes"}:
        components[section] = {name: one for name, one in components[section].items() if (section, name) in found}


def native_bases(state: ControlState, info: ModelInfo) -> list[str]:
    """Paths below which a version answers `/predict`, shortest first: "" for the default model's live one."""
    model = f"/models/{quote(info.name, safe='')}"
    bases = [f"{model}/versions/{quote(info.version, safe='')}"]
    if info.live:
        bases.insert(0, model)
        if info.name == state.default:
            bases.insert(0, "")
    return bases


def v2_bases(info: ModelInfo) -> list[str]:
    model = f"/v2/models/{quote(info.name, safe='')}"
    return ([model] if info.live else []) + [f"{model}/versions/{quote(info.version, safe='')}"]


def _description(state: ControlState) -> str:
    if not state.models:
        return "No model is loaded: `lagar serve model.joblib` serves one."
    more = len(state.names) - len(state.shown)
    others = f" {more} more models have the same paths under their own names: `GET /models`." if more else ""
    return f"What this server answers. Errors outside `/v2` have one shape; `X-Request-Id` is on every answer.{others}"


def _tags(state: ControlState) -> list[dict[str, str]]:
    tags = []
    for name in state.shown:
        live = state.versions(name)[0]
        versions = ", ".join(info.version + (" (live)" if info.live else "") for info in state.versions(name))
        tags.append(
            {"name": name, "description": f"{TASK_WORDS[live.signature.task]}, {live.kind}; versions: {versions}"}
        )
    tags.append({"name": "versions", "description": "What is stored, and what is live"})
    return [*tags, {"name": "server", "description": "Health, metadata, metrics"}]


def _components(state: ControlState) -> dict[str, Any]:
    nullable_text = {"type": ["string", "null"]}
    error = {
        "type": "object",
        "properties": {
            "code": {"type": "string", "description": "Stable; part of the API."},
            "message": {"type": "string"},
            "field": {**nullable_text, "description": "The field that is wrong, where known."},
            "row": {"type": ["integer", "null"], "description": "Its row, from 0, where known."},
            "request_id": {"type": "string"},
        },
        "required": ["code", "message", "field", "row", "request_id"],
    }
    return {
        "schemas": {
            "Error": {"type": "object", "properties": {"error": error}, "required": ["error"]},
            "V2Error": {"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]},
            "MlflowError": _mlflow_error_schema(),
            "Predictions": {
                "type": "object",
                "properties": {"predictions": {"type": "array"}},
                "required": ["predictions"],
            },
            "V2Tensor": schemas.v2_tensor(),
            "V2Request": _v2_request_schema(),
            "V2Response": _v2_response_schema(),
        },
        "responses": {str(status): _error_answer(status) for status in (*ERRORS, *VERB_ERRORS)}
        | {f"V2-{status}": _v2_error_answer(status) for status in ERRORS}
        | {f"MLflow-{status}": _mlflow_error_answer(status) for status in ERRORS},
        "headers": {
            "RequestId": {"description": "As sent by the caller, else made here.", "schema": {"type": "string"}},
            "RetryAfter": {"description": "Seconds.", "schema": {"type": "integer"}},
        },
        "parameters": {
            "Timeout": {
                "name": "timeout",
                "in": "header",
                "description": "Seconds this caller waits at most; the server's own deadline bounds it.",
                "schema": {"type": "number", "exclusiveMinimum": 0},
            },
            "HeaderLength": {
                "name": "Inference-Header-Content-Length",
                "in": "header",
                "description": "Bytes of the JSON, where tensors stand behind it; 0: the body is one raw tensor.",
                "schema": {"type": "integer", "minimum": 0},
            },
            "RequestId": {
                "name": "X-Request-Id",
                "in": "header",
                "description": "The caller's own id for this request; it comes back in the answer and is in the log.",
                "schema": {"type": "string"},
            },
        },
        "securitySchemes": {
            "bearer": {"type": "http", "scheme": "bearer", "description": "An API key of this server."},
            "apiKey": {"type": "apiKey", "in": "header", "name": "X-Api-Key"},
        },
    }


def _headers(status: int) -> dict[str, Any]:
    headers = {"X-Request-Id": {"$ref": "#/components/headers/RequestId"}}
    return headers | ({"Retry-After": {"$ref": "#/components/headers/RetryAfter"}} if status in _RETRY else {})


def _error_answer(status: int) -> dict[str, Any]:
    code, description = (ERRORS | VERB_ERRORS)[status]
    where = {"field": "alcohol", "row": 0} if status == 400 else {"field": None, "row": None}
    example = {"error": {"code": code, "message": "…", **where, "request_id": "7f3c…"}}
    content = {JSON: {"schema": {"$ref": "#/components/schemas/Error"}, "example": example}}
    return {"description": description, "headers": _headers(status), "content": content}


def _v2_error_answer(status: int) -> dict[str, Any]:
    content = {JSON: {"schema": {"$ref": "#/components/schemas/V2Error"}}}
    return {"description": ERRORS[status][1], "headers": _headers(status), "content": content}


def _mlflow_error_schema() -> Schema:
    text = {"type": "string"}
    return {
        "type": "object",
        "properties": {"error_code": text, "message": text},
        "required": ["error_code", "message"],
    }


def _mlflow_error_answer(status: int) -> dict[str, Any]:
    content = {JSON: {"schema": {"$ref": "#/components/schemas/MlflowError"}}}
    return {"description": ERRORS[status][1], "headers": _headers(status), "content": content}


def _errors(statuses: tuple[int, ...], prefix: str = "") -> dict[str, Any]:
    return {str(status): {"$ref": f"#/components/responses/{prefix}{status}"} for status in statuses}


def _part(info: ModelInfo, part: str) -> str:
    """Name of a model's schema: component names allow few characters."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", f"{info.name}.{info.version}.{part}")


def _ref(info: ModelInfo, part: str) -> str:
    return f"#/components/schemas/{_part(info, part)}"


def _model_schemas(info: ModelInfo) -> dict[str, Schema]:
    return {
        _part(info, "Record"): schemas.record_schema(info),
        _part(info, "Row"): schemas.row_schema(info),
        _part(info, "Body"): schemas.json_body(
            _ref(info, "Record"), _ref(info, "Row"), by_name=schemas.takes_records(info)
        ),
        _part(info, "Answer"): schemas.answer_schema(info),
    }


def _operation(info: ModelInfo, base: str, verb: str, summary: str, description: str = "") -> Operation:
    operation: Operation = {
        "tags": [info.name],
        "operationId": re.sub(r"\W+", "_", f"{verb}{base or '/default'}").strip("_"),
        "summary": summary,
        "parameters": [{"$ref": "#/components/parameters/RequestId"}],
    }
    return operation | ({"description": description} if description else {})


def _which(info: ModelInfo, base: str) -> str:
    if base.endswith("/versions"):
        return info.name
    return f"{info.name} {info.version}" if "/versions/" in base else f"{info.name}, live version ({info.version})"


def _predict(info: ModelInfo, base: str) -> Operation:
    notes = [f"Learned from {info.signature.origin}."] if info.signature.origin else []
    notes += list(info.warnings)
    operation = _operation(info, base, "predict", f"Predict with {_which(info, base)}", "\n\n".join(notes))
    operation["parameters"].append({"$ref": "#/components/parameters/Timeout"})
    answer: dict[str, Any] = {JSON: {"schema": {"$ref": _ref(info, "Answer")}}}
    if not info.has_postprocess:
        answer |= {CSV: {"schema": {"type": "string"}}, ARROW: {"schema": {"contentMediaType": ARROW}}}
    ok = {"description": "One prediction per row, in order.", "headers": _headers(200), "content": answer}
    return operation | {
        "requestBody": {"required": True, "content": _bodies(info)},
        "responses": {"200": ok} | _errors(_PREDICT_ERRORS),
    }


def _bodies(info: ModelInfo) -> dict[str, Any]:
    json_type: dict[str, Any] = {"schema": {"$ref": _ref(info, "Body")}}
    examples = schemas.json_examples(info)
    if examples:
        json_type["examples"] = examples
    table = "One row per line, with a header." if info.signature.named else "One row per line."
    text = {"type": "string"}
    content: dict[str, Any] = {
        JSON: json_type,
        CSV: {"schema": {**text, "description": table}},
        NDJSON: {"schema": {**text, "description": "One record or one row per line."}},
        ARROW: {"schema": {"contentMediaType": ARROW}},
        PARQUET: {"schema": {"contentMediaType": PARQUET}},
    }
    if schemas.csv_example(info):
        content[CSV]["example"] = schemas.csv_example(info)
    if schemas.ndjson_example(info):
        content[NDJSON]["example"] = schemas.ndjson_example(info)
    return content


def _example(info: ModelInfo, base: str) -> Operation:
    operation = _operation(info, base, "example", f"A body for {_which(info, base)} that works when posted back")
    ok = {
        "description": "A body for the predict path beside it.",
        "headers": _headers(200),
        "content": {JSON: {"schema": {"$ref": _ref(info, "Body")}}},
    }
    return operation | {"responses": {"200": ok} | _errors(_LOOK_ERRORS)}


def _about(info: ModelInfo, base: str) -> Operation:
    operation = _operation(info, base, "about", f"Signature, versions and state of {_which(info, base)}")
    return operation | {"responses": {"200": _object_answer("The facts.")} | _errors(_LOOK_ERRORS)}


def _v2_request_schema() -> Schema:
    asked = {
        "type": "object",
        "properties": {"name": {"type": "string"}, "parameters": {"type": "object"}},
        "required": ["name"],
    }
    return {
        "type": "object",
        "properties": {
            "id": {"type": "string"},
            "parameters": {"type": "object"},
            "inputs": {"type": "array", "items": {"$ref": "#/components/schemas/V2Tensor"}, "minItems": 1},
            "outputs": {"type": "array", "items": asked},
        },
        "required": ["inputs"],
    }


def _v2_response_schema() -> Schema:
    return {
        "type": "object",
        "properties": {
            "model_name": {"type": "string"},
            "model_version": {"type": "string"},
            "id": {"type": "string"},
            "parameters": {"type": "object"},
            "outputs": {"type": "array", "items": {"$ref": "#/components/schemas/V2Tensor"}},
        },
        "required": ["model_name", "outputs"],
    }


def _v2_infer(info: ModelInfo, base: str) -> Operation:
    outputs = "; ".join(
        f"`{output.name}` ({output.datatype}{', ' + output.meaning if output.meaning else ''})"
        for output in info.signature.outputs
    )
    description = f"Outputs: {outputs}." if outputs else ""
    operation = _operation(info, base, "infer", f"V2 inference with {_which(info, base)}", description)
    operation["parameters"].append({"$ref": "#/components/parameters/Timeout"})
    body: dict[str, Any] = {"schema": {"$ref": "#/components/schemas/V2Request"}}
    example = schemas.v2_example(info)
    if example is not None:
        body["example"] = example
    octets = {OCTETS: {"schema": {"contentMediaType": OCTETS}}}
    operation["parameters"].append({"$ref": "#/components/parameters/HeaderLength"})
    answer = {JSON: {"schema": {"$ref": "#/components/schemas/V2Response"}}, **octets}
    ok = {"description": "The outputs asked for.", "headers": _headers(200), "content": answer}
    return operation | {
        "requestBody": {"required": True, "content": {JSON: body, **octets}},
        "responses": {"200": ok} | _errors(_PREDICT_ERRORS, "V2-"),
    }


def _v2_metadata(info: ModelInfo, base: str) -> Operation:
    operation = _operation(info, base, "metadata", f"V2 metadata of {_which(info, base)}")
    return operation | {"responses": {"200": _object_answer("The metadata.")} | _errors(_LOOK_ERRORS, "V2-")}


def _v2_facts(info: ModelInfo, base: str) -> dict[str, dict[str, Operation]]:
    """What can be asked of a model besides predictions and metadata."""
    config = _operation(info, base, "config", f"Triton's model configuration of {_which(info, base)}")
    stats = _operation(info, base, "stats", f"What {_which(info, base)} has answered since the server started")
    docs = _operation(info, base, "docs", f"The V2 paths of {_which(info, base)} as a page")
    document = _operation(info, base, "document", f"The V2 paths of {_which(info, base)} as an OpenAPI document")
    errors = _errors(_LOOK_ERRORS, "V2-")
    page = _answer("A page.", {"text/html": {"schema": {"type": "string"}}})
    return {
        f"{base}/config": {"get": config | {"responses": {"200": _object_answer("The configuration.")} | errors}},
        f"{base}/stats": {"get": stats | {"responses": {"200": _object_answer("The statistics.")} | errors}},
        f"{base}/docs": {"get": docs | {"responses": {"200": page} | errors}},
        f"{base}/docs/dataplane.json": {
            "get": document | {"responses": {"200": _object_answer("OpenAPI 3.1.")} | errors}
        },
    }


def _v1_paths(info: ModelInfo) -> dict[str, dict[str, Operation]]:
    """KServe's V1 for a version; a live one answers by its model's name alone, too."""
    model = f"/v1/models/{quote(info.name, safe='')}"
    bases = [f"{model}/versions/{quote(info.version, safe='')}"]
    paths: dict[str, dict[str, Operation]] = {}
    if info.live:
        bases.append(model)
        ready = _operation(info, model, "ready", f"V1: whether {_which(info, model)} can answer")
        errors = _errors((404, 405, 431, 503), "V2-")
        paths[model] = {"get": ready | {"security": [], "responses": {"200": _object_answer("It can.")} | errors}}
    for base in bases:
        operation = _operation(info, base, "predict", f"V1 predictions of {_which(info, base)}")
        content = {JSON: _instances(info, "instances", "inputs")}
        paths[f"{base}:predict"] = {"post": operation | _predictions(content, "V2-")}
    return paths


def _invocations(info: ModelInfo) -> Operation:
    operation = _operation(info, "", "invocations", f"MLflow's and SageMaker's predictions of {info.name}")
    names = ("dataframe_split", "dataframe_records", "instances", "inputs")
    content: dict[str, Any] = {JSON: _instances(info, *names), CSV: {"schema": {"type": "string"}}}
    content |= {kind: {"schema": {"contentMediaType": kind}} for kind in (PARQUET, ARROW)}
    if (example := schemas.csv_example(info)) and schemas.takes_records(info):
        content[CSV]["example"] = example
    return operation | _predictions(content, "MLflow-")


def _instances(info: ModelInfo, *names: str) -> dict[str, Any]:
    """A body with exactly one of these members."""
    one = [{"required": [name]} for name in names]
    schema = {"type": "object", "description": f"Exactly one of {', '.join(names)}.", "oneOf": one}
    return {"schema": schema, "example": {"instances": schemas.example_items(info)}}


def _predictions(content: dict[str, Any], errors: str) -> Operation:
    answer = {JSON: {"schema": {"$ref": "#/components/schemas/Predictions"}}}
    ok = {"description": "One prediction per row, in order.", "headers": _headers(200), "content": answer}
    return {
        "requestBody": {"required": True, "content": content},
        "responses": {"200": ok} | _errors(_PREDICT_ERRORS, errors),
    }


def _v2_server_paths(state: ControlState) -> dict[str, dict[str, Operation]]:
    """Lists, statistics, documentation and the repository."""
    page = _answer("A page.", {"text/html": {"schema": {"type": "string"}}})
    lists = _object_answer("The names.")
    stats = _object_answer("The statistics.")
    return {
        "/v2/models": {"get": _server("v2_models", "The models that answer", lists, "V2-")},
        "/v2/models/stats": {"get": _server("v2_stats", "What every loaded version has answered", stats, "V2-")},
        "/v2/docs": {"get": _server("v2_docs", "The V2 paths as a page", page, "V2-")},
        "/v2/docs/dataplane.json": {
            "get": _server("v2_document", "The V2 paths as an OpenAPI document", _object_answer("OpenAPI 3.1."), "V2-")
        },
        "/v2/repository/index": {"post": _v2_index()},
        "/v2/repository/models/{model}/load": {"post": _v2_change(state, "load", "version", "string")},
        "/v2/repository/models/{model}/unload": {"post": _v2_change(state, "unload", "unload_dependents", "boolean")},
    }


def _v2_index() -> Operation:
    names = ("name", "version", "state", "reason")
    entry = {"type": "object", "properties": {name: {"type": "string"} for name in names}, "required": list(names)}
    body = {"type": "object", "properties": {"ready": {"type": "boolean", "default": False}}}
    operation = _server(
        "v2_index", "All versions, and which of them answer",
        _answer("The versions.", {JSON: {"schema": {"type": "array", "items": entry}}}), "V2-",
    )  # fmt: skip
    operation["responses"] |= _errors(_BODY_ERRORS, "V2-")
    return operation | {"requestBody": {"content": {JSON: {"schema": body}}}}


def _v2_change(state: ControlState, verb: str, parameter: str, kind: str) -> Operation:
    """A load or an unload; like every change it needs a key even where nothing else does."""
    summary = {"load": "Have a model answer again", "unload": "Have a model answer nothing until it is loaded"}[verb]
    ok = {"description": "Done.", "headers": _headers(200)}
    operation = _server(f"v2_{verb}", summary, ok, "V2-")
    operation["responses"] |= _errors((*_BODY_ERRORS, 404), "V2-") | {
        "409": {"description": VERB_ERRORS[409][1], "headers": _headers(409)}
    }
    parameters = {"type": "object", "properties": {parameter: {"type": kind}}, "additionalProperties": False}
    body = {"type": "object", "properties": {"parameters": parameters}}
    secured: dict[str, Any] = {} if state.settings.no_auth else {"security": [{"bearer": []}, {"apiKey": []}]}
    path = {"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}
    return operation | secured | {"parameters": [path], "requestBody": {"content": {JSON: {"schema": body}}}}


def _v2_model_ready(info: ModelInfo, base: str) -> Operation:
    operation = _operation(info, base, "ready", f"Whether {_which(info, base)} can answer")
    ok = {"description": "It can.", "headers": _headers(200)}
    return operation | {"security": [], "responses": {"200": ok} | _errors((404, 405, 431, 503), "V2-")}


def _server_paths() -> dict[str, dict[str, Operation]]:
    text = {"text/plain": {"schema": {"type": "string"}}}
    page = {"text/html": {"schema": {"type": "string"}}}
    return {
        "/models": {"get": _server("models", "What is loaded", _object_answer("Every model and version."))},
        "/v2": {"get": _server("v2_server", "V2 server metadata", _object_answer("Name, version, extensions."), "V2-")},
        "/v1/models": {"get": _server("v1_models", "V1: the names of all models", _object_answer("Names."), "V2-")},
        "/version": {"get": _server("version", "The version of Lagar", _answer("As text.", text), "MLflow-")},
        "/v2/health/live": {"get": _open("v2_live", "V2 liveness", "V2-")},
        "/v2/health/ready": {"get": _open("v2_ready", "V2 readiness", "V2-")},
        "/health": {"get": _open("health", "Alive, by the name that others use")},
        "/ping": {"get": _open("ping", "Ready, by the name that others use")},
        "/healthz": {"get": _open("healthz", "Alive: the process answers")},
        "/readyz": {"get": _open("readyz", "Ready: every worker can answer")},
        "/metrics": {
            "get": _server(
                "metrics", "Metrics for Prometheus", _answer("Prometheus text, or OpenMetrics by `Accept`.", text)
            )
        },
        "/openapi.json": {"get": _server("openapi", "This document", _object_answer("OpenAPI 3.1."))},
        "/docs": {"get": _server("docs", "This document as a page", _answer("A page.", page))},
        "/": {"get": _server("index", "What is served, with a form per model", _answer("A page.", page))},
    }


def _answer(description: str, content: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "headers": _headers(200), "content": content}


def _object_answer(description: str) -> dict[str, Any]:
    return _answer(description, {JSON: {"schema": {"type": "object"}}})


def _server(name: str, summary: str, ok: dict[str, Any], errors: str = "") -> Operation:
    responses = {"200": ok} | _errors((401, 403, 405, 431, 503), errors)
    return {"tags": ["server"], "operationId": name, "summary": summary, "responses": responses}


def _open(name: str, summary: str, errors: str = "") -> Operation:
    responses = {"200": {"description": "Yes.", "headers": _headers(200)}} | _errors((405, 431, 503), errors)
    return {"tags": ["server"], "operationId": name, "summary": summary, "security": [], "responses": responses}
