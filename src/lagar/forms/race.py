"""The race: a proved form against the original on this processor, by rows in a call, and who serves which sizes."""

from __future__ import annotations

import contextlib
import gc
import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

import msgspec
import numpy as np

from lagar.registry.proof import ORIGINAL, Attempt, Served
from lagar.types import Predictor, Rows

SIZES: Final = (1, 4, 32, 128, 1000)
SHOWN: Final = (1, 32, 1000)
"""The sizes that a table shows."""
ROUNDS: Final = 7
MOST_ROUNDS: Final = 41
"""Rounds where it is not clear on which side of `ALLOWED` a form is."""
_LEAST_ROUNDS: Final = 3
_SAMPLE_S: Final = 1e-3
"""A sample of quick calls is so many of them that the clock is no part of it."""
_FINE_NS: Final = 50_000
_MOVES: Final = 8
"""A clock that is to time samples moves at least so often in so many nanoseconds."""
_LOOKS: Final = 200
_MOST_S: Final = 20.0
"""One race ends in fewer rounds when it would take longer."""
ALLOWED: Final = 1.05
"""What a served form may take of the original's time, at every size."""
_CLEARLY: Final = 0.05
"""How much quicker, in the mean of the logarithms, a division has to be than one before it: less may be chance, and
would be another verdict at each race."""
_SECOND_FORM: Final = 0.05
"""How much more two forms have to gain, to be worth the memory."""
_BESIDE_ORIGINAL: Final = 0.10
"""The same where the second is the original, which brings its library into every worker."""
Times = dict[int, float]
"""Rows in a call → µs."""


def measure(
    original: Predictor, candidate: Predictor, rows: Rows, outputs: tuple[str, ...], sizes: Sequence[int] = SIZES
) -> tuple[Times, Times]:
    """Both timed in turns: µs per call by size, the original's first.

    In computing time of this thread, the only one that computes, where the system counts that finely.
    """
    original_us: Times = {}
    candidate_us: Times = {}
    until = time.perf_counter() + _MOST_S
    with _without_collections():
        for size in sizes:
            block = rows.take(np.resize(np.arange(rows.n), size))
            before, ratio = _raced((original, candidate), block, outputs, until)
            original_us[size], candidate_us[size] = round(before * 1e6, 2), round(before * ratio * 1e6, 2)
    return original_us, candidate_us


def _raced(
    both: tuple[Predictor, Predictor], block: Rows, outputs: tuple[str, ...], until: float
) -> tuple[float, float]:
    """The original's time, and the candidate's as a part of it: medians, of more rounds where they do not decide.

    Within a round both are asked shortly after each other, in another order each time, so that what slows a round down
    is in both its times.
    """
    clock = clock_of()
    for predictor in both:
        predictor.predict(block, outputs)  # cold
    once = [_seconds(clock, predictor, block, outputs, 1) for predictor in both]
    repeats = [math.ceil(_SAMPLE_S / seconds) for seconds in once]
    befores: list[float] = []
    ratios: list[float] = []
    for number in range(MOST_ROUNDS):
        if number >= _LEAST_ROUNDS and time.perf_counter() > until:
            break
        if number >= ROUNDS and decides(ratios):
            break
        taken = [0.0, 0.0]
        for at in (0, 1) if number % 2 else (1, 0):
            taken[at] = _seconds(clock, both[at], block, outputs, repeats[at]) / repeats[at]
        befores.append(taken[0])
        ratios.append(taken[1] / taken[0])
    return statistics.median(befores), statistics.median(ratios)


def decides(ratios: Sequence[float]) -> bool:
    """Whether the median of so many ratios is on one side of `ALLOWED` in 95 of 100 races.

    Source: the sign test; the median lies between the order statistics n/2 ± 0.98 √n.
    """
    ordered = sorted(ratios)
    from_end = max(math.floor(len(ordered) / 2 - 0.98 * math.sqrt(len(ordered))), 0)
    return ordered[from_end] > ALLOWED or ordered[-1 - from_end] < ALLOWED


@contextlib.contextmanager
def _without_collections() -> Iterator[None]:
    """No search for garbage in the middle of a sample."""
    was = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def clock_of(computing: Callable[[], int] = time.thread_time_ns) -> Callable[[], int]:
    """Nanoseconds of computing of this thread, where the system counts them finely; else of the clock on the wall.

    What else the machine does is no part of the former. Some sandboxes count it in ticks only, and Linux does so for
    whole processes with a limit on it, as this one is. One look does not tell: this process may stand still just then.
    """
    for _ in range(_LOOKS):
        until = time.perf_counter_ns() + _FINE_NS
        seen = set()
        while time.perf_counter_ns() < until:
            seen.add(computing())
        if len(seen) >= _MOVES:
            return computing
    return time.perf_counter_ns


def _seconds(
    clock: Callable[[], int], predictor: Predictor, rows: Rows, outputs: tuple[str, ...], repeats: int
) -> float:
    started = clock()
    for _ in range(repeats):
        predictor.predict(rows, outputs)
    return max(clock() - started, 100) * 1e-9


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
    such divisions the quickest on the whole; one that is as quick as a simpler one, but for chance, is not chosen.
    """
    sizes = sorted(original)
    times = {**candidates, ORIGINAL: original}
    best: tuple[float, tuple[Served, ...]] = (0.0, (Served(ORIGINAL, 1, None),))
    pairs = [pair for pair in itertools.product(times, repeat=2) if pair[0] != pair[1]]
    for small, large in [*((name, name) for name in candidates), *pairs] if sizes else ():
        for cut in range(1, len(sizes)) if small != large else (len(sizes),):
            cost = _cost(original, times[small], times[large], sizes, cut)
            if small != large:
                cost += _BESIDE_ORIGINAL if ORIGINAL in (small, large) else _SECOND_FORM
            if cost > best[0] - _CLEARLY:
                continue
            border = None if small == large else _border(sizes[cut - 1], sizes[cut], times[small], times[large])
            parts = [Served(small, 1, border)]
            if border is not None:
                parts.append(Served(large, border + 1, None))
            best = (cost, tuple(parts))
    return best[1]


def _cost(original: Times, small: Times, large: Times, sizes: Sequence[int], cut: int) -> float:
    """The mean of the logarithms of what the division takes of the original's time; infinite where that is too much."""
    shares = [(small if place < cut else large)[size] / original[size] for place, size in enumerate(sizes)]
    return math.inf if max(shares) > ALLOWED else statistics.fmean(map(math.log, shares))


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
