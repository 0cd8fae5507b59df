"""The statistics of V2: what the workers counted, in the shape of Triton's statistics extension.

The times of answered requests add up: queue, compute_input (reading them), compute_infer (the calls of the model that
they shared) and compute_output (the rest, until the answer was written) are their `success`.
Source: Triton, docs/protocol/extension_statistics.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lagar.metrics import Sample, collect

Key = tuple[str, str]
"""Name and version."""


def statistics(folder: Path | None, keys: Sequence[Key]) -> dict[str, Any]:
    """The statistics of versions, in their order, since the server started; ns are nanoseconds."""
    found: dict[Key, list[Sample]] = {key: [] for key in keys}
    for sample in collect(folder) if folder is not None else ():
        own = found.get((sample.labels[0], sample.labels[1])) if len(sample.labels) > 1 else None
        if own is not None:
            own.append(sample)
    return {"model_stats": [_of_version(name, version, found[name, version]) for name, version in keys]}


def _of_version(name: str, version: str, samples: Sequence[Sample]) -> dict[str, Any]:
    answered = _by_status(samples)
    success = sum(count for status, count in answered if status < 400)
    failed = sum(count for status, count in answered if status >= 400)
    _, success_ns = _histogram(samples, "lagar_request_seconds")
    taken, until_called_ns = _histogram(samples, "lagar_queue_seconds")
    reading_ns, infer_ns = _counter(samples, "lagar_reading_seconds"), _counter(samples, "lagar_infer_seconds")
    nothing = {"count": 0, "ns": 0}
    return {
        "name": name,
        "version": version,
        "last_inference": _counter(samples, "lagar_last_call_timestamp_seconds"),
        "inference_count": _counter(samples, "lagar_rows"),
        "execution_count": _counter(samples, "lagar_batches"),
        "inference_stats": {
            "success": {"count": success, "ns": success_ns},
            "fail": {"count": failed, "ns": 0},
            "queue": {"count": taken, "ns": max(0, until_called_ns - reading_ns)},
            "compute_input": {"count": taken, "ns": reading_ns},
            "compute_infer": {"count": taken, "ns": infer_ns},
            "compute_output": {"count": success, "ns": max(0, success_ns - until_called_ns - infer_ns)},
            "cache_hit": nothing,
            "cache_miss": nothing,
        },
        "response_stats": {},
        "batch_stats": [],
        "memory_usage": [],
    }


def _named(samples: Iterable[Sample], family: str) -> Iterable[Sample]:
    return (sample for sample in samples if sample.family.name == family)


def _by_status(samples: Iterable[Sample]) -> list[tuple[int, int]]:
    """(status, requests) of every protocol; the labels are model, version, protocol, status."""
    return [(int(sample.labels[3]), sample.values[0]) for sample in _named(samples, "lagar_requests")]


def _counter(samples: Iterable[Sample], family: str) -> int:
    return sum(sample.values[0] for sample in _named(samples, family))


def _histogram(samples: Iterable[Sample], family: str) -> tuple[int, int]:
    """(observations, their sum in ns)."""
    count = total = 0
    for sample in _named(samples, family):
        *buckets, own = sample.values
        count += sum(buckets)
        total += round(own * sample.family.scale * 1e9)
    return count, total
