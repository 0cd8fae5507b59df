"""Forms of trees: which models they are built for, and what is made of the trees' sums."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from lagar import native
from lagar.forms import columns, tree_models, tree_text, tree_xgboost
from lagar.forms.boosters import xgboost_answer
from lagar.forms.candidates import EXACT, Candidate, Criterion, NotApplicable
from lagar.forms.flow import Column, Flow
from lagar.forms.original import Original
from lagar.forms.trees import Trees, Way, graph, join, layout_of, packed, refuse_too_large, table_of
from lagar.runtimes.answers import Labels
from lagar.runtimes.arrays import ARRAYS, save
from lagar.runtimes.column_sources import AnySource, Fields, Join, Lookup, Records, Table
from lagar.runtimes.column_steps import Impute
from lagar.runtimes.form import DOCUMENT
from lagar.runtimes.form_trees import TreesForm
from lagar.runtimes.tree_end import TABLES, Categories, End
from lagar.runtimes.tree_finish import AnyFinish, Boosted, Isolation, Margins, Scores, Several, Shares, Values
from lagar.runtimes.tree_walks import GRAPH
from lagar.types import Array

FORESTS = {
    "RandomForestClassifier", "RandomForestRegressor", "ExtraTreesClassifier", "ExtraTreesRegressor",
}  # fmt: skip
SINGLE = {"DecisionTreeClassifier", "DecisionTreeRegressor", "ExtraTreeClassifier", "ExtraTreeRegressor"}
BOOSTED = {"GradientBoostingClassifier", "GradientBoostingRegressor"}
HISTOGRAM = {"HistGradientBoostingClassifier", "HistGradientBoostingRegressor"}
TARGETS = "MultiOutputRegressor"
LEAST_NODES_BY_TREE = 20_000
"""Smaller trees stay in the processor's cache however they are walked through."""
MOST_TREES_BY_TREE = 2_000
_SQUARED = {"regression", "regression_l1", "huber", "fair"}
_EXPONENT = {"poisson", "gamma", "tweedie"}
_AS_THEY_ARE = {"", "custom", "none", "quantile", "mape", "lambdarank", "rank_xendcg"} | _SQUARED


class Plan(msgspec.Struct):
    """Trees read from a model, and how they are fed and finished."""

    trees: Trees
    finish: AnyFinish
    nan: bool
    infinite: bool
    snap: bool = False
    zero_missing: list[int] = []
    values: dict[int, Array] = {}
    """Per column with categories the value of each code, ascending."""
    texts: dict[int, list[Any]] = {}
    """Per column of the caller the texts, by code: they become codes before the trees see them."""
    finite: list[int] = []
    """Columns in which infinity is refused, though not elsewhere: the encoder of categories does."""
    narrow_sums: bool = False
    """Leaves are added up in float32."""
    absent_missing: bool = False
    """What a sparse matrix leaves out is missing."""


def criterion(original: Original) -> Criterion:
    """Bit for bit for what adds up leaves; 1e-12 where an exponential comes after, 1e-6 where that is in float32."""
    final = original.steps[-1] if original.steps else None
    if type(final).__name__ in FORESTS | SINGLE:
        return EXACT
    inner = getattr(final, "estimators_", [final])[0] if type(final).__name__ == TARGETS else final
    absolute = 1e-6 if _library(inner) == "xgboost" else 1e-12
    return Criterion(absolute, 0.0 if original.signature.task == "classifier" else absolute)


def build(original: Original, folder: Path) -> None:
    """One operator with all trees: the quickest for single rows."""
    write_form(original, planned(original), folder, "at once")


def build_by_tree(original: Original, folder: Path) -> None:
    """One operator a tree: the quickest for large blocks through large forests."""
    plan = planned(original)
    if plan.trees.nodes < LEAST_NODES_BY_TREE:
        raise NotApplicable(f"its {plan.trees.nodes:,} nodes stay in the processor's cache however they are walked")
    if plan.trees.count > MOST_TREES_BY_TREE:
        raise NotApplicable(f"one operator for each of {plan.trees.count:,} trees is slower than one for all")
    write_form(original, plan, folder, "by tree")


