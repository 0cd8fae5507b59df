"""Statuses, Retry-After, media types and negotiation."""

from __future__ import annotations

from collections.abc import Iterator

import orjson
import pytest

from lagar import errors
from lagar.errors import InvalidInput, MethodNotAllowed, ModelFailed, NotReady, Overloaded, RequestError, Unauthorized
from lagar.protocols import native, v2
from lagar.protocols.base import STATUS, error_headers, negotiate, parse_media_type, status_of, timeout_of

JSON, CSV, ARROW = "application/json", "text/csv", "application/vnd.apache.arrow.stream"


def tree(kind: type[RequestError]) -> Iterator[type[RequestError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from tree(below)


def made(kind: type[RequestError]) -> RequestError:
    return kind("no", allow="GET") if kind is MethodNotAllowed else kind("no")  # type: ignore[call-arg]


@pytest.mark.parametrize("kind", [kind for kind in tree(RequestError) if kind.__module__ == errors.__name__])
@pytest.mark.parametrize("protocol", [native, v2])
def test_every_error_of_the_tree_has_a_status_and_a_body(kind: type[RequestError], protocol: object) -> None:
    error = made(kind)
    answer = protocol.error_answer(error, "r-1")  # type: ignore[attr-defined]
    assert answer.status == STATUS[kind.code]
    assert 400 <= answer.status < 600
    body = orjson.loads(answer.body)["error"]
    if protocol is native:
        assert body == {"code": kind.code, "message": "no", "field": None, "row": None, "request_id": "r-1"}
    else:
        assert body.startswith("no")


def test_the_table_has_no_code_that_no_error_bears() -> None:
    assert set(STATUS) == {kind.code for kind in tree(RequestError)} | {errors.LagarError.code}


@pytest.mark.parametrize("error", [ValueError("secret"), errors.LoadFailed("secret"), KeyError("secret")])
def test_what_is_no_error_for_callers_is_a_500_that_tells_nothing(error: Exception) -> None:
    for answer in (native.error_answer(error, "r-1"), v2.error_answer(error, "r-1")):
        assert answer.status == 500
        assert b"secret" not in answer.body
        assert b"r-1" in answer.body


def test_an_error_says_its_field_and_row() -> None:
    body = orjson.loads(native.error_answer(InvalidInput("bad", field="age", row=3), "r-1").body)
    assert body["error"]["field"] == "age"
    assert body["error"]["row"] == 3


@pytest.mark.parametrize(
    ("error", "headers"),
    [
        (Overloaded("full"), {"retry-after": "1"}),
        (Overloaded("full", retry_after_s=2.3), {"retry-after": "3"}),
        (NotReady("loading"), {"retry-after": "5"}),
        (NotReady("loading", retry_after_s=0.01), {"retry-after": "1"}),
        (MethodNotAllowed("no", allow="POST"), {"allow": "POST"}),
        (Unauthorized("no"), {"www-authenticate": 'Bearer realm="lagar"'}),
        (ModelFailed("no"), {}),
        (ValueError("no"), {}),
    ],
)
def test_an_error_carries_its_headers(error: Exception, headers: dict[str, str]) -> None:
    assert dict(error_headers(error)) == headers


def test_a_model_that_failed_is_not_the_callers_mistake() -> None:
    assert status_of(ModelFailed("no")) == 500


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        (None, JSON),
        ("", JSON),
        ("*/*", JSON),
        ("text/csv", CSV),
        ("TEXT/CSV", CSV),
        ("text/*", CSV),
        ("application/*", JSON),
        (ARROW, ARROW),
        ("text/csv, application/json", JSON),
        ("text/csv, application/json;q=0.9", CSV),
        ("text/html, */*;q=0.1", JSON),
        ("application/json;q=0, */*", CSV),
        ("application/json; q=0.2, text/csv; q=0.5", CSV),
        ("text/csv;q=x", CSV),
        ("text/html", None),
        ("application/json;q=0", None),
        (",,", None),
    ],
)
def test_accept_chooses_among_the_offers(accept: str | None, chosen: str | None) -> None:
    assert negotiate(accept, (JSON, CSV, ARROW)) == chosen


@pytest.mark.parametrize(
    ("text", "essence", "charset"),
    [
        ("application/json", "application/json", None),
        ("Application/JSON; Charset=UTF-8", "application/json", "utf-8"),
        ('text/csv;charset="iso-8859-1"; header=present', "text/csv", "iso-8859-1"),
        ("json", "", None),
        ("", "", None),
        ("a/b/c", "", None),
        ("text /csv", "", None),
    ],
)
def test_a_content_type_is_parsed(text: str, essence: str, charset: str | None) -> None:
    media = parse_media_type(text)
    assert (media.essence, media.charset) == (essence, charset)


@pytest.mark.parametrize("value", [1, 0.5, "2", " 2.5 ", "1e3"])
def test_a_timeout_is_a_number_of_seconds(value: object) -> None:
    assert timeout_of(value) == float(str(value))


@pytest.mark.parametrize("value", [0, -1, "0", "x", "", "nan", "inf", True, None, [1], 10**400])
def test_other_timeouts_are_refused(value: object) -> None:
    with pytest.raises(InvalidInput, match="timeout must be"):
        timeout_of(value)
