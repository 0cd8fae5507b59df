"""The servers that every protocol is asked of, each with the keys that its callers send."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import RandomForestRegressor

from contract.callers import CALLERS, Caller, Server, grpc_target
from support.inference import Client
from support.keys import key_for
from support.server import LagarServer
from support.wait import eventually

MAX_BODY_BYTES = 100_000
QUEUE_ROWS = 20

GATED = '''
import threading
from pathlib import Path


class Gated:
    """Doubles `value`, once the file named by `gate` is there; fails on what is below zero."""

    def load(self, path):
        pass

    def predict(self, rows):
        for row in rows:
            while row["gate"].startswith("/") and not Path(row["gate"]).exists():
                Path(row["gate"] + ".entered").touch()
                threading.Event().wait(0.005)
        if any(row["value"] < 0 for row in rows):
            raise ZeroDivisionError("the secret of this model")
        return [row["value"] * 2 for row in rows]
'''
GATED_TOML = """
name = "gated"
version = "1"
class = "gated:Gated"

[fields.value]
type = "float"

[fields.gate]
type = "string"
"""
HOUSE_TOML = """
name = "house"
version = "v2"
model = "house.joblib"
extra_fields = "refuse"

[fields.rooms]
type = "int"
range = [1, 20]
"""


@pytest.fixture(params=CALLERS, ids=lambda caller: caller.name)
def caller(request: pytest.FixtureRequest) -> Caller:
    return request.param


@pytest.fixture(params=[caller for caller in CALLERS if caller.names_models], ids=lambda caller: caller.name)
def named(request: pytest.FixtureRequest) -> Caller:
    """A protocol whose caller says which model is to answer; the others ask the default one."""
    return request.param


@contextmanager
def asked(*paths: Path, default: str, home: Path, key: str = "", **env: str) -> Iterator[Server]:
    """A server on one worker and a port for gRPC."""
    env = {f"LAGAR_{name.upper()}": value for name, value in env.items()} | {"LAGAR_DEFAULT_MODEL": default}
    with (
        LagarServer(*paths, home=home, args=["--grpc-port", "0"], env=env) as running,
        httpx.Client(base_url=running.url, timeout=90) as http,
        Client(grpc_target(running)) as client,
    ):
        yield Server(running, http, client, default, key)


class Houses(NamedTuple):
    """A regressor on named columns, the rows it is asked, and what it says of them itself."""

    path: Path
    records: list[dict[str, Any]]
    expected: list[float]


@pytest.fixture(scope="session")
def houses(tmp_path_factory: pytest.TempPathFactory) -> Houses:
    folder = tmp_path_factory.mktemp("house")
    rng = np.random.default_rng(3)
    frame = pd.DataFrame({"area": rng.uniform(20, 300, 200), "rooms": rng.integers(1, 9, 200)})
    frame["age of house"] = rng.exponential(30, 200)
    model = RandomForestRegressor(n_estimators=7, random_state=1)
    model.fit(frame, np.exp(frame["area"] / 90) / 3 + frame["rooms"])
    joblib.dump(model, folder / "house.joblib")
    (folder / "lagar.toml").write_text(HOUSE_TOML)
    rows = frame.head(40)
    return Houses(folder, rows.to_dict(orient="records"), model.predict(rows).tolist())


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, houses: Houses, wine: Any, text: Any) -> Iterator[Server]:
    """A regressor (the default), a classifier and a model of text; whoever asks needs a key."""
    folder = tmp_path_factory.mktemp("contract")
    key = key_for(folder / "home", "infer")
    paths, limit = (houses.path, wine.path, text.path), str(MAX_BODY_BYTES)
    with asked(*paths, default="house", home=folder / "home", key=key, max_body_bytes=limit) as running:
        yield running


@pytest.fixture(scope="module")
def reader(server: Server) -> str:
    """A key that may look, and may not ask for predictions."""
    key = key_for(server.running.home, "read")
    headers = {"X-Api-Key": key}
    eventually(lambda: server.http.get("/models", headers=headers).status_code == 200, 60, "the key to be known")
    return key


@pytest.fixture(scope="module")
def gated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A model that answers when the test lets it."""
    folder, home = tmp_path_factory.mktemp("gated"), tmp_path_factory.mktemp("home")
    (folder / "gated.py").write_text(GATED)
    (folder / "lagar.toml").write_text(GATED_TOML)
    with asked(folder, default="gated", home=home, queue_rows=str(QUEUE_ROWS)) as running:
        yield running
