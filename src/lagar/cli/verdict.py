"""The race of a version's forms as people read it: who serves, what was proved, how fast, what would change it."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from lagar.cli.screen import WIDTH, cut, size, words
from lagar.registry.proof import ORIGINAL, Attempt, Proof, by_size, calls_of, verdict

SHOWN = (1, 32, 1000)
_MOST = 8
"""Candidates in the table; the others are counted."""


def table(proof: Proof, memory_bytes: int = 0) -> list[str]:
    """All of it in at most 30 lines; `memory_bytes` is what the original takes."""
    told = [attempt for attempt in proof.attempts if attempt.outcome != "left out"]
    lines = _wrapped("compiled   ", verdict(proof))
    if told:
        lines += _top(proof, memory_bytes)
        lines += [_row_of(proof, attempt) for attempt in told[:_MOST]]
        lines += [text for attempt in told[:_MOST] for text in _why(attempt)]
    if len(told) > _MOST:
        lines.append(f"  and {len(told) - _MOST} more: --json has them")
    lines += _left_out(proof.attempts)
    kinds = ", ".join(f"{count} {kind}" for kind, count in proof.rows.items())
    if kinds:
        lines += _wrapped("  rows: ", f"{kinds}; {proof.refused} of them the original refuses, and so must a form")
        if proof.jitter:
            lines.append(f"  the original's own answers differ by {proof.jitter:.2g} between one row and many")
    if told:
        lines += _wrapped("  would change it: ", proof.words)
    return [cut(text, WIDTH) for text in lines]


def serving(proof: Proof, memory_bytes: int = 0) -> list[str]:
    """The original and the forms that serve, in a line each."""
    names = {part.name for part in proof.served}
    told = [attempt for attempt in proof.attempts if attempt.name in names]
    if not told:
        return []
    lines = ["race", *_top(proof, memory_bytes), *(_row_of(proof, attempt) for attempt in told)]
    lines += [text for attempt in told for text in _why(attempt)]
    return [cut(text, WIDTH) for text in [*lines, *_wrapped("  would change it: ", proof.words)[:1]]]


def _top(proof: Proof, memory_bytes: int) -> list[str]:
    titles = " ".join(f"{_title(rows):>10}" for rows in SHOWN)
    sizes = _sizes_of(proof, ORIGINAL) or "-"
    return [
        f"  {'candidate':<16} {'proof':<26} {'off by':>8} {titles} {'memory':>9}",
        _row(ORIGINAL, sizes, "-", by_size(proof.original_us), size(memory_bytes)),
    ]


def _sizes_of(proof: Proof, name: str) -> str:
    return next((calls_of(part) for part in proof.served if part.name == name), "")


def _title(rows: int) -> str:
    return f"µs at {rows:,}"


def _row(name: str, proof: str, worst: str, us: dict[int, float], memory: str) -> str:
    times = " ".join(f"{_number(us.get(rows)):>10}" for rows in SHOWN)
    return f"  {cut(name, 16):<16} {cut(proof, 26):<26} {worst:>8} {times} {memory:>9}"


def _row_of(proof: Proof, attempt: Attempt) -> str:
    said = {"serves": _sizes_of(proof, attempt.name), "proved": "proved, not quicker"}
    outcome = said.get(attempt.outcome, attempt.outcome)
    worst = "-" if not attempt.calls else f"{attempt.worst:.1g}" if attempt.worst else "nothing"
    memory = size(attempt.memory_bytes) if attempt.memory_bytes else "-"
    return _row(attempt.name, outcome, worst, by_size(attempt.us), memory)


def _number(us: float | None) -> str:
    if us is None:
        return "-"
    return f"{us:.1f}" if us < 1000 else f"{us:,.0f}"


def _why(attempt: Attempt) -> list[str]:
    """Of a candidate that is not the model: the first row, with both answers; of one that leans on it, when."""
    found = attempt.violation
    if attempt.margin and attempt.outcome == "serves":
        return [
            f"  {attempt.name}: rows less than {attempt.margin:.0e} from a tie, or too large for 32 bits, are answered",
            "    by the original, in a process apart",
        ]
    if found is None:
        return [f"  {attempt.name}: {attempt.words}"] if attempt.outcome == "failed" else []
    rows = f"{found.size:,} row{'s' if found.size > 1 else ''}"
    what = f"{found.output} " if found.output else ""
    return [
        f"  {attempt.name} is wrong ({found.kind}, a call of {rows}): {what}{words(found.original)} became "
        f"{words(found.candidate)}",
        f"    {words(found.row)}",
    ]


def _left_out(attempts: Sequence[Attempt]) -> list[str]:
    left = [attempt for attempt in attempts if attempt.outcome == "left out"]
    missing = [attempt for attempt in left if "pip install" in attempt.words]
    others = [attempt.name for attempt in left if attempt not in missing]
    lines = [f"  {attempt.name}: {attempt.words}" for attempt in missing[:3]]
    return [*lines, *_wrapped("  not for this model: ", ", ".join(others))] if others else lines


def _wrapped(label: str, text: str) -> list[str]:
    return textwrap.wrap(label + text, WIDTH, subsequent_indent=" " * 4, break_long_words=False)[:3]
