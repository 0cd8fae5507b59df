"""The servers that the judges ask, and the case that tells them which rows get which answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from contract.callers import grpc_target
from support.keys import key_for
from support.models import scripted_model
from support.server import LagarServer

ROWS = 6


@pytest.fixture(scope="session")
def asked(tmp_path_factory: pytest.TempPathFactory, wine: Any, text: Any, logistic: Any) -> Iterator[Path]:
    """The case of a server with several models, and of another that wants keys."""
    folder = tmp_path_factory.mktemp("judges")
    paths = (wine.path, text.path, logistic.path, scripted_model(folder / "scripted"))
    env = {"LAGAR_NO_AUTH": "true", "LAGAR_DEFAULT_MODEL": "wine"}
    ports = ["--grpc-port", "0"]
    with (
        LagarServer(*paths, home=folder / "home", args=ports, env=env, timeout_s=300) as server,
        LagarServer(wine.path, home=_with_keys(folder / "keyed", keys := {}), args=ports, timeout_s=300) as keyed,
    ):
        rows = wine.rows.iloc[:: len(wine.rows) // ROWS][:ROWS]
        case = {
            "url": server.url,
            "http": server.url.removeprefix("http://"),
            "grpc": grpc_target(server),
            "wine": {
                "version": server.version("wine"),
                "names": list(rows.columns),
                "rows": rows.to_numpy().tolist(),
                "labels": wine.model.predict(rows).tolist(),
                "probabilities": wine.model.predict_proba(rows).tolist(),
            },
            "products": {"rows": text.rows, "labels": text.model.predict(text.rows).tolist()},
            "keyed": {
                "url": keyed.url, "http": keyed.url.removeprefix("http://"), "grpc": grpc_target(keyed), **keys
            },
        }  # fmt: skip
        path = folder / "case.json"
        path.write_text(json.dumps(case))
        yield path


def _with_keys(home: Path, keys: dict[str, str]) -> Path:
    """A home with a key for predictions and one for looking, which go into `keys`."""
    keys |= {scope: key_for(home, scope) for scope in ("infer", "read")}
    return home
