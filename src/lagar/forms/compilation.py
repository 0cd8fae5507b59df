"""From a loaded original to proved and timed forms: each candidate is built, examined and raced in its own child."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from lagar.errors import LagarError
from lagar.forms import apart, footprint, race
from lagar.forms.apart import Caps, Say
from lagar.forms.candidates import Candidate, NotApplicable
from lagar.forms.original import Original
from lagar.forms.proof import Exam, NotProvable
from lagar.forms.rows import hostile
from lagar.registry.proof import Attempt, Criterion, Proof, as_text, by_size, this_machine
from lagar.runtimes.form import DOCUMENT, open_folder

MOST_BYTES: Final = 2 * 1024**3
"""Of a form's files."""


class _Raced(msgspec.Struct, frozen=True):
    """What a child sends back: its attempt, and the times of the original beside it."""

    attempt: Attempt
    original_us: dict[str, float] = {}


def compile_forms(original: Original, candidates: Sequence[Candidate], folder: Path, caps: Caps | None = None) -> Proof:
    """Build each candidate in `folder/<name>`, prove and race it; folders of those that do not serve are removed.

    Needs a process with one thread, since it forks. Raises nothing for a candidate that fails in any way: the report
    says so.
    """
    started = time.monotonic()
    if original.model is None:
        if original.source.kind == "onnx":
            return _nothing("it is an ONNX graph, which ONNX Runtime runs as it is")
        return _nothing("its own code answers, and there is no model of a library to build a form from")
    try:
        exam = Exam(original, hostile(original))
    except NotProvable as error:
        return _nothing(str(error))
    raced = [_tried(candidate, original, exam, folder / candidate.name, caps or Caps()) for candidate in candidates]
    proved = {each.attempt.name: each for each in raced if each.attempt.outcome == "proved"}
    times = {name: (by_size(each.original_us), by_size(each.attempt.us)) for name, each in proved.items()}
    original_us, levelled = race.levelled(times)
    served = race.chosen(original_us, levelled)
    if not proved:
        both = original.predictor, original.predictor
        original_us = race.measure(*both, exam.ordinary(), original.outputs, race.SHOWN)[0]
    attempts = race.verdict(served, [_with_us(each.attempt, levelled) for each in raced])
    for attempt in attempts:
        if attempt.outcome != "serves":
            shutil.rmtree(folder / attempt.name, ignore_errors=True)
    return Proof(
        machine=this_machine(),
        rows=exam.counts,
        refused=exam.refused_rows,
        jitter=exam.worst_jitter,
        original_us=as_text(original_us),
        attempts=attempts,
        served=served,
        words=_advice(attempts),
        seconds=round(time.monotonic() - started, 2),
    )


def given(name: str, source: Path, criterion: Criterion, *, leans: bool = False) -> Candidate:
    """A form that was built before, to be proved again on this machine."""

    def build(original: Original, folder: Path) -> None:
        shutil.copytree(source, folder, dirs_exist_ok=True)

    return Candidate(name, build, lambda original: criterion, leans=leans)


def _nothing(words: str) -> Proof:
    return Proof(machine=this_machine(), rows={}, words=words)


def _tried(candidate: Candidate, original: Original, exam: Exam, folder: Path, caps: Caps) -> _Raced:
    """One candidate in its child; what it left behind is removed when it did not come back."""
    folder.mkdir(parents=True)
    ending = apart.run(lambda say: _job(candidate, original, exam, folder, say), caps)
    if ending.end == "done":
        return msgspec.json.decode(ending.result, type=_Raced)
    shutil.rmtree(folder, ignore_errors=True)
    return _Raced(Attempt(candidate.name, "failed", ending.words))


def _job(candidate: Candidate, original: Original, exam: Exam, folder: Path, say: Say) -> bytes:
    try:
        raced = _raced(candidate, original, exam, folder, say)
    except NotApplicable as error:
        raced = _Raced(Attempt(candidate.name, "left out", str(error)))
    except ImportError as error:
        missing = (error.name or str(error)).partition(".")[0]
        extra = f": pip install 'lagar[{candidate.extra}]'" if candidate.extra else ""
        raced = _Raced(Attempt(candidate.name, "left out", f"{missing} is not installed{extra}"))
    return msgspec.json.encode(raced)


def _raced(candidate: Candidate, original: Original, exam: Exam, folder: Path, say: Say) -> _Raced:
    say("building")
    started = time.monotonic()
    candidate.build(original, folder)
    build_s = round(time.monotonic() - started, 2)
    criterion = candidate.criterion(original)
    attempt = Attempt(candidate.name, "failed", criterion=criterion, build_s=build_s, bytes=_bytes(folder))
    if not (folder / DOCUMENT).is_file():
        return _Raced(msgspec.structs.replace(attempt, words=f"building left no {DOCUMENT}"))
    if attempt.bytes > MOST_BYTES:
        return _Raced(msgspec.structs.replace(attempt, words=f"its files have more than {MOST_BYTES:,} bytes"))
    say("loading")
    try:
        predictor = open_folder(folder, 1)
        predictor.bind(original.signature)
    except LagarError as error:
        return _Raced(msgspec.structs.replace(attempt, words=f"loading failed: {error.message}"))
    say("the proof")
    result = exam.sit(predictor, criterion, leans=candidate.leans)
    attempt = msgspec.structs.replace(
        attempt, rows=result.rows, calls=result.calls, worst=result.worst, margin=result.margin
    )
    if result.violation is not None:
        words = result.violation.words
        return _Raced(msgspec.structs.replace(attempt, outcome="wrong", violation=result.violation, words=words))
    if result.words:
        return _Raced(msgspec.structs.replace(attempt, words=result.words))
    say("loading in a process of its own")
    found = footprint.measured(folder, original.signature, folder.parent)
    attempt = msgspec.structs.replace(
        attempt, memory_bytes=found.memory_bytes, load_s=found.load_s, libraries=found.libraries
    )
    if found.foreign:
        words = f"running it imports {', '.join(found.foreign)}, which a worker does without"
        return _Raced(msgspec.structs.replace(attempt, words=words))
    say("the race")
    original_us, us = race.measure(original.predictor, predictor, exam.ordinary(), original.outputs)
    return _Raced(msgspec.structs.replace(attempt, outcome="proved", us=as_text(us)), as_text(original_us))


def _with_us(attempt: Attempt, levelled: Mapping[str, race.Times]) -> Attempt:
    if attempt.name not in levelled:
        return attempt
    return msgspec.structs.replace(attempt, us=as_text(levelled[attempt.name]))


def _advice(attempts: Sequence[Attempt]) -> str:
    """What would change the verdict."""
    installs = [attempt for attempt in attempts if "pip install" in attempt.words]
    wrong = [attempt for attempt in attempts if attempt.outcome == "wrong"]
    if installs:
        return f"{installs[0].name}: {installs[0].words}"
    if not any(attempt.outcome == "serves" for attempt in attempts):
        if wrong:
            return f"{wrong[0].name} is not the same model: {wrong[0].words}"
        if any(attempt.outcome == "proved" for attempt in attempts):
            return "no proved form is quicker than the original here"
        return "no way is known to build this model anew"
    return "another ONNX Runtime or processor: then it is proved again before it serves"


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
