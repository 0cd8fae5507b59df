"""LightGBM: boosters from text files, wrappers from pickles; the objective in the file says what the model is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from lagar.errors import LoadFailed, UnsupportedModel
from lagar.registry.model import ModelSource
from lagar.registry.signature import Field, Scalar, Task
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
from lagar.runtimes.examples import typical
from lagar.types import Array, Outputs

_PLAIN_NAME = re.compile(r"Column_\d+")


def open_source(source: ModelSource, threads: int) -> Opened:
    """A booster saved by save_model, or the pickle of an MLflow folder."""
    import lightgbm

    text = _whole_text(source.path)
    try:  # of a text, not of the file: LightGBM reads on behind the last line of one that does not end
        booster = lightgbm.Booster(model_str=text)
    except (lightgbm.basic.LightGBMError, ValueError) as error:
        raise LoadFailed(f"{source.path}: LightGBM {lightgbm.__version__} does not read it: {error}") from error
    return of_object(booster, threads)


def _whole_text(path: str) -> str:
    """The text of a saved booster.

    Raises LoadFailed for one that was cut: LightGBM believes the sizes in it, and reads beyond its end.
    """
    data = Path(path).read_bytes()
    if why := _damage(data):
        raise LoadFailed(f"{path} is a damaged LightGBM model: {why}; copy it or save the model again")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise LoadFailed(f"{path} is a damaged LightGBM model: byte {error.start} is no UTF-8") from None


def _damage(data: bytes) -> str:
    """What a saved booster lacks; "" for one that is whole."""
    if b"\0" in data:
        return f"it has a zero byte at {data.index(0)}"
    head = re.search(rb"^tree_sizes=([\d ]*)\s*$", data, re.MULTILINE)
    first = re.search(rb"^Tree=0\s*$", data, re.MULTILINE)
    if head is not None and first is not None:  # of models without trees, and of old ones, there is no such promise
        at = first.start()
        for number, size in enumerate(map(int, head[1].split())):
            if not data.startswith(b"Tree=%d" % number, at):
                return f"tree {number} is not at byte {at:,} of {len(data):,}, where it should be"
            at += size
        if not data.startswith(b"end of trees", at):
            return f"its trees do not end at byte {at:,} of {len(data):,}, where they should"
    elif first is None and (head is None or head[1].strip()):
        return f"its {len(data):,} bytes end before its trees"
    parameters = re.search(rb"^parameters:\s*$", data, re.MULTILINE)
    if (
        parameters is not None
        and re.compile(rb"^end of parameters", re.MULTILINE).search(data, parameters.end()) is None
    ):
        return "it ends among its parameters"
    return ""


def of_object(model: Any, threads: int) -> Opened:
    """A Booster or a scikit-learn wrapper of one."""
    import lightgbm

    head = head_of(model, threads)
    fields, categories, named = fields_of(head.booster)
    take: Input = CodesInput(categories) if categories else MatrixInput()
    draft = Draft(
        fields=fields,
        layout="columns" if categories else "matrix",
        named=named,
        task=head.task,
        outputs=head.names,
        native=head.native,
        classes=head.classes,
        meanings=head.meanings,
        origin="feature names and infos of the booster" if named else "width of the booster",
    )
    return Opened(Chain(take, [], head), draft, {"lightgbm": lightgbm.__version__}, model=model)


def head_of(model: Any, threads: int) -> LightgbmHead:
    """The head of a Booster or wrapper; UnsupportedModel for other objects of the library."""
    import lightgbm

    if isinstance(model, lightgbm.Booster):
        return LightgbmHead(model, threads, wrapper=None)
    if isinstance(model, lightgbm.LGBMModel):
        return LightgbmHead(model.booster_, threads, wrapper=model)
    raise UnsupportedModel(
        f"{type(model).__name__} of lightgbm is no model; serve a Booster or LGBMClassifier, LGBMRegressor"
    )


class LightgbmHead(Head):
    """Labels and probabilities in one pass, as LGBMClassifier computes them from the booster's values."""

    def __init__(self, booster: Any, threads: int, wrapper: Any) -> None:
        self.booster = booster
        self._threads = threads
        objective = _objective(booster)
        own = getattr(wrapper, "classes_", None)
        classes = max(int(booster.num_model_per_iteration()), 2)
        is_classifier = own is not None or objective.split(" ")[0] in {
            "binary", "multiclass", "multiclassova", "cross_entropy",
        }  # fmt: skip
        if objective.startswith("cross_entropy") and own is None:
            is_classifier = False  # trained on probabilities: it answers one
        self.task: Task = "classifier" if is_classifier else "regressor"
        self._custom = wrapper is not None and callable(getattr(wrapper, "_objective", None))
        self.labels: Array | None = None
        self.classes: tuple[Scalar, ...] | None = None
        self.names: tuple[str, ...] = ("predict",)
        self.meanings = {"predict": "the predicted value"}
        if self._custom:
            self.task = "unknown"
        elif is_classifier:
            self.labels = np.asarray(own) if own is not None else np.arange(classes)
            self.classes = scalars(self.labels)
            self.names = ("predict", "predict_proba")
            self.meanings = {"predict": "the predicted class", "predict_proba": "the probability of each class"}
        self.native = self.names

    def raw(self, x: Any) -> Array:
        """What the booster itself answers."""
        return self.booster.predict(x, num_threads=self._threads)  # type: ignore[no-any-return]

    def outputs(self, x: Any, names: tuple[str, ...]) -> Outputs:
        values = self.raw(x)
        if self.labels is None:
            return {"predict": one_per_row(values)}
        proba = np.vstack((1.0 - values, values)).transpose() if values.ndim == 1 else values
        found: Outputs = {}
        if "predict" in names:
            found["predict"] = plain(self.labels.take(np.argmax(proba, axis=1), axis=0))
        if "predict_proba" in names:
            found["predict_proba"] = np.ascontiguousarray(plain(proba))
        return found


