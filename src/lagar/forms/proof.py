"""The proof: a candidate gives what the original gives, on hostile rows, alone and in company, errors included.

An `Exam` is written once per original: its rows, in calls of several sizes, with what the original answers or how it
refuses. Each candidate sits the same exam. Numbers are held to the family's criterion, but never tighter than the
original holds itself to: four times what its own answers differ by between one row and many, per kind of rows.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lagar.errors import LagarError
from lagar.forms.original import Original
from lagar.forms.rows import ORDINARY, Group
from lagar.registry.proof import Criterion, Violation
from lagar.registry.signature import Signature
from lagar.runtimes.comparison import (
    NEAR,
    SHARES,
    SLACK,
    differences_of,
    is_label,
    margins_of,
    outcome,
    record_of,
    same_labels,
    shape_problem,
    value_of,
)
from lagar.types import Array, Outputs, Predictor, Rows

SIZES: Final = (1000, 32, 7, 3, 2, 1)
"""The first two are asked for every row, the others for some."""
_FEW: Final = {7: 30, 3: 40, 2: 40, 1: 480}
"""Calls of the original of the smaller sizes; a candidate answers every row alone."""
_SINGLE_S: Final = 6.0
"""Seconds that the original's single rows may take."""
_UNSTEADY: Final = 1e-5
"""A relative difference of the original to itself on ordinary rows above which its answers depend on company."""
_LEAST_MARGIN: Final = 1e-12
"""Of a form that leaves any row to the original: without a margin nobody looks."""
_RARELY: Final = 100
"""One ordinary row in so many may lie near a tie for a form that leaves such rows to the original."""


class NotProvable(Exception):
    """The original gives no steady answers to be held to; the message says how."""


class Call(NamedTuple):
    """One call of the exam and what the original did: an answer, or the class of its refusal."""

    rows: NDArray[np.intp]
    answer: Outputs | None
    refusal: str


class Refused(NamedTuple):
    """A row that the original refuses alone, and how it refuses it among rows that it answers."""

    kind: str
    row: Rows
    refusal: str
    among: Rows
    refusal_among: str


class Result(NamedTuple):
    """What a candidate's exam showed."""

    rows: int
    calls: int
    worst: float
    violation: Violation | None
    margin: float = 0.0
    """Rows whose two likeliest classes are no further apart are to be left to the original."""
    words: str = ""
    """Why it is of no use, though it is not wrong."""


