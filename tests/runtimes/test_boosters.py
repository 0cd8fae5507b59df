"""XGBoost, LightGBM and CatBoost: native files and pickled wrappers answer as their libraries do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import catboost
import lightgbm
import numpy as np
import pandas as pd
import pytest
import xgboost
from sklearn.datasets import load_diabetes, load_wine
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lagar.errors import InvalidInput, LoadFailed
from lagar.registry.model import ModelSource
from lagar.runtimes import lightgbm as lightgbm_file
from runtimes.conftest import answers, load, rows_of, same

WINE, KIND = load_wine(return_X_y=True, as_frame=True)
TWO = (KIND == 1).astype(int)
DIABETES, PROGRESS = load_diabetes(return_X_y=True, as_frame=True)
HOLES = WINE.mask(np.random.default_rng(0).random(WINE.shape) < 0.1)


def words() -> tuple[pd.DataFrame, pd.Series]:
    rng = np.random.default_rng(1)
    frame = pd.DataFrame(
        {
            "size": rng.normal(size=120),
            "colour": pd.Categorical(rng.choice(["blue", "green", "red"], 120)),
            "shape": pd.Categorical(rng.choice(["round", "square"], 120)),
        }
    )
    return frame, ((frame["colour"] == "red") ^ (frame["size"] > 0)).astype(int)


@pytest.mark.parametrize("suffix", [".ubj", ".json"])
@pytest.mark.parametrize("labels", [KIND, TWO], ids=["three classes", "two classes"])
def test_an_xgboost_classifier_file_answers_labels_and_probabilities(tmp_path: Path, suffix: str, labels: Any) -> None:
    model = xgboost.XGBClassifier(n_estimators=5, n_jobs=1).fit(HOLES, labels)
    model.save_model(tmp_path / f"wine{suffix}")
    loaded = load(tmp_path / f"wine{suffix}")
    found = answers(loaded, HOLES)
    same(found["predict"], model.predict(HOLES))
    same(found["predict_proba"], model.predict_proba(HOLES).astype(float))
    assert loaded.signature.classes == tuple(range(labels.nunique()))
    assert loaded.signature.names == tuple(WINE.columns)
    assert all(field.nullable for field in loaded.signature.fields)


def test_a_classifier_of_raw_margins_answers_the_labels_that_its_wrapper_does(saved: Any, tmp_path: Path) -> None:
    model = xgboost.XGBClassifier(n_estimators=2, objective="binary:logitraw", learning_rate=0.2, n_jobs=1)
    model.fit(WINE, TWO)
    margins = model.get_booster().inplace_predict(WINE.to_numpy(), validate_features=False)
    assert np.any((margins > 0) & (margins <= 0.5)), "where the wrapper's border and a margin's part"
    same(answers(saved(model), WINE)["predict"], model.predict(WINE))
    data = xgboost.DMatrix(WINE.to_numpy(), label=TWO)
    bare = xgboost.train({"objective": "binary:logitraw", "nthread": 1}, data, 2)
    bare.save_model(tmp_path / "bare.ubj")
    found = answers(load(tmp_path / "bare.ubj"), WINE.to_numpy())
    same(found["predict"], (bare.predict(data) > 0).astype(int))


def test_a_raw_xgboost_booster_is_what_its_objective_says(tmp_path: Path) -> None:
    data = xgboost.DMatrix(WINE.to_numpy(), label=KIND)
    soft = xgboost.train({"objective": "multi:softmax", "num_class": 3, "nthread": 1}, data, 5)
    soft.save_model(tmp_path / "soft.ubj")
    loaded = load(tmp_path / "soft.ubj")
    found = answers(loaded, WINE.to_numpy())
    same(found["predict"], soft.predict(data).astype(int))
    assert np.allclose(found["predict_proba"].sum(axis=1), 1)
    assert loaded.signature.names[:2] == ("x0", "x1")
    regressor = xgboost.train({"objective": "reg:squarederror", "nthread": 1}, data, 5)
    regressor.save_model(tmp_path / "value.json")
    loaded = load(tmp_path / "value.json")
    same(answers(loaded, WINE.to_numpy())["predict"], regressor.predict(data).astype(float))
    assert loaded.signature.task == "regressor"
    linear = xgboost.train(
        {"booster": "gblinear", "objective": "binary:logistic", "nthread": 1},
        xgboost.DMatrix(WINE.to_numpy(), label=TWO),
        5,
    )
    linear.save_model(tmp_path / "linear.ubj")
    same(
        answers(load(tmp_path / "linear.ubj"), WINE.to_numpy())["predict_proba"][:, 1],
        linear.predict(data).astype(float),
    )


def test_what_xgboost_computes_in_single_precision_is_told_as_fp32(saved: Any, tmp_path: Path) -> None:
    x, y = load_wine(return_X_y=True)
    classifier = xgboost.XGBClassifier(n_estimators=3).fit(x, y)
    classifier.save_model(tmp_path / "m.json")
    for model in (load(tmp_path / "m.json"), saved(make_pipeline(StandardScaler().fit(x), classifier))):
        assert [output.datatype for output in model.signature.outputs] == ["INT64", "FP32"]
        found = answers(model, pd.DataFrame(x[:9], columns=[field.name for field in model.signature.fields or ()]))[
            "predict_proba"
        ]
        assert found.dtype == np.float64
        assert np.array_equal(found.astype(np.float32), found)


def test_xgboost_stops_at_the_best_iteration_where_its_wrapper_does(tmp_path: Path) -> None:
    model = xgboost.XGBClassifier(n_estimators=60, learning_rate=1.0, early_stopping_rounds=2, n_jobs=1)
    model.fit(WINE[::2], KIND[::2], eval_set=[(WINE[1::2], KIND[1::2])], verbose=False)
    model.save_model(tmp_path / "stopped.ubj")
    same(answers(load(tmp_path / "stopped.ubj"), WINE)["predict_proba"], model.predict_proba(WINE).astype(float))


def test_xgboost_categories_travel_as_their_own_words(saved: Any, tmp_path: Path) -> None:
    frame, target = words()
    model = xgboost.XGBClassifier(n_estimators=5, enable_categorical=True, n_jobs=1).fit(frame, target)
    model.save_model(tmp_path / "words.ubj")
    for loaded in (load(tmp_path / "words.ubj"), saved(model)):
        same(answers(loaded, frame)["predict_proba"], model.predict_proba(frame).astype(float))
        fields = {field.name: field for field in loaded.signature.fields}
        assert (fields["colour"].type, fields["colour"].categories) == ("string", ("blue", "green", "red"))
        with pytest.raises(InvalidInput, match="colour"):
            rows_of(loaded, [{"size": 1.0, "colour": "pink", "shape": "round"}])


@pytest.mark.parametrize("names", [["Évora", "Lisboa", "Porto"], ["日本", "京都", "大阪"]], ids=["cut", "undecodable"])
def test_xgboost_categories_that_its_own_file_damages_are_refused(saved: Any, tmp_path: Path, names: list[str]) -> None:
    frame = pd.DataFrame({"city": pd.Categorical(names * 10)})
    model = xgboost.XGBClassifier(n_estimators=2, enable_categorical=True, n_jobs=1).fit(frame, [0, 1, 0] * 10)
    model.save_model(tmp_path / "cities.ubj")
    for open_model in (lambda: load(tmp_path / "cities.ubj"), lambda: saved(model)):
        with pytest.raises(LoadFailed, match="the categories of 'city' are not ASCII, and XGBoost"):
            open_model()


def test_xgboost_feature_types_become_field_types(tmp_path: Path) -> None:
    frame = pd.DataFrame({"count": [1, 2, 3, 4] * 5, "flag": [True, False] * 10, "value": [0.5, 1.5] * 10})
    model = xgboost.XGBRegressor(n_estimators=2, n_jobs=1).fit(frame, list(range(20)))
    model.save_model(tmp_path / "typed.ubj")
    loaded = load(tmp_path / "typed.ubj")
    assert [field.type for field in loaded.signature.fields] == ["int", "bool", "float"]
    same(answers(loaded, frame)["predict"], model.predict(frame).astype(float))


@pytest.mark.parametrize("library", [xgboost.XGBClassifier, lightgbm.LGBMClassifier, catboost.CatBoostClassifier])
@pytest.mark.parametrize("steps", [[], [StandardScaler()]], ids=["alone", "in a pipeline"])
def test_a_pickled_wrapper_answers_its_own_labels(saved: Any, library: Any, steps: list[Any]) -> None:
    quiet = {"verbose": -1} if library is lightgbm.LGBMClassifier else {}
    if library is catboost.CatBoostClassifier:
        quiet = {"verbose": 0, "allow_writing_files": False}
    model = library(n_estimators=5, **quiet)
    labels = KIND if library is xgboost.XGBClassifier else KIND.map({0: "red", 1: "rosé", 2: "white"})
    model = make_pipeline(*steps, model).fit(WINE, labels) if steps else model.fit(WINE, labels)
    loaded = saved(model)
    found = answers(loaded, WINE)
    same(found["predict"], np.ravel(model.predict(WINE)))
    same(found["predict_proba"], model.predict_proba(WINE).astype(float))
    assert loaded.signature.names == tuple(WINE.columns)
    assert loaded.signature.classes == tuple(np.unique(labels).tolist())


@pytest.mark.parametrize("labels", [KIND, TWO], ids=["three classes", "two classes"])
@pytest.mark.parametrize("suffix", [".txt", ".bst"])
def test_a_lightgbm_file_answers_labels_and_probabilities(tmp_path: Path, labels: Any, suffix: str) -> None:
    model = lightgbm.LGBMClassifier(n_estimators=5, verbose=-1, n_jobs=1).fit(HOLES, labels)
    model.booster_.save_model(tmp_path / f"wine{suffix}")
    loaded = load(tmp_path / f"wine{suffix}")
    found = answers(loaded, HOLES)
    same(found["predict"], model.predict(HOLES))
    same(found["predict_proba"], model.predict_proba(HOLES))
    alcohol = loaded.signature.fields[0]
    assert (alcohol.name, alcohol.seen_min, alcohol.nullable) == ("alcohol", HOLES["alcohol"].min(), True)


def test_a_lightgbm_regressor_and_unnamed_columns(tmp_path: Path) -> None:
    model = lightgbm.train(
        {"objective": "l2", "verbose": -1, "num_threads": 1}, lightgbm.Dataset(DIABETES.to_numpy(), PROGRESS), 5
    )
    model.save_model(tmp_path / "diabetes.txt")
    loaded = load(tmp_path / "diabetes.txt")
    same(answers(loaded, DIABETES.to_numpy())["predict"], model.predict(DIABETES.to_numpy()))
    assert (loaded.signature.task, loaded.signature.names[0]) == ("regressor", "x0")


def test_lightgbm_categories_travel_as_their_own_words(saved: Any, tmp_path: Path) -> None:
    frame, target = words()
    model = lightgbm.LGBMClassifier(n_estimators=5, verbose=-1, n_jobs=1, min_child_samples=2).fit(frame, target)
    model.booster_.save_model(tmp_path / "words.txt")
    for loaded in (load(tmp_path / "words.txt"), saved(model)):
        same(answers(loaded, frame)["predict_proba"], model.predict_proba(frame))
        assert loaded.signature.fields[1].categories == ("blue", "green", "red")


QUIET = {"iterations": 5, "verbose": 0, "allow_writing_files": False, "thread_count": 1}


@pytest.mark.parametrize(
    "labels", [KIND, TWO, KIND.map({0: "a", 1: "b", 2: "c"}), KIND == 1], ids=["three", "two", "words", "booleans"]
)
def test_a_catboost_classifier_file_is_a_classifier(tmp_path: Path, labels: Any) -> None:
    model = catboost.CatBoostClassifier(**QUIET).fit(WINE, labels)
    model.save_model(tmp_path / "wine.cbm")
    loaded = load(tmp_path / "wine.cbm")
    found = answers(loaded, WINE)
    wanted = np.ravel(model.predict(WINE))
    same(found["predict"], wanted if wanted.dtype.kind != "U" or labels.dtype != bool else wanted == "True")
    same(found["predict_proba"], model.predict_proba(WINE))
    assert loaded.signature.task == "classifier"


def test_a_catboost_regressor_file_is_a_regressor(tmp_path: Path) -> None:
    model = catboost.CatBoostRegressor(**QUIET).fit(DIABETES, PROGRESS)
    model.save_model(tmp_path / "diabetes.cbm")
    loaded = load(tmp_path / "diabetes.cbm")
    same(answers(loaded, DIABETES)["predict"], model.predict(DIABETES))
    assert (loaded.signature.task, loaded.signature.names) == ("regressor", tuple(DIABETES.columns))


@pytest.mark.parametrize("loss", ["Poisson", "Tweedie:variance_power=1.5", "RMSEWithUncertainty"])
def test_a_catboost_regressor_answers_what_its_loss_makes_of_the_trees(saved: Any, loss: str) -> None:
    model = catboost.CatBoostRegressor(loss_function=loss, **QUIET).fit(DIABETES, PROGRESS)
    same(answers(saved(model), DIABETES)["predict"], model.predict(DIABETES))


def test_catboost_categories_are_text_or_whole_numbers(tmp_path: Path) -> None:
    frame, target = words()
    frame["floor"] = [1, 2, 3, 4] * 30
    model = catboost.CatBoostClassifier(**QUIET, cat_features=["colour", "shape", "floor"]).fit(frame, target)
    model.save_model(tmp_path / "words.cbm")
    loaded = load(tmp_path / "words.cbm")
    same(answers(loaded, frame)["predict_proba"], model.predict_proba(frame))
    assert [field.type for field in loaded.signature.fields] == ["float", "unknown", "unknown", "unknown"]
    rows = frame.head(3).to_dict("records")
    rows[2]["floor"] = 1.5
    with pytest.raises(InvalidInput, match=r"'floor' is 1\.5; it is categorical") as caught:
        answers(loaded, rows)
    assert (caught.value.field, caught.value.row) == ("floor", 2)


def test_a_lightgbm_file_that_was_cut_anywhere_is_one_clear_line(tmp_path: Path) -> None:
    path = tmp_path / "wine.txt"
    rows, labels = load_wine(return_X_y=True)
    lightgbm.LGBMClassifier(n_estimators=2, n_jobs=1, verbose=-1).fit(rows, labels).booster_.save_model(path)
    whole = path.read_bytes()
    trees = whole.index(b"end of trees")
    for cut in [*range(10, trees, 397), trees, whole.index(b"parameters:") + 12, whole.index(b"end of parameters")]:
        path.write_bytes(whole[:cut])
        with pytest.raises(LoadFailed, match=r"wine\.txt is a damaged LightGBM model: .*; copy it or save"):
            lightgbm_file.open_source(ModelSource(name="wine", version="1", path=str(path), kind="lightgbm"), 1)
    path.write_bytes(whole.rstrip(b"\n"))  # LightGBM would read on behind the last line
    assert len(answers(load(path), rows[:3])["predict"]) == 3


def test_a_damaged_booster_file_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text(
        '{"learner": {"learner_model_param": {}, "gradient_booster": 3}, "version": [3, 2, 0]}'
    )
    with pytest.raises(LoadFailed, match=r"broken\.json: XGBoost .* does not read it"):
        load(tmp_path / "broken.json")
    (tmp_path / "broken.txt").write_text("tree\nversion=v4\nnum_class=1\n")
    with pytest.raises(LoadFailed, match=r"broken\.txt is a damaged LightGBM model: its 28 bytes end before"):
        load(tmp_path / "broken.txt")
    (tmp_path / "broken.cbm").write_bytes(b"CBM1" + b"\0" * 60)
    with pytest.raises(LoadFailed, match=r"broken\.cbm: CatBoost .* does not read it"):
        load(tmp_path / "broken.cbm")
