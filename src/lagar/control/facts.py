"""What the pages and the OpenAPI document say about a model, in words and in JSON tokens."""

from __future__ import annotations

import json
import math
from typing import Any

from lagar.registry.model import ModelInfo
from lagar.registry.signature import Field, Signature

TYPE_WORDS = {"float": "number", "int": "whole number", "bool": "true or false", "string": "text", "unknown": "unknown"}
TASK_WORDS = {
    "classifier": "classifier",
    "regressor": "regressor",
    "clusterer": "clusterer",
    "outlier": "outlier detector",
    "transformer": "transformer",
    "custom": "custom code",
    "unknown": "task unknown",
}


def token(value: Any) -> str:
    """A value as JSON text, in which no digit is lost on the way through a browser; NaN and infinities are null."""
    return json.dumps(_finite(value), ensure_ascii=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def number(value: float) -> str:
    """A bound as people write it: 3, not 3.0."""
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else f"{value:.6g}"


def bound(value: float | None) -> float | None:
    """An enforced bound, None for an open end: `range = [0, inf]` is a lower bound only."""
    return None if value is None or math.isinf(value) else value


def range_words(field: Field) -> str:
    """The enforced range, else the one seen in the example data, else nothing."""
    low, high = bound(field.minimum), bound(field.maximum)
    if low is not None and high is not None:
        return f"{number(low)} to {number(high)}, enforced"
    if low is not None:
        return f"at least {number(low)}, enforced"
    if high is not None:
        return f"at most {number(high)}, enforced"
    if field.seen_min is not None and field.seen_max is not None and field.seen_min < field.seen_max:
        return f"{number(field.seen_min)} to {number(field.seen_max)} in the example data"
    return ""


def null_words(field: Field) -> str:
    if field.nullable is None:
        return "unknown, so refused"
    return "allowed" if field.nullable else "refused"


def input_fields(info: ModelInfo) -> tuple[Field, ...]:
    """The fields a caller sends: the signature's, or, with a `preprocess` hook, those of the example record.

    The hook turns the caller's record into the model's, so what the model wants may be unlike what the caller sends.
    """
    fields = info.signature.fields or ()
    example = example_records(info.signature)
    if not info.has_preprocess or not example:
        return fields
    known = {field.name: field for field in fields}
    return tuple(
        known.get(name) or Field(name=name, type=_type_of(value), nullable=None, example=_scalar(value))
        for name, value in example[0].items()
    )


def example_records(signature: Signature) -> list[dict[str, Any]]:
    """Example rows as a caller may post them; [] when there is none and none can be made."""
    if signature.example:
        return [dict(record) for record in signature.example]
    fields = signature.fields or ()
    if fields and all(field.example is not None or field.nullable or field.has_default for field in fields):
        return [{field.name: field.default if field.example is None else field.example for field in fields}]
    return []


def _type_of(value: Any) -> Any:
    for kind, name in ((bool, "bool"), (int, "int"), (float, "float"), (str, "string")):
        if isinstance(value, kind):
            return "float" if name == "int" else name
    return "unknown"


def _scalar(value: Any) -> Any:
    return value if isinstance(value, str | int | float | bool) else None
