"""Train the wine classifier: 13 measurements of a wine tell which of three growers it comes from.

    python train.py                  the 178 wines that come with scikit-learn
    python train.py --data DIR       the same wines from DIR/tabular/wine/wine.csv
    python train.py --out DIR        write somewhere else than beside this file

Writes `model.joblib`, and in `wine-examples/` the requests that the README sends.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import joblib
import pandas as pd
from sklearn.datasets import load_wine
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import train_test_split
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

HERE = Path(__file__).resolve().parent


def read_wines(data: Path | None) -> tuple[pd.DataFrame, pd.Series]:
    """The 13 measurements of each wine, and its class 0, 1 or 2."""
    bundle = load_wine(as_frame=True)
    # The tutorial's service spells the twelfth name with "_" where scikit-learn has "/".
    names = [name.replace("/", "_") for name in bundle.feature_names]
    if data is None:
        return bundle.data.set_axis(names, axis=1), bundle.target
    # The file has no header; its last column is the class, counted from 1.
    table = pd.read_csv(data / "tabular" / "wine" / "wine.csv", header=None, names=[*names, "class"])
    return table[names].astype(float), (table["class"] - 1).rename("target")


def train(wines: pd.DataFrame, classes: pd.Series) -> Pipeline:
    """The tutorial's pipeline: scale, then a small forest."""
    model = Pipeline(
        [
            ("scaler", StandardScaler()),
            ("random-forest", RandomForestClassifier(n_estimators=10, random_state=42)),
        ]
    )
    return model.fit(wines, classes)


def write_requests(folder: Path, held_out: pd.DataFrame, classes: pd.Series, everything: pd.DataFrame) -> None:
    """`0.json`, `1.json`, `2.json`: one held-out wine of each class; `batch_0.json`, `batch_1.json`: 32 wines each."""
    folder.mkdir(parents=True, exist_ok=True)
    for label in sorted(classes.unique()):
        wine = held_out[classes == label].iloc[0].to_dict()
        (folder / f"{label}.json").write_text(json.dumps(wine, indent=2) + "\n")
    for number, rows in enumerate([held_out[:32], everything[2::5][:32]]):
        (folder / f"batch_{number}.json").write_text(json.dumps({"batches": rows.to_numpy().tolist()}) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the wine classifier.")
    parser.add_argument("--data", type=Path, help="folder that holds tabular/wine/wine.csv")
    parser.add_argument("--out", type=Path, default=HERE, help="where to write (default: beside train.py)")
    args = parser.parse_args()

    wines, classes = read_wines(args.data)
    train_x, test_x, train_y, test_y = train_test_split(wines, classes, test_size=0.25, random_state=42)
    model = train(train_x, train_y)
    print(f"trained on {len(train_x)} wines")
    print(f"accuracy on the {len(test_x)} held-out wines: {model.score(test_x, test_y)}")
    print(f"accuracy on all {len(wines)} wines: {model.score(wines, classes)}")

    args.out.mkdir(parents=True, exist_ok=True)
    joblib.dump(model, args.out / "model.joblib")
    write_requests(args.out / "wine-examples", test_x, test_y, wines)
    print(f"wrote {args.out / 'model.joblib'} and the requests in {args.out / 'wine-examples'}")


if __name__ == "__main__":
    main()
