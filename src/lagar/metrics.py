"""Counters and histograms that survive the death of the process that counts them.

Each worker slot has two files in the server's metrics folder: `slot-N.values`, an mmapped array of int64, and
`slot-N.series`, one JSON line per series with its place in the array. A worker adds to its own file only, so nothing
is locked; the successor of a dead worker goes on where it stopped; `collect` adds the slots up.
"""

from __future__ import annotations

import logging
import mmap
import operator
import os
from bisect import bisect_left
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec

SECONDS = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
)  # fmt: skip
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096, 16384, 65536)
CAPACITY = 262_144
"""Values per slot: 2 MiB; about 3,000 model versions with every histogram."""

_SPILL = 64
"""The last values of the array belong to no series."""

log = logging.getLogger("lagar.metrics")

Type = Literal["counter", "gauge", "histogram"]


class Family(msgspec.Struct, frozen=True):
    """What a metric is: one HELP text, one list of label names."""

    name: str
    type: Type
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    scale: float = 1.0
    """One unit of the stored whole number: 1e-9 for seconds kept in nanoseconds."""
    latest: bool = False
    """A moment: of all workers the last one counts, and a successor goes on from it."""


_MODEL = ("model", "version")
FAMILIES = {
    family.name: family
    for family in (
        Family(
            "lagar_requests",
            "counter",
            "Prediction requests answered, by protocol and HTTP status.",
            (*_MODEL, "protocol", "status"),
        ),
        Family("lagar_rows", "counter", "Rows predicted.", _MODEL),
        Family("lagar_batches", "counter", "Calls of the model's predict.", _MODEL),
        Family(
            "lagar_request_seconds",
            "histogram",
            "Time from the last byte of a prediction request to its answer.",
            _MODEL,
            SECONDS,
            1e-9,
        ),
        Family(
            "lagar_queue_seconds", "histogram", "Time a request waited for its batch to start.", _MODEL, SECONDS, 1e-9
        ),
        Family("lagar_compute_seconds", "histogram", "Time of one call of the model.", _MODEL, SECONDS, 1e-9),
        Family(
            "lagar_reading_seconds",
            "counter",
            "Time in which requests were read, before they waited; it is part of lagar_queue_seconds.",
            _MODEL,
            scale=1e-9,
        ),
        Family(
            "lagar_infer_seconds",
            "counter",
            "Time that requests spent in calls of the model, a call counted once for each request in it.",
            _MODEL,
            scale=1e-9,
        ),
        Family(
            "lagar_last_call_timestamp_seconds",
            "gauge",
            "When the model was last called for a request, in seconds since 1970.",
            _MODEL,
            scale=1e-3,
            latest=True,
        ),
        Family("lagar_batch_rows", "histogram", "Rows joined into one call of the model.", _MODEL, ROWS),
        Family(
            "lagar_rejected",
            "counter",
            "Requests turned away before they reached the model, by reason.",
            (*_MODEL, "reason"),
        ),
        Family(
            "lagar_shadow_rows",
            "counter",
            "Rows of a proved form that were put to the original too; dropped: too many waited; tie: it answered.",
            (*_MODEL, "result"),
        ),
        Family("lagar_shadow_violations", "counter", "Forms given up for the original, per worker.", _MODEL),
        Family("lagar_queue_rows", "gauge", "Rows that wait for their batch.", _MODEL),
        Family("lagar_connections", "gauge", "Open connections."),
        Family("lagar_connections_accepted", "counter", "Connections accepted since the server started."),
        Family("lagar_http_rejected", "counter", "Requests refused before any route was known.", ("status",)),
    )
}


class _Series(msgspec.Struct, frozen=True):
    name: str
    labels: tuple[str, ...]
    start: int


_decoder = msgspec.json.Decoder(_Series)  # built once, here: scrapes run in threads


class Counter:
    """A whole number that grows (or, for a gauge, goes up and down)."""

    __slots__ = ("_at", "_values")

    def __init__(self, values: memoryview, at: int) -> None:
        self._values = values
        self._at = at

    def add(self, amount: int = 1) -> None:
        self._values[self._at] += amount

    def set(self, value: int) -> None:
        self._values[self._at] = value


