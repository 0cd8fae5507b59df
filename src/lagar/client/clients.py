"""The two clients of a server: `Client` blocks, `AsyncClient` is awaited; both do what `Operations` says."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Coroutine, Iterable, Mapping
from functools import wraps
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, TypedDict, TypeVar, Unpack, cast
from urllib.parse import urlsplit

import lagar
from lagar import settings
from lagar.client.given import Label
from lagar.client.operations import DEFAULT_URL, Operations
from lagar.client.wire import AsyncWire, BlockingWire, finish
from lagar.errors import SettingsError
from lagar.registry.answers import VersionReport

P = ParamSpec("P")
T = TypeVar("T")


def _blocking(
    operation: Callable[Concatenate[Operations, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[Client, P], T]:
    """An operation as a method that returns when it is done."""

    @wraps(operation)
    def method(self: Client, *args: P.args, **kwargs: P.kwargs) -> T:
        return finish(operation(self._operations, *args, **kwargs))

    return cast("Callable[Concatenate[Client, P], T]", method)


class Client:
    """A Lagar server, asked from Python.

    with Client("http://127.0.0.1:8080") as client:
        client.predict("churn", customers).to_frame()

    `url` defaults to LAGAR_URL and then to this machine's port 8080, `key` to LAGAR_KEY. `timeout` (seconds) is for one
    answer with all its retries; `retries` is how often 429 and 503 are asked again, after the server's Retry-After.
    `verify` is False, or an ssl.SSLContext, for a certificate that this machine does not know. Connections are kept,
    threads may share a client.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        key: str | None = None,
        timeout: float = 30.0,
        retries: int = 4,
        verify: ssl.SSLContext | bool = True,
    ) -> None:
        self.url = base_url(url)
        wire = BlockingWire(self.url, own_headers(key), verify)
        self._operations = Operations(wire, timeout_s=timeout, retries=retries)

    predict = _blocking(Operations.predict)
    ready = _blocking(Operations.ready)
    models = _blocking(Operations.models)
    model = _blocking(Operations.model)
    versions = _blocking(Operations.versions)
    version = _blocking(Operations.version)
    history = _blocking(Operations.history)
    diff = _blocking(Operations.diff)
    generation = _blocking(Operations.generation)
    push = _blocking(Operations.push)
    promote = _blocking(Operations.promote)
    rollback = _blocking(Operations.rollback)
    traffic = _blocking(Operations.traffic)
    alias = _blocking(Operations.alias)
    drop_alias = _blocking(Operations.drop_alias)
    retire = _blocking(Operations.retire)
    gc = _blocking(Operations.gc)
    wait_for = _blocking(Operations.wait_for)

    def close(self) -> None:
        """Close the kept connections."""
        finish(self._operations.wire.close())

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncClient(Operations):
    """The same, awaited; see `Client`."""

    def __init__(
        self,
        url: str | None = None,
        *,
        key: str | None = None,
        timeout: float = 30.0,
        retries: int = 4,
        verify: ssl.SSLContext | bool = True,
    ) -> None:
        self.url = base_url(url)
        super().__init__(AsyncWire(self.url, own_headers(key), verify), timeout_s=timeout, retries=retries)

    async def close(self) -> None:
        """Close the kept connections."""
        await self.wire.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class PushOptions(TypedDict, total=False):
    """What `push` takes beside the name and the path; see `Client.push`."""

    version: Label | None
    example: str | Path | None
    training_data: str | Path | None
    code: Iterable[str | Path]
    metrics: Mapping[str, float] | None
    alias: str | None
    note: str
    requirements: str | Path | None
    compile: settings.Compile | None
    trust: bool
    on_step: Callable[[str, str], None] | None


def push(
    name: str, path: str | Path, *, to: str | None = None, key: str | None = None, **options: Unpack[PushOptions]
) -> VersionReport:
    """Make a version of a model file or folder, in this machine's home or on the server `to`; see `Client.push`.

    Raises Refused with the step, why, and what to do.
    """
    if to is not None:
        with Client(to, key=key) as client:
            return client.push(name, path, **options)
    if key is not None:
        raise SettingsError("a key is for a server: name it with to=URL")
    from lagar.client.local import Local

    with Local() as home:
        return home.push(name, path, **options)


def base_url(url: str | None) -> str:
    """The address of a server without a slash at its end; raises SettingsError for what is none."""
    given = url or settings.client_url() or DEFAULT_URL
    parts = urlsplit(given if isinstance(given, str) else "")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise SettingsError(f"the server must be a URL like {DEFAULT_URL}, got {given!r}")
    return given.rstrip("/")


def own_headers(key: str | None) -> dict[str, str]:
    """What every request of a client carries."""
    given = key or settings.client_key()
    headers = {"user-agent": f"lagar/{lagar.__version__}", "accept": "application/json"}
    return headers | ({"authorization": f"Bearer {given}"} if given else {})
