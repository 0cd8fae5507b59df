"""What a client can ask of a server, written once for both clients."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import quote, urlencode

import msgspec
from msgspec.json import Decoder

from lagar.client import given
from lagar.client.decided import settled, undecided
from lagar.client.given import Label
from lagar.client.prediction import Prediction
from lagar.client.refusal import from_facts, refusal, retry_after
from lagar.client.rows import write_body
from lagar.client.upload import Upload
from lagar.client.wire import Lost, Reply, Streamed, Wire
from lagar.errors import DeadlineExceeded, LagarError, NotReady, Overloaded, SettingsError, Unreachable
from lagar.registry.answers import (
    GarbageCard,
    GenerationCard,
    ModelCard,
    PushLine,
    TrafficCard,
    VersionCard,
    VersionReport,
    usual_version,
)
from lagar.registry.difference import Difference
from lagar.settings import Compile

T = TypeVar("T")
DEFAULT_URL: Final = "http://127.0.0.1:8080"
WAIT_S: Final = 10.0
"""How long one look at a generation waits at the server for its end."""
_LONGEST_PAUSE_S: Final = 30.0
_FIRST_PAUSE_S: Final = 0.1
_IMPATIENCE_S: Final = 5.0
"""Added to the time a server was given, so that its own words come before ours."""
_MODELS: Final = Decoder(tuple[ModelCard, ...])
_MODEL: Final = Decoder(ModelCard)
_VERSIONS: Final = Decoder(tuple[VersionCard, ...])
_VERSION: Final = Decoder(VersionCard)
_REPORT: Final = Decoder(VersionReport)
_HISTORY: Final = Decoder(tuple[TrafficCard, ...])
_DIFFERENCE: Final = Decoder(Difference)
_GENERATION: Final = Decoder(GenerationCard)
_GARBAGE: Final = Decoder(GarbageCard)
_ALIASES: Final = Decoder(dict[str, str])
_LINE: Final = Decoder(PushLine)
"""Built here, once: threads share a client, and msgspec must not build one type for two of them at a time."""


class Operations:
    """The operations of one server, over one wire."""

    def __init__(self, wire: Wire, *, timeout_s: float, retries: int) -> None:
        self.wire = wire
        self.timeout_s = timeout_s
        self.retries = retries

    # -- predictions

    async def predict(
        self,
        name: str | None,
        data: Any,
        *,
        version: Label | None = None,
        ids: Sequence[str | int] | None = None,
        timeout: float | None = None,
    ) -> Prediction:
        """What a model answers for the rows of `data`.

        `data` is a DataFrame, an array, one record (a dict), columns by name (a dict of lists), or a list of records,
        rows or values. `name` is None for the server's only model; `version` may be an alias, None is the live one.
        `ids`, one per row, come back in the answer. `timeout` in seconds counts from here to the answer, with every
        retry. Raises the server's errors (InvalidInput with `field` and `row`, NotFound, Overloaded, …),
        DeadlineExceeded and Unreachable.
        """
        if version is not None and name is None:
            raise SettingsError(f"version {version!r} is asked for without a model: name it")
        path = "/predict" if name is None else f"/models/{_part(name)}{_versions(version)}/predict"
        headers = {"content-type": "application/json"}
        reply = await self._ask("POST", path, body=write_body(data, ids), headers=headers, timeout=timeout, told=True)
        return Prediction(msgspec.json.decode(reply.body))

    async def ready(self) -> bool:
        """Whether the server can answer; False too when there is none."""
        try:
            reply = await self.wire.send("GET", "/readyz", headers={}, body=None, timeout_s=self.timeout_s)
        except (Unreachable, DeadlineExceeded, Lost):
            return False
        return reply.status == 200

    # -- what there is

    async def models(self) -> tuple[ModelCard, ...]:
        """Every model, by name."""
        return await self._get("/api/models", _MODELS)

    async def model(self, name: str) -> ModelCard:
        """One model: what is live, its aliases, its newest version."""
        return await self._get(_model(name), _MODEL)

    async def versions(self, name: str) -> tuple[VersionCard, ...]:
        """The versions of a model in natural order, the newest last."""
        return await self._get(f"{_model(name)}/versions", _VERSIONS)

    async def version(self, name: str, version: Label | None = None) -> VersionReport:
        """One version with its own record; `version` may be an alias, None is the live one, else the newest."""
        if version is None:
            version = usual_version(await self.model(name))
        return await self._get(f"{_model(name)}{_versions(version)}", _REPORT)

    async def history(self, name: str) -> tuple[TrafficCard, ...]:
        """Who put what into production, when and from where, the newest first."""
        return await self._get(f"{_model(name)}/history", _HISTORY)

    async def diff(self, name: str, before: Label, after: Label) -> Difference:
        """What the second version has differently from the first."""
        query = urlencode({"before": given.word(before, "a version"), "after": given.word(after, "a version")})
        return await self._get(f"{_model(name)}/diff?{query}", _DIFFERENCE)

    async def generation(self, number: int, *, wait: float = 0.0) -> GenerationCard:
        """A change of traffic; `wait` seconds at most until it is decided."""
        path = f"/api/generations/{number}?wait={wait:g}"
        return await self._get(path, _GENERATION, timeout=max(self.timeout_s, wait + _IMPATIENCE_S))

    # -- changes

    async def push(
        self,
        name: str,
        path: str | Path,
        *,
        version: Label | None = None,
        example: str | Path | None = None,
        training_data: str | Path | None = None,
        code: Iterable[str | Path] = (),
        metrics: Mapping[str, float] | None = None,
        alias: str | None = None,
        note: str = "",
        requirements: str | Path | None = None,
        compile: Compile | None = None,
        trust: bool = False,
        on_step: Callable[[str, str], None] | None = None,
    ) -> VersionReport:
        """Send a model file or folder, and get the version that it has become.

        `version` is any label (a whole number is its text), else the next number. `compile` says when its faster forms
        are built: "wait" before it is committed, "background" by the servers that answer with it, "off" not at all.
        `on_step` is called with the name of each step and what it did.
        Nothing of a refused push is left but the audit entry. Raises Refused, VersionExists and the server's errors.
        """
        upload = Upload()
        for field, value in (
            ("version", given.maybe(given.word, version, "version")),
            ("alias", given.maybe(given.word, alias, "alias")),
            ("note", given.word(note, "note") or None),
            ("compile", given.maybe(given.mode, compile, "compile")),
            ("trust", "true" if given.yes(trust, "trust") else None),
        ):
            if value is not None:
                upload.field(field, value)
        for metric, score in given.scores(metrics).items():
            upload.field("metric", f"{metric}={score!r}")
        for part, file in (("example", example), ("training_data", training_data), ("requirements", requirements)):
            if file is not None:
                upload.file(part, given.place(file, part))
        for file in given.places(code, "code"):
            upload.file("code", file)
        upload.file("model", given.place(path, "path"))
        headers = {"content-type": upload.content_type, "accept": "application/x-ndjson"}
        async with self._stream(f"{_model(name)}/versions", headers, upload) as answer:
            if answer.status != 200:
                raise refusal(answer.status, answer.headers, await answer.body())
            async for line in answer.lines():
                told = _LINE.decode(line)
                if told.error is not None:
                    raise from_facts(told.error, 422, answer.headers)
                if told.version is not None:
                    return told.version
                if on_step is not None:
                    on_step(told.step, told.words)
        raise NotReady("the server ended before the push was decided: look with versions() whether it is there")

    async def promote(
        self, name: str, version: Label, *, note: str = "", wait: bool = True, timeout: float = 60.0
    ) -> GenerationCard:
        """Give a version all the traffic of its model.

        With `wait`, returns once every live server answers with it. Raises PromoteRefused with the reason when it
        cannot go live (nothing has switched then), and DeadlineExceeded after `timeout` seconds.
        """
        body = {"version": given.word(version, "a version"), "note": given.word(note, "note")}
        return await self._change("POST", f"{_model(name)}/promote", body, wait=wait, timeout=timeout)

    async def rollback(self, name: str, *, note: str = "", wait: bool = True, timeout: float = 60.0) -> GenerationCard:
        """Restore what was live before, weights and shadow included; see `promote`."""
        body = {"note": given.word(note, "note")}
        return await self._change("POST", f"{_model(name)}/rollback", body, wait=wait, timeout=timeout)

    async def traffic(
        self,
        name: str,
        weights: Mapping[Any, int],
        *,
        shadow: Label | None = None,
        note: str = "",
        wait: bool = True,
        timeout: float = 60.0,
    ) -> GenerationCard:
        """Share the traffic of a model among versions: percent by version, together 100; see `promote`."""
        body = {
            "weights": given.shares(weights),
            "shadow": given.maybe(given.word, shadow, "shadow"),
            "note": given.word(note, "note"),
        }
        return await self._change("PUT", f"{_model(name)}/traffic", body, wait=wait, timeout=timeout)

    async def alias(self, name: str, alias: str, version: Label) -> dict[str, str]:
        """Let a name stand for a version, wherever a version may be named; all aliases of the model afterwards."""
        return await self._put("PUT", _alias(name, alias), {"version": given.word(version, "a version")}, _ALIASES)

    async def drop_alias(self, name: str, alias: str) -> dict[str, str]:
        """Forget an alias; the others of the model."""
        return await self._put("DELETE", _alias(name, alias), None, _ALIASES)

    async def retire(self, name: str, version: Label, *, undo: bool = False) -> VersionCard:
        """Take a version that has no traffic out of use; its record stays. `undo` brings it back."""
        path = f"{_model(name)}{_versions(version)}/retire"
        return await self._put("DELETE" if undo else "POST", path, None if undo else {}, _VERSION)

    async def gc(self, *, dry_run: bool = False) -> GarbageCard:
        """Remove stored files that no version has needed for a day."""
        return await self._put("POST", "/api/gc", {"dry_run": dry_run}, _GARBAGE)

    async def wait_for(self, generation: GenerationCard, timeout: float) -> GenerationCard:
        """A change of traffic once it is decided; raises what `promote` does."""
        ends = time.monotonic() + timeout
        while (left := ends - time.monotonic()) > 0:
            if generation.state != "prepare":
                return settled(generation)
            generation = await self.generation(generation.number, wait=min(left, WAIT_S))
        if generation.state != "prepare":
            return settled(generation)
        raise undecided(generation, timeout)

    # -- the wire

    async def _get(self, path: str, kind: Decoder[T], *, timeout: float | None = None) -> T:
        reply = await self._ask("GET", path, timeout=timeout)
        return kind.decode(reply.body)

    async def _put(self, method: str, path: str, body: Any, kind: Decoder[T]) -> T:
        content = None if body is None else msgspec.json.encode(body)
        headers = {} if body is None else {"content-type": "application/json"}
        reply = await self._ask(method, path, body=content, headers=headers, once=True)
        return kind.decode(reply.body)

    async def _change(self, method: str, path: str, body: Any, *, wait: bool, timeout: float) -> GenerationCard:
        generation = await self._put(method, path, body, _GENERATION)
        return await self.wait_for(generation, timeout) if wait else generation

    async def _ask(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        told: bool = False,
        once: bool = False,
    ) -> Reply:
        """A successful answer, asked for again on 429 and 503 and on lost connections while the time lasts.

        `told`: the server is told the time that is left. `once`: what is asked for must not be done twice.
        """
        allowed_s = self.timeout_s if timeout is None else timeout
        ends = time.monotonic() + allowed_s
        tries = 1 if once else self.retries + 1
        for number in range(1, tries + 1):
            # the first time it is the same text for every call: a server knows a head that it has seen
            left = allowed_s if number == 1 else max(ends - time.monotonic(), 0.001)
            sent = dict(headers or {}) | ({"timeout": f"{left:.3g}"} if told and timeout is not None else {})
            limit = left + _IMPATIENCE_S if told else left
            pause = _backoff(number)
            error: Exception
            try:
                reply = await self.wire.send(method, path, headers=sent, body=body, timeout_s=limit)
            except (Lost, Unreachable) as problem:
                error = problem if isinstance(problem, LagarError) else Unreachable(f"{problem}; see the server's log")
            else:
                if reply.status < 300:
                    return reply
                error = refusal(reply.status, reply.headers, reply.body)
                if not isinstance(error, (Overloaded, NotReady)):
                    raise error
                asked = retry_after(reply.headers)
                pause = pause if asked is None else asked * random.uniform(1.0, 1.25)  # noqa: S311 - spreads callers
            if number == tries or pause > _LONGEST_PAUSE_S or time.monotonic() + pause >= ends:
                raise error
            await self.wire.pause(pause)
        raise AssertionError("unreachable: every try returns or raises")

    @asynccontextmanager
    async def _stream(self, path: str, headers: Mapping[str, str], upload: Upload) -> AsyncIterator[Streamed]:
        try:
            async with self.wire.upload(path, headers=headers, pieces=upload.pieces()) as answer:
                yield answer
        except Lost as error:
            raise Unreachable(f"{error}: look with versions() whether the push was done") from None


def _backoff(number: int) -> float:
    """Seconds before the next try: doubled each time, spread so that callers do not come back together."""
    return float(_FIRST_PAUSE_S * 2 ** (number - 1)) * random.uniform(0.5, 1.5)  # noqa: S311 - no secret


def _part(text: Label, what: str = "a model's name") -> str:
    return quote(given.word(text, what), safe="")


def _model(name: str) -> str:
    return f"/api/models/{_part(name)}"


def _alias(name: str, alias: str) -> str:
    return f"{_model(name)}/aliases/{_part(alias, 'an alias')}"


def _versions(version: Label | None) -> str:
    return "" if version is None else f"/versions/{_part(version, 'a version')}"
