"""`lagar import mlflow`: a model of a registry, of a run or of a folder, by mlflow's own client."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import joblib
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from lagar.errors import SettingsError, SetupError, Unreachable
from lagar.intake.tracking import fetched
from support.server import lagar

mlflow = pytest.importorskip("mlflow", reason="mlflow-skinny is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")  # mlflow's own deprecations

MLMODEL = """
flavors:
  sklearn:
    pickled_model: model.pkl
    serialization_format: cloudpickle
    sklearn_version: 1.0.0
signature:
  inputs: '[{"name": "a", "type": "double", "required": true}, {"name": "b", "type": "double", "required": true}]'
"""


class Registry(NamedTuple):
    uri: str
    folder: Path


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry on SQLite with coin 1 and 2, of which 2 is the champion."""
    from mlflow import MlflowClient

    root = tmp_path_factory.mktemp("tracking")
    folder = root / "logged"
    folder.mkdir()
    x = np.arange(40.0).reshape(20, 2)
    joblib.dump(LogisticRegression().fit(x, [0, 1] * 10), folder / "model.pkl")
    (folder / "MLmodel").write_text(MLMODEL)
    uri = f"sqlite:///{root}/mlflow.db"
    client = MlflowClient(uri, uri)
    client.create_registered_model("coin")
    for _ in range(2):
        client.create_model_version("coin", folder.as_uri())
    client.set_registered_model_alias("coin", "champion", "2")
    with pytest.MonkeyPatch.context() as patch:  # mlflow tells its own process of its server by these
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
            patch.setenv(name, "")
        yield Registry(uri, folder)


def test_a_version_and_an_alias_of_a_registry_give_the_folder_its_name_and_its_number(registry: Registry) -> None:
    for uri, version in (("models:/coin/1", "1"), ("models:/coin@champion", "2")):
        with fetched(uri, registry.uri) as found:
            assert (found.name, found.version) == ("coin", version)
            assert {path.name for path in found.folder.iterdir()} == {"MLmodel", "model.pkl"}
            assert found.source == f"{uri} of {registry.uri}"
        assert not found.folder.exists()


def test_a_folder_is_taken_where_it_lies(registry: Registry) -> None:
    with fetched(str(registry.folder), None) as found:
        assert (found.folder, found.name, found.version) == (registry.folder, "", "")
    with pytest.raises(SetupError, match=r"expected models:/NAME/VERSION, runs:/RUN/PATH or a folder with MLmodel"):
        fetched(str(registry.folder / "nowhere"), None).__enter__()


def test_what_is_not_there_is_said_in_mlflows_words(registry: Registry) -> None:
    with pytest.raises(SetupError, match=r"models:/coin/9: .*not found"), fetched("models:/coin/9", registry.uri):
        pass


def test_a_server_that_does_not_answer_is_named_without_its_password() -> None:
    with (
        pytest.raises(Unreachable, match=r"^models:/coin/1: the tracking server http://127\.0\.0\.1:9 does not answer"),
        fetched("models:/coin/1", "http://me:secret@127.0.0.1:9"),
    ):
        pass


def test_an_imported_model_is_a_version_of_the_home(registry: Registry, tmp_path: Path) -> None:
    home = tmp_path / "home"
    without = lagar("import", "mlflow", "models:/coin/1", home=home, env={"MLFLOW_TRACKING_URI": ""})
    assert without.returncode == 2
    assert "name it with --tracking-uri or MLFLOW_TRACKING_URI" in without.stderr
    done = lagar("import", "mlflow", "models:/coin@champion", home=home, env={"MLFLOW_TRACKING_URI": registry.uri})
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("coin@2")
    assert "lagar promote coin 2" in done.stderr
    shown = lagar("show", "coin@2", home=home)
    assert "imported from models:/coin@champion" in shown.stdout
    nameless = lagar("import", "mlflow", str(registry.folder), home=home)
    assert (nameless.returncode, "give one with --name" in nameless.stderr) == (2, True)


def test_a_uri_without_a_server_to_ask_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(SettingsError, match="name it with --tracking-uri"), fetched("runs:/1/model", None):
        pass
