"""One server over a model of each kind, for all tests that only ask it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import httpx
import pytest

from service.zoo import ROWS, Animal, classified, zoo
from support.server import LagarServer


class Zoo(NamedTuple):
    server: LagarServer
    client: httpx.Client
    animals: dict[str, Animal]


MAX_BODY_BYTES = 4_000_000
NAMES = (
    "wine", "logistic", "churn", "products", "hist", "heart", "regressor", "multi", "several", "clusters", "outliers",
    "xgb", "lgbm", "cat", "graph",
)  # fmt: skip


def _shared(name: str, trained: Any, rows: Any, *, named: bool = True) -> Animal:
    model = trained.model
    return Animal(name, trained.path, trained.records[:ROWS], classified(model, rows), named)


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory, wine: Any, logistic: Any, churn: Any, text: Any) -> Iterator[Zoo]:
    """Every animal behind one worker; wine is the default model."""
    folder = tmp_path_factory.mktemp("zoo")
    vectorizer, model = churn.model
    customers = [dict(sorted(record.items())) for record in churn.records[:ROWS]]  # in the vectorizer's order
    animals = [
        _shared("wine", wine, wine.rows.head(ROWS)),
        _shared("logistic", logistic, logistic.rows[:ROWS], named=False),
        Animal("churn", churn.path, customers, classified(model, vectorizer.transform(customers))),
        _shared("products", text, text.rows[:ROWS], named=False),
        *zoo(folder),
    ]
    env = {"LAGAR_MAX_BODY_BYTES": str(MAX_BODY_BYTES), "LAGAR_DEFAULT_MODEL": "wine"}
    with (
        LagarServer(*(animal.path for animal in animals), home=folder / "home", env=env, timeout_s=120) as server,
        httpx.Client(base_url=server.url, timeout=60) as client,
    ):
        yield Zoo(server, client, {animal.name: animal for animal in animals})
