"""Who may do what: API keys as the workers know them, and the one table that says which route needs which scope.

Every route is closed unless it stands in `ROUTES`: an unknown path, a path written another way (double slash, dot
segment, double encoding, other case) and a new route that nobody listed all need `admin`.

Keys are presented as `Authorization: Bearer KEY`, `X-Api-Key: KEY`, or, for a browser, as the password of
`Authorization: Basic` (any user name).
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

from lagar.errors import Forbidden, Unauthorized
from lagar.registry.secret import Scope, digest_of, split_key
from lagar.server.channel import KeyRow
from lagar.settings import ServerSettings, is_loopback

if TYPE_CHECKING:  # the catalog's side of keys brings SQLAlchemy
    from lagar.registry.keys import Key

Headers = Iterable[tuple[bytes, bytes]]
"""As ASGI has them; names in any case."""

CHALLENGE: Final = b'Bearer realm="lagar"'
BASIC_CHALLENGE: Final = b'Basic realm="lagar: any user name, an API key as the password", charset="UTF-8"'

_ANY: Final = frozenset({"*"})
_LOOK: Final = frozenset({"GET", "HEAD"})
_POST: Final = frozenset({"POST"})

ROUTES: Final[tuple[tuple[frozenset[str], str, Scope | None], ...]] = (
    # methods, path ({} one segment, {**} one or more), scope: None is open
    (_LOOK, "/healthz", None),
    (_LOOK, "/readyz", None),
    (_LOOK, "/health", None),
    (_LOOK, "/ping", None),
    (_LOOK, "/v2/health/{}", None),
    (_LOOK, "/v2/models/{}/ready", None),
    (_LOOK, "/v2/models/{}/versions/{}/ready", None),
    # predictions: whatever the method, so that a wrong one is told 405 and not "admin needed"
    (_ANY, "/predict", "infer"),
    (_ANY, "/models/{}/predict", "infer"),
    (_ANY, "/models/{}/versions/{}/predict", "infer"),
    (_ANY, "/v2/models/{}/infer", "infer"),
    (_ANY, "/v2/models/{}/versions/{}/infer", "infer"),
    (_ANY, "/invocations", "infer"),
    (_ANY, "/v1/models/{}:predict", "infer"),
    (_ANY, "/v1/models/{}/versions/{}:predict", "infer"),
    (_LOOK, "/v1/models/{}", None),  # whether it is ready; below its own predictions, which it would match
    # outcomes
    (_POST, "/outcomes", "feedback"),
    (_POST, "/models/{}/outcomes", "feedback"),
    (_POST, "/models/{}/versions/{}/outcomes", "feedback"),
    # pages, documentation, metadata, metrics
    (_LOOK, "/", "read"),
    (_LOOK, "/docs", "read"),
    (_LOOK, "/docs/{**}", "read"),
    (_LOOK, "/openapi.json", "read"),
    (_LOOK, "/static/{**}", "read"),
    (_LOOK, "/favicon.ico", "read"),
    (_LOOK, "/metrics", "read"),
    (_LOOK, "/example", "read"),
    (_LOOK, "/version", "read"),
    (_LOOK, "/v1/models", "read"),
    (_LOOK, "/models", "read"),
    (_LOOK, "/models/{}", "read"),
    (_LOOK, "/models/{}/example", "read"),
    (_LOOK, "/models/{}/versions", "read"),
    (_LOOK, "/models/{}/versions/{}", "read"),
    (_LOOK, "/models/{}/versions/{}/example", "read"),
    (_LOOK, "/api/models", "read"),
    (_LOOK, "/api/models/{}", "read"),
    (_LOOK, "/api/models/{}/versions", "read"),
    (_LOOK, "/api/models/{}/versions/{}", "read"),
    (_LOOK, "/api/models/{}/traffic", "read"),
    (_LOOK, "/api/models/{}/aliases", "read"),
    (_LOOK, "/api/models/{}/history", "read"),
    (_LOOK, "/api/models/{}/diff", "read"),
    (_LOOK, "/api/generations/{}", "read"),
    (_LOOK, "/v2", "read"),
    (_LOOK, "/v2/models", "read"),
    (_LOOK, "/v2/models/{}", "read"),
    (_LOOK, "/v2/models/{}/versions/{}", "read"),
    (_LOOK, "/v2/models/{}/config", "read"),
    (_LOOK, "/v2/models/{}/versions/{}/config", "read"),
    (_LOOK, "/v2/models/{}/stats", "read"),
    (_LOOK, "/v2/models/{}/versions/{}/stats", "read"),
    (_LOOK, "/v2/docs", "read"),
    (_LOOK, "/v2/docs/dataplane.json", "read"),
    (_LOOK, "/v2/models/{}/docs", "read"),
    (_LOOK, "/v2/models/{}/docs/dataplane.json", "read"),
    (_LOOK, "/v2/models/{}/versions/{}/docs", "read"),
    (_LOOK, "/v2/models/{}/versions/{}/docs/dataplane.json", "read"),
    (_POST, "/v2/repository/index", "read"),
    # changes of what is stored and of what is live
    (_POST, "/api/models/{}/versions", "admin"),
    (frozenset({"POST", "DELETE"}), "/api/models/{}/versions/{}/retire", "admin"),
    (_POST, "/api/models/{}/promote", "admin"),
    (_POST, "/api/models/{}/rollback", "admin"),
    (frozenset({"PUT"}), "/api/models/{}/traffic", "admin"),
    (frozenset({"PUT", "DELETE"}), "/api/models/{}/aliases/{}", "admin"),
    (_POST, "/api/gc", "admin"),
    (_POST, "/v2/repository/models/{}/load", "admin"),
    (_POST, "/v2/repository/models/{}/unload", "admin"),
)


def _compiled(pattern: str) -> re.Pattern[str]:
    escaped = re.escape(pattern).replace(re.escape("{**}"), "[^/]+(?:/[^/]+)*").replace(re.escape("{}"), "[^/]+")
    return re.compile(escaped)


_TABLE: Final = tuple((methods, _compiled(pattern), scope) for methods, pattern, scope in ROUTES)
_UNCLEAN: Final = re.compile(r"[\x00-\x1f\x7f\\]|//|/\.{1,2}(?:/|$)")
"""In a decoded path: what a proxy, a router or a file system might read another way than we do."""
_NEEDLESS: Final = re.compile(
    r"%(?:[01][0-9A-Fa-f]|2[5DEFdef]|3[0-9]|[46][1-9A-Fa-f]|[57][0-9Aa]|5[CFcf]|7[EFef]|(?![0-9A-Fa-f]{2}))"
)
"""Encoded, though they need not be, or must not be: letters, digits, `-._~/\\%` and control characters; and a `%` that
encodes nothing. Who decodes twice, or not at all, would read another path."""


def scope_for(method: str, path: str) -> Scope | None:
    """The scope that a request needs; None when it is open to everyone.

    `path` is without query and root path, percent-encoded or decoded once; one trailing slash is ignored. Whatever is
    not in `ROUTES`, or is not written plainly, needs "admin".
    """
    clean = plain_path(path)
    if clean is None:
        return "admin"
    return _listed(method, clean, default="admin")


def is_change(method: str, path: str) -> bool:
    """Whether a request changes what is stored or live: a listed one that needs "admin"."""
    clean = plain_path(path)
    return clean is not None and _listed(method, clean, default=None) == "admin"


def _listed(method: str, clean: str, *, default: Scope | None) -> Scope | None:
    for methods, pattern, scope in _TABLE:
        if pattern.fullmatch(clean) and ("*" in methods or method in methods):
            return scope
    return default


def plain_path(path: str) -> str | None:
    """The path decoded once and without a trailing slash; None when it could be read in more than one way."""
    if not path.startswith("/"):
        return None
    if "%" in path:
        if _NEEDLESS.search(path):
            return None
        try:
            path = unquote(path, errors="strict")
        except UnicodeDecodeError:
            return None
    if _UNCLEAN.search(path):
        return None
    return path[:-1] if len(path) > 1 and path.endswith("/") else path


def presented_key(headers: Headers, *, basic: bool = True) -> str | None:
    """The key that a request carries, None without one; several that differ, or an unreadable one: Unauthorized.

    `basic` is False for requests that change something: a browser sends Basic credentials by itself, to whatever page
    of another site makes it ask.
    """
    found: str | None = None
    for name, value in headers:
        size = len(name)
        if size == 13 and name.lower() == b"authorization":
            key = _from_authorization(value, basic=basic)
        elif size == 9 and name.lower() == b"x-api-key":
            key = value.strip().decode("latin-1")
        else:
            continue
        if found is not None and not hmac.compare_digest(found.encode(), key.encode()):
            raise Unauthorized("the request carries two different API keys: send one, as Authorization or as X-Api-Key")
        found = key
    return found


def _from_authorization(value: bytes, *, basic: bool) -> str:
    scheme, _, credentials = value.strip().partition(b" ")
    kind = scheme.lower()
    if kind == b"bearer":
        return credentials.strip().decode("latin-1")
    if kind == b"basic":
        if not basic:
            raise Unauthorized(
                "Basic credentials only open pages: send a key with scope 'infer' (predictions) or 'admin' (changes) "
                "as Authorization: Bearer KEY"
            )
        try:
            decoded = base64.b64decode(credentials.strip(), validate=True)
        except (binascii.Error, ValueError):
            raise Unauthorized("the Basic credentials in Authorization are not base64 of USER:KEY") from None
        return decoded.partition(b":")[2].decode("latin-1")
    raise Unauthorized("Authorization must be 'Bearer KEY', or 'Basic' with the API key as the password")


class KeyTable:
    """The keys of a server, checked without a catalog: looked up by id, compared by digest in constant time."""

    def __init__(self, rows: Iterable[KeyRow], *, clock: Callable[[], float] = time.time) -> None:
        self._rows = {row.id: row for row in rows}
        self._clock = clock

    def __len__(self) -> int:
        return len(self._rows)

    def check(self, presented: str | None, scope: str) -> str:
        """The id of the presented key, when it is valid and has the scope.

        Raises Unauthorized (401) when it is missing, malformed, unknown, revoked or expired, and Forbidden (403),
        which names the scope needed, when it is valid and lacks it. `admin` has every scope.
        """
        if presented is None:
            raise Unauthorized(
                f"this needs an API key with scope '{scope}': send Authorization: Bearer KEY or X-Api-Key: KEY"
            )
        key_id, secret = split_key(presented) or ("", "")
        row = self._rows.get(key_id, _NOBODY)
        # an unknown id costs one digest and one comparison too
        same = hmac.compare_digest(digest_of(secret), row.digest)
        if not same or row is _NOBODY:
            raise Unauthorized("the API key is not known to this server: see `lagar keys list`, or create another")
        if row.expires_at is not None and row.expires_at <= self._clock():
            raise Unauthorized(f"the API key '{key_id}' has expired or was revoked: create another")
        if scope not in row.scopes and "admin" not in row.scopes:
            raise Forbidden(
                f"this needs an API key with scope '{scope}'; key '{key_id}' has {', '.join(row.scopes) or 'none'}"
            )
        return row.id


_NOBODY: Final = KeyRow(id="", digest="0" * 64, scopes=())


class Gate:
    """What a worker asks before it answers: is authentication on, which scope, does the key have it.

    It is on wherever keys exist (revoked ones too: the last revocation must not open a server), and on every address
    that is not loopback; it is off on loopback without keys, and with `no_auth`. Changes of what is stored or live want
    a key on loopback too: every page in a browser and every user of the machine can send a request there, and a pushed
    version may bring code of its own.
    """

    def __init__(
        self, settings: ServerSettings, rows: Iterable[KeyRow] = (), *, clock: Callable[[], float] = time.time
    ) -> None:
        self._off = settings.no_auth
        self._loopback = is_loopback(settings.host)
        self._clock = clock
        self.update(rows)

    def update(self, rows: Iterable[KeyRow]) -> None:
        """Take the keys that are valid from now on."""
        self._keys = KeyTable(rows, clock=self._clock)
        self.on = not self._off and (len(self._keys) > 0 or not self._loopback)

    def check(self, method: str, path: str, headers: Headers) -> str | None:
        """The id of the key with which a request may go on, None where it needs none; arguments as for `scope_for`.

        Raises Unauthorized or Forbidden.
        """
        if not self.on:
            if is_change(method, path):
                self._check_change(headers)
            return None
        scope = scope_for(method, path)
        return None if scope is None else self._keys.check(presented_key(headers, basic=method in _LOOK), scope)

    def _check_change(self, headers: Headers) -> None:
        """A change where predictions need no key: with `no_auth`, and from no page of another site."""
        if not self._off:
            raise Unauthorized(
                "changes over HTTP need an API key, even where nothing else does: create one with `lagar keys "
                "create --name NAME --scope admin`, or on the server's machine run the command without --to"
            )
        told = {name.lower(): value for name, value in headers}
        origin, host = told.get(b"origin"), told.get(b"host", b"")
        site = told.get(b"sec-fetch-site", b"same-origin")
        if site not in (b"same-origin", b"none") or (origin is not None and origin.partition(b"://")[2] != host):
            raise Forbidden("this change was asked for by a page of another site: use a command, or an API key")

    def check_prediction(self, headers: Headers) -> None:
        """The same for the POST of a prediction path, which the fast lane knows already."""
        if self.on:
            self._keys.check(presented_key(headers, basic=False), "infer")


def challenges(path: str, accept: str = "") -> tuple[bytes, ...]:
    """The WWW-Authenticate headers of a 401: Bearer, and Basic too where a browser asks for a page or its files.

    Nothing else asks for Basic: a browser would open its password box on top of a failed call from a page's own script.
    """
    wants_page = ("text/html" in accept or path.startswith("/static/")) and scope_for("GET", path) == "read"
    return (CHALLENGE, BASIC_CHALLENGE) if wants_page else (CHALLENGE,)


def has_valid(rows: Iterable[KeyRow], now: float | None = None) -> bool:
    """Whether any of the keys opens anything: what `settings.require_auth` asks."""
    moment = time.time() if now is None else now
    return any(row.expires_at is None or row.expires_at > moment for row in rows)


def key_rows(keys: Iterable[Key]) -> tuple[KeyRow, ...]:
    """What the workers are told of the catalog's keys; a revoked one travels as expired, so that it is still named."""
    return tuple(
        KeyRow(
            id=key.id,
            digest=key.digest,
            scopes=key.scopes,
            expires_at=key.expires_at if key.revoked_at is None else 0.0,
        )
        for key in keys
    )
