"""The race: a proved form against the original on this processor, by rows in a call, and who serves which sizes."""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
import numpy as np

from lagar.forms.rows import taken
from lagar.registry.proof import ORIGINAL, Attempt, Served
from lagar.types import Predictor, Rows

SIZES: Final = (1, 4, 32, 128, 1000)
SHOWN: Final = (1, 32, 1000)
"""The sizes that a table shows."""
ROUNDS: Final = 7
_SAMPLE_S: Final = 5e-4
"""A sample of quick calls is so many of them that the clock is no part of it."""
_MOST_S: Final = 20.0
"""One race ends in fewer rounds when it would take longer."""
ALLOWED: Final = 1.05
"""What a served form may take of the original's time, at every size."""
_SECOND_FORM: Final = 0.10
"""How much quicker, in the mean of the logarithms, two forms have to be than one to be worth the memory."""
_BESIDE_ORIGINAL: Final = 0.15
"""The same where the second is the original, which brings its library into every worker."""
Times = dict[int, float]
"""Rows in a call → µs."""


def measure(
    original: Predictor, candidate: Predictor, rows: Rows, outputs: tuple[str, ...], sizes: Sequence[int] = SIZES
) -> tuple[Times, Times]:
    """Both timed in turns: µs per call by size, the original's first; medians of 7 rounds, of 3 where they are long."""
    taken_us: tuple[Times, Times] = ({}, {})
    began = time.perf_counter()
    for size in sizes:
        block = taken(rows, np.resize(np.arange(rows.n), size))
        both = (original, candidate)
        once = [_seconds(predictor, block, outputs, 1) for predictor in both]  # cold
        once = [_seconds(predictor, block, outputs, 1) for predictor in both]
        repeats = [max(1, math.ceil(_SAMPLE_S / max(seconds, 1e-7))) for seconds in once]
        samples: tuple[list[float], list[float]] = ([], [])
        for number in range(ROUNDS):
            if number >= 3 and time.perf_counter() - began > _MOST_S:
                break
            for at, predictor in enumerate(both):
                samples[at].append(_seconds(predictor, block, outputs, repeats[at]) / repeats[at])
        # What else the machine does in a round hurts both: the ratio within a round is steadier than the times.
        original_us = statistics.median(samples[0]) * 1e6
        ratio = statistics.median(after / before for before, after in zip(*samples, strict=True))
        taken_us[0][size], taken_us[1][size] = round(original_us, 2), round(original_us * ratio, 2)
    return taken_us


def _seconds(predictor: Predictor, rows: Rows, outputs: tuple[str, ...], repeats: int) -> float:
    started = time.perf_counter()
    for _ in range(repeats):
        predictor.predict(rows, outputs)
    return time.perf_counter() - started


def levelled(raced: Mapping[str, tuple[Times, Times]]) -> tuple[Times, dict[str, Times]]:
    """The original's times, and each candidate's as if all had run beside the same original.

    Every race has timed the original anew: a candidate counts by its ratio, so that a minute in which the machine was
    busy with something else hurts nobody.
    """
    if not raced:
        return {}, {}
    sizes = list(next(iter(raced.values()))[0])
    original = {size: round(statistics.median(times[0][size] for times in raced.values()), 2) for size in sizes}
    return original, {
        name: {size: round(original[size] * times[1][size] / times[0][size], 2) for size in sizes}
        for name, times in raced.items()
    }


def chosen(original: Times, candidates: Mapping[str, Times]) -> tuple[Served, ...]:
    """Which form answers which sizes: at most one for small calls and one for large ones.

    At every measured size the one that serves takes at most 1.05 times the original's time, or is the original. Of all
    such divisions the quickest on the whole, a second form only where it is worth its memory.
    """
    sizes = sorted(original)
    times = {**candidates, ORIGINAL: original}
    best: tuple[float, tuple[Served, ...]] = (0.0, (Served(ORIGINAL, 1, None),))
    for small, large in itertools.product(times, repeat=2):
        for cut in range(1, len(sizes)) if small != large else (len(sizes),) if sizes else ():
            line = [times[small][size] for size in sizes[:cut]] + [times[large][size] for size in sizes[cut:]]
            if any(taken_us > ALLOWED * original[size] for taken_us, size in zip(line, sizes, strict=True)):
                continue
            cost = statistics.fmean(
                math.log(taken_us / original[size]) for taken_us, size in zip(line, sizes, strict=True)
            )
            if small != large:
                cost += _BESIDE_ORIGINAL if ORIGINAL in (small, large) else _SECOND_FORM
            if cost < best[0]:
                border = None if small == large else _border(sizes[cut - 1], sizes[cut], times[small], times[large])
                parts = [Served(small, 1, border)]
                if border is not None:
                    parts.append(Served(large, border + 1, None))
                best = (cost, tuple(parts))
    return best[1]


def _border(low: int, high: int, small: Times, large: Times) -> int:
    """The last size for the small form, between two measured ones: where lines through their times cross."""
    before = small[low] - large[low]
    after = small[high] - large[high]
    if before >= 0 or after <= before:
        return low
    if after <= 0:
        return high - 1
    at = low + (high - low) * -before / (after - before)
    return min(max(int(at), low), high - 1)


def verdict(served: Sequence[Served], attempts: Sequence[Attempt]) -> tuple[Attempt, ...]:
    """The attempts with those that serve marked, and a reason at those that are proved and do not."""
    names = {part.name for part in served}
    marked = []
    for attempt in attempts:
        if attempt.outcome not in ("proved", "serves"):
            marked.append(attempt)
        elif attempt.name in names:
            marked.append(msgspec.structs.replace(attempt, outcome="serves"))
        else:
            marked.append(
                msgspec.structs.replace(attempt, outcome="proved", words=attempt.words or "another is quicker")
            )
    return tuple(marked)
