"""scikit-learn: Lagar's answers are the library's own to the last bit, and the signature says what the model takes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.cluster import DBSCAN, KMeans
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_diabetes, load_wine
from sklearn.decomposition import PCA
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    IsolationForest,
    RandomForestClassifier,
    RandomForestRegressor,
    StackingClassifier,
    VotingClassifier,
)
from sklearn.feature_extraction import DictVectorizer
from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer, TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV
from sklearn.multioutput import ClassifierChain, MultiOutputClassifier
from sklearn.naive_bayes import GaussianNB, MultinomialNB
from sklearn.neighbors import KNeighborsClassifier, LocalOutlierFactor
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import LabelEncoder, OneHotEncoder, OrdinalEncoder, StandardScaler
from sklearn.svm import SVC, LinearSVC
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from lagar.errors import InvalidInput, LoadFailed, UnsupportedModel
from lagar.types import Rows
from runtimes.conftest import answers, load, rows_of, same

WINE, KIND = load_wine(return_X_y=True, as_frame=True)
NAMES = KIND.map({0: "red", 1: "rosé", 2: "white"})
DIABETES, PROGRESS = load_diabetes(return_X_y=True, as_frame=True)

CLASSIFIERS = {
    "forest": RandomForestClassifier(10, random_state=0),
    "forest of shallow trees": RandomForestClassifier(10, max_depth=3, class_weight="balanced", random_state=0),
    "extra trees with jobs": ExtraTreesClassifier(10, n_jobs=2, random_state=0),
    "tree": DecisionTreeClassifier(max_depth=4, random_state=0),
    "scaled logistic": make_pipeline(StandardScaler(), LogisticRegression()),
    "liblinear": LogisticRegression(solver="newton-cholesky", C=0.5, max_iter=500),
    "naive Bayes": GaussianNB(),
    "neighbours": KNeighborsClassifier(3),
    "gradient boosting": GradientBoostingClassifier(n_estimators=5, random_state=0),
    "hist gradient boosting": HistGradientBoostingClassifier(max_iter=5, random_state=0),
    "svc": make_pipeline(StandardScaler(), SVC(random_state=0)),
    "linear svc": make_pipeline(StandardScaler(), LinearSVC(random_state=0)),
    "perceptron": make_pipeline(StandardScaler(), MLPClassifier((4,), max_iter=2000, random_state=0)),
    "calibrated": CalibratedClassifierCV(GaussianNB(), cv=2),
    "voting": VotingClassifier([("a", GaussianNB()), ("b", DecisionTreeClassifier(random_state=0))], voting="soft"),
    "stacking": StackingClassifier([("a", GaussianNB()), ("b", DecisionTreeClassifier(random_state=0))], cv=2),
    "search": GridSearchCV(
        make_pipeline(StandardScaler(), LogisticRegression()), {"logisticregression__C": [1.0]}, cv=2
    ),
}


@pytest.mark.parametrize("labels", [KIND, NAMES, KIND == 1], ids=["ints", "words", "booleans"])
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_classifier_answers_its_own_labels_and_probabilities(saved: Any, name: str, labels: Any) -> None:
    model = CLASSIFIERS[name].fit(WINE, labels)
    loaded = saved(model)
    found = answers(loaded, WINE)
    same(found["predict"], model.predict(WINE))
    assert loaded.signature.classes == tuple(model.classes_.tolist())
    assert loaded.signature.names == tuple(WINE.columns)
    assert (loaded.signature.layout, loaded.signature.named) == ("matrix", True)
    if hasattr(model, "predict_proba"):
        same(found["predict_proba"], model.predict_proba(WINE))
        same(answers(loaded, WINE, "predict")["predict"], model.predict(WINE))
        same(answers(loaded, WINE, "predict_proba")["predict_proba"], model.predict_proba(WINE))
    else:
        assert loaded.signature.native_outputs == ("predict",)


@pytest.mark.parametrize(
    "model",
    [
        LinearRegression(),
        Ridge(),
        RandomForestRegressor(10, random_state=0),
        ExtraTreesRegressor(10, random_state=0),
        DecisionTreeRegressor(random_state=0),
    ],
    ids=lambda model: type(model).__name__,
)
@pytest.mark.parametrize("targets", [1, 2])
def test_a_regressor_answers_one_value_per_target(saved: Any, model: Any, targets: int) -> None:
    y = PROGRESS if targets == 1 else np.column_stack([PROGRESS, -PROGRESS])
    model = model.fit(DIABETES, y)
    loaded = saved(model)
    same(answers(loaded, DIABETES)["predict"], model.predict(DIABETES))
    assert loaded.signature.task == "regressor"
    (output,) = loaded.signature.outputs
    assert (output.datatype, output.shape) == ("FP64", () if targets == 1 else (2,))


def test_several_targets_have_one_probability_output_each(saved: Any) -> None:
    y = np.column_stack([KIND, KIND == 1]).astype(int)
    for model in (RandomForestClassifier(5, random_state=0), MultiOutputClassifier(GaussianNB())):
        model.fit(WINE, y)
        loaded = saved(model)
        found = answers(loaded, WINE)
        same(found["predict"], model.predict(WINE))
        first, second = model.predict_proba(WINE)
        same(found["predict_proba_0"], first)
        same(found["predict_proba_1"], second)
        assert loaded.signature.native_outputs == ("predict", "predict_proba_0", "predict_proba_1")
        assert [output.classes for output in loaded.signature.outputs] == [None, (0, 1, 2), (0, 1)]


def test_a_chain_of_classifiers_answers_one_matrix_of_probabilities(saved: Any) -> None:
    y = np.column_stack([KIND == 1, KIND == 2]).astype(int)
    model = ClassifierChain(GaussianNB()).fit(WINE, y)
    found = answers(saved(model), WINE)
    same(found["predict"], model.predict(WINE))
    same(found["predict_proba"], model.predict_proba(WINE))


def test_kmeans_answers_clusters_and_on_request_distances(saved: Any) -> None:
    model = KMeans(3, n_init=1, random_state=0).fit(WINE)
    loaded = saved(model)
    found = answers(loaded, WINE)
    same(found["predict"], model.predict(WINE))
    same(found["transform"], model.transform(WINE))
    assert (loaded.signature.task, loaded.signature.native_outputs) == ("clusterer", ("predict",))
    assert loaded.signature.output("predict").datatype == "INT64"


def test_a_mixture_answers_component_probabilities(saved: Any) -> None:
    model = GaussianMixture(2, random_state=0).fit(WINE)
    loaded = saved(model)
    same(answers(loaded, WINE)["predict_proba"], model.predict_proba(WINE))
    assert loaded.signature.task == "clusterer"


@pytest.mark.parametrize("model", [IsolationForest(n_estimators=10, random_state=0), LocalOutlierFactor(novelty=True)])
def test_an_outlier_detector_answers_its_sign_and_score(saved: Any, model: Any) -> None:
    model.fit(WINE.to_numpy())
    loaded = saved(model)
    found = answers(loaded, WINE.to_numpy())
    same(found["predict"], model.predict(WINE.to_numpy()))
    same(found["decision_function"], model.decision_function(WINE.to_numpy()))
    assert loaded.signature.task == "outlier"


def test_a_transformer_alone_answers_transformed_rows(saved: Any) -> None:
    model = make_pipeline(StandardScaler(), PCA(2)).fit(WINE)
    loaded = saved(model)
    same(answers(loaded, WINE)["transform"], model.transform(WINE))
    assert (loaded.signature.task, loaded.signature.output("transform").shape) == ("transformer", (2,))


def test_estimators_that_cannot_place_new_rows_are_refused(saved: Any) -> None:
    with pytest.raises(UnsupportedModel, match="DBSCAN cannot place new rows"):
        saved(DBSCAN().fit(WINE))
    with pytest.raises(UnsupportedModel, match=r"LocalOutlierFactor has no predict for new rows; .*novelty=True"):
        saved(LocalOutlierFactor().fit(WINE))


def test_names_are_x0_x1_when_the_model_has_none(saved: Any) -> None:
    loaded = saved(LogisticRegression(max_iter=5000).fit(WINE.to_numpy()[:, :3], KIND))
    assert loaded.signature.names == ("x0", "x1", "x2")
    assert not loaded.signature.named


def churn_tuple() -> tuple[Any, Any, list[dict[str, Any]]]:
    rng = np.random.default_rng(3)
    records = [
        {"contract": str(c), "tenure": int(t), "charges": round(float(m), 2), "partner": str(p)}
        for c, t, m, p in zip(
            rng.choice(["month-to-month", "one_year", "two_year"], 80),
            rng.integers(0, 70, 80),
            rng.uniform(20, 100, 80),
            rng.choice(["yes", "no"], 80),
            strict=True,
        )
    ]
    vectorizer = DictVectorizer(sparse=False)
    x = vectorizer.fit_transform(records)
    model = LogisticRegression(solver="liblinear", C=0.5).fit(x, [record["tenure"] < 30 for record in records])
    return vectorizer, model, records


@pytest.mark.parametrize("pack", [lambda v, m: (v, m), lambda v, m: [v, m], lambda v, m: (m, v)])
def test_a_pickled_vectorizer_and_model_answer_records(saved: Any, pack: Any) -> None:
    vectorizer, model, records = churn_tuple()
    loaded = saved(pack(vectorizer, model), "churn-model.bin")
    x = vectorizer.transform(records)
    found = answers(loaded, records)
    same(found["predict_proba"], model.predict_proba(x))
    same(found["predict"], model.predict(x))
    fields = {field.name: field for field in loaded.signature.fields}
    assert fields["contract"].categories == ("month-to-month", "one_year", "two_year")
    assert (fields["contract"].type, fields["contract"].unknown) == ("string", "refuse")
    assert (fields["tenure"].type, fields["tenure"].categories) == ("float", None)
    assert loaded.signature.classes == (False, True)
    assert loaded.source.name == "churn-model"


def test_a_sparse_vectorizer_pipeline_gives_the_same_bits_as_its_own_rows(saved: Any) -> None:
    _, _, records = churn_tuple()
    model = make_pipeline(DictVectorizer(), LogisticRegression(max_iter=5000))
    model.fit(records, [record["tenure"] < 30 for record in records])
    loaded = saved(model)
    ordered = [{name: record[name] for name in loaded.signature.names} for record in records]
    same(answers(loaded, records)["predict_proba"], model.predict_proba(ordered))


@pytest.mark.parametrize("vectorizer", [CountVectorizer(), TfidfVectorizer(), HashingVectorizer(alternate_sign=False)])
def test_a_text_model_takes_one_field_of_text(saved: Any, vectorizer: Any) -> None:
    texts = ["dark souls game", "batom vermelho", "o senhor dos anéis livro", "boneca de plástico"] * 3
    model = make_pipeline(vectorizer, MultinomialNB()).fit(texts, ["game", "maquiagem", "livro", "brinquedo"] * 3)
    loaded = saved(model)
    found = answers(loaded, [{"text": text} for text in texts])
    same(found["predict"], model.predict(texts))
    same(found["predict_proba"], model.predict_proba(texts))
    (field,) = loaded.signature.fields
    assert (field.name, field.type, loaded.signature.layout) == ("text", "string", "columns")
    assert loaded.signature.output("predict").datatype == "BYTES"
    assert isinstance(loaded.signature.example[0]["text"], str)


def heart() -> tuple[pd.DataFrame, Any]:
    rng = np.random.default_rng(5)
    frame = pd.DataFrame(
        {
            "age": rng.integers(30, 70, 60).astype(float),
            "chol": rng.normal(240, 30, 60),
            "sex": rng.choice(["f", "m"], 60),
            "thal": rng.choice(["normal", "fixed", "reversible"], 60),
            "grade": rng.integers(1, 4, 60),
            "id": [f"p{index}" for index in range(60)],
        }
    )
    frame.loc[::7, "chol"] = np.nan
    return frame, (frame["age"] > 50).astype(int)


def heart_pipeline() -> Any:
    return make_pipeline(
        ColumnTransformer(
            [
                ("numbers", make_pipeline(SimpleImputer(), StandardScaler()), ["age", "chol"]),
                ("sex", OneHotEncoder(), ["sex"]),
                ("thal", OneHotEncoder(handle_unknown="ignore"), ["thal"]),
                ("grade", OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1), ["grade"]),
            ]
        ),
        LogisticRegression(),
    )


def test_a_column_transformer_gets_a_frame_and_tells_its_categories(saved: Any) -> None:
    frame, target = heart()
    model = heart_pipeline().fit(frame, target)
    loaded = saved(model)
    found = answers(loaded, frame)
    same(found["predict"], model.predict(frame))
    same(found["predict_proba"], model.predict_proba(frame))
    fields = {field.name: field for field in loaded.signature.fields}
    assert "id" not in fields  # dropped by the transformer: nobody has to send it
    assert (fields["age"].type, fields["chol"].nullable) == ("float", True)
    assert (fields["sex"].categories, fields["sex"].unknown) == (("f", "m"), "refuse")
    assert (fields["thal"].categories, fields["thal"].unknown) == (("fixed", "normal", "reversible"), "allow")
    assert (fields["grade"].type, fields["grade"].categories, fields["grade"].unknown) == ("int", (1, 2, 3), "allow")
    unknown = {**loaded.signature.example[0], "thal": "never seen"}
    assert answers(loaded, [unknown])["predict"].shape == (1,)
    with pytest.raises(InvalidInput, match="sex"):
        rows_of(loaded, [{**loaded.signature.example[0], "sex": "x"}])


def test_columns_picked_by_position_or_by_several_transformers_stay_what_they_are(saved: Any) -> None:
    by_position = make_pipeline(
        ColumnTransformer([("a", StandardScaler(), slice(0, 4))], remainder="passthrough"), GaussianNB()
    ).fit(WINE, KIND)
    loaded = saved(by_position)
    same(answers(loaded, WINE)["predict_proba"], by_position.predict_proba(WINE))
    assert loaded.signature.layout == "matrix"
    frame, target = heart()
    frame = frame.dropna()
    union = make_pipeline(
        FeatureUnion(
            [
                ("all", ColumnTransformer([("n", StandardScaler(), ["age"]), ("s", OneHotEncoder(), ["sex"])])),
                ("more", ColumnTransformer([("g", StandardScaler(), ["grade"])])),
            ]
        ),
        LogisticRegression(),
    ).fit(frame, target[frame.index])
    loaded = saved(union)
    same(answers(loaded, frame)["predict_proba"], union.predict_proba(frame))
    assert loaded.signature.names == ("age", "sex", "grade")


def test_an_example_with_true_and_false_makes_a_field_of_booleans(saved: Any, tmp_path: Any) -> None:
    frame = pd.DataFrame({"age": np.arange(20.0), "member": [True, False] * 10})
    frame.to_csv(tmp_path / "rows.csv", index=False)
    model = HistGradientBoostingClassifier(max_iter=2, min_samples_leaf=1).fit(frame, [0, 1] * 10)
    loaded = saved(model, example=tmp_path / "rows.csv")
    assert [field.type for field in loaded.signature.fields] == ["float", "bool"]
    same(answers(loaded, frame)["predict_proba"], model.predict_proba(frame))


def test_missing_numbers_go_where_the_model_takes_them(saved: Any) -> None:
    data = WINE.copy()
    data.iloc[::5, 2] = np.nan
    model = HistGradientBoostingClassifier(max_iter=5).fit(data, KIND)
    loaded = saved(model)
    same(answers(loaded, data)["predict_proba"], model.predict_proba(data))
    assert all(field.nullable for field in loaded.signature.fields)
    strict = saved(make_pipeline(StandardScaler(), LogisticRegression()).fit(WINE, KIND))
    assert all(field.nullable is False for field in strict.signature.fields)
    mended = make_pipeline(SimpleImputer(), LogisticRegression(max_iter=5000)).fit(data, KIND)
    loaded = saved(mended)
    assert all(field.nullable for field in loaded.signature.fields)
    same(answers(loaded, data)["predict_proba"], mended.predict_proba(data))


def test_null_is_for_trees_that_were_fitted_on_some(saved: Any) -> None:
    holes = WINE.copy()
    holes.iloc[::5, 2] = np.nan
    extra = ExtraTreesClassifier(30, random_state=0)
    for model in (RandomForestClassifier(60, random_state=0), make_pipeline(StandardScaler(), extra)):
        assert all(field.nullable is None for field in saved(model.fit(WINE, KIND)).signature.fields)
        assert all(field.nullable for field in saved(model.fit(holes, KIND)).signature.fields)


def test_pandas_categories_of_a_hist_gradient_boosting_are_its_fields_categories(saved: Any) -> None:
    frame, target = heart()
    frame = frame[["sex", "age", "thal"]].astype({"sex": "category", "thal": "category"})
    model = HistGradientBoostingClassifier(max_iter=5, categorical_features="from_dtype", min_samples_leaf=2)
    model.fit(frame, target)
    loaded = saved(model)
    same(answers(loaded, frame)["predict_proba"], model.predict_proba(frame))
    fields = {field.name: field for field in loaded.signature.fields}
    assert fields["thal"].categories == ("fixed", "normal", "reversible")
    assert fields["age"].type == "float"


def test_a_forest_takes_missing_values_as_its_own_predict_does(saved: Any) -> None:
    data = WINE.copy()
    data.iloc[::3, 0] = np.nan
    model = RandomForestClassifier(100, random_state=0).fit(data, KIND)
    loaded = saved(model)
    same(answers(loaded, data)["predict_proba"], model.predict_proba(data))


def test_a_number_beyond_float32_is_the_callers_mistake(saved: Any) -> None:
    loaded = saved(RandomForestClassifier(3, random_state=0).fit(WINE, KIND))
    rows = np.array(WINE[:2], dtype=float)
    rows[1, 4] = 1e39
    with pytest.raises(InvalidInput, match=r"'magnesium' is 1e\+39") as caught:
        loaded.predictor.predict(Rows(2, matrix=rows), ("predict",))
    assert (caught.value.field, caught.value.row) == ("magnesium", 1)


def test_estimators_use_one_thread_each(saved: Any) -> None:
    loaded = saved(make_pipeline(StandardScaler(), RandomForestClassifier(3, n_jobs=8)).fit(WINE, KIND))
    assert loaded.predictor.head.estimator.n_jobs == 1


def test_every_example_is_answered(saved: Any) -> None:
    frame, target = heart()
    for model in (heart_pipeline().fit(frame, target), GaussianNB().fit(WINE, KIND)):
        loaded = saved(model)
        assert loaded.signature.example
        found = answers(loaded, list(loaded.signature.example))
        assert len(found["predict"]) == len(loaded.signature.example)


def test_the_users_cleaning_of_texts_may_come_before_the_vectorizer(tmp_path: Any) -> None:
    import subprocess
    import sys

    (tmp_path / "cleaning.py").write_text("def lower(texts):\n    return [text.lower() for text in texts]\n")
    script = (
        "import sys, joblib; sys.path.insert(0, sys.argv[1])\n"
        "from cleaning import lower\n"
        "from sklearn.pipeline import make_pipeline; from sklearn.preprocessing import FunctionTransformer\n"
        "from sklearn.feature_extraction.text import CountVectorizer; from sklearn.naive_bayes import MultinomialNB\n"
        "model = make_pipeline(FunctionTransformer(lower), CountVectorizer(lowercase=False), MultinomialNB())\n"
        "joblib.dump(model.fit(['A game', 'A book'], ['game', 'book']), sys.argv[1] + '/texts.joblib')\n"
    )
    subprocess.run([sys.executable, "-c", script, tmp_path], check=True)
    loaded = load(tmp_path / "texts.joblib", code=[tmp_path / "cleaning.py"])
    assert answers(loaded, [{"text": "GAME"}, {"text": "book"}])["predict"].tolist() == ["game", "book"]


OWN_STEPS = """
    import sys, joblib
    sys.path.insert(0, sys.argv[1])
    from cleaning import Clip, logs
    from sklearn.datasets import load_iris
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    rows, labels = load_iris(return_X_y=True)
    model = make_pipeline(FunctionTransformer(logs), Clip(), LogisticRegression(max_iter=500)).fit(rows, labels)
    joblib.dump((model, model.predict_proba(rows[::25]).tolist()), sys.argv[1] + "/both.joblib")
    joblib.dump(model, sys.argv[1] + "/own.joblib")
