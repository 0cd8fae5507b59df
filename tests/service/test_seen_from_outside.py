"""What an operator sees: metrics, logs and health, while models fail, block, hold the interpreter or never return."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from conftest import Serve, Trained
from support.keys import key_for
from support.server import LagarServer, is_alive, wait_gone
from support.wait import eventually
from support.wire import Wire, chunked, get, post

TROUBLE = '''
import os
import sys
import threading
from pathlib import Path


class Trouble:
    """Does what its rows say."""

    def load(self, path):
        pass

    def predict(self, rows):
        for row in rows:
            action = row["action"]
            if action == "raise":
                raise RuntimeError("the secret reason")
            if action == "exit":
                sys.exit(3)
            if action == "interrupt":
                raise KeyboardInterrupt
            if action == "more":
                return [1.0] * (len(rows) + 1)
            if action == "none":
                return None
            if action == "text":
                return "a" * len(rows)
            if action == "die":
                os._exit(9)
            if action == "print":
                print("said by the model")
            if action == "block":
                Path(row["gate"] + ".entered").touch()
                while not Path(row["gate"]).exists():
                    threading.Event().wait(0.01)
        return [row["value"] for row in rows]
'''
TROUBLE_TOML = """
name = "trouble"
class = "trouble_model:Trouble"

[fields]
action = { type = "string", default = "ok" }
value = { type = "float", default = 1.5 }
gate = { type = "string", default = "" }
"""

HOOKS = """
import sys

import lagar


def preprocess(records):
    for record in records:
        do = record.get("before")
        if do == "refuse":
            raise lagar.InvalidInput("before must not be 'refuse'", field="before", row=records.index(record))
        if do == "raise":
            raise RuntimeError("the secret reason")
        if do == "exit":
            sys.exit(4)
        if do == "lose":
            return records[1:]
        if do == "nothing":
            return None
    return records


def postprocess(outputs, records):
    do = records[0].get("after")
    if do == "raise":
        raise RuntimeError("the secret reason")
    if do == "strange":
        return {"a": object()}
    if do == "exit":
        sys.exit(5)
    return {"values": outputs["predict"]}
"""


def trouble_model(folder: Path, name: str = "trouble", hooks: str = "") -> Path:
    folder.mkdir(parents=True)
    (folder / f"{name}_model.py").write_text(TROUBLE)
    (folder / "lagar.toml").write_text(TROUBLE_TOML.replace("trouble", name))
    if hooks:
        (folder / "handlers.py").write_text(hooks)
    return folder


class Samples:
    """A scrape of /metrics."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._values = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def total(self, name: str, **labels: str) -> float:
        """The sum of all series of that name with these labels."""
        wanted = set(labels.items())
        return sum(value for (key, have), value in self._values.items() if key == name and wanted <= have)

    def buckets(self, name: str, **labels: str) -> list[float]:
        wanted = set(labels.items())
        found = [
            (float(dict(have)["le"]), value)
            for (key, have), value in self._values.items()
            if key == f"{name}_bucket" and wanted <= have
        ]
        return [value for _, value in sorted(found)]

    def label_values(self, label: str) -> set[str]:
        return {dict(have)[label] for _, have in self._values if label in dict(have)}


def scrape(server: LagarServer) -> Samples:
    return Samples(httpx.get(f"{server.url}/metrics", timeout=90).text)


class Watched(NamedTuple):
    server: LagarServer
    client: httpx.Client
    folder: Path


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory, logistic: Trained) -> Iterator[Watched]:
    """Two workers over a quick model, one that does as it is told, and one with hooks; logs as JSON."""
    folder = tmp_path_factory.mktemp("watched")
    paths = [logistic.path, trouble_model(folder / "trouble"), trouble_model(folder / "hooked", "hooked", HOOKS)]
    args = ["--log-format", "json"]
    env = {"LAGAR_MAX_ROWS": "1000", "LAGAR_MAX_BODY_BYTES": "100000"}
    with (
        LagarServer(*paths, home=folder / "home", workers=2, args=args, env=env) as server,
        httpx.Client(base_url=server.url, timeout=90) as client,
    ):
        yield Watched(server, client, folder)


