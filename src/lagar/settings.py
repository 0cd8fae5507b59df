"""Settings: read once, at the edge, into frozen typed objects.

Order of precedence: flag, `LAGAR_*` variable, `$LAGAR_HOME/server.toml`, default. `os.environ` appears here only.
"""

from __future__ import annotations

from typing import Literal

import msgspec


class ServerSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a server runs with; the same object goes to every one of its processes."""

    host: str = "127.0.0.1"
    port: int = 8080
    """0 takes any free port; the ready line says which."""
    workers: int = 0
    """0: as many as the cgroup quota gives cores."""
    root_path: str = ""
    """Prefix under which a proxy publishes the server: "/mlapi"; requests are answered with and without it."""
    tls_cert: str | None = None
    tls_key: str | None = None
    debug: bool = False
    no_auth: bool = False
    log_format: Literal["console", "json"] = "console"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    trusted_proxies: tuple[str, ...] = ()
    """Addresses and networks whose X-Forwarded-* headers are believed."""
    fast_lane: bool = True
    """False: every request takes the ASGI lane."""
    max_body_bytes: int = 64 * 1024 * 1024
    max_header_bytes: int = 32 * 1024
    max_rows: int = 100_000
    """Rows in one request."""
    queue_rows: int = 200_000
    """Rows that may wait per model, over all workers."""
    request_timeout_s: float = 30.0
    """Deadline of a prediction from its last byte to its answer; a caller may ask for less."""
    header_timeout_s: float = 10.0
    body_timeout_s: float = 30.0
    write_timeout_s: float = 30.0
    keep_alive_timeout_s: float = 75.0
    drain_timeout_s: float = 30.0
    max_connections: int = 10_000
    """Open connections per worker."""
