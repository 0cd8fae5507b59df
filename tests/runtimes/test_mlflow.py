"""MLflow folders through their native flavour, with the signature that was logged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xgboost
from sklearn.datasets import load_wine
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from lagar.errors import LoadFailed, UnsafePickle, UnsupportedModel
from runtimes.conftest import answers, load, same

WINE, KIND = load_wine(return_X_y=True, as_frame=True)
WINE = WINE.iloc[:, :4]

mlflow = pytest.importorskip("mlflow", reason="mlflow-skinny is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")  # mlflow's own deprecations while saving


def save(flavour: str, model: Any, folder: Path, x: Any = WINE, **options: Any) -> Path:
    import importlib

    from mlflow.models import infer_signature

    module = importlib.import_module(f"mlflow.{flavour}")
    requirements = {"pip_requirements": ["scikit-learn"]}
    module.save_model(model, folder, signature=infer_signature(x, model.predict(x)), **requirements, **options)
    return folder


def test_a_sklearn_flavour_answers_as_its_model(tmp_path: Path) -> None:
    model = LogisticRegression(max_iter=5000).fit(WINE.to_numpy(), KIND)
    folder = save("sklearn", model, tmp_path / "wine", serialization_format="cloudpickle")
    loaded = load(folder)
    same(answers(loaded, WINE)["predict_proba"], model.predict_proba(WINE.to_numpy()))
    assert loaded.signature.names == tuple(WINE.columns)  # the model has none: the MLflow signature has
    assert (loaded.source.kind, loaded.source.name, loaded.source.pickled) == ("mlflow", "wine", True)
    assert len(loaded.source.sha256) == 64


def test_an_xgboost_flavour_answers_as_its_model(tmp_path: Path) -> None:
    model = xgboost.XGBClassifier(n_estimators=3, n_jobs=1).fit(WINE, KIND)
    loaded = load(save("xgboost", model, tmp_path / "boosted"))
    same(answers(loaded, WINE)["predict_proba"], model.predict_proba(WINE).astype(float))
    assert not loaded.source.pickled


def test_a_lightgbm_flavour_answers_as_its_model(tmp_path: Path) -> None:
    import lightgbm

    model = lightgbm.LGBMClassifier(n_estimators=3, verbose=-1, n_jobs=1).fit(WINE, KIND)
    loaded = load(save("lightgbm", model, tmp_path / "light", serialization_format="cloudpickle"))
    same(answers(loaded, WINE)["predict_proba"], model.predict_proba(WINE))


MLMODEL = """
flavors:
  python_function:
    loader_module: my_code
  {flavour}:
    pickled_model: model.pkl
    sklearn_version: 1.0.0
signature:
  inputs: '[{{"name": "a", "type": "long", "required": true}}, {{"name": "b", "type": "double", "required": false}}]'
