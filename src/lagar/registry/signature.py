"""The signature of a model: its named inputs and outputs, with types, categories, ranges and an example.

It is inferred when a model is loaded, refined by `--example` and `lagar.toml`, and drives validation, documentation
and the forms. What cannot be known is None ("unknown") and is not enforced.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, Literal

import msgspec

FieldType = Literal["float", "int", "bool", "string", "unknown"]
Layout = Literal["matrix", "columns"]
Task = Literal["classifier", "regressor", "clusterer", "outlier", "transformer", "custom", "unknown"]
Scalar = str | int | float | bool | None

PARAM: Final = "params."
"""Fields of this prefix belong to the call and not to a row: the params of an MLflow signature, each with a default."""
PARAM_LIST: Final = "[]"
"""Ends the name of a param that is a list, and travels as its JSON."""
ANSWER_KEYS: Final = ("id", "ids", "model", "version", "classes")
"""Keys that every answer of the native protocol may have beside the outputs."""
_SHOWN: Final = {"predict": "predictions", "predict_proba": "probabilities"}


class Field(msgspec.Struct, frozen=True, omit_defaults=True):
    """One input of a model."""

    name: str
    type: FieldType = "float"
    categories: tuple[Scalar, ...] | None = None
    """The values that the model knows; None: not a categorical field, or not known."""
    unknown: Literal["refuse", "allow"] = "refuse"
    """What happens to a value outside `categories`."""
    nullable: bool | None = None
    """None: unknown, and then null is refused for numbers (a NaN would be made up) unless the file rules say so."""
    minimum: float | None = None
    """Enforced lower bound (from `lagar.toml`)."""
    maximum: float | None = None
    seen_min: float | None = None
    """Smallest value of the example data; told, not enforced."""
    seen_max: float | None = None
    default: Scalar = None
    """Used for a missing field when `has_default`."""
    has_default: bool = False
    example: Scalar = None
    content_type: str = ""
    """What V2 takes its BYTES for when a request does not say: base64, datetime, ...; empty: as they are."""


class Output(msgspec.Struct, frozen=True, omit_defaults=True):
    """One output of a model: `shape` is per row, () for one value; -1 where unknown."""

    name: str
    datatype: str = "FP64"
    """A V2 datatype: BOOL INT8..INT64 UINT8..UINT64 FP32 FP64 BYTES. Values of FP32 travel as float64 in the server."""
    shape: tuple[int, ...] = ()
    meaning: str = ""
    """One sentence for the docs page."""
    classes: tuple[Scalar, ...] | None = None
    """Class names in the order of its columns, for the probabilities of one target of several."""
    content_type: str = ""
    """How V2 writes it when a request does not say."""


class Tensor(msgspec.Struct, frozen=True, omit_defaults=True):
    """An input or output as MLServer's metadata has it: -1 is the number of rows, or unknown."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    content_type: str = ""


class Signature(msgspec.Struct, frozen=True, omit_defaults=True):
    """Inputs, outputs and an example of a model.

    `fields` is None when the model does not say how many inputs it has; then any matrix of numbers is let through
    (layout "matrix") and the model's own refusal is a 400.
    """

    fields: tuple[Field, ...] | None
    outputs: tuple[Output, ...]
    """The first is what V2 answers when no output is asked for."""
    native_outputs: tuple[str, ...]
    """What the native protocol asks for: ("predict", "predict_proba") for a classifier that has probabilities."""
    layout: Layout = "matrix"
    """The word "matrix": all fields numeric, rows travel as a float64 matrix; "columns": by name."""
    named: bool = False
    """True when the names come from the model (or its example), False when they are x0, x1, …"""
    task: Task = "unknown"
    whole: bool = False
    """True: it takes whole V2 requests, and rows only where it has fields; it was never tried with an example."""
    classes: tuple[Scalar, ...] | None = None
    """Class names in the order of the columns of `predict_proba`."""
    extra_fields: Literal["ignore", "refuse"] = "ignore"
    """What happens to keys of a record that are no field; ignored keys never reach the model."""
    example: tuple[dict[str, Any], ...] = ()
    """Rows that the model answers, as records."""
    origin: str = ""
    """Where it was learned from, in words: "feature_names_in_ of Pipeline, example customers.csv"."""
    content_type: str = ""
    """How V2 reads its inputs together when a request does not say: "pd" takes columns by name."""
    told_inputs: tuple[Tensor, ...] = ()
    """What a custom runtime says of its inputs once it is loaded, where they are any tensors."""
    told_outputs: tuple[Tensor, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(field.name for field in self.fields or ())

    @property
    def width(self) -> int | None:
        return None if self.fields is None else len(self.fields)

    def output(self, name: str) -> Output | None:
        return next((output for output in self.outputs if output.name == name), None)


def answer_names(outputs: Iterable[str]) -> dict[str, str]:
    """Output → its key in an answer of the native protocol.

    "predict" is told as "predictions" and "predict_proba" as "probabilities"; an output that is called as one of these,
    or as one of ANSWER_KEYS, is told as "output_NAME", so that no key comes twice.
    """
    names = tuple(outputs)
    shown = {name: key for name, key in _SHOWN.items() if name in names}
    taken = {*ANSWER_KEYS, *shown.values()}
    for name in names:
        if name not in shown and name not in taken:
            shown[name] = name
    taken.update(shown.values())
    for name in names:
        key = name
        while name not in shown and key in taken:
            key = f"output_{key}"
        taken.add(shown.setdefault(name, key))
    return {name: shown[name] for name in names}
