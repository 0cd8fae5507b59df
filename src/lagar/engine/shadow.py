"""The shadow check: some of the rows that a proved form has answered are put to the original too.

The request path counts rows down and, for one in so many, copies the row and its answer into a bounded queue; a thread
asks the original, which lives in a host process, and compares by what the form was proved to.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np

from lagar.engine.host import HostFailed
from lagar.errors import LagarError, LoadFailed
from lagar.metrics import Registry
from lagar.registry.model import LoadedModel, ModelSource
from lagar.registry.proof import Criterion, Violation
from lagar.registry.signature import Signature
from lagar.runtimes import sized
from lagar.runtimes.comparison import (
    SLACK,
    differences_of,
    is_label,
    outcome,
    record_of,
    same_labels,
    shape_problem,
    value_of,
)
from lagar.types import Array, Outputs, Predictor, Rows

WAITING: Final = 64
"""Rows that wait for the original; what comes while so many wait is dropped, and counted."""
_PER_CALL: Final = 8
_COMPANY: Final = (2, 7, 32)
"""A row that differs is asked for again among so many of itself: the original may not be sure either."""
LIVE: Final = "live"
"""The kind of row in a violation that callers have sent."""

log = logging.getLogger("lagar.engine")


class Sample(NamedTuple):
    """One live row and what the form made of it."""

    check: Check
    rows: Rows
    """The row, a copy."""
    size: int
    """Rows in the call that it was in."""
    outputs: tuple[str, ...]
    answer: Outputs | None
    refusal: str
    """The class of the refusal, "" for an answer."""


class Check:
    """What is checked of one version; `take` and `refused` are called where it answers, the rest in the thread."""

    def __init__(
        self, shadow: Shadow, model: LoadedModel, form: sized.Sized, metrics: Registry,
        on_violation: Callable[[Violation], None],
    ) -> None:  # fmt: skip
        source, labels = model.source, (model.source.name, model.source.version)
        self.name = f"{source.name}@{source.version}"
        self.source = source
        self.signature = model.signature
        self.original: Predictor | None = None
        self.closed = False
        self.on_violation = on_violation
        self.every = shadow.every
        self._shadow = shadow
        self._form = form
        self._dropped = metrics.counter("lagar_shadow_rows", *labels, "dropped")
        self.results = {
            result: metrics.counter("lagar_shadow_rows", *labels, result) for result in ("same", "different", "failed")
        }
        self.violations = metrics.counter("lagar_shadow_violations", *labels)

    def take(self, rows: Rows, outputs: tuple[str, ...], answer: Outputs, first: int) -> None:
        """Check the row at `first` and those that many behind it; never waits."""
        if self._form.criterion(rows.n) is None:
            return
        for place in range(first, rows.n, self.every)[:_PER_CALL]:
            own = {name: values[place : place + 1].copy() for name, values in answer.items()}
            self._put(Sample(self, _copied(rows, place), rows.n, outputs, own, ""))

    def refused(self, rows: Rows, outputs: tuple[str, ...], error: BaseException) -> None:
        """Check that the original refuses a row too."""
        if self._form.criterion(rows.n) is None:
            return
        code = error.code if isinstance(error, LagarError) else "model_failed"
        self._put(Sample(self, _copied(rows, 0), 1, outputs, None, code))

    def criterion(self, size: int) -> Criterion:
        found = self._form.criterion(size)
        assert found is not None
        return found

    def close(self) -> None:
        """Nothing more is checked; the original's process ends when nobody else asks it."""
        self.closed = True
        self._shadow.end(self)

    def _put(self, sample: Sample) -> None:
        if self.closed or not self._shadow.put(sample):
            self._dropped.add()


class Shadow:
    """The checks of one worker, with the one thread that they run in; it is started on first need."""

    def __init__(self, rate: float, open_original: Callable[[ModelSource], Predictor]) -> None:
        """`rate` is the share of rows that is checked, more than 0; `open_original` gives a version's original."""
        self.every = max(1, round(1 / rate))
        self._open = open_original
        self._samples: queue.Queue[Sample | None] = queue.Queue(WAITING)
        self._ended: queue.SimpleQueue[Check] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def put(self, sample: Sample) -> bool:
        """Have a row checked; False when too many wait."""
        try:
            self._samples.put_nowait(sample)
        except queue.Full:
            return False
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="shadow check", daemon=True)
            self._thread.start()
        return True

    def end(self, check: Check) -> None:
        """Let go of a version's original."""
        self._ended.put(check)
        try:
            self._samples.put_nowait(None)
        except queue.Full:
            return  # the thread comes by when it has done those that wait

    def _run(self) -> None:
        while True:
            sample = self._samples.get()
            while not self._ended.empty():
                original, ended = None, self._ended.get()
                original, ended.original = ended.original, None
                if original is not None:
                    original.close()
            if sample is None or sample.check.closed:
                continue
            try:
                self._look(sample)
            except Exception:  # the check must not end with one odd row
                log.exception("%s: the shadow check of a row failed", sample.check.name)
                sample.check.results["failed"].add()

    def _look(self, sample: Sample) -> None:
        check = sample.check
        try:
            if check.original is None:
                check.original = self._open(check.source)
            found = violation_of(sample, check.original, check.criterion(sample.size), check.signature)
        except LoadFailed as error:
            check.closed = True
            check.results["failed"].add()
            log.error("%s is not checked any more: its original does not load: %s", check.name, error.message)
            return
        except HostFailed as error:
            check.results["failed"].add()
            log.warning("%s: a row could not be checked: %s", check.name, error.message)
            return
        check.results["same" if found is None else "different"].add()
        if found is not None:
            check.violations.add()
            check.closed = True
            check.on_violation(found)


