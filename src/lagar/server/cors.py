"""Cross-origin requests: which pages of other sites may read the answers; none unless a setting names them.

A preflight is answered here, before any key is asked for: a browser sends none with it. Everything else about who may
do what stays as it is.
Source: https://fetch.spec.whatwg.org/#http-cors-protocol
"""

from __future__ import annotations

import re
from typing import Any

from lagar.server.exchange import Message, Send
from lagar.settings import ServerSettings

Headers = list[tuple[bytes, bytes]]

_ANY = "*"
_METHODS = ("GET", "HEAD", "POST")


class Cors:
    """The rule of one server."""

    def __init__(self, settings: ServerSettings) -> None:
        self._origins = frozenset(settings.cors_origins)
        self._pattern = re.compile(settings.cors_origin_regex) if settings.cors_origin_regex else None
        self._settings = settings
        self.on = bool(self._origins or self._pattern)

    def allowed(self, headers: list[tuple[bytes, bytes]]) -> str | None:
        """The origin of a request, if its page may read the answer."""
        if not self.on:
            return None
        origin = _told(headers, b"origin")
        if origin is None:
            return None
        if _ANY in self._origins or origin in self._origins:
            return origin
        return origin if self._pattern is not None and self._pattern.fullmatch(origin) else None

    def preflight(self, method: str, headers: list[tuple[bytes, bytes]], origin: str) -> Headers | None:
        """The headers of the answer to a preflight; None for any other request, and for a method that is not granted.

        The browser holds the headers that it was granted against those that it wants to send.
        """
        wanted = _told(headers, b"access-control-request-method")
        if method != "OPTIONS" or wanted is None:
            return None
        methods, names = self._settings.cors_methods or _METHODS, self._settings.cors_headers or (_ANY,)
        if _ANY not in methods and wanted not in methods:
            return None
        asked = _told(headers, b"access-control-request-headers") or ""
        answer = [
            *self.headers(origin),
            (b"access-control-allow-methods", (wanted if _ANY in methods else ", ".join(methods)).encode("latin-1")),
            (b"access-control-max-age", b"%d" % self._settings.cors_max_age_s),
        ]
        granted = asked if _ANY in names else ", ".join(names)
        if granted:
            answer.append((b"access-control-allow-headers", granted.encode("latin-1")))
        return answer

    def headers(self, origin: str) -> Headers:
        """What lets a page of that origin read an answer."""
        settings = self._settings
        # A wildcard is no word for answers to requests with credentials.
        every = _ANY in self._origins and not settings.cors_credentials
        answer = [(b"access-control-allow-origin", b"*" if every else origin.encode("latin-1"))]
        if not every:
            answer.append((b"vary", b"origin"))
        if settings.cors_credentials:
            answer.append((b"access-control-allow-credentials", b"true"))
        if settings.cors_expose:
            answer.append((b"access-control-expose-headers", ", ".join(settings.cors_expose).encode("latin-1")))
        return answer

    def sending(self, send: Send, origin: str) -> Send:
        """An ASGI send that adds the headers to the answer."""
        more = self.headers(origin)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *more]}
            await send(message)

        return send_with_headers


def _told(headers: Any, name: bytes) -> str | None:
    return next((value.decode("latin-1") for key, value in headers if key == name), None)
