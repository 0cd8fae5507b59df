"""HTTP for the clients: one set of calls, blocking or not.

Both are written as coroutines. Those of `BlockingWire` never wait for an event loop, so `finish` runs one to its end
where there is none: everything above this module is written once.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Coroutine, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Protocol, TypeVar

import httpx
import msgspec

from lagar.errors import DeadlineExceeded, Unreachable

T = TypeVar("T")
CONNECT_TIMEOUT_S = 10.0
UPLOAD_WRITE_TIMEOUT_S = 60.0


class Reply(msgspec.Struct, frozen=True):
    """A whole answer; the names of headers are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


class Lost(Exception):
    """The connection ended before the answer: the request may or may not have been done."""


class Streamed(Protocol):
    """An answer whose lines are read as they come."""

    status: int
    headers: dict[str, str]

    def lines(self) -> AsyncIterator[bytes]: ...
    async def body(self) -> bytes: ...


class Wire(Protocol):
    """What the operations of a client need."""

    async def send(
        self, method: str, path: str, *, headers: Mapping[str, str], body: bytes | None, timeout_s: float
    ) -> Reply:
        """One request; raises Unreachable, DeadlineExceeded and Lost."""
        ...

    def upload(
        self, path: str, *, headers: Mapping[str, str], pieces: Iterable[bytes]
    ) -> AbstractAsyncContextManager[Streamed]:
        """One POST whose body is made while it is sent."""
        ...

    async def pause(self, seconds: float) -> None: ...
    async def close(self) -> None: ...


def finish(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that waits for no event loop."""
    try:
        work.send(None)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]
    work.close()
    raise RuntimeError("a blocking client has met an event loop")


class BlockingWire:
    """Over `httpx.Client`: connections are kept; threads may share it."""

    def __init__(self, url: str, headers: Mapping[str, str], verify: ssl.SSLContext | bool) -> None:
        self._url = url
        self._http = httpx.Client(base_url=url, headers=headers, verify=verify, timeout=CONNECT_TIMEOUT_S)

    async def send(
        self, method: str, path: str, *, headers: Mapping[str, str], body: bytes | None, timeout_s: float
    ) -> Reply:
        limits = _limits(timeout_s)
        try:
            answer = self._http.request(method, path, headers=headers, content=body, timeout=limits)
        except httpx.HTTPError as error:
            raise _explained(error, self._url, timeout_s) from None
        return Reply(answer.status_code, dict(answer.headers), answer.content)

    @asynccontextmanager
    async def upload(
        self, path: str, *, headers: Mapping[str, str], pieces: Iterable[bytes]
    ) -> AsyncIterator[Streamed]:
        try:
            with self._http.stream("POST", path, headers=headers, content=pieces, timeout=_UPLOAD) as answer:
                yield _BlockingStream(answer)
        except httpx.HTTPError as error:
            raise _explained(error, self._url, UPLOAD_WRITE_TIMEOUT_S) from None

    async def pause(self, seconds: float) -> None:
        time.sleep(seconds)  # noqa: ASYNC251 - no event loop waits for this coroutine

    async def close(self) -> None:
        self._http.close()


class _BlockingStream:
    def __init__(self, answer: httpx.Response) -> None:
        self._answer = answer
        self.status = answer.status_code
        self.headers = dict(answer.headers)

    async def lines(self) -> AsyncIterator[bytes]:
        for line in self._answer.iter_lines():
            yield line.encode()

    async def body(self) -> bytes:
        return self._answer.read()


class AsyncWire:
    """Over `httpx.AsyncClient`."""

    def __init__(self, url: str, headers: Mapping[str, str], verify: ssl.SSLContext | bool) -> None:
        self._url = url
        self._http = httpx.AsyncClient(base_url=url, headers=headers, verify=verify, timeout=CONNECT_TIMEOUT_S)

    async def send(
        self, method: str, path: str, *, headers: Mapping[str, str], body: bytes | None, timeout_s: float
    ) -> Reply:
        limits = _limits(timeout_s)
        try:
            answer = await self._http.request(method, path, headers=headers, content=body, timeout=limits)
        except httpx.HTTPError as error:
            raise _explained(error, self._url, timeout_s) from None
        return Reply(answer.status_code, dict(answer.headers), answer.content)

    @asynccontextmanager
    async def upload(
        self, path: str, *, headers: Mapping[str, str], pieces: Iterable[bytes]
    ) -> AsyncIterator[Streamed]:
        content = _in_thread(pieces)
        try:
            async with self._http.stream("POST", path, headers=headers, content=content, timeout=_UPLOAD) as answer:
                yield _AsyncStream(answer)
        except httpx.HTTPError as error:
            raise _explained(error, self._url, UPLOAD_WRITE_TIMEOUT_S) from None

    async def pause(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def close(self) -> None:
        await self._http.aclose()


class _AsyncStream:
    def __init__(self, answer: httpx.Response) -> None:
        self._answer = answer
        self.status = answer.status_code
        self.headers = dict(answer.headers)

    async def lines(self) -> AsyncIterator[bytes]:
        async for line in self._answer.aiter_lines():
            yield line.encode()

    async def body(self) -> bytes:
        return await self._answer.aread()


_UPLOAD = httpx.Timeout(connect=CONNECT_TIMEOUT_S, write=UPLOAD_WRITE_TIMEOUT_S, read=None, pool=CONNECT_TIMEOUT_S)
"""Intake takes as long as the model does; that a server has gone is told by its connection."""


def _limits(timeout_s: float) -> httpx.Timeout:
    return httpx.Timeout(timeout_s, connect=min(timeout_s, CONNECT_TIMEOUT_S))


def _explained(error: httpx.HTTPError, url: str, timeout_s: float) -> Exception:
    if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol)):
        reason = " ".join(str(error).split()) or "the connection timed out"
        return Unreachable(f"no server answers at {url} ({reason}): see that it runs and that the URL is right")
    if isinstance(error, httpx.TimeoutException):
        return DeadlineExceeded(f"{url} did not answer within {timeout_s:g} s: send fewer rows, or allow more time")
    return Lost(f"the connection to {url} ended before the answer ({' '.join(str(error).split())})")


async def _in_thread(pieces: Iterable[bytes]) -> AsyncIterator[bytes]:
    """Pieces that are read from disk, without holding the event loop."""
    iterator = iter(pieces)
    while (piece := await asyncio.to_thread(next, iterator, None)) is not None:
        yield piece
