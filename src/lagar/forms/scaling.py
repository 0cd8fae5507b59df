"""scikit-learn's numeric transformers as steps of a column program, each with the checks that it makes of its input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from lagar.forms.candidates import NotApplicable
from lagar.forms.flow import NEVER, Column, Flow, Matrix, Replaced, as_number, numbers
from lagar.runtimes.column_sources import AnySource, Lookup, Table
from lagar.runtimes.column_steps import (
    AnyStep,
    Apply,
    Binarize,
    Bins,
    Impute,
    Normalize,
    Polynomial,
    Power,
    Project,
    Quantile,
    Refuse,
    Scale,
    Select,
    ufunc,
)

_SCALERS = frozenset({"StandardScaler", "MinMaxScaler", "MaxAbsScaler", "RobustScaler"})
_SELECTORS = frozenset({
    "SelectKBest", "SelectPercentile", "SelectFpr", "SelectFdr", "SelectFwe", "GenericUnivariateSelect",
    "VarianceThreshold", "SelectFromModel", "RFE", "RFECV", "SequentialFeatureSelector",
})  # fmt: skip


def traits(step: Any) -> tuple[str, bool]:
    """What a transformer refuses ("none", "infinity", "all"), and whether it hands on NaN and infinity as such."""
    name = type(step).__name__
    if name in _SCALERS:
        return "infinity", not getattr(step, "clip", False)
    if name == "SimpleImputer":
        return ("infinity" if is_nan(step.missing_values) else "all"), False
    if name in ("PowerTransformer", "QuantileTransformer"):
        return "infinity", False
    if name in _SELECTORS:
        return ("none" if _allows_nan(step) else "all"), False
    if name in ("PCA", "TruncatedSVD", "Normalizer", "PolynomialFeatures"):
        return "all", True
    if name == "FunctionTransformer":
        return ("all" if step.validate else "none"), step.func is None
    return "all" if name in _STEPS else "none", False


def transform(step: Any, flow: Flow, refused_later: bool) -> Flow:
    """The flow behind a numeric transformer; raises NotApplicable for one that has no step."""
    name = type(step).__name__
    make = _STEPS.get(name)
    if make is None:
        raise NotApplicable(f"{name} has no column program")
    if name == "FunctionTransformer" and step.func is None and not step.validate:
        return flow
    refuses, carries = traits(step)
    steps: list[AnyStep] = []
    if refuses != "none" and not (refused_later and carries):
        steps.append(Refuse(nan=refuses == "all"))
    if name in _SELECTORS:
        picked = np.flatnonzero(step.get_support()).tolist()
        # What a selection leaves out is refused all the same.
        return _checked(flow, steps).take(picked)
    made, width, sparse = make(step, flow)
    return flow.stepped([*steps, *made], width, sparse=sparse)


def _checked(flow: Flow, steps: list[AnyStep]) -> Flow:
    if not steps or all(isinstance(piece, Matrix) and _is_finite(piece.source) for piece in flow.pieces):
        return flow
    return flow.stepped(steps, flow.width, sparse=flow.sparse)


def _is_finite(source: AnySource) -> bool:
    return type(source).__name__ == "Hot"


def is_nan(marker: Any) -> bool:
    """Whether an imputer's marker is NaN, or pandas' NA."""
    return type(marker).__name__ == "NAType" or (isinstance(marker, float) and marker != marker)


def _allows_nan(step: Any) -> bool:
    from lagar.runtimes.sklearn_signature import allows_missing

    return allows_missing(step)


# Imputers.


def impute(step: Any, flow: Flow, refused_later: bool) -> Flow:
    """Columns with their replacement, or a matrix behind a step where they are numbers already."""
    statistics: list[Any] = np.asarray(step.statistics_).tolist()
    kept = list(range(len(statistics)))
    if not step.keep_empty_features:
        kept = [index for index in kept if not _is_missing(statistics[index])]
    fills = [statistics[index] for index in kept]
    marker = None if is_nan(step.missing_values) else step.missing_values
    refuses = "infinity" if is_nan(step.missing_values) else "all"
    indicators: list[int] = [] if step.indicator_ is None else np.asarray(step.indicator_.features_).tolist()
    if step.missing_values is None:
        marker = NEVER
    columns = [piece for piece in flow.pieces if isinstance(piece, Column)]
    if len(columns) == len(flow.pieces) and not (indicators and all(column.is_number for column in columns)):
        # Objects are not looked at for infinity; numbers become objects beside a text.
        held = step.strategy in ("most_frequent", "constant") and (
            flow.sheet.objects or not all(column.is_number for column in columns)
        )
        how = "none" if refuses == "infinity" and (refused_later or held) else refuses
        found: list[Column | Matrix] = [
            Column(
                columns[index].field,
                columns[index].is_number,
                (*columns[index].replaced, Replaced(marker, fill, how)),  # type: ignore[arg-type]
            )
            for index, fill in zip(kept, fills, strict=True)
        ]
        found += [_indicator(columns[index], marker, flow) for index in indicators]
        return Flow(found, flow.sheet, sparse=flow.sparse)
    steps: list[AnyStep] = [] if refused_later and refuses == "infinity" else [Refuse(nan=refuses == "all")]
    sheet = flow.sheet
    steps.append(
        Impute(
            sheet.add(numbers(fills)),
            marker=None if marker is None else as_number(marker),
            keep=None if len(kept) == len(statistics) else sheet.add(np.array(kept, dtype=np.intp)),
            indicators=sheet.add(np.array(indicators, dtype=np.intp)) if indicators else None,
        )
    )
    return flow.stepped(steps, len(kept) + len(indicators), sparse=flow.sparse)


def _indicator(column: Column, marker: Any, flow: Flow) -> Matrix:
    """1 where a value of the caller is missing."""
    if column.field is None or column.replaced or marker is NEVER:
        raise NotApplicable("an imputer that indicates missing values stands behind another imputer")
    keys = [] if marker is None else [marker]
    table = Table(column.field, keys, [1] * len(keys), missing=1 if marker is None else 0, unknown=0)
    return Matrix(Lookup([table], [flow.sheet.add(np.array([[0.0], [1.0]]))]), 1)


def _is_missing(value: Any) -> bool:
    return isinstance(value, float) and value != value


# The other steps: each gives its steps, the width behind them, and whether that is sparse in scikit-learn.

Made = tuple[list[AnyStep], int, bool]


def _standard(step: Any, flow: Flow) -> Made:
    add = flow.sheet.add
    if flow.sparse:
        factors = add(1 / step.scale_) if step.scale_ is not None else None
        return [Scale(multiply=factors)], flow.width, True
    mean = add(step.mean_) if step.with_mean else None
    scale = add(step.scale_) if step.with_std else None
    return [Scale(subtract=mean, divide=scale)], flow.width, False


def _min_max(step: Any, flow: Flow) -> Made:
    clip = tuple(float(end) for end in step.feature_range) if step.clip else None
    add = flow.sheet.add
    return [Scale(multiply=add(step.scale_), add=add(step.min_), clip=clip)], flow.width, False  # type: ignore[arg-type]


def _max_abs(step: Any, flow: Flow) -> Made:
    clip = (-1.0, 1.0) if getattr(step, "clip", False) else None
    if flow.sparse:
        return [Scale(multiply=flow.sheet.add(1.0 / step.scale_), clip=clip)], flow.width, True
    return [Scale(divide=flow.sheet.add(step.scale_), clip=clip)], flow.width, False


def _robust(step: Any, flow: Flow) -> Made:
    if flow.sparse:
        factors = flow.sheet.add(1.0 / step.scale_) if step.with_scaling else None
        return [Scale(multiply=factors)], flow.width, True
    centre = flow.sheet.add(step.center_) if step.with_centering else None
    scale = flow.sheet.add(step.scale_) if step.with_scaling else None
    return [Scale(subtract=centre, divide=scale)], flow.width, False


def _normalizer(step: Any, flow: Flow) -> Made:
    return [Normalize(step.norm)], flow.width, flow.sparse


def _binarizer(step: Any, flow: Flow) -> Made:
    return [Binarize(float(step.threshold))], flow.width, flow.sparse


def _polynomial(step: Any, flow: Flow) -> Made:
    """A product is that of its factors but the lowest column, times that column: the order that scikit-learn has."""
    width = flow.width
    answers = [tuple(np.repeat(np.arange(width), powers).tolist()) for powers in step.powers_]
    numbered: dict[tuple[int, ...], int] = {(): 0, **{(column,): column + 1 for column in range(width)}}
    needed = {product[start:] for product in answers for start in range(len(product))}
    levels = []
    for degree in range(2, max((len(product) for product in needed), default=0) + 1):
        products = sorted(product for product in needed if len(product) == degree)
        earlier = np.array([numbered[product[1:]] for product in products], dtype=np.intp)
        columns = np.array([product[0] + 1 for product in products], dtype=np.intp)
        for product in products:
            numbered[product] = len(numbered)
        levels.append((flow.sheet.add(earlier), flow.sheet.add(columns)))
    keep = np.array([numbered[product] for product in answers], dtype=np.intp)
    return [Polynomial(width, levels, flow.sheet.add(keep))], len(answers), flow.sparse


def _bins(step: Any, flow: Flow) -> Made:
    edges = [flow.sheet.add(np.asarray(inner[1:-1], dtype=np.float64)) for inner in step.bin_edges_]
    one_hot = step.encode != "ordinal"
    width = sum(len(inner) - 1 for inner in step.bin_edges_) if one_hot else flow.width
    return [Bins(edges, one_hot)], width, step.encode == "onehot"


def _power(step: Any, flow: Flow) -> Made:
    steps: list[AnyStep] = [Power(flow.sheet.add(step.lambdas_), step.method == "box-cox")]
    if step.standardize:
        steps.append(Refuse(nan=False))  # its scaler refuses what the power made infinite
        steps += _standard(step._scaler, Flow([Matrix(flow.source(), flow.width)], flow.sheet))[0]
    return steps, flow.width, False


def _quantile(step: Any, flow: Flow) -> Made:
    if step.output_distribution != "uniform":
        raise NotApplicable("QuantileTransformer(output_distribution='normal') needs SciPy's normal distribution")
    return [Quantile(flow.sheet.add(step.quantiles_), flow.sheet.add(step.references_))], flow.width, flow.sparse


def _pca(step: Any, flow: Flow) -> Made:
    """As this version of scikit-learn has it: the mean is subtracted before the product or behind it."""
    add, components = flow.sheet.add, step.components_
    scale = None
    if step.whiten:
        spread = np.sqrt(step.explained_variance_)
        smallest = np.finfo(spread.dtype).eps
        scale = add(np.where(spread < smallest, smallest, spread))
    after = step.mean_.reshape(1, -1) @ components.T
    sample = np.random.default_rng(0).normal(size=(5, flow.width)) * 10.0
    wanted = step.transform(sample) * (1.0 if not step.whiten else flow.sheet.arrays[scale or 0])
    behind = np.array_equal(sample @ components.T - after, wanted)
    number = add(components)
    if behind or step.whiten:
        return [Project(number, subtract=add(after[0]), divide=scale)], len(components), False
    return [Project(number, before=add(step.mean_), divide=scale)], len(components), False


def _svd(step: Any, flow: Flow) -> Made:
    return [Project(flow.sheet.add(step.components_))], len(step.components_), False


def _function(step: Any, flow: Flow) -> Made:
    if step.func is None:
        return [], flow.width, flow.sparse
    name = getattr(step.func, "__name__", "")
    if ufunc(name) is not step.func or step.kw_args:
        raise NotApplicable(f"a FunctionTransformer holds {name or 'a function'}, which is code of its own")
    return [Apply(name)], flow.width, flow.sparse


def _selected(step: Any, flow: Flow) -> Made:
    columns = np.flatnonzero(step.get_support())
    return [Select(flow.sheet.add(columns))], len(columns), flow.sparse


_STEPS: dict[str, Callable[[Any, Flow], Made]] = {
    "StandardScaler": _standard,
    "MinMaxScaler": _min_max,
    "MaxAbsScaler": _max_abs,
    "RobustScaler": _robust,
    "Normalizer": _normalizer,
    "Binarizer": _binarizer,
    "PolynomialFeatures": _polynomial,
    "KBinsDiscretizer": _bins,
    "PowerTransformer": _power,
    "QuantileTransformer": _quantile,
    "PCA": _pca,
    "TruncatedSVD": _svd,
    "FunctionTransformer": _function,
    **dict.fromkeys(_SELECTORS, _selected),
}
