"""Joins what arrived in one turn of the event loop into one call of the model.

No timer and no waiting window: alone, a request runs at once; under load batches grow by themselves. A version known
to be quick runs inline, within a budget per turn that keeps the loop free; any other runs in its own thread, and what
arrives meanwhile is its next batch.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any, Protocol

from lagar.engine.deployment import Deployment
from lagar.engine.ties import MustWait
from lagar.errors import DeadlineExceeded, LagarError, ModelFailed, NotReady, Overloaded, RequestError
from lagar.types import Outputs, Rows

TURN_BUDGET_S = 0.001
"""What inline calls may take of one turn of the loop."""
THREAD_CALL_S = 0.025
"""What one call in a thread may take: longer batches are cut, so that a small request is not stuck behind them."""
INLINE_ROWS = 4096
"""More rows than this never run inline: a cost learned from small calls is not believed that far."""
STUCK_DEADLINES = 3
"""A call still running after so many of the server's own deadlines is given up; a caller's own does not count."""

log = logging.getLogger("lagar.engine")


class Sink(Protocol):
    """Who waits for a call: a connection of the fast lane, or a future of the ASGI lane."""

    def answered(self, call: Call) -> None:
        """Called on the loop, once, when call.outputs or call.error is set."""
        ...


class Call:
    """One admitted request on its way through the engine."""

    __slots__ = (
        "deadline", "deployment", "done", "error", "left", "n", "outputs", "prepare", "queued", "received", "request",
        "result", "rows", "shape", "shaped", "sink",
    )  # fmt: skip

    def __init__(
        self,
        deployment: Deployment,
        outputs: tuple[str, ...],
        n: int,
        sink: Sink,
        *,
        rows: Rows | None,
        request: Any = None,
        received: float,
        deadline: float,
        prepare: Callable[[], Rows] | None = None,
        shape: Callable[[Outputs], Any] | None = None,
    ) -> None:
        self.deployment = deployment
        self.outputs = outputs
        self.n = n
        self.sink = sink
        self.rows = rows
        self.request = request
        self.received = received
        """time.perf_counter() when the last byte came."""
        self.deadline = deadline
        """On the same clock."""
        self.prepare = prepare
        """The user's preprocess and the validation behind it; runs in the model's thread."""
        self.shape = shape
        """The user's postprocess; runs in the model's thread."""
        self.shaped: Any = None
        self.result: Outputs | None = None
        self.error: RequestError | None = None
        self.queued = False
        """Its rows count against the limit of its model's queue."""
        self.left = False
        """Its caller has ended its side of the connection: gone, or only waiting for the answer; nobody can tell."""
        self.done = False
        """Set when answered, cancelled or expired: whoever comes later leaves it alone."""


