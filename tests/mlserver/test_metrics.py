"""Metrics on a port of their own, told under MLServer's names too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import generate_latest
from prometheus_client.registry import Collector

from lagar.control.aliases import families
from lagar.errors import SettingsError
from lagar.intake import mlserver_server
from lagar.metrics import Registry, collect
from lagar.settings import load
from support.mlserver import sklearn_model


def settings_of(folder: Path, said: dict[str, Any]) -> Any:
    sklearn_model(folder / "m")
    (folder / "settings.json").write_text(json.dumps(said))
    return load({}, {"LAGAR_HOME": str(folder / "home")}, beneath=mlserver_server.said(folder)).server


def test_a_folder_of_mlservers_has_its_ports_and_names(tmp_path: Path) -> None:
    server = settings_of(tmp_path, {})
    assert (server.host, server.port, server.grpc_port, server.metrics_port) == ("127.0.0.1", 8080, 8081, 8082)
    assert (server.metrics_endpoint, server.metrics_aliases) == ("/metrics", "mlserver")


def test_its_settings_say_port_path_and_prefix(tmp_path: Path) -> None:
    said = {"metrics_port": "8089", "metrics_endpoint": "/prometheus", "metrics_rest_server_prefix": "http"}
    server = settings_of(tmp_path, said)
    assert (server.metrics_port, server.metrics_endpoint, server.metrics_rest_prefix) == (8089, "/prometheus", "http")
    assert settings_of(tmp_path, {"metrics_endpoint": None}).metrics_port == 0


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"metrics_port": 8080}, "metrics_port .* must not be that of HTTP"),
        ({"metrics_port": 70000}, "metrics_port .* must be between"),
        ({"metrics_endpoint": "no slash"}, "metrics_endpoint .* must be a plain path"),
        ({"metrics_rest_server_prefix": "rest-server"}, "metrics_rest_prefix .* letters"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, said: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        settings_of(tmp_path, said)


def told(folder: Path, prefix: str = "rest_server") -> dict[str, float]:
    """Series → value."""

    class Aliases(Collector):
        def collect(self) -> Any:
            return families(collect(folder), prefix)

    lines = generate_latest(Aliases()).decode().splitlines()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if line[0] != "#"}


def test_mlservers_names_have_the_numbers_of_our_own(tmp_path: Path) -> None:
    registry = Registry(tmp_path, 0)
    for protocol, status, count in (("v2", "200", 5), ("native", "200", 2), ("v2", "400", 3), ("grpc", "200", 4)):
        registry.counter("lagar_requests", "m", "1", protocol, status).add(count)
    registry.histogram("lagar_request_seconds", "m", "1").observe(0.5, 4)
    registry.histogram("lagar_batch_rows", "m", "1").observe(3)
    values = told(tmp_path, "http")
    labels = '{model="m",version="1"}'
    assert values[f"model_infer_request_success_total{labels}"] == 11
    assert values[f"model_infer_request_failure_total{labels}"] == 3
    assert values[f"model_infer_request_duration_count{labels}"] == 4
    assert values[f"model_infer_request_duration_sum{labels}"] == pytest.approx(2.0)
    path = 'app_name="mlserver",method="POST",path="/v2/models/{model_name}/infer"'
    assert values[f'http_requests_total{{{path},status_code="200"}}'] == 5
    assert values[f'http_requests_total{{{path},status_code="400"}}'] == 3
    assert values[f'http_request_duration_seconds_count{{{path},status_code="200"}}'] == 4
    assert values[f'http_request_duration_seconds_sum{{{path},status_code="200"}}'] == pytest.approx(2.0)
    grpc = 'grpc_method="ModelInfer",grpc_service="inference.GRPCInferenceService",grpc_type="UNARY"'
    assert values[f"grpc_server_started_total{{{grpc}}}"] == 4
    assert values[f'grpc_server_handled_total{{code="OK",{grpc}}}'] == 4
    assert values['batch_request_queue_bucket{le="4.0",model_name="m",model_version="1"}'] == 1
