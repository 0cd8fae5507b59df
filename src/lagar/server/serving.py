"""What a worker answers with: loaded versions, who is live, their endpoints and hot paths.

A `Serving` is put together beside the one in use and takes its place in one assignment. What is live never changes in
it; versions are added when they are asked for, and removed when their memory is needed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path

import msgspec

from lagar import runtimes
from lagar.engine import wire
from lagar.engine.deployment import Deployment
from lagar.engine.host import HostedPredictor
from lagar.engine.service import Router
from lagar.engine.shadow import Shadow
from lagar.errors import LagarError, LoadFailed, MissingEnvironment
from lagar.intake import golden
from lagar.metrics import Registry
from lagar.protocols.base import Limits
from lagar.registry import manifest
from lagar.registry.model import LoadedModel, ModelSource
from lagar.registry.proof import Violation
from lagar.runtimes import contract, mlserver, sized
from lagar.server.auth import Gate
from lagar.server.heads import Head
from lagar.server.lane import Endpoint
from lagar.server.routes import INVOCATIONS, paths_of, wire_of
from lagar.settings import ServerSettings

log = logging.getLogger("lagar.worker")

_JSON_TYPES = frozenset({b"application/json", b"application/json;charset=utf-8", b"application/json; charset=utf-8"})
_ANY_JSON = frozenset({b"*/*", b"application/json", b"application/json, text/plain, */*"})
_COLD_HEADERS = frozenset({b"expect", b"transfer-encoding", b"content-encoding", b"upgrade"})
_BINARY = b"application/octet-stream"


class Loader:
    """Turns sources into deployments of one worker."""

    def __init__(
        self, settings: ServerSettings, metrics: Registry, *, threads: int, workers: int, run_folder: Path,
        on_violation: Callable[[Deployment, Violation], None],
    ) -> None:  # fmt: skip
        """`on_violation` is called in a thread when a form was wrong on a row that it has answered."""
        self._metrics = metrics
        self._hosts = run_folder / wire.HOSTS_SOCKET
        self._threads = threads
        self._on_violation = on_violation
        self._shadow = Shadow(settings.shadow_check, self.original) if settings.shadow_check else None
        self._queue_rows = max(1, settings.queue_rows // workers)

    async def load(self, source: ModelSource, *, in_thread: bool, apart: bool = False) -> Deployment:
        """A loaded, warm and measured version; raises SetupError. `in_thread` while the loop has requests to answer.

        `apart` loads it in a process of its own, so that this one imports nothing; of the registry's versions only.
        """
        deployment = await asyncio.to_thread(self._open, source, apart) if in_thread else self._open(source, apart)
        probe = deployment.model.probe
        if probe is not None:  # else it takes whole requests, which cannot be made up
            await deployment.isolate_if_needed(probe.slice(0, 1), self._threads)
        if self._shadow is not None:
            deployment.watch(self._shadow, partial(self._on_violation, deployment))
        return deployment

    def original(self, source: ModelSource) -> HostedPredictor:
        """The original of a version that forms answer for, in a process for the whole server, not started yet.

        Unless a form leaves rows near a tie to it, it only checks, and its start takes nothing from the requests.
        """
        alone = msgspec.structs.replace(source, forms=())
        checks = not any(form.margin for form in source.forms)
        return HostedPredictor(alone, self._threads, hosts=self._hosts, start=False, yields=checks)

    def _open(self, source: ModelSource, apart: bool) -> Deployment:
        """The deployment of a source; of its original where its forms do not load or do not give the golden rows."""
        try:
            return self._opened(source, apart)
        except LagarError as error:
            if not source.forms:
                raise
            log.error("%s@%s: the original answers: %s", source.name, source.version, error.message)
            return self._opened(msgspec.structs.replace(source, forms=()), apart)

    def _opened(self, source: ModelSource, apart: bool) -> Deployment:
        with contextlib.ExitStack() as undo:
            try:
                model, installed = self._model(source, apart=apart)
                undo.callback(_close_quietly, model)
                deployment = Deployment(model, self._metrics, max_queue_rows=self._queue_rows)
                if source.manifest is not None:
                    golden.check(manifest.decode(Path(source.manifest).read_bytes()), model.predictor, installed)
                if model.probe is not None:
                    deployment.warm_up(model.probe.slice(0, 1))
            except LagarError:
                raise
            except Exception as error:
                log.exception("loading failed")
                name = Path(source.path).name
                raise LoadFailed(f"{name}: loading failed with {type(error).__name__}: {error}") from None
            undo.pop_all()
        for warning in model.warnings:
            log.warning("%s@%s: %s", source.name, source.version, warning)
        return deployment

    def _model(self, source: ModelSource, *, apart: bool) -> tuple[LoadedModel, Mapping[str, str] | None]:
        """A loaded model, and what is installed where it runs if that is not here."""
        python = interpreter(source)
        apart = apart or mlserver.hides_another(source)
        apart = apart or (source.kind == "pyfunc" and source.manifest is not None)  # mlflow is not for every worker
        if python is None and (not apart or sized.covers(source.forms)):  # forms bring nothing large
            return runtimes.load(source, threads=self._threads), None
        hosted = HostedPredictor(source, self._threads, python=python, hosts=self._hosts)
        facts = hosted.facts
        loaded = contract.keep_apart(source, hosted, hosted.handlers, facts.libraries, facts.warnings)
        return loaded, facts.installed


def _close_quietly(model: LoadedModel) -> None:
    """What a refused version holds: its host, files of the user's own class."""
    try:
        model.predictor.close()
    except Exception:
        log.exception("closing model %s@%s failed", model.source.name, model.source.version)


