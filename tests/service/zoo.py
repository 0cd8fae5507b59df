"""One small model of each kind, saved as people save them, with what its own library answers."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import catboost
import joblib
import lightgbm
import numpy as np
import onnxruntime
import pandas as pd
import xgboost
from skl2onnx import to_onnx
from sklearn.cluster import KMeans
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_diabetes, load_wine
from sklearn.ensemble import HistGradientBoostingClassifier, IsolationForest, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

ROWS = 20
"""How many rows of each model are asked for."""

WINE, KIND = load_wine(return_X_y=True, as_frame=True)
DIABETES, PROGRESS = load_diabetes(return_X_y=True, as_frame=True)
HOLES = WINE.mask(np.random.default_rng(0).random(WINE.shape) < 0.1)
GRAPES = np.array(["barolo", "grignolino", "barbera"])[KIND]


class Animal(NamedTuple):
    """A served model."""

    name: str
    path: Path
    records: list[dict[str, Any]]
    """Rows as a caller sends them; NaN is null."""
    expected: dict[str, Any]
    """Native answer's member → what the library answers for the rows."""
    named: bool = True
    """False: the model has no names of its own, callers send x0, x1, …"""


def records_of(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [
        {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in record.items()}
        for record in frame.head(ROWS).to_dict(orient="records")
    ]


def classified(model: Any, rows: Any) -> dict[str, Any]:
    return {
        "predictions": model.predict(rows).ravel().tolist(),
        "probabilities": model.predict_proba(rows).astype(float).tolist(),
        "classes": model.classes_.tolist(),
    }


def zoo(folder: Path) -> list[Animal]:
    """All kinds, saved below `folder`."""
    return [make(folder) for make in _KINDS]


def _hist(folder: Path) -> Animal:
    model = HistGradientBoostingClassifier(max_iter=5, random_state=0).fit(HOLES, KIND)
    path = folder / "hist.joblib"
    joblib.dump(model, path)
    return Animal("hist", path, records_of(HOLES), classified(model, HOLES.head(ROWS)))


def _heart(folder: Path) -> Animal:
    rng = np.random.default_rng(5)
    frame = pd.DataFrame(
        {
            "age": rng.integers(30, 70, 60).astype(float),
            "chol": rng.normal(240, 30, 60),
            "sex": rng.choice(["f", "m"], 60),
            "thal": rng.choice(["normal", "fixed", "reversible"], 60),
        }
    )
    frame.loc[::7, "chol"] = np.nan
    model = make_pipeline(
        ColumnTransformer(
            [
                ("numbers", make_pipeline(SimpleImputer(), StandardScaler()), ["age", "chol"]),
                ("sex", OneHotEncoder(), ["sex"]),
                ("thal", OneHotEncoder(handle_unknown="ignore"), ["thal"]),
            ]
        ),
        LogisticRegression(),
    ).fit(frame, frame["age"] > 50)
    path = folder / "heart.pkl"
    joblib.dump(model, path)
    return Animal("heart", path, records_of(frame), classified(model, frame.head(ROWS)))


def _regressor(folder: Path) -> Animal:
    model = make_pipeline(StandardScaler(), LinearRegression()).fit(DIABETES, PROGRESS)
    path = folder / "regressor.joblib"
    joblib.dump(model, path)
    return Animal("regressor", path, records_of(DIABETES), {"predictions": model.predict(DIABETES.head(ROWS)).tolist()})


def _multi(folder: Path) -> Animal:
    model = LinearRegression().fit(DIABETES, np.column_stack([PROGRESS, -PROGRESS, PROGRESS**2]))
    path = folder / "multi.joblib"
    joblib.dump(model, path)
    return Animal("multi", path, records_of(DIABETES), {"predictions": model.predict(DIABETES.head(ROWS)).tolist()})


def _several(folder: Path) -> Animal:
    targets = np.column_stack([KIND, KIND == 1])
    model = RandomForestClassifier(3, random_state=0).fit(WINE, targets)
    path = folder / "several.joblib"
    joblib.dump(model, path)
    first, second = (proba.tolist() for proba in model.predict_proba(WINE.head(ROWS)))
    expected = {
        "predictions": model.predict(WINE.head(ROWS)).tolist(), "predict_proba_0": first, "predict_proba_1": second,
        "classes": {"predict_proba_0": [0, 1, 2], "predict_proba_1": [0, 1]},
    }  # fmt: skip
    return Animal("several", path, records_of(WINE), expected)


def _clusters(folder: Path) -> Animal:
    model = KMeans(3, n_init=1, random_state=0).fit(WINE)
    path = folder / "clusters.joblib"
    joblib.dump(model, path)
    return Animal("clusters", path, records_of(WINE), {"predictions": model.predict(WINE.head(ROWS)).tolist()})


def _outliers(folder: Path) -> Animal:
    model = IsolationForest(n_estimators=5, random_state=0).fit(WINE.to_numpy())
    path = folder / "outliers.joblib"
    joblib.dump(model, path)
    rows = WINE.to_numpy()[:ROWS]
    records = [dict(zip((f"x{place}" for place in range(13)), row, strict=True)) for row in rows.tolist()]
    return Animal("outliers", path, records, {"predictions": model.predict(rows).tolist()}, named=False)


def _xgb(folder: Path) -> Animal:
    model = xgboost.XGBClassifier(n_estimators=4, n_jobs=1).fit(HOLES, KIND)
    path = folder / "xgb.ubj"
    model.save_model(path)
    return Animal("xgb", path, records_of(HOLES), classified(model, HOLES.head(ROWS)))


def _lgbm(folder: Path) -> Animal:
    model = lightgbm.LGBMClassifier(n_estimators=4, n_jobs=1, verbose=-1).fit(HOLES, KIND)
    path = folder / "lgbm.txt"
    model.booster_.save_model(path)
    return Animal("lgbm", path, records_of(HOLES), classified(model, HOLES.head(ROWS)))


def _cat(folder: Path) -> Animal:
    model = catboost.CatBoostClassifier(
        iterations=4, depth=3, verbose=0, thread_count=1, allow_writing_files=False
    ).fit(WINE, GRAPES)
    path = folder / "cat.cbm"
    model.save_model(path)
    return Animal("cat", path, records_of(WINE), classified(model, WINE.head(ROWS)))


def _onnx(folder: Path) -> Animal:
    floats = WINE.to_numpy(np.float32)
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(floats, GRAPES)
    path = folder / "graph.onnx"
    path.write_bytes(to_onnx(model, floats[:1], options={"zipmap": False}).SerializeToString())
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    labels, probabilities = session.run(None, {session.get_inputs()[0].name: floats[:ROWS]})
    expected = {
        "predictions": labels.tolist(), "probabilities": probabilities.astype(float).tolist(),
        "classes": model.classes_.tolist(),
    }  # fmt: skip
    records = [
        dict(zip((f"x{place}" for place in range(13)), row, strict=True)) for row in WINE.head(ROWS).to_numpy().tolist()
    ]
    return Animal("graph", path, records, expected, named=False)


_KINDS: tuple[Callable[[Path], Animal], ...] = (
    _hist, _heart, _regressor, _multi, _several, _clusters, _outliers, _xgb, _lgbm, _cat, _onnx,
)  # fmt: skip
