"""Several servers on one catalog, and a catalog that goes away for a while."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from lagar.client.local import Local
from lagar.registry import records
from lagar.registry.releases import Releases, open_releases
from support.load import Load
from support.postgres import PostgresServer
from support.registry import ANA
from support.server import LagarServer
from support.wait import eventually
from support.wines import Wines, live

Start = Callable[..., LagarServer]
MakeLoad = Callable[..., Load]


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    server = PostgresServer()
    try:
        yield server
    finally:
        server.remove()


class Shared:
    """A catalog and a store that servers share, each with a home of its own."""

    def __init__(self, wines: Wines, folder: Path, url: str) -> None:
        self.env = {"LAGAR_CATALOG": url, "LAGAR_STORE": f"file://{folder}/store"}
        self._folder = folder
        self.releases = self.open()
        self.verbs = Local(self.releases)
        with open_releases(wines.home) as pushed:
            for version in pushed.versions("wine"):
                files = {}
                for number, entry in enumerate(records.entries(version.manifest)):
                    files[entry.path] = folder / f"{version.version}-{number}"
                    pushed.store.fetch(entry.sha256, files[entry.path])
                self.releases.commit(version.manifest, files, ANA)

    def open(self) -> Releases:
        return open_releases(self._folder / "desk", catalog=self.env["LAGAR_CATALOG"], store=self.env["LAGAR_STORE"])

    def home(self, name: str) -> Path:
        return self._folder / name


def readiness(server: LagarServer) -> str:
    """Why a server is not ready; "" when it is."""
    answer = httpx.get(f"{server.url}/readyz", timeout=20)
    return "" if answer.status_code == 200 else str(answer.json()["reason"])


def stop(server: LagarServer) -> None:
    """Stop all processes of a server, but none in the middle of a write: it would hold SQLite's lock for ever."""

    def stopped() -> bool:
        server.signal(signal.SIGSTOP, group=True)
        try:
            with contextlib.closing(sqlite3.connect(server.home / "catalog.db", timeout=0.5)) as connection:
                connection.execute("BEGIN IMMEDIATE")
            return True
        except sqlite3.OperationalError:
            go_on(server)
            return False

    eventually(stopped, what="a stop between two writes")


def go_on(server: LagarServer) -> None:
    server.signal(signal.SIGCONT, group=True)


@pytest.fixture
def shared(wines: Wines, tmp_path: Path, postgres: PostgresServer) -> Iterator[Shared]:
    url = postgres.new_database()
    place = Shared(wines, tmp_path, url)
    yield place
    place.releases.close()


def test_a_promote_reaches_both_servers_of_a_home(home: Path, verbs: Local, start: Start, releases: Releases) -> None:
    verbs.promote("wine", "1")
    first, second = start(home), start(home)
    assert {server.url for server in releases.servers()} == {first.url, second.url}
    verbs.promote("wine", "2")
    for server in (first, second):
        eventually(lambda server=server: live(server) == {"2"}, what="version 2 live")  # type: ignore[misc]


@pytest.mark.slow  # its parts: two servers of a home above, PostgreSQL below and in tests/registry
def test_a_promote_reaches_both_servers_of_a_postgresql_catalog(shared: Shared, start: Start, load: MakeLoad) -> None:
    shared.verbs.promote("wine", "1")
    first = start(shared.home("first"), env=shared.env)
    second = start(shared.home("second"), env=shared.env)
    with load(first, connections=8, pause_s=0.02) as one, load(second, connections=8, pause_s=0.02) as two:
        shared.verbs.promote("wine", "2")
        one.only("2", 100)
        two.only("2", 100)
        shared.verbs.rollback("wine")
        one.only("1", 100)
        two.only("1", 100)


@pytest.mark.slow
def test_a_promote_goes_through_without_a_server_that_has_stopped_which_comes_back_on_the_current_version(
    home: Path, verbs: Local, start: Start, releases: Releases
) -> None:
    verbs.promote("wine", "1")
    first, second = start(home), start(home)
    stop(second)
    number = verbs.promote("wine", "2", wait=False).number
    assert releases.generation(number).state == "prepare"
    eventually(lambda: releases.generation(number).state == "committed", what="the promote without the second server")
    eventually(lambda: live(first) == {"2"}, what="version 2 on the first server")
    assert {server.url: server.alive for server in releases.servers()} == {first.url: True, second.url: False}
    lines = len(second.stderr().splitlines())
    go_on(second)
    second.wait_line("ready again", start=lines)
    assert live(second) == {"2"}, "it was not ready before it had the current version"
    assert readiness(second) == ""


@pytest.mark.slow
def test_a_server_whose_supervisor_stands_still_holds_no_promote_up(
    home: Path, verbs: Local, start: Start, releases: Releases
) -> None:
    verbs.promote("wine", "1")
    first, second = start(home), start(home)
    second.signal(signal.SIGSTOP)
    try:
        verbs.promote("wine", "2", timeout=40)
        eventually(lambda: live(first) == {"2"}, what="version 2 on the first server")
    finally:
        second.signal(signal.SIGCONT)
    eventually(lambda: live(second) == {"2"}, what="version 2 on the second server")


def test_serving_goes_on_while_the_catalog_is_away(
    shared: Shared, postgres: PostgresServer, start: Start, load: MakeLoad
) -> None:
    shared.verbs.promote("wine", "1")
    server = start(shared.home("first"), env=shared.env)
    with load(server, connections=8, pause_s=0.02) as loaded:
        postgres.stop()
        try:
            eventually(lambda: "the catalog has been out of reach" in readiness(server), what="the reason")
            loaded.more(200)
        finally:
            postgres.start()
        eventually(server.is_ready, what="readiness by itself")
        with shared.open() as releases:
            Local(releases).promote("wine", "2")
        loaded.only("2", 100)
    assert set(loaded.report.versions) == {"1", "2"}


@pytest.mark.slow  # as above, with SQLite
def test_serving_goes_on_while_the_file_of_the_catalog_is_gone(
    home: Path, verbs: Local, start: Start, load: MakeLoad
) -> None:
    verbs.promote("wine", "1")
    server = start(home)
    away = home.with_name("away")
    away.mkdir()
    with load(server, connections=8, pause_s=0.02) as loaded:
        held = [home / name for name in ("catalog.db", "catalog.db-wal", "catalog.db-shm")]
        os.kill(server.control(), signal.SIGSTOP)  # a file system that comes and goes takes all three at once
        for file in held:
            if file.exists():
                shutil.move(file, away / file.name)
        os.kill(server.control(), signal.SIGCONT)
        began = time.monotonic()
        eventually(lambda: "the catalog has been out of reach" in readiness(server), what="the reason")
        assert time.monotonic() - began < 30
        loaded.more(100)
        for file in held:
            file.unlink(missing_ok=True)
            if (away / file.name).exists():
                shutil.move(away / file.name, file)
        eventually(server.is_ready, what="readiness by itself")
    with open_releases(home) as again:
        Local(again).promote("wine", "2")
    eventually(lambda: live(server) == {"2"}, what="version 2 live")
