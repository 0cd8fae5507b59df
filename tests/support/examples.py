"""What the tests of the examples share: where the real data may lie, training, asking."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

ROOT = Path(__file__).resolve().parents[2]
DATA = (ROOT / ".." / "shared" / "data").resolve()
KINDS = ("generated", "real")
"""A model of generated data is always tested, one of the real data where they are."""
TRAIN_LIMIT_S = 180


def real_data() -> Path:
    """The folder of the real data; skips the test where it is missing."""
    if not DATA.is_dir():
        pytest.skip(f"the real data are not here: {DATA}")
    return DATA


class Examples:
    """The examples, each trained at most once in a copy of its folder, as its README says."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._printed: dict[tuple[str, str], str] = {}

    def folder(self, name: str, kind: str) -> Path:
        """The copy of the example that works on generated or on real data."""
        folder = self._scratch / kind / name
        if not folder.exists():
            left = shutil.ignore_patterns("__pycache__", "*.joblib", "*.bin", "models", "wine-examples")
            shutil.copytree(ROOT / "examples" / name, folder, ignore=left)
        return folder

    def train(self, name: str, kind: str) -> str:
        """What `train.py` prints."""
        data = ["--data", str(real_data())] if kind == "real" else []
        if (name, kind) not in self._printed:
            self._printed[name, kind] = self.python(name, kind, "train.py", *data)
        return self._printed[name, kind]

    def python(self, name: str, kind: str, *arguments: str, environment: Mapping[str, str] | None = None) -> str:
        """What a Python command in the example's folder prints."""
        done = subprocess.run(
            [sys.executable, "-W", "error", *arguments],
            cwd=self.folder(name, kind),
            env={**os.environ, **(environment or {})},
            capture_output=True,
            text=True,
            timeout=TRAIN_LIMIT_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


def post(url: str, body: Any) -> httpx.Response:
    """POST of a JSON value, or of bytes or text as JSON."""
    if isinstance(body, (bytes, str)):
        return httpx.post(url, content=body, headers={"Content-Type": "application/json"}, timeout=30)
    return httpx.post(url, json=body, timeout=30)


def answer(url: str, body: Any) -> Any:
    """The JSON of a 200."""
    response = post(url, body)
    assert response.status_code == 200, f"{response.status_code}: {response.text}"
    return response.json()


def refusal(url: str, body: Any) -> dict[str, Any]:
    """What stands in the `error` of a native 400."""
    response = post(url, body)
    assert response.status_code == 400, f"{response.status_code}: {response.text}"
    error = response.json()["error"]
    assert set(error) == {"code", "message", "field", "row", "request_id"}
    return dict(error)