"""


def test_the_signature_types_and_optional_columns_become_fields(tmp_path: Path) -> None:
    import joblib

    (tmp_path / "MLmodel").write_text(MLMODEL.format(flavour="sklearn"))
    x = np.arange(20.0).reshape(10, 2)
    joblib.dump(make_pipeline(SimpleImputer(), LogisticRegression()).fit(x, [0, 1] * 5), tmp_path / "model.pkl")
    loaded = load(tmp_path)
    first, second = loaded.signature.fields
    assert (first.name, first.type, second.name, second.nullable) == ("a", "int", "b", True)
    assert "MLflow signature" in loaded.signature.origin
    assert any("1.0.0" in warning for warning in loaded.warnings)


def test_an_optional_column_stays_required_where_the_model_takes_no_missing_values(tmp_path: Path) -> None:
    model = LogisticRegression(max_iter=5000).fit(WINE.to_numpy(), KIND)
    folder = save("sklearn", model, tmp_path / "wine", serialization_format="cloudpickle")
    described = (folder / "MLmodel").read_text()
    assert '"required": true' in described
    (folder / "MLmodel").write_text(described.replace('"required": true', '"required": false'))
    assert [(f.nullable, f.has_default) for f in load(folder).signature.fields or ()] == [(False, False)] * 4


def test_a_folder_without_a_native_flavour_is_refused_by_name(tmp_path: Path) -> None:
    text = MLMODEL.format(flavour="pytorch").replace("  python_function:\n    loader_module: my_code\n", "")
    (tmp_path / "MLmodel").write_text(text)
    with pytest.raises(UnsupportedModel, match=r"only the flavors pytorch; .*mlflow\.sklearn\.log_model"):
        load(tmp_path)


def test_a_folder_that_lost_its_model_says_which_file(tmp_path: Path) -> None:
    (tmp_path / "MLmodel").write_text(MLMODEL.format(flavour="sklearn"))
    with pytest.raises(LoadFailed, match=r"model\.pkl is not there"):
        load(tmp_path)


def test_a_bare_booster_answers_its_own_numbers_as_mlflows_server_does(tmp_path: Path) -> None:
    import lightgbm

    two = (KIND > 0).astype(int)
    booster = xgboost.train({"objective": "binary:logistic", "nthread": 1}, xgboost.DMatrix(WINE, two), 3)
    folder = tmp_path / "boosted"
    mlflow.xgboost.save_model(booster, folder, pip_requirements=["xgboost"])
    same(answers(load(folder), WINE)["predict"], booster.predict(xgboost.DMatrix(WINE)))
    trees = lightgbm.train({"objective": "multiclass", "num_class": 3, "verbose": -1}, lightgbm.Dataset(WINE, KIND), 3)
    folder = tmp_path / "light"
    mlflow.lightgbm.save_model(trees, folder, pip_requirements=["lightgbm"])
    same(answers(load(folder), WINE)["predict"], trees.predict(WINE))


def test_what_mlflow_saves_as_skops_is_opened_as_skops(tmp_path: Path) -> None:
    pytest.importorskip("skops", reason="skops is not installed")
    import lightgbm

    model = LogisticRegression(max_iter=5000).fit(WINE, KIND)
    loaded = load(save("sklearn", model, tmp_path / "wine", serialization_format="skops"))
    same(answers(loaded, WINE)["predict_proba"], model.predict_proba(WINE))
    assert not loaded.source.pickled
    trees = lightgbm.LGBMClassifier(n_estimators=3, verbose=-1, n_jobs=1).fit(WINE, KIND)
    loaded = load(save("lightgbm", trees, tmp_path / "light", serialization_format="skops"))
    same(answers(loaded, WINE)["predict_proba"], trees.predict_proba(WINE))


def test_what_mlflows_own_server_would_call_is_answered_first(tmp_path: Path) -> None:
    model = LogisticRegression(max_iter=5000).fit(WINE, KIND)
    options = {"serialization_format": "cloudpickle", "pyfunc_predict_fn": "predict_proba"}
    loaded = load(save("sklearn", model, tmp_path / "wine", **options))
    assert [output.name for output in loaded.signature.outputs] == ["predict_proba", "predict"]


def test_code_that_came_with_a_model_is_not_run_unasked(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "code").mkdir(parents=True)
    mark = tmp_path / "ran"
    (folder / "code" / "theirs.py").write_text(f"open({str(mark)!r}, 'w').close()\n\n\nclass Model:\n    pass\n")
    text = MLMODEL.replace("pickled_model: model.pkl", "pickled_model: model.pkl\n    code: code")
    (folder / "MLmodel").write_text(text.format(flavour="sklearn"))
    (folder / "model.pkl").write_bytes(b"\x80\x04\x8c\x06theirs\x8c\x05Model\x93)\x81.")
    with pytest.raises(UnsafePickle, match=r"theirs\.Model.*brings code of its own.*--code .*code"):
        load(folder)
    assert not mark.exists()
