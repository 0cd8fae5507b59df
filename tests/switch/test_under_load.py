"""A promote and a rollback under full load: no request is lost, none fails, and no answer mixes versions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lagar.client.local import Local
from support.load import Load
from support.server import LagarServer

Start = Callable[..., LagarServer]
MakeLoad = Callable[..., Load]


def test_promotes_and_rollbacks_beside_a_loaded_library_lose_no_request(
    home: Path, verbs: Local, start: Start, load: MakeLoad
) -> None:
    verbs.promote("wine", "1")
    server = start(home)
    workers = server.workers()
    with load(server) as loaded:
        for _ in range(3):
            verbs.promote("wine", "2")
            loaded.only("2")
            verbs.rollback("wine")
            loaded.only("1")
    assert loaded.report.answered > 2000
    assert loaded.report.reconnects == 0
    assert server.workers() == workers, "no process was replaced"
    assert "Traceback" not in server.stderr()


@pytest.mark.parametrize("pause_s", [0.0, pytest.param(0.1, marks=pytest.mark.slow)])
def test_versions_of_another_library_take_the_posts_over_without_a_lost_request(
    home: Path, verbs: Local, start: Start, load: MakeLoad, pause_s: float
) -> None:
    verbs.promote("wine", "1")
    server = start(home)
    workers = server.workers()
    with load(server, pause_s=pause_s) as loaded:
        verbs.promote("wine", "3")
        loaded.only("3")
        assert not set(workers) & set(_answering(server, workers)), "other processes answer"
        verbs.rollback("wine")
        loaded.only("1")
    assert loaded.report.reconnects > 0
    assert "Traceback" not in server.stderr()


def _answering(server: LagarServer, old: list[int]) -> list[int]:
    return [pid for pid in server.workers() if pid not in old]
