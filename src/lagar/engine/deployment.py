"""One loaded version and what it needs to answer: its queue, its cost, its thread, its counters."""

from __future__ import annotations

import asyncio
import logging
import math
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from lagar.engine.cost import Cost
from lagar.engine.host import MAX_PAUSE_S, HostedPredictor, HostFailed, longest_pause
from lagar.engine.shadow import Check, Shadow
from lagar.engine.ties import MustWait, Ties
from lagar.errors import LoadFailed, NotReady
from lagar.metrics import Registry
from lagar.registry.model import LoadedModel, ModelInfo, ModelSource, served_of, without_folders
from lagar.registry.proof import Violation
from lagar.registry.signature import Signature
from lagar.runtimes.sized import Sized
from lagar.types import Array, Handlers, Outputs, Predictor, Rows

if TYPE_CHECKING:
    from lagar.engine.batcher import Call

log = logging.getLogger("lagar.engine")

# A sleep, a lock or a socket in the user's own code must never hold the event loop, however quick it was so far.
_ALWAYS_THREADED = frozenset({"custom", "mlserver", "pyfunc"})
WARM_UP_S = 1.0
"""What the calls that learn a model's cost may take of the start; the first, cold call is not counted."""
RETRY_S = 1.0
"""Between two attempts to start the original of a form that was given up."""


