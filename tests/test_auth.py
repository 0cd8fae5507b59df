from __future__ import annotations

import base64
import subprocess
import sys
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lagar.errors import Forbidden, Unauthorized
from lagar.registry.secret import digest_of, new_key, split_key, write_key
from lagar.server import auth
from lagar.server.auth import Gate, KeyTable, challenges, presented_key, scope_for
from lagar.server.channel import KeyRow
from lagar.settings import ServerSettings


def row(key_id: str = "abc", secret: str = "s3cret", *scopes: str, expires_at: float | None = None) -> KeyRow:
    return KeyRow(id=key_id, digest=digest_of(secret), scopes=scopes or ("infer",), expires_at=expires_at)


def basic(user: str, key: str) -> bytes:
    return b"Basic " + base64.b64encode(f"{user}:{key}".encode())


OPEN = [
    "/healthz", "/readyz", "/health", "/ping", "/v2/health/live", "/v2/health/ready", "/v2/models/wine/ready",
    "/v2/models/wine/versions/1/ready",
]  # fmt: skip
INFER = [
    "/predict", "/models/wine/predict", "/models/wine/versions/1/predict", "/v2/models/wine/infer",
    "/v2/models/wine/versions/1/infer", "/v1/models/wine:predict", "/invocations",
]  # fmt: skip
READ = [
    "/", "/docs", "/openapi.json", "/metrics", "/models", "/models/wine", "/models/wine/versions/1", "/example",
    "/models/wine/example", "/models/wine/versions/1/example", "/static/page.js", "/static/swagger/ui.css", "/v2",
    "/v2/models/wine", "/v2/models/wine/versions/1", "/api/models", "/api/models/wine/versions/1", "/api/generations/7",
]  # fmt: skip
ADMIN = [
    "/api/keys", "/api/models/wine/promote",
    "/anything", "/v2/repository/index", "/v2/health", "/v2/health/a/b", "/healthz2",
    "/models/wine/versions/1/predict/x", "/static", "/metrics/x", "/v1/models/wine/explain", "/admin", "*", "",
]  # fmt: skip


@pytest.mark.parametrize(
    ("paths", "scope"), [(OPEN, None), (INFER, "infer"), (READ, "read"), (ADMIN, "admin")], ids=["open", *"ira"]
)
def test_each_path_needs_its_scope(paths: list[str], scope: str | None) -> None:
    for path in paths:
        method = "POST" if scope == "infer" else "GET"
        assert scope_for(method, path) == scope, path