def _objective(booster: Any) -> str:
    """The objective line of the model text, "" for a custom one."""
    head = booster.model_to_string(num_iteration=1).partition("\nTree=")[0]
    found = re.search(r"^objective=(.*)$", head, re.MULTILINE)
    return found.group(1).strip() if found else ""


def fields_of(booster: Any) -> tuple[list[Field], dict[int, Sequence[Any]], bool]:
    head = booster.model_to_string(num_iteration=1).partition("\nTree=")[0]
    found = re.search(r"^feature_infos=(.*)$", head, re.MULTILINE)
    infos = found.group(1).split(" ") if found else []
    names = booster.feature_name()
    named = not all(_PLAIN_NAME.fullmatch(name) for name in names)
    fields = [
        _field(name, infos[index] if len(infos) == len(names) else "none")
        for index, name in enumerate(names if named else unnamed(len(names)))
    ]
    categories = _categories(booster, infos, len(names))
    for index, values in categories.items():
        kind = "string" if all(isinstance(value, str) for value in values) else "unknown"
        fields[index] = msgspec.structs.replace(fields[index], type=kind, categories=tuple(values), example=None)
    return fields, categories, named


def _field(name: str, info: str) -> Field:
    bounds = re.fullmatch(r"\[([^:]+):([^:]+)\]", info)
    if bounds:
        low, high = float(bounds.group(1)), float(bounds.group(2))
        return Field(name, nullable=True, seen_min=low, seen_max=high, example=typical((low + high) / 2))
    if re.fullmatch(r"-?\d+(:-?\d+)*", info):  # codes of a categorical feature, the most frequent first
        return Field(name, type="int", nullable=True, example=max(int(info.partition(":")[0]), 0))
    return Field(name, nullable=True)


def _categories(booster: Any, infos: list[str], width: int) -> dict[int, Sequence[Any]]:
    """Values of pandas categories, which the file keeps in the order of the categorical columns."""
    lists = getattr(booster, "pandas_categorical", None)
    if not lists:
        return {}
    categorical = [index for index, info in enumerate(infos) if re.fullmatch(r"-?\d+(:-?\d+)*", info)]
    if len(categorical) < len(lists):  # "none": a feature that no tree could use, categorical or not
        unused = [index for index, info in enumerate(infos) if info == "none"]
        categorical = sorted(categorical + unused) if len(categorical) + len(unused) == len(lists) else []
    if len(categorical) != len(lists) or any(index >= width for index in categorical):
        raise LoadFailed(
            f"the LightGBM file has the values of {len(lists)} categorical columns and does not say which columns they "
            "are; save the model again with unused columns left out, or serve its pickled Pipeline"
        )
    return dict(zip(categorical, lists, strict=True))
