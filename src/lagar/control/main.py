"""The control process: the catalog and the web pages, on a Unix socket behind the workers.

`lagar serve` starts it as `python -m lagar.control.main`. What it needs it is told on its channel; it tells the
supervisor when it is ready, and the keys whenever they change.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lagar import settings
from lagar.control import scrape, violations
from lagar.control.equipment import Equipment
from lagar.control.follow import Follower
from lagar.control.progress import progress
from lagar.control.repository import CatalogRepository, PathRepository, Repository
from lagar.control.state import ControlState
from lagar.control.wanted import answer
from lagar.control.watch import Watcher
from lagar.errors import CatalogAway, LagarError, SetupError
from lagar.logs import Log, capture_standard_logging, open_log
from lagar.registry.catalog import Catalog, who
from lagar.registry.home import open_home
from lagar.registry.keys import list_keys
from lagar.registry.mirror import Mirror, is_url
from lagar.registry.releases import Releases, Who, open_releases
from lagar.server.auth import key_rows
from lagar.server.channel import (
    Alive,
    Changed,
    Channel,
    ControlBoot,
    ControlReady,
    Drain,
    Failed,
    Have,
    KeyRow,
    Keys,
    Lapsed,
    Models,
    Prepared,
    ServerState,
    Violated,
    Want,
)
from lagar.server.process import begin_child

if TYPE_CHECKING:
    from lagar.control.web import ControlServer

KEYS_INTERVAL_S = 1.0
"""A key that is created or revoked counts in every worker after this time."""


def main() -> None:
    channel, listeners = begin_child()
    with listeners["control"] as listener:
        sys.exit(asyncio.run(serve_control(channel, listener, listeners.get("metrics"))))


async def serve_control(
    channel_socket: socket.socket, listener: socket.socket, metrics_listener: socket.socket | None = None
) -> int:
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
            keys=rows,
        )
        channel.send(Keys(rows))
        try:
            leader = _leader(boot, channel, releases, state, log)
            state.repository = _repository(leader, releases, state)
            await _serve(channel, listener, metrics_listener, state, leader, rows, log)
        except SetupError as error:  # the paths cannot be served
            channel.send(Failed(error.code, error.message))
            await channel.close()
            return 1
    await channel.close()
    return 0


def _leader(
    boot: ControlBoot, channel: Channel, releases: Releases, state: ControlState, log: Log
) -> Follower | Watcher:
    """Who says what the workers answer with: the catalog, or the paths that were given."""
    if not boot.asked.paths:
        return Follower(
            releases,
            channel.send,
            lambda reason: channel.send(Lapsed(reason)),
            log,
            server_id=boot.server_id,
            url=boot.url,
            serving=boot.generation,
            count=state.count_switch,
            pins=boot.settings.pin,
            compiling=boot.settings.compile != "off",
            tell_live=lambda live: state.take(live=live),
        )
    server = boot.settings
    return Watcher(
        releases,
        boot.asked,
        channel.send,
        log,
        who=Who(who(), socket.gethostname()),
        progress=progress(log, plain=server.log_format == "json" or settings.no_colour()),
        at_once=boot.cores,
        watch=server.watch or server.debug,
        mirrors={
            path: Mirror(path, open_home(Path(boot.home)).cache, settings.s3_endpoint())
            for path in boot.asked.paths
            if is_url(path)
        },
        default_model=server.default_model,
        pinned=server.pin,
        generation=boot.generation,
        sources=boot.sources,
        begun=lambda: channel.send(ControlReady()),
        refused=state.take_refused,
        count=state.count_switch,
        compiling=server.compile,
        load=server.load_at_start,
    )


def _repository(leader: Follower | Watcher, releases: Releases, state: ControlState) -> Repository:
    def live() -> set[str]:
        return state.answering

    if isinstance(leader, Follower):
        return CatalogRepository(releases, lambda: leader.serving, live)
    return PathRepository(leader, live)


async def _serve(
    channel: Channel,
    listener: socket.socket,
    metrics_listener: socket.socket | None,
    state: ControlState,
    leader: Follower | Watcher,
    rows: tuple[KeyRow, ...],
    log: Log,
) -> None:
    """Serve until told to end; raises SetupError when the paths cannot be served at the start."""
    releases = state.releases
    assert state.catalog is not None
    assert releases is not None
    web = Web(state, listener)
    polling = asyncio.create_task(_tell_keys(channel, state, state.catalog, rows, log))
    listening = asyncio.create_task(_listen(channel, state, web, leader, log))
    if isinstance(leader, Follower):
        channel.send(ControlReady())
    beating = asyncio.create_task(channel.beat())
    noticing = asyncio.create_task(_tell_changes(channel, releases)) if isinstance(leader, Watcher) else None
    scraped = None if metrics_listener is None else asyncio.create_task(scrape.serve(state, metrics_listener))
    leading = asyncio.create_task(leader.run())
    leading.add_done_callback(lambda _: web.stop())
    try:
        await web.serve()
    finally:
        leading.cancel()
        await asyncio.wait({leading})
        listening.cancel()
        polling.cancel()
        beating.cancel()
        if noticing is not None:
            noticing.cancel()
        if scraped is not None:
            scraped.cancel()
    if not leading.cancelled():
        leading.result()


class Web:
    """The pages and the verbs on the Unix socket, imported when somebody first connects.

    The web framework and what it brings cost half a second and 30 MB, and a server that only predicts never needs them.
    """

    def __init__(self, state: ControlState, listener: socket.socket) -> None:
        self._state = state
        self._listener = listener
        self._wanted = asyncio.Event()
        self._server: ControlServer | None = None
        self._stopped = False

    async def serve(self) -> None:
        """Until `stop`; requests that began before are answered."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._listener, self._wanted.set)
        try:
            await self._wanted.wait()
        finally:
            loop.remove_reader(self._listener)
        if self._stopped:
            return
        self._server = await asyncio.to_thread(_web_server, self._state)  # the loop turns on: it proves our life
        self._server.should_exit = self._stopped
        await self._server.serve(sockets=[self._listener])

    def stop(self) -> None:
        self._stopped = True
        self._wanted.set()
        if self._server is not None:
            self._server.should_exit = True


