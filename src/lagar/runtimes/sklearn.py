"""Pickled models: scikit-learn estimators, pipelines, searches, (transformer, estimator) tuples, wrappers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lagar.errors import LoadFailed, UnsupportedModel
from lagar.registry.model import ModelSource
from lagar.runtimes import pickles, skops
from lagar.runtimes.base import (
    Chain,
    Draft,
    FrameInput,
    Head,
    Input,
    LooseInput,
    MatrixInput,
    ObjectInput,
    Opened,
    TextInput,
)
from lagar.runtimes.direct import Trees, transform_of
from lagar.runtimes.heads import ClassifierHead, RegressorHead, head_of
from lagar.runtimes.sklearn_signature import Learned, fitted_on_objects, learn
from lagar.runtimes.vocabulary import RecordsInput

_BOOSTERS = frozenset({"xgboost", "lightgbm", "catboost"})
_DATA = frozenset({"pandas", "polars", "numpy", "scipy"})


def open_source(source: ModelSource, threads: int) -> Opened:
    """The object of a pickle, checked by the scan first, or of a skops file."""
    path = Path(source.path)
    if skops.is_one(path):
        return of_object(skops.load(source, path), source, threads)
    model, libraries, warnings = pickles.load(source, path)
    opened = of_object(model, source, threads)
    opened.warnings[:0] = warnings
    opened.libraries = {**libraries, **opened.libraries}
    return opened


def of_object(model: Any, source: ModelSource, threads: int) -> Opened:
    """A fitted object of any supported library as predictor and draft; UnsupportedModel when it is none."""
    booster = _booster(model, threads)
    if booster is not None:
        return booster
    steps, final = _flat(model, source)
    steps = [step for step in steps if step is not None and not isinstance(step, str)]
    _check_fitted([*steps, final], source)
    _one_thread([*steps, final], threads)
    if not steps:
        booster = _booster(final, threads)
        if booster is not None:
            return booster
    learned = learn([*steps, final])
    take = _input(learned, steps)
    if not learned.by_name:
        _forget_names([*steps, final])
    flat = [*steps, final]
    if isinstance(take, RecordsInput):
        steps = steps[1:]
    head = _head(final, threads, adapt=not learned.by_name)
    _speed_up(head)
    draft = Draft(
        fields=learned.fields,
        layout=learned.layout,
        named=learned.named,
        task=head.task,
        outputs=head.names,
        native=head.native,
        classes=head.classes,
        target_classes=head.target_classes,
        meanings=head.meanings,
        origin=learned.origin,
    )
    chain = Chain(take, [transform_of(step) for step in steps], head)
    return Opened(chain, draft, _libraries([*steps, final]), model=model, steps=flat)


def _booster(model: Any, threads: int) -> Opened | None:
    """XGBoost, LightGBM and CatBoost objects have runtimes of their own."""
    root = type(model).__module__.partition(".")[0]
    if root == "xgboost":
        from lagar.runtimes import xgboost

        return xgboost.of_object(model, threads)
    if root == "lightgbm":
        from lagar.runtimes import lightgbm

        return lightgbm.of_object(model, threads)
    if root == "catboost":
        from lagar.runtimes import catboost

        return catboost.of_object(model, threads)
    return None


def _head(final: Any, threads: int, *, adapt: bool) -> Head:
    root = type(final).__module__.partition(".")[0]
    if adapt and root == "xgboost":
        from lagar.runtimes import xgboost

        return xgboost.head_of(final, threads)
    if adapt and root == "lightgbm":
        from lagar.runtimes import lightgbm

        return lightgbm.head_of(final, threads)
    return head_of(final)


def _flat(model: Any, source: ModelSource) -> tuple[list[Any], Any]:
    """Transformers in order and the last step, out of nested pipelines, searches, tuples and lists."""
    if isinstance(model, (tuple, list)):
        return _flat_sequence(model, source)
    root = type(model).__module__.partition(".")[0]
    if hasattr(model, "best_estimator_") and hasattr(model, "cv_results_"):
        return _flat(model.best_estimator_, source)
    if root == "sklearn" and hasattr(model, "cv_results_") and not hasattr(model, "best_estimator_"):
        raise UnsupportedModel(
            f"{source.path}: {type(model).__name__} was made with refit=False and holds no fitted model; "
            "fit it with refit=True"
        )
    if type(model).__name__ == "Pipeline" and hasattr(model, "steps"):
        steps = [step for _, step in model.steps if step is not None and not isinstance(step, str)]
        # Samplers of imbalanced-learn work while fitting only.
        steps = [step for step in steps[:-1] if not hasattr(step, "fit_resample")] + steps[-1:]
        if not steps:
            raise UnsupportedModel(f"{source.path}: the Pipeline has no steps")
        before, final = _flat(steps[-1], source)
        return [*(piece for step in steps[:-1] for piece in _pieces(step, source)), *before], final
    if root in _DATA:  # a DataFrame has a transform of its own
        raise UnsupportedModel(_no_model(model, source))
    if not (hasattr(model, "predict") or hasattr(model, "transform") or hasattr(model, "fit_predict")):
        raise UnsupportedModel(_no_model(model, source))
    return [], model


def _pieces(step: Any, source: ModelSource) -> list[Any]:
    before, last = _flat(step, source)
    return [*before, last]


def _flat_sequence(model: tuple[Any, ...] | list[Any], source: ModelSource) -> tuple[list[Any], Any]:
    """(transformers…, estimator), or the estimator first: the one part that predicts is the last step."""
    finals = [part for part in model if hasattr(part, "predict")]
    others = [part for part in model if not hasattr(part, "predict")]
    labels = any(type(part).__module__ == "sklearn.preprocessing._label" for part in others)  # these are for targets
    if labels or len(finals) != 1 or not all(hasattr(part, "transform") for part in others):
        kinds = ", ".join(type(part).__name__ for part in model[:6])
        raise UnsupportedModel(
            f"{source.path}: the pickle holds a {type(model).__name__} of ({kinds}); Lagar serves a sequence of fitted "
            "transformers and one estimator. Save a Pipeline, or wrap the parts in a class"
        )
    before, final = _flat(finals[0], source)
    return [*(piece for part in others for piece in _pieces(part, source)), *before], final


def _no_model(model: Any, source: ModelSource) -> str:
    kind = type(model).__name__
    content = f" with the keys {', '.join(map(repr, list(model)[:8]))}" if isinstance(model, dict) else ""
    if type(model).__module__.partition(".")[0] in _DATA:
        return f"{source.path}: the pickle holds a {kind}, not a model; save the fitted model or Pipeline itself"
    return (
        f"{source.path}: the pickle holds a {kind}{content}, which has neither predict nor transform; "
        'save the fitted model or Pipeline itself, or wrap it in a class (lagar.toml: class = "module:Class")'
    )


def _check_fitted(steps: list[Any], source: ModelSource) -> None:
    from sklearn.exceptions import NotFittedError
    from sklearn.utils.validation import check_is_fitted

    for step in steps:
        if type(step).__module__.partition(".")[0] != "sklearn":
            continue
        try:
            check_is_fitted(step)
        except NotFittedError:
            raise LoadFailed(
                f"{source.path}: the {type(step).__name__} is not fitted; call fit before saving it"
            ) from None


def _input(learned: Learned, steps: list[Any]) -> Input:
    if learned.form == "records":
        return RecordsInput(steps[0])
    if learned.form == "text":
        return TextInput()
    if learned.form == "frame":
        return FrameInput(learned.frame_categories)
    if learned.form == "object":
        return ObjectInput() if any(map(fitted_on_objects, steps)) else LooseInput()
    return MatrixInput()


def _speed_up(head: Head) -> None:
    """Forests through their trees, where that gives the same bits."""
    if isinstance(head, (ClassifierHead, RegressorHead)):
        trees = Trees.of(head.estimator)
        if trees is not None and isinstance(head, ClassifierHead):
            head.use_proba(trees)
        elif trees is not None and isinstance(head, RegressorHead):
            head.use_predict(trees)


def parts(model: Any) -> Iterator[Any]:
    """Every estimator inside an object, itself included."""
    stack, seen = [model], set()
    while stack:
        part = stack.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        if isinstance(part, (dict, list, tuple, set)):
            values = list(part.values() if isinstance(part, dict) else part)
            is_vocabulary = len(values) > 50 and all(isinstance(value, (str, int, float)) for value in values[:50])
            stack.extend(values if not is_vocabulary else ())
        elif type(part).__name__ == "ndarray":
            if part.dtype == object:
                stack.extend(part.flat)
        elif hasattr(part, "__dict__") and not isinstance(part, type):
            if hasattr(part, "get_params") or hasattr(part, "predict") or hasattr(part, "transform"):
                yield part
            if type(part).__module__.partition(".")[0] not in {"numpy", "scipy", "pandas", "builtins"}:
                stack.extend(vars(part).values())


def _one_thread(steps: list[Any], threads: int) -> None:
    """Serving parallelism is across requests: an estimator's own workers only add switching and memory."""
    for part in parts(steps):
        values = vars(part)
        if "n_jobs" in values:
            root = type(part).__module__.partition(".")[0]
            values["n_jobs"] = threads if root in _BOOSTERS else 1
        if isinstance(values.get("verbose"), (int, bool)) and type(part).__module__.startswith("sklearn"):
            values["verbose"] = 0


def _forget_names(steps: list[Any]) -> None:
    """Names are checked once, by the signature: an estimator that still has them warns at every matrix it gets."""
    for part in parts(steps):
        vars(part).pop("feature_names_in_", None)


def _libraries(steps: list[Any]) -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    distributions = {"sklearn": "scikit-learn", "imblearn": "imbalanced-learn"}
    found: dict[str, str] = {}
    roots = {type(part).__module__.partition(".")[0] for part in parts(steps)} - {"builtins", "numpy"}
    for root in sorted(roots):
        name = distributions.get(root, root)
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
