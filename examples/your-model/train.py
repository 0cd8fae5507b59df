"""Train a model of your own choice and get a folder that Lagar serves.

    python train.py --dataset iris|california|bank|air-quality
                    --algorithm forest|tree|linear|extra-trees|lightgbm|xgboost
                    [--data DIR] [--out DIR]

Without --data the tables are generated (iris comes with scikit-learn); with it they are read from DIR/tabular/.
Writes `model.joblib`, `lagar.toml` and a request, `example.json`, to OUT (default: models/DATASET-ALGORITHM/).
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import joblib
import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

import tables

HERE = Path(__file__).resolve().parent
CLASSIFICATION = ("iris", "bank")
ALGORITHMS = ("forest", "tree", "linear", "extra-trees", "lightgbm", "xgboost")


def estimator(algorithm: str, classify: bool) -> Any:
    """The unfitted estimator; LightGBM and XGBoost are imported only when they are asked for."""
    if algorithm == "forest":
        kind: Any = RandomForestClassifier if classify else RandomForestRegressor
        return kind(n_estimators=50, max_depth=12, random_state=0)
    if algorithm == "extra-trees":
        kind = ExtraTreesClassifier if classify else ExtraTreesRegressor
        return kind(n_estimators=50, max_depth=12, random_state=0)
    if algorithm == "tree":
        kind = DecisionTreeClassifier if classify else DecisionTreeRegressor
        return kind(max_depth=8, random_state=0)
    if algorithm == "linear":
        return LogisticRegression(max_iter=2000) if classify else LinearRegression()
    if algorithm == "lightgbm":
        import lightgbm

        kind = lightgbm.LGBMClassifier if classify else lightgbm.LGBMRegressor
        return kind(n_estimators=80, random_state=0, verbose=-1)
    import xgboost

    kind = xgboost.XGBClassifier if classify else xgboost.XGBRegressor
    return kind(n_estimators=80, max_depth=5, random_state=0)


def build(dataset: str, algorithm: str, inputs: pd.DataFrame) -> Pipeline:
    """The whole way from what a caller sends to the answer: the served model cleans its input as training did."""
    steps: list[tuple[str, Any]] = []
    if dataset == "air-quality":
        # null and -200 both mean "no reading"; each becomes the sensor's median of the training part.
        steps.append(("null", SimpleImputer(strategy="constant", fill_value=float(tables.MISSING))))
        steps.append(("missing", SimpleImputer(missing_values=float(tables.MISSING), strategy="median")))
    scale = algorithm == "linear"
    if dataset == "bank":
        words = [name for name in inputs.columns if not pd.api.types.is_numeric_dtype(inputs[name])]
        # "unknown" is a value like any other: that nobody asked says something about the call. Categories are taken
        # from the whole table, so that a rare one is known even if the split leaves it out of the training part.
        one_hot = OneHotEncoder(categories=[sorted(inputs[name].unique()) for name in words])
        numbers = [name for name in inputs.columns if name not in words]
        steps.append(
            (
                "columns",
                ColumnTransformer(
                    [("words", one_hot, words), ("numbers", StandardScaler() if scale else "passthrough", numbers)]
                ),
            )
        )
    elif scale:
        steps.append(("scale", StandardScaler()))
    steps.append(("model", estimator(algorithm, dataset in CLASSIFICATION)))
    return Pipeline(steps)


def write(folder: Path, dataset: str, model: Pipeline, held_out: pd.DataFrame) -> None:
    """The model, the field rules of its data set, and a request with three held-out rows."""
    folder.mkdir(parents=True, exist_ok=True)
    joblib.dump(model, folder / "model.joblib")
    shutil.copyfile(HERE / "rules" / f"{dataset}.toml", folder / "lagar.toml")
    (folder / "example.json").write_text(json.dumps(held_out.head(3).to_dict(orient="records"), indent=2) + "\n")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Train a model and get a folder that Lagar serves.")
    parser.add_argument("--dataset", choices=tables.READERS, default="iris")
    parser.add_argument("--algorithm", choices=ALGORITHMS, default="forest")
    parser.add_argument("--data", type=Path, help="folder that holds tabular/")
    parser.add_argument("--out", type=Path, help="where to write (default: models/DATASET-ALGORITHM/)")
    args = parser.parse_args(arguments)

    inputs, target = tables.READERS[args.dataset](args.data)
    train_x, test_x, train_y, test_y = train_test_split(inputs, target, test_size=0.25, random_state=0)
    model = build(args.dataset, args.algorithm, inputs).fit(train_x, train_y)
    measure = "accuracy" if args.dataset in CLASSIFICATION else "R²"
    print(f"{args.dataset} with {args.algorithm}: trained on {len(train_x)} rows")
    print(f"{measure} on the {len(test_x)} held-out rows: {model.score(test_x, test_y):.4f}")

    folder = args.out or HERE / "models" / f"{args.dataset}-{args.algorithm}"
    write(folder, args.dataset, model, test_x)
    print(f"wrote {folder}; now: lagar serve {folder}")


if __name__ == "__main__":
    main()
