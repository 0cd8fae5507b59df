"""Builders of graph forms: XGBoost's trees by our own exporter, other families by skl2onnx (`[convert]`)."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from lagar.forms import tree_xgboost, trees
from lagar.forms.boosters import labels_of, last_of, write, xgboost_answer
from lagar.forms.candidates import Candidate, Criterion, NotApplicable
from lagar.forms.original import Original
from lagar.runtimes import form, sklearn
from lagar.runtimes.answers import Labels
from lagar.runtimes.form_graph import MODEL, Document, Output, Refused, Text
from lagar.types import Rows

OPSETS: Final = {"": 17, "ai.onnx.ml": 3}
_IN_FLOAT: Final = frozenset({
    "SVC", "NuSVC", "SVR", "NuSVR", "VotingClassifier", "VotingRegressor", "StackingClassifier", "StackingRegressor",
})  # fmt: skip
"""What ONNX Runtime computes in float32 whatever the input, or what has trees inside that need float32."""
_MOST: Final = float(np.finfo(np.float64).max)
_ASKED: Final = 256
"""Columns up to which the original is asked for the limits of each, a hundred times."""
_TREES: Final = ("Tree", "Forest", "Boosting", "Bagging", "XGB", "LGBM", "CatBoost", "AdaBoost")
_SLOWER: Final = frozenset({
    "KNeighborsClassifier", "KNeighborsRegressor", "RadiusNeighborsClassifier", "RadiusNeighborsRegressor",
    "KNNImputer", "LocalOutlierFactor",
})  # fmt: skip
_TOKENS: Final = {
    r"(?u)\b\w\w+\b": r"[\p{L}\p{N}_]{2,}",
    r"\b\w\w+\b": r"[\p{L}\p{N}_]{2,}",
    r"(?u)\b\w+\b": r"[\p{L}\p{N}_]+",
    r"\b\w+\b": r"[\p{L}\p{N}_]+",
    r"\w+": r"[\p{L}\p{N}_]+",
    r"(?u)\w+": r"[\p{L}\p{N}_]+",
}
"""scikit-learn's token patterns → the same in RE2, whose \\w and \\b know ASCII only."""


def build_xgboost(original: Original, folder: Path) -> None:
    """XGBoost's trees as one float32 operator, whose sums are XGBoost's to the bit."""
    estimator = last_of(original, "xgboost")
    if len(original.steps) > 1:
        raise NotApplicable(f"{type(original.steps[0]).__name__} in front of the trees")
    from lagar.runtimes import xgboost

    head = xgboost.head_of(estimator, 1)
    if original.signature.layout != "matrix":
        raise NotApplicable("it takes categories; the booster's own form does")
    if not math.isnan(float(head.missing)):
        raise NotApplicable(f"{head.missing} means missing; the booster's own form takes that")
    document = tree_xgboost.read(head.booster)
    finish: Any = tree_xgboost.finish_of(tree_xgboost.objective_of(document))
    found = tree_xgboost.trees_of(document, head.iterations)
    graph = trees.graph(found, found.values[:, 0].astype(np.float32), by_tree=False, missing=True)
    (folder / MODEL).write_bytes(graph)
    answer = msgspec.structs.replace(xgboost_answer(head), finish=finish, finished=True)
    write(
        Document(
            format=form.FORMAT, kind="graph", input="float32", width=int(head.booster.num_features()), answer=answer
        ),
        folder,
    )


def build_double(original: Original, folder: Path) -> None:
    """Arithmetic models by skl2onnx in float64."""
    _check_matrix(original)
    last = type(original.steps[-1]).__name__
    if last in _IN_FLOAT:
        raise NotApplicable(f"{last} is computed in float32 by ONNX Runtime, or has parts that have to be")
    names = [type(part).__name__ for part in sklearn.parts(list(original.steps))]
    inside = next((name for name in names if any(word in name for word in _TREES)), None)
    if inside is not None:
        raise NotApplicable(f"{inside} compares in float32, and a graph in float64 would answer otherwise")
    _convert(original, folder, "float64")


def build_float(original: Original, folder: Path) -> None:
    """Support vector machines, votes and stacks by skl2onnx in float32."""
    _check_matrix(original)
    last = original.steps[-1]
    if type(last).__name__ not in _IN_FLOAT:
        raise NotApplicable(f"{type(last).__name__} keeps its accuracy in float64 only")
    members = getattr(last, "estimators_", None)
    if members and all(any(word in type(member).__name__ for word in _TREES) for member in members):
        raise NotApplicable("votes of trees alone tie often, and float32 breaks ties its own way")
    _convert(original, folder, "float32")


