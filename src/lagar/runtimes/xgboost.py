"""XGBoost: boosters from files, wrappers from pickles; the objective in the file says what the model is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lagar.errors import LoadFailed, UnsupportedModel
from lagar.registry.model import ModelSource
from lagar.registry.signature import Field, FieldType, Scalar, Task
from lagar.runtimes.base import (
    Chain,
    CodesInput,
    Draft,
    Head,
    Input,
    MatrixInput,
    Opened,
    one_per_row,
    plain,
    scalars,
    unnamed,
)
from lagar.types import Array, Outputs

_TYPES: dict[str, FieldType] = {"int": "int", "i": "bool", "float": "float", "q": "float", "c": "int"}


def open_source(source: ModelSource, threads: int) -> Opened:
    """A booster saved by save_model."""
    import xgboost

    booster = xgboost.Booster()
    try:
        booster.load_model(Path(source.path))
    except xgboost.core.XGBoostError as error:
        reason = next(
            (line for line in str(error).splitlines() if "Check failed" in line or "rror" in line), str(error)
        )
        raise LoadFailed(
            f"{source.path}: XGBoost {xgboost.__version__} does not read it: {reason.strip()[:300]}"
        ) from error
    return of_object(booster, threads)


def of_object(model: Any, threads: int) -> Opened:
    """A Booster or a scikit-learn wrapper of one."""
    import xgboost

    head = head_of(model, threads)
    booster = head.booster
    fields, categories = fields_of(booster)
    take: Input = CodesInput(categories) if categories else MatrixInput()
    draft = Draft(
        fields=fields,
        layout="columns" if categories else "matrix",
        named=booster.feature_names is not None,
        task=head.task,
        outputs=head.names,
        native=head.native,
        classes=head.classes,
        meanings=head.meanings,
        origin="feature names and types of the booster" if booster.feature_names else "width of the booster",
    )
    return Opened(Chain(take, [], head), draft, {"xgboost": xgboost.__version__}, model=model)


def head_of(model: Any, threads: int) -> XgboostHead:
    """The head of a Booster or wrapper; UnsupportedModel for other objects of the library."""
    import xgboost

    if isinstance(model, xgboost.Booster):
        return XgboostHead(model, threads, wrapper=None)
    if isinstance(model, xgboost.XGBModel):
        return XgboostHead(model.get_booster(), threads, wrapper=model)
    raise UnsupportedModel(
        f"{type(model).__name__} of xgboost is no model; serve a Booster or XGBClassifier, XGBRegressor"
    )


class XgboostHead(Head):
    """Labels and probabilities in one pass, as XGBClassifier computes them from the booster's values."""

    single = True

    def __init__(self, booster: Any, threads: int, wrapper: Any) -> None:
        self.booster = booster
        booster.set_param({"nthread": threads})
        learner = json.loads(booster.save_config())["learner"]
        objective: str = learner["objective"]["name"]
        self.is_bare = wrapper is None and booster.attr("scikit_learn") is None
        """True: saved without its scikit-learn wrapper."""
        self.has_trees = learner["gradient_booster"]["name"] != "gblinear"
        self.missing = np.nan if wrapper is None else wrapper.missing
        self.iterations = _iteration_range(booster, wrapper)
        count = int(learner["learner_model_param"].get("num_class", "0"))
        targets = int(learner["learner_model_param"].get("num_target", "1"))
        self._binary = objective in {"binary:logistic", "binary:logitraw", "binary:hinge"}
        self._hinge = objective == "binary:hinge"
        self.answers_labels = objective == "multi:softmax"
        self.answers_each_class = objective in {"multi:softmax", "multi:softprob"}
        if objective == "multi:softmax":  # gives labels only; the same trees give probabilities
            booster.set_param({"objective": "multi:softprob"})
        is_classifier = self._binary or objective.startswith("multi:")
        self.is_multi_label = is_classifier and self._binary and targets > 1
        self.meanings = {"predict": "the predicted value"}
        self.classes: tuple[Scalar, ...] | None = None
        self.labels: Array | None = None
        if is_classifier:
            own = getattr(wrapper, "classes_", None)
            self.labels = np.asarray(own) if own is not None else np.arange(max(count, 2))
            self.classes = None if self.is_multi_label else scalars(self.labels)
            self.meanings = {"predict": "the predicted class", "predict_proba": "the probability of each class"}
        self.task: Task = "classifier" if is_classifier else "regressor"
        # A raw margin or a hinge is no probability.
        has_proba = is_classifier and objective not in {"binary:logitraw", "binary:hinge"}
        self.border = 0.0 if objective == "binary:logitraw" and self.is_bare else 0.5  # XGBClassifier knows no other
        self.names: tuple[str, ...] = ("predict", "predict_proba") if has_proba else ("predict",)
        self.native = self.names

    def outputs(self, x: Any, names: tuple[str, ...]) -> Outputs:
        values = self.raw(x)
        if self.task == "regressor":
            return {"predict": one_per_row(values)}
        found: Outputs = {}
        if "predict" in names:
            found["predict"] = self._labels(values)
        if "predict_proba" in names:
            if values.ndim == 1:
                values = np.vstack((1.0 - values, values)).transpose()
            found["predict_proba"] = np.ascontiguousarray(plain(values))
        return found

    def _labels(self, values: Array) -> Array:
        assert self.labels is not None
        if self.is_multi_label:
            return (values > self.border).astype(np.int64)
        index = np.argmax(values, axis=1) if values.ndim == 2 else (values > self.border).astype(np.int64)
        return plain(self.labels.take(index, axis=0))

    def raw(self, x: Any) -> Array:
        """What the booster itself answers; classes as probabilities."""
        if self.has_trees:
            return self.booster.inplace_predict(  # type: ignore[no-any-return]
                x, iteration_range=self.iterations, missing=self.missing, validate_features=False
            )
        import xgboost

        data = xgboost.DMatrix(x, missing=self.missing, feature_names=None)
        return self.booster.predict(data, validate_features=False)  # type: ignore[no-any-return]