class Deployment:
    """A version that answers; owned by one event loop."""

    def __init__(self, model: LoadedModel, metrics: Registry, *, max_queue_rows: int) -> None:
        source = model.source
        self.name = source.name
        self.version = source.version
        self.kind = source.kind
        self.model = model
        self.signature: Signature = model.signature
        self.handlers: Handlers | None = model.handlers
        self.predictor: Predictor = model.predictor
        self.native_outputs = model.signature.native_outputs
        self.hosted = model.predictor if isinstance(model.predictor, HostedPredictor) else None
        self.threaded = source.kind in _ALWAYS_THREADED or model.handlers is not None or self.hosted is not None
        """True: never inline, whatever it costs."""
        self.joinable = True
        """False: each request gets a call of its own."""
        self.cost = Cost()
        self.max_queue_rows = max_queue_rows
        self.waiting: deque[Call] = deque()
        self.waiting_rows = 0
        self.has_left = False
        """Callers of some waiting calls may have ended their side of the connection (Call.left)."""
        self.used_at = time.perf_counter()
        """When it was loaded or called last."""
        self.apart = False
        """True: loaded in a process of its own, since its worker lacks a library that it needs."""
        self.memory_bytes = 0
        """What its worker counts for it."""
        self.retired = False
        """True once no new request is sent here; what was read for it goes to the version that is live now."""
        self._emptied: asyncio.Event | None = None
        self.running: list[Call] = []
        self.running_since = 0.0
        self.stuck_since = -1.0
        """When the call was begun that was last told of as not returning."""
        self.check: Check | None = None
        """What puts rows to the original too, where a proved form answers."""
        self.unchecked = math.inf
        """Rows until the next one that is checked."""
        self.given_up = ""
        """Why its form answers no more."""
        self.ties: Ties | None = None
        """What leaves rows near a tie to the original, where the form does not know their label for sure."""
        self.may_wait = True
        """False while it is called on the event loop."""
        self._closed = False
        self._form: Predictor | None = None
        self.thread = ModelThread(f"model {source.name}@{source.version}")
        labels = (self.name, self.version)
        self.request_seconds = metrics.histogram("lagar_request_seconds", *labels)
        self.queue_seconds = metrics.histogram("lagar_queue_seconds", *labels)
        self.compute_seconds = metrics.histogram("lagar_compute_seconds", *labels)
        self.reading_ns = metrics.counter("lagar_reading_seconds", *labels)
        self._infer_ns = metrics.counter("lagar_infer_seconds", *labels)
        self._called_ms = metrics.counter("lagar_last_call_timestamp_seconds", *labels)
        self.batch_rows = metrics.histogram("lagar_batch_rows", *labels)
        self.rows = metrics.counter("lagar_rows", *labels)
        self.batches = metrics.counter("lagar_batches", *labels)
        self.queue_gauge = metrics.counter("lagar_queue_rows", *labels)
        self._metrics = metrics
        self._answered: dict[tuple[str, int], Callable[[int], None]] = {}
        self._rejected: dict[str, Callable[[int], None]] = {}

    def info(self, *, live: bool, loaded_at: str) -> ModelInfo:
        """The facts other processes get."""
        model = self.model
        given_up = self.given_up or model.source.given_up
        warnings = [*model.warnings, given_up] if given_up else model.warnings
        return ModelInfo(
            name=self.name,
            version=self.version,
            kind=self.kind,
            signature=msgspec.structs.replace(self.signature, origin=without_folders(self.signature.origin)),
            live=live,
            libraries=model.libraries,
            warnings=tuple(without_folders(warning) for warning in warnings),
            has_preprocess=self.handlers is not None and self.handlers.has_preprocess,
            has_postprocess=self.handlers is not None and self.handlers.has_postprocess,
            sha256=model.source.sha256,
            loaded_at=loaded_at,
            forms=() if self.given_up else served_of(model.source.forms),
        )

    def warm_up(self, example: Rows) -> None:
        """Call the model with its example, once cold and then in up to four sizes, and learn what a call costs.

        Two sizes tell what a call costs from what a row does. A slow model is not called with more rows, nor again and
        again: its server has to start some time.
        """
        outputs = self.native_outputs
        row = example.slice(0, 1)
        started = time.perf_counter()
        self.predictor.predict(row, outputs)
        slow = time.perf_counter() - started > WARM_UP_S / 8
        self.joinable = slow or self._keeps_rows_apart(row)
        if not self.joinable:
            log.warning(
                "%s@%s: a row's answer depends on the rows beside it, so requests are not joined into one call",
                self.name,
                self.version,
            )
        began = time.perf_counter()
        sizes: list[Rows] = []
        for size, more in ((1, 2), (2, 16), (32, 8), (256, 1)):
            rows = Rows.join([row] * size)
            taken = self._timed(rows, outputs)
            sizes.append(rows)
            if size > 1 and taken * more > WARM_UP_S:
                break
        for _ in range(2):
            for rows in sizes:
                if time.perf_counter() - began > WARM_UP_S:
                    return
                self._timed(rows, outputs)

    def _keeps_rows_apart(self, row: Rows) -> bool:
        """Whether a row's answer stays the same when other rows stand beside it, as far as a trial shows.

        One that centres on the mean of its input answers each caller by its neighbours' rows: its requests must not
        share a call. Models over columns are not tried: made-up texts would be refused.
        """
        if row.matrix is None:
            return True
        values = row.matrix
        others = Rows(2, matrix=np.concatenate([values, values * 1.7 + 1.0]))
        try:
            alone = self.predictor.predict(row, self.native_outputs)
            beside = self.predictor.predict(others, self.native_outputs)
        except Exception:
            return True  # the model refuses the made-up neighbour: what it answers cannot be told this way
        return all(_alike(alone[name], beside[name][:1]) for name in alone)

    def _timed(self, rows: Rows, outputs: tuple[str, ...]) -> float:
        started = time.perf_counter()
        self.predictor.predict(rows, outputs)
        taken = time.perf_counter() - started
        self.cost.learn(rows.n, taken)
        return taken

    async def isolate_if_needed(self, example: Rows, threads: int) -> None:
        """Move the model to a host process when it would stop the event loop while it runs in a thread."""
        if self.hosted is not None:
            return
        pause_s = await longest_pause(self.predictor, example, self.native_outputs, self.cost)
        if pause_s <= MAX_PAUSE_S:
            return
        log.info(
            "model %s@%s held the interpreter for %.0f ms; it runs in a process of its own",
            self.name,
            self.version,
            pause_s * 1000,
        )
        self.hosted = await asyncio.to_thread(HostedPredictor, self.model.source, threads)
        self.predictor.close()
        self.predictor = self.model.predictor = self.hosted
        self.threaded = True

    def predict(self, rows: Rows, outputs: tuple[str, ...], requests: int = 1) -> Outputs:
        """Call the model for the rows of so many requests, and learn from how long it took."""
        self.used_at = started = time.perf_counter()
        leant = 0 if self.ties is None else self.ties.leant
        try:
            if self.ties is None:
                result = self.predictor.predict(rows, outputs)
            else:
                result = self.ties.predict(rows, outputs, may_wait=self.may_wait)
        except MustWait:
            raise
        except Exception as error:
            self._refused(rows, outputs, error)
            raise
        taken = time.perf_counter() - started
        if self.ties is None or self.ties.leant == leant:  # what the original takes says nothing of the form
            self.cost.learn(rows.n, taken)
        self.compute_seconds.observe(taken)
        self._infer_ns.add(int(taken * 1e9) * requests)
        self._called_ms.set(int(time.time() * 1000))
        self.batch_rows.observe(rows.n)
        self.batches.add()
        self.rows.add(rows.n)
        self.unchecked -= rows.n
        if self.unchecked < 0:
            self._checked(rows, outputs, result)
        return result

    # -- the shadow check

    def watch(self, shadow: Shadow, on_violation: Callable[[Violation], None]) -> None:
        """Have rows that a proved form answers checked; `on_violation` is called in a thread."""
        if isinstance(self.predictor, Sized):
            self.check = Check(shadow, self.model, self.predictor, self._metrics, on_violation)
            self.unchecked = shadow.every - 1

    def lean(self, open_original: Callable[[ModelSource], Predictor]) -> None:
        """Leave rows near a tie to the original, where the form is one that says so."""
        form = self.predictor
        if isinstance(form, Sized) and any(part.margin for part in form.parts):
            self.ties = Ties(form, self.model, open_original, self._metrics)

    def _checked(self, rows: Rows, outputs: tuple[str, ...], result: Outputs) -> None:
        check = self.check
        if check is None:
            return
        first = rows.n + int(self.unchecked)
        self.unchecked %= check.every
        check.take(rows, outputs, result, first)

    def _refused(self, rows: Rows, outputs: tuple[str, ...], error: Exception) -> None:
        """A row that the form refuses counts as well; of a call of several it is not known which one that is."""
        if self.check is None or rows.n != 1:
            return
        self.unchecked -= 1
        if self.unchecked < 0:
            self.unchecked += self.check.every
            self.check.refused(rows, outputs, error)

    async def give_up_form(self, why: str, original: Callable[[], HostedPredictor], *, keep: bool) -> None:
        """Answer from the original, in a process of its own, as soon as that is up; until then refuse, unless `keep`.

        `original` gives a predictor that is not started yet.
        """
        if self.given_up:
            return
        self.given_up = why
        self._stop_checking()
        self.ties, ties = None, self.ties
        if ties is not None:
            self.thread.submit(ties.close)  # behind the call that may be asking it
        self._form, probe = self.predictor, self.model.probe
        assert probe is not None
        if not keep:
            self.predictor = Barred(f"{self.name}@{self.version}")
        while not self._closed:
            hosted = original()
            try:
                cost = await asyncio.to_thread(_measured, hosted, probe.slice(0, 1), self.native_outputs)
            except (HostFailed, LoadFailed) as error:
                hosted.close()
                log.error("%s@%s: the original is not up yet: %s", self.name, self.version, error.message)
                await asyncio.sleep(RETRY_S)
                continue
            if self._closed:
                hosted.close()
                return
            self.cost, self.threaded = cost, True
            self.predictor = self.model.predictor = self.hosted = hosted
            return

    def _stop_checking(self) -> None:
        self.unchecked = math.inf
        if self.check is not None:
            self.check.close()
            self.check = None

    def count_answer(self, protocol: str, status: int) -> None:
        """Count one answered request."""
        key = (protocol, status)
        add = self._answered.get(key)
        if add is None:
            counter = self._metrics.counter("lagar_requests", self.name, self.version, protocol, str(status))
            add = self._answered[key] = counter.add
        add(1)

    def count_rejection(self, reason: str) -> None:
        """Count one request that never reached the model."""
        add = self._rejected.get(reason)
        if add is None:
            counter = self._metrics.counter("lagar_rejected", self.name, self.version, reason)
            add = self._rejected[reason] = counter.add
        add(1)

    async def drained(self) -> None:
        """Return when nothing waits here and nothing runs."""
        while self.waiting or self.running:
            self._emptied = asyncio.Event()
            await self._emptied.wait()

    def told_empty(self) -> None:
        """Called by the batcher when a retired version has nothing left to do."""
        if self._emptied is not None:
            self._emptied.set()

    def close(self) -> None:
        self._closed = True
        self._stop_checking()
        if self.ties is not None:
            self.ties.close()
        self.thread.stop()
        self.predictor.close()
        if self._form is not None and self._form is not self.predictor:
            self._form.close()