def build_native(original: Original, folder: Path) -> None:
    """Lagar's own machine code, where it was compiled for this machine."""
    if native.library() is None:
        raise NotApplicable("this installation has no compiled walk through trees: a C compiler makes it")
    write_form(original, planned(original), folder, "native")


def planned(original: Original) -> Plan:
    """The trees of the original's last step; raises NotApplicable."""
    if not original.steps or original.signature.fields is None:
        raise NotApplicable("it is no ensemble of trees with known inputs")
    plan = plan_of(original.steps[-1])
    return msgspec.structs.replace(plan, finish=_raw(plan.finish)) if original.answers_raw else plan


def _raw(finish: AnyFinish) -> AnyFinish:
    """The booster's own numbers in place of labels."""
    if isinstance(finish, Boosted):
        return msgspec.structs.replace(finish, labels=None)
    if isinstance(finish, Margins):
        reading = msgspec.structs.replace(finish.reading, form="value", labels=None, many=False)
        return msgspec.structs.replace(finish, reading=reading)
    raise NotApplicable("what its booster itself answers is not known to the exporter")


def write_form(original: Original, plan: Plan, folder: Path, way: Way) -> None:
    """The form of an original whose trees are known: the steps before them as a source of columns, then the trees."""
    refuse_too_large(plan.trees.nodes, way)
    flow = _flow(original, plan)
    if flow.sparse:
        plan = _of_sparse(plan, original.steps[-1])
        flow = _flow(original, plan)
        if plan.absent_missing:
            flow = _absent_missing(flow)
    if flow.width != plan.trees.width:
        raise NotApplicable(f"the trees take {plan.trees.width} columns and the steps make {flow.width}")
    source = _coded(flow, plan) if plan.texts else flow.source()
    end = write(plan, folder, way)
    form = TreesForm(end=end, source=source, arrays=len(flow.sheet.arrays))
    (folder / DOCUMENT).write_bytes(msgspec.json.encode(form))
    if flow.sheet.arrays:
        save(folder / ARRAYS, flow.sheet.arrays)


def _flow(original: Original, plan: Plan) -> Flow:
    """The columns that come to the trees."""
    flow = columns.start(original.signature, original.steps[0])
    return columns.walk(original.steps[:-1], flow, refused_later=not plan.nan)


def _of_sparse(plan: Plan, final: Any) -> Plan:
    """The plan where the library gets a sparse matrix: what is not in it is missing to XGBoost and 0 to the others.

    LightGBM takes the values of such a matrix as they are, and scikit-learn's trees no NaN.
    """
    root = _library(final)
    if root == "xgboost":
        return msgspec.structs.replace(plan, absent_missing=True)
    if root == "lightgbm":
        return msgspec.structs.replace(plan, snap=False)
    nan, infinite = _lets_through(final, sparse=True)
    return msgspec.structs.replace(plan, nan=nan, infinite=infinite)


def _absent_missing(flow: Flow) -> Flow:
    """Zeros as NaN, but for a DictVectorizer's numbers, which are in its matrix when they are 0."""
    fills = np.full(flow.width, np.nan)
    (first, *others) = flow.sources()
    if isinstance(first, Records) and not others:
        fills[[entry.number for entry in first.entries if entry.number >= 0]] = 0.0
    return flow.stepped([Impute(flow.sheet.add(fills), marker=0.0)], flow.width)