class Exam:
    """The rows of a proof with the original's answers; pure data once it is made."""

    def __init__(self, original: Original, groups: Sequence[Group], *, seed: int = 0) -> None:
        self.signature: Signature = original.signature
        self.outputs = original.outputs
        self._random = np.random.default_rng(seed)
        good, kinds, refused = _sorted_out(original, groups)
        if good is None:
            raise NotProvable("the original answers none of the rows that were made for it")
        self.rows = good
        self.kinds = kinds
        self.kind_names = tuple(dict.fromkeys(kinds.tolist()))
        self.counts = {group.kind: group.rows.n for group in groups}
        self.groups = np.char.add(np.char.add(kinds, "/"), _magnitudes(good))
        """Rows of a kind whose numbers are about as large: what the original's jitter is measured for."""
        self.calls = list(self._asked(original))
        self.reference = self._referred()
        self.jitter, self.undecided = self._measured()
        self.refused = [self._in_company(original, *each) for each in _spread(refused, 120)]
        self.refused_rows = len(refused)
        self._check_steady()

    @property
    def worst_jitter(self) -> float:
        """The largest difference of the original to itself, on rows of every day: of 1e300 it says nothing."""
        found = [value for by_group in self.jitter.values() for group, value in by_group.items() if _everyday(group)]
        return max(map(float, found), default=0.0)

    def ordinary(self) -> Rows:
        """Rows of every day that the original answers: what time is measured with."""
        picked = np.flatnonzero(np.isin(self.kinds, ORDINARY))
        return self.rows.take(picked if len(picked) else np.arange(self.rows.n))

    def sit(self, candidate: Predictor, criterion: Criterion, *, leans: bool = False) -> Result:
        """Have a candidate answer everything; ends at the first violation.

        One that `leans` may be wrong about the label of a row near a tie: the original will answer those.
        """
        tally = _Tally(self, criterion, leans)
        calls = 0
        for call in (*self.calls, *self._singles()):
            calls += 1
            answer, refusal = _ask(candidate, self.rows.take(call.rows), self.outputs)
            tally.compare(call, answer, refusal)
            if tally.violation is not None:
                return Result(self.rows.n + len(self.refused), calls, tally.worst, tally.violation)
        for case in self.refused:
            calls += 2
            violation = self._refusals(candidate, case)
            if violation is not None:
                return Result(self.rows.n + len(self.refused), calls, tally.worst, violation)
        margin, turned = tally.leaning()
        words = "" if turned else self._too_often(margin, tally.left)
        return Result(self.rows.n + len(self.refused), calls, tally.worst, turned, margin, words)

    def _too_often(self, margin: float, left: NDArray[np.bool_]) -> str:
        """Why a form is of no use that leaves these rows and those within the margin to the original; "" if it is."""
        if not margin:
            return ""
        everyday = np.isin(self.kinds, ORDINARY)
        near = int(np.sum(left[everyday] | (margins_of(self.reference[SHARES][everyday]) <= margin)))
        if near <= max(1, int(everyday.sum()) // _RARELY):
            return ""
        return f"{near} of {int(everyday.sum())} ordinary rows lie so near a tie that the original would answer them"

    # How it is made.

    def _asked(self, original: Original) -> Iterator[Call]:
        order = self._random.permutation(self.rows.n)
        for size in SIZES:
            until = time.monotonic() + _SINGLE_S
            for place, start in enumerate(range(0, self.rows.n, size)):
                if size in _FEW and (place >= _FEW[size] or time.monotonic() > until):
                    break
                index = order[start : start + size]
                answer, refusal = _ask(original.predictor, self.rows.take(index), self.outputs)
                yield Call(index, answer, refusal)
            order = self._random.permutation(self.rows.n)
            if size == 2:  # next come single rows: where answers turn it shows first whether the original is steady
                order = np.concatenate([order[self.kinds[order] == "edges"], order[self.kinds[order] != "edges"]])
        first = np.sort(order[:32])
        for _ in range(2):  # the same call again: a model may draw lots
            answer, refusal = _ask(original.predictor, self.rows.take(first), self.outputs)
            yield Call(first, answer, refusal)

    def _singles(self) -> Iterator[Call]:
        """Every row alone, against the reference."""
        for row in range(self.rows.n):
            index = np.array([row])
            yield Call(index, {name: values[index] for name, values in self.reference.items()}, "")

    def _referred(self) -> Outputs:
        """One answer per row: that of the largest call which had one."""
        answers: dict[str, Array] = {}
        open_rows = np.ones(self.rows.n, dtype=bool)
        for call in self.calls:
            if call.answer is None:
                continue
            new = open_rows[call.rows]
            for name, values in call.answer.items():
                if name not in answers:
                    answers[name] = np.empty((self.rows.n, *values.shape[1:]), dtype=values.dtype)
                if values.dtype.kind == "U" and values.dtype.itemsize > answers[name].dtype.itemsize:
                    answers[name] = answers[name].astype(values.dtype)
                answers[name][call.rows[new]] = values[new]
            open_rows[call.rows] = False
            if not open_rows.any():
                return answers
        raise NotProvable("the original refuses in company rows that it answers alone")

    def _measured(self) -> tuple[dict[str, dict[str, float]], NDArray[np.bool_]]:
        """Per output and group what the original differs from itself, and rows whose answer it cannot decide."""
        groups = np.unique(self.groups).tolist()
        jitter = {name: dict.fromkeys(groups, 0.0) for name in self.reference if not self.is_label(name)}
        undecided = np.zeros(self.rows.n, dtype=bool)
        for call in self.calls:
            for name, values in (call.answer or {}).items():
                was = self.reference[name][call.rows]
                if self.is_label(name):
                    undecided[call.rows] |= ~same_labels(was, values)
                    continue
                differences = differences_of(was, values)
                undecided[call.rows] |= np.isinf(differences)
                differences[np.isinf(differences)] = 0.0
                here = self.groups[call.rows]
                for group in np.unique(here[differences > 0.0]).tolist():
                    jitter[name][group] = max(jitter[name][group], float(np.max(differences[here == group])))
        for by_group in jitter.values():
            least = max((value for group, value in by_group.items() if _everyday(group)), default=0.0)
            by_group |= {group: max(value, least) for group, value in by_group.items()}
        edges = self.kinds == "edges"
        if "predict_proba" not in self.reference and np.any(undecided & edges):
            undecided |= edges  # the label turns where a score passes zero, and rounding decides on which side
        return jitter, undecided | self._near_ties(jitter.get("predict_proba", {}))

    def _near_ties(self, jitter: dict[str, float]) -> NDArray[np.bool_]:
        """Rows whose two likeliest classes are nearer than the original's own answers are to each other."""
        probabilities = self.reference.get("predict_proba")
        if probabilities is None or probabilities.ndim != 2 or probabilities.shape[1] < 2 or not any(jitter.values()):
            return np.zeros(self.rows.n, dtype=bool)
        own = SLACK * _each(jitter, self.groups)
        return np.asarray((own > 0) & (margins_of(probabilities) <= own))

    def _check_steady(self) -> None:
        everyday = np.isin(self.kinds, ORDINARY)
        loose = int(np.sum(self.undecided & everyday))
        for name, by_kind in self.jitter.items():
            scale = float(np.max(np.abs(np.nan_to_num(self.reference[name][everyday])), initial=0.0)) or 1.0
            own = max((value for group, value in by_kind.items() if _everyday(group)), default=0.0)
            if own > _UNSTEADY * scale:
                raise NotProvable(
                    f"the original's own {name} of a row changes by {own:.2g} with the rows beside it, or from call to "
                    "call"
                )
        if loose > max(1, int(everyday.sum()) // 100):
            raise NotProvable(f"the original's own label changes with the rows beside it in {loose} ordinary rows")

    def _in_company(self, original: Original, kind: str, row: Rows, refusal: str) -> Refused:
        near = self.rows.take(self._random.integers(self.rows.n, size=4))
        among = Rows.join([near.slice(0, 2), row, near.slice(2, 4)])
        return Refused(kind, row, refusal, among, _ask(original.predictor, among, self.outputs)[1])

    def _refusals(self, candidate: Predictor, case: Refused) -> Violation | None:
        for rows, wanted in ((case.row, case.refusal), (case.among, case.refusal_among)):
            answer, refusal = _ask(candidate, rows, self.outputs)
            if refusal != wanted:
                got = outcome(refusal, answer)
                return Violation(
                    case.kind, rows.n, record_of(case.row, 0, self.signature), "", outcome(wanted, None), got,
                    f"the original says {outcome(wanted, None)}, the form {got}",
                )  # fmt: skip
        return None

    def is_label(self, name: str) -> bool:
        return is_label(self.signature, name, self.reference[name])


class _Tally:
    """One candidate's differences."""

    def __init__(self, exam: Exam, criterion: Criterion, leans: bool) -> None:
        self._exam = exam
        self._criterion = criterion
        self._leans = leans
        self.worst = 0.0
        self._worst_share = 0.0
        self._turned_at = 0.0
        self._turned: Violation | None = None
        self.violation: Violation | None = None
        self.left = np.zeros(exam.rows.n, dtype=bool)
        """Rows of whose shares it has made NaN, and that it leaves to the original therefore."""
        self._own = {name: SLACK * _each(by_group, exam.groups) for name, by_group in exam.jitter.items()}

    def compare(self, call: Call, answer: Outputs | None, refusal: str) -> None:
        exam = self._exam
        if refusal != call.refusal or (answer is None) != (call.answer is None):
            said, instead = outcome(call.refusal, call.answer), outcome(refusal, answer)
            self._violated(call, 0, "", said, instead, f"the original says {said}, the form {instead}")
            return
        if call.answer is None or answer is None:
            return
        if self._leans:
            call, answer = self._known(call, answer)
        for name, was in (call.answer or {}).items() if len(call.rows) else ():
            got = answer.get(name)
            problem = "there is no such output" if got is None else shape_problem(was, got)
            if got is None or problem:
                self._violated(call, 0, name, value_of(was, 0), None if got is None else str(got.dtype), problem)
                return
            is_label = exam.is_label(name)
            wrong = self._wrong_labels(call, was, got) if is_label else self._wrong(call, name, was, got)
            if is_label and len(wrong) and self._leans and name == "predict":
                wrong = self._leant(call, wrong, was, got, answer)
            if len(wrong):
                place = int(wrong[0])
                words = f"{len(wrong)} of {len(was)} rows of the call differ"
                self._violated(call, place, name, value_of(was, place), value_of(got, place), words)
                return

    def _wrong_labels(self, call: Call, was: Array, got: Array) -> NDArray[np.intp]:
        return np.flatnonzero(~same_labels(was, got) & ~self._exam.undecided[call.rows])

    def _known(self, call: Call, answer: Outputs) -> tuple[Call, Outputs]:
        """The rows that it does not leave to the original because its own numbers have overflowed."""
        shares = answer.get(SHARES)
        if call.answer is None or shares is None or shares.ndim != 2 or len(shares) != len(call.rows):
            return call, answer
        lost = np.isnan(shares).any(axis=1)
        if not lost.any():
            return call, answer
        self.left[call.rows[lost]] = True
        known = {name: values[~lost] for name, values in call.answer.items()}
        return Call(call.rows[~lost], known, ""), {name: values[~lost] for name, values in answer.items()}

    def _leant(self, call: Call, wrong: NDArray[np.intp], was: Array, got: Array, answer: Outputs) -> NDArray[np.intp]:
        """Keep the wrong label that is furthest from a tie, to be judged at the end; what is left is wrong now."""
        shares = answer.get(SHARES)
        if shares is None or shares.ndim != 2:
            return wrong
        margins = np.nan_to_num(margins_of(shares[wrong]), nan=np.inf)
        place = int(np.argmax(margins))
        if self._turned is None or margins[place] > self._turned_at:
            self._turned_at = float(margins[place])
            at = int(wrong[place])
            words = f"another label, {self._turned_at:.2g} from a tie"
            self._violated(call, at, "predict", value_of(was, at), value_of(got, at), words)
            self._turned, self.violation = self.violation, None
        return wrong[:0]

    def leaning(self) -> tuple[float, Violation | None]:
        """The margin within which the original has to answer, and a label that was wrong outside of it."""
        if not self._leans:
            return 0.0, None
        margin = NEAR * self._worst_share
        if self.left.any():
            margin = max(margin, _LEAST_MARGIN)
        return margin, self._turned if self._turned_at > margin else None

    def _wrong(self, call: Call, name: str, was: Array, got: Array) -> NDArray[np.intp]:
        rows = was.reshape(len(was), -1)
        with np.errstate(invalid="ignore", over="ignore"):
            allowed = self._criterion.absolute + self._criterion.relative * np.abs(rows)
            allowed = np.maximum(allowed, self._own[name][call.rows][:, None])
            difference = np.abs(got.reshape(len(was), -1) - rows)
        same = (rows == got.reshape(len(was), -1)) | (np.isnan(rows) & np.isnan(got.reshape(len(was), -1)))
        bad = ~same & ~(difference <= allowed) & ~self._exam.undecided[call.rows][:, None]
        finite = np.where(same | ~np.isfinite(difference), 0.0, difference)
        self.worst = max(self.worst, float(np.max(finite, initial=0.0)))
        if name == SHARES:
            self._worst_share = max(self._worst_share, float(np.max(finite, initial=0.0)))
        return np.flatnonzero(bad.any(axis=1))

    def _violated(self, call: Call, place: int, name: str, was: Any, got: Any, words: str) -> None:
        row = int(call.rows[place])
        record = record_of(self._exam.rows, row, self._exam.signature)
        self.violation = Violation(str(self._exam.kinds[row]), len(call.rows), record, name, was, got, words)


# What is asked.


def _ask(predictor: Predictor, rows: Rows, outputs: tuple[str, ...]) -> tuple[Outputs | None, str]:
    """The answer and "", or None and the class of the refusal."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return predictor.predict(rows, outputs), ""
    except LagarError as error:
        return None, error.code
    except Exception:  # whatever the model raises: to the caller all of it is "the model failed"
        return None, "model_failed"


def _sorted_out(
    original: Original, groups: Sequence[Group]
) -> tuple[Rows | None, NDArray[np.str_], list[tuple[str, Rows, str]]]:
    """The rows that the original answers, with the kind of each, and those that it refuses."""
    good: list[Rows] = []
    kinds: list[str] = []
    refused: list[tuple[str, Rows, str]] = []
    for kind, rows in groups:
        answer, _ = _ask(original.predictor, rows, original.outputs)
        if answer is not None:
            good.append(rows)
            kinds += [kind] * rows.n
            continue
        for place in range(rows.n):
            row = rows.slice(place, place + 1)
            answer, refusal = _ask(original.predictor, row, original.outputs)
            if answer is None:
                refused.append((kind, row, refusal))
            else:
                good.append(row)
                kinds.append(kind)
    return (Rows.join(good) if good else None), np.array(kinds, dtype=np.str_), refused


def _magnitudes(rows: Rows) -> NDArray[np.str_]:
    """A letter per row for the size of its largest number: rounding errors of an answer grow with it."""
    parts = [rows.matrix] if rows.matrix is not None else list((rows.columns or {}).values())
    numbers = [np.abs(part.reshape(rows.n, -1)) for part in parts if part.dtype.kind in "if"]
    if not numbers:
        return np.full(rows.n, "a")
    largest = np.max(np.nan_to_num(np.concatenate(numbers, axis=1).astype(np.float64), posinf=0.0), axis=1)
    return np.asarray(np.array(list("abcd"))[np.searchsorted([1e6, 1e12, 1e30], largest)])


def _everyday(group: str) -> bool:
    return group.partition("/")[0] in ORDINARY


def _each(by_group: dict[str, float], groups: NDArray[np.str_]) -> NDArray[np.float64]:
    """The group's value for each row."""
    names, place = np.unique(groups, return_inverse=True)
    return np.array([by_group[name] for name in names.tolist()])[place]


def _spread(found: Sequence[Any], count: int) -> list[Any]:
    """At most count of them, evenly over their order."""
    if len(found) <= count:
        return list(found)
    return [found[index * len(found) // count] for index in range(count)]
