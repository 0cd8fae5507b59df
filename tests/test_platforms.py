"""What a platform says in variables and folders stands for defaults, and nothing else does."""

from __future__ import annotations

from pathlib import Path

import pytest

from lagar import settings
from lagar.errors import SettingsError
from lagar.platforms import container

VERTEX = {
    "AIP_HTTP_PORT": "9090",
    "AIP_PREDICT_ROUTE": "/v1/endpoints/1/deployedModels/2:predict",
    "AIP_HEALTH_ROUTE": "/v1/endpoints/1/deployedModels/2",
    "AIP_STORAGE_URI": "s3://models/churn",
}


def test_nothing_is_assumed_where_no_platform_says_anything(tmp_path: Path) -> None:
    assert container({"MODEL_NAME": "x", "AIP_STORAGE_URI": "y"}, tmp_path) is None
    (tmp_path / "mnt/models").mkdir(parents=True)
    assert container({}, tmp_path) is None


def test_vertex_ai_says_port_routes_and_where_the_model_lies(tmp_path: Path) -> None:
    found = container(VERTEX, tmp_path)
    assert found is not None
    assert found.path == "s3://models/churn"
    assert {name: said.value for name, said in found.settings.items()} == {
        "host": "0.0.0.0", "port": "9090", "predict_route": VERTEX["AIP_PREDICT_ROUTE"],
        "health_route": VERTEX["AIP_HEALTH_ROUTE"],
    }  # fmt: skip


def test_sagemaker_is_known_by_its_folder_and_may_name_another_port(tmp_path: Path) -> None:
    folder = tmp_path / "opt/ml/model"
    folder.mkdir(parents=True)
    found = container({}, tmp_path)
    assert found is not None
    assert (found.path, set(found.settings)) == (str(folder), {"host"})
    found = container({"SAGEMAKER_BIND_TO_PORT": "8081"}, tmp_path)
    assert found is not None
    assert found.settings["port"].value == "8081"


def test_kserve_is_known_by_its_folder_in_a_pod_and_names_the_model(tmp_path: Path) -> None:
    folder = tmp_path / "mnt/models"
    folder.mkdir(parents=True)
    found = container({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "MODEL_NAME": "churn"}, tmp_path)
    assert found is not None
    assert (found.path, found.name, found.settings["host"].value) == (str(folder), "churn", "0.0.0.0")
    assert found.settings["grpc_port"].value == "8081"


def test_what_is_said_of_the_server_goes_before_what_the_platform_says(tmp_path: Path) -> None:
    environ = {**VERTEX, "LAGAR_HOME": str(tmp_path)}
    loaded = settings.load({}, environ)
    assert (loaded.server.host, loaded.server.port) == ("0.0.0.0", 9090)
    assert (loaded.origins["port"], loaded.origins["predict_route"]) == ("AIP_HTTP_PORT", "AIP_PREDICT_ROUTE")
    assert loaded.container is not None
    (tmp_path / "server.toml").write_text('port = 7000\nhost = "127.0.0.1"\n')
    assert settings.load({}, environ).server.port == 7000
    assert settings.load({"port": 6000}, {**environ, "LAGAR_PORT": "5000"}).server.port == 6000


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("AIP_HTTP_PORT", "http", r"port \(AIP_HTTP_PORT\) must be a whole number, got 'http'"),
        ("AIP_HTTP_PORT", "70000", r"port \(AIP_HTTP_PORT\) must be between"),
        ("AIP_PREDICT_ROUTE", "predict", r"predict_route \(AIP_PREDICT_ROUTE\) must be a plain path"),
        ("AIP_HEALTH_ROUTE", "/a//b", r"health_route \(AIP_HEALTH_ROUTE\) must be a plain path"),
    ],
)
def test_a_value_that_cannot_be_meant_names_its_variable(tmp_path: Path, variable: str, value: str, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        settings.load({}, {**VERTEX, "LAGAR_HOME": str(tmp_path), variable: value})
