"""Versions of one model that are told apart by every answer."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
import numpy as np
from sklearn.datasets import load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lagar.registry.releases import Releases
from support.load import Said
from support.server import LagarServer

CLASS = '''
import json
from pathlib import Path

import numpy as np


class Wine:
    """The same arithmetic as a logistic regression, as code that came with the version."""

    def load(self, path):
        self.weights = {name: np.array(value) for name, value in json.loads(Path(path).read_text()).items()}

    def predict(self, rows: np.ndarray):
        scores = (rows - self.weights["mean"]) / self.weights["scale"] @ self.weights["coef"].T
        scores = np.exp(scores + self.weights["intercept"])
        shares = scores / scores.sum(axis=1, keepdims=True)
        return {"predict": [f"custom-{i}" for i in shares.argmax(axis=1)], "predict_proba": shares}
'''


@dataclass(frozen=True)
class Wines:
    """Versions of the model "wine", rows for it, and what each version says of them."""

    home: Path
    rows: list[dict[str, float]]
    expected: dict[str, list[Said]]
    files: dict[str, Path]


def trained(prefix: str, *, c: float) -> Any:
    """A classifier whose labels begin with the prefix."""
    rows, labels = load_wine(return_X_y=True, as_frame=True)
    names = np.array([f"{prefix}-{label}" for label in range(3)], dtype=object)
    return make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=1000)).fit(rows, names[labels])


def said(model: Any, rows: Any) -> list[Said]:
    labels, shares = model.predict(rows), model.predict_proba(rows)
    return [Said(str(label), tuple(map(float, share))) for label, share in zip(labels, shares, strict=True)]


def live(server: LagarServer) -> set[str]:
    """The versions that new connections meet; enough of them to meet every worker."""
    found = set()
    for _ in range(12):
        card = httpx.get(f"{server.url}/models/wine", timeout=20).json()
        found.add(next(entry["version"] for entry in card["versions"] if entry["live"]))
    return found


def switches(server: LagarServer) -> dict[str, float]:
    """How the changes of what is live have ended, as the metrics tell it."""
    text = httpx.get(f"{server.url}/metrics", timeout=20).text
    lines = [line for line in text.splitlines() if line.startswith("lagar_switches_total{")]
    return {line.split('"')[1]: float(line.rsplit(" ", 1)[1]) for line in lines}


class Neighbour:
    """Another server on the catalog, which renews its lease and says of a generation what the test lets it say."""

    url = "http://neighbour:8080"

    def __init__(self, releases: Releases) -> None:
        self._releases = releases
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True)

    def __enter__(self) -> Neighbour:
        self._lease()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ends.set()
        self._thread.join(20)
        self._releases.release("neighbour")

    def report(self, generation: int, ok: bool, reason: str = "") -> None:
        self._releases.report(generation, "neighbour", ok, reason)

    def _lease(self) -> None:
        self._releases.lease("neighbour", self.url, 0, True)

    def _renew(self) -> None:
        while not self._ends.wait(1.0):
            self._lease()
