"""Encoders of categories as tables: what the fitted encoder itself answers for each category, an unknown one and null.

Asking the encoder instead of reading its attributes makes every option (drop, infrequent categories, encoded missing
values, the multi-class target encoder) the same case.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from lagar.forms.candidates import NotApplicable
from lagar.forms.flow import NEVER, Column, Flow, Matrix
from lagar.runtimes.column_sources import NOTHING, REFUSED, Entry, Hot, Lookup, Records, Table
from lagar.types import Array

ENCODERS = frozenset({"OneHotEncoder", "OrdinalEncoder", "TargetEncoder"})
_UNKNOWN_TEXT = "\x00 no category"


def encode(step: Any, flow: Flow) -> Flow:
    """Columns of 0 and 1, or numbers from a table."""
    name = type(step).__name__
    columns = flow.columns(name)
    categories = [np.asarray(values) for values in step.categories_]
    if len(categories) != len(columns):
        raise NotApplicable(f"{name} was fitted on {len(categories)} columns and gets {len(columns)}")
    answers = _answers(step, categories)
    unknowns = _unknowns(step, categories)
    sparse = name == "OneHotEncoder" and bool(step.sparse_output)
    if name == "OneHotEncoder":
        return Flow([_hot(columns, categories, answers, unknowns)], flow.sheet, sparse=sparse)
    tables, values = [], []
    for column, known, answer, unknown in zip(columns, categories, answers, unknowns, strict=True):
        rows = answer if unknown is None else np.concatenate([answer, unknown[None]])
        tables.append(_table(column, known, list(range(len(known))), REFUSED if unknown is None else len(known)))
        values.append(flow.sheet.add(rows.astype(np.float64)))
    return Flow([Matrix(Lookup(tables, values), sum(answer.shape[1] for answer in answers))], flow.sheet)


def _hot(columns: list[Column], categories: list[Array], answers: list[Array], unknowns: list[Array | None]) -> Matrix:
    tables, start = [], 0
    for column, known, answer, unknown in zip(columns, categories, answers, unknowns, strict=True):
        codes = [_place(row, start) for row in answer]
        tables.append(_table(column, known, codes, REFUSED if unknown is None else _place(unknown, start)))
        start += answer.shape[1]
    return Matrix(Hot(tables, start), start)


def _place(row: Array, start: int) -> int:
    ones = np.flatnonzero(row)
    if len(ones) > 1 or (len(ones) and row[ones[0]] != 1):
        raise NotApplicable("a one-hot encoder answers more than one 1 for a category")
    return int(ones[0]) + start if len(ones) else NOTHING


def _answers(step: Any, categories: list[Array]) -> list[Array]:
    """Per column what the encoder gives for each of its categories: (categories, columns of its answer)."""
    longest = max((len(values) for values in categories), default=0)
    padded = [np.concatenate([values, np.repeat(values[:1], longest - len(values))]) for values in categories]
    widths = _widths(step, categories)
    found = _asked(step, padded)
    if found.shape[1] != sum(widths):
        raise NotApplicable(f"the columns of a {type(step).__name__} could not be told apart")
    parts = np.split(found, np.cumsum(widths)[:-1], axis=1)
    return [part[: len(values)] for part, values in zip(parts, categories, strict=True)]


def _unknowns(step: Any, categories: list[Array]) -> list[Array | None]:
    """Per column what it gives for a value that is none of its categories; None: it refuses."""
    if type(step).__name__ != "TargetEncoder" and step.handle_unknown == "error":
        return [None] * len(categories)
    found = _asked(step, [_unknown(values) for values in categories])[0]
    return list(np.split(found, np.cumsum(_widths(step, categories))[:-1]))


def _unknown(values: Array) -> Array:
    if values.dtype.kind in "OUS" and any(isinstance(value, str) for value in values.tolist()):
        return np.array([_UNKNOWN_TEXT], dtype=object)
    numbers = [float(value) for value in values.tolist() if value is not None and value == value]
    return np.array([max(numbers, default=0.0) + 1.5], dtype=object if values.dtype.kind == "O" else np.float64)


def _asked(step: Any, columns: list[Array]) -> Array:
    import pandas as pd

    names = getattr(step, "feature_names_in_", range(len(columns)))
    frame = pd.concat([pd.Series(values, name=name) for name, values in zip(names, columns, strict=True)], axis=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = step.transform(frame)
        except (ValueError, TypeError) as error:
            raise NotApplicable(f"{type(step).__name__} refuses its own categories: {error}") from error
    return np.asarray(found.toarray() if hasattr(found, "toarray") else found, dtype=np.float64)


def _widths(step: Any, categories: list[Array]) -> list[int]:
    name = type(step).__name__
    if name == "OneHotEncoder":
        return [int(width) for width in step._n_features_outs]
    multi = name == "TargetEncoder" and step.target_type_ == "multiclass"
    return [len(step.classes_) if multi else 1] * len(categories)


def _table(column: Column, known: Array, codes: list[int], unknown: int) -> Table:
    """Value of the caller → code, through the imputers in front."""
    if column.field is None:
        raise NotApplicable("a column of the training data is used that is no field of the model")
    of_value: dict[Any, int] = {}
    missing = unknown
    for value, code in zip(known.tolist(), codes, strict=True):
        if isinstance(value, float) and value != value:
            missing = code
        elif value is not None:  # null comes as NaN
            of_value[value] = code
    keys: dict[Any, int] = dict(of_value)
    for_missing = missing
    for replaced in reversed(column.replaced):
        code = of_value.get(replaced.fill, unknown) if not _is_nan(replaced.fill) else missing
        if len(column.replaced) > 1:
            raise NotApplicable("several imputers stand in front of one encoder")
        if replaced.marker is None:
            for_missing = code
        else:
            if replaced.marker is not NEVER:
                keys[replaced.marker] = code
            for_missing = REFUSED if replaced.refuses == "all" else for_missing
    return Table(
        column.field,
        list(keys),
        list(keys.values()),
        missing=for_missing,
        unknown=unknown,
        refuses_infinity=known.dtype.kind in "biuf",
    )


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and value != value


def records(step: Any, flow: Flow) -> Flow:
    """A DictVectorizer's vocabulary."""
    if step.dtype not in (float, np.float64):
        raise NotApplicable(f"a DictVectorizer makes {np.dtype(step.dtype)}")
    texts: dict[str, dict[str, int]] = {}
    for feature, index in step.vocabulary_.items():
        name, found, value = feature.partition(step.separator)
        if found:
            texts.setdefault(name, {})[value] = int(index)
    entries = [
        Entry(field, int(step.vocabulary_.get(name, NOTHING)), texts.get(name, {}))
        for field, name in enumerate(flow.sheet.signature.names)
    ]
    width = len(step.vocabulary_)
    return Flow([Matrix(Records(entries, width), width)], flow.sheet, sparse=bool(step.sparse))
