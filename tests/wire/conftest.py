"""One server with a quick model and one that answers only when the test opens its gate."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.server import LagarServer

GATE_MODEL = '''
import threading
from pathlib import Path


class Gate:
    """Answers `value`, once the file named by `gate` is there; what is no path is always open."""

    def load(self, path):
        pass

    def predict(self, rows):
        for row in rows:
            while row["gate"].startswith("/") and not Path(row["gate"]).exists():
                if row["gate"].startswith("/enter"):
                    break
                Path(row["gate"] + ".entered").touch()
                threading.Event().wait(0.005)
        return [row["value"] for row in rows]
'''
GATE_TOML = """
name = "gate"
class = "gate_model:Gate"

[fields.value]
type = "float"

[fields.gate]
type = "string"
default = ""
"""


def gate_model(folder: Path) -> Path:
    """A folder with the gated custom model."""
    folder.mkdir(parents=True)
    (folder / "gate_model.py").write_text(GATE_MODEL)
    (folder / "lagar.toml").write_text(GATE_TOML)
    return folder


def gate_body(value: float, gate: Path | str = "") -> bytes:
    return json.dumps({"value": value, "gate": str(gate)}).encode()


QUICK = "/models/logistic/predict"
SLOW = "/models/gate/predict"
QUICK_BODY = b'{"x0":13.2,"x1":2.8,"x2":3.2,"x3":5.6}'


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, logistic: Any) -> Iterator[LagarServer]:
    folder = tmp_path_factory.mktemp("wire")
    with LagarServer(logistic.path, gate_model(folder / "gate"), home=folder / "home") as running:
        yield running