def write(plan: Plan, folder: Path, way: Way) -> End:
    """The trees and their tables as files; the document says how a `TreeEnd` runs them."""
    if plan.narrow_sums and way != "native":
        raise NotApplicable("its sums are in float32, which only the compiled walk and XGBoost's own forms add in")
    trees = plan.trees
    arrays: dict[str, Array] = {}
    categories = _tables(plan, arrays)
    if way == "native":
        arrays["leaves"], rows = table_of(trees)
        arrays["nodes"], arrays["roots"] = packed(trees, rows)
        targets = np.zeros(trees.count) if trees.target is None else trees.target
        arrays["targets"] = targets.astype(np.int32)
        if plan.narrow_sums:
            arrays["leaves"] = arrays["leaves"].astype(np.float32)
        walk, narrow = "native", trees.single
    else:
        by_tree = way == "by tree"
        if by_tree and not _in_turns(trees):
            raise NotApplicable("the trees of one target stand behind those of another")
        layout = layout_of(trees)
        narrow = False
        if layout == "leaf":
            arrays["leaves"], rows = table_of(trees)
            narrow = trees.single and len(arrays["leaves"]) < 1 << 24
            weights = rows.astype(np.float32 if narrow else np.float64)
        else:
            weights = trees.values[:, 0]
        (folder / GRAPH).write_bytes(graph(trees, weights, by_tree, missing=plan.nan))
        walk = f"{layout} by tree" if by_tree else layout
    if arrays:
        save(folder / TABLES, arrays.values())
    return End(
        width=trees.width,
        trees=trees.count,
        targets=trees.targets,
        walk=walk,  # type: ignore[arg-type]  # one of the words, put together
        single=trees.single,
        narrow=narrow,
        sums="float32" if plan.narrow_sums else "float64",
        finish=plan.finish,
        nan=plan.nan,
        infinite=plan.infinite,
        finite=[column for column in plan.finite if column not in plan.texts],
        snap=plan.snap,
        zero_missing=plan.zero_missing,
        categories=categories,
        tables=list(arrays),
    )


def _in_turns(trees: Trees) -> bool:
    """Whether the trees add to the first target, the second, … and again: what a walk tree by tree counts on."""
    return trees.target is None or np.array_equal(trees.target, np.resize(np.arange(trees.targets), trees.count))


def _tables(plan: Plan, arrays: dict[str, Array]) -> list[Categories]:
    """The members' columns sorted by the column that they look at, and a table for each of those."""
    trees = plan.trees
    by_source: dict[int, list[int]] = {}
    for index, member in enumerate(trees.members):
        by_source.setdefault(member.source, []).append(index)
    place = np.arange(trees.width + len(trees.members))
    found, first = [], trees.width
    for source, members in sorted(by_source.items()):
        place[trees.width + np.array(members)] = first + np.arange(len(members))
        rights = [trees.members[index].right for index in members]
        values = plan.values.get(source)
        codes = max(len(right) - 1 for right in rights) if values is None else len(values)
        table = np.empty((codes + 1, len(members)))
        for column, right in enumerate(rights):
            table[:, column] = right[-1]
            known = min(codes, len(right) - 1)
            table[:known, column] = right[:known]
        arrays[f"splits{source}"] = table
        if values is not None:
            arrays[f"values{source}"] = values
        found.append(
            Categories(
                source=source,
                first=first,
                table=f"splits{source}",
                values=None if values is None else f"values{source}",
            )
        )
        first += len(members)
    trees.feature = place[trees.feature]
    return found


def _coded(flow: Flow, plan: Plan) -> AnySource:
    """The caller's columns with the code of each text: NaN where it has none."""
    fields = [piece.field for piece in flow.pieces if isinstance(piece, Column) and not piece.replaced]
    if len(fields) < len(flow.pieces) or None in fields:
        raise NotApplicable("other steps stand between the caller's texts and the trees that split by them")
    parts: list[AnySource] = []
    for index, field in enumerate(field for field in fields if field is not None):
        texts = plan.texts.get(index)
        if texts is None:
            if parts and isinstance(parts[-1], Fields):
                parts[-1].fields.append(field)
            else:
                parts.append(Fields([field]))
            continue
        codes = len(texts)
        table = Table(field, texts, list(range(codes)), codes, codes, index in plan.finite)
        parts.append(Lookup([table], [flow.sheet.add(np.append(np.arange(codes, dtype=np.float64), np.nan)[:, None])]))
    return parts[0] if len(parts) == 1 else Join(parts)


def plan_of(final: Any) -> Plan:
    """The trees of an estimator and how they are run; raises NotApplicable."""
    root, name = _library(final), type(final).__name__
    if root == "lightgbm":
        return _lightgbm(final)
    if root == "xgboost":
        return _xgboost(final)
    if root != "sklearn":
        raise NotApplicable(f"{name} is no ensemble of trees that Lagar exports")
    if name in FORESTS | SINGLE:
        return _forest(final, final.estimators_ if name in FORESTS else [final], None if name in SINGLE else 1.0)
    if name in BOOSTED:
        return _boosting(final)
    if name in HISTOGRAM:
        return _histogram(final)
    if name == "IsolationForest":
        return _isolation(final)
    if name == TARGETS:
        return _targets(final)
    raise NotApplicable(f"{name} is no ensemble of trees that Lagar exports")