def violation_of(sample: Sample, original: Predictor, criterion: Criterion, signature: Signature) -> Violation | None:
    """How a form's answer is not the original's, by what it was proved to; None where it is.

    A row whose answer the original itself changes with the rows beside it is none. Raises HostFailed, LoadFailed.
    """
    wanted, refusal = _asked(original, sample.rows, sample.outputs)
    found = _differs(sample, wanted, refusal, criterion, signature, {})
    if found is None:
        return None
    if wanted is not None and sample.answer is not None:
        own = _own(original, sample.rows, sample.outputs, wanted, signature)
        if own is None or (not criterion.exact and _near_tie(original, sample.rows, own, signature)):
            return None
        found = _differs(sample, wanted, refusal, criterion, signature, own)
    if found is None:
        return None
    name, was, got, words = found
    return Violation(LIVE, sample.size, record_of(sample.rows, 0, signature), name, was, got, words)


def _differs(
    sample: Sample, wanted: Outputs | None, refusal: str, criterion: Criterion, signature: Signature,
    own: dict[str, float],
) -> tuple[str, Any, Any, str] | None:  # fmt: skip
    """The first output that differs: its name, the original's value, the form's, and why; None for none."""
    if sample.refusal != refusal or wanted is None or sample.answer is None:
        said, instead = outcome(refusal, wanted), outcome(sample.refusal, sample.answer)
        return None if said == instead else ("", said, instead, f"the original says {said}, the form {instead}")
    for name, was in wanted.items():
        got = sample.answer.get(name)
        if got is None:
            return name, value_of(was, 0), None, "there is no such output"
        problem = shape_problem(was, got)
        if not problem and is_label(signature, name, was):
            problem = "" if bool(same_labels(was, got).all()) else "another label"
        elif not problem and not _close(was, got, criterion, own.get(name, 0.0)):
            problem = f"further apart than what was proved, {criterion.words()}"
        if problem:
            return name, value_of(was, 0), value_of(got, 0), problem
    return None


def _close(was: Array, got: Array, criterion: Criterion, own: float) -> bool:
    with np.errstate(invalid="ignore", over="ignore"):
        allowed = np.maximum(criterion.absolute + criterion.relative * np.abs(was), SLACK * own)
        near = np.abs(got - was) <= allowed
    return bool(np.all((was == got) | (np.isnan(was) & np.isnan(got)) | near))


def _own(
    original: Predictor, row: Rows, outputs: tuple[str, ...], alone: Outputs, signature: Signature
) -> dict[str, float] | None:
    """Per output how much the original's numbers for a row change in company; None where its label does."""
    own = dict.fromkeys(alone, 0.0)
    for size in _COMPANY:
        beside, _ = _asked(original, Rows.join([row] * size), outputs)
        for name, values in (beside or {}).items():
            was = np.repeat(alone[name], size, axis=0)
            if not is_label(signature, name, values):
                own[name] = max(own[name], float(differences_of(was, values).max()))
            elif not same_labels(was, values).all():
                return None
    return own


def _near_tie(original: Predictor, row: Rows, own: dict[str, float], signature: Signature) -> bool:
    """Whether the two likeliest classes are nearer than the original's own answers are to each other."""
    name = "predict_proba"
    if name not in {output.name for output in signature.outputs}:
        return False
    answer, _ = _asked(original, row, (name,))
    shares = (answer or {}).get(name)
    if shares is None or shares.ndim != 2 or shares.shape[1] < 2:
        return False
    top = np.sort(shares[0])
    return bool(top[-1] - top[-2] <= SLACK * max(own.get(name, 0.0), float(np.finfo(np.float64).eps)))


def _asked(original: Predictor, rows: Rows, outputs: tuple[str, ...]) -> tuple[Outputs | None, str]:
    """The original's answer and "", or None and the class of its refusal; raises HostFailed when it is gone."""
    try:
        return original.predict(rows, outputs), ""
    except HostFailed as error:
        if error.__cause__ is None:  # else the model itself has raised, there
            raise
        return None, "model_failed"
    except LoadFailed:
        raise
    except LagarError as error:
        return None, error.code
    except Exception:
        return None, "model_failed"


def _copied(rows: Rows, place: int) -> Rows:
    row = rows.slice(place, place + 1)
    if row.matrix is not None:
        return Rows(1, matrix=row.matrix.copy())
    assert row.columns is not None
    return Rows(1, columns={name: column.copy() for name, column in row.columns.items()})
