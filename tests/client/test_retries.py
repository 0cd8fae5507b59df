"""What is asked again, how often, and how long; over a server that answers as the test says."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from client.conftest import OK, Told, error
from lagar import AsyncClient, Client
from lagar.errors import (
    DeadlineExceeded,
    Forbidden,
    InvalidInput,
    LagarError,
    ModelFailed,
    NotReady,
    Overloaded,
    PromoteRefused,
    Refused,
    Unreachable,
)

Ask = Callable[..., Any]


def ask_blocking(told: Told, **options: Any) -> Any:
    timeout = options.pop("timeout", None)
    with Client(told.url, **options) as client:
        return client.predict("m", [[1.0]], timeout=timeout)


def ask_awaited(told: Told, **options: Any) -> Any:
    timeout = options.pop("timeout", None)

    async def ask() -> Any:
        async with AsyncClient(told.url, **options) as client:
            return await client.predict("m", [[1.0]], timeout=timeout)

    return asyncio.run(ask())


@pytest.fixture(params=[ask_blocking, ask_awaited], ids=["blocking", "awaited"])
def ask(request: pytest.FixtureRequest) -> Ask:
    found: Ask = request.param
    return found


def test_429_and_503_are_asked_again(told: Told, ask: Ask) -> None:
    told.answers = [error(429, "overloaded", "0"), error(503, "not_ready"), OK]
    assert ask(told).predictions == [7]
    assert len(told.requests) == 3


def test_retry_after_is_kept(told: Told, ask: Ask) -> None:
    told.answers = [error(429, "overloaded", "1"), OK]
    started = time.monotonic()
    ask(told)
    assert time.monotonic() - started >= 1.0


@pytest.mark.parametrize(("status", "code", "kind"), [(429, "overloaded", Overloaded), (503, "not_ready", NotReady)])
def test_retries_end(told: Told, ask: Ask, status: int, code: str, kind: type[Exception]) -> None:
    told.answers = [error(status, code, "0")]
    with pytest.raises(kind) as ended:
        ask(told, retries=2)
    assert len(told.requests) == 3
    assert getattr(ended.value, "request_id", "") == "r9"
    told.requests.clear()
    with pytest.raises(kind):
        ask(told, retries=0)
    assert len(told.requests) == 1


def test_nothing_is_waited_for_that_comes_after_the_deadline(told: Told, ask: Ask) -> None:
    told.answers = [error(429, "overloaded", "25")]
    started = time.monotonic()
    with pytest.raises(Overloaded):
        ask(told, timeout=2.0)
    assert time.monotonic() - started < 2.0
    assert len(told.requests) == 1


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [(400, "invalid_input", InvalidInput), (403, "forbidden", Forbidden), (500, "model_failed", ModelFailed),
     (504, "deadline_exceeded", DeadlineExceeded), (500, "unheard_of", LagarError)],
)  # fmt: skip
def test_nothing_else_is_asked_again(told: Told, ask: Ask, status: int, code: str, kind: type[Exception]) -> None:
    told.answers = [error(status, code)]
    with pytest.raises(kind):
        ask(told)
    assert len(told.requests) == 1


def test_a_prediction_on_a_connection_that_was_cut_is_asked_again(told: Told, ask: Ask) -> None:
    told.answers = [None, OK]
    assert ask(told).predictions == [7]
    told.answers = [None]
    with pytest.raises(Unreachable, match="ended before the answer"):
        ask(told, retries=1)


def test_a_proxys_own_answer_is_told_by_its_status(told: Told, ask: Ask) -> None:
    told.answers = [(502, {}, b"<html>Bad Gateway</html>"), OK]
    assert ask(told).predictions == [7]
    told.answers = [(403, {}, b"go away")]
    with pytest.raises(Forbidden, match="403: go away"):
        ask(told)


def test_a_change_is_never_sent_twice(told: Told) -> None:
    for answer in (error(503, "not_ready", "0"), None):
        told.answers, told.requests = [answer], []
        with Client(told.url) as client, pytest.raises((NotReady, Unreachable)):
            client.promote("m", "1")
        assert [request for request, _ in told.requests] == ["POST /api/models/m/promote"]


def test_connections_are_kept(told: Told) -> None:
    told.answers = [OK]
    with Client(told.url) as client:
        for _ in range(20):
            client.predict("m", [[1.0]])
    assert told.connections == 1


def test_a_head_is_the_same_for_every_call_until_a_time_is_asked_for(told: Told) -> None:
    told.answers = [OK]
    with Client(told.url, key="lagar_k_s") as client:
        for timeout in (None, None, 2.5):
            client.predict("a model/x", [[1.0]], version="v 1", timeout=timeout)
    (first, headers), second, (_, timed) = told.requests
    assert (first, headers) == second
    assert first == "POST /models/a%20model%2Fx/versions/v%201/predict"
    assert headers["authorization"] == "Bearer lagar_k_s"
    assert "timeout" not in headers
    assert timed["timeout"] == "2.5"


def test_errors_of_the_verbs_have_their_classes(told: Told) -> None:
    body = b'{"error": {"code": "refused", "message": "refused at scan: no", "step": "scan"}}'
    told.answers = [(422, {}, body)]
    with Client(told.url) as client:
        with pytest.raises(Refused, match="refused at scan") as refused:
            client.push("m", __file__)
        assert refused.value.step == "scan"
        told.answers = [error(409, "promote_refused")]
        with pytest.raises(PromoteRefused):
            client.promote("m", "1")
        told.answers = [(200, {}, b'{"error": {"code": "refused", "message": "late", "step": "load"}}\n')]
        with pytest.raises(Refused, match="late"):
            client.push("m", __file__)
        told.answers = [(200, {}, b'{"step": "scan"}\n')]
        with pytest.raises(NotReady, match="before the push was decided"):
            client.push("m", __file__)