def build_text(original: Original, folder: Path) -> None:
    """A text vectorizer and a linear or naive Bayes model by skl2onnx; lower case and accents are done in Python."""
    signature = original.signature
    first = original.steps[0] if original.steps else None
    if type(first).__name__ not in ("TfidfVectorizer", "CountVectorizer") or len(signature.names) != 1:
        raise NotApplicable("the model takes no text through a CountVectorizer or TfidfVectorizer")
    vectorizer, text, options = _vectorizer(first)
    final = original.steps[-1]
    if type(final).__name__ in {"LinearSVC", "SVC"} or any(word in type(final).__name__ for word in _TREES):
        raise NotApplicable(f"{type(final).__name__} behind a text vectorizer is not converted rightly")
    from skl2onnx.common.data_types import StringTensorType

    graph = _graph([vectorizer, *original.steps[1:]], [("X", StringTensorType([None, 1]))], options)
    (folder / MODEL).write_bytes(graph)
    document = Document(
        format=form.FORMAT, kind="graph", input="text", width=1, text=text, outputs=_outputs(original, graph)
    )
    write(document, folder)


def _check_matrix(original: Original) -> None:
    if not original.steps or type(original.steps[-1]).__module__.partition(".")[0] != "sklearn":
        raise NotApplicable("the model is not one of scikit-learn")
    if original.signature.layout != "matrix" or original.signature.width is None:
        raise NotApplicable("its rows are no matrix of numbers")
    for step in original.steps:
        if type(step).__name__ in _SLOWER:
            raise NotApplicable(f"{type(step).__name__} is ten times slower in ONNX Runtime")


def _convert(original: Original, folder: Path, dtype: Any) -> None:
    from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType

    width = original.signature.width
    assert width is not None
    tensor = DoubleTensorType if dtype == "float64" else FloatTensorType
    graph = _graph(list(original.steps), [("X", tensor([None, width]))], {})
    (folder / MODEL).write_bytes(graph)
    refused = _refused(original, width)
    document = Document(
        format=form.FORMAT,
        kind="graph",
        input=dtype,
        width=width,
        refused=refused,
        limits=_limits(original, width) if refused in ("infinity", "missing") else [],
        outputs=_outputs(original, graph),
    )
    write(document, folder)


def _graph(steps: list[Any], inputs: list[Any], options: dict[int, dict[str, Any]]) -> bytes:
    """The steps converted; whatever the converter raises is its reason."""
    from skl2onnx import to_onnx
    from sklearn.pipeline import make_pipeline

    final = steps[-1]
    if type(final).__name__ == "VotingClassifier":  # the converter refuses the default, which plays no part here
        final = copy.copy(final)
        final.flatten_transform = False
    model = make_pipeline(*steps[:-1], final) if len(steps) > 1 else final
    if hasattr(final, "predict_proba"):
        options = options | {id(final): {"zipmap": False}}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what it doubts, the proof looks at
            graph = to_onnx(model, initial_types=inputs, options=options or None, target_opset=OPSETS)
    except Exception as error:  # every converter has exceptions of its own
        reason = " ".join(str(error).split())[:300]
        raise NotApplicable(f"skl2onnx does not convert it: {type(error).__name__}: {reason}") from error
    return bytes(graph.SerializeToString())


def _outputs(original: Original, graph: bytes) -> dict[str, Output]:
    """The original's outputs by the names of the graph's."""
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise NotApplicable(f"ONNX Runtime does not take what skl2onnx made: {reason}") from error
    sources = [output.name for output in session.get_outputs()]
    wanted = set(original.outputs)
    if not wanted <= {"predict", "predict_proba"} or len(sources) < len(wanted):
        raise NotApplicable(f"its outputs are {', '.join(original.outputs)}, and the graph's are {', '.join(sources)}")
    found: dict[str, Output] = {}
    if "predict" in wanted:
        classes = getattr(original.steps[-1], "classes_", None)
        found["predict"] = Output(sources[0], None if classes is None else _converted_labels(classes))
    if "predict_proba" in wanted:
        found["predict_proba"] = Output(sources[1])
    return found