CHANGES = [
    ("POST", "/api/models/wine/versions"), ("POST", "/api/models/wine/promote"), ("POST", "/api/gc"),
    ("PUT", "/api/models/wine/traffic"), ("DELETE", "/api/models/wine/aliases/champion"),
    ("DELETE", "/api/models/wine/versions/1/retire"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path"), CHANGES)
def test_a_change_needs_a_key_even_where_nothing_else_does(method: str, path: str) -> None:
    gate = Gate(ServerSettings())
    assert not gate.on
    gate.check("GET", "/api/models", [])
    with pytest.raises(Unauthorized, match="lagar keys create --name NAME --scope admin"):
        gate.check(method, path, [])
    Gate(ServerSettings(no_auth=True)).check(method, path, [])


@pytest.mark.parametrize(
    ("headers", "open_"),
    [
        ([], True),
        ([(b"host", b"ml:8080"), (b"origin", b"http://ml:8080"), (b"sec-fetch-site", b"same-origin")], True),
        ([(b"host", b"ml:8080"), (b"origin", b"http://ml:8080")], True),
        ([(b"host", b"ml:8080"), (b"origin", b"http://evil.example")], False),
        ([(b"host", b"ml:8080"), (b"origin", b"null")], False),
        ([(b"host", b"ml:8080"), (b"sec-fetch-site", b"cross-site")], False),
        ([(b"host", b"ml:8080"), (b"sec-fetch-site", b"same-site")], False),
    ],
)
def test_a_page_of_another_site_changes_nothing_on_a_server_without_keys(
    headers: list[tuple[bytes, bytes]], open_: bool
) -> None:
    gate = Gate(ServerSettings(no_auth=True))
    gate.check("GET", "/api/models", headers)
    if open_:
        gate.check("POST", "/api/models/wine/promote", headers)
    else:
        with pytest.raises(Forbidden, match="another site"):
            gate.check("POST", "/api/models/wine/promote", headers)


def test_outcomes_need_feedback() -> None:
    assert scope_for("POST", "/models/wine/outcomes") == "feedback"
    assert scope_for("DELETE", "/models/wine/outcomes") == "admin"


def test_another_method_on_a_readable_path_needs_admin() -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "get"):
        assert scope_for(method, "/models/wine") == "admin"
        assert scope_for(method, "/healthz") == "admin"
    assert scope_for("HEAD", "/healthz") is None


def test_a_wrong_method_on_a_prediction_still_needs_infer_so_that_it_is_answered_405() -> None:
    assert scope_for("GET", "/predict") == "infer"


@pytest.mark.parametrize(
    "path",
    [
        "//healthz", "/healthz//", "/./healthz", "/healthz/.", "/healthz/..", "/metrics/../healthz", "/v2//health/live",
        "/HEALTHZ", "/Healthz", "/%68ealthz", "/%2568ealthz", "/healthz%2f", "/%2e/healthz", "/v2/health/%2e%2e",
        "/v2/health/..%2fmodels", "/v2/models/x%2Fready", "/v2/models/x%252Fready",
        "/v2/models/..%2f..%2fmetrics/ready",
        "/healthz;x=1", "/healthz%00", "/healthz\x00", "/healthz%0a", "\\healthz", "/\\healthz", "/v2\\health\\live",
        "/%5chealthz", "healthz", "http://host/healthz", "/healthz?x", "/healthz#x", " /healthz", "/healthz ",
        "/v2/models/a%c3/ready", "/v2/health/%%32%65", "/v2/models//ready", "/v2/models/./ready",
        "/v2/models/%2E/ready",
        "/metrics%2F..%2Fhealthz", "/healthz/x", "/static/../metrics", "/static/%2e%2e/metrics", "/static//x",
        "/v2/health/%live",
        "/v2/health/live%", "/v2/health/%2",
    ],
)  # fmt: skip
def test_a_path_written_another_way_is_closed(path: str) -> None:
    assert scope_for("GET", path) == "admin"


def test_one_trailing_slash_changes_nothing() -> None:
    assert scope_for("GET", "/healthz/") is None
    assert scope_for("POST", "/predict/") == "infer"
    assert scope_for("GET", "/metrics/") == "read"


@pytest.mark.parametrize("name", ["maçã", "my model", "a+b", "modèle:1", "日本"])
def test_names_that_need_encoding_are_the_same_encoded_and_decoded(name: str) -> None:
    for written in (name, quote(name)):
        assert scope_for("POST", f"/models/{written}/predict") == "infer"
        assert scope_for("GET", f"/models/{written}") == "read"


PLAIN = [path for paths in (OPEN, INFER, READ) for path in paths]


@given(st.sampled_from(PLAIN), st.integers(0, 60), st.sampled_from("/.%\\;?#\x00 A~2e5cf0"), st.booleans())
def test_no_single_character_added_anywhere_opens_a_path(path: str, at: int, extra: str, double: bool) -> None:
    changed = path[:at] + extra * (1 + double) + path[at:]
    if scope_for("GET", changed) is None:
        clean = changed.rstrip("/")
        assert clean in OPEN or clean.startswith(("/v2/health/", "/v2/models/", "/v1/models/"))
        assert "//" not in changed
        assert "%" not in changed


@given(st.text(max_size=60))
def test_any_text_as_a_path_has_a_scope(path: str) -> None:
    assert scope_for("GET", path) in (None, "admin", "read", "infer", "feedback")
    assert scope_for("GET", "/secret" + path.replace("/", "")) == "admin"


def test_a_key_with_the_scope_is_let_through() -> None:
    KeyTable([row("abc", "s3cret", "infer", "read")]).check("lagar_abc_s3cret", "read")


def test_admin_has_every_scope_and_read_only_its_own() -> None:
    table = KeyTable([row("abc", "s3cret", "admin"), row("r", "s3cret", "read")])
    for scope in ("infer", "feedback", "read", "admin"):
        table.check("lagar_abc_s3cret", scope)
    with pytest.raises(Forbidden, match="needs an API key with scope 'infer'; key 'r' has read"):
        table.check("lagar_r_s3cret", "infer")


@pytest.mark.parametrize(
    "presented",
    [None, "", "lagar_abc_wrong", "lagar_abc_", "lagar_abc", "lagar__s3cret", "abc_s3cret", "LAGAR_abc_s3cret",
     "lagar_ABC_s3cret", "lagar_nobody_s3cret", "lagar_abc_s3cret ", "lagar_abc_s3cret_", "x" * 10_000,
     "lagar_abc_" + digest_of("s3cret"), "lagar_é_ÿ", "lagar__"],
)  # fmt: skip
def test_anything_but_the_key_is_unauthorized(presented: str | None) -> None:
    with pytest.raises(Unauthorized) as caught:
        KeyTable([row()]).check(presented, "infer")
    assert "s3cret" not in str(caught.value)


def test_the_message_for_an_unknown_id_and_a_wrong_secret_is_the_same() -> None:
    messages = set()
    for presented in ("lagar_nobody_s3cret", "lagar_abc_wrong"):
        with pytest.raises(Unauthorized) as caught:
            KeyTable([row()]).check(presented, "infer")
        messages.add(str(caught.value))
    assert len(messages) == 1


def test_a_key_ends_when_it_expires() -> None:
    now = 1000.0
    table = KeyTable([row(expires_at=1001.0)], clock=lambda: now)
    table.check("lagar_abc_s3cret", "infer")
    now = 1001.0
    with pytest.raises(Unauthorized, match="expired or was revoked"):
        table.check("lagar_abc_s3cret", "infer")


def test_an_expired_key_with_a_wrong_secret_is_not_said_to_be_expired() -> None:
    with pytest.raises(Unauthorized, match="not known"):
        KeyTable([row(expires_at=0.0)]).check("lagar_abc_wrong", "infer")


def test_a_key_is_presented_as_bearer_api_key_or_password() -> None:
    assert presented_key([(b"authorization", b"Bearer lagar_a_b")]) == "lagar_a_b"
    assert presented_key([(b"Authorization", b"bearer   lagar_a_b ")]) == "lagar_a_b"
    assert presented_key([(b"x-api-key", b" lagar_a_b")]) == "lagar_a_b"
    assert presented_key([(b"authorization", basic("me", "lagar_a_b"))]) == "lagar_a_b"
    assert presented_key([(b"authorization", basic("", "lagar_a_b"))]) == "lagar_a_b"
    assert presented_key([(b"accept", b"*/*")]) is None


def test_two_keys_are_refused_unless_they_are_the_same() -> None:
    same = [(b"authorization", b"Bearer lagar_a_b"), (b"x-api-key", b"lagar_a_b")]
    assert presented_key(same) == "lagar_a_b"
    for other in ((b"x-api-key", b"lagar_a_c"), (b"authorization", b"Bearer lagar_a_c"), (b"x-api-key", b"")):
        with pytest.raises(Unauthorized, match="two different API keys"):
            presented_key([(b"authorization", b"Bearer lagar_a_b"), other])


@pytest.mark.parametrize("value", [b"Digest x", b"Basic !!!", b"lagar_a_b", b"", b"Basic \xff"])
def test_an_authorization_of_another_kind_is_refused(value: bytes) -> None:
    with pytest.raises(Unauthorized):
        presented_key([(b"authorization", value)])


def test_without_keys_loopback_is_open_and_other_addresses_are_closed() -> None:
    Gate(ServerSettings()).check("DELETE", "/anything", [])
    with pytest.raises(Unauthorized):
        Gate(ServerSettings(host="0.0.0.0")).check("POST", "/predict", [])
    Gate(ServerSettings(host="0.0.0.0")).check("GET", "/healthz", [])
    Gate(ServerSettings(host="0.0.0.0", no_auth=True), [row()]).check("POST", "/predict", [])


def test_keys_close_loopback_too() -> None:
    gate = Gate(ServerSettings(), [row()])
    with pytest.raises(Unauthorized):
        gate.check("POST", "/predict", [])
    gate.check("POST", "/predict", [(b"x-api-key", b"lagar_abc_s3cret")])
    with pytest.raises(Forbidden):
        gate.check("GET", "/metrics", [(b"x-api-key", b"lagar_abc_s3cret")])
    gate.check("GET", "/readyz", [(b"x-api-key", b"nonsense")])


def test_a_gate_takes_new_keys_at_once() -> None:
    gate = Gate(ServerSettings())
    assert not gate.on
    gate.update([row()])
    with pytest.raises(Unauthorized):
        gate.check("POST", "/predict", [])
    gate.update([row(expires_at=0.0)])  # revoked: it closes, though nothing opens it any more
    with pytest.raises(Unauthorized, match="revoked"):
        gate.check("POST", "/predict", [(b"x-api-key", b"lagar_abc_s3cret")])


def test_only_a_page_in_a_browser_is_asked_for_a_password() -> None:
    html = "text/html,application/xhtml+xml"
    assert challenges("/", html) == (auth.CHALLENGE, auth.BASIC_CHALLENGE)
    assert challenges("/docs", html)[1].startswith(b"Basic ")
    assert challenges("/", "application/json") == (auth.CHALLENGE,)
    assert challenges("/predict", html) == (auth.CHALLENGE,)


def test_new_keys_differ_and_read_back() -> None:
    made = {new_key() for _ in range(200)}
    assert len(made) == 200
    for key_id, secret in made:
        assert split_key(write_key(key_id, secret)) == (key_id, secret)
        assert (key_id + secret).isalnum()


def test_the_gate_brings_no_database_and_no_web_framework() -> None:
    script = "import sys, lagar.server.auth; print([m for m in sys.modules if m in %r])"
    heavy = ("sqlalchemy", "alembic", "fastapi", "numpy", "pyarrow", "typer", "pydantic", "sqlite3")
    done = subprocess.run([sys.executable, "-c", script % (heavy,)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_basic_credentials_open_pages_but_change_nothing() -> None:
    with pytest.raises(Unauthorized, match="Bearer"):
        presented_key([(b"authorization", basic("me", "lagar_a_b"))], basic=False)