class Histogram:
    """Counts per bucket, then the sum: len(buckets) + 2 numbers."""

    __slots__ = ("_bounds", "_per_unit", "_start", "_sum", "_values")

    def __init__(self, values: memoryview, start: int, family: Family) -> None:
        self._values = values
        self._start = start
        self._bounds = family.buckets
        self._sum = start + len(family.buckets) + 1
        self._per_unit = round(1 / family.scale)

    def observe(self, value: float, weight: int = 1) -> None:
        """Count `value` (seconds, rows) `weight` times."""
        values = self._values
        values[self._start + bisect_left(self._bounds, value)] += weight
        values[self._sum] += int(value * self._per_unit) * weight

    @property
    def total(self) -> float:
        """The sum of all observed values."""
        return self._values[self._sum] / self._per_unit


class Registry:
    """The series of one worker slot."""

    def __init__(self, folder: Path, slot: int) -> None:
        self._series_path = folder / f"slot-{slot}.series"
        self._series: dict[tuple[str, tuple[str, ...]], int] = {}
        self._next = 0
        self._values = memoryview(_mapped(folder / f"slot-{slot}.values")).cast("q")
        for series in _read_series(self._series_path):
            family = FAMILIES.get(series.name)
            if family is None:
                continue
            self._series[series.name, series.labels] = series.start
            self._next = max(self._next, series.start + _width(family))
            if family.type == "gauge" and not family.latest:
                self._values[series.start] = 0

    def counter(self, name: str, *labels: str) -> Counter:
        """The counter or gauge of that family and those label values."""
        return Counter(self._values, self._place(FAMILIES[name], labels))

    def histogram(self, name: str, *labels: str) -> Histogram:
        family = FAMILIES[name]
        return Histogram(self._values, self._place(family, labels), family)

    def _place(self, family: Family, labels: tuple[str, ...]) -> int:
        if len(labels) != len(family.labels):
            raise ValueError(f"{family.name} takes the labels {family.labels}, got {labels}")
        known = self._series.get((family.name, labels))
        if known is not None:
            return known
        start = self._next
        if start + _width(family) > CAPACITY - _SPILL:
            return CAPACITY - _SPILL  # counted nowhere: the metric is lost, the server is not
        try:
            with self._series_path.open("ab") as file:
                # after a newline: the line before may be torn, by a kill or a full disk
                file.write(b"\n" + msgspec.json.encode(_Series(family.name, labels, start)) + b"\n")
        except OSError:
            return CAPACITY - _SPILL
        self._series[family.name, labels] = start
        self._next = start + _width(family)
        return start


class Sample(msgspec.Struct):
    """One merged series: `values` is one number, or bucket counts (not cumulative, +Inf last) and the sum."""

    family: Family
    labels: tuple[str, ...]
    values: list[int]


def collect(folder: Path) -> list[Sample]:
    """All series of all worker slots, added up, in the order of FAMILIES."""
    merged: dict[tuple[str, tuple[str, ...]], Sample] = {}
    for path in sorted(folder.glob("slot-*.series")):
        try:
            data = path.with_suffix(".values").read_bytes()
        except FileNotFoundError:
            continue
        values = memoryview(data).cast("q")
        for series in _read_series(path):
            family = FAMILIES.get(series.name)
            if family is None:
                continue
            own = values[series.start : series.start + _width(family)].tolist()
            if len(own) < _width(family):
                continue  # the disk had no room for the values
            sample = merged.get((series.name, series.labels))
            if sample is None:
                merged[series.name, series.labels] = Sample(family, series.labels, own)
            else:
                merge = max if family.latest else operator.add
                sample.values = list(map(merge, sample.values, own))
    order = {name: index for index, name in enumerate(FAMILIES)}
    return sorted(merged.values(), key=lambda sample: (order[sample.family.name], sample.labels))


def _width(family: Family) -> int:
    return len(family.buckets) + 2 if family.type == "histogram" else 1


def _mapped(path: Path) -> mmap.mmap:
    """A slot's values; memory that nobody else sees where the disk has no room for them.

    The room is taken at once: a page that a full disk cannot give when it is first written to is a SIGBUS.
    """
    try:
        with path.open("a+b") as file:
            os.posix_fallocate(file.fileno(), 0, CAPACITY * 8)
            return mmap.mmap(file.fileno(), CAPACITY * 8)
    except OSError as error:
        log.warning("no room for metrics in %s (%s): this worker is not counted", path, error.strerror or error)
        return mmap.mmap(-1, CAPACITY * 8)


def _read_series(path: Path) -> Iterator[_Series]:
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return
    for line in lines:
        try:
            yield _decoder.decode(line)
        except msgspec.DecodeError:
            continue  # empty, or torn: whoever comes next writes the series again
