"""Registries on each catalog and each store, all of them real."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lagar.registry.releases import Releases
from support.postgres import PostgresServer
from support.registry import Place, end_started
from support.s3 import VARIABLES, S3Server


@pytest.fixture(autouse=True)
def ended() -> Iterator[None]:
    """No process outlives its test."""
    yield
    end_started()


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    server = PostgresServer()
    try:
        yield server
    finally:
        server.remove()


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    server = S3Server()
    try:
        yield server
    finally:
        server.stop()


def _catalog(request: pytest.FixtureRequest, kind: str) -> Iterator[str | None]:
    if kind == "sqlite":
        yield None
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    url = server.new_database()
    yield url
    server.drop_database(url)


@pytest.fixture(params=["sqlite", "postgres"])
def catalog_url(request: pytest.FixtureRequest) -> Iterator[str | None]:
    """LAGAR_CATALOG."""
    yield from _catalog(request, request.param)


@pytest.fixture
def place(tmp_path: Path, catalog_url: str | None) -> Place:
    """A registry on each catalog, its files in a folder."""
    return Place(tmp_path / "home", catalog_url, f"file://{tmp_path}/store" if catalog_url else None)


def _place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    kind, files = request.param.split("-")
    store, endpoint = f"file://{tmp_path}/store", None
    if files == "s3":
        server: S3Server = request.getfixturevalue("s3")
        store, endpoint = server.new_prefix(), server.endpoint
        for name, value in VARIABLES.items():
            monkeypatch.setenv(name, value)
    for url in _catalog(request, kind):
        yield Place(tmp_path / "home", url, store, endpoint)


@pytest.fixture(params=["sqlite-folder", "sqlite-s3", "postgres-folder", "postgres-s3"])
def any_place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """A registry on each catalog with each store."""
    yield from _place(request, tmp_path, monkeypatch)


@pytest.fixture(params=["sqlite-folder", "postgres-s3"])
def each_place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """A registry on each catalog and each store, once; for tests that take their time."""
    yield from _place(request, tmp_path, monkeypatch)


@pytest.fixture
def releases(place: Place) -> Iterator[Releases]:
    """An open registry on each catalog; its clock is `place.clock`, which stands still."""
    with place.open(stopped=True) as opened:
        yield opened
