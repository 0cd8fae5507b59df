"""A home with two pushed versions, made once and copied for each test that changes it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import joblib
import pytest
from sklearn.datasets import load_wine
from sklearn.linear_model import LogisticRegression

from lagar.cli.main import main
from support.server import LAGAR, clean_env, lagar


class Stock(NamedTuple):
    """A home with wine@v1.0.9 and wine@v1.0.10, and the files they were pushed from."""

    home: Path
    first: Path
    second: Path
    rows: Path
    training: Path


def quick_model(path: Path, c: float = 1.0) -> Path:
    """A small classifier on four named columns; another `c` is another content."""
    rows, labels = load_wine(return_X_y=True, as_frame=True)
    joblib.dump(LogisticRegression(max_iter=2000, C=c).fit(rows.iloc[:, [0, 5, 6, 9]], labels), path)
    return path


def endless_model(folder: Path) -> Path:
    """A model that never finishes loading."""
    folder.mkdir(parents=True)
    (folder / "lagar.toml").write_text('class = "c:C"\n[fields.x]\ntype = "float"\n')
    (folder / "c.py").write_text(
        "import threading\n\n\nclass C:\n    def load(self, path):\n        threading.Event().wait()\n\n"
        "    def predict(self, rows):\n        pass\n"
    )
    return folder


def interrupted(*args: str | Path, home: Path) -> str:
    """What a push says when Ctrl-C ends it while its model is loaded."""
    folder = home.parent / "staged"
    folder.mkdir(exist_ok=True)
    with subprocess.Popen(
        [LAGAR, "push", *map(str, args)], env=clean_env(home, {"TMPDIR": str(folder)}), stderr=subprocess.PIPE,
        text=True, start_new_session=True,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        try:
            said = process.stderr.readline()
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does
            said += process.stderr.read()
            assert process.wait(120) == 128 + signal.SIGINT, said
        finally:
            process.kill()
    assert said.startswith("lagar: scan"), said
    assert list(folder.iterdir()) == []
    return said.splitlines()[-1]


@pytest.fixture(scope="session")
def pushed(tmp_path_factory: pytest.TempPathFactory) -> Stock:
    folder = tmp_path_factory.mktemp("stock")
    rows = load_wine(as_frame=True).data.iloc[:, [0, 5, 6, 9]]
    rows.head(20).to_csv(folder / "rows.csv", index=False)
    rows.to_csv(folder / "training.csv", index=False)
    stock = Stock(
        folder / "home",
        quick_model(folder / "first.joblib"),
        quick_model(folder / "second.joblib", 0.1),
        folder / "rows.csv",
        folder / "training.csv",
    )
    for args in (
        (stock.first, "--version", "v1.0.9", "--metric", "accuracy=0.97", "--note", "the first one"),
        (stock.second, "--version", "v1.0.10", "--metric", "accuracy=0.98", "--metric", "auc=0.99",
         "--example", stock.rows, "--training-data", stock.training, "--alias", "candidate"),
    ):  # fmt: skip
        done = lagar("push", "wine", *args, home=stock.home, timeout_s=120)
        assert done.returncode == 0, done.stderr
    return stock


@pytest.fixture
def stock(pushed: Stock, tmp_path: Path) -> Stock:
    """A copy that the test may change."""
    home = tmp_path / "stock-home"
    shutil.copytree(pushed.home, home, ignore=shutil.ignore_patterns("run"))
    return pushed._replace(home=home)


class Ended(NamedTuple):
    """How a command line ended, in this process."""

    code: int
    stdout: str
    stderr: str


def run(*args: str | Path, home: Path) -> Ended:
    """A command line, run in this process: starting another takes longer than most verbs do."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAGAR_HOME", str(home))
        patch.setenv("NO_COLOR", "1")
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main([str(arg) for arg in args])
    return Ended(code, out.getvalue(), err.getvalue())


def answer(*args: str | Path, home: Path) -> Any:
    """What a verb writes with --json, once it has ended well."""
    done = run(*args, "--json", home=home)
    assert done.code == 0, done.stderr
    return json.loads(done.stdout)


def refusal(*args: str | Path, home: Path, code: int = 1) -> str:
    """The one line of a verb that is refused; nothing goes to stdout."""
    done = run(*args, home=home)
    assert done.code == code, done.stderr
    assert done.stdout == ""
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("lagar: "), done.stderr
    assert "Traceback" not in done.stderr
    return last.removeprefix("lagar: ")