class Batcher:
    """All queues of one event loop."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, on_stuck: Callable[[Deployment], None], *, request_timeout_s: float
    ) -> None:
        self._loop = loop
        self._stuck_after_s = STUCK_DEADLINES * request_timeout_s
        self._pending: dict[Deployment, None] = {}
        self._turn_scheduled = False
        self._on_stuck = on_stuck
        self._expiry: asyncio.TimerHandle | None = None
        self._next_expiry = float("inf")
        self._threads: set[Deployment] = set()
        self.closed = False

    # -- admission

    def submit(self, call: Call) -> None:
        """Queue a call; raises Overloaded when its model's queue is full."""
        deployment = call.deployment
        if self.closed:
            raise NotReady("the server is shutting down; send the request to another server", retry_after_s=1)
        held = deployment.waiting_rows
        if held and held + call.n > deployment.max_queue_rows and not self._make_room(call):
            raise _overloaded(deployment)
        deployment.waiting.append(call)
        deployment.waiting_rows += call.n
        call.queued = True
        if deployment.running:
            deployment.queue_gauge.set(deployment.waiting_rows)
            self._watch(call.deadline)
            return
        self._pending[deployment] = None
        if not self._turn_scheduled:
            self._turn_scheduled = True
            self._loop.call_soon(self._turn)

    def cancel(self, call: Call) -> None:
        """The caller is gone: a waiting call leaves the queue, a running one is finished for its neighbours only."""
        call.done = True
        _unqueue(call)

    def left(self, call: Call) -> None:
        """The caller has ended its side of the connection: where the queue is full, its place goes to another."""
        call.left = call.deployment.has_left = True

    def _make_room(self, call: Call) -> bool:
        """Refuse waiting calls whose callers have left, the oldest first, if that lets this one in."""
        deployment = call.deployment
        if not deployment.has_left:  # a full queue is not walked through for every refusal
            return False
        gone = [other for other in deployment.waiting if other.left and not other.done]
        needed = deployment.waiting_rows + call.n - deployment.max_queue_rows
        deployment.has_left = bool(gone)
        if sum(other.n for other in gone) < min(needed, deployment.waiting_rows):
            return False
        for other in gone:
            if deployment.waiting_rows == 0 or deployment.waiting_rows + call.n <= deployment.max_queue_rows:
                break
            other.error = _overloaded(deployment)
            other.done = True
            _unqueue(other)
            other.sink.answered(other)
        _forget_done(deployment)
        return True

    # -- one turn of the loop

    def _turn(self) -> None:
        self._turn_scheduled = False
        budget = TURN_BUDGET_S
        for deployment in list(self._pending):
            del self._pending[deployment]
            if deployment.running or not deployment.waiting:
                continue
            # A call that does not fit an otherwise untouched turn goes to the thread; one that fits waits its turn.
            allowance = 0 if deployment.threaded else min(deployment.cost.rows_within(TURN_BUDGET_S), INLINE_ROWS)
            if allowance < 1 or deployment.waiting[0].n > allowance:
                self._start_thread(deployment)
            elif deployment.cost.of(1) > budget:
                self._pending[deployment] = None
            else:
                rows = min(deployment.cost.rows_within(budget), INLINE_ROWS)
                budget -= self._run_inline(deployment, max(1, rows))
        if self._pending and not self._turn_scheduled:
            self._turn_scheduled = True
            self._loop.call_soon(self._turn)

    def _take(self, deployment: Deployment, max_rows: int) -> list[Call]:
        """The next calls that can share one call of the model: same outputs, in order, within max_rows, or just one."""
        waiting = deployment.waiting
        taken: list[Call] = []
        rows = 0
        now = time.perf_counter()
        while waiting:
            call = waiting[0]
            if call.done:
                waiting.popleft()
                continue
            if call.deadline <= now:
                waiting.popleft()
                self._expire(call)
                continue
            full = rows + call.n > max_rows or not deployment.joinable
            if taken and (full or call.outputs != taken[0].outputs):
                break
            waiting.popleft()
            _unqueue(call)
            rows += call.n
            taken.append(call)
            deployment.queue_seconds.observe(now - call.received)
        deployment.queue_gauge.set(deployment.waiting_rows)
        return taken

    def _run_inline(self, deployment: Deployment, max_rows: int) -> float:
        calls = self._take(deployment, max_rows)
        if not calls:
            deployment.told_empty()
            return 0.0
        started = time.perf_counter()
        if not _predict_at_once(deployment, calls):
            self._to_thread(deployment, calls)
            return time.perf_counter() - started
        for call in calls:
            self._finish(call)
        if deployment.waiting:
            self._pending[deployment] = None
        elif deployment.retired:
            deployment.told_empty()
        return time.perf_counter() - started

    # -- in the version's thread

    def _start_thread(self, deployment: Deployment) -> None:
        cost = deployment.cost
        # A call that is slow whatever its size is not made for one row each: its fixed part may double.
        limit = max(1, cost.rows_within(max(THREAD_CALL_S, 2 * cost.fixed_s)))
        calls = self._take(deployment, limit)
        if not calls:
            deployment.told_empty()
            return
        self._to_thread(deployment, calls)

    def _to_thread(self, deployment: Deployment, calls: list[Call]) -> None:
        deployment.running = calls
        deployment.running_since = time.perf_counter()
        self._threads.add(deployment)
        self._watch(min(call.deadline for call in calls))
        deployment.thread.submit(lambda: self._run_in_thread(deployment, calls))

    def _run_in_thread(self, deployment: Deployment, calls: list[Call]) -> None:
        _predict(deployment, calls)
        try:
            self._loop.call_soon_threadsafe(self._thread_done, deployment, calls)
        except RuntimeError:
            log.debug("the loop ended before model %s did", deployment.name)

    def _thread_done(self, deployment: Deployment, calls: list[Call]) -> None:
        deployment.running = []
        self._threads.discard(deployment)
        for call in calls:
            self._finish(call)
        if deployment.retired and not deployment.waiting:
            deployment.told_empty()
        if deployment.waiting:
            # Two turns later: the answers just written bring the next requests, and one call serves them together.
            self._pending[deployment] = None
            if not self._turn_scheduled:
                self._turn_scheduled = True
                self._loop.call_soon(self._loop.call_soon, self._turn)

    # -- ends

    def _finish(self, call: Call) -> None:
        if call.done:
            return
        call.done = True
        call.sink.answered(call)

    def _expire(self, call: Call) -> None:
        if call.done:
            return
        allowed = call.deadline - call.received
        call.error = DeadlineExceeded(
            f"model '{call.deployment.name}' did not answer within {allowed:g} s; "
            "try again, or ask for more time with the header 'timeout' (seconds)",
            retry_after_s=1,
        )
        call.deployment.count_rejection("deadline")
        call.done = True
        _unqueue(call)
        call.sink.answered(call)

    def _watch(self, deadline: float) -> None:
        """See to it that somebody looks at the deadlines when this one is due."""
        if deadline < self._next_expiry:
            self._next_expiry = deadline
            if self._expiry is not None:
                self._expiry.cancel()
            self._expiry = self._loop.call_later(max(deadline - time.perf_counter(), 0.001), self._expire_due)

    def _expire_due(self) -> None:
        self._expiry = None
        self._next_expiry = float("inf")
        now = time.perf_counter()
        for deployment in list(self._threads):
            for call in [*deployment.running, *deployment.waiting]:
                if call.done:
                    continue
                if call.deadline <= now:
                    self._expire(call)
                else:
                    self._next_expiry = min(self._next_expiry, call.deadline)
            _forget_done(deployment)
            self._look_for_stuck(deployment, now)
        if self._next_expiry < float("inf"):
            due, self._next_expiry = self._next_expiry, float("inf")
            self._watch(due)

    def _look_for_stuck(self, deployment: Deployment, now: float) -> None:
        if now - deployment.running_since >= self._stuck_after_s:
            if deployment.stuck_since != deployment.running_since:
                deployment.stuck_since = (
                    deployment.running_since
                )  # told once, however often its deadlines are looked at
                self._on_stuck(deployment)
        else:
            self._next_expiry = min(self._next_expiry, deployment.running_since + self._stuck_after_s)

    @property
    def idle(self) -> bool:
        """True when nothing waits and nothing runs."""
        return not self._threads and not self._pending


