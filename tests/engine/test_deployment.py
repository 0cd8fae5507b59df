"""What a deployment tells the other processes."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from lagar.engine.deployment import Deployment
from lagar.metrics import Registry
from lagar.registry.model import LoadedModel, ModelSource, without_folders
from lagar.registry.signature import Field, Output, Signature
from lagar.types import Outputs, Rows


class Ones:
    def predict(self, rows: Rows, outputs: tuple[str, ...]) -> Outputs:
        return dict.fromkeys(outputs, np.ones(rows.n))

    def close(self) -> None: ...


def test_what_others_are_told_names_files_and_not_folders(tmp_path: Path) -> None:
    signature = Signature(
        fields=(Field("x"),),
        outputs=(Output("predict"),),
        native_outputs=("predict",),
        origin="feature_names_in_ of Pipeline, example /srv/secret/wine.csv",
    )
    warning = "loaded /srv/secret/models/wine.joblib, written by scikit-learn 1.6.1; see GET /models/wine"
    model = LoadedModel(
        ModelSource(name="wine", version="1", path="/srv/secret/models/wine.joblib", kind="sklearn"),
        Ones(),
        signature,
        warnings=[warning],
    )
    info = Deployment(model, Registry(tmp_path, 0), max_queue_rows=10).info(live=True, loaded_at="now")
    assert info.signature.origin == "feature_names_in_ of Pipeline, example wine.csv"
    assert info.warnings == ("loaded wine.joblib, written by scikit-learn 1.6.1; see GET /models/wine",)


class Slow(Ones):
    """Takes 50 ms for each row."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def predict(self, rows: Rows, outputs: tuple[str, ...]) -> Outputs:
        self.calls.append(rows.n)
        threading.Event().wait(0.05 * rows.n)
        return super().predict(rows, outputs)


@pytest.mark.parametrize(("model", "largest"), [(Slow(), 2), (Ones(), 256)])
def test_a_slow_model_is_not_tried_with_many_rows_when_it_starts(tmp_path: Path, model: Ones, largest: int) -> None:
    signature = Signature(fields=(Field("x"),), outputs=(Output("predict"),), native_outputs=("predict",))
    loaded = LoadedModel(ModelSource(name="slow", version="1", path="slow", kind="sklearn"), model, signature)
    deployment = Deployment(loaded, Registry(tmp_path, 0), max_queue_rows=10)
    deployment.warm_up(Rows(1, np.ones((1, 1))))
    assert deployment.cost.of(256) < (0.05 * 256 * 4 if largest == 2 else 0.05)
    if isinstance(model, Slow):
        assert max(model.calls) == largest
        assert deployment.cost.of(1) >= 0.04


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("see GET /v2/models/churn", "see GET /v2/models/churn"),
        ("see GET /models/churn/example", "see GET /models/churn/example"),
        ("/tmp/a/b.csv: line 3", "b.csv: line 3"),
        ("no path here", "no path here"),
    ],
)
def test_addresses_of_this_server_stay(text: str, told: str) -> None:
    assert without_folders(text) == told