"""
CLEANING = """
    import numpy as np
    from sklearn.base import BaseEstimator, TransformerMixin

    def logs(rows):
        return np.log1p(rows)

    class Clip(TransformerMixin, BaseEstimator):
        def fit(self, rows, labels=None):
            self.highest_ = np.quantile(rows, 0.9, axis=0)
            return self

        def transform(self, rows):
            return np.minimum(rows, self.highest_)
"""


def test_the_users_own_steps_over_numbers_are_given_numbers(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import subprocess
    import sys
    import textwrap

    import joblib
    from sklearn.datasets import load_iris

    (tmp_path / "cleaning.py").write_text(textwrap.dedent(CLEANING))
    subprocess.run([sys.executable, "-c", textwrap.dedent(OWN_STEPS), tmp_path], check=True)
    loaded = load(tmp_path / "own.joblib", code=[tmp_path / "cleaning.py"])
    monkeypatch.syspath_prepend(str(tmp_path))
    _, expected = joblib.load(tmp_path / "both.joblib")
    records = [dict(zip(loaded.signature.names, row, strict=True)) for row in load_iris().data[::25].tolist()]
    found = answers(loaded, records)["predict_proba"]
    assert found.tolist() == expected


def test_the_quick_ways_are_taken_where_they_are_equal(saved: Any) -> None:
    forest = saved(make_pipeline(StandardScaler(), RandomForestClassifier(3, random_state=0)).fit(WINE, KIND))
    assert type(forest.predictor._transforms[0]).__name__ == "Scaler"
    assert type(forest.predictor.head._proba).__name__ == "Trees"
    logistic = saved(make_pipeline(StandardScaler(), LogisticRegression()).fit(WINE, KIND))
    assert logistic.predictor.head._linear is not None


def test_a_label_encoder_beside_a_model_is_refused(saved: Any) -> None:
    with pytest.raises(UnsupportedModel, match=r"a tuple of \(GaussianNB, LabelEncoder\)"):
        saved((GaussianNB().fit(WINE, KIND), LabelEncoder().fit(NAMES)))


def test_an_unfitted_model_is_refused(saved: Any) -> None:
    with pytest.raises(LoadFailed, match="LogisticRegression is not fitted"):
        saved(make_pipeline(StandardScaler().fit(WINE), LogisticRegression()))


def test_a_dict_of_parts_is_refused_with_its_keys(saved: Any) -> None:
    with pytest.raises(UnsupportedModel, match="a dict with the keys 'model', 'threshold'"):
        saved({"model": GaussianNB().fit(WINE, KIND), "threshold": 0.5})


def test_a_pickled_dataframe_is_no_transformer(saved: Any) -> None:
    with pytest.raises(UnsupportedModel, match="the pickle holds a DataFrame, not a model"):
        saved(WINE)


def test_a_column_whose_gaps_are_filled_with_a_word_is_shown_with_a_word(saved: Any) -> None:
    frame = pd.DataFrame({"city": ["a", "b", None, "a"], "age": [1.0, 2, 3, 4]})
    fill = ColumnTransformer([("c", SimpleImputer(strategy="constant", fill_value="none"), ["city"])])
    model = make_pipeline(fill, OneHotEncoder(handle_unknown="ignore"), LogisticRegression())
    city = saved(model.fit(frame[["city"]], [0, 1, 0, 1])).signature.fields[0]
    assert (city.name, city.example, city.nullable) == ("city", "none", True)


@pytest.mark.parametrize("suffix", [".joblib", ".pkl", ".pickle", ".bin"])
@pytest.mark.parametrize("compress", [0, ("zlib", 3), ("gzip", 3), ("bz2", 3), ("xz", 1), ("lzma", 1)])
def test_every_suffix_and_compression_is_opened(tmp_path: Any, suffix: str, compress: Any) -> None:
    import joblib

    model = GaussianNB().fit(WINE, KIND)
    path = tmp_path / f"nb{suffix}"
    joblib.dump(model, path, compress=compress)
    same(answers(load(path), WINE)["predict"], model.predict(WINE))
