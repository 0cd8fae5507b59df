"""What a deployment tells the other processes."""

from __future__ import annotations

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
