"""Train the wine quality classifier: is a wine good ("bom") or bad ("ruim")?

    python train.py                  2,000 generated wines with the columns of the real data
    python train.py --data DIR       the real wines, from DIR/wine-quality/winequality-merged.csv
    python train.py --out DIR        write somewhere else than beside this file

Writes `model.joblib` and two requests: `bom.json`, a wine that the model calls good, and `ruim.json`, a bad one.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.metrics import accuracy_score, confusion_matrix
from sklearn.model_selection import train_test_split

HERE = Path(__file__).resolve().parent

# name: (mean, standard deviation, smallest, largest, decimals) of white wine, and how much a red one differs
MEASUREMENTS = {
    "fixed acidity": (6.9, 0.85, 3.8, 15.9, 1, 1.4),
    "volatile acidity": (0.28, 0.10, 0.08, 1.58, 2, 0.25),
    "citric acid": (0.33, 0.12, 0.0, 1.66, 2, -0.06),
    "residual sugar": (6.4, 5.0, 0.6, 65.8, 1, -3.8),
    "chlorides": (0.046, 0.02, 0.009, 0.611, 3, 0.04),
    "free sulfur dioxide": (35.0, 17.0, 1.0, 289.0, 0, -19.0),
    "total sulfur dioxide": (138.0, 42.0, 6.0, 440.0, 0, -92.0),
    "density": (0.994, 0.003, 0.987, 1.039, 4, 0.003),
    "pH": (3.19, 0.15, 2.72, 4.01, 2, 0.12),
    "sulphates": (0.49, 0.11, 0.22, 2.0, 2, 0.17),
    "alcohol": (10.5, 1.2, 8.0, 14.9, 1, -0.1),
}


def generate_wines(count: int = 2000, seed: int = 7) -> pd.DataFrame:
    """Made-up wines in the columns of winequality-merged.csv: more alcohol and less volatile acid taste better."""
    random = np.random.default_rng(seed)
    red = random.random(count) < 0.25
    table = {}
    for name, (mean, spread, smallest, largest, decimals, red_offset) in MEASUREMENTS.items():
        values = random.normal(mean, spread, count) + red * red_offset
        table[name] = np.clip(values, smallest, largest).round(decimals)
    taste = (table["alcohol"] - 10.5) - 6 * (table["volatile acidity"] - 0.34) + 2 * (table["sulphates"] - 0.5)
    quality = np.clip(np.round(5.6 + 0.6 * taste + random.normal(0, 0.4, count)), 3, 9).astype(int)
    return pd.DataFrame({**table, "quality": quality, "color": np.where(red, "red", "white")})


def read_wines(data: Path | None) -> pd.DataFrame:
    """11 measurements, quality (3 to 9) and color ("red" or "white")."""
    if data is None:
        return generate_wines()
    return pd.read_csv(data / "wine-quality" / "winequality-merged.csv")


def prepare(wines: pd.DataFrame) -> tuple[pd.DataFrame, pd.Series]:
    """The 12 inputs (color: red 0, white 1) and the target: 1 for a bad wine, one below quality 7."""
    inputs = wines.drop(columns="quality")
    inputs["color"] = (inputs["color"] == "white").astype(int)
    return inputs, (wines["quality"] < 7).astype(int).rename("worst")


def train(inputs: pd.DataFrame, worst: pd.Series) -> ExtraTreesClassifier:
    model = ExtraTreesClassifier(
        n_estimators=40, max_depth=20, max_features="sqrt", class_weight="balanced", random_state=42
    )
    return model.fit(inputs, worst)


def write_requests(folder: Path, model: ExtraTreesClassifier, held_out: pd.DataFrame) -> None:
    """The held-out wines of which the model is surest."""
    good = model.predict_proba(held_out)[:, 0]
    for name, row in (("bom", good.argmax()), ("ruim", good.argmin())):
        wine = {**held_out.iloc[row].to_dict(), "color": int(held_out["color"].iloc[row])}
        (folder / f"{name}.json").write_text(json.dumps(wine, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the wine quality classifier.")
    parser.add_argument("--data", type=Path, help="folder that holds wine-quality/winequality-merged.csv")
    parser.add_argument("--out", type=Path, default=HERE, help="where to write (default: beside train.py)")
    args = parser.parse_args()

    inputs, worst = prepare(read_wines(args.data))
    train_x, test_x, train_y, test_y = train_test_split(inputs, worst, test_size=0.22, random_state=55)
    model = train(train_x, train_y)
    answers = model.predict(test_x)
    print(f"trained on {len(train_x)} wines")
    print(f"accuracy on the {len(test_x)} held-out wines: {accuracy_score(test_y, answers)}")
    print(f"confusion matrix (rows: bom, ruim): {confusion_matrix(test_y, answers).tolist()}")

    args.out.mkdir(parents=True, exist_ok=True)
    joblib.dump(model, args.out / "model.joblib")
    write_requests(args.out, model, test_x)
    print(f"wrote model.joblib, bom.json and ruim.json in {args.out}")


if __name__ == "__main__":
    main()