QUICK, TROUBLE_PATH = "/models/logistic/predict", "/models/trouble/predict"
ROW = b"[[13.2, 2.8, 3.2, 5.6]]"


def tell(client: httpx.Client, action: str, name: str = "trouble", **values: Any) -> httpx.Response:
    return client.post(f"/models/{name}/predict", json={"action": action, **values})


# Metrics


def test_counts_equal_what_was_sent_over_many_connections_to_all_workers(watched: Watched) -> None:
    before = scrape(watched.server)
    port = watched.server.port
    tensor = {"name": "x", "shape": [2, 4], "datatype": "FP64", "data": [1, 2, 3, 4, 5, 6, 7, 8]}
    infer = json.dumps({"inputs": [tensor]}).encode()

    def one_connection(number: int) -> None:
        with Wire(port) as wire:
            for _ in range(10):
                wire.send(post(QUICK, ROW) + chunked(QUICK, ROW) + post("/v2/models/logistic/infer", infer))
                wire.send(post(QUICK, b"[[1]]") + post(QUICK, b"{bad", content_type="text/plain"))
                assert [wire.read().status for _ in range(5)] == [200, 200, 200, 400, 415]

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one_connection, range(24)))
    after = scrape(watched.server)

    def more(name: str, **labels: str) -> float:
        return after.total(name, model="logistic", **labels) - before.total(name, model="logistic", **labels)

    assert more("lagar_requests_total", protocol="native", status="200") == 480
    assert more("lagar_requests_total", protocol="v2", status="200") == 240
    assert more("lagar_requests_total", status="400") == 240
    assert more("lagar_requests_total", status="415") == 240
    assert more("lagar_requests_total") == 1200
    assert more("lagar_rows_total") == 480 + 480
    assert more("lagar_batch_rows_sum") == 960
    assert more("lagar_batches_total") == more("lagar_batch_rows_count") == more("lagar_compute_seconds_count")
    assert more("lagar_request_seconds_count") == more("lagar_queue_seconds_count") == 720
    assert more("lagar_rejected_total", reason="invalid") == 240
    assert more("lagar_rejected_total", reason="media_type") == 240
    assert after.total("lagar_connections_accepted_total") - before.total("lagar_connections_accepted_total") >= 24


HISTOGRAMS = ("lagar_request_seconds", "lagar_queue_seconds", "lagar_compute_seconds", "lagar_batch_rows")


@pytest.mark.parametrize("name", HISTOGRAMS)
def test_histograms_are_cumulative_and_consistent(watched: Watched, name: str) -> None:
    for _ in range(20):
        assert tell(watched.client, "ok").status_code == 200
    samples = scrape(watched.server)
    for model in ("logistic", "trouble"):
        buckets = samples.buckets(name, model=model)
        assert buckets == sorted(buckets)
        assert buckets[-1] == samples.total(f"{name}_count", model=model) > 0
        assert samples.total(f"{name}_sum", model=model) > 0
    if name != "lagar_batch_rows":
        queue, compute, total = (
            samples.total(f"{part}_sum", model="trouble") for part in HISTOGRAMS[1:3] + HISTOGRAMS[:1]
        )
        assert total >= max(queue, compute * 0.5)


def test_a_killed_worker_loses_no_count(watched: Watched) -> None:
    for _ in range(50):
        assert watched.client.post(QUICK, content=ROW).status_code == 200
    before = scrape(watched.server)
    killed = watched.server.workers()
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    wait_gone(killed)
    eventually(watched.server.is_ready, 60, "readiness with new workers")
    after = scrape(watched.server)
    for name in ("lagar_requests_total", "lagar_rows_total", "lagar_request_seconds_count", "lagar_batch_rows_sum"):
        assert after.total(name) == before.total(name) > 0, name
    with httpx.Client(base_url=watched.server.url) as client:
        for _ in range(30):
            assert client.post(QUICK, content=ROW).status_code == 200
    assert scrape(watched.server).total("lagar_requests_total") == before.total("lagar_requests_total") + 30


