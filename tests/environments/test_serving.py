"""One server, two versions that need two versions of one library: what its hosts do, and what happens when they die."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from lagar.registry.releases import open_releases
from support.registry import ANA
from support.server import LagarServer, wait_gone
from support.wait import eventually

WAIT_S = 120.0


@pytest.fixture(scope="module")
def server(home: Path) -> Iterator[LagarServer]:
    """Two workers; both versions share the traffic, and the model with handlers is live."""
    with open_releases(home) as releases:
        releases.propose("scaled", {"1": 50, "2": 50}, ANA)
        releases.propose("shaped", {"1": 100}, ANA)
    args = ["--request-timeout-s", "3"]
    with LagarServer(home=home, workers=2, args=args, timeout_s=WAIT_S) as running:
        yield running


def hosts(server: LagarServer) -> dict[int, str]:
    """Process → its command line, for each host of the server."""
    return {pid: command for pid, command in server.children().items() if "lagar.engine.hosting" in command}


def ask(server: LagarServer, x: float, version: str = "1") -> httpx.Response:
    url = f"{server.url}/models/scaled/versions/{version}/predict"
    return httpx.post(url, json={"x": x}, timeout=WAIT_S)


def test_two_versions_of_one_library_answer_side_by_side(server: LagarServer) -> None:
    for x in (1.0, 2.5, 1e6):
        assert ask(server, x, "1").json()["predictions"] == [x * 2]
        assert ask(server, x, "2").json()["predictions"] == [x * 3]


def test_all_workers_share_one_process_for_each_version(server: LagarServer) -> None:
    clients = [httpx.Client(timeout=WAIT_S) for _ in range(16)]  # over both workers
    for client in clients:
        for version in ("1", "2"):
            answer = client.post(f"{server.url}/models/scaled/versions/{version}/predict", json={"x": 1.0})
            assert answer.status_code == 200
        client.close()
    running = hosts(server)
    assert len(running) <= 3  # two of "scaled", and that of "shaped" unless it was never asked
    assert len({command.split()[0] for command in running.values()}) == 2, "each in its environment"


def test_handlers_run_beside_their_model(server: LagarServer) -> None:
    answer = httpx.post(f"{server.url}/models/shaped/predict", json=[{"text_x": "4"}, {"text_x": "5"}], timeout=WAIT_S)
    assert answer.json() == {"made_with": "1.0", "doubled": [8.0, 10.0]}


def test_what_a_caller_or_the_model_does_wrong_is_answered_as_elsewhere(server: LagarServer) -> None:
    refused = httpx.post(f"{server.url}/models/scaled/versions/1/predict", json={"x": "no"}, timeout=WAIT_S)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "invalid_input")
    failed = ask(server, 15.0)
    assert (failed.status_code, failed.json()["error"]["code"]) == (500, "model_failed")
    assert "a fault of the model" not in failed.text
    eventually(lambda: "a fault of the model" in server.stderr(), WAIT_S)
    assert ask(server, 3.0).json()["predictions"] == [6.0]


def test_a_process_that_dies_fails_its_call_and_is_there_for_the_next(server: LagarServer) -> None:
    assert ask(server, 13.0).status_code == 500
    eventually(lambda: ask(server, 3.0).json()["predictions"] == [6.0], WAIT_S)
    for pid in hosts(server):
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: ask(server, 3.0, "2").json()["predictions"] == [9.0], WAIT_S)
    eventually(lambda: ask(server, 3.0, "1").json()["predictions"] == [6.0], WAIT_S)
    eventually(lambda: "was killed by SIGKILL" in server.stderr(), WAIT_S)


def test_a_call_that_never_returns_ends_its_process_and_no_worker(server: LagarServer) -> None:
    before = server.workers()
    late = ask(server, 14.0)
    assert (late.status_code, late.json()["error"]["code"]) == (504, "deadline_exceeded")
    eventually(lambda: ask(server, 3.0).json().get("predictions") == [6.0], WAIT_S)
    assert server.workers() == before
    assert ask(server, 3.0, "2").json()["predictions"] == [9.0]


def test_the_hosts_end_with_their_server_however_it_ends(home: Path) -> None:
    with LagarServer(home=home, workers=1, timeout_s=WAIT_S) as other:
        assert ask(other, 3.0).status_code == 200
        started = list(hosts(other))
        assert started
        os.kill(other.pid, signal.SIGKILL)
        wait_gone(started, WAIT_S)
