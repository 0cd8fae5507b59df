"""The column program of a pipeline: its transformers as sources and steps that NumPy runs, its estimator as an end.

The walk follows the fitted transformers from the input. Columns stay what they are until something makes numbers of
them, so that an imputer in front of an encoder becomes part of the encoder's table.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from lagar.forms import encoders, linear, scaling
from lagar.forms.candidates import Candidate, Criterion, NotApplicable
from lagar.forms.flow import Column, Flow, Sheet
from lagar.forms.original import Original
from lagar.registry.signature import Signature
from lagar.runtimes.arrays import ARRAYS, save
from lagar.runtimes.column_ends import AnyEnd
from lagar.runtimes.column_sources import AnySource
from lagar.runtimes.column_steps import Scale
from lagar.runtimes.form import DOCUMENT
from lagar.runtimes.form_columns import Program


def criterion(original: Original) -> Criterion:
    """1e-12 for probabilities out of columns, 1e-9 out of a matrix; relative to the value for everything else."""
    absolute = 1e-12 if original.signature.layout == "columns" else 1e-9
    return Criterion(absolute=absolute, relative=0.0 if original.signature.task == "classifier" else 1e-9)


def build(original: Original, folder: Path) -> None:
    """Write the column program; raises NotApplicable with the part that has none."""
    if not original.steps or original.signature.fields is None:
        raise NotApplicable("it is no scikit-learn estimator with known inputs")
    *transformers, final = original.steps
    flow = start(original.signature, original.steps[0])
    if linear.is_transformer(final):
        sources, end = linear.transformed(walk([*transformers, final], flow, refused_later=False))
    else:
        linear.check(final)
        sources, end = linear.end_of(final, walk(transformers, flow, refused_later=True))
    write(folder, sources, end, flow.sheet)


def write(folder: Path, sources: list[AnySource], end: AnyEnd, sheet: Sheet) -> None:
    """The program and its arrays."""
    program = Program(sources=sources, end=end, arrays=len(sheet.arrays))
    (folder / DOCUMENT).write_bytes(msgspec.json.encode(program))
    save(folder / ARRAYS, sheet.arrays)


def start(signature: Signature, first: Any) -> Flow:
    """The caller's fields as the columns that the first step was fitted on."""
    names = getattr(first, "feature_names_in_", None)
    sheet = Sheet(signature, objects=names is None and signature.layout == "columns")
    fields = {name: index for index, name in enumerate(signature.names)}
    numeric = [field.type in ("float", "int", "bool") for field in signature.fields or ()]
    wanted: list[int | None] = list(range(len(fields)))
    if names is not None and signature.layout == "columns":
        wanted = [fields.get(str(name)) for name in names]
    return Flow([Column(index, index is not None and numeric[index]) for index in wanted], sheet)


def walk(steps: Sequence[Any], flow: Flow, *, refused_later: bool) -> Flow:
    """The flow behind all steps; `refused_later`: what comes after them refuses NaN and infinity."""
    refused = [refused_later] * len(steps)
    for index in range(len(steps) - 1, 0, -1):
        refuses, carries = traits(steps[index])
        refused[index - 1] = refuses == "all" or (carries and refused[index])
    for step, later in zip(steps, refused, strict=True):
        flow = one_step(step, flow, later)
    return flow


def traits(step: Any) -> tuple[str, bool]:
    """What a step refuses ("all": NaN and infinity), and whether it hands on every value of the kind."""
    if type(step).__name__ == "Pipeline":
        return traits(step.steps[0][1])
    if type(step).__name__ in ("ColumnTransformer", "FeatureUnion") or isinstance(step, str):
        return "none", False
    return scaling.traits(step)


def one_step(step: Any, flow: Flow, refused_later: bool) -> Flow:
    """The flow behind one transformer; raises NotApplicable."""
    name = type(step).__name__
    if step is None or (isinstance(step, str) and step == "passthrough"):
        return flow
    if type(step).__module__.partition(".")[0] != "sklearn":
        raise NotApplicable(f"{name} is not one of scikit-learn's own transformers")
    if name == "Pipeline":
        return walk([inner for _, inner in step.steps], flow, refused_later=refused_later)
    if name == "ColumnTransformer":
        return _column_transformer(step, flow, refused_later)
    if name == "FeatureUnion":
        return _feature_union(step, flow, refused_later)
    if name in encoders.ENCODERS:
        return encoders.encode(step, flow)
    if name == "DictVectorizer":
        return encoders.records(step, flow)
    if name == "SimpleImputer":
        return scaling.impute(step, flow, refused_later)
    return scaling.transform(step, flow, refused_later)


def _column_transformer(step: Any, flow: Flow, refused_later: bool) -> Flow:
    weights = step.transformer_weights or {}
    parts: list[Flow] = []
    for name, inner, _ in step.transformers_:
        columns = step._transformer_to_input_indices.get(name)
        if isinstance(inner, str) and inner == "drop":
            continue
        if columns is None:
            raise NotApplicable(f"the columns of {name!r} in the ColumnTransformer are not known")
        if len(columns):
            part = one_step(inner, flow.take([int(column) for column in columns]), refused_later)
            parts.append(_weighted(part, weights.get(name)))
    return flow.joined(parts, sparse=bool(step.sparse_output_))


def _feature_union(step: Any, flow: Flow, refused_later: bool) -> Flow:
    weights = step.transformer_weights or {}
    parts = [
        _weighted(one_step(inner, flow, refused_later), weights.get(name))
        for name, inner in step.transformer_list
        if not (isinstance(inner, str) and inner == "drop")
    ]
    return flow.joined(parts, sparse=any(part.sparse for part in parts))


def _weighted(part: Flow, weight: float | None) -> Flow:
    if weight is None:
        return part
    factors = part.sheet.add(np.full(part.width, float(weight)))
    return part.stepped([Scale(multiply=factors)], part.width, sparse=part.sparse)


CANDIDATES = (Candidate("columns", build, criterion),)
