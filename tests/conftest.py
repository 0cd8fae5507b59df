"""Models that many tests need, trained once per session, and servers that are always killed."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import joblib
import pandas as pd
import pytest
from sklearn.datasets import load_wine
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction import DictVectorizer
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import MultinomialNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from support import known
from support.server import LagarServer

_LONG = ("test_docs", "switch/", "test_processes", "intake/test_push", "verbs/", "test_project", "browser/", "forms/")
"""Files that take minutes begin first, so that no process of the run ends alone with one of them."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def rank(item: pytest.Item) -> int:
        return next((index for index, part in enumerate(_LONG) if part in item.nodeid), len(_LONG))

    items.sort(key=rank)  # stable: the order within a file stays


class Trained(NamedTuple):
    """A model file, the model in process, and rows it answers."""

    path: Path
    model: Any
    rows: Any
    """The data as the model's own `predict` takes it."""
    records: list[dict[str, Any]]
    """The same rows as a caller sends them."""


@pytest.fixture(scope="session", autouse=True)
def known_models(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Iterator[None]:
    """What any server of the session has taken in is known to the next ones."""
    base = tmp_path_factory.getbasetemp()
    known.remember_in((base if worker_id == "master" else base.parent) / "known")
    yield
    known.forget()


@pytest.fixture(scope="session", autouse=True)
def _nothing_is_compiled() -> Iterator[None]:
    """Building and proving forms takes seconds: only the tests of forms want it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAGAR_COMPILE", "off")
        yield


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c_reaches_children() -> None:
    """A shell starts what it runs in the background with SIGINT ignored, and every process below inherits that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def wine(models_dir: Path) -> Trained:
    """A scaler and a small forest on the 13 named columns of wine: `wine.joblib`."""
    rows, labels = load_wine(return_X_y=True, as_frame=True)
    model = make_pipeline(StandardScaler(), RandomForestClassifier(n_estimators=5, random_state=42))
    model.fit(rows, labels)
    path = models_dir / "wine.joblib"
    joblib.dump(model, path)
    return Trained(path, model, rows, rows.to_dict(orient="records"))


@pytest.fixture(scope="session")
def logistic(models_dir: Path) -> Trained:
    """A logistic regression on four unnamed columns: `logistic.joblib`; the quickest model there is."""
    rows, labels = load_wine(return_X_y=True)
    rows = rows[:, [0, 5, 6, 9]]
    model = LogisticRegression(max_iter=2000).fit(rows, labels)
    path = models_dir / "logistic.joblib"
    joblib.dump(model, path)
    return Trained(path, model, rows, [dict(zip(("x0", "x1", "x2", "x3"), row, strict=True)) for row in rows.tolist()])


@pytest.fixture(scope="session")
def churn(models_dir: Path) -> Trained:
    """A pickled tuple (DictVectorizer, LogisticRegression): `churn.bin`."""
    records = [
        {
            "contract": ("month-to-month", "one_year", "two_year")[i % 3],
            "paperless": ("yes", "no")[i % 2],
            "tenure": (i * 7) % 72,
            "charges": 20.0 + (i * 13) % 90,
        }
        for i in range(120)
    ]
    labels = [int(r["contract"] == "month-to-month" and r["tenure"] < 36) for r in records]
    vectorizer = DictVectorizer(sparse=False)
    model = LogisticRegression(max_iter=5000).fit(vectorizer.fit_transform(records), labels)
    path = models_dir / "churn.bin"
    joblib.dump((vectorizer, model), path)
    return Trained(path, (vectorizer, model), records, records)


@pytest.fixture(scope="session")
def text(models_dir: Path) -> Trained:
    """Bag of words and naive Bayes over Portuguese product names: `products.joblib`."""
    names = [
        "Livro de histórias", "Livro infantil", "Lápis de cor", "Caneta azul", "Boneca de pano", "Jogo de tabuleiro",
        "Câmera digital", "Fone de ouvido", "Livro de receitas", "Caderno de desenho", "Carrinho de brinquedo",
        "Televisão com controle",
    ]  # fmt: skip
    labels = ["livro", "livro", "papelaria", "papelaria", "brinquedo", "brinquedo", "eletrônico", "eletrônico",
              "livro", "papelaria", "brinquedo", "eletrônico"]  # fmt: skip
    model = make_pipeline(CountVectorizer(), MultinomialNB()).fit(names, labels)
    path = models_dir / "products.joblib"
    joblib.dump(model, path)
    return Trained(path, model, pd.Series(names).tolist(), [{"text": name} for name in names])


Serve = Callable[..., LagarServer]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Start servers that end with the test: `serve(wine.path, workers=2, args=["--root-path", "/x"])`."""
    with ExitStack() as stack:
        count = 0

        def start(*paths: str | Path, **options: Any) -> LagarServer:
            nonlocal count
            count += 1
            options.setdefault("home", tmp_path / f"home{count}")
            return stack.enter_context(LagarServer(*paths, **options))

        yield start
