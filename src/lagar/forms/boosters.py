"""Builders of booster forms: the library's own file, or the tables of CatBoost's trees, and how its values are read."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from lagar import native
from lagar.forms.candidates import EXACT, Candidate, Criterion, NotApplicable
from lagar.forms.original import Original
from lagar.runtimes import form
from lagar.runtimes.answers import Answer, Labels
from lagar.runtimes.direct import is_sklearn
from lagar.runtimes.form_booster import FILES, Affine, Document
from lagar.runtimes.symmetric_trees import MAX_DEPTH

_FINISH = {
    "Logloss": "sigmoid", "CrossEntropy": "sigmoid", "MultiClass": "softmax", "MultiClassOneVsAll": "sigmoid",
    "MultiLogloss": "sigmoid", "MultiCrossEntropy": "sigmoid", "Poisson": "exponent", "Tweedie": "exponent",
}  # fmt: skip
"""CatBoost's loss → what makes its answers of sums; all other losses answer the sums."""


def build_lightgbm(original: Original, folder: Path) -> None:
    """LightGBM's C interface on its own text file."""
    estimator = last_of(original, "lightgbm")
    from lagar.runtimes import lightgbm

    head = lightgbm.head_of(estimator, 1)
    _, categories, _ = lightgbm.fields_of(head.booster)
    probabilities = "predict_proba" in head.names
    head.booster.save_model(str(folder / FILES["lightgbm"]))
    document = Document(
        format=form.FORMAT,
        kind="booster",
        library="lightgbm",
        width=int(head.booster.num_feature()),
        answer=Answer(
            "probabilities" if probabilities else "value",
            labels=labels_of(head.labels) if probabilities else None,
            argmax=probabilities,
        ),
        scalers=scalers_of(original),
        codes={index: list(values) for index, values in categories.items()},
    )
    write(document, folder)


def build_xgboost(original: Original, folder: Path) -> None:
    """XGBoost's C interface on its own UBJSON file."""
    estimator = last_of(original, "xgboost")
    from lagar.runtimes import xgboost

    head = xgboost.head_of(estimator, 1)
    if not head.has_trees:
        raise NotApplicable("its C interface predicts in place for trees only, and this booster is linear")
    _, categories = xgboost.fields_of(head.booster)
    head.booster.save_model(folder / FILES["xgboost"])
    missing = float(head.missing)
    document = Document(
        format=form.FORMAT,
        kind="booster",
        library="xgboost",
        width=int(head.booster.num_features()),
        answer=xgboost_answer(head),
        scalers=scalers_of(original),
        codes={index: list(values) for index, values in categories.items()},
        missing=None if math.isnan(missing) else missing,
        iterations=head.iterations,
        objective="multi:softprob" if head.answers_each_class else None,
    )
    write(document, folder)


def xgboost_answer(head: Any) -> Answer:
    """How XGBoost's values are read, as its head does."""
    if head.task == "regressor":
        return Answer("value")
    return Answer(
        "probabilities" if "predict_proba" in head.names else "label",
        labels=None if head.is_multi_label else labels_of(head.labels),
        border=head.border,
        many=head.is_multi_label,
    )


def build_catboost(original: Original, folder: Path) -> None:
    """CatBoost's symmetric trees as tables that NumPy runs."""
    _catboost(original, folder, native_walk=False)


def build_catboost_native(original: Original, folder: Path) -> None:
    """The same, run by Lagar's own machine code, where it was compiled for this machine."""
    if native.library() is None:
        raise NotApplicable("this installation has no compiled walk through trees: a C compiler makes it")
    _catboost(original, folder, native_walk=True)


def _catboost(original: Original, folder: Path, *, native_walk: bool) -> None:
    model = last_of(original, "catboost")
    from lagar.runtimes import catboost

    if model.get_cat_feature_indices() or model.get_text_feature_indices() or model.get_embedding_feature_indices():
        raise NotApplicable("CatBoost alone knows how it counts categories and texts; numeric models have another form")
    head = catboost.CatboostHead(model, 1)
    exported = folder / "exported.json"
    model.save_model(str(exported), format="json")
    description = json.loads(exported.read_bytes())
    exported.unlink()
    arrays = _tables(description)
    with (folder / FILES["catboost"]).open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    document = Document(
        format=form.FORMAT,
        kind="booster",
        library="catboost",
        width=len(model.feature_names_),
        answer=_catboost_answer(head, arrays),
        scalers=scalers_of(original),
        native=native_walk,
    )
    write(document, folder)


