"""What the service says about its models: an example that works, and a card per version."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
import orjson

from lagar.protocols.base import DeploymentView
from lagar.registry.model import ModelInfo
from lagar.registry.signature import Field, Output

UnloadedVersion = tuple[str, bool]
"""A version that has a share of the traffic, and whether it is the one with most of it."""

_OPTIONS: Final = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS


def example_body(deployment: DeploymentView) -> bytes:
    """A native body that works when posted back to the model's predict path."""
    signature = deployment.signature
    if signature.fields is None:
        row = list(signature.example[0].values()) if signature.example else [0.0]
        return orjson.dumps({"instances": [row]})
    if signature.example:
        return orjson.dumps(signature.example[0], option=_OPTIONS)
    return orjson.dumps({field.name: _example_value(field) for field in signature.fields})


def _example_value(field: Field) -> Any:
    if field.example is not None:
        return field.example
    if field.has_default:
        return field.default
    known = [category for category in field.categories or () if category is not None]
    if known:
        return known[0]
    if field.type == "bool":
        return False
    if field.type == "string":
        return "text"
    bounds = [bound for bound in (field.seen_min, field.minimum, field.maximum) if bound is not None]
    number = bounds[0] if bounds else 0
    return int(number) if field.type == "int" else float(number)


def version_card(info: ModelInfo) -> dict[str, Any]:
    """What GET /models says of one version; JSON-able."""
    signature = info.signature
    card: dict[str, Any] = {
        "name": info.name,
        "version": info.version,
        "live": info.live,
        "state": info.state,
        "kind": info.kind,
        "task": signature.task,
        "inputs": None if signature.fields is None else [_input_card(field) for field in signature.fields],
        "outputs": [_output_card(output) for output in signature.outputs],
        "classes": None if signature.classes is None else list(signature.classes),
        "extra_fields": signature.extra_fields,
        "origin": signature.origin,
        "preprocess": info.has_preprocess,
        "postprocess": info.has_postprocess,
        "libraries": dict(info.libraries),
        "warnings": list(info.warnings),
        "sha256": info.sha256,
        "loaded_at": info.loaded_at,
        "forms": [msgspec.to_builtins(form) for form in info.forms],
    }
    return card


def _input_card(field: Field) -> dict[str, Any]:
    card: dict[str, Any] = msgspec.to_builtins(field)
    return {"type": field.type, **card}


def _output_card(output: Output) -> dict[str, Any]:
    card: dict[str, Any] = {
        "name": output.name, "datatype": output.datatype, "shape": list(output.shape), "meaning": output.meaning,
    }  # fmt: skip
    return card if output.classes is None else card | {"classes": list(output.classes)}


def model_card(name: str, infos: Sequence[ModelInfo], unloaded: Sequence[UnloadedVersion] = ()) -> dict[str, Any]:
    """What GET /models/NAME says of the versions of one model, the live one first, those that are not loaded last."""
    versions = sorted(infos, key=lambda info: not info.live)
    live = next((info.version for info in versions if info.live), None)
    live = live or next((version for version, is_live in unloaded if is_live), None)
    cards = [version_card(info) for info in versions]
    for version, is_live in unloaded:
        cards.append({"name": name, "version": version, "live": is_live, "state": "unloaded"})
    return {"name": name, "live": live, "versions": cards}


def models_list(infos: Sequence[ModelInfo], unloaded: Mapping[str, Sequence[UnloadedVersion]]) -> list[dict[str, Any]]:
    """One card per model, in the order in which they are served; `unloaded` are versions that are loaded when they are
    asked for."""
    models: dict[str, list[ModelInfo]] = {}
    for info in infos:
        models.setdefault(info.name, []).append(info)
    names = [*models, *(name for name in unloaded if name not in models)]
    return [model_card(name, models.get(name, []), unloaded.get(name, ())) for name in names]
