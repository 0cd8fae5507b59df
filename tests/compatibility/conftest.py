"""The folder that the transcripts were recorded with, served as MLServer's, and models for the payloads of others."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder
from sklearn.tree import DecisionTreeClassifier

from contract.callers import Server, grpc_target
from support.examples import Examples, real_data
from support.inference import Client
from support.mlserver import SKLEARN, custom, write
from support.server import LagarServer

TAGS = {"1.0": "v1.0.0", "1.1": "v1.0.1"}
"""MLServer served the versions of the tutorial's two tags as 1.0 and 1.1."""

SUM = """
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class SumModel(MLModel):
    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        total = self.decode(payload.inputs[0], default_codec=NumpyCodec).sum(axis=1)
        output = NumpyCodec.encode_output("total", total)
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=[output])
"""
"""tests.fixtures.SumModel of MLServer's repository."""


@pytest.fixture(scope="session")
def data() -> Path:
    return real_data()


@pytest.fixture(scope="session")
def replayed(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Iterator[Server]:
    """Everything that is asked again, behind one server."""
    root = tmp_path_factory.mktemp("replays")
    examples = Examples(tmp_path_factory.mktemp("examples"))
    examples.train("products", "real")
    trained = examples.folder("products", "real") / "models" / "classificador-produtos"
    said = (data / "products" / "requests" / "model-settings.template.json").read_text()
    for version, tag in TAGS.items():
        folder = root / "models" / f"classificador-produtos-v{version}"
        folder.mkdir(parents=True)
        shutil.copy(trained / tag / "classificador-produtos.joblib", folder)
        (folder / "model-settings.json").write_text(said.replace("$VERSAO", version))
    export = json.loads((data / "products" / "iris-dtc-export.json").read_text())
    _sklearn(root / "models" / "iris-dtc", iris_tree(export["tree"]), "iris-dtc", "1.0")
    for name, width in (("iris", 4), ("three", 3), ("ten", 10), ("digits", 64)):
        rows = np.random.default_rng(width).normal(size=(60, width))
        _sklearn(root / "others" / name, LogisticRegression().fit(rows, rows[:, 0] > 0), name, "v0.1.0")
    _sklearn(root / "others" / "housing", _housing(), "housing", "1")
    settings = json.loads((data / "inference-protocol/mlserver/testdata/model-settings.json").read_text())
    del settings["implementation"]  # tests.fixtures.SumModel
    custom(root / "others" / "sum", SUM, **settings)
    (root / "settings.json").write_text('{"debug": "true"}')
    ports = ["--grpc-port", "0", "--metrics-port", "0"]
    env = {"LAGAR_NO_AUTH": "true"}  # else a load and an unload need a key
    with (
        LagarServer(root, home=tmp_path_factory.mktemp("home"), args=ports, env=env, timeout_s=300) as running,
        httpx.Client(base_url=running.url, timeout=90) as http,
        Client(grpc_target(running)) as client,
    ):
        yield Server(running, http, client, "")


def _sklearn(folder: Path, model: Any, name: str, version: str) -> None:
    write(folder, name=name, implementation=SKLEARN, parameters={"uri": "./model.joblib", "version": version})
    joblib.dump(model, folder / "model.joblib")


def _housing() -> Any:
    """A model of the columns of kserve/mixedtype-input.json."""
    record = {
        "MSZoning": "RL", "LotArea": 8450, "LotShape": "Reg", "Utilities": "AllPub", "YrSold": 2008,
        "Neighborhood": "CollgCr", "OverallQual": 7, "YearBuilt": 2003, "SaleType": "WD", "GarageArea": 548,
    }  # fmt: skip
    frame = pd.DataFrame([record | {"LotArea": area, "OverallQual": area % 9} for area in range(8000, 9000, 50)])
    texts = [name for name, value in record.items() if isinstance(value, str)]
    columns = make_column_transformer((OneHotEncoder(), texts), remainder="passthrough")
    return make_pipeline(columns, LogisticRegression(max_iter=5000)).fit(frame, frame["LotArea"] > 8400)


def iris_tree(tree: dict[str, list[Any]]) -> DecisionTreeClassifier:
    """A tree that splits as the shipped one does: fitted on the rows of its own leaves."""
    rng = np.random.default_rng(0)
    rows = rng.uniform([4, 2, 1, 0], [8, 4.5, 7, 2.5], size=(4000, 4)).astype(np.float32)
    return DecisionTreeClassifier(random_state=0).fit(rows, np.array([leaf_class(tree, row) for row in rows], np.int32))


def leaf_class(tree: dict[str, list[Any]], row: Any) -> int:
    """The class of the leaf that a row falls into."""
    node = 0
    while tree["children_left"][node] != -1:
        side = "children_left" if row[tree["feature"][node]] <= tree["threshold"][node] else "children_right"
        node = tree[side][node]
    return int(np.argmax(tree["value"][node]))