def _forest(model: Any, estimators: Any, divide: float | None) -> Plan:
    trees = tree_models.forest(estimators, model.n_features_in_)
    divide = None if divide is None else float(len(estimators))
    finish: AnyFinish
    if not hasattr(model, "classes_"):
        finish = Values(divide)
        if trees.values.shape[1] == 1:
            trees.target = np.zeros(trees.count, dtype=np.int64)
    elif model.n_outputs_ == 1:
        finish = Shares(_labels(model.classes_), divide)
    else:
        finish = _several(model, int(estimators[0].tree_.max_n_classes), divide)
    return Plan(trees, finish, *_lets_through(model))


def _several(model: Any, width: int, divide: float | None) -> Several:
    """Several targets: their labels go into one array of the type of the first target's."""
    labels = [_labels(classes) for classes in model.classes_]
    dtype = np.asarray(model.classes_[0]).dtype
    if dtype.kind not in "biufU":
        raise NotApplicable(f"the labels of its first target are {dtype}")
    kinds = {"b": "|b1", "i": "<i8", "u": "<i8", "f": "<f8"}
    return Several(labels, width, kinds.get(dtype.kind, dtype.str), divide)


def _boosting(model: Any) -> Plan:
    init = model.init_
    if not (isinstance(init, str) or type(init).__name__ in {"DummyClassifier", "DummyRegressor"}):
        raise NotApplicable(f"it starts from the predictions of a {type(init).__name__} (init)")
    if type(init).__name__ == "DummyClassifier" and init.strategy not in {"prior", "most_frequent", "constant"}:
        raise NotApplicable(f"it starts from random predictions (strategy {init.strategy!r})")
    zeros = np.zeros((1, model.n_features_in_), dtype=np.float32)
    trees = tree_models.boosting(model, model._raw_predict_init(zeros)[0])
    if not hasattr(model, "classes_"):
        return Plan(trees, Values(), *_lets_through(model))
    return Plan(trees, Scores(_labels(model.classes_), _link(model), zero=1), *_lets_through(model))


def _histogram(model: Any) -> Plan:
    trees = tree_models.histogram(model)
    order, categories = tree_models.histogram_columns(model)
    place = np.array(order)
    numeric = trees.feature < trees.width
    trees.feature[numeric] = place[trees.feature[numeric]]
    plan = Plan(trees, Values(), nan=True, infinite=True, finite=[order[index] for index in categories])
    for member in trees.members:
        member.source = order[member.source]
    for index, values in categories.items():
        if all(type(value) in (int, float, bool) for value in values):
            plan.values[order[index]] = np.array(values, dtype=np.float64)
        elif all(type(value) is str for value in values):
            plan.texts[order[index]] = values
        else:
            raise NotApplicable(f"the categories of column {order[index]} are of several types")
    if hasattr(model, "classes_"):
        plan.finish = Scores(_labels(model.classes_), _link(model), zero=0, by_class=True)
        return plan
    link = type(model._loss.link).__name__
    if link not in {"IdentityLink", "LogLink"}:
        raise NotApplicable(f"the link of its loss is {link}")
    plan.finish = Values(exponential=link == "LogLink")
    return plan


def _isolation(model: Any) -> Plan:
    from sklearn.ensemble._iforest import _average_path_length

    trees = tree_models.isolation(model)
    length = float(_average_path_length([model._max_samples])[0])
    finish = Isolation(denominator=len(model.estimators_) * length, offset=float(model.offset_))
    return Plan(trees, finish, *_lets_through(model))


def _lightgbm(model: Any) -> Plan:
    from lagar.runtimes import lightgbm

    head = lightgbm.head_of(model, 1)
    text = tree_text.parse(head.booster.model_to_string())
    labels = None if head.labels is None else _labels(head.labels)
    _, categories, _ = lightgbm.fields_of(head.booster)
    return Plan(
        text.trees,
        _converted(text, labels),
        nan=True,
        infinite=True,
        snap=text.snap,
        zero_missing=text.zero_missing,
        texts={index: list(values) for index, values in categories.items()},
    )


