"""One model of each family that people put into production, on synthetic data with fixed seeds.

Each is trained when it is asked for, and handed over with rows as its library takes them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

ROWS, WIDTH = 3000, 13
Make = Callable[[], tuple[Any, Any]]
"""() → the fitted model, and its training rows as its library takes them."""


@dataclass(frozen=True)
class Family:
    name: str
    group: str
    """Which aim it has in `families.AIMS`."""
    make: Make
    suffix: str = ".joblib"


def numbers(*, holes: bool = False, rows: int = ROWS) -> tuple[np.ndarray, np.ndarray]:
    """A matrix, a tenth of it missing on demand, and a score that depends on some of its columns."""
    random = np.random.default_rng(0)
    x = random.normal(size=(rows, WIDTH)) * np.exp(random.uniform(-1.0, 2.0, size=WIDTH))
    score = x[:, 0] / x[:, 0].std() + (x[:, 1] * x[:, 2]) / (x[:, 1] * x[:, 2]).std() + random.normal(size=rows) * 0.5
    if holes:
        x = np.where(random.random(x.shape) < 0.1, np.nan, x)
    return x, score


def classes(score: np.ndarray, count: int = 3) -> np.ndarray:
    """Classes of equal size."""
    ranks = np.argsort(np.argsort(score))
    return ranks * count // len(score)


def codes() -> tuple[np.ndarray, np.ndarray]:
    """A matrix whose last three columns are categories as codes."""
    x, score = numbers()
    random = np.random.default_rng(1)
    x[:, -3:] = random.integers(0, 8, size=(len(x), 3))
    return x, score + np.isin(x[:, -1], [1, 5, 6]) * 2.0


def frame() -> tuple[Any, np.ndarray]:
    """A DataFrame of eight numbers, some missing, and four columns of words."""
    import pandas as pd

    x, score = numbers(holes=True)
    random = np.random.default_rng(2)
    data: dict[str, Any] = {f"number_{index}": x[:, index] for index in range(8)}
    for index, words in enumerate(["red green blue", "yes no", "monthly yearly two_years", "a b c d e f g h i j"]):
        data[f"word_{index}"] = random.choice(np.array(words.split(), dtype=object), size=len(x))
    return pd.DataFrame(data), score + (data["word_1"] == "yes")


def texts() -> tuple[list[str], np.ndarray]:
    """Product descriptions with accents, some words telling the class."""
    random = np.random.default_rng(3)
    common = "de para com em sem mais novo São água edição café preço médio não três İstanbul straße"
    telling = ["livro romance autor capítulo", "boneca jogo peça criança", "batom creme pele maquiagem"]
    kinds = random.integers(0, 3, size=1500)
    found = []
    for kind in kinds:
        words = [*random.choice(common.split(), size=8), *random.choice(telling[kind].split(), size=2)]
        found.append(" ".join(str(word) for word in random.permutation(words)))
    return found, kinds


def _fit(model: Any, *, holes: bool = False, count: int = 3, values: bool = False) -> tuple[Any, Any]:
    x, score = numbers(holes=holes)
    return model.fit(x, score * 100 + 500 if values else classes(score, count)), x


def _logistic() -> tuple[Any, Any]:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return _fit(make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)))


def _linear_svc() -> tuple[Any, Any]:
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import LinearSVC

    return _fit(make_pipeline(StandardScaler(), LinearSVC(random_state=0)))


def _perceptron() -> tuple[Any, Any]:
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return _fit(make_pipeline(StandardScaler(), MLPClassifier((64, 32), max_iter=60, random_state=0)))


def _naive_bayes() -> tuple[Any, Any]:
    from sklearn.naive_bayes import GaussianNB

    return _fit(GaussianNB())


def _calibrated() -> tuple[Any, Any]:
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.svm import LinearSVC

    return _fit(CalibratedClassifierCV(LinearSVC(random_state=0), method="sigmoid"))


def _isotonic() -> tuple[Any, Any]:
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.ensemble import RandomForestClassifier

    return _fit(CalibratedClassifierCV(RandomForestClassifier(20, random_state=0), method="isotonic", cv=3))


def _ridge() -> tuple[Any, Any]:
    from sklearn.linear_model import Ridge

    x, score = numbers()
    return Ridge().fit(x, np.c_[score, score**2]), x


def _support_vectors() -> tuple[Any, Any]:
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    return _fit(make_pipeline(StandardScaler(), SVC(random_state=0)))


def _neighbours() -> tuple[Any, Any]:
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return _fit(make_pipeline(StandardScaler(), KNeighborsClassifier()))


def _function() -> tuple[Any, Any]:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    return _fit(make_pipeline(FunctionTransformer(np.tanh), LogisticRegression(max_iter=1000)))


def _columns(final: Any, *, scale: bool = True) -> tuple[Any, Any]:
    from sklearn.compose import make_column_transformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    data, score = frame()
    words = [name for name in data if name.startswith("word")]
    before = [SimpleImputer(), *([StandardScaler()] if scale else [])]
    pipeline = make_pipeline(
        make_column_transformer(
            (make_pipeline(*before), [name for name in data if name not in words]),
            (OneHotEncoder(handle_unknown="ignore"), words),
        ),
        final,
    )
    return pipeline.fit(data, classes(score)), data


def _frame_logistic() -> tuple[Any, Any]:
    from sklearn.linear_model import LogisticRegression

    return _columns(LogisticRegression(max_iter=1000))


def _frame_forest() -> tuple[Any, Any]:
    from sklearn.ensemble import RandomForestClassifier

    return _columns(RandomForestClassifier(100, max_depth=10, random_state=0), scale=False)


def _frame_boosting() -> tuple[Any, Any]:
    from sklearn.ensemble import GradientBoostingClassifier

    return _columns(GradientBoostingClassifier(n_estimators=50, random_state=0))


def _records() -> tuple[Any, Any]:
    from sklearn.feature_extraction import DictVectorizer
    from sklearn.linear_model import LogisticRegression

    data, score = frame()
    records = data.fillna(0.0).to_dict(orient="records")
    vectorizer = DictVectorizer(sparse=False).fit(records)
    model = LogisticRegression(max_iter=1000).fit(vectorizer.transform(records), classes(score, 2))
    return (vectorizer, model), records


def _tree() -> tuple[Any, Any]:
    from sklearn.tree import DecisionTreeClassifier

    return _fit(DecisionTreeClassifier(random_state=0))


def _forest(trees: int = 100, count: int = 3, **options: Any) -> Make:
    def make() -> tuple[Any, Any]:
        from sklearn.ensemble import RandomForestClassifier

        return _fit(RandomForestClassifier(trees, random_state=0, **options), count=count)

    return make


def _forest_with_holes() -> tuple[Any, Any]:
    from sklearn.ensemble import RandomForestClassifier

    return _fit(RandomForestClassifier(100, random_state=0), holes=True)


def _large_forest() -> tuple[Any, Any]:
    """About 1.5 million nodes."""
    from sklearn.ensemble import RandomForestClassifier

    x, score = numbers(rows=40_000)
    noisy = classes(score + np.random.default_rng(4).normal(size=len(score)) * 2.0)
    return RandomForestClassifier(100, random_state=0, n_jobs=-1).fit(x, noisy), x[:ROWS]


def _extra_trees() -> tuple[Any, Any]:
    from sklearn.ensemble import ExtraTreesClassifier

    return _fit(ExtraTreesClassifier(100, random_state=0))


def _forest_values() -> tuple[Any, Any]:
    from sklearn.ensemble import RandomForestRegressor

    return _fit(RandomForestRegressor(100, random_state=0), values=True)


def _forest_targets() -> tuple[Any, Any]:
    from sklearn.ensemble import RandomForestClassifier

    x, score = numbers()
    return RandomForestClassifier(100, random_state=0).fit(x, np.c_[classes(score), x[:, 3] > 0]), x


def _boosting_targets() -> tuple[Any, Any]:
    from sklearn.ensemble import GradientBoostingRegressor
    from sklearn.multioutput import MultiOutputRegressor

    x, score = numbers()
    model = MultiOutputRegressor(GradientBoostingRegressor(random_state=0))
    return model.fit(x, np.c_[score, score**2]), x


def _boosting() -> tuple[Any, Any]:
    from sklearn.ensemble import GradientBoostingClassifier

    return _fit(GradientBoostingClassifier(random_state=0), count=2)


def _boosting_values() -> tuple[Any, Any]:
    from sklearn.ensemble import GradientBoostingRegressor

    return _fit(GradientBoostingRegressor(random_state=0), values=True)


def _histogram() -> tuple[Any, Any]:
    from sklearn.ensemble import HistGradientBoostingClassifier

    return _fit(HistGradientBoostingClassifier(random_state=0), holes=True, count=2)


def _histogram_categories() -> tuple[Any, Any]:
    from sklearn.ensemble import HistGradientBoostingClassifier

    x, score = codes()
    model = HistGradientBoostingClassifier(random_state=0, categorical_features=[WIDTH - 3, WIDTH - 2, WIDTH - 1])
    return model.fit(x, classes(score, 2)), x


def _isolation() -> tuple[Any, Any]:
    from sklearn.ensemble import IsolationForest

    x, _ = numbers()
    return IsolationForest(n_estimators=100, random_state=0).fit(x), x


def _vote() -> tuple[Any, Any]:
    from sklearn.ensemble import RandomForestClassifier, VotingClassifier
    from sklearn.linear_model import LogisticRegression

    members = [("line", LogisticRegression(max_iter=2000)), ("forest", RandomForestClassifier(50, random_state=0))]
    return _fit(VotingClassifier(members, voting="soft"))


def _stack() -> tuple[Any, Any]:
    from sklearn.ensemble import RandomForestClassifier, StackingClassifier
    from sklearn.linear_model import LogisticRegression

    members = [("line", LogisticRegression(max_iter=2000)), ("forest", RandomForestClassifier(50, random_state=0))]
    return _fit(StackingClassifier(members, cv=3))


def _text(final: str, **options: Any) -> Make:
    def make() -> tuple[Any, Any]:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.naive_bayes import MultinomialNB
        from sklearn.pipeline import make_pipeline

        found, kinds = texts()
        end = MultinomialNB() if final == "bayes" else LogisticRegression(max_iter=1000)
        return make_pipeline(TfidfVectorizer(**options), end).fit(found, kinds), found

    return make


def _xgboost(count: int, *, holes: bool = True) -> Make:
    def make() -> tuple[Any, Any]:
        import xgboost

        if count == 1:
            return _fit(xgboost.XGBRegressor(random_state=0), holes=holes, values=True)
        return _fit(xgboost.XGBClassifier(random_state=0), holes=holes, count=count)

    return make


def _lightgbm(count: int) -> Make:
    def make() -> tuple[Any, Any]:
        import lightgbm

        if count == 1:
            return _fit(lightgbm.LGBMRegressor(verbose=-1), holes=True, values=True)
        return _fit(lightgbm.LGBMClassifier(verbose=-1), holes=True, count=count)

    return make


def _lightgbm_categories() -> tuple[Any, Any]:
    import lightgbm

    x, score = codes()
    model = lightgbm.LGBMClassifier(verbose=-1)
    return model.fit(x, classes(score, 2), categorical_feature=[WIDTH - 3, WIDTH - 2, WIDTH - 1]), x


def _catboost(count: int) -> Make:
    def make() -> tuple[Any, Any]:
        import catboost

        kind = catboost.CatBoostRegressor if count == 1 else catboost.CatBoostClassifier
        model = kind(iterations=200, verbose=0, allow_writing_files=False, random_seed=0)
        return _fit(model, holes=True, count=count, values=count == 1)

    return make


def _catboost_words() -> tuple[Any, Any]:
    import catboost

    data, score = frame()
    model = catboost.CatBoostClassifier(
        iterations=100, verbose=0, allow_writing_files=False, random_seed=0, cat_features=[8, 9, 10, 11]
    )
    return model.fit(data, classes(score, 2)), data


FAMILIES = (
    Family("scaler + logistic regression", "line", _logistic),
    Family("scaler + linear SVC", "line", _linear_svc),
    Family("scaler + perceptron 64-32", "line", _perceptron),
    Family("Gaussian naive Bayes", "line", _naive_bayes),
    Family("sigmoid calibration of a linear SVC", "line", _calibrated),
    Family("ridge, 2 targets", "line", _ridge),
    Family("function transformer + logistic", "other", _function),
    Family("scaler + SVC, rbf", "other", _support_vectors),
    Family("scaler + nearest neighbours", "other", _neighbours),
    Family("DataFrame: impute, scale, one-hot + logistic", "frame", _frame_logistic),
    Family("DataFrame: impute, one-hot + forest", "frame", _frame_forest),
    Family("DataFrame: impute, scale, one-hot + boosting", "frame", _frame_boosting),
    Family("dicts: DictVectorizer + logistic", "records", _records),
    Family("decision tree", "other", _tree),
    Family("random forest, 100 trees", "forest", _forest()),
    Family("random forest, 500 trees, depth 8", "forest", _forest(500, max_depth=8)),
    Family("random forest, 50 trees, 2 classes (ties)", "forest", _forest(50, 2)),
    Family("random forest trained on missing values", "forest", _forest_with_holes),
    Family("random forest, 1.5 million nodes", "large forest", _large_forest),
    Family("extra trees, 100", "forest", _extra_trees),
    Family("random forest, regression", "forest", _forest_values),
    Family("random forest, 2 targets", "forest", _forest_targets),
    Family("gradient boosting", "boosting", _boosting),
    Family("gradient boosting, regression", "boosting", _boosting_values),
    Family("gradient boosting, 2 targets", "boosting", _boosting_targets),
    Family("histogram boosting, missing values", "boosting", _histogram),
    Family("histogram boosting, categories", "boosting", _histogram_categories),
    Family("isolation forest", "isolation", _isolation),
    Family("isotonic calibration of a forest", "other", _isotonic),
    Family("soft vote: logistic, forest", "other", _vote),
    Family("stack: logistic, forest", "other", _stack),
    Family("words: tf-idf + naive Bayes", "text", _text("bayes")),
    Family("words, 1-2-grams: tf-idf + logistic", "text", _text("logistic", ngram_range=(1, 2))),
    Family("characters 2-4: tf-idf + logistic", "text", _text("logistic", analyzer="char", ngram_range=(2, 4))),
    Family("characters, sublinear", "text", _text("logistic", analyzer="char", sublinear_tf=True, ngram_range=(2, 4))),
    Family("characters in words", "text", _text("logistic", analyzer="char_wb", ngram_range=(2, 4))),
    Family("words without accents", "text", _text("bayes", strip_accents="unicode")),
    Family("XGBoost, 2 classes", "xgboost", _xgboost(2)),
    Family("XGBoost, 3 classes", "xgboost", _xgboost(3)),
    Family("XGBoost, regression", "xgboost", _xgboost(1)),
    Family("LightGBM, 2 classes", "boosting", _lightgbm(2)),
    Family("LightGBM, 3 classes", "boosting", _lightgbm(3)),
    Family("LightGBM, categories", "boosting", _lightgbm_categories),
    Family("LightGBM, regression", "boosting", _lightgbm(1)),
    Family("CatBoost, 2 classes", "catboost", _catboost(2)),
    Family("CatBoost, 3 classes", "catboost", _catboost(3)),
    Family("CatBoost, regression", "catboost", _catboost(1)),
    Family("CatBoost, words", "other", _catboost_words),
)