def _web_server(state: ControlState) -> ControlServer:
    from lagar.control.web import ControlServer

    return ControlServer(state)


async def _listen(channel: Channel, state: ControlState, web: Web, leader: Follower | Watcher, log: Log) -> None:
    asked: set[asyncio.Task[None]] = set()
    equipment = Equipment(state.releases, log) if state.releases is not None else None
    async for message in channel.messages():
        match message:
            case ServerState():
                state.server = message
            case Models():
                state.take(loaded=message.models)
            case Want():
                assert state.releases is not None
                assert equipment is not None
                work = asyncio.to_thread(answer, state.releases, equipment, message, log)
                asking = asyncio.create_task(_answer(channel, work))
                asked.add(asking)
                asking.add_done_callback(asked.discard)
            case Violated():
                asked.add(keeping := asyncio.create_task(_keep_violation(state, message, log)))
                keeping.add_done_callback(asked.discard)
            case Prepared():
                leader.heard(message)
            case Alive():
                leader.supervised()
            case Drain():
                break
    web.stop()  # told to, or the supervisor is gone


async def _tell_changes(channel: Channel, releases: Releases) -> None:
    """Tell the workers when the catalog has changed, where no follower does: aliases may have moved."""
    while True:
        await asyncio.sleep(KEYS_INTERVAL_S)
        with contextlib.suppress(LagarError):
            if await asyncio.to_thread(releases.changed):
                channel.send(Changed())


async def _keep_violation(state: ControlState, message: Violated, log: Log) -> None:
    if state.releases is not None and state.home is not None:
        await asyncio.to_thread(violations.keep, state.releases, state.home, message, log)


async def _answer(channel: Channel, work: Awaitable[Have]) -> None:
    channel.send(await work)


async def _tell_keys(
    channel: Channel, state: ControlState, catalog: Catalog, told: tuple[KeyRow, ...], log: Log
) -> None:
    """Read the keys each second, and tell the supervisor when they have changed.

    Not only when `changed` says so: the follower asks that too, and each change is told once. So is why they cannot be
    read: a catalog may be away for hours.
    """
    away = ""
    while True:
        await asyncio.sleep(KEYS_INTERVAL_S)
        try:
            rows = key_rows(await asyncio.to_thread(list_keys, catalog))
            refuse_fewer(told, rows)
        except LagarError as error:
            if error.message != away:
                away = error.message
                log.error("the keys cannot be read; those known before stay valid", error=away)
            continue
        if away:
            away = ""
            log.info("the keys can be read again")
        if rows != told:
            told = rows
            state.has_keys, state.keys = bool(rows), rows
            channel.send(Keys(rows))


def refuse_fewer(told: Sequence[KeyRow], rows: Sequence[KeyRow]) -> None:
    """Raise CatalogAway where a key is gone: none is ever removed, a revoked one stays, so it is another catalog."""
    gone = {row.id for row in told} - {row.id for row in rows}
    if gone:
        raise CatalogAway(
            f"{len(gone)} of {len(told)} keys are not there, so it is another catalog or an older copy: bring the one "
            "back that was there, or start the server again to follow this one"
        )


if __name__ == "__main__":
    main()