def test_rejections_are_counted_by_their_reason(watched: Watched, tmp_path: Path) -> None:
    before = scrape(watched.server)
    client = watched.client
    assert client.post(QUICK, json=[[1, 2, 3, 4]] * 1001).status_code == 413
    assert client.post(QUICK, content=b"x", headers={"Content-Type": "image/png"}).status_code == 415
    assert client.post(QUICK, content=ROW, headers={"Accept": "image/png"}).status_code == 406
    assert client.post(QUICK, content=b"{").status_code == 400
    gate = tmp_path / "gate"
    blocked = {"action": "block", "gate": str(gate)}
    assert client.post(TROUBLE_PATH, json=blocked, headers={"timeout": "0.1"}).status_code == 504
    gate.touch()
    assert client.post(QUICK, content=b" " * 200_000).status_code == 413
    with Wire(watched.server.port) as wire:
        wire.send(b"nonsense\r\n\r\n")
        assert wire.read().status == 400
    with Wire(watched.server.port) as wire:
        wire.send(get("/healthz", "X-Large: " + "a" * 40_000))
        assert wire.read().status == 431
    after = scrape(watched.server)
    for reason, model, count in [
        ("too_large", "logistic", 1), ("media_type", "logistic", 2), ("invalid", "logistic", 1),
        ("deadline", "trouble", 1),
    ]:  # fmt: skip
        labels = {"reason": reason, "model": model}
        grown = after.total("lagar_rejected_total", **labels) - before.total("lagar_rejected_total", **labels)
        assert grown == count, reason
    for status in ("400", "413", "431"):
        assert after.total("lagar_http_rejected_total", status=status) == 1


def test_nothing_that_a_caller_makes_up_becomes_a_label(watched: Watched) -> None:
    for path in ("/models/made-up/predict", "/v2/models/made-up/infer", "/models/logistic/versions/made-up/predict",
                 "/made-up", "/models/made-up", "/v2/models/made-up/ready"):  # fmt: skip
        for method in ("POST", "GET", "MADEUP"):
            with Wire(watched.server.port) as wire:
                wire.send(
                    post(path, ROW, "X-Request-Id: made-up", "X-Made-Up: made-up").replace(b"POST", method.encode(), 1)
                )
                assert wire.read().status in (200, 400, 404, 405)
    samples = scrape(watched.server)
    assert "made" not in samples.text.lower()
    assert samples.label_values("model") == {"logistic", "trouble", "hooked"}
    versions = {watched.server.version(model) for model in ("logistic", "trouble", "hooked")}
    assert {v for v in samples.label_values("version") if v.count(".") < 2} == versions
    assert samples.label_values("protocol") == {"native", "v2"}


def test_refused_keys_and_full_queues_are_counted_too(serve: Serve, tmp_path: Path) -> None:
    home = tmp_path / "home"
    key, reader = key_for(home, "admin"), key_for(home, "read")
    server = serve(trouble_model(tmp_path / "m"), home=home, env={"LAGAR_QUEUE_ROWS": "1"})
    with httpx.Client(base_url=server.url) as client:
        for path in ("/predict", "/predict?cold"):
            assert client.post(path, json={}).status_code == 401
            assert client.post(path, json={}, headers={"X-Api-Key": reader}).status_code == 403
        gate = tmp_path / "gate"
        body = json.dumps({"action": "block", "gate": str(gate)}).encode()
        wires = [Wire(server.port) for _ in range(3)]
        wires[0].send(post("/predict", body, f"X-Api-Key: {key}"))
        eventually(Path(f"{gate}.entered").exists, what="the model was called")
        for wire in wires[1:]:
            wire.send(post("/predict", b"{}", f"X-Api-Key: {key}"))
        eventually(lambda: [wire for wire in wires[1:] if not wire.silent(0.01)], what="one is refused")
        gate.touch()
        assert sorted(wire.read().status for wire in wires) == [200, 200, 429]
        for wire in wires:
            wire.sock.close()
        samples = Samples(client.get("/metrics", headers={"X-Api-Key": reader}).text)
    assert samples.total("lagar_rejected_total", reason="unauthorized") == 2
    assert samples.total("lagar_rejected_total", reason="forbidden") == 2
    assert samples.total("lagar_rejected_total", reason="queue_full") == 1
    assert samples.total("lagar_requests_total", status="401") == 2
    assert samples.total("lagar_requests_total", status="429") == 1


