"""The end of a worker's connections, without the processes around it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from lagar.metrics import Registry
from lagar.server.heads import Heads
from lagar.server.http import Connection, HttpServer
from lagar.settings import ServerSettings


async def served(folder: Path) -> HttpServer:
    """A server of connections that is asked for nothing."""
    heads = Heads(lambda head: None, max_body_bytes=1000, max_upload_bytes=1000, root_path="")
    nobody = cast(Any, None)
    return HttpServer(asyncio.get_running_loop(), ServerSettings(), heads, nobody, nobody, Registry(folder, 0), nobody)


async def until(true: Callable[[], bool]) -> None:
    """Let the loop turn until that holds."""
    async with asyncio.timeout(60):
        while not true():  # noqa: ASYNC110 - nobody is told when a connection comes or goes
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("patient", [True, False])
def test_a_drain_waits_for_who_was_accepted_after_the_last_one_had_left(tmp_path: Path, patient: bool) -> None:
    async def drained() -> None:
        http = await served(tmp_path)
        listener = await asyncio.get_running_loop().create_server(lambda: Connection(http, tls=False), "127.0.0.1", 0)
        place = listener.sockets[0].getsockname()
        http.draining = True
        _, first = await asyncio.open_connection(*place)
        await until(lambda: bool(http.connections))
        first.close()
        await until(lambda: not http.connections)
        _, second = await asyncio.open_connection(*place)
        await until(lambda: bool(http.connections))
        drain = asyncio.create_task(http.drain(60.0, patient=patient))
        ended, _ = await asyncio.wait({drain}, timeout=0.05)
        assert not ended
        second.close()
        assert await drain
        assert not http.connections
        listener.close()

    asyncio.run(drained())
