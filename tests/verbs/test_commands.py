"""The verbs on a home without servers: what they do, what they write, and how they refuse."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from lagar.registry.releases import open_releases
from support.server import LAGAR, clean_env, lagar
from support.wait import eventually
from verbs.conftest import Stock, answer, endless_model, interrupted, refusal, run

SCREEN = [["models"], ["versions", "wine"], ["show", "wine@v1.0.10"], ["diff", "wine", "v1.0.9", "v1.0.10"],
          ["history", "wine"]]  # fmt: skip


def live(home: Path) -> dict[str, int]:
    """What answers for wine."""
    (model,) = answer("models", home=home)
    return dict(model["live"])


# Push


def test_a_push_says_its_steps_on_stderr_and_what_it_made_on_stdout(stock: Stock, tmp_path: Path) -> None:
    done = lagar("push", "other", stock.first, "--note", "n", home=stock.home, timeout_s=120)
    assert done.returncode == 0, done.stderr
    steps = [line.split()[1] for line in done.stderr.splitlines()]
    assert steps[:7] == ["scan", "load", "signature", "prove", "lock", "profile", "commit"]
    assert "`lagar promote other 1`" in done.stderr.splitlines()[-1]
    assert done.stdout.startswith("other@1 ")
    assert "\x1b" not in done.stdout + done.stderr


def test_a_pushed_version_keeps_all_that_was_said_of_it(pushed: Stock) -> None:
    report = answer("show", "wine@v1.0.10", home=pushed.home)
    card, manifest = report["card"], report["manifest"]
    assert card["metrics"] == {"accuracy": 0.98, "auc": 0.99}
    assert card["aliases"] == ["candidate"]
    assert card["kind"] == "sklearn"
    assert manifest["profile"]["path"] == "profile.json"
    assert "example rows.csv" in manifest["signature"]["origin"]
    assert len(manifest["golden"]["records"]) > 0
    assert [step["name"] for step in manifest["steps"]][:3] == ["scan", "load", "signature"]
    assert answer("show", "wine@v1.0.9", home=pushed.home)["card"]["note"] == "the first one"


def test_a_refused_push_names_its_step_and_leaves_only_the_audit_entry(stock: Stock, tmp_path: Path) -> None:
    bad = tmp_path / "model.joblib"
    bad.write_bytes(b"this is no model at all")
    line = refusal("push", "bad", bad, home=stock.home)
    assert "scan" in line
    assert "model.joblib" in line
    assert [model["name"] for model in answer("models", home=stock.home)] == ["wine"]
    with open_releases(stock.home) as releases:
        (entry,) = releases.audit("bad")
    assert (entry.what, entry.details["step"]) == ("push.refused", "scan")


def test_a_label_that_is_taken_is_refused_with_the_way_round(stock: Stock) -> None:
    line = refusal("push", "wine", stock.second, "--version", "v1.0.9", home=stock.home)
    assert "wine@v1.0.9" in line
    assert "without --version" in line


@pytest.mark.parametrize("metric", ["accuracy", "=1", "accuracy=high", "accuracy=nan", "accuracy="])
def test_a_metric_is_a_name_and_a_number(tmp_path: Path, metric: str) -> None:
    assert metric in refusal("push", "m", "model.joblib", "--metric", metric, home=tmp_path, code=2)


def test_a_metric_that_is_given_twice_is_refused(tmp_path: Path) -> None:
    line = refusal("push", "m", "model.joblib", "--metric", "auc=0.9", "--metric", "auc=0.8", home=tmp_path, code=2)
    assert line == "--metric auc is given twice: 0.9 and 0.8; say it once"


def terminal(*args: str | Path, home: Path, env: dict[str, str]) -> str:
    """What a command writes to a terminal."""
    parent, child = pty.openpty()
    process = subprocess.Popen(
        [LAGAR, *map(str, args)], env=env, stdin=child, stdout=child, stderr=child, start_new_session=True
    )
    os.close(child)
    said = b""
    try:
        while piece := os.read(parent, 4096):
            said += piece
    except OSError:
        pass  # the terminal has closed
    finally:
        os.close(parent)
    assert process.wait(60) == 0, said
    return said.decode()


def test_a_terminal_sees_the_step_that_runs_unless_no_colour_is_wanted(stock: Stock) -> None:
    env = clean_env(stock.home)
    plain = terminal("push", "a", stock.first, home=stock.home, env=env)
    assert "\x1b" not in plain
    del env["NO_COLOR"]
    moving = terminal("push", "b", stock.first, home=stock.home, env=env | {"TERM": "xterm"})
    assert "step 1 of 7" in moving
    assert "\r\x1b[K" in moving
    assert "b@1" in moving


def test_ctrl_c_ends_a_push_and_says_that_nothing_is_kept(tmp_path: Path) -> None:
    home = tmp_path / "home"
    last = interrupted("m", endless_model(tmp_path / "m"), home=home)
    assert re.fullmatch("lagar: interrupted at (scan|load): nothing of it was kept", last)
    assert answer("models", home=home) == []


# Looks


def test_versions_are_listed_in_natural_order(pushed: Stock) -> None:
    cards = answer("versions", "wine", home=pushed.home)
    assert [card["version"] for card in cards] == ["v1.0.9", "v1.0.10"]
    lines = run("versions", "wine", home=pushed.home).stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["VERSION", "v1.0.9", "v1.0.10"]
    assert "accuracy=0.98" in lines[2]


def test_show_without_a_version_shows_the_live_one_else_the_newest(stock: Stock) -> None:
    assert answer("show", "wine", home=stock.home)["card"]["version"] == "v1.0.10"
    answer("promote", "wine", "v1.0.9", home=stock.home)
    assert answer("show", "wine", home=stock.home)["card"]["version"] == "v1.0.9"
    assert "100 % since" in run("show", "wine", home=stock.home).stdout


def test_a_screen_has_all_of_a_version(pushed: Stock) -> None:
    shown = run("show", "wine@candidate", home=pushed.home).stdout
    for part in (
        "traffic", "aliases", "metrics", "pushed", "built with", "lock", "profile", "manifest", "inputs", "outputs",
        "classes", "forms", "golden", "steps", "scikit-learn", "alcohol", "model/second.joblib",
    ):  # fmt: skip
        assert part in shown, part


def test_a_diff_names_metrics_and_what_requests_it_takes(pushed: Stock) -> None:
    done = run("diff", "wine", "v1.0.9", "v1.0.10", home=pushed.home)
    assert any(line.split() == ["metric", "accuracy", "0.97", "0.98"] for line in done.stdout.splitlines())
    assert "memory_bytes" not in done.stdout, "sizes are for people, in --json they are bytes"
    assert "a request for one is a request for the other" in done.stderr
    changes = answer("diff", "wine", "v1.0.9", "candidate", home=pushed.home)["changes"]
    assert {"part": "metric", "name": "auc", "a": None, "b": 0.99} in changes


@pytest.mark.parametrize("args", SCREEN)
def test_each_screen_fits(stock: Stock, args: list[str]) -> None:
    answer("promote", "wine", "v1.0.9", "--note", "a long note " * 20, home=stock.home)
    lines = run(*args, home=stock.home).stdout.splitlines()
    assert 0 < len(lines) <= 40
    assert max(map(len, lines)) <= 100


def test_the_screen_of_a_wide_model_fits_too(tmp_path: Path) -> None:
    import numpy as np
    import pandas as pd
    from sklearn.linear_model import LinearRegression

    names = [f"a rather long name of an input, number {number}" for number in range(60)]
    rows = pd.DataFrame(np.random.default_rng(1).normal(size=(80, 60)), columns=names)
    import joblib

    joblib.dump(LinearRegression().fit(rows, rows.sum(axis=1)), tmp_path / "wide.joblib")
    home = tmp_path / "home"
    done = lagar("push", "wide", tmp_path / "wide.joblib", "--note", "words " * 60, home=home, timeout_s=120)
    shown = [done.stdout.splitlines(), run("show", "wide", home=home).stdout.splitlines()]
    for lines in shown:
        assert 0 < len(lines) <= 40
        assert max(map(len, lines)) <= 100
    assert any("52 more" in line for line in shown[1])


def test_an_empty_home_says_what_to_type(tmp_path: Path) -> None:
    done = run("models", home=tmp_path / "home")
    assert (done.code, done.stdout) == (0, "")
    assert "lagar push NAME PATH" in done.stderr
    assert answer("models", home=tmp_path / "home") == []


# Traffic


def test_a_promote_without_servers_is_live_at_once_and_a_rollback_restores_what_was_before(stock: Stock) -> None:
    first = answer("promote", "wine", "v1.0.9", home=stock.home)
    assert (first["state"], first["weights"]) == ("committed", {"v1.0.9": 100})
    answer("traffic", "wine", "v1.0.9=90", "v1.0.10=10", "--note", "a tenth", home=stock.home)
    assert live(stock.home) == {"v1.0.9": 90, "v1.0.10": 10}
    answer("promote", "wine", "candidate", home=stock.home)
    assert live(stock.home) == {"v1.0.10": 100}
    answer("rollback", "wine", home=stock.home)
    assert live(stock.home) == {"v1.0.9": 90, "v1.0.10": 10}
    answer("rollback", "wine", home=stock.home)
    assert live(stock.home) == {"v1.0.9": 100}
    ended = refusal("rollback", "wine", home=stock.home)
    assert "wine is back at what was live first, version v1.0.9: there is nothing to roll back to" in ended
    told = answer("history", "wine", home=stock.home)
    assert [entry["action"] for entry in told] == ["rollback", "rollback", "promote", "traffic", "promote"]
    assert told[3]["note"] == "a tenth"
    assert all(entry["by"] and entry["host"] for entry in told)


def test_a_shadow_is_part_of_the_traffic(stock: Stock) -> None:
    answer("traffic", "wine", "v1.0.9=100", "--shadow", "v1.0.10", home=stock.home)
    (model,) = answer("models", home=stock.home)
    assert model["shadow"] == "v1.0.10"
    assert "v1.0.10" in run("models", home=stock.home).stdout.splitlines()[1]


def test_words_say_what_is_live(stock: Stock) -> None:
    done = run("promote", "wine", "candidate", home=stock.home)
    assert (done.stdout, done.stderr) == ("", "lagar: wine: v1.0.10 is live (generation 1)\n")


def test_an_alias_stands_for_a_version_and_moves_no_traffic(stock: Stock) -> None:
    answer("promote", "wine", "v1.0.9", home=stock.home)
    assert answer("alias", "wine", "champion", "v1.0.9", home=stock.home) == {
        "candidate": "v1.0.10", "champion": "v1.0.9",
    }  # fmt: skip
    answer("alias", "wine", "champion", "candidate", home=stock.home)
    assert answer("show", "wine@champion", home=stock.home)["card"]["version"] == "v1.0.10"
    assert live(stock.home) == {"v1.0.9": 100}
    assert answer("alias", "wine", "champion", "--drop", home=stock.home) == {"candidate": "v1.0.10"}
    assert "champion" in refusal("show", "wine@champion", home=stock.home)


def test_a_retired_version_is_promoted_no_more_until_it_is_brought_back(stock: Stock) -> None:
    answer("promote", "wine", "v1.0.9", home=stock.home)
    assert "promote another version first" in refusal("retire", "wine", "v1.0.9", home=stock.home)
    assert answer("retire", "wine", "v1.0.10", home=stock.home)["state"] == "retired"
    assert "--undo" in refusal("promote", "wine", "v1.0.10", home=stock.home)
    assert answer("retire", "wine", "v1.0.10", "--undo", home=stock.home)["state"] == "ready"
    assert answer("promote", "wine", "v1.0.10", home=stock.home)["state"] == "committed"


def test_garbage_is_listed_before_it_goes_and_versions_are_none(stock: Stock) -> None:
    assert answer("gc", "--dry-run", home=stock.home) == {"objects": 0, "bytes": 0, "folders": 0, "dry_run": True}
    assert "removed" in run("gc", home=stock.home).stderr
    assert answer("show", "wine@v1.0.9", home=stock.home)["card"]["version"] == "v1.0.9"


# Refusals


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["versions", "beer"], 1, ["'beer'", "lagar models"]),
        (["show", "beer"], 1, ["'beer'", "lagar models"]),
        (["history", "beer"], 1, ["'beer'"]),
        (["show", "wine@v9"], 1, ["'v9'", "v1.0.9, v1.0.10"]),
        (["promote", "wine", "v9"], 1, ["'v9'", "v1.0.9, v1.0.10"]),
        (["diff", "wine", "v1.0.9", "v9"], 1, ["'v9'"]),
        (["rollback", "wine"], 1, ["never live"]),
        (["traffic", "wine", "v1.0.9=90"], 1, ["add up to 100", "90"]),
        (["traffic", "wine", "v1.0.9"], 2, ["VERSION=PERCENT", "'v1.0.9'"]),
        (["traffic", "wine", "v1.0.9=50", "v1.0.9=50"], 2, ["once"]),
        (["alias", "wine", "v1.0.9", "v1.0.10"], 1, ["'v1.0.9'"]),
        (["alias", "wine", "champion"], 2, ["--drop"]),
        (["alias", "wine", "champion", "--drop"], 1, ["'champion'"]),
        (["models", "--key", "lagar_x_y"], 2, ["--to URL"]),
        (["models", "--to", "localhost:1"], 2, ["http://127.0.0.1:8080", "localhost:1"]),
        (["models", "--to", "http://127.0.0.1:1"], 3, ["no server answers at http://127.0.0.1:1"]),
        (["promote", "wine"], 2, ["version"]),
    ],
)  # fmt: skip
def test_a_refusal_names_the_thing_and_the_next_step(
    pushed: Stock, args: list[str], code: int, words: list[str]
) -> None:
    line = refusal(*args, home=pushed.home, code=code)
    for word in words:
        assert word.lower() in line.lower(), line


# Servers on the catalog, as far as a promote sees them


def test_a_promote_waits_for_the_live_servers_and_says_why_one_refused(stock: Stock) -> None:
    with open_releases(stock.home) as releases:
        releases.lease("s1", "http://one:8080", 0, True)
        first = answer("promote", "wine", "v1.0.9", "--no-wait", home=stock.home)
        assert (first["state"], first["waiting"]) == ("prepare", ["http://one:8080"])
        again = refusal("promote", "wine", "v1.0.10", home=stock.home)
        assert "try again" in again
        late = refusal("promote", "wine", "v1.0.9", "--timeout", "0.3", home=stock.home, code=1)
        assert "generation 1" in late
        releases.lease("s1", "http://one:8080", 0, True)
        releases.report(1, "s1", False, "golden row 3: predict 1, expected 2")
        second: Any = subprocess.Popen(
            [LAGAR, "promote", "wine", "v1.0.9"], env=clean_env(stock.home), stderr=subprocess.PIPE, text=True
        )
        try:

            def proposed() -> bool:
                releases.lease("s1", "http://one:8080", 0, True)
                return releases.pending() is not None

            eventually(proposed, 90, "the second promote")
            releases.report(2, "s1", False, "golden row 3: predict 1, expected 2")
            said = second.communicate(timeout=90)[1]
        finally:
            second.kill()
            second.wait()
    assert second.returncode == 1
    assert "golden row 3" in said
    assert "nothing has switched" in said
    assert live(stock.home) == {}


def test_a_promote_that_is_not_decided_in_time_says_so_and_goes_on(stock: Stock) -> None:
    with open_releases(stock.home) as releases:
        releases.lease("s1", "http://one:8080", 0, True)
        line = refusal("promote", "wine", "v1.0.9", "--timeout", "0.3", home=stock.home, code=3)
        assert "http://one:8080" in line
        assert "lagar history wine" in line
        releases.lease("s1", "http://one:8080", 0, True)
        releases.report(1, "s1", True)
        assert releases.try_commit(1)
    assert live(stock.home) == {"v1.0.9": 100}


def test_the_json_of_a_verb_is_all_that_goes_to_stdout(stock: Stock) -> None:
    done = lagar("push", "again", stock.first, "--json", home=stock.home, timeout_s=120)
    assert json.loads(done.stdout)["card"]["model"] == "again"
    assert done.stderr == ""
