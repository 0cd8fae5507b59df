"""Hosts without a server: started on need, ended when idle, started again; and one of a worker's own."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from lagar.engine import wire
from lagar.engine.host import HostedPredictor, HostFailed
from lagar.errors import LoadFailed, MissingEnvironment
from lagar.intake import environment
from lagar.intake.inspect import find_models
from lagar.logs import open_log
from lagar.registry.model import ModelSource
from lagar.registry.releases import Releases
from lagar.server.hosts import Hosts
from lagar.settings import child_environment
from lagar.types import Rows
from support.environments import scaled_folder
from support.server import is_alive, wait_gone

WAIT_S = 120.0
Hosted = Callable[..., HostedPredictor]


@contextmanager
def supervised(folder: Path, idle_s: float = 900.0) -> Iterator[Path]:
    """The socket at which a supervisor, on a loop of its own, says where hosts listen."""
    ended = asyncio.Event()
    started = threading.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    async def supervise() -> None:
        log = open_log("json", "error", no_colour=True, process="test")
        async with Hosts(folder, child_environment({}), idle_s, log):
            loops.append(asyncio.get_running_loop())
            started.set()
            await ended.wait()

    thread = threading.Thread(target=lambda: asyncio.run(supervise()))
    thread.start()
    try:
        assert started.wait(WAIT_S)
        yield folder / wire.HOSTS_SOCKET
    finally:
        loops[0].call_soon_threadsafe(ended.set)
        thread.join(WAIT_S)


@pytest.fixture
def scaled(releases: Releases) -> tuple[ModelSource, str]:
    """scaled@1, which doubles, and the interpreter that it needs."""
    source = releases.source(releases.get("scaled", "1"))
    python = environment.interpreter(source)
    assert python is not None
    return source, python


@pytest.fixture
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose path is short enough for sockets."""
    return tmp_path_factory.mktemp("r")


@pytest.fixture
def hosted() -> Iterator[Hosted]:
    """Predictors, closed with the test."""
    with ExitStack() as stack:

        def made(source: ModelSource, **options: Any) -> HostedPredictor:
            predictor = HostedPredictor(source, 1, **options)
            stack.callback(predictor.close)
            return predictor

        yield made


def doubled(predictor: HostedPredictor, x: float) -> float:
    answer = predictor.predict(Rows(1, matrix=np.array([[x]])), ("predict",))
    return float(answer["predict"][0])


def test_a_host_is_started_by_the_first_call_and_shared(
    hosted: Hosted, scaled: tuple[ModelSource, str], run: Path
) -> None:
    source, python = scaled
    with supervised(run) as hosts:
        one = hosted(source, python=python, hosts=hosts, start=False)
        two = hosted(source, python=python, hosts=hosts, start=False)
        assert [doubled(one, 2.0), doubled(two, 3.0), doubled(one, 4.0)] == [4.0, 6.0, 8.0]
        assert one.facts.pid == two.facts.pid
        assert one.facts.installed["factors"] == "1.0"
        one.close()
        assert doubled(two, 5.0) == 10.0
        with pytest.raises(HostFailed, match="closed"):
            doubled(one, 1.0)


def test_an_idle_host_ends_and_the_next_call_starts_another(
    hosted: Hosted, scaled: tuple[ModelSource, str], run: Path
) -> None:
    source, python = scaled
    with supervised(run, idle_s=0.5) as hosts:
        predictor = hosted(source, python=python, hosts=hosts)
        first = predictor.facts.pid
        wait_gone([first], WAIT_S)
        assert doubled(predictor, 2.0) == 4.0, "whoever it had said good-bye to is not told of it"
        assert predictor.facts.pid != first


def test_a_host_that_dies_fails_the_call_it_was_in_and_no_other(
    hosted: Hosted, scaled: tuple[ModelSource, str], run: Path
) -> None:
    source, python = scaled
    with supervised(run) as hosts:
        predictor = hosted(source, python=python, hosts=hosts)
        first = predictor.facts.pid
        other = hosted(source, python=python, hosts=hosts)
        predictor.kill()
        wait_gone([first], WAIT_S)
        assert doubled(predictor, 2.0) == 4.0
        for x in (13.0, 13.0):  # ends its process every time
            with pytest.raises(HostFailed, match="died while it predicted"):
                doubled(predictor, x)
        assert doubled(other, 2.0) == 4.0, "it was in no call when the process died, twice"
        assert doubled(predictor, 2.0) == 4.0
        with pytest.raises(HostFailed, match="a fault of the model"):
            doubled(predictor, 15.0)