def interpreter(source: ModelSource) -> str | None:
    """The Python of another environment in which a version is to be loaded; raises MissingEnvironment."""
    if not source.requirements:
        return None
    from lagar.intake import environment  # brings the reading of requirements, which few versions have

    return environment.interpreter(source)


_MODULES = {"scikit-learn": "sklearn", "xgboost-cpu": "xgboost", "onnxruntime-gpu": "onnxruntime"}
_KIND_MODULES = {"sklearn": "sklearn", "onnx": "onnxruntime"}


def is_at_hand(source: ModelSource) -> bool:
    """Whether loading imports nothing large: importing scikit-learn beside requests cuts their rate for seconds."""
    with contextlib.suppress(MissingEnvironment):  # loading it says so
        if source.requirements and interpreter(source) is not None:
            return True
    if sized.covers(source.forms) and not source.code:
        # Boosters answer through their compiled code alone, and what is left of the libraries is ONNX Runtime.
        return "onnxruntime" in sys.modules or not any("onnxruntime" in form.libraries for form in source.forms)
    if source.kind in ("custom", "mlflow", "mlserver", "pyfunc") or source.code:
        return False
    needed = [_MODULES.get(name, name.replace("-", "_")) for name in source.libraries]
    return all(module in sys.modules for module in [*needed, _KIND_MODULES.get(source.kind, source.kind)])


