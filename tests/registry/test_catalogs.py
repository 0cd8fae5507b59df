"""SQLite and PostgreSQL under the registry: made by migrations, shared, away for a while."""

from __future__ import annotations

import json
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import alembic.command
import alembic.config
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from lagar.errors import CatalogAway, HomeError, SettingsError
from lagar.registry import catalog as catalogs
from lagar.registry import keys, tables
from lagar.registry.catalog import open_catalog
from lagar.registry.postgres import PostgresDatabase
from lagar.registry.releases import Releases
from support.postgres import PostgresServer
from support.registry import ANA, Place, push, together


def engine_of(place: Place) -> sa.Engine:
    """Around the registry, as someone with another tool sees the catalog."""
    if place.catalog:
        return sa.create_engine(place.catalog.replace("postgresql:", "postgresql+psycopg:"))
    return sa.create_engine(f"sqlite:///{place.home / 'catalog.db'}")


def migrate_to(place: Place, revision: str) -> None:
    place.home.mkdir(exist_ok=True)
    config = alembic.config.Config()
    config.set_main_option("script_location", str(Path(catalogs.__file__).parent / "migrations"))
    engine = engine_of(place)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        alembic.command.upgrade(config, revision)
    engine.dispose()


def test_the_schema_in_code_is_what_the_migrations_make(place: Place) -> None:
    place.open().close()
    engine = engine_of(place)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, tables.metadata) == []
    engine.dispose()


def test_a_catalog_of_the_first_schema_keeps_its_keys_and_its_audit(place: Place) -> None:
    migrate_to(place, "0001")
    engine = engine_of(place)
    with engine.begin() as connection:
        connection.execute(
            tables.keys.insert().values(
                id="abc", name="ci", digest="d", scopes=json.dumps(["read"]), created_at=1.0, created_by="ana"
            )
        )
        connection.execute(
            tables.audit.insert().values(at=1.0, who="ana", what="key.create", subject="abc", details="{}")
        )
    engine.dispose()
    with place.open() as releases:
        [key] = keys.list_keys(releases.catalog)
        assert (key.id, key.name, key.scopes) == ("abc", "ci", ("read",))
        assert releases.models() == []
        assert [entry.what for entry in releases.audit("abc")] == ["key.create"]
        keys.create_key(releases.catalog, "new", ["infer"])
        assert len(keys.list_keys(releases.catalog)) == 2


def test_processes_that_start_at_once_make_one_catalog(place: Place, tmp_path: Path) -> None:
    together(place.start("push(releases, Path(args[0]) / str(number), b'%d' % number)", tmp_path, count=6))
    with place.open() as releases:
        assert [version.version for version in releases.versions("wine")] == ["1", "2", "3", "4", "5", "6"]


def test_a_newer_catalog_is_refused_and_both_are_named(place: Place) -> None:
    place.open().close()
    engine = engine_of(place)
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '0042'"))
        connection.execute(sa.text("UPDATE settings SET value = '\"9.8.7\"' WHERE name = 'lagar_version'"))
    engine.dispose()
    with pytest.raises(HomeError) as caught:
        place.open()
    for words in ("0042", "Lagar 9.8.7", catalogs.REVISIONS[-1], "upgrade Lagar"):
        assert words in str(caught.value)
    assert "secret" not in str(caught.value)


def test_writers_that_read_first_wait_for_each_other(place: Place) -> None:
    place.open().close()
    table = tables.settings

    def count_up(_: int) -> None:
        with open_catalog(place.home, place.catalog) as catalog:
            for _turn in range(20):
                with catalog.write() as connection:
                    value = connection.execute(sa.select(table.c.value).where(table.c.name == "n")).scalar()
                    connection.execute(table.delete().where(table.c.name == "n"))
                    connection.execute(table.insert().values(name="n", value=str(int(value or 0) + 1), updated_at=0.0))

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(count_up, range(4)))
    with open_catalog(place.home, place.catalog) as catalog, catalog.read() as connection:
        assert connection.scalar(sa.select(table.c.value).where(table.c.name == "n")) == "80"


def test_a_reader_sees_one_state(place: Place, tmp_path: Path) -> None:
    with place.open() as releases, place.open() as other:
        push(releases, tmp_path, b"1")
        count = sa.select(sa.func.count()).select_from(tables.versions)
        with releases.catalog.read() as connection:
            assert connection.scalar(count) == 1
            push(other, tmp_path, b"2")
            assert connection.scalar(count) == 1
        assert len(releases.versions("wine")) == 2


def test_a_change_is_told_to_another_process_and_wakes_who_waits(place: Place, tmp_path: Path) -> None:
    with place.open() as releases:
        assert not releases.changed()
        assert not releases.wait_changed(0.05)
        pusher = place.start("sys.stdin.read()\npush(releases, Path(args[0]))\n", tmp_path)
        with ThreadPoolExecutor(1) as threads:
            woken = threads.submit(releases.wait_changed, 60)
            pusher.communicate("", timeout=60)
            assert woken.result()
        assert not releases.changed()


