"""The verbs over HTTP, below `/api`: what there is, pushes, promotes, and who put what into production."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from lagar.control import pushing
from lagar.control.pushing import Task
from lagar.control.reception import Received, receive
from lagar.control.state import ControlState
from lagar.errors import InvalidInput, LagarError, NotReady, RequestError
from lagar.registry import answers
from lagar.registry.answers import PushLine, Told
from lagar.registry.home import Home
from lagar.registry.releases import Releases, Who
from lagar.settings import compile_mode

log = logging.getLogger("lagar.control")

NDJSON: Final = "application/x-ndjson"
LONGEST_WAIT_S: Final = 30.0
"""How long one look at a generation waits for its end."""
LOOK_INTERVAL_S: Final = 0.05
BEAT_S: Final = 1.0
INTAKES: Final = 2
"""Pushes that are taken in at a time; the others wait."""
MAX_BODY_BYTES: Final = 64 * 1024
STATUS: Final = {
    "invalid_input": 400, "invalid_json": 400, "settings": 400, "invalid_version": 400, "forbidden": 403,
    "not_found": 404, "version_exists": 409, "promote_refused": 409, "payload_too_large": 413, "internal": 500,
    "home": 503, "catalog_away": 503, "store_away": 503, "not_ready": 503,
}  # fmt: skip
"""Code → status of what the verbs refuse; every other refusal is of what was pushed: 422."""

T = TypeVar("T")


class VersionBody(msgspec.Struct, forbid_unknown_fields=True):
    """Which version."""

    version: str
    note: str = ""


class NoteBody(msgspec.Struct, forbid_unknown_fields=True):
    """Why."""

    note: str = ""


class TrafficBody(msgspec.Struct, forbid_unknown_fields=True):
    """Which versions answer: percent by version, together 100."""

    weights: dict[str, int]
    shadow: str | None = None
    note: str = ""


class AliasBody(msgspec.Struct, forbid_unknown_fields=True):
    """What an alias stands for."""

    version: str


class GarbageBody(msgspec.Struct, forbid_unknown_fields=True):
    """Whether only to look."""

    dry_run: bool = False


_BODIES: Final[dict[type[Any], msgspec.json.Decoder[Any]]] = {
    kind: msgspec.json.Decoder(kind) for kind in (VersionBody, NoteBody, TrafficBody, AliasBody, GarbageBody)
}


def add_verbs(app: FastAPI, state: ControlState) -> None:
    """Mount the verbs; they answer NotReady while there is no catalog."""
    _add_looks(app, state)
    _add_changes(app, state)
    _add_pushes(app, state)
    app.add_exception_handler(LagarError, refused)
    app.add_exception_handler(RequestValidationError, misspelt)
    app.add_exception_handler(ClientDisconnect, left)


def _add_looks(app: FastAPI, state: ControlState) -> None:
    look: dict[str, Any] = {"methods": ["GET", "HEAD"]}

    @app.api_route("/api/models", **look)
    def models() -> Response:
        return _json(answers.model_cards(_releases(state)))

    @app.api_route("/api/models/{model}", **look)
    def model(model: str) -> Response:
        return _json(answers.model_card(_releases(state), model))

    @app.api_route("/api/models/{model}/versions", **look)
    def versions(model: str) -> Response:
        return _json(answers.version_cards(_releases(state), model))

    @app.api_route("/api/models/{model}/versions/{version}", **look)
    def version(model: str, version: str) -> Response:
        return _json(answers.version_report(_releases(state), model, version))

    @app.api_route("/api/models/{model}/aliases", **look)
    def aliases(model: str) -> Response:
        return _json(answers.model_card(_releases(state), model).aliases)

    @app.api_route("/api/models/{model}/history", **look)
    def history(model: str) -> Response:
        return _json(answers.history_cards(_releases(state), model))

    @app.api_route("/api/models/{model}/diff", **look)
    def diff(model: str, before: str, after: str) -> Response:
        return _json(_releases(state).diff(model, before, after))

    @app.api_route("/api/generations/{number}", **look)
    async def generation(number: int, wait: float = 0.0) -> Response:
        return _json(await _decided(_releases(state), number, min(wait, LONGEST_WAIT_S)))


async def _decided(releases: Releases, number: int, wait_s: float) -> answers.GenerationCard:
    """A generation once it is decided, or as it stands when the wait is over."""
    ends = time.monotonic() + wait_s
    while True:
        card = answers.generation_card(await asyncio.to_thread(releases.generation, number))
        if card.state != "prepare" or time.monotonic() >= ends:
            return card
        await asyncio.sleep(LOOK_INTERVAL_S)


def _add_changes(app: FastAPI, state: ControlState) -> None:
    @app.post("/api/models/{model}/promote")
    async def promote(request: Request, model: str) -> Response:
        body = await _body(request, VersionBody)
        who = await who_asked(request, state)
        return await _proposed(state, lambda r: r.propose(model, {body.version: 100}, who, note=body.note))

    @app.post("/api/models/{model}/rollback")
    async def rollback(request: Request, model: str) -> Response:
        body = await _body(request, NoteBody)
        who = await who_asked(request, state)
        return await _proposed(state, lambda r: r.rollback(model, who, note=body.note))

    @app.api_route("/api/models/{model}/traffic", methods=["GET", "HEAD"])
    def traffic(model: str) -> Response:
        return _json(answers.live_traffic(_releases(state), model))

    @app.put("/api/models/{model}/traffic")
    async def share(request: Request, model: str) -> Response:
        body = await _body(request, TrafficBody)
        who = await who_asked(request, state)
        return await _proposed(
            state,
            lambda r: r.propose(model, body.weights, who, action="traffic", note=body.note, shadow=body.shadow),
        )

    @app.put("/api/models/{model}/aliases/{alias}")
    async def set_alias(request: Request, model: str, alias: str) -> Response:
        body = await _body(request, AliasBody)
        who = await who_asked(request, state)
        await _ask(state, lambda r: r.set_alias(model, alias, body.version, who))
        return _json(await _ask(state, lambda r: r.aliases(model)))

    @app.delete("/api/models/{model}/aliases/{alias}")
    async def drop_alias(request: Request, model: str, alias: str) -> Response:
        who = await who_asked(request, state)
        await _ask(state, lambda r: r.drop_alias(model, alias, who))
        return _json(await _ask(state, lambda r: r.aliases(model)))

    @app.post("/api/models/{model}/versions/{version}/retire")
    async def retire(request: Request, model: str, version: str) -> Response:
        return await _retired(request, state, model, version, undo=False)

    @app.delete("/api/models/{model}/versions/{version}/retire")
    async def unretire(request: Request, model: str, version: str) -> Response:
        return await _retired(request, state, model, version, undo=True)

    @app.post("/api/gc")
    async def gc(request: Request) -> Response:
        body = await _body(request, GarbageBody)
        found = await _ask(state, lambda r: r.gc(dry_run=body.dry_run))
        return _json(answers.garbage_card(found, dry_run=body.dry_run))


async def _proposed(state: ControlState, propose: Callable[[Releases], int]) -> Response:
    """202 for a change of traffic that servers prepare, 200 for one that is live."""
    number = await _ask(state, propose)
    card = answers.generation_card(await _ask(state, lambda r: r.generation(number)))
    return _json(card, 202 if card.state == "prepare" else 200)


async def _retired(request: Request, state: ControlState, model: str, version: str, *, undo: bool) -> Response:
    who = await who_asked(request, state)
    label = (await _ask(state, lambda r: r.retire(model, version, who, undo=undo))).version
    return _json((await _ask(state, lambda r: answers.version_report(r, model, label))).card)


def _add_pushes(app: FastAPI, state: ControlState) -> None:
    turns = asyncio.Semaphore(INTAKES)

    @app.post("/api/models/{model}/versions")
    async def push(request: Request, model: str) -> Response:
        if state.home is None:
            raise NotReady("this server has no home to push into", retry_after_s=1)
        who = await who_asked(request, state)
        return PushAnswer(request, Home(state.home), turns, model, who)


class PushAnswer(Response):
    """Receives a version, has it taken in, and answers: the version with 201, or its steps as NDJSON lines."""

    def __init__(self, request: Request, home: Home, turns: asyncio.Semaphore, model: str, who: Who) -> None:
        super().__init__()
        self._request = request
        self._home = home
        self._turns = turns
        self._model = model
        self._who = who
        self._decided = False

    async def __call__(self, scope: Scope, receive_: Receive, send: Send) -> None:
        try:
            async with _in_thread(self._home.upload_folder()) as folder:
                received = await receive(self._request, folder)
                task = _task(self._home, folder, self._model, received, self._who)
                await self._answer(task, scope, receive_, send)
        except ClientDisconnect:
            log.info("a push of %s ended before its body did; nothing of it is kept", self._model)

    async def _answer(self, task: Task, scope: Scope, receive_: Receive, send: Send) -> None:
        """Intake ends when its caller has gone: nobody would learn what became of it."""
        work = asyncio.create_task(self._take_in(task, scope, receive_, send))
        gone = asyncio.create_task(_disconnect(receive_))
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done() and not self._decided:
                log.info("whoever pushed %s has gone; its intake is ended", self._model)
                work.cancel()
            await asyncio.wait({work})
        finally:
            work.cancel()
            gone.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)
        if not work.cancelled():
            work.result()

    async def _take_in(self, task: Task, scope: Scope, receive_: Receive, send: Send) -> None:
        streamed = NDJSON in self._request.headers.get("accept", "")
        if streamed:
            head = [(b"content-type", NDJSON.encode())]
            await send({"type": "http.response.start", "status": 200, "headers": head})
        beating = asyncio.create_task(self._beat(send)) if streamed else None
        try:
            await self._told(task, scope, receive_, send, streamed=streamed)
        finally:
            if beating is not None:
                beating.cancel()
        if streamed:
            await send({"type": "http.response.body", "body": b""})

    async def _beat(self, send: Send) -> None:
        """Blanks before the next line: only a write shows that whoever reads the answer has closed the connection."""
        while not self._decided:
            await send({"type": "http.response.body", "body": b" ", "more_body": True})
            await asyncio.sleep(BEAT_S)

    async def _told(self, task: Task, scope: Scope, receive_: Receive, send: Send, *, streamed: bool) -> None:
        async with self._turns, contextlib.aclosing(pushing.lines(task)) as lines:
            async for line in lines:
                self._decided = line.version is not None or line.error is not None
                if streamed:
                    body = msgspec.json.encode(line) + b"\n"
                    await send({"type": "http.response.body", "body": body, "more_body": True})
                elif self._decided:
                    await self._whole(line)(scope, receive_, send)

    def _whole(self, line: PushLine) -> Response:
        if line.error is not None:
            return error_answer(line.error, self._request.state.request_id)
        assert line.version is not None
        model, version = line.version.card.model, line.version.card.version
        answer = _json(line.version, 201)
        answer.headers["location"] = f"{self._request.state.prefix}/api/models/{model}/versions/{version}"
        return answer


@contextlib.asynccontextmanager
async def _in_thread(place: contextlib.AbstractContextManager[T]) -> AsyncIterator[T]:
    """A context whose beginning and end wait for locks and disks."""
    value = await asyncio.to_thread(place.__enter__)
    try:
        yield value
    finally:
        await asyncio.to_thread(place.__exit__, None, None, None)


async def _disconnect(receive_: Receive) -> None:
    while (await receive_())["type"] != "http.disconnect":
        pass


def _task(home: Home, folder: Path, model: str, received: Received, who: Who) -> Task:
    fields = {name: values[0] for name, values in received.fields.items() if name not in ("metric", "trust")}
    if not any(part.name == "model" for part in received.files):
        raise InvalidInput("a push needs the model's file: the part 'model' (curl -F model=@model.joblib)")
    trust = received.fields.get("trust", ["false"])[0].lower()
    if trust not in ("true", "false"):
        raise InvalidInput(f"the field 'trust' must be true or false, got {trust[:40]!r}")
    compiling = fields.pop("compile", None)
    metrics: dict[str, float] = {}
    for name, number in map(metric_of, received.fields.get("metric", ())):
        if name in metrics:
            raise InvalidInput(f"the metric {name!r} is given twice: {metrics[name]:g} and {number:g}; say it once")
        metrics[name] = number
    return Task(
        str(home.path), str(folder), model, tuple(received.files), who.name, who.host,
        compile=None if compiling is None else compile_mode(compiling, "the field 'compile'"),
        metrics=metrics, trust=trust == "true", **fields,
    )  # fmt: skip


def metric_of(text: str) -> tuple[str, float]:
    """The name and the value of "accuracy=0.98"; raises InvalidInput."""
    name, _, value = text.partition("=")
    try:
        if name.strip():
            return name.strip(), float(value)
    except ValueError:
        pass
    raise InvalidInput(f"a metric must be NAME=NUMBER, like accuracy=0.98, got {text[:80]!r}")


# ---- what every verb does


def _releases(state: ControlState) -> Releases:
    if state.releases is None:
        raise NotReady("this server has no catalog yet; try again", retry_after_s=1)
    return state.releases


async def _ask(state: ControlState, question: Callable[[Releases], T]) -> T:
    return await asyncio.to_thread(question, _releases(state))


async def _body(request: Request, kind: type[T]) -> T:
    """The JSON body of a change; without one, what the verb does by itself."""
    data = b""
    async for piece in request.stream():
        data += piece
        if len(data) > MAX_BODY_BYTES:
            raise InvalidInput(f"the body has more than {MAX_BODY_BYTES} bytes")
    try:
        body: T = _BODIES[kind].decode(data or b"{}")
    except msgspec.MsgspecError as error:
        names = ", ".join(field.encode_name for field in msgspec.structs.fields(kind))  # type: ignore[arg-type]
        raise InvalidInput(f"the body must be a JSON object of {names}: {error}") from None
    return body


async def who_asked(request: Request, state: ControlState) -> Who:
    """Whose key asked, and from which address; the worker that checked the key says so."""
    host = request.headers.get("x-lagar-client", "")
    key_id = request.headers.get("x-lagar-key-id")
    if key_id is None:
        return Who("anonymous", host)
    if state.catalog is None:
        return Who(f"key {key_id}", host)
    from lagar.registry.keys import list_keys

    keys = await asyncio.to_thread(list_keys, state.catalog)
    name = next((key.name for key in keys if key.id == key_id), None)
    return Who(f"key {key_id}" if name is None else f"{name} (key {key_id})", host)


def refused(request: Request, error: Exception) -> Response:
    """A refusal in the one shape of all errors."""
    assert isinstance(error, LagarError)
    told = Told(error.code, error.message, step=getattr(error, "step", None))
    answer = error_answer(told, request.state.request_id, error)
    if request.scope["path"].startswith("/v2/"):
        answer.body = msgspec.json.encode({"error": error.message})
        answer.headers["content-length"] = str(len(answer.body))
    return answer


def misspelt(request: Request, error: Exception) -> Response:
    """A query parameter that is missing or of another type."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    name = str(first["loc"][-1])
    seen = "" if first["type"] == "missing" else f", got {str(first.get('input'))[:80]!r}"
    message = f"the parameter {name!r} of {request.url.path} is wrong: {first['msg']}{seen}"
    return error_answer(Told("invalid_input", message), request.state.request_id)


def left(_request: Request, _error: Exception) -> Response:
    """Nobody reads this: whoever asked has gone."""
    return Response(status_code=400)


def error_answer(told: Told, request_id: str, error: LagarError | None = None) -> Response:
    """An error with its status; `step` says where a push was refused."""
    facts = {"code": told.code, "message": told.message, "field": None, "row": None, "request_id": request_id}
    if told.step is not None:
        facts["step"] = told.step
    status = STATUS.get(told.code, 422)
    answer = _json({"error": facts}, status)
    if status == 503:
        retry = error.retry_after_s if isinstance(error, RequestError) else None
        answer.headers["retry-after"] = f"{retry or 1:.0f}"
    return answer


def _json(value: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, headers={"content-type": "application/json"})
