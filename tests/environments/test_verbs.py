"""Environments on the command line, over HTTP, and on a server that has not the one it needs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from conftest import Trained
from lagar.errors import InvalidVersion
from lagar.intake import compilation
from lagar.registry import environments
from lagar.registry.releases import Releases, open_releases
from support.keys import keys_for_each_scope
from support.registry import ANA
from support.server import LagarServer, lagar
from support.wait import eventually

WAIT_S = 120.0


@pytest.fixture(scope="module")
def poor(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home on another machine: scaled@1 is live, and no environment was made there but that of scaled@1."""
    copy = tmp_path_factory.mktemp("poor") / "home"
    shutil.copytree(home, copy, symlinks=True, ignore=shutil.ignore_patterns("run"))
    with open_releases(copy) as releases:
        releases.propose("scaled", {"1": 100}, ANA)
        assert releases.environments.remove(environments.key_for(releases.get("scaled", "2").manifest) or "")
    return copy


@pytest.fixture(scope="module")
def server(poor: Path) -> Iterator[LagarServer]:
    """A server there, whose uv reaches no index."""
    env = {"UV_DEFAULT_INDEX": "http://127.0.0.1:9/simple", "UV_HTTP_RETRIES": "0"}
    with LagarServer(home=poor, workers=1, env=env, timeout_s=WAIT_S) as running:
        yield running


def test_the_command_says_where_an_environment_is(home: Path) -> None:
    told = json.loads(lagar("environment", "scaled@2", "--json", home=home, timeout_s=WAIT_S).stdout)
    assert told["version"] == "scaled@2"
    assert told["requirements"] == ["factors==2.0"]
    assert told["unmet"] == ["factors==2.0 (not installed)"]
    assert told["python"].startswith(str(home / "environments"))
    plain = lagar("environment", "scaled@2", home=home, timeout_s=WAIT_S)
    assert plain.stdout.strip() == told["python"]
    shown = lagar("show", "scaled@2", home=home, timeout_s=WAIT_S).stdout
    assert f"runs in    an environment of its own ({Path(told['python']).parents[1].name}): factors==2.0" in shown
    assert "it serves as it was saved: what has an environment of its own is not compiled" in shown
    nameless = lagar("environment", "scaled", home=home, timeout_s=WAIT_S)
    assert nameless.returncode == 2
    assert "name the version: lagar environment NAME@VERSION, got 'scaled'" in nameless.stderr


def test_a_version_with_an_environment_of_its_own_is_compiled_by_nobody(releases: Releases) -> None:
    with pytest.raises(InvalidVersion, match=r"^scaled.2 has an environment of its own and serves as it was saved"):
        compilation.compile_again(releases, releases.get("scaled", "2"))


def test_a_promote_to_a_version_whose_environment_cannot_be_made_fails_with_the_reason(
    server: LagarServer, poor: Path
) -> None:
    refused = lagar("promote", "scaled", "2", home=poor, timeout_s=WAIT_S)
    assert refused.returncode != 0
    assert "the environment of scaled@2 cannot be made: " in refused.stderr
    assert "uv says: " in refused.stderr
    answer = httpx.post(f"{server.url}/models/scaled/predict", json={"x": 3.0}, timeout=WAIT_S).json()
    assert (answer["version"], answer["predictions"]) == ("1", [6.0])


def test_a_push_over_http_is_refused_at_the_lock_with_what_uv_says(
    server: LagarServer, poor: Path, wine: Trained
) -> None:
    key = keys_for_each_scope(poor)["admin"]
    files = {"model": wine.path.read_bytes(), "requirements": ("requirements.txt", b"factors==7.0\n")}
    headers = {"X-Api-Key": key}

    def refusal() -> httpx.Response | None:
        url = f"{server.url}/api/models/vinho/versions"
        reply = httpx.post(url, files=files, headers=headers, timeout=WAIT_S)
        return None if reply.status_code == 401 else reply  # a key counts within a second on every worker

    reply = eventually(refusal, WAIT_S)
    assert reply is not None
    assert reply.status_code == 422
    error = reply.json()["error"]
    assert error["step"] == "lock"
    assert "the requirements (factors==7.0) cannot be resolved; uv says: " in error["message"]
    assert httpx.get(f"{server.url}/api/models/vinho", headers=headers, timeout=WAIT_S).status_code == 404
