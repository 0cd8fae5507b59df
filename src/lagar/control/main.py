"""The control process: the catalog and the web pages, on a Unix socket behind the workers.

`lagar serve` starts it as `python -m lagar.control.main`. What it needs it is told on its channel; it tells the
supervisor when it is ready, and the keys whenever they change.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import uvicorn

from lagar import settings
from lagar.control.app import create_app
from lagar.control.follow import Follower
from lagar.control.state import ControlState
from lagar.errors import LagarError, SetupError
from lagar.logs import Log, capture_standard_logging, open_log
from lagar.registry.catalog import Catalog
from lagar.registry.keys import list_keys
from lagar.registry.releases import Releases, open_releases
from lagar.server.auth import key_rows
from lagar.server.channel import (
    Alive,
    Channel,
    ControlBoot,
    ControlReady,
    Drain,
    Failed,
    KeyRow,
    Keys,
    Lapsed,
    Models,
    Prepared,
    ServerState,
)
from lagar.server.process import begin_child

KEYS_INTERVAL_S = 1.0
"""A key that is created or revoked counts in every worker after this time."""
GRACE_S = 3


def main() -> None:
    channel, listener = begin_child()
    sys.exit(asyncio.run(serve_control(channel, listener)))


async def serve_control(channel_socket: socket.socket, listener: socket.socket) -> int:
    """Serve until the supervisor says Drain or is gone; the exit code."""
    channel = await Channel.open(channel_socket)
    boot = await channel.receive()
    if not isinstance(boot, ControlBoot):
        return 0  # the supervisor ended before it said anything
    server = boot.settings
    log = open_log(server.log_format, server.log_level, no_colour=settings.no_colour(), process="control")
    capture_standard_logging(log)
    try:
        releases = open_releases(
            Path(boot.home),
            catalog=settings.catalog_url(),
            store=settings.store_url(),
            endpoint=settings.s3_endpoint(),
        )
    except SetupError as error:
        channel.send(Failed(error.code, error.message))
        await channel.close()
        return 1
    with releases:
        catalog = releases.catalog
        rows = key_rows(list_keys(catalog))
        state = ControlState(
            settings=server,
            metrics_dir=Path(boot.metrics_dir),
            port=boot.port,
            catalog=catalog,
            releases=releases,
            home=Path(boot.home),
            has_keys=bool(rows),
        )
        channel.send(Keys(rows))
        await _serve(channel, listener, state, _follower(boot, channel, releases, state, log), rows, log)
    await channel.close()
    return 0


def _follower(
    boot: ControlBoot, channel: Channel, releases: Releases, state: ControlState, log: Log
) -> Follower | None:
    """Who brings the workers what is in production by the catalog; None when the command line says what to serve."""
    if not boot.from_catalog:
        return None
    return Follower(
        releases,
        channel.send,
        lambda reason: channel.send(Lapsed(reason)),
        log,
        server_id=boot.server_id,
        url=boot.url,
        serving=boot.generation,
        count=state.count_switch,
    )


async def _serve(
    channel: Channel,
    listener: socket.socket,
    state: ControlState,
    follower: Follower | None,
    rows: tuple[KeyRow, ...],
    log: Log,
) -> None:
    assert state.catalog is not None
    web = ControlServer(create_app(state))
    polling = asyncio.create_task(_tell_keys(channel, state, state.catalog, rows, log))
    serving = asyncio.create_task(web.serve(sockets=[listener]))
    listening = asyncio.create_task(_listen(channel, state, web, follower))
    await asyncio.wait({serving, asyncio.create_task(web.ready.wait())}, return_when=asyncio.FIRST_COMPLETED)
    channel.send(ControlReady())
    beating = asyncio.create_task(channel.beat())
    following = asyncio.create_task(follower.run()) if follower is not None else None
    try:
        await serving
    finally:
        if following is not None:
            following.cancel()
            await asyncio.wait({following})
        listening.cancel()
        polling.cancel()
        beating.cancel()


async def _listen(channel: Channel, state: ControlState, web: ControlServer, follower: Follower | None) -> None:
    async for message in channel.messages():
        match message:
            case ServerState():
                state.server = message
            case Models():
                state.models = message.models
            case Prepared() if follower is not None:
                follower.heard(message)
            case Alive() if follower is not None:
                follower.supervised()
            case Drain():
                break
    web.should_exit = True  # told to, or the supervisor is gone


async def _tell_keys(
    channel: Channel, state: ControlState, catalog: Catalog, told: tuple[KeyRow, ...], log: Log
) -> None:
    """Read the keys each second, and tell the supervisor when they have changed.

    Not only when `changed` says so: the follower asks that too, and each change is told once.
    """
    while True:
        await asyncio.sleep(KEYS_INTERVAL_S)
        try:
            rows = key_rows(await asyncio.to_thread(list_keys, catalog))
        except LagarError as error:
            log.error("the keys cannot be read; those known before stay valid", error=error.message)
            continue
        if rows != told:
            told = rows
            state.has_keys = bool(rows)
            channel.send(Keys(rows))


class ControlServer(uvicorn.Server):
    """Uvicorn that leaves signals to the supervisor and says when it accepts connections."""

    def __init__(self, app: object) -> None:
        super().__init__(
            uvicorn.Config(
                app,  # type: ignore[arg-type]  # a FastAPI app is an ASGI 3 app
                log_config=None,
                access_log=False,
                lifespan="off",
                ws="none",
                server_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=GRACE_S,
            )
        )
        self.ready = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self.ready.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


if __name__ == "__main__":
    main()
