"""The judges: clients that nobody here wrote, in environments of their own, against a real server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.compatibility import FEATURES, JUDGES, JUDGES_FOLDER, ROOT
from support.server import LagarServer

pytestmark = pytest.mark.slow
LIMIT_S = 300


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, wine: Any) -> Iterator[Path]:
    """The case of a server with one model, for whoever tries every route it has."""
    folder = tmp_path_factory.mktemp("alone")
    with LagarServer(wine.path, home=folder / "home", env={"LAGAR_NO_AUTH": "true"}, timeout_s=300) as server:
        case = folder / "case.json"
        case.write_text(json.dumps({"url": server.url}))
        yield case


@pytest.mark.parametrize("name", [name for name, judge in JUDGES.items() if judge.script])
def test_a_judge_finds_what_the_table_says_and_nothing_else(name: str, request: pytest.FixtureRequest) -> None:
    verdicts = judged(name, request.getfixturevalue("alone" if name == "openapi" else "asked"))
    wrong = {feature: why for feature, why in verdicts.items() if why}
    assert not wrong, "\n".join(f"{feature}: {why}" for feature, why in wrong.items())
    assert set(verdicts) == {(each.protocol, each.name) for each in FEATURES if name in each.judges}


def judged(name: str, case: Path) -> dict[tuple[str, str], str]:
    """Protocol and feature → what went wrong, if anything, as a judge in its own environment finds it."""
    judge = JUDGES[name]
    lock = JUDGES_FOLDER / f"{judge.lock}.lock"
    made = [sys.executable, str(ROOT / "scripts" / "locked.py"), str(lock)]
    home = subprocess.run(made, check=True, stdout=subprocess.PIPE, text=True, timeout=LIMIT_S).stdout.strip()
    command = [f"{home}/bin/python", str(JUDGES_FOLDER / judge.script), str(case)]
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("LAGAR_", "PYTHON", "COV_"))}
    done = subprocess.run(
        command, env=clean, cwd=case.parent, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert done.returncode == 0, done.stderr
    return {(protocol, feature): why for protocol, feature, why in json.loads(done.stdout.splitlines()[-1])}