class Serving:
    """The versions of one generation and the ways to them."""

    def __init__(
        self,
        generation: int,
        deployments: Iterable[Deployment],
        live: Mapping[str, str],
        weights: Mapping[str, Mapping[str, int]],
        settings: ServerSettings,
        gate: Gate,
        before: Serving | None = None,
    ) -> None:
        """`before` is the one whose place it takes: what both hold is taken from it."""
        self.generation = generation
        self.router = Router((), live, weights, default=settings.default_model)
        self._settings = settings
        self._gate = gate
        self._cold = frozenset({b"origin"} if settings.cors_origins or settings.cors_origin_regex else ()) | frozenset(
            {b"accept-encoding"} if settings.compress_answers_bytes else ()
        )
        """Headers that only the ASGI lane follows, where a setting says that they are followed at all."""
        self._endpoints: dict[Deployment, dict[str, Endpoint]] = {}
        self._hot: dict[bytes, Route] = {}
        self._hot_of: dict[str, list[bytes]] = {}
        known = {} if before is None else before._endpoints
        for deployment in deployments:
            self.router.add(deployment)
            self._endpoints[deployment] = known.get(deployment, {})
        for name in {deployment.name for deployment in self.router.deployments}:
            self._find_hot_paths(name)

    def add(self, deployment: Deployment) -> None:
        """A version that was loaded since."""
        self.router.add(deployment)
        self._endpoints[deployment] = {}
        self._find_hot_paths(deployment.name)

    def remove(self, deployment: Deployment) -> None:
        """A version that is unloaded: its paths are cold from now on."""
        self.router.remove(deployment)
        del self._endpoints[deployment]
        self._find_hot_paths(deployment.name)

    def endpoint(self, deployment: Deployment, protocol: str) -> Endpoint:
        """Where a protocol asks a version; made when it is first asked for: most versions are asked in one protocol."""
        made = self._endpoints[deployment]
        endpoint = made.get(protocol)
        if endpoint is None:
            adapter = wire_of(protocol).adapter(deployment, Limits(max_rows=self._settings.max_rows))
            timeout_s = self._settings.request_timeout_s
            endpoint = Endpoint(deployment, adapter, protocol, gate=self._gate, request_timeout_s=timeout_s)
            made[protocol] = endpoint
        return endpoint

    def hot_route(self, head: Head) -> Route | None:
        """The way of a request that may take the fast lane, None for the ASGI lane."""
        route = self._hot.get(head.raw_path)
        if route is None or head.method != "POST" or head.query or head.http_10 or not head.keep_alive:
            return None
        if head.chunked or head.length == 0:
            return None
        binary = head.envelope.header_length is not None
        if binary and not route.binary:
            return None
        for name, value in head.headers:
            if name in _COLD_HEADERS:
                return None
            if name == b"content-type" and value.lower() not in _JSON_TYPES and not (binary and value == _BINARY):
                return None
            if name == b"accept" and value.lower() not in _ANY_JSON:
                return None
            if name == b"connection" and value.lower() != b"keep-alive":
                return None
            if name in self._cold:
                return None
        route.open()
        return route

    def _find_hot_paths(self, name: str) -> None:
        """Exact path → route for one model, with and without the proxy's prefix."""
        for path in self._hot_of.pop(name, ()):
            del self._hot[path]
        if not self._settings.fast_lane:
            return
        prefixes = {"", self._settings.root_path}
        routes = {
            (prefix + path).encode("ascii"): route for path, route in self._routes(name).items() for prefix in prefixes
        }
        self._hot.update(routes)
        if routes:
            self._hot_of[name] = list(routes)

    def _routes(self, name: str) -> dict[str, Route]:
        routes: dict[str, Route] = {}
        for deployment in self.router.versions(name):
            for protocol, path in paths_of(name, deployment.version):
                routes[path] = Route(self, deployment, protocol)
        shares = [self.router.get(name, version) for version in self.router.answering(name)]
        if not shares or shares[0] is None or None in shares:
            return routes  # not live, or a version that has a share of the traffic must be loaded first
        split = len(shares) > 1
        for protocol, path in paths_of(name, default=name == self.router.default):
            routes[path] = Route(self, shares[0], protocol, split=split)
        if INVOCATIONS in routes and self._settings.predict_route:
            routes[self._settings.predict_route] = routes[INVOCATIONS]
        return routes


class Route:
    """A hot path: one endpoint, or one of several by weight."""

    __slots__ = ("_deployment", "_endpoint", "_protocol", "_serving", "_split", "binary")

    def __init__(self, serving: Serving, deployment: Deployment, protocol: str, *, split: bool = False) -> None:
        self._serving = serving
        self._deployment = deployment
        self._protocol = protocol
        self._split = split
        self._endpoint: Endpoint | None = None
        self.binary = wire_of(protocol).binary
        """Its bodies may have tensors behind the JSON."""

    def open(self) -> None:
        """Have the endpoint ready: called once for each head, before `pick`."""
        if self._endpoint is None:
            self._endpoint = self._serving.endpoint(self._deployment, self._protocol)

    def pick(self) -> Endpoint:
        """The endpoint that answers this request."""
        if self._split:
            deployment = self._serving.router.resolve(self._deployment.name)
            return self._serving.endpoint(deployment, self._protocol)
        assert self._endpoint is not None
        return self._endpoint