def _overloaded(deployment: Deployment) -> Overloaded:
    """The refusal of a call for which the queue has no place; counted."""
    deployment.count_rejection("queue_full")
    held = deployment.waiting_rows
    return Overloaded(
        f"the queue of model '{deployment.name}' is full ({held} rows wait, the limit is "
        f"{deployment.max_queue_rows}); try again after the Retry-After time",
        retry_after_s=max(1.0, deployment.cost.of(held)),
    )


def _unqueue(call: Call) -> None:
    """A call leaves its queue, or nobody waits for it any more: its rows make room for others."""
    if call.queued:
        call.queued = False
        call.deployment.waiting_rows -= call.n


def _forget_done(deployment: Deployment) -> None:
    """Drop calls that were cancelled or expired behind a slow one: what they hold is bounded by nothing."""
    waiting = [call for call in deployment.waiting if not call.done]
    if len(waiting) < len(deployment.waiting):
        deployment.waiting.clear()
        deployment.waiting.extend(waiting)
        deployment.queue_gauge.set(deployment.waiting_rows)


def _predict_at_once(deployment: Deployment, calls: list[Call]) -> bool:
    """As `_predict`, on the loop; False where that would have to wait, and nothing is done."""
    deployment.may_wait = False
    try:
        _predict(deployment, calls)
    except MustWait:
        return False
    finally:
        deployment.may_wait = True
    return True


def _predict(deployment: Deployment, calls: list[Call]) -> None:
    """Fill in result or error of every call; raises nothing but MustWait."""
    ready = [call for call in calls if call.prepare is None or _guarded(call, _prepare)]
    if ready:
        _predict_joined(deployment, ready)
    for call in ready:
        if call.shape is not None and call.error is None:
            _guarded(call, _shape)


def _prepare(call: Call) -> None:
    assert call.prepare is not None
    call.rows = call.prepare()


def _shape(call: Call) -> None:
    assert call.shape is not None
    assert call.result is not None
    call.shaped = call.shape(call.result)


def _predict_joined(deployment: Deployment, calls: list[Call]) -> None:
    """One call of the model for all; when it raises, halves, until the poisonous request stands alone."""
    try:
        if len(calls) == 1:
            call = calls[0]
            assert call.rows is not None
            call.result = _checked(deployment, deployment.predict(call.rows, call.outputs), call.rows.n)
            return
        joined = Rows.join([call.rows for call in calls if call.rows is not None])
        result = _checked(deployment, deployment.predict(joined, calls[0].outputs, len(calls)), joined.n)
    except MustWait:
        raise
    except BaseException as error:  # sys.exit() and a Rust library's panic are none of Exception
        if len(calls) == 1:
            calls[0].error = _as_request_error(error, calls[0])
            return
        middle = len(calls) // 2
        _predict_joined(deployment, calls[:middle])
        _predict_joined(deployment, calls[middle:])
        return
    start = 0
    for call in calls:
        assert call.rows is not None
        stop = start + call.rows.n
        call.result = {name: array[start:stop] for name, array in result.items()}
        start = stop


def _checked(deployment: Deployment, result: Outputs, n: int) -> Outputs:
    """The model's word is not taken for it: an output with another number of rows would shift every answer."""
    for name, array in result.items():
        if len(array) != n:
            raise LagarError(f"output '{name}' of {deployment.name} has {len(array)} rows for {n} rows of input")
    return result


def _guarded(call: Call, step: Callable[[Call], None]) -> bool:
    try:
        step(call)
    except BaseException as error:
        call.error = _as_request_error(error, call)
        return False
    return True


def _as_request_error(error: BaseException, call: Call) -> RequestError:
    if isinstance(error, RequestError):
        return error
    deployment = call.deployment
    known = {"request_id": getattr(call.request, "request_id", None)}
    log.error("model %s@%s raised", deployment.name, deployment.version, exc_info=error, extra=known)
    return ModelFailed(f"model '{deployment.name}' failed on this request; the server's log has the reason")