def _xgboost(model: Any) -> Plan:
    from lagar.runtimes import xgboost

    head = xgboost.head_of(model, 1)
    if not math.isnan(float(head.missing)):
        raise NotApplicable(f"{head.missing} means missing; the booster's own form takes that")
    _, categories = xgboost.fields_of(head.booster)
    if categories:
        raise NotApplicable("it takes categories; the booster's own form does")
    document = tree_xgboost.read(head.booster)
    finish: Any = tree_xgboost.finish_of(tree_xgboost.objective_of(document))
    reading = msgspec.structs.replace(xgboost_answer(head), finish=finish, finished=True)
    trees = tree_xgboost.trees_of(document, head.iterations)
    return Plan(trees, Margins(reading), nan=True, infinite=True, narrow_sums=True)


def _targets(model: Any) -> Plan:
    """One regressor for each target: their trees side by side, each adding to its own."""
    plans = [plan_of(estimator) for estimator in model.estimators_]
    first = plans[0]
    if any(_way_in(plan) != _way_in(first) or plan.finish != first.finish for plan in plans):
        raise NotApplicable("the regressors of its targets are of several kinds")
    if any(plan.trees.targets > 1 or plan.trees.members or plan.texts for plan in plans):
        raise NotApplicable("the regressors of its targets split by categories, or have several targets of their own")
    for number, plan in enumerate(plans):
        plan.trees.target = np.full(plan.trees.count, number, dtype=np.int64)
    snap = any(plan.snap for plan in plans)  # said where it matters; elsewhere it changes nothing
    return msgspec.structs.replace(first, trees=join([plan.trees for plan in plans]), snap=snap)


def _way_in(plan: Plan) -> tuple[object, ...]:
    """How rows come to the trees."""
    return (
        plan.nan, plan.infinite, plan.zero_missing, plan.finite, plan.narrow_sums, plan.trees.single, plan.trees.width,
    )  # fmt: skip


def _library(estimator: Any) -> str:
    return type(estimator).__module__.partition(".")[0]


def _converted(text: tree_text.BoosterText, labels: Labels | None) -> Boosted:
    name, *options = text.objective.split() or [""]
    settings = dict(option.partition(":")[::2] for option in options)
    convert: Literal["none", "sigmoid", "softmax", "exp", "square", "log1p_exp"]
    if name in {"binary", "multiclassova", "cross_entropy"}:
        convert = "sigmoid"
    elif name == "multiclass":
        convert = "softmax"
    elif name in _EXPONENT:
        convert = "exp"
    elif name == "cross_entropy_lambda":
        convert = "log1p_exp"
    elif name in _AS_THEY_ARE:
        convert = "square" if "sqrt" in options and name in _SQUARED else "none"
    else:
        raise NotApplicable(f"what the objective {name} makes of its trees' sums is not known to Lagar")
    return Boosted(
        convert,
        sigmoid=float(settings.get("sigmoid", 1.0)),
        divide=float(text.iterations) if text.average else None,
        labels=labels,
    )


def _labels(classes: Any) -> Labels:
    labels = Labels.of(classes)
    if labels is None:
        raise NotApplicable("its classes are of several types")
    return labels


def _link(model: Any) -> Literal["logit", "half_logit", "softmax"]:
    name = type(model._loss.link).__name__
    links: dict[str, Literal["logit", "half_logit", "softmax"]] = {
        "LogitLink": "logit", "HalfLogitLink": "half_logit", "MultinomialLogit": "softmax",
    }  # fmt: skip
    if name not in links:
        raise NotApplicable(f"the link of its loss is {name}")
    return links[name]


def _lets_through(model: Any, *, sparse: bool = False) -> tuple[bool, bool]:
    """Whether the estimator's own validation lets NaN and infinity through: asked of itself."""
    found = []
    for value in (np.nan, np.inf):
        row: Any = np.full((1, model.n_features_in_), value)
        if sparse:
            from scipy.sparse import csr_matrix

            row = csr_matrix(row)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                model.predict(row)
            except ValueError:
                found.append(False)
            else:
                found.append(True)
    return found[0], found[1]


CANDIDATES = (
    Candidate("trees", build, criterion),
    Candidate("trees-block", build_by_tree, criterion),
    Candidate(native.FORM, build_native, criterion),
)
