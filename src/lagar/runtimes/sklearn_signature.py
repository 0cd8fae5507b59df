"""What scikit-learn estimators say of their inputs: names, types, categories, missing values, typical numbers.

The steps are followed from the input while the columns stay what they were: scalers and imputers hand columns on,
encoders and estimators end the walk. What a step of the user's own does is not known and not enforced.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import msgspec
import numpy as np

from lagar.errors import LoadFailed, UnsupportedModel
from lagar.registry.signature import Field, Layout, Scalar
from lagar.runtimes import vocabulary
from lagar.runtimes.base import scalars, unnamed
from lagar.runtimes.examples import typical

Form = Literal["matrix", "frame", "object", "text", "records"]
_TEXT = frozenset({"CountVectorizer", "TfidfVectorizer", "HashingVectorizer"})
_SCALERS = frozenset({
    "StandardScaler", "MinMaxScaler", "MaxAbsScaler", "RobustScaler", "QuantileTransformer", "PowerTransformer",
})  # fmt: skip
_IMPUTERS = frozenset({"SimpleImputer", "KNNImputer", "IterativeImputer"})
_ENCODERS = frozenset({"OneHotEncoder", "OrdinalEncoder", "TargetEncoder"})
_LIBRARIES = frozenset({"sklearn", "xgboost", "lightgbm", "catboost", "imblearn"})


class Learned(msgspec.Struct):
    """The input side of a chain of estimators."""

    fields: list[Field] | None
    layout: Layout
    form: Form
    named: bool
    by_name: bool
    """True when the estimators must go on seeing names (a DataFrame goes in)."""
    origin: str
    frame_categories: dict[int, list[Any]] = {}


class _Column(msgspec.Struct):
    """What is known of one input column so far."""

    kind: Literal["float", "int", "bool", "string", "unknown"] | None = None
    categories: tuple[Scalar, ...] | None = None
    allows_unknown: bool = False
    nullable: bool | None = None
    typical: float | str | None = None
    used: bool | None = None
    """False when every transformer that saw it dropped it: nobody has to send it."""


class _Walk:
    """The columns, and which of them still flow on unchanged."""

    def __init__(self, width: int, names: list[str] | None) -> None:
        self.columns = [_Column() for _ in range(width)]
        self.names = names
        self.needs_names = False
        self.has_columns_by_position = False

    def follow(self, steps: list[Any], flow: list[int]) -> None:
        """Steps over the columns `flow`, in their order at the first step."""
        aligned = True
        for step in steps:
            if not flow:
                return
            flow, aligned = self._step(step, flow, aligned)

    def _step(self, step: Any, flow: list[int], aligned: bool) -> tuple[list[int], bool]:
        name = type(step).__name__
        if name == "Pipeline":
            self.follow([inner for _, inner in step.steps if inner is not None and inner != "passthrough"], flow)
            return [], False
        if name == "ColumnTransformer":
            return self._column_transformer(step, flow), False
        if name == "FeatureUnion":
            for _, inner in step.transformer_list:
                if not isinstance(inner, str):
                    self.follow([inner], flow)
                    self._use(flow if type(inner).__name__ != "ColumnTransformer" else [])
            return [], False
        if name in _ENCODERS and aligned:
            self._encoder(step, flow)
            return [], False
        if name in _IMPUTERS:
            return self._imputer(step, flow, aligned)
        if name in _TEXT:
            for index in flow:
                self._set(index, kind="string", nullable=False)
            return [], False
        if name in _SCALERS:
            self._numbers(step, flow)
            self._typical(step, flow, aligned)
            return flow, aligned
        if name == "FunctionTransformer":
            return self._function(step, flow)
        return self._leaf(step, flow, aligned)

    def _set(self, index: int, **values: Any) -> None:
        """What is said first wins: a column may go to several transformers."""
        column = self.columns[index]
        for key, value in values.items():
            if getattr(column, key) is None or (key == "allows_unknown" and value):
                setattr(column, key, value)

    def _numbers(self, step: Any, flow: list[int], final: bool = False) -> None:
        allowed = allows_missing(step)
        for index in flow:
            self._set(index, kind="float")
            if not allowed:
                self._set(index, nullable=False)
            elif final and met_missing(step):
                self._set(index, nullable=True)

    def _typical(self, step: Any, flow: list[int], aligned: bool) -> None:
        if not aligned:
            return
        centres = next(
            (found for name in ("mean_", "center_", "statistics_") if (found := getattr(step, name, None)) is not None),
            None,
        )
        if centres is None and getattr(step, "data_min_", None) is not None:
            centres = (step.data_min_ + step.data_max_) / 2
        if centres is None and getattr(step, "quantiles_", None) is not None:
            centres = step.quantiles_[len(step.quantiles_) // 2]
        if centres is None or len(centres) != len(flow):
            return
        for index, centre in zip(flow, centres, strict=True):
            if isinstance(centre, (float, int, np.floating, np.integer)):
                self._set(index, typical=typical(float(centre)))

    def _imputer(self, step: Any, flow: list[int], aligned: bool) -> tuple[list[int], bool]:
        for index in flow:
            self._set(index, nullable=True)
        self._typical(step, flow, aligned)
        statistics = getattr(step, "statistics_", None)
        if aligned and statistics is not None and len(statistics) == len(flow):
            for index, value in zip(flow, statistics, strict=True):
                if isinstance(value, (float, int, np.number)) and getattr(step, "strategy", "") in {"mean", "median"}:
                    self._set(index, kind="float")
                elif isinstance(value, str):  # the column was of objects: an example at least must not be a number
                    self._set(index, typical=value)
        same = aligned and not getattr(step, "add_indicator", False) and _width(step) == len(flow)
        return flow, same

    def _encoder(self, step: Any, flow: list[int]) -> None:
        categories = getattr(step, "categories_", None)
        if categories is None or len(categories) != len(flow):
            return
        allows = getattr(step, "handle_unknown", "error") in {
            "ignore", "infrequent_if_exist", "warn", "use_encoded_value",
        } or type(step).__name__ == "TargetEncoder"  # fmt: skip
        for index, values in zip(flow, categories, strict=True):
            known = scalars(values)
            present = tuple(value for value in known if not _is_missing(value))
            nullable = True if len(present) < len(known) else False if self.columns[index].nullable is None else None
            kind = _kind_of(present)
            self._set(index, kind=kind, categories=_as_kind(present, kind), allows_unknown=allows, nullable=nullable)

    def _function(self, step: Any, flow: list[int]) -> tuple[list[int], bool]:
        function = getattr(step, "func", None)
        if function is None or isinstance(function, np.ufunc):
            if isinstance(function, np.ufunc):
                for index in flow:
                    self._set(index, kind="float")
            return flow, True
        self.needs_names = self.needs_names or self.names is not None
        return [], False

    def _column_transformer(self, step: Any, flow: list[int]) -> list[int]:
        """Its transformers over their columns; the columns that come out as numbers still flow on."""
        if len(flow) != len(self.columns):
            return []
        onward: list[int] = []
        used: set[int] = set()
        for _, inner, spec in step.transformers_:
            columns, by_name = _resolve(spec, self.names, len(self.columns))
            self.needs_names = self.needs_names or by_name
            self.has_columns_by_position = self.has_columns_by_position or not by_name
            if isinstance(inner, str) and inner == "drop":
                continue
            used.update(columns)
            if _is_passthrough(inner):
                onward.extend(columns)
            elif columns:
                before = [self.columns[index].nullable for index in columns]
                self.follow([inner], list(columns))
                onward.extend(
                    index
                    for index, was in zip(columns, before, strict=True)
                    if was is None and self.columns[index].nullable is None and self.columns[index].kind == "float"
                )
        self._use(used)
        for column in self.columns:
            column.used = bool(column.used)
        return onward

    def _use(self, indices: Iterable[int]) -> None:
        for index in indices:
            self.columns[index].used = True

    def _leaf(self, step: Any, flow: list[int], aligned: bool) -> tuple[list[int], bool]:
        """An estimator that takes numbers, a meta-estimator around others, or code that is not ours to know."""
        if type(step).__module__.partition(".")[0] not in _LIBRARIES:
            self.needs_names = self.needs_names or self.names is not None
            return [], False
        inner = inner_estimators(step)
        if inner:
            for estimator in inner:
                self.follow([estimator], flow)
            return [], False
        self._use(flow)
        if (
            type(step).__name__.startswith("HistGradientBoosting")
            and getattr(step, "is_categorical_", None) is not None
        ):
            self._categorical_hist(step, flow, aligned)
        self._numbers(step, flow, final=True)
        if aligned:
            self._typical_of_trees(step, flow)
        return [], False

    def _categorical_hist(self, step: Any, flow: list[int], aligned: bool) -> None:
        """Its own preprocessor encodes the categorical columns, in their order."""
        preprocessor = getattr(step, "_preprocessor", None)
        encoder = None if preprocessor is None else preprocessor.named_transformers_.get("encoder")
        flags = step.is_categorical_
        marked = [index for index, _ in zip(flow, flags, strict=True)] if aligned and len(flags) == len(flow) else []
        if encoder is None or not marked:
            return
        # is_categorical_ is in the order after preprocessing, where categories come first: the original mask is asked.
        mask = getattr(step, "_is_categorical_remapped", None)
        original = _original_categorical(preprocessor, len(flow), self.names)
        categorical = (
            original
            if original is not None
            else [index for index, flag in zip(flow, mask or flags, strict=True) if flag]
        )
        for index, values in zip(categorical, encoder.categories_, strict=True):
            present = tuple(value for value in scalars(values) if not _is_missing(value))
            kind = _kind_of(present)
            self._set(flow[index], kind=kind, categories=_as_kind(present, kind), nullable=True)
            self.needs_names = self.needs_names or (kind == "string" and self.names is not None)

    def _typical_of_trees(self, step: Any, flow: list[int]) -> None:
        trees = [getattr(tree, "tree_", None) for tree in np.ravel(getattr(step, "estimators_", [step]))[:20]]
        seen: dict[int, list[float]] = {}
        for tree in trees:
            if tree is not None and hasattr(tree, "feature"):
                for feature, threshold in zip(tree.feature, tree.threshold, strict=True):
                    if feature >= 0:
                        seen.setdefault(int(feature), []).append(float(threshold))
        for feature, thresholds in seen.items():
            if feature < len(flow):
                self._set(flow[feature], typical=typical(float(np.median(thresholds))))
        means = getattr(step, "theta_", getattr(step, "cluster_centers_", getattr(step, "means_", None)))
        if means is not None and np.ndim(means) == 2 and np.shape(means)[1] == len(flow):
            for index, value in zip(flow, np.mean(means, axis=0), strict=True):
                self._set(index, typical=typical(float(value)))


def learn(steps: list[Any]) -> Learned:
    """The input side of transformers and a last step, in their order."""
    first = steps[0]
    kind = type(first).__name__
    if kind == "DictVectorizer":
        return Learned(
            vocabulary.fields_of(first),
            "columns",
            "records",
            named=True,
            by_name=False,
            origin="DictVectorizer vocabulary",
        )
    if kind in {"FeatureHasher"}:
        raise UnsupportedModel("FeatureHasher keeps no field names; serve it from a class with [fields] in lagar.toml")
    if kind in _TEXT or (kind == "FeatureUnion" and all(type(t).__name__ in _TEXT for _, t in first.transformer_list)):
        words = _words(first if kind in _TEXT else first.transformer_list[0][1])
        text = Field("text", type="string", nullable=False, example=words)
        return Learned([text], "columns", "text", named=False, by_name=False, origin=f"{kind} takes text")
    names = _names(steps)
    if names is None and _input_width(steps) is None:
        vectorizer = next((step for step in steps if type(step).__name__ in _TEXT), None)
        if vectorizer is not None:  # the user's own cleaning of texts comes first
            text = Field("text", type="string", nullable=False, example=_words(vectorizer))
            return Learned([text], "columns", "text", named=False, by_name=False, origin="a pipeline of texts")
    width = len(names) if names is not None else _input_width(steps)
    if width is None:
        return Learned(None, "matrix", "matrix", named=False, by_name=False, origin="")
    walk = _Walk(width, names)
    walk.follow(steps, list(range(width)))
    return _learned(walk, steps, names)


def _learned(walk: _Walk, steps: list[Any], names: list[str] | None) -> Learned:
    width = len(walk.columns)
    labels = names if names is not None else unnamed(width)
    fields = [
        _field(label, column) for label, column in zip(labels, walk.columns, strict=True) if column.used is not False
    ]
    numeric = all(field.type in {"float", "int", "bool"} for field in fields)
    outputs_frames = any(
        getattr(step, "_sklearn_output_config", {}).get("transform") in {"pandas", "polars"} for step in steps
    )
    by_name = names is not None and (walk.needs_names or outputs_frames or not numeric)
    if not by_name and len(fields) < width:  # a matrix has every column, also those that are dropped
        fields = [_field(label, column) for label, column in zip(labels, walk.columns, strict=True)]
        if numeric:
            fields = [msgspec.structs.replace(f, type="float") if f.type == "unknown" else f for f in fields]
    categories = _frame_categories(steps[0], fields) if by_name else {}
    if by_name:
        form: Form = "frame"
    else:
        form = "matrix" if numeric and not fitted_on_objects(steps[0]) else "object"
    origin = (
        f"feature_names_in_ of {type(steps[0]).__name__}"
        if names is not None
        else f"{type(steps[0]).__name__} takes {width} columns"
    )
    return Learned(
        fields,
        "matrix" if numeric else "columns",
        form,
        named=names is not None,
        by_name=by_name,
        origin=origin,
        frame_categories=categories,
    )


def _field(name: str, column: _Column) -> Field:
    kind = column.kind or "unknown"
    return Field(
        name=name,
        type=kind,
        categories=column.categories,
        unknown="allow" if column.allows_unknown else "refuse",
        nullable=column.nullable,
        example=column.typical if column.categories is None else None,
    )


def _names(steps: list[Any]) -> list[str] | None:
    """Names of the first step that has them; later steps see what transformers made."""
    for step in steps[:1]:
        for candidate in (step, *inner_estimators(step)):
            names = getattr(candidate, "feature_names_in_", None)
            if names is not None:
                return [str(name) for name in names]
    return None


def _input_width(steps: list[Any]) -> int | None:
    for candidate in (steps[0], *inner_estimators(steps[0])):
        width = getattr(candidate, "n_features_in_", None)
        if isinstance(width, (int, np.integer)):
            return int(width)
    if type(steps[0]).__name__ == "FunctionTransformer" and len(steps) > 1 and steps[0].func is None:
        return _input_width(steps[1:])
    return None


def _width(step: Any) -> int | None:
    statistics = getattr(step, "statistics_", None)
    return len(statistics) if statistics is not None else getattr(step, "n_features_in_", None)


def inner_estimators(step: Any) -> list[Any]:
    """The fitted estimators inside a meta-estimator that see the same columns; forests and boosting count as one."""
    module = type(step).__module__
    if module.startswith(("sklearn.ensemble._forest", "sklearn.ensemble._gb", "sklearn.ensemble._iforest")):
        return []
    if not module.startswith(("sklearn", "imblearn")):
        return []
    if getattr(step, "calibrated_classifiers_", None):
        return [step.calibrated_classifiers_[0].estimator]
    for name in ("best_estimator_", "estimator_", "regressor_"):
        inner = getattr(step, name, None)
        if inner is not None and (hasattr(inner, "predict") or hasattr(inner, "transform")):
            return [inner]
    estimators = getattr(step, "estimators_", None)
    if isinstance(estimators, list) and estimators and all(hasattr(item, "predict") for item in estimators):
        if hasattr(step, "estimators_features_") or (
            module.startswith("sklearn.multioutput") and "Chain" in type(step).__name__
        ):
            return []
        return list(estimators)[:3]
    return []


def allows_missing(step: Any) -> bool:
    """Whether an estimator takes NaN, as its own tags say."""
    try:
        from sklearn.utils import get_tags

        return bool(get_tags(step).input_tags.allow_nan)
    except (ImportError, AttributeError, TypeError, ValueError):
        more = getattr(step, "_more_tags", None)
        return bool(more().get("allow_nan", False)) if callable(more) else False


def met_missing(step: Any) -> bool:
    """Whether an estimator that takes NaN was also fitted on some, as far as it can be known.

    scikit-learn's trees take NaN even when they have never seen one; a split that saw none sends it to the larger
    child. One split that does otherwise shows that there were some. Other estimators are taken at their word.
    """
    trees = [step] if hasattr(step, "tree_") else [tree for tree in _inner_trees(step) if hasattr(tree, "tree_")]
    if not trees:
        return True
    for tree in (item.tree_ for item in trees):
        splits = np.flatnonzero(tree.children_left >= 0)
        sizes = tree.n_node_samples
        larger = sizes[tree.children_left[splits]] > sizes[tree.children_right[splits]]
        if np.any(tree.missing_go_to_left[splits].astype(bool) != larger):
            return True
    return False


def _inner_trees(step: Any) -> list[Any]:
    return list(getattr(step, "estimators_", None) or []) if "_hist_" not in type(step).__module__ else []


def _resolve(spec: Any, names: list[str] | None, width: int) -> tuple[list[int], bool]:
    """A column specification of a fitted ColumnTransformer as positions, and whether it was by name."""
    if isinstance(spec, str):
        spec = [spec]
    if isinstance(spec, (int, np.integer)):
        spec = [spec]
    if isinstance(spec, slice):
        if isinstance(spec.start, str) or isinstance(spec.stop, str):
            assert names is not None
            start = names.index(spec.start) if spec.start is not None else 0
            stop = names.index(spec.stop) + 1 if spec.stop is not None else width
            return list(range(start, stop)), True
        return list(range(width))[spec], False
    items: list[Any] = spec if isinstance(spec, list) else np.asarray(spec, dtype=object).ravel().tolist()
    if items and all(isinstance(item, (bool, np.bool_)) for item in items):
        return [index for index, flag in enumerate(items) if flag], False
    if items and all(isinstance(item, str) for item in items):
        if names is None:
            raise LoadFailed(
                "the ColumnTransformer names its columns and keeps no feature_names_in_; fit it on a DataFrame"
            )
        return [names.index(item) for item in items], True
    return [int(item) % width for item in items], False


def _is_passthrough(inner: Any) -> bool:
    """ "passthrough" is a FunctionTransformer without a function once fitted."""
    return isinstance(inner, str) or (type(inner).__name__ == "FunctionTransformer" and inner.func is None)


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and value != value)


def _kind_of(values: tuple[Scalar, ...]) -> Literal["float", "int", "bool", "string", "unknown"]:
    if values and all(isinstance(value, str) for value in values):
        return "string"
    if values and all(isinstance(value, bool) for value in values):
        return "bool"
    numbers = [value for value in values if isinstance(value, (int, float)) and not isinstance(value, bool)]
    if values and len(numbers) == len(values):
        return "int" if all(float(value).is_integer() for value in numbers) else "float"
    return "unknown"


def _as_kind(values: tuple[Scalar, ...], kind: str) -> tuple[Scalar, ...]:
    """Categories of an int field as ints: encoders keep 0.0 and 1.0 where a column once had NaN."""
    return tuple(int(value) for value in values if isinstance(value, (int, float))) if kind == "int" else values


def fitted_on_objects(step: Any) -> bool:
    """An encoder over an array of numbers keeps their dtype; one over objects wants objects again."""
    categories = getattr(step, "categories_", None) or ()
    return any(np.asarray(values).dtype == object for values in categories)


def _frame_categories(step: Any, fields: list[Field]) -> dict[int, list[Any]]:
    """Columns that were of pandas' `category` dtype: HistGradientBoosting(categorical_features="from_dtype") asks."""
    for candidate in (step, *inner_estimators(step)):
        if getattr(candidate, "categorical_features", None) == "from_dtype":
            return {index: list(field.categories) for index, field in enumerate(fields) if field.categories}
    return {}


def _original_categorical(preprocessor: Any, width: int, names: list[str] | None) -> list[int] | None:
    for name, _, spec in preprocessor.transformers_:
        if name == "encoder":
            return _resolve(spec, names, width)[0]
    return None


def _words(vectorizer: Any) -> str:
    """A text made of words that the model knows."""
    words = [word for word in getattr(vectorizer, "vocabulary_", {}) if word.isalpha() and len(word) > 3]
    return " ".join(sorted(words)[: 3 * max(len(words) // 3, 1) : max(len(words) // 3, 1)][:3]) or "some text"
