"""The statistics of V2: what the workers counted, in the shape of Triton's statistics extension.

Source: Triton, docs/protocol/extension_statistics.md. Where it counts requests within a batch, `compute_infer` here
counts calls of the model, so that its ns over its count is what a call took.
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
    nothing = {"count": 0, "ns": 0}
    return {
        "name": name,
        "version": version,
        "last_inference": 0,
        "inference_count": _counter(samples, "lagar_rows"),
        "execution_count": _counter(samples, "lagar_batches"),
        "inference_stats": {
            "success": {"count": success, "ns": success_ns},
            "fail": {"count": failed, "ns": 0},
            "queue": _duration(samples, "lagar_queue_seconds"),
            "compute_input": nothing,
            "compute_infer": _duration(samples, "lagar_compute_seconds"),
            "compute_output": nothing,
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


def _duration(samples: Iterable[Sample], family: str) -> dict[str, int]:
    count, total = _histogram(samples, family)
    return {"count": count, "ns": total}