class Barred:
    """Stands for a form that was given up while the original is not up yet (types.Predictor)."""

    def __init__(self, label: str) -> None:
        self._label = label

    def predict(self, rows: Rows, outputs: tuple[str, ...]) -> Outputs:
        """Raises NotReady."""
        raise NotReady(
            f"{self._label}: its compiled form was wrong on a row, and the original is being loaded; try again",
            retry_after_s=1,
        )

    def close(self) -> None:
        """Nothing is held."""


def _measured(predictor: Predictor, row: Rows, outputs: tuple[str, ...]) -> Cost:
    """What calls of a predictor cost; the first one, which may start it, is not counted."""
    predictor.predict(row, outputs)
    cost = Cost()
    for size in (1, 8, 1, 8):
        rows = Rows.join([row] * size)
        started = time.perf_counter()
        predictor.predict(rows, outputs)
        cost.learn(size, time.perf_counter() - started)
    return cost


class ModelThread:
    """The one thread in which a version's slow calls run, started on first need.

    A daemon: a model that never returns must not keep the process from ending.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def submit(self, job: Callable[[], None]) -> None:
        """Run job after the ones before it; it must catch its own exceptions."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()
        self._jobs.put(job)

    def stop(self) -> None:
        self._jobs.put(None)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()


def _alike(alone: Array, beside: Array) -> bool:
    """Equal but for the jitter between one row and many: labels exactly, numbers to 1e-5."""
    if alone.shape != beside.shape:
        return False
    if alone.dtype.kind in "fc":
        return bool(np.allclose(alone, beside, rtol=1e-5, atol=1e-8, equal_nan=True))
    return bool(np.array_equal(alone, beside))
