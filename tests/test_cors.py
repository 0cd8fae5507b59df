"""Which pages of other sites may read answers."""

from __future__ import annotations

from typing import Any

import pytest

from lagar.errors import SettingsError
from lagar.server.cors import Cors
from lagar.settings import ServerSettings, load

SHOP = "https://shop.example"


def cors(**settings: Any) -> Cors:
    return Cors(ServerSettings(**settings))


def asked(origin: str | None, **more: str) -> list[tuple[bytes, bytes]]:
    headers = {name.replace("_", "-"): value for name, value in more.items()}
    if origin is not None:
        headers["origin"] = origin
    return [(name.encode(), value.encode()) for name, value in headers.items()]


def test_without_a_setting_no_page_of_another_site_reads_anything() -> None:
    assert cors().allowed(asked(SHOP)) is None
    assert not cors().on


@pytest.mark.parametrize(
    ("settings", "origin", "allowed"),
    [
        ({"cors_origins": (SHOP,)}, SHOP, True),
        ({"cors_origins": (SHOP,)}, "https://shop.example.evil", False),
        ({"cors_origins": (SHOP,)}, "http://shop.example", False),
        ({"cors_origins": (SHOP,)}, None, False),
        ({"cors_origins": ("*",)}, "https://any.example", True),
        ({"cors_origin_regex": r"https://\w+\.example"}, SHOP, True),
        ({"cors_origin_regex": r"https://\w+\.example"}, "https://a.example.evil", False),
    ],
)
def test_an_origin_is_allowed_as_a_whole(settings: Any, origin: str | None, allowed: bool) -> None:
    assert (cors(**settings).allowed(asked(origin)) is not None) == allowed


def test_a_preflight_is_granted_what_is_set() -> None:
    rule = cors(cors_origins=(SHOP,), cors_methods=("POST",), cors_headers=("Content-Type",), cors_max_age_s=5)
    headers = asked(SHOP, access_control_request_method="POST", access_control_request_headers="content-type")
    assert rule.preflight("OPTIONS", headers, SHOP) == [
        (b"access-control-allow-origin", SHOP.encode()),
        (b"vary", b"origin"),
        (b"access-control-allow-methods", b"POST"),
        (b"access-control-max-age", b"5"),
        (b"access-control-allow-headers", b"Content-Type"),
    ]
    assert rule.preflight("OPTIONS", asked(SHOP, access_control_request_method="PUT"), SHOP) is None
    assert rule.preflight("OPTIONS", asked(SHOP), SHOP) is None
    assert rule.preflight("POST", headers, SHOP) is None


def test_what_is_not_set_is_what_predictions_need() -> None:
    headers = asked(SHOP, access_control_request_method="POST", access_control_request_headers="x-api-key, x-a")
    granted = dict(cors(cors_origins=("*",)).preflight("OPTIONS", headers, SHOP) or [])
    assert granted[b"access-control-allow-origin"] == b"*"
    assert granted[b"access-control-allow-methods"] == b"GET, HEAD, POST"
    assert granted[b"access-control-allow-headers"] == b"x-api-key, x-a"


def test_answers_say_who_may_read_them_and_what() -> None:
    rule = cors(cors_origins=(SHOP,), cors_credentials=True, cors_expose=("X-Request-Id",))
    assert rule.headers(SHOP) == [
        (b"access-control-allow-origin", SHOP.encode()),
        (b"vary", b"origin"),
        (b"access-control-allow-credentials", b"true"),
        (b"access-control-expose-headers", b"X-Request-Id"),
    ]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"cors_origins": ["shop.example"]}, "https://shop.example"),
        ({"cors_origins": ["https://shop.example/page"]}, "without a path"),
        ({"cors_origin_regex": "("}, "regular expression"),
        ({"cors_methods": ["get"]}, "a list of methods"),
        ({"cors_headers": ["a b"]}, "a list of header names"),
        ({"cors_origins": ["*"], "cors_credentials": True}, "must name the origins"),
        ({"cors_max_age_s": -1}, "below 0"),
        ({"compress_answers_bytes": -1}, "below 0"),
    ],
)
def test_a_setting_that_cannot_be_meant_is_refused(settings: Any, words: str, tmp_path: Any) -> None:
    with pytest.raises(SettingsError, match=words):
        load(settings, {"LAGAR_HOME": str(tmp_path)})
