"""What is live by the catalog: an empty home, weights, versions by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from lagar.client.local import Local
from lagar.errors import InvalidVersion
from lagar.registry.releases import open_releases
from support.load import Load
from support.registry import ANA
from support.server import LagarServer, lagar
from support.wait import eventually
from support.wines import Wines, live

Start = Callable[..., LagarServer]
MakeLoad = Callable[..., Load]


def ask(server: LagarServer, wines: Wines, version: str | None = None) -> httpx.Response:
    where = "" if version is None else f"/versions/{version}"
    return httpx.post(f"{server.url}/models/wine{where}/predict", json={"inputs": [wines.rows[0]]}, timeout=20)


def test_an_empty_home_serves_the_first_version_that_is_promoted(tmp_path: Path, wines: Wines, start: Start) -> None:
    from lagar.intake.push import push

    home = tmp_path / "empty"
    server = start(home)
    assert server.is_ready()
    page = httpx.get(server.url, headers={"accept": "text/html"}, timeout=20)
    assert page.status_code == 200
    assert "lagar push" in page.text
    assert ask(server, wines).status_code == 404
    with open_releases(home) as releases:
        push(releases, "wine", wines.files["1"], version="1", who=ANA)
    assert lagar("promote", "wine", "1", home=home).returncode == 0
    answer = eventually(lambda: ask(server, wines).raise_for_status().json(), what="the first version live")
    assert answer["version"] == "1"
    assert answer["predictions"] == [wines.expected["1"][0].label]
    assert "lagar push" not in httpx.get(server.url, headers={"accept": "text/html"}, timeout=20).text
    default = httpx.post(f"{server.url}/predict", json={"inputs": [wines.rows[0]]}, timeout=20)
    assert default.json()["version"] == "1"


def test_weights_share_the_traffic_and_a_rollback_restores_them(
    home: Path, verbs: Local, start: Start, load: MakeLoad
) -> None:
    verbs.promote("wine", "1")
    server = start(home)
    verbs.traffic("wine", {"1": 70, "2": 30})
    eventually(lambda: ask_versions(server) == {"1", "2"}, what="both versions")
    with load(server, connections=16) as loaded:
        loaded.more(200)
        before = dict(loaded.report.versions)
        loaded.more(2000)
        counts = {version: count - before.get(version, 0) for version, count in loaded.report.versions.items()}
        assert 0.25 < counts["2"] / sum(counts.values()) < 0.35
        verbs.promote("wine", "2")
        loaded.only("2")
        verbs.rollback("wine")
        eventually(lambda: ask_versions(server) == {"1", "2"}, what="both versions again")
        before = dict(loaded.report.versions)
        loaded.more(2000)
        counts = {version: count - before[version] for version, count in loaded.report.versions.items()}
        assert 0.25 < counts["2"] / sum(counts.values()) < 0.35
    assert verbs.model("wine").live == {"1": 70, "2": 30}


def ask_versions(server: LagarServer) -> set[str]:
    text = httpx.get(f"{server.url}/models/wine", timeout=20).json()
    return {card["version"] for card in text["versions"]}


def test_versions_by_name(home: Path, verbs: Local, start: Start, wines: Wines) -> None:
    verbs.promote("wine", "1")
    server = start(home)
    verbs.traffic("wine", {"1": 99, "2": 1})
    eventually(lambda: ask_versions(server) == {"1", "2"}, what="both versions")
    for version in ("1", "2"):
        answer = ask(server, wines, version).json()
        assert (answer["version"], answer["predictions"]) == (version, [wines.expected[version][0].label])
    missing = ask(server, wines, "4")
    assert missing.status_code == 404
    assert "4" in missing.json()["error"]["message"]
    with pytest.raises(InvalidVersion, match="is in use"):
        verbs.retire("wine", "2")
    verbs.promote("wine", "1")
    eventually(lambda: ask_versions(server) == {"1"}, what="version 2 unloaded")
    assert verbs.retire("wine", "2").state == "retired"
    assert live(server) == {"1"}


def test_any_version_answers_by_its_label_or_an_alias_of_it(
    home: Path, verbs: Local, start: Start, wines: Wines
) -> None:
    verbs.promote("wine", "1")
    server = start(home)
    for version in ("3", "2"):  # 3 in a library that no live version needs
        answer = ask(server, wines, version).json()
        assert (answer["version"], answer["predictions"]) == (version, [wines.expected[version][0].label])
    for version in ("3", "2"):
        verbs.alias("wine", "candidate", version)
        eventually(
            lambda version=version: ask(server, wines, "candidate").json().get("version") == version,  # type: ignore[misc]
            60,
            "the alias",
        )
    assert live(server) == {"1"}
    verbs.retire("wine", "2")
    gone = eventually(
        lambda: (found := ask(server, wines, "2")).status_code == 404 and found.json()["error"], 60, "2 refused"
    )
    assert "retired" in gone["message"]
    assert "lagar retire wine 2 --undo" in gone["message"]
