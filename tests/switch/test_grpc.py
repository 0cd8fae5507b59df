"""A promote that replaces the workers, and one beside, under gRPC calls without a pause: none is lost."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from lagar.client.local import Local
from support.inference import Client, output, request
from support.server import LagarServer, is_ready_line
from support.wait import eventually
from support.wines import Wines

CHANNELS = 6


class Calls:
    """One call under way at all times on each of several connections."""

    def __init__(self, target: str, wines: Wines) -> None:
        self._target = target
        self._wines = wines
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(CHANNELS)]
        self.answered: Counter[str] = Counter()
        self.wrong: list[str] = []

    def __enter__(self) -> Calls:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join(120)

    def _ask(self, number: int) -> None:
        record = self._wines.rows[number]
        asked = request("wine", ("x", "FP64", [1, len(record)], list(record.values())), raw=True)
        with Client(self._target, use_local_subchannel_pool=1) as client:
            while not self._end.is_set():
                try:
                    answer = client.infer(asked, timeout=60)
                except grpc.RpcError as error:
                    self.wrong.append(f"{error.code()}: {error.details()}")
                    continue
                label = output(answer)[0].decode()
                if label != self._wines.expected[answer.model_version][number].label:
                    self.wrong.append(f"{answer.model_version} said {label}")
                self.answered[answer.model_version] += 1

    def only(self, version: str) -> None:
        """Until a while of answers has come from this version alone."""

        def settled() -> bool:
            before = self.answered.copy()
            eventually(lambda: self.answered[version] >= before[version] + 100, 60, f"answers of version {version}")
            others = {name for name in self.answered if name != version}
            return all(self.answered[name] == before[name] for name in others)

        eventually(settled, 120, f"answers of version {version} alone")


@pytest.mark.slow
def test_calls_of_grpc_see_every_switch_and_none_is_lost(
    home: Path, verbs: Local, start: Callable[..., Any], wines: Wines
) -> None:
    verbs.promote("wine", "1")
    server: LagarServer = start(home, args=["--grpc-port", "0"])
    workers = server.workers()
    target = server.wait_line(is_ready_line).split("  grpc: ")[1].split()[0]
    with Calls(target, wines) as calls:
        calls.only("1")
        verbs.promote("wine", "2")
        calls.only("2")
        assert server.workers() == workers, "no process was replaced"
        verbs.promote("wine", "3")
        calls.only("3")
        assert not set(workers) & set(server.workers()) or len(server.workers()) > 2, "others answer"
        verbs.rollback("wine")
        calls.only("2")
    assert not calls.wrong
    assert "Traceback" not in server.stderr()
