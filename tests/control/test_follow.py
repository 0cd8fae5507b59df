"""Following the catalog, without a server around it."""

from __future__ import annotations

import asyncio
import contextlib
import io
from pathlib import Path

import pytest

from lagar.control.follow import Follower
from lagar.control.main import refuse_fewer
from lagar.errors import CatalogAway
from lagar.logs import Log
from lagar.registry.releases import open_releases
from lagar.server.channel import KeyRow, Message


def test_an_empty_catalog_in_the_place_of_the_one_that_was_there_takes_no_model_away(tmp_path: Path) -> None:
    told: list[Message] = []
    stream = io.StringIO()

    async def follow() -> None:
        log = Log("json", stream=stream)
        follower = Follower(releases, told.append, lambda _: None, log, server_id="s", url="http://s", serving=4)
        task = asyncio.create_task(follower.run())
        async with asyncio.timeout(60):
            while "out of reach" not in stream.getvalue() and not told:  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(0.01)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    with open_releases(tmp_path / "home") as releases:
        asyncio.run(follow())
        assert releases.servers() == [], "no promote there waits for this server"
    assert told == []
    assert "it has generation 0 and this server serves 4" in stream.getvalue()


def test_keys_that_are_gone_are_another_catalog_and_shut_nobody_out() -> None:
    first, second = (KeyRow(id=name, digest="", scopes=("read",)) for name in ("a", "b"))
    refuse_fewer((), (first,))
    refuse_fewer((first,), (KeyRow(id="a", digest="", scopes=("read",), expires_at=0.0), second))
    with pytest.raises(CatalogAway, match="1 of 2 keys are not there"):
        refuse_fewer((first, second), (second,))
