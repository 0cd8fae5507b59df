"""What a version's record says of its faster forms: what was tried, what was proved on which rows, and how fast it is.

A proof is about one artifact on one kind of machine: another ONNX Runtime or other CPU features are another machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final, Literal

import msgspec


class Criterion(msgspec.Struct, frozen=True, omit_defaults=True):
    """How far a form's numbers may be from the original's: |got - was| <= absolute + relative · |was|.

    Labels, types, shapes and errors always have to be the same. With both 0 every bit counts, the sign of a zero
    left out.
    """

    absolute: float = 0.0
    relative: float = 0.0

    @property
    def exact(self) -> bool:
        return self.absolute == 0.0 and self.relative == 0.0

    def words(self) -> str:
        if self.exact:
            return "bit for bit"
        parts = [f"{self.absolute:g}" if self.absolute else "", f"{self.relative:g} of the number"]
        return " + ".join(part for part in parts[: 2 if self.relative else 1] if part)


EXACT: Final = Criterion()
ORIGINAL: Final = "original"
"""The name under which the original serves."""


class Machine(msgspec.Struct, frozen=True):
    """What a proof holds for."""

    onnxruntime: str
    cpu: str
    """Architecture and a hash of the processor's features."""


class Violation(msgspec.Struct, frozen=True):
    """The first row on which a candidate was not the original."""

    kind: str
    """The kind of rows that it is of."""
    size: int
    """Rows in the call."""
    row: dict[str, Any]
    output: str
    """"" for an error in place of an answer, or the other way round."""
    original: Any
    candidate: Any
    words: str


def given_up_words(violation: Violation, at: str) -> str:
    """Why a form serves no more, after it was wrong on a live row."""
    what = f"output '{violation.output}'" if violation.output else "a refusal"
    return f"given up on {at[:16].replace('T', ' ')} UTC: on a live row {what} was not the original's"


Outcome = Literal["serves", "proved", "wrong", "failed", "left out"]


class Attempt(msgspec.Struct, frozen=True, omit_defaults=True):
    """One candidate: what came of it."""

    name: str
    outcome: Outcome
    words: str = ""
    """Why it is left out, has failed, or is proved and does not serve."""
    us: dict[str, float] = {}
    """Rows in a call → µs; see `by_size`."""
    criterion: Criterion = EXACT
    rows: int = 0
    """Different rows on which it was compared."""
    calls: int = 0
    worst: float = 0.0
    """The largest difference of a number."""
    margin: float = 0.0
    """Rows whose two likeliest classes are no further apart are answered by the original."""
    violation: Violation | None = None
    memory_bytes: int = 0
    load_s: float = 0.0
    build_s: float = 0.0
    bytes: int = 0
    """Of its files."""
    libraries: dict[str, str] = {}
    """What running it takes."""


class Served(msgspec.Struct, frozen=True):
    """Which form answers calls of which sizes."""

    name: str
    min_rows: int
    max_rows: int | None


class Proof(msgspec.Struct, frozen=True, omit_defaults=True):
    """The race of a version's forms on one machine."""

    machine: Machine
    rows: dict[str, int]
    """Kind of rows → how many the original answered or refused."""
    refused: int = 0
    """How many of them the original refuses."""
    jitter: float = 0.0
    """The largest difference of the original's own answers, on rows of every day, between one row and many."""
    original_us: dict[str, float] = {}
    attempts: tuple[Attempt, ...] = ()
    served: tuple[Served, ...] = ()
    words: str = ""
    """What would change the verdict."""
    seconds: float = 0.0
    given_up: str = ""
    """Why the original serves since a form was wrong on a live row."""


def by_size(us: Mapping[str, float]) -> dict[int, float]:
    """Rows in a call → µs, smaller calls first: as JSON keeps it the sizes are texts."""
    return {int(size): us[size] for size in sorted(us, key=int)}


def as_text(us: Mapping[int, float]) -> dict[str, float]:
    """The same as JSON keeps it."""
    return {str(size): taken for size, taken in us.items()}


def verdict(proof: Proof) -> str:
    """Who serves, in one line."""
    serving = [part for part in proof.served if part.name != ORIGINAL]
    if not serving:
        return f"the original serves: {proof.words}"
    told = [
        f"the original {calls_of(part)}"
        if part.name == ORIGINAL
        else f"{part.name} {calls_of(part)}, {faster(proof, part):.3g} × as fast"
        for part in proof.served
    ]
    rows = max(attempt.rows for attempt in proof.attempts if attempt.outcome == "serves")
    return f"{'; '.join(told)}; proved on {rows:,} rows"


def calls_of(part: Served) -> str:
    """Which calls a form answers, in words."""
    if part.max_rows is None:
        return "serves" if part.min_rows == 1 else f"serves {part.min_rows:,} rows and more"
    return f"serves up to {part.max_rows:,} rows"


def faster(proof: Proof, part: Served) -> float:
    """How many times as fast as the original a form is, at the smallest measured call that it answers."""
    before = by_size(proof.original_us)
    after = by_size(next(attempt.us for attempt in proof.attempts if attempt.name == part.name))
    at = min((rows for rows in after if rows >= part.min_rows), default=max(after))
    return before[at] / after[at]


@cache
def this_machine() -> Machine:
    """What this machine and its ONNX Runtime are to a proof."""
    return Machine(installed_version("onnxruntime"), _cpu())


def installed_version(distribution: str) -> str:
    """The version of an installed distribution; "" where it is not installed."""
    for name in (distribution, f"{distribution}-cpu", f"{distribution}-gpu"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return ""


def _cpu() -> str:
    import platform

    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.machine()
    lines = [line for line in text.splitlines() if line.partition(":")[0].strip() in ("flags", "Features")]
    features = " ".join(sorted(lines[0].partition(":")[2].split())) if lines else ""
    return f"{platform.machine()}-{hashlib.sha256(features.encode()).hexdigest()[:12]}"
