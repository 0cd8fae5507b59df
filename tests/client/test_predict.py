"""`lagar.Client(url).predict(name, data)`: every form of rows, both clients, the server's errors as classes."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest

import lagar
from lagar import AsyncClient, Client
from lagar.client.rows import write_body
from lagar.errors import DeadlineExceeded, InvalidInput, NotFound, SettingsError, Unauthorized, Unreachable
from support.keys import key_for
from support.models import scripted_model
from support.server import LagarServer


def test_every_form_of_rows_gets_the_models_own_answers(served: LagarServer, wine: Any) -> None:
    rows = wine.rows.head(5)
    expected, label = wine.model.predict(rows).tolist(), served.version("wine")
    forms = [
        rows, rows[rows.columns[::-1]], rows.to_numpy(), rows.to_dict("records"), rows.to_dict("list"),
        rows.to_numpy().tolist(), {name: rows[name] for name in rows}, [row for _, row in rows.iterrows()],
    ]  # fmt: skip
    with Client(served.url) as client:
        for form in forms:
            answer = client.predict("wine", form)
            assert answer.predictions == expected, type(form)
            assert (answer.model, answer.version, len(answer)) == ("wine", label, 5)
            assert np.allclose(answer.probabilities, wine.model.predict_proba(rows))
            assert answer.classes == [0, 1, 2]
        for one in (rows.iloc[0], rows.iloc[0].to_dict()):
            assert client.predict("wine", one, version=label).predictions == expected[:1]


def test_columns_of_every_type_arrive(served: LagarServer, churn: Any, text: Any) -> None:
    vectorizer, model = churn.model
    frame = pd.DataFrame(churn.records[:20]).astype({"contract": "category", "tenure": "Int64"})
    expected = model.predict(vectorizer.transform(churn.records[:20])).tolist()
    with Client(served.url) as client:
        assert client.predict("churn", frame).predictions == expected
        assert client.predict("products", text.rows[:3]).predictions == text.model.predict(text.rows[:3]).tolist()


def test_missing_values_of_every_kind_are_null() -> None:
    frame = pd.DataFrame(
        {
            "a": [1.5, float("nan")],
            "b": pd.array([1, None], "Int64"),
            "c": pd.array(["x", None], "string"),
            "d": pd.to_datetime(["2026-01-02", None]),
            "e": [Decimal("1.5"), None],
            "f": np.array([True, False]),
        }
    )
    assert write_body(frame) == (
        b'{"columns":["a","b","c","d","e","f"],'
        b'"data":[[1.5,1,"x","2026-01-02T00:00:00",1.5,true],[null,null,null,null,null,false]]}'
    )
    assert write_body([{"a": np.float64(1), "b": pd.NA, "c": pd.NaT}]) == b'[{"a":1.0,"b":null,"c":null}]'
    assert write_body(np.array([[1, 2]], dtype=np.int8)) == b"[[1,2]]"
    assert write_body(["x", "y"]) == b'["x","y"]'


@pytest.mark.parametrize("rows", [7, "text", None, {1, 2}])
def test_what_is_no_rows_is_refused_before_it_is_sent(rows: Any) -> None:
    with pytest.raises(InvalidInput, match="must be a DataFrame, an array, a dict or a list"):
        write_body(rows)
    with pytest.raises(InvalidInput, match="cannot be written as JSON"):
        write_body([{"a": object()}])


def test_ids_come_back(served: LagarServer, wine: Any) -> None:
    rows = wine.rows.head(2)
    with Client(served.url) as client:
        for form in (rows, rows.to_numpy(), rows.to_dict("records"), rows.to_dict("list")):
            assert client.predict("wine", form, ids=["a", 7]).ids == ["a", "7"]
        assert client.predict("wine", rows.iloc[0].to_dict(), ids=["only"]).ids == ["only"]
        answer = client.predict("wine", rows)
        assert answer.ids == [f"{answer.id}:0", f"{answer.id}:1"]
        with pytest.raises(InvalidInput, match="2 rows and 1 ids"):
            client.predict("wine", rows, ids=["a"])


def test_an_answer_becomes_a_frame(served: LagarServer, wine: Any) -> None:
    rows = wine.rows.head(3)
    with Client(served.url) as client:
        answer = client.predict("wine", rows, ids=["a", "b", "c"])
    frame = answer.to_frame()
    assert list(frame.columns) == ["prediction", "probability_0", "probability_1", "probability_2"]
    assert frame.index.tolist() == ["a", "b", "c"]
    assert frame["prediction"].tolist() == list(answer) == [answer[0], answer[1], answer[2]]
    assert repr(answer).startswith(f"Prediction(wine@{served.version('wine')}: [")


def test_the_awaited_client_answers_the_same(served: LagarServer, wine: Any) -> None:
    rows = wine.rows.head(3)

    async def ask() -> tuple[list[Any], bool, type[Exception]]:
        async with AsyncClient(served.url) as client:
            answers = await asyncio.gather(*(client.predict("wine", rows) for _ in range(20)))
            try:
                await client.predict("wine", {"alcohol": "x"})
            except InvalidInput as error:
                return [answer.predictions for answer in answers], await client.ready(), type(error)
        raise AssertionError("a text was taken for a number")

    answers, ready, error = asyncio.run(ask())
    assert answers == [wine.model.predict(rows).tolist()] * 20
    assert (ready, error) == (True, InvalidInput)


def test_both_clients_have_the_same_methods_with_the_same_signature() -> None:
    import inspect

    for name in ("predict", "push", "promote", "rollback", "traffic", "alias", "drop_alias", "retire", "gc", "models",
                 "model", "versions", "version", "history", "diff", "generation", "ready", "wait_for"):  # fmt: skip
        blocking, awaited = getattr(Client, name), getattr(AsyncClient, name)
        assert inspect.signature(blocking) == inspect.signature(awaited), name
        assert blocking.__doc__ == awaited.__doc__
        assert not inspect.iscoroutinefunction(blocking) or blocking is not awaited


def test_errors_are_the_servers_own_classes(served: LagarServer, wine: Any) -> None:
    record = wine.records[0]
    with Client(served.url) as client:
        with pytest.raises(InvalidInput) as wrong:
            client.predict("wine", [record, record | {"alcohol": "strong"}])
        assert (wrong.value.field, wrong.value.row) == ("alcohol", 1)
        assert wrong.value.request_id
        with pytest.raises(NotFound, match="nobody"):
            client.predict("nobody", record)
        with pytest.raises(NotFound):
            client.predict("wine", record, version="9")
        with pytest.raises(SettingsError, match="name it"):
            client.predict(None, record, version="1")
    with Client("http://127.0.0.1:1", retries=0) as nobody, pytest.raises(Unreachable, match="no server answers"):
        nobody.predict("wine", record)
    assert not Client("http://127.0.0.1:1").ready()


def test_a_key_is_sent_and_a_missing_one_is_unauthorized(serve: Any, tmp_path: Any) -> None:
    key = key_for(tmp_path / "home", "infer")
    server = serve(scripted_model(tmp_path / "m"), home=tmp_path / "home")
    row = {"seconds": 0.0, "tag": 4}
    with Client(server.url, key=key) as client:
        assert client.predict(None, row).predictions == [4]
    with Client(server.url) as client, pytest.raises(Unauthorized):
        client.predict(None, row)


def test_url_and_key_may_come_from_the_environment(served: LagarServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAGAR_URL", served.url + "/")
    with Client() as client:
        assert client.url == served.url
        assert client.ready()
    for wrong in ("localhost:8080", "ftp://x", "http://", "http://x?y"):
        with pytest.raises(SettingsError, match="must be a URL"):
            Client(wrong)


def test_a_deadline_is_the_servers_and_ours(served: LagarServer) -> None:
    with Client(served.url) as client:
        with pytest.raises(DeadlineExceeded):
            client.predict("scripted", {"seconds": 3.0, "tag": 1}, timeout=0.3)
        assert client.predict("scripted", {"seconds": 0.0, "tag": 2}, timeout=60).predictions == [2]


def test_a_full_queue_is_waited_for(serve: Any, tmp_path: Any) -> None:
    server = serve(scripted_model(tmp_path / "m"), env={"LAGAR_QUEUE_ROWS": "1"})

    async def ask() -> tuple[list[Any], list[Any]]:
        row = {"seconds": 0.2, "tag": 1}
        async with AsyncClient(server.url, retries=0) as hasty, AsyncClient(server.url, retries=60) as patient:
            refused = await asyncio.gather(*(hasty.predict(None, row) for _ in range(8)), return_exceptions=True)
            waited = await asyncio.gather(*(patient.predict(None, row, timeout=60) for _ in range(8)))
            return refused, [answer.predictions for answer in waited]

    refused, waited = asyncio.run(ask())
    assert any(isinstance(error, lagar.errors.Overloaded) for error in refused)
    assert waited == [[1]] * 8


def test_importing_lagar_loads_no_client_until_it_is_asked_for() -> None:
    code = "import sys, lagar; assert 'httpx' not in sys.modules; lagar.Client; assert 'httpx' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    with pytest.raises(AttributeError, match="'nothing'"):
        _ = lagar.nothing
