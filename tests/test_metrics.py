"""Counters outlive the worker that counted and add up over the slots."""

from __future__ import annotations

import resource
import signal
from pathlib import Path

import pytest

from lagar.metrics import CAPACITY, Registry, collect


def values(folder: Path, name: str, *labels: str) -> list[int]:
    return next(s.values for s in collect(folder) if s.family.name == name and s.labels == labels)


def test_slots_are_added_up(tmp_path: Path) -> None:
    for slot in (0, 1):
        Registry(tmp_path, slot).counter("lagar_rows", "wine", "1").add(slot + 1)
    assert values(tmp_path, "lagar_rows", "wine", "1") == [3]


def test_a_successor_counts_on_and_starts_its_gauges_at_zero(tmp_path: Path) -> None:
    first = Registry(tmp_path, 0)
    first.counter("lagar_rows", "wine", "1").add(5)
    first.counter("lagar_queue_rows", "wine", "1").set(7)
    first.histogram("lagar_batch_rows", "wine", "1").observe(3)
    second = Registry(tmp_path, 0)
    second.counter("lagar_rows", "wine", "1").add(1)
    second.histogram("lagar_batch_rows", "wine", "1").observe(3)
    assert values(tmp_path, "lagar_rows", "wine", "1") == [6]
    assert values(tmp_path, "lagar_queue_rows", "wine", "1") == [0]
    assert values(tmp_path, "lagar_batch_rows", "wine", "1")[-1] == 6


def test_a_torn_line_of_a_killed_worker_is_passed_over(tmp_path: Path) -> None:
    Registry(tmp_path, 0).counter("lagar_rows", "wine", "1").add(5)
    with (tmp_path / "slot-0.series").open("ab") as file:
        file.write(b'{"name":"lagar_ba')
    Registry(tmp_path, 0).counter("lagar_batches", "wine", "1").add(2)
    assert values(tmp_path, "lagar_rows", "wine", "1") == [5]
    assert values(tmp_path, "lagar_batches", "wine", "1") == [2]


@pytest.mark.parametrize("lost", ["values", "series"])
def test_a_full_disk_costs_the_metric_not_the_server(
    tmp_path: Path, lost: str, caplog: pytest.LogCaptureFixture
) -> None:
    limit, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    registry = Registry(tmp_path, 0)
    registry.counter("lagar_rows", "wine", "1").add(5)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))  # every write fails, as on a full disk
    try:
        if lost == "values":
            registry = Registry(tmp_path, 1)
            assert "no room for metrics" in caplog.text
        registry.counter("lagar_batches", "wine", "1").add(2)
        registry.histogram("lagar_batch_rows", "wine", "1").observe(3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert values(tmp_path, "lagar_rows", "wine", "1") == [5]
    registry.counter("lagar_connections").set(1)
    assert "lagar_batches" not in [sample.family.name for sample in collect(tmp_path)]


def test_the_room_for_values_is_taken_at_the_start(tmp_path: Path) -> None:
    Registry(tmp_path, 0)
    status = (tmp_path / "slot-0.values").stat()
    assert status.st_blocks * 512 >= CAPACITY * 8  # a page found missing later would be a SIGBUS


def test_a_histogram_counts_in_the_bucket_that_holds_the_value(tmp_path: Path) -> None:
    histogram = Registry(tmp_path, 0).histogram("lagar_batch_rows", "wine", "1")
    for rows in (1, 2, 3, 1_000_000):
        histogram.observe(rows)
    buckets = values(tmp_path, "lagar_batch_rows", "wine", "1")
    assert (buckets[0], buckets[1], buckets[2], buckets[-2]) == (1, 1, 1, 1)
    assert buckets[-1] == 1_000_006


def test_labels_must_be_the_familys(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="takes the labels"):
        Registry(tmp_path, 0).counter("lagar_rows", "wine")


def test_more_series_than_fit_cost_the_metric_not_the_server(tmp_path: Path) -> None:
    registry = Registry(tmp_path, 0)
    for number in range(CAPACITY // 16 + 10):
        registry.histogram("lagar_batch_rows", f"m{number}", "1")
    registry.histogram("lagar_batch_rows", "one-too-many", "1").observe(1)
    assert all(sample.labels[0] != "one-too-many" for sample in collect(tmp_path))