# Failures of models


@pytest.mark.parametrize("action", ["raise", "exit", "interrupt", "more", "none", "text"])
@pytest.mark.parametrize("lane", ["hot", "cold", "v2"])
def test_a_failing_model_is_500_with_an_id_that_the_log_explains(watched: Watched, action: str, lane: str) -> None:
    request_id = f"{lane}-{action}"
    headers = {"X-Request-Id": request_id}
    if lane == "v2":
        tensor = {"name": "action", "shape": [1], "datatype": "BYTES", "data": [action]}
        answer = watched.client.post("/v2/models/trouble/infer", json={"inputs": [tensor]}, headers=headers)
        assert request_id in answer.json()["error"]
    else:
        path = TROUBLE_PATH + ("?cold" if lane == "cold" else "")
        answer = watched.client.post(path, json={"action": action}, headers=headers)
        assert answer.json()["error"]["code"] == "model_failed"
        assert answer.json()["error"]["request_id"] == request_id
    assert answer.status_code == 500
    assert answer.headers["x-request-id"] == request_id
    for secret in ("secret", "Traceback", "trouble_model.py", "RuntimeError", str(watched.folder)):
        assert secret not in answer.text
    line = watched.server.wait_line(lambda line: f'"{request_id}"' in line, 90)
    event = json.loads(line)
    assert event["level"] == "error"
    assert event["request_id"] == request_id
    if action == "raise":
        assert "the secret reason" in event["traceback"]
        assert "trouble_model.py" in event["traceback"]
    assert tell(watched.client, "ok").json()["predictions"] == [1.5]


def test_one_failing_request_does_not_hurt_those_in_its_batch(watched: Watched, tmp_path: Path) -> None:
    with LagarClients(watched.server, 1) as (first,):
        gate = tmp_path / "gate"
        first.send(post(TROUBLE_PATH, json.dumps({"action": "block", "gate": str(gate)}).encode()))
        eventually(Path(f"{gate}.entered").exists, what="the model was called")
        actions = ["ok", "raise", "ok", "exit", "more", "ok"] * 4
        with LagarClients(watched.server, len(actions)) as wires:
            for value, (wire, action) in enumerate(zip(wires, actions, strict=True)):
                wire.send(post(TROUBLE_PATH, json.dumps({"action": action, "value": value}).encode()))
            gate.touch()
            for value, (wire, action) in enumerate(zip(wires, actions, strict=True)):
                answer = wire.read()
                assert answer.status == (200 if action == "ok" else 500), action
                if action == "ok":
                    assert answer.json["predictions"] == [float(value)]
        assert first.read().status == 200


class LagarClients:
    """Several connections that are closed together."""

    def __init__(self, server: LagarServer, count: int) -> None:
        self._wires = [Wire(server.port) for _ in range(count)]

    def __enter__(self) -> list[Wire]:
        return self._wires

    def __exit__(self, *_: object) -> None:
        for wire in self._wires:
            wire.sock.close()


@pytest.mark.parametrize(
    ("values", "status"),
    [
        ({}, 200), ({"before": "refuse"}, 400), ({"before": "raise"}, 500), ({"before": "exit"}, 500),
        ({"before": "lose"}, 500), ({"before": "nothing"}, 500), ({"after": "raise"}, 500), ({"after": "strange"}, 500),
        ({"after": "exit"}, 500),
    ],
)  # fmt: skip
@pytest.mark.parametrize("query", ["", "?cold"])
def test_hooks_may_refuse_but_their_failures_are_the_server_s(
    watched: Watched, values: dict[str, str], status: int, query: str
) -> None:
    answer = watched.client.post(f"/models/hooked/predict{query}", json=[{"action": "ok", **values}] * 2)
    assert answer.status_code == status, answer.text
    assert "secret" not in answer.text
    if status == 200:
        assert answer.json() == {"values": [1.5, 1.5]}
    elif status == 400:
        error = answer.json()["error"]
        assert (error["code"], error["field"], error["row"]) == ("invalid_input", "before", 0)


