"""CatBoost: `.cbm` files and pickled wrappers; the loss in the file says whether it classifies."""

from __future__ import annotations

from typing import Any

import numpy as np

from lagar.errors import InvalidInput, LoadFailed, UnsupportedModel
from lagar.registry.model import ModelSource
from lagar.registry.signature import Field, Scalar, Task
from lagar.runtimes.base import Chain, Draft, Head, Input, MatrixInput, ObjectInput, Opened, one_per_row, plain, scalars
from lagar.types import Array, Outputs, Rows

_CLASS_LOSSES = frozenset({"Logloss", "CrossEntropy", "MultiClass", "MultiClassOneVsAll", "Focal"})
_MULTI_LABEL = frozenset({"MultiLogloss", "MultiCrossEntropy"})
_REGRESSION = {"Poisson": "Exponent", "Tweedie": "Exponent", "RMSEWithUncertainty": "RMSEWithUncertainty"}
"""Loss → what CatBoostRegressor answers, where that is not the sum of the trees."""
_EXACT = frozenset({str, int, bool})
"""Types of a categorical feature that CatBoost hashes as they are."""


def open_source(source: ModelSource, threads: int) -> Opened:
    """A model saved by save_model as .cbm."""
    import catboost

    model = catboost.CatBoost()
    try:
        model.load_model(source.path)
    except catboost.CatBoostError as error:
        raise LoadFailed(f"{source.path}: CatBoost {catboost.__version__} does not read it: {error}") from error
    return of_object(model, threads)


def of_object(model: Any, threads: int) -> Opened:
    """A CatBoost model or one of its wrappers."""
    import catboost

    if not isinstance(model, catboost.CatBoost):
        raise UnsupportedModel(
            f"{type(model).__name__} of catboost is no model; serve a CatBoostClassifier or Regressor"
        )
    head = CatboostHead(model, threads)
    names = [str(name) for name in model.feature_names_]
    named = names != [str(index) for index in range(len(names))]
    labels = names if named else [f"x{index}" for index in range(len(names))]
    words, texts = set(model.get_cat_feature_indices()), set(model.get_text_feature_indices())
    if model.get_embedding_feature_indices():
        raise UnsupportedModel("the CatBoost model takes embeddings, which Lagar cannot send; serve it from a class")
    missing = _missing_allowed(model)
    fields = [_field(label, index in words, index in texts, missing) for index, label in enumerate(labels)]
    mixed = bool(words or texts)
    take: Input = MixedInput(words) if mixed else MatrixInput()
    draft = Draft(
        fields=fields,
        layout="columns" if mixed else "matrix",
        named=named,
        task=head.task,
        outputs=head.names,
        native=head.native,
        classes=head.classes,
        meanings=head.meanings,
        origin="feature names of CatBoost" if named else "width of the CatBoost model",
    )
    return Opened(Chain(take, [], head), draft, {"catboost": catboost.__version__}, model=model)


def _field(name: str, is_word: bool, is_text: bool, missing: bool | None) -> Field:
    if is_text:
        return Field(name, type="string", nullable=False)
    if is_word:  # values are kept as hashes only: any text or whole number is let through
        return Field(name, type="unknown", nullable=False, example="text")
    return Field(name, nullable=missing)


def _missing_allowed(model: Any) -> bool | None:
    try:
        mode = model.get_all_params().get("nan_mode")
    except Exception:  # models without their training parameters (sums of models, imported ones)
        return None
    return None if mode is None else mode != "Forbidden"


class MixedInput(ObjectInput):
    """Columns → an object array; a whole number for a categorical feature as CatBoost hashes it, without a point."""

    def __init__(self, words: set[int]) -> None:
        self._words = words

    def __call__(self, rows: Rows) -> Any:
        x = super().__call__(rows)
        for index in self._words:
            values = x[:, index].tolist()
            if not _EXACT.issuperset(map(type, values)):
                x[:, index] = [self._word(value, index, row) for row, value in enumerate(values)]
        return x

    def _word(self, value: Any, index: int, row: int) -> Any:
        if not isinstance(value, (float, np.floating)):
            return value
        if value.is_integer():
            return int(value)
        name = self._columns[index]
        raise InvalidInput(
            f"field {name!r} is {float(value)!r}; it is categorical, and CatBoost takes text or whole numbers there",
            field=name,
            row=row,
        )


class CatboostHead(Head):
    """What the loss says: labels and probabilities, or a value."""

    def __init__(self, model: Any, threads: int) -> None:
        self._model = model
        self._threads = threads
        loss = self.loss = _loss(model)
        classes = list(model.classes_) if model.classes_ is not None else []
        self.labels: Array | None = np.asarray(classes) if len(classes) else None
        is_classifier = loss in _CLASS_LOSSES or (not loss and len(classes) > 0)
        multi_label = loss in _MULTI_LABEL
        self.task: Task = "classifier" if is_classifier or multi_label else "regressor"
        self.classes: tuple[Scalar, ...] | None = scalars(classes) if is_classifier and classes else None
        self.names: tuple[str, ...] = ("predict",)
        self.meanings = {"predict": "the predicted value"}
        if self.task == "classifier":
            self.names = ("predict", "predict_proba")
            self.meanings = {"predict": "the predicted class", "predict_proba": "the probability of each class"}
        self._regression = _REGRESSION.get(loss, "RawFormulaVal")
        self.native = self.names

    def outputs(self, x: Any, names: tuple[str, ...]) -> Outputs:
        found: Outputs = {}
        if self.task == "regressor":
            return {"predict": one_per_row(self._ask(x, self._regression))}
        if "predict" in names:
            labels = one_per_row(self._ask(x, "Class"))
            found["predict"] = self._as_classes(labels)
        if "predict_proba" in names:
            found["predict_proba"] = np.ascontiguousarray(plain(self._ask(x, "Probability")))
        return found

    def _ask(self, x: Any, kind: str) -> Array:
        return self._model.predict(x, prediction_type=kind, thread_count=self._threads)  # type: ignore[no-any-return]

    def _as_classes(self, labels: Array) -> Array:
        """CatBoost answers "True" and "False" as text where the classes are booleans."""
        if self.labels is not None and self.labels.dtype == np.bool_ and labels.dtype.kind in "UO":
            return np.asarray([str(label) == "True" for label in labels])
        return labels


def _loss(model: Any) -> str:
    try:
        loss = str(model.get_all_params().get("loss_function", ""))
    except Exception:  # imported and summed models have no parameters; their classes decide
        return ""
    return loss.partition(":")[0]