def _converted_labels(classes: Any) -> Labels:
    if isinstance(classes, list):
        raise NotApplicable("it has several targets")
    labels = labels_of(classes)
    if np.dtype(labels.dtype).kind == "f" and any(value != int(value) for value in labels.values):
        raise NotApplicable("its classes are fractions, which ONNX labels are not")
    return labels


def _refused(original: Original, width: int) -> Refused:
    """What the original does not take, by asking it."""
    if _takes(original, width, 0, math.nan):
        return "nothing" if _takes(original, width, 0, math.inf) else "infinity"
    return "missing" if _takes(original, width, 0, 1e39) else "beyond float32"


def _takes(original: Original, width: int, column: int, value: float) -> bool:
    row = np.zeros((1, width))
    row[0, column] = value
    try:
        original.predict(Rows(1, matrix=row))
    except Exception:
        return False
    return True


def _limits(original: Original, width: int) -> list[tuple[float, float]]:
    """The least and the greatest number that each column may have, by asking; none where that is all there are.

    A scaler divides by less than 1, or a square is taken, and what comes after it refuses the infinity.
    """
    found: list[tuple[float, float]] = []
    for column in range(width if width <= _ASKED else 0):
        low, high = (_greatest(partial(_takes, original, width, column), sign) for sign in (-1.0, 1.0))
        found.append((low, high))
    return [] if all(pair == (-_MOST, _MOST) for pair in found) else found


def _greatest(takes: Callable[[float], bool], sign: float) -> float:
    """The number of this sign that is furthest from 0 and taken, to the bit; those below it are, too."""
    if takes(sign * _MOST):
        return sign * _MOST
    low, high = 0, int(np.float64(_MOST).view(np.int64))  # doubles as whole numbers, in the same order
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if takes(sign * float(np.int64(middle).view(np.float64))) else (low, middle)
    return sign * float(np.int64(low).view(np.float64))


def _vectorizer(given: Any) -> tuple[Any, Text, dict[int, dict[str, Any]]]:
    """The vectorizer without what is done to the text before, that, and the converter's options for it."""
    if given.preprocessor is not None or given.tokenizer is not None or callable(given.analyzer):
        raise NotApplicable("the vectorizer calls functions of its own")
    if given.input != "content" or given.analyzer not in ("word", "char"):
        raise NotApplicable(f"a vectorizer with analyzer={given.analyzer!r} is not converted")
    if getattr(given, "sublinear_tf", False):
        raise NotApplicable("sublinear counts are not converted rightly")
    if given.stop_words is not None and given.analyzer == "word" and tuple(given.ngram_range) != (1, 1):
        raise NotApplicable("stop words between the words of an n-gram are not converted rightly")
    if given.strip_accents not in (None, "unicode", "ascii"):
        raise NotApplicable("the vectorizer strips accents by a function of its own")
    vectorizer = copy.copy(given)
    vectorizer.lowercase, vectorizer.strip_accents = False, None
    vectorizer.stop_words = None  # the vocabulary has none of them
    options: dict[str, Any] = {"locale": "C.UTF-8"}
    if given.analyzer == "word":
        if given.token_pattern not in _TOKENS:
            raise NotApplicable(f"the token pattern {given.token_pattern!r} has no equal in RE2")
        options["tokenexp"] = _TOKENS[given.token_pattern]
    text = Text(lower=bool(given.lowercase), accents=given.strip_accents or "kept", spaces=given.analyzer == "char")
    return vectorizer, text, {id(vectorizer): options}


def _xgboost_criterion(original: Original) -> Criterion:
    """1e-6: the sums are XGBoost's, its exponential in float32 is not NumPy's."""
    relative = 0.0 if original.signature.task == "classifier" else 1e-6
    return Criterion(absolute=1e-6, relative=relative)


def _double_criterion(original: Original) -> Criterion:
    relative = 0.0 if original.signature.task == "classifier" else 1e-9
    return Criterion(absolute=1e-9, relative=relative)


def _float_criterion(original: Original) -> Criterion:
    """1e-5 for probabilities; a regression may be off by 1e-6 of itself."""
    return Criterion(absolute=1e-5) if original.signature.task == "classifier" else Criterion(relative=1e-6)


CANDIDATES: Final = (
    Candidate("xgboost-onnx", build_xgboost, _xgboost_criterion),
    Candidate("onnx-double", build_double, _double_criterion, "convert"),
    Candidate("onnx-float", build_float, _float_criterion, "convert", leans=True),
    Candidate("onnx-text", build_text, _float_criterion, "convert", leans=True),
)
