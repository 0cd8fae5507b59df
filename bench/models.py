"""The models and request bodies that every contender of the benchmark is given.

Trained on scikit-learn's wine data (178 rows, 13 features) and on the generated customers of `examples/churn`, so
nothing is downloaded. The ONNX forms are conversions of the very same fitted models.
"""

from __future__ import annotations

import importlib.util
import json
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from sklearn.datasets import load_wine
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

ROW_COUNTS = (1, 32, 1000)
MODELS = ("logistic", "forest", "logistic-onnx", "forest-onnx", "churn")
CHURN = Path(__file__).resolve().parent.parent / "examples" / "churn" / "train.py"
CUSTOMER_KINDS = ("customer", "tutorial")
"""Forms of body and answer of the churn model: one named record, Lagar's answer and the tutorial's."""


@dataclass(frozen=True)
class Workload:
    """One model with its request bodies and the classes it must answer for them."""

    name: str
    pickled: Path
    """What the peers serve, and the subject too unless the model's name ends in -onnx."""
    served: Path
    """What the subject serves."""
    expected: dict[int, list[int]]
    """Rows per request → classes."""
    customer: dict[str, Any] | None = None
    """The one record that is sent to the churn model."""
    probability: float = 0.0
    """What the churn model says of it."""

    def suits(self, kind: str) -> bool:
        """Whether a contender of that kind can be asked for this model."""
        return (kind in CUSTOMER_KINDS) == (self.customer is not None)

    def body(self, kind: str, n: int) -> bytes:
        """A request body of n rows in the form a server of that kind takes."""
        return json.dumps(self.customer).encode() if self.customer is not None else body(kind, n)

    def wrong(self, kind: str, answer: bytes, n: int) -> str:
        """What is wrong with an answer for n rows; "" for a right one."""
        if self.customer is not None:
            told = churn_in(kind, answer)
            right = told[0] == bool(self.expected[1][0]) and abs(told[1] - self.probability) < 1e-9
            return "" if right else f"{told} in place of {self.expected[1][0]}, {self.probability}"
        flat = [value[0] if isinstance(value, list) else value for value in classes_in(kind, answer)]
        return "" if flat == self.expected[n] else f"other classes for {n} rows: {flat[:10]} …"


def make(name: str, folder: Path) -> Workload:
    """Train `name`, one of MODELS, and write it into folder."""
    if name == "churn":
        return _churn(folder)
    base = name.removesuffix("-onnx")
    features, classes = load_wine(return_X_y=True)
    estimator: Any = (
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        if base == "logistic"
        else RandomForestClassifier(n_estimators=100, random_state=0)
    )
    estimator.fit(features, classes)
    pickled = folder / f"{base}.joblib"
    joblib.dump(estimator, pickled)
    served = pickled
    if name.endswith("-onnx"):
        served = folder / f"{base}.onnx"
        served.write_bytes(_to_onnx(estimator, features.shape[1]))
    expected = {n: estimator.predict(rows(n)).tolist() for n in ROW_COUNTS}
    return Workload(name, pickled, served, expected)


def _churn(folder: Path) -> Workload:
    """The pickle of vectoriser and model that the example trains."""
    found = importlib.util.spec_from_file_location("churn_train", CHURN)
    assert found is not None
    assert found.loader is not None
    example = importlib.util.module_from_spec(found)
    found.loader.exec_module(example)
    table = example.prepare(example.generate_customers())
    vectoriser, model = example.train(table)
    pickled = folder / "churn.bin"
    pickled.write_bytes(pickle.dumps((vectoriser, model)))
    customer = example.records(table)[0]
    probability = float(model.predict_proba(vectoriser.transform([customer]))[0, 1])
    return Workload("churn", pickled, pickled, {1: [int(probability >= 0.5)]}, customer, probability)


def rows(n: int) -> Any:
    """n rows of the wine data, repeated as often as needed: shape (n, 13)."""
    features, _ = load_wine(return_X_y=True)
    return np.resize(features, (n, features.shape[1]))


def body(kind: str, n: int) -> bytes:
    """A request body of n rows in the form a server of that kind takes: v2, batches or mlflow."""
    matrix = rows(n)
    bodies = {
        "v2": lambda: {
            "inputs": [
                {"name": "predict", "shape": list(matrix.shape), "datatype": "FP64", "data": matrix.ravel().tolist()}
            ]
        },
        "batches": lambda: {"batches": matrix.tolist()},
        "mlflow": lambda: {"inputs": matrix.tolist()},
    }
    return json.dumps(bodies[kind]()).encode()


def classes_in(kind: str, answer: bytes) -> list[int]:
    """The predicted classes in an answer of that kind."""
    document = json.loads(answer)
    if kind == "v2":
        return next(output["data"] for output in document["outputs"] if output["name"] in ("predict", "predictions"))
    key = "Prediction" if kind == "batches" else "predictions"
    return document[key]


def churn_in(kind: str, answer: bytes) -> tuple[bool, float]:
    """Decision and probability in an answer about one customer."""
    document = json.loads(answer)
    if kind == "tutorial":
        return document["churn"], document["churn_probability"]
    return bool(document["predictions"][0]), document["probabilities"][0][1]


def _to_onnx(estimator: Any, width: int) -> bytes:
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import FloatTensorType

    graph = to_onnx(
        estimator, initial_types=[("X", FloatTensorType([None, width]))], options={id(estimator): {"zipmap": False}}
    )
    return graph.SerializeToString()
