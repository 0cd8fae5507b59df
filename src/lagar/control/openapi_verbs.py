"""The verbs below `/api` in the OpenAPI document: their schemas are those of the structs that are answered."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from lagar.control import models
from lagar.control.reception import FIELDS, FILES
from lagar.control.schemas import JSON, NDJSON
from lagar.control.state import ControlState
from lagar.registry import answers
from lagar.registry.difference import Difference

Operation = dict[str, Any]

_REFERENCE: Final = "#/components/schemas/{name}"
_LOOK: Final = (400, 401, 403, 404, 405, 431, 503)
_CHANGE: Final = (*_LOOK, 409)
_STRUCTS: Final = (
    answers.ModelCard, answers.VersionCard, answers.VersionReport, answers.TrafficCard, answers.GenerationCard,
    answers.GarbageCard, answers.Live, answers.PushLine, Difference, models.VersionBody, models.NoteBody,
    models.TrafficBody, models.AliasBody, models.GarbageBody,
)  # fmt: skip
_PART_WORDS: Final = {
    "model": "The model's file; a folder as a tar or zip archive.",
    "example": "Rows that the model must answer.",
    "training_data": "What it was trained on.",
    "requirements": "What its environment must hold.",
    "code": "A .py file that it needs; may be repeated.",
    "version": "Any label; default: the next number.",
    "alias": "An alias that is to stand for it.",
    "note": "What is to be remembered of it.",
    "metric": "NAME=NUMBER; may be repeated.",
    "compile": "wait (default), background or off: when its faster forms are built and proved.",
    "trust": "true: open pickles that name code outside the allow-list.",
}


def verb_schemas() -> dict[str, Any]:
    """The schemas of what the verbs take and answer."""
    _, components = msgspec.json.schema_components(_STRUCTS, ref_template=_REFERENCE)
    return components


def verb_paths(state: ControlState) -> dict[str, dict[str, Operation]]:
    """The paths of the verbs; a change needs a key even where nothing else does."""
    return _looks() | _merged(_looks_of_versions(), _changes(state))


def _merged(*parts: dict[str, dict[str, Operation]]) -> dict[str, dict[str, Operation]]:
    merged: dict[str, dict[str, Operation]] = {}
    for part in parts:
        for path, methods in part.items():
            merged.setdefault(path, {}).update(methods)
    return merged


def _looks() -> dict[str, dict[str, Operation]]:
    model = "/api/models/{model}"
    query = [_parameter("before", "query", "A version or alias."), _parameter("after", "query", "Another one.")]
    wait = _parameter("wait", "query", "Seconds to wait for its end, at most 30.", {"type": "number"}, required=False)
    history = _look("api_history", "Who put what into production, the newest first", _list(answers.TrafficCard))
    generation = _look("api_generation", "A change of traffic on its way", _of(answers.GenerationCard))
    return {
        "/api/models": {"get": _look("api_models", "All models", _list(answers.ModelCard))},
        model: {"get": _with(_look("api_model", "One model", _of(answers.ModelCard)))},
        f"{model}/history": {"get": _with(history)},
        f"{model}/diff": {
            "get": _with(_look("api_diff", "What the second version has differently", _of(Difference)), *query)
        },
        f"{model}/aliases": {"get": _with(_look("api_aliases", "Alias → version", _texts()))},
        "/api/generations/{number}": {
            "get": generation | {"parameters": [_parameter("number", "path", "", {"type": "integer"}), wait]}
        },
    }


def _looks_of_versions() -> dict[str, dict[str, Operation]]:
    model = "/api/models/{model}"
    versions = _look("api_versions", "The versions of a model, the newest last", _list(answers.VersionCard))
    version = _look("api_version", "A version with its own record", _of(answers.VersionReport))
    return {
        f"{model}/versions": {"get": _with(versions)},
        f"{model}/versions/{{version}}": {"get": _with(version, _version())},
        f"{model}/traffic": {"get": _with(_look("api_traffic", "What answers for a model", _of(answers.Live)))},
    }


def _changes(state: ControlState) -> dict[str, dict[str, Operation]]:
    model = "/api/models/{model}"
    secured: dict[str, Any] = {} if state.settings.no_auth else {"security": [{"bearer": []}, {"apiKey": []}]}
    alias = _parameter("alias", "path", "The word.")
    retire = _change("api_retire", "Take a version without traffic out of use", None, _of(answers.VersionCard))
    unretire = _change("api_retire_undo", "Bring a retired version back", None, _of(answers.VersionCard))
    gc = _change("api_gc", "Remove stored files that no version needs", "GarbageBody", _of(answers.GarbageCard))
    paths = {
        f"{model}/versions": {"post": _with(_push())},
        f"{model}/promote": {"post": _with(_proposal("api_promote", "Give a version all the traffic", "VersionBody"))},
        f"{model}/rollback": {"post": _with(_proposal("api_rollback", "Restore what was live before", "NoteBody"))},
        f"{model}/traffic": {"put": _with(_proposal("api_share", "Share the traffic among versions", "TrafficBody"))},
        f"{model}/aliases/{{alias}}": {
            "put": _with(_change("api_alias", "Let a word stand for a version", "AliasBody", _texts()), alias),
            "delete": _with(_change("api_alias_drop", "Forget an alias", None, _texts()), alias),
        },
        f"{model}/versions/{{version}}/retire": {
            "post": _with(retire, _version()),
            "delete": _with(unretire, _version()),
        },
        "/api/gc": {"post": gc},
    }
    return {path: {method: operation | secured for method, operation in ways.items()} for path, ways in paths.items()}


def _push() -> Operation:
    files = {name: {"type": "string", "contentMediaType": "application/octet-stream"} for name in FILES}
    parts = files | {name: {"type": "string"} for name in FIELDS}
    properties = {name: schema | {"description": _PART_WORDS[name]} for name, schema in parts.items()}
    form = {"schema": {"type": "object", "properties": properties, "required": ["model"]}}
    raw = {"schema": {"contentMediaType": "application/octet-stream"}}
    lines = {"schema": {"$ref": _REFERENCE.format(name="PushLine")}}
    operation = _operation("api_push", "Push a version")
    operation["description"] = (
        "The body goes to disk as it comes. A form, or the model's file itself with `filename` and the fields in the "
        "query. With `Accept: application/x-ndjson` the answer has a line for each step of intake, and one that says "
        "how it ended; else 201, or 422 with the step that refused it."
    )
    operation["parameters"] = [
        _parameter(name, "query", words, required=False)
        for name, words in (("filename", "Name of the file that is the body."), *((n, _PART_WORDS[n]) for n in FIELDS))
    ]
    operation["requestBody"] = {
        "required": True,
        "content": {"multipart/form-data": form, "application/octet-stream": raw},
    }
    created = _answer("The version.", {JSON: _of(answers.VersionReport)})
    steps = _answer("The steps, and the end.", {NDJSON: lines})
    return operation | {"responses": {"200": steps, "201": created} | _errors((*_CHANGE, 413, 422))}


def _proposal(name: str, summary: str, body: str) -> Operation:
    card = {JSON: _of(answers.GenerationCard)}
    operation = _change(name, summary, body, _of(answers.GenerationCard))
    operation["responses"]["200"] = _answer("It is live.", card)
    operation["responses"]["202"] = _answer("The servers prepare it; see /api/generations/NUMBER.", card)
    return operation


def _change(name: str, summary: str, body: str | None, answer: dict[str, Any]) -> Operation:
    operation = _operation(name, summary)
    if body is not None:
        content = {JSON: {"schema": {"$ref": _REFERENCE.format(name=body)}}}
        operation["requestBody"] = {"required": body in ("VersionBody", "TrafficBody", "AliasBody"), "content": content}
    return operation | {"responses": {"200": _answer("Done.", {JSON: answer})} | _errors(_CHANGE)}


def _look(name: str, summary: str, answer: dict[str, Any]) -> Operation:
    return _operation(name, summary) | {"responses": {"200": _answer(summary + ".", {JSON: answer})} | _errors(_LOOK)}


def _operation(name: str, summary: str) -> Operation:
    return {"tags": ["versions"], "operationId": name, "summary": summary}


def _with(operation: Operation, *parameters: dict[str, Any]) -> Operation:
    """The operation with the model, and more, in its path or query."""
    model = _parameter("model", "path", "The model's name.")
    return operation | {"parameters": [model, *parameters, *operation.get("parameters", ())]}


def _version() -> dict[str, Any]:
    return _parameter("version", "path", "A version or alias.")


def _parameter(
    name: str, place: str, words: str, schema: dict[str, Any] | None = None, *, required: bool = True
) -> dict[str, Any]:
    parameter = {"name": name, "in": place, "required": required, "schema": schema or {"type": "string"}}
    return parameter | ({"description": words} if words else {})


def _of(struct: type[msgspec.Struct]) -> dict[str, Any]:
    return {"schema": {"$ref": _REFERENCE.format(name=struct.__name__)}}


def _list(struct: type[msgspec.Struct]) -> dict[str, Any]:
    return {"schema": {"type": "array", "items": _of(struct)["schema"]}}


def _texts() -> dict[str, Any]:
    return {"schema": {"type": "object", "additionalProperties": {"type": "string"}}}


def _answer(description: str, content: dict[str, Any]) -> dict[str, Any]:
    headers = {"X-Request-Id": {"$ref": "#/components/headers/RequestId"}}
    return {"description": description, "headers": headers, "content": content}


def _errors(statuses: tuple[int, ...]) -> dict[str, Any]:
    return {str(status): {"$ref": f"#/components/responses/{status}"} for status in statuses}