def test_a_model_that_prints_does_not_disturb_the_answer(watched: Watched) -> None:
    assert tell(watched.client, "print").json()["predictions"] == [1.5]


def test_a_model_that_ends_its_process_costs_only_what_it_was_doing(watched: Watched) -> None:
    with Wire(watched.server.port) as wire:
        wire.send(post(TROUBLE_PATH, b'{"action": "die"}'))
        assert wire.rest() == b""
    eventually(watched.server.is_ready, 60, "readiness after the restart")
    assert httpx.post(watched.server.url + TROUBLE_PATH, json={}, timeout=90).status_code == 200


# Logs


def test_every_line_of_a_json_log_is_an_event(watched: Watched) -> None:
    tell(watched.client, "raise")
    lines = watched.server.stderr().splitlines()
    assert len(lines) > 3
    for line in lines:
        event = json.loads(line)
        if event["event"] == "ready":
            assert event["port"] == watched.server.port
            continue
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", event["time"])
        assert event["level"] in ("debug", "info", "warning", "error")
        assert event["process"] in ("supervisor", "control", "worker-0", "worker-1")


def test_a_caller_s_id_cannot_forge_a_line_of_the_log(watched: Watched) -> None:
    for forged in ("a\tb", "\x1b[31mred", '"},{"event":"forged"', "ready at http://evil"):
        watched.client.post(TROUBLE_PATH, json={"action": "raise"}, headers={"X-Request-Id": forged.encode("latin-1")})
    assert "forged" not in watched.server.stderr()
    assert "evil" not in watched.server.stderr()


def test_a_console_log_is_for_people(serve: Serve, tmp_path: Path) -> None:
    server = serve(trouble_model(tmp_path / "m"))
    headers = {"X-Request-Id": "for-people-1"}
    assert httpx.post(f"{server.url}/predict", json={"action": "raise"}, headers=headers).status_code == 500
    line = server.wait_line("for-people-1", 90)
    assert re.match(r"\d\d:\d\d:\d\d\.\d{3} error +model trouble@[0-9a-f]+ raised", line)
    server.wait_line("the secret reason", 90)
    assert "\x1b[" not in server.stderr()


# Health, whatever the models do


def test_health_answers_while_a_model_blocks(watched: Watched, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with LagarClients(watched.server, 4) as wires:
        for wire in wires:
            wire.send(post(TROUBLE_PATH, json.dumps({"action": "block", "gate": str(gate)}).encode()))
        eventually(Path(f"{gate}.entered").exists, what="the model was called")
        for _ in range(8):
            for path in ("/healthz", "/readyz", "/v2/health/ready", "/metrics", "/models/trouble/example"):
                assert httpx.get(watched.server.url + path, timeout=90).status_code == 200
            assert httpx.post(watched.server.url + QUICK, content=ROW, timeout=90).status_code == 200
        assert all(wire.silent(0.001) for wire in wires)
        gate.touch()
        assert {wire.read().status for wire in wires} == {200}


GREEDY = '''
import re


class Greedy:
    """Matches a pattern that takes twice as long for each letter, and holds the interpreter meanwhile."""

    def load(self, path):
        pass

    def predict(self, rows):
        for row in rows:
            if row["letters"] < 0:
                raise RuntimeError("the secret reason")
            re.match(r"(a+)+$", "a" * int(row["letters"]) + "b")
        return [row["letters"] for row in rows]
'''


def greedy_model(folder: Path, letters: int = 22) -> Path:
    """`letters` is what the server tries when it starts: 22 take a tenth of a second."""
    folder.mkdir(parents=True)
    (folder / "greedy_model.py").write_text(GREEDY)
    (folder / "lagar.toml").write_text(
        'name = "greedy"\nclass = "greedy_model:Greedy"\nexample = "example.json"\nfields.letters.type = "int"\n'
    )
    (folder / "example.json").write_text(json.dumps([{"letters": letters}]))
    return folder


NEVER = 60
"""Letters that would take longer than anyone waits."""


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LagarServer]:
    """One worker over a model that holds the interpreter and one that blocks, with short deadlines."""
    folder = tmp_path_factory.mktemp("patient")
    paths = [greedy_model(folder / "greedy"), trouble_model(folder / "trouble")]
    env = {"LAGAR_REQUEST_TIMEOUT_S": "0.5"}
    with LagarServer(*paths, home=folder / "home", args=["--log-format", "json"], env=env) as server:
        yield server


