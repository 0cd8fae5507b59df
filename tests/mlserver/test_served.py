"""A folder of MLServer's behind a server: its models side by side, as its clients and its dashboards know them."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.mlserver import SUM, custom, logistic, sklearn_model, tensor, write
from support.server import LagarServer, lagar
from support.wait import eventually

SEEN = SUM.replace(
    "outputs=[output])", "outputs=[output], parameters={'headers': {'x-seen': payload.parameters.headers['x-asked']}})"
)
PRICES = [{"name": "x", "datatype": "FP64", "shape": [-1, 2], "parameters": {"content_type": "np"}}]
ANYWHERE = {"MLSERVER_HOST": "0.0.0.0", "LAGAR_GRPC_PORT": "0"}


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("mlserver")
    sklearn_model(root / "models/iris-v1.0.9", name="iris", version="v1.0.9")
    sklearn_model(root / "models/iris-v1.0.10", name="iris", version="v1.0.10", extra={"predict_fn": "predict_proba"})
    (root / "shared.py").write_text("ONE = 1\n")
    custom(
        root / "models/sum",
        f"from shared import ONE\n{SEEN}",
        name="sum",
        platform="mine",
        inputs=PRICES,
        parameters={"version": "1.0"},
    )
    custom(root / "models/edited", name="edited", parameters={"version": "1.0"})
    logistic(root / "models/broken")
    write(root / "models/broken", implementation="mlserver_huggingface.HuggingFaceRuntime")
    ports = {"metrics_port": free_port(), "grpc_port": free_port()}
    (root / "settings.json").write_text(json.dumps({"debug": "true", **ports, "parallel_workers": 1}))
    return root


@pytest.fixture(scope="module")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LagarServer]:
    args = ("--no-auth", "--watch")
    with LagarServer(folder, home=tmp_path_factory.mktemp("home"), workers=None, args=args) as running:
        yield running


def infer(server: LagarServer, path: str, *inputs: Any, **more: Any) -> httpx.Response:
    url, headers = f"{server.url}/v2/models/{path}/infer", {"x-asked": "é".encode("latin-1")}
    return httpx.post(url, json={"inputs": list(inputs), **more}, headers=headers, timeout=60)


def test_its_models_answer_and_the_broken_one_is_named(server: LagarServer) -> None:
    line = server.wait_line("is not served")
    assert "models/broken" in line
    assert "mlserver_huggingface" in line
    assert httpx.get(f"{server.url}/v2/models/broken/ready").status_code == 404
    row = tensor([[9.0, 10.0]])
    old, new = infer(server, "iris/versions/v1.0.9", row).json(), infer(server, "iris", row).json()
    assert (old["model_version"], new["model_version"]) == ("v1.0.9", "v1.0.10")
    assert (old["outputs"][0]["name"], old["outputs"][0]["shape"]) == ("predict", [1, 1])
    assert (new["outputs"][0]["name"], new["outputs"][0]["shape"]) == ("predict_proba", [1, 2])


@pytest.mark.parametrize("lane", ["fast", "asgi"])
def test_a_custom_runtime_answers_whole_requests_on_both_lanes(server: LagarServer, lane: str) -> None:
    path = f"{server.url}/v2/models/sum/infer{'?' if lane == 'asgi' else ''}"
    headers = {"x-asked": lane} | ({"accept": "application/json, */*"} if lane == "asgi" else {})
    good = httpx.post(path, json={"id": "7", "inputs": [tensor([[1, 2], [3, 4]])]}, headers=headers, timeout=60)
    assert good.status_code == 200
    assert (good.json()["id"], good.json()["outputs"][0]["data"]) == ("7", [3.0, 7.0])
    assert (good.headers["x-seen"], good.json()["parameters"]) == (lane, {})
    bad = httpx.post(path, json={"inputs": []}, headers=headers, timeout=60)
    assert (bad.status_code, bad.json()) == (400, {"error": "one input is summed (0 were received)"})
    failed = httpx.post(path, json={"inputs": [tensor(["a"], datatype="BYTES")]}, headers=headers, timeout=60)
    assert failed.status_code == 500
    assert "Traceback" not in failed.text


def test_a_custom_runtime_has_its_place_on_every_page(server: LagarServer) -> None:
    for path in ("/models/sum", "/v2/models/sum", "/v2/models/sum/versions/1.0", "/openapi.json", "/", "/docs"):
        assert httpx.get(server.url + path, timeout=60, follow_redirects=True).status_code == 200, path
    told = httpx.get(f"{server.url}/v2/models/sum", timeout=60).json()
    assert (told["platform"], told["inputs"]) == ("mine", PRICES)
    native = httpx.post(f"{server.url}/models/sum/predict", json={"a": 1}, timeout=60)
    assert native.status_code == 400
    assert "takes whole V2 requests" in native.text


def test_an_unloaded_model_answers_in_none_of_its_versions(server: LagarServer) -> None:
    row, paths = tensor([[9.0, 10.0]]), ("iris", "iris/versions/v1.0.9", "iris/versions/v1.0.10")
    for verb, status in (("unload", 404), ("load", 200)):
        assert httpx.post(f"{server.url}/v2/repository/models/iris/{verb}", timeout=120).status_code == 200
        eventually(
            lambda status=status: {infer(server, path, row).status_code for path in paths} == {status},
            60, f"{status} for every version after {verb}",
        )  # fmt: skip


def test_a_label_is_what_its_folder_holds_now(server: LagarServer, folder: Path) -> None:
    asked = ("edited", "edited/versions/1.0")
    first = [infer(server, path, tensor([[1, 2]])).json() for path in asked]
    assert [answer["model_version"] for answer in first] == ["1.0", "1.0"]
    (folder / "models/edited/runtime.py").write_text(SUM.replace("sum(axis=1)", "prod(axis=1)"))

    def totals() -> list[float]:
        return [infer(server, path, tensor([[1, 2]])).json()["outputs"][0]["data"][0] for path in asked]

    eventually(lambda: totals() == [2.0, 2.0], 120, "the edited class under both of its paths")
    answer = infer(server, asked[1], tensor([[1, 2]])).json()
    assert answer["model_version"].startswith("1.0-"), "what a version is never changes"
    assert httpx.get(f"{server.url}/v2/models/edited/versions/1.0/ready", timeout=60).status_code == 200


def test_metrics_are_on_their_own_port_under_mlservers_names(server: LagarServer, folder: Path) -> None:
    infer(server, "sum", tensor([[1, 2]]))
    infer(server, "sum", tensor([1]), tensor([2]))
    port = json.loads((folder / "settings.json").read_text())["metrics_port"]
    text = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=60).text
    values = {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in text.splitlines() if line[0] != "#"}
    labels = '{model="sum",version="1.0"}'
    assert values[f"model_infer_request_success_total{labels}"] >= 1
    assert values[f"model_infer_request_failure_total{labels}"] >= 1
    assert values[f"model_infer_request_duration_count{labels}"] >= 1
    assert values[f"lagar_request_seconds_count{labels}"] == values[f"model_infer_request_duration_count{labels}"]
    path = 'app_name="mlserver",method="POST",path="/v2/models/{model_name}/infer",status_code="200"'
    rest = next(
        value for name, value in values.items() if name.startswith("rest_server_requests_total") and '"200"' in name
    )
    assert rest >= 1, path
    assert httpx.get(f"http://127.0.0.1:{port}/", timeout=60).status_code == 404
    assert httpx.post(f"http://127.0.0.1:{port}/metrics", timeout=60).status_code == 405


def test_another_host_wants_keys_or_the_word_that_none_are_wanted(folder: Path, tmp_path: Path) -> None:
    done = lagar("serve", folder, "--port", "0", "--metrics-port", "0", home=tmp_path / "home", env=ANYWHERE)
    assert done.returncode == 2
    assert "--no-auth" in done.stderr
    assert "lagar keys create" in done.stderr


def test_models_are_loaded_when_they_are_asked_for_where_the_settings_say_so(tmp_path: Path) -> None:
    sklearn_model(tmp_path / "f/m", name="m")
    (tmp_path / "f/settings.json").write_text('{"load_models_at_startup": "false", "grpc_port": 0, "metrics_port": 0}')
    with LagarServer(tmp_path / "f", home=tmp_path / "home", args=("--no-auth",)) as server:
        row = tensor([[9.0, 10.0]])
        (entry,) = httpx.post(f"{server.url}/v2/repository/index", timeout=60).json()
        assert (entry["name"], entry["state"]) == ("m", "UNAVAILABLE")
        assert httpx.get(f"{server.url}/v2/health/ready", timeout=60).status_code == 200
        assert infer(server, "m", row).status_code == 404
        assert httpx.post(f"{server.url}/v2/repository/models/m/load", timeout=120).status_code == 200
        eventually(lambda: infer(server, "m", row).status_code == 200, 60, "answers of the model that was loaded")


def test_a_folder_is_imported_as_versions(folder: Path, tmp_path: Path) -> None:
    done = lagar("import", "mlserver", folder, "--compile", "off", home=tmp_path / "home")
    assert done.returncode == 1, done.stderr
    assert sorted(done.stdout.split()) == ["edited@1.0", "iris@v1.0.10", "iris@v1.0.9", "sum@1.0"]
    assert "mlserver_huggingface" in done.stderr
    with LagarServer(home=tmp_path / "home") as server:
        row = tensor([[9.0, 10.0]])
        assert infer(server, "iris/versions/v1.0.9", row).json()["model_version"] == "v1.0.9"
        assert infer(server, "sum/versions/1.0", tensor([[1, 2]])).json()["outputs"][0]["data"] == [3.0]
