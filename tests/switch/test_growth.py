"""`--workers MIN:MAX`: workers come while requests wait and go when none do, and no request is lost by it."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from lagar.client.local import Local
from lagar.intake.push import push
from lagar.registry.releases import open_releases
from lagar.server.growth import GROW_LOOKS, Growth
from support.load import Load, Said
from support.registry import ANA
from support.server import LagarServer
from support.wait import eventually

SLOW = """
import time

import numpy as np


class Slow:
    def load(self, path):
        pass

    def predict(self, rows: np.ndarray):
        time.sleep(0.01 * len(rows))
        return {"predict": ["slow"] * len(rows), "predict_proba": np.tile([0.25, 0.75], (len(rows), 1))}
"""


class Hand:
    """A clock that is moved."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_queue_that_stays_non_empty_adds_a_worker_and_one_that_does_not_adds_none() -> None:
    growth = Growth(1, 3, 60.0, clock=Hand())
    assert [growth.look(5.0, 0.9, 1) for _ in range(GROW_LOOKS)] == ["stay"] * (GROW_LOOKS - 1) + ["grow"]
    for _ in range(GROW_LOOKS):  # now and then
        assert growth.look(5.0, 0.9, 2) == "stay"
        assert growth.look(0.5, 0.9, 2) == "stay"
    assert [growth.look(9.0, 3.0, 3) for _ in range(2 * GROW_LOOKS)] == ["stay"] * 2 * GROW_LOOKS  # as many as allowed


def test_an_added_worker_goes_after_the_idle_time_if_the_others_have_room() -> None:
    clock = Hand()
    growth = Growth(1, 3, 60.0, clock=clock)
    assert growth.look(0.0, 0.1, 2) == "stay"
    clock.now = 59.0
    assert growth.look(0.0, 0.1, 2) == "stay"
    clock.now = 60.0
    assert growth.look(0.0, 0.1, 2) == "shrink"
    assert growth.look(0.0, 0.1, 1) == "stay"
    clock.now = 200.0
    assert growth.look(0.0, 0.1, 1) == "stay"  # never below the least
    busy = Growth(1, 3, 60.0, clock=clock)
    for now in (300.0, 400.0):
        clock.now = now
        assert busy.look(0.0, 0.9, 2) == "stay"  # nothing waits, but one worker alone could not take it over


def test_a_worker_that_cannot_be_started_is_not_tried_again_at_once() -> None:
    growth = Growth(1, 3, 60.0, clock=Hand())
    growth.failed()
    assert {growth.look(5.0, 0.9, 1) for _ in range(10)} == {"stay"}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LagarServer]:
    model = tmp_path / "slow"
    model.mkdir()
    (model / "slow.py").write_text(textwrap.dedent(SLOW))
    (model / "lagar.toml").write_text('class = "slow:Slow"\n[fields]\nx = { type = "float" }\n')
    options = ("--workers", "1:2", "--workers-idle-s", "2")
    with LagarServer(model, home=tmp_path / "home", workers=None, args=options, timeout_s=120) as started:
        yield started


@pytest.mark.slow  # workers come and go under load
def test_no_request_is_lost_while_a_worker_comes_and_goes(server: LagarServer) -> None:
    assert len(server.workers()) == 1
    assert "workers: 1 (up to 2)" in server.stderr()
    expected = {version_of(server): [Said("slow", (0.25, 0.75))]}
    with Load(server.port, "slow", [{"x": 1.0}], expected, connections=32) as load:
        eventually(lambda: len(server.workers()) == 2, 120, "a second worker")
        server.wait_line("a worker was added", 120)
        load.more(500)
        assert server.is_ready()
        assert 'lagar_workers{state="ready"} 2.0' in httpx.get(f"{server.url}/metrics", timeout=60).text
    with Load(server.port, "slow", [{"x": 1.0}], expected, connections=4, pause_s=0.2) as load:
        server.wait_line("a worker is dropped", 120)
        eventually(lambda: len(server.workers()) == 1, 120, "one worker")
        load.more(50)
    assert server.is_ready()
    assert "ready again" not in server.stderr()  # it always was
    assert 'lagar_workers{state="configured"} 1.0' in httpx.get(f"{server.url}/metrics", timeout=60).text


HELD = """
import os
import time

import numpy as np


class Slow:
    def load(self, path):
        while os.path.exists(HOLD):
            time.sleep(0.01)

    def predict(self, rows: np.ndarray):
        time.sleep(0.01 * len(rows))
        return {"predict": ["VERSION"] * len(rows), "predict_proba": np.tile([0.25, 0.75], (len(rows), 1))}
"""


def held(tmp_path: Path, version: str) -> Path:
    """A model that waits while loading for as long as the file `hold-VERSION` is there."""
    model = tmp_path / f"model-{version}"
    model.mkdir()
    code = f"HOLD = {str(tmp_path / f'hold-{version}')!r}\n{HELD.replace('VERSION', version)}"
    (model / f"slow_{version}.py").write_text(code)
    (model / "lagar.toml").write_text(f'class = "slow_{version}:Slow"\n[fields]\nx = {{ type = "float" }}\n')
    return model


@pytest.mark.slow  # workers come and go under load
def test_a_version_goes_live_while_an_added_worker_still_loads_the_one_before(
    tmp_path: Path, start: Callable[..., LagarServer]
) -> None:
    home = tmp_path / "home"
    with open_releases(home) as releases:
        verbs = Local(releases)
        for version in ("one", "two"):
            push(releases, "slow", held(tmp_path, version), version=version, who=ANA, trust=True)
        verbs.promote("slow", "one")
        server = start(home, workers=None, args=("--workers", "1:2"))
        (tmp_path / "hold-one").touch()
        expected = {version: [Said(version, (0.25, 0.75))] for version in ("one", "two")}
        with Load(server.port, "slow", [{"x": 1.0}], expected, connections=32) as load:
            eventually(lambda: len(server.workers()) == 2, 120, "a worker that loads for as long as the file is there")
            verbs.promote("slow", "two")
            load.more(100)
            assert "a worker was added" not in server.stderr()
            (tmp_path / "hold-one").unlink()
            server.wait_line("a worker was added", 120)
        with Load(server.port, "slow", [{"x": 1.0}], {"two": expected["two"]}, connections=32) as load:
            load.more(200)
        assert set(load.report.versions) == {"two"}


def version_of(server: LagarServer) -> str:
    label: str = httpx.get(f"{server.url}/models/slow", timeout=60).json()["live"]
    return label