def test_the_registry_is_shared_by_threads(place: Place, tmp_path: Path) -> None:
    with place.open() as releases, ThreadPoolExecutor(4) as threads:
        pushed = list(threads.map(lambda i: push(releases, tmp_path / str(i), bytes([i])).version, range(12)))
        assert sorted(map(int, pushed)) == list(range(1, 13))
        assert threads.submit(lambda: len(releases.versions("wine"))).result() == 12


# ---- away for a while --------------------------------------------------------------------------------------------


@pytest.mark.slow  # the time-out is ten seconds
def test_an_sqlite_catalog_that_is_kept_busy_is_said_and_works_again(tmp_path: Path) -> None:
    with Place(tmp_path / "home").open() as releases:
        busy = sqlite3.connect(tmp_path / "home" / "catalog.db", isolation_level=None)
        busy.execute("BEGIN IMMEDIATE")
        with pytest.raises(CatalogAway, match=r"catalog\.db was kept busy by another process for 10 s"):
            push(releases, tmp_path)
        assert releases.models() == []  # reading goes on
        busy.execute("ROLLBACK")
        busy.close()
        assert push(releases, tmp_path).version == "1"


@pytest.fixture
def own_postgres() -> PostgresServer:
    return PostgresServer()


def test_a_postgresql_that_goes_away_is_said_and_works_again(own_postgres: PostgresServer, tmp_path: Path) -> None:
    try:
        place = Place(tmp_path / "home", own_postgres.new_database())
        with place.open() as releases:
            push(releases, tmp_path, b"1")
            releases.propose("wine", {"1": 100}, ANA)
            assert releases.changed()
            own_postgres.stop()
            for ask in (releases.current, lambda: releases.wait_changed(60), releases.changed, releases.models):
                with pytest.raises(CatalogAway, match=r"catalog postgresql://.* cannot be reached.*LAGAR_CATALOG") as e:
                    ask()
                assert "secret" not in str(e.value)
            with pytest.raises(CatalogAway):
                push(releases, tmp_path, b"2")
            own_postgres.start()
            assert releases.current().n == 1
            assert push(releases, tmp_path, b"2").version == "2"
            assert releases.changed()  # nothing of what happened meanwhile is missed
            assert not releases.changed()
            with place.open() as other:
                push(other, tmp_path, b"3")
            assert releases.wait_changed(10)
    finally:
        own_postgres.remove()


@pytest.mark.slow  # the time-out is ten seconds
def test_a_writer_that_stands_still_is_waited_for_a_while(postgres: PostgresServer, tmp_path: Path) -> None:
    url = postgres.new_database()
    with Place(tmp_path / "home", url).open() as releases:
        held, over = threading.Event(), threading.Event()

        def hold(other: Releases) -> None:
            with other.catalog.write():
                held.set()
                assert over.wait(60)

        with Place(tmp_path / "home", url).open() as other, ThreadPoolExecutor(1) as threads:
            holding = threads.submit(hold, other)
            assert held.wait(60)
            with pytest.raises(CatalogAway, match="was kept busy by another writer for 10 s"):
                releases.refused("wine", "scan", "x", ANA)
            assert releases.models() == []
            over.set()
            holding.result()
        releases.refused("wine", "scan", "x", ANA)
    postgres.drop_database(url)


def test_the_times_of_a_shared_catalog_are_by_its_own_clock(postgres: PostgresServer, tmp_path: Path) -> None:
    url = postgres.new_database()
    with Place(tmp_path / "home", url).open() as releases:
        version = push(releases, tmp_path)
        with releases.catalog.read() as connection:
            before = releases.catalog.now(connection)
            asked = float(connection.execute(sa.text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one())
        assert version.created_at <= before <= asked < version.created_at + 60
    postgres.drop_database(url)


def test_a_url_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="LAGAR_CATALOG cannot be read as a URL") as caught:
        open_catalog(tmp_path, "postgresql://ana:secret@host:port/db")
    assert "secret" not in str(caught.value)


def test_a_user_without_rights_is_told_so(postgres: PostgresServer, tmp_path: Path) -> None:
    url = postgres.new_database()
    database = PostgresDatabase(url)
    with database.engine.begin() as connection:
        connection.execute(sa.text("CREATE ROLE reader LOGIN"))
    database.close()
    try:
        with pytest.raises(SettingsError, match="refuses this user: permission denied for schema public"):
            open_catalog(tmp_path, url.replace("lagar:secret@", "reader:secret@"))
    finally:
        postgres.drop_database(url)