def _iteration_range(booster: Any, wrapper: Any) -> tuple[int, int]:
    """Trees up to the best iteration for models of the scikit-learn wrapper, as it does; all trees for others."""
    from_wrapper = wrapper is not None or booster.attr("scikit_learn") is not None
    best = booster.attr("best_iteration")
    return (0, int(best) + 1) if from_wrapper and best is not None else (0, 0)


def fields_of(booster: Any) -> tuple[list[Field], dict[int, Sequence[Any]]]:
    width = booster.num_features()
    names = booster.feature_names or unnamed(width)
    types = booster.feature_types or ["float"] * width
    known = _categories(booster, width) if "c" in types else {}
    fields: list[Field] = []
    for index, (name, kind) in enumerate(zip(names, types, strict=True)):
        categories = known.get(index)
        if categories:
            text: FieldType = "string" if all(isinstance(value, str) for value in categories) else "unknown"
            if all(isinstance(value, int) and not isinstance(value, bool) for value in categories):
                text = "int"
            fields.append(Field(name, type=text, categories=tuple(categories), nullable=True))
        else:
            fields.append(Field(name, type=_TYPES.get(kind, "float"), nullable=True))
    return fields, known


def _categories(booster: Any, width: int) -> dict[int, Sequence[Any]]:
    """Category values that XGBoost 3.1 and later keep in the model; none for older files (codes are sent then)."""
    get = getattr(booster, "get_categories", None)
    if get is None:
        return {}
    try:
        found = get(export_to_arrow=True).to_arrow()
    except Exception:  # an older file, or a container without values: the model takes codes
        return {}
    values: dict[int, Sequence[Any]] = {}
    for index, (name, column) in enumerate(found or ()):
        if column is not None and index < width:
            try:
                values[index] = column.to_pylist()
            except UnicodeDecodeError:
                raise _damaged(name) from None
    if not _keeps_categories():
        for index, texts in values.items():
            if any(isinstance(text, str) and not text.isascii() for text in texts):
                raise _damaged(found[index][0])
    return values


def _keeps_categories() -> bool:
    """Whether this XGBoost keeps categories that are not ASCII: up to 3.2 it cuts them after characters, not bytes.

    https://github.com/dmlc/xgboost/pull/12371
    """
    import xgboost

    major, minor, *_ = (int(part) for part in xgboost.__version__.split(".")[:2])
    return (major, minor) > (3, 2)


def _damaged(name: str) -> LoadFailed:
    return LoadFailed(
        f"the categories of {name!r} are not ASCII, and XGBoost up to 3.2 saves such names damaged, so that values "
        "cannot be told apart; train with an encoder in front, as in make_pipeline(make_column_transformer("
        "(OneHotEncoder(), [...]), ...), XGBClassifier()), and save the pipeline"
    )