def match(server: LagarServer, letters: int, **headers: str) -> httpx.Response:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.post(f"{server.url}/models/greedy/predict", json={"letters": letters}, headers=sent, timeout=90)


def test_the_failure_of_a_hosted_model_is_explained_in_the_log(patient: LagarServer) -> None:
    answer = match(patient, -1, x_request_id="hosted-1")
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "model_failed")
    assert "secret" not in answer.text
    event = json.loads(patient.wait_line('"hosted-1"', 90))
    assert "the secret reason" in event["traceback"]
    assert "greedy_model.py" in event["traceback"]
    for line in patient.stderr().splitlines():
        json.loads(line)


def test_a_model_that_holds_the_interpreter_holds_its_own_process_and_nothing_else(patient: LagarServer) -> None:
    assert "it runs in a process of its own" in patient.stderr()
    (worker,) = patient.workers()
    assert match(patient, 5).json()["predictions"] == [5]
    with Wire(patient.port) as busy, Wire(patient.port) as other:
        busy.send(post("/models/greedy/predict", b'{"letters": %d}' % NEVER))
        for _ in range(20):
            other.send(get("/healthz") + post("/models/trouble/predict", b"{}") + get("/readyz"))
            assert [other.read().status for _ in range(3)] == [200, 200, 200]
        assert busy.read().status == 504
    patient.wait_line("its process is ended", 90)
    answer = eventually(lambda: (got := match(patient, 5)).status_code == 200 and got, 90, "an answer of a new host")
    assert answer.json()["predictions"] == [5]
    assert patient.workers() == [worker]


def test_a_call_that_never_returns_costs_its_worker_and_the_service_recovers(
    patient: LagarServer, tmp_path: Path
) -> None:
    (stuck,) = patient.workers()
    body = {"action": "block", "gate": str(tmp_path / "never")}
    answer = httpx.post(f"{patient.url}/models/trouble/predict", json=body, timeout=90)
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline_exceeded")
    patient.wait_line("this worker is replaced", 90)
    wait_gone([stuck])
    eventually(patient.is_ready, 60, "readiness with a new worker")
    answer = httpx.post(f"{patient.url}/models/trouble/predict", json={}, timeout=90)
    assert answer.json()["predictions"] == [1.5]
    assert match(patient, 5).status_code == 200
    assert not is_alive(stuck)


def test_a_worker_whose_interpreter_is_held_is_replaced_by_the_supervisor(serve: Serve, tmp_path: Path) -> None:
    """The example does not show what the model can do, so it runs in the worker, and no Python there can notice."""
    server = serve(greedy_model(tmp_path / "greedy", letters=1), env={"LAGAR_REQUEST_TIMEOUT_S": "0.1"})
    assert "process of its own" not in server.stderr()
    (frozen,) = server.workers()
    with Wire(server.port, timeout_s=40) as wire:
        wire.send(post("/predict", b'{"letters": %d}' % NEVER))
        assert wire.rest() == b""
    wait_gone([frozen])
    eventually(server.is_ready, 60, "readiness with a new worker")
    assert match(server, 5).status_code == 200
    assert "greedy_model.py" in server.stderr()  # where it was


def test_no_host_outlives_its_server(patient: LagarServer) -> None:
    hosts = [
        int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit() and is_host_of(entry, patient)
    ]
    assert hosts
    patient.signal(signal.SIGTERM)
    assert patient.wait_exit() == 0
    wait_gone(hosts)


def is_host_of(entry: Path, server: LagarServer) -> bool:
    try:
        command = entry.joinpath("cmdline").read_text()
        parent = int(entry.joinpath("stat").read_text().rsplit(")", 1)[1].split()[1])
    except OSError:
        return False
    return "lagar.engine.host" in command and parent in server.workers()