def _catboost_answer(head: Any, arrays: dict[str, Any]) -> Answer:
    finish: Any = _FINISH.get(head.loss, "none")
    if head.loss == "RMSEWithUncertainty":
        raise NotApplicable("its second value is a variance, which is no sum of its trees")
    if head.task == "regressor":
        return Answer("value", finish=finish)
    if not head.loss and arrays["bias"].size > 1:
        raise NotApplicable("the model has lost its training parameters, so that its loss is not known")
    many = head.loss in {"MultiLogloss", "MultiCrossEntropy"}
    labels = None if many or head.labels is None else labels_of(_as_answered(head.labels))
    if many and list(head.labels if head.labels is not None else [0, 1]) != [0, 1] and arrays["bias"].size < 2:
        raise NotApplicable("its targets are no zeros and ones")
    return Answer("probabilities", labels=labels, border=0.0, many=many, finish=finish if head.loss else "sigmoid")


def _as_answered(classes: Any) -> Any:
    """CatBoost answers texts in object arrays."""
    return classes.astype(object) if classes.dtype.kind == "U" else classes


def _tables(description: dict[str, Any]) -> dict[str, Any]:
    """Splits, leaves, scale and bias of symmetric trees; each tree as deep as the deepest."""
    trees = description.get("oblivious_trees")
    if not trees:
        raise NotApplicable("its trees are not symmetric (grow_policy); only CatBoost itself runs them")
    depth = max(max(len(tree["splits"] or ()) for tree in trees), 1)
    if depth > MAX_DEPTH:
        raise NotApplicable(f"its trees are {depth} levels deep, and the form has {MAX_DEPTH}")
    floats = description["features_info"].get("float_features", [])
    columns = {float(feature["feature_index"]): int(feature["flat_feature_index"]) for feature in floats}
    scale, bias = description["scale_and_bias"]
    features = np.zeros((len(trees), depth), dtype=np.int64)
    borders = np.full((len(trees), depth), np.inf, dtype=np.float32)
    leaves = np.zeros((len(trees), 1 << depth, len(bias)), dtype=np.float64)
    for number, tree in enumerate(trees):
        splits = tree["splits"] or []
        for level, split in enumerate(splits):
            if split["split_type"] != "FloatFeature":
                raise NotApplicable(f"its trees ask questions of type {split['split_type']}")
            features[number, level] = columns[split["float_feature_index"]]
            borders[number, level] = split["border"]
        leaves[number, : 1 << len(splits)] = np.reshape(tree["leaf_values"], (1 << len(splits), len(bias)))
    above = [feature["flat_feature_index"] for feature in floats if feature.get("nan_value_treatment") == "AsTrue"]
    return {
        "features": features,
        "borders": borders,
        "leaves": leaves,
        "scale": np.float64(scale),
        "bias": np.array(bias, dtype=np.float64),
        "nan_above": np.array(above, dtype=np.int64),
    }


def last_of(original: Original, library: str) -> Any:
    """The booster at the end of the steps; NotApplicable for models of other libraries."""
    estimator = original.steps[-1] if original.steps else None
    if type(estimator).__module__.partition(".")[0] != library:
        raise NotApplicable(f"the model is not one of {library}")
    return estimator


def scalers_of(original: Original) -> list[Affine]:
    """The StandardScalers in front; NotApplicable for other steps."""
    found: list[Affine] = []
    for step in original.steps[:-1]:
        if not is_sklearn(step, {"StandardScaler"}) or original.signature.layout != "matrix":
            raise NotApplicable(f"{type(step).__name__} in front of the booster has no form of this kind")
        mean = np.asarray(step.mean_, np.float64).tolist() if step.with_mean else None
        found.append(Affine(mean, np.asarray(step.scale_, np.float64).tolist() if step.with_std else None))
    return found


def labels_of(classes: Any) -> Labels:
    """Classes as a document keeps them; NotApplicable where they cannot be kept."""
    found = Labels.of(classes)
    if found is None:
        raise NotApplicable("its classes are of several types")
    return found


def write(document: msgspec.Struct, folder: Path) -> None:
    """The folder's `form.json`."""
    (folder / form.DOCUMENT).write_bytes(msgspec.json.encode(document))


def _sums_in_order(original: Original) -> Criterion:
    """1e-12: the sums are CatBoost's, its exponential is not NumPy's; of a value also relative to its size."""
    relative = 0.0 if original.signature.task == "classifier" else 1e-12
    return Criterion(absolute=1e-12, relative=relative)


CANDIDATES: Final = (
    Candidate("lightgbm-c", build_lightgbm, lambda original: EXACT),
    Candidate("xgboost-c", build_xgboost, lambda original: EXACT),
    Candidate("catboost-numpy", build_catboost, _sums_in_order),
    Candidate(native.SYMMETRIC, build_catboost_native, _sums_in_order),
)