def test_callers_at_once_start_one_host(hosted: Hosted, scaled: tuple[ModelSource, str], run: Path) -> None:
    source, python = scaled
    with supervised(run) as hosts:
        predictors = [hosted(source, python=python, hosts=hosts, start=False) for _ in range(8)]
        answers: list[float] = []
        threads = [threading.Thread(target=lambda p=p: answers.append(doubled(p, 2.0))) for p in predictors]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT_S)
        assert answers == [4.0] * 8
        assert len({predictor.facts.pid for predictor in predictors}) == 1


def test_a_model_that_does_not_load_says_why_to_everyone(hosted: Hosted, run: Path, tmp_path: Path) -> None:
    folder = scaled_folder(tmp_path / "broken")
    (folder / "scaled.py").write_text("raise ValueError('not today')\n")
    (source,) = find_models([folder]).sources
    with supervised(run) as hosts:
        for _ in range(2):
            with pytest.raises(LoadFailed, match="not today"):
                hosted(source, hosts=hosts)


def test_an_interpreter_that_is_gone_is_told_and_does_not_hang(
    hosted: Hosted, scaled: tuple[ModelSource, str], run: Path
) -> None:
    source, _ = scaled
    with supervised(run) as hosts, pytest.raises(LoadFailed, match=r"cannot be started: .*No such file"):
        hosted(source, python=str(run / "none" / "bin" / "python"), hosts=hosts)


def test_without_a_supervisor_the_reason_is_told(hosted: Hosted, scaled: tuple[ModelSource, str], run: Path) -> None:
    with pytest.raises(HostFailed, match="the server starts no host process for model 'scaled'"):
        hosted(scaled[0], hosts=run / "none.sock")


def test_a_process_of_ones_own_runs_in_another_environment_too(hosted: Hosted, scaled: tuple[ModelSource, str]) -> None:
    source, python = scaled
    predictor = hosted(source, python=python)
    pid = predictor.facts.pid
    assert doubled(predictor, 2.0) == 4.0
    os.kill(pid, signal.SIGKILL)
    wait_gone([pid], WAIT_S)
    with pytest.raises(HostFailed):
        doubled(predictor, 13.0)
    assert doubled(predictor, 2.0) == 4.0
    pid = predictor.facts.pid
    assert is_alive(pid)
    predictor.close()
    wait_gone([pid], WAIT_S)


def test_handlers_answer_through_the_host(hosted: Hosted, releases: Releases) -> None:
    source = releases.source(releases.get("shaped", "1"))
    predictor = hosted(source, python=environment.interpreter(source))
    handlers = predictor.handlers
    assert handlers is not None
    assert handlers.preprocess([{"text_x": "2.5"}]) == [{"x": 2.5}]
    assert handlers.postprocess({"predict": [5.0]}, [{"text_x": "2.5"}]) == {"made_with": "1.0", "doubled": [5.0]}
    with pytest.raises(HostFailed, match="KeyError"):
        handlers.preprocess([{}])
    predictor.close()


def test_a_version_whose_environment_is_not_here_says_what_makes_it(releases: Releases, tmp_path: Path) -> None:
    source = releases.source(releases.get("scaled", "2"))
    elsewhere = msgspec.structs.replace(source, environment=str(tmp_path / "environments" / "none"))
    with pytest.raises(
        MissingEnvironment, match=r"asks for factors==2.0 \(not installed\).*`lagar environment scaled@2`"
    ):
        environment.interpreter(elsewhere)


def test_an_environment_in_use_is_not_removed(
    hosted: Hosted, releases: Releases, scaled: tuple[ModelSource, str]
) -> None:
    source, python = scaled
    key = Path(source.environment or "").name
    predictor = hosted(source, python=python)
    assert not releases.environments.remove(key)
    predictor.close()
    assert releases.environments.interpreter(key) == python
