"""A form that was proved and is wrong on a live row all the same: found, given up by the whole server, and not served
again."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import NamedTuple

import httpx
import joblib
import msgspec
import pandas as pd
import pytest
from sklearn.tree import DecisionTreeRegressor

from lagar.forms import tree_forms
from lagar.forms.original import Original
from lagar.intake import push
from lagar.registry.proof import Attempt, Proof, Served, this_machine
from lagar.registry.releases import Releases, Version, Who, open_releases
from support.server import LagarServer
from support.wait import eventually

ME = Who("ana", "laptop")


class Pushed(NamedTuple):
    home: Path
    path: Path


@pytest.fixture(scope="module")
def pushed(tmp_path_factory: pytest.TempPathFactory) -> Pushed:
    """A tree that is live, with a form of another tree in the place of a proved one: wrong above 50."""
    folder = tmp_path_factory.mktemp("pushed")
    for name, hottest in (("right", 3.0), ("wrong", 4.0)):
        heat = pd.DataFrame({"heat": [1.0, 2.0, 100.0]})
        tree = DecisionTreeRegressor(random_state=0).fit(heat, [1.0, 2.0, hottest])
        joblib.dump(tree, folder / f"{name}.joblib")
    example = folder / "example.csv"
    pd.DataFrame({"heat": [1.0, 2.0]}).to_csv(example, index=False)
    with open_releases(folder / "home") as releases:
        version = push.push(
            releases, "heat", folder / "right.joblib", example=example, who=ME, compiling="off",
        )  # fmt: skip
        _keep_wrong_form(releases, version, folder)
        assert releases.source(version).forms
        releases.try_commit(releases.propose("heat", {"1": 100}, ME))
    return Pushed(folder / "home", folder / "right.joblib")


def _keep_wrong_form(releases: Releases, version: Version, folder: Path) -> None:
    source = releases.source(version)
    wrong = Original.open(msgspec.structs.replace(source, path=str(folder / "wrong.joblib")))
    form = folder / "forms" / "trees"
    form.mkdir(parents=True)
    tree_forms.build(wrong, form)
    attempt = Attempt(
        "trees", "serves", us={"1": 1.0}, rows=3000, libraries={"onnxruntime": this_machine().onnxruntime}
    )
    proof = Proof(
        this_machine(), {"example": 2}, original_us={"1": 9.0}, attempts=(attempt,), served=(Served("trees", 1, None),)
    )
    releases.compiled.keep(version.manifest, proof, folder / "forms")


def answer(server: LagarServer, value: float) -> float:
    response = httpx.post(f"{server.url}/models/heat/predict", json={"heat": value}, timeout=60)
    assert response.status_code == 200, response.text
    return float(json.loads(response.text)["predictions"][0])


@pytest.mark.slow
def test_a_wrong_form_is_given_up_by_every_worker_and_stays_so_over_a_restart(pushed: Pushed) -> None:
    args = ["--compile", "background", "--shadow-check", "1"]
    with LagarServer(home=pushed.home, workers=2, args=args) as server:
        assert answer(server, 1.0) == 1.0
        assert answer(server, 100.0) == 4.0, "the form is wrong here"
        eventually(lambda: [answer(server, 100.0) for _ in range(8)] == [3.0] * 8, 120, "the original's answers")
        (kept,) = eventually(lambda: list((pushed.home / "violations" / "heat@1").glob("*.json")), 120, "the row")
        told = json.loads(kept.read_bytes())["violation"]
        assert (told["row"], told["original"], told["candidate"]) == ({"heat": 100.0}, 3.0, 4.0)
        eventually(lambda: _told(server), 120, "the reason")
        metrics = httpx.get(f"{server.url}/metrics", timeout=60).text
        assert 'lagar_shadow_rows_total{model="heat",result="different",version="1"}' in metrics
        server.wait_line("the original serves until `lagar compile heat@1` proves others")
    with LagarServer(home=pushed.home, workers=1, args=args) as server:
        assert answer(server, 100.0) == 3.0
        eventually(lambda: _told(server), 120, "the reason")
    with open_releases(pushed.home) as releases:
        proof = releases.proof(releases.get("heat", "1").manifest)
        assert proof is not None
        assert proof.attempts[0].outcome == "wrong"


def _told(server: LagarServer) -> str:
    page = httpx.get(f"{server.url}/models/heat", timeout=60).text
    return page if "given up on" in page else ""


@pytest.mark.slow
def test_what_a_served_path_answers_is_checked_too(tmp_path: Path) -> None:
    heat = pd.DataFrame({"heat": [1.0, 2.0, 100.0]})
    joblib.dump(DecisionTreeRegressor(random_state=0).fit(heat, [1.0, 2.0, 3.0]), tmp_path / "heat.joblib")
    args = ["--compile", "wait", "--shadow-check", "1"]
    with LagarServer(
        tmp_path / "heat.joblib", home=tmp_path / "home", workers=1, args=args, known_models=False
    ) as server:
        assert _forms(server) not in ([], ["original"])
        for value in (1.0, 2.0, 100.0):
            answer(server, value)
        same = 'lagar_shadow_rows_total{model="heat",result="same"'
        eventually(lambda: _sum(server, same) == 3, 120, "three rows that the original answers alike")
        (host,) = [pid for pid, command in server.children().items() if "lagar.engine.hosting" in command]
        assert os.getpriority(os.PRIO_PROCESS, host) > os.getpriority(os.PRIO_PROCESS, server.pid), "requests go first"
        assert _sum(server, "lagar_shadow_violations_total{") == 0
    with LagarServer(
        tmp_path / "heat.joblib", home=tmp_path / "home", workers=1, args=["--compile", "off"], known_models=False
    ) as server:
        assert _forms(server) == [], "off is off for what was compiled before, too"
        assert answer(server, 100.0) == 3.0


def _forms(server: LagarServer) -> list[str]:
    card = httpx.get(f"{server.url}/models/heat", timeout=60).json()["versions"][0]
    return [form["name"] for form in card["forms"]]


def _sum(server: LagarServer, start: str) -> float:
    lines = httpx.get(f"{server.url}/metrics", timeout=60).text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(start))
