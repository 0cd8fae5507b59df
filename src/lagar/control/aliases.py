"""The metrics of this server under the names that MLServer gives them, so that its dashboards and alerts stay.

They are computed from Lagar's own counters, with the labels of versions that were loaded: a name that a caller made up
makes no series. MLServer's model_infer_request_duration has no quantiles, so it is a summary here too; with quantiles
the same is lagar_request_seconds. Source: mlserver/handlers/dataplane.py, starlette_exporter, py-grpc-prometheus.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Final

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, SummaryMetricFamily
from prometheus_client.utils import floatToGoString

from lagar.metrics import FAMILIES, Sample

_GRPC: Final = {
    "200": "OK", "400": "INVALID_ARGUMENT", "401": "UNAUTHENTICATED", "403": "PERMISSION_DENIED", "404": "NOT_FOUND",
    "413": "RESOURCE_EXHAUSTED", "429": "RESOURCE_EXHAUSTED", "503": "UNAVAILABLE", "504": "DEADLINE_EXCEEDED",
}  # fmt: skip
_GRPC_LABELS: Final = ("UNARY", "inference.GRPCInferenceService", "ModelInfer")
_APP: Final = "mlserver"
"""What MLServer calls itself in this label: dashboards choose by it."""
_PATHS: Final = {"v2": "/v2/models/{model_name}/infer", "mlflow": "/invocations"}


def families(samples: Sequence[Sample], rest_prefix: str) -> Iterator[Metric]:
    """MLServer's families for what the workers counted."""
    by_name: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        by_name[sample.family.name].append(sample)
    requests = by_name["lagar_requests"]
    yield from _outcomes(requests)
    yield _durations(by_name["lagar_request_seconds"])
    yield _batches(by_name["lagar_batch_rows"])
    yield _rest(requests, rest_prefix)
    yield _rest_durations(by_name["lagar_request_seconds"], rest_prefix)
    yield from _grpc(requests)


def _outcomes(requests: Sequence[Sample]) -> Iterator[Metric]:
    counts: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
    for sample in requests:
        model, version, _, status = sample.labels
        counts[model, version][0 if status.startswith("2") else 1] += sample.values[0]
    for place, (name, text) in enumerate(
        (("success", "Inference requests answered."), ("failure", "Refused or failed."))
    ):
        family = CounterMetricFamily(f"model_infer_request_{name}", text, labels=("model", "version"))
        for labels, both in counts.items():
            family.add_metric(labels, float(both[place]))
        yield family


def _durations(seconds: Sequence[Sample]) -> Metric:
    family = SummaryMetricFamily(
        "model_infer_request_duration", "Seconds from a request's last byte to its answer.", labels=("model", "version")
    )
    for sample in seconds:
        *counts, total = sample.values
        family.add_metric(sample.labels, sum(counts), total * sample.family.scale)
    return family


def _batches(rows: Sequence[Sample]) -> Metric:
    family = HistogramMetricFamily(
        "batch_request_queue", "Rows joined into one call of the model.", labels=("model_name", "model_version")
    )
    bounds = [*map(floatToGoString, FAMILIES["lagar_batch_rows"].buckets), "+Inf"]
    for sample in rows:
        *counts, total = sample.values
        family.add_metric(sample.labels, list(zip(bounds, map(float, accumulate(counts)), strict=True)), float(total))
    return family


def _rest_durations(seconds: Sequence[Sample], prefix: str) -> Metric:
    """The times of all answers: they are not kept by protocol, and what MLServer measures is its REST server."""
    family = HistogramMetricFamily(
        f"{prefix}_request_duration_seconds",
        "Seconds from a request's last byte to its answer, of every protocol.",
        labels=("method", "path", "status_code", "app_name"),
    )
    if seconds:
        *counts, total = map(sum, zip(*(sample.values for sample in seconds), strict=True))
        bounds = [*map(floatToGoString, FAMILIES["lagar_request_seconds"].buckets), "+Inf"]
        buckets = list(zip(bounds, map(float, accumulate(counts)), strict=True))
        family.add_metric(("POST", _PATHS["v2"], "200", _APP), buckets, total * seconds[0].family.scale)
    return family


def _rest(requests: Sequence[Sample], prefix: str) -> Metric:
    counts: dict[tuple[str, str], int] = defaultdict(int)
    for sample in requests:
        _, _, protocol, status = sample.labels
        if protocol in _PATHS:
            counts[_PATHS[protocol], status] += sample.values[0]
    labels = ("method", "path", "status_code", "app_name")
    family = CounterMetricFamily(f"{prefix}_requests", "Inference requests over HTTP.", labels=labels)
    for (path, status), count in sorted(counts.items()):
        family.add_metric(("POST", path, status, _APP), float(count))
    return family


def _grpc(requests: Sequence[Sample]) -> Iterator[Metric]:
    counts: dict[str, int] = defaultdict(int)
    for sample in requests:
        if sample.labels[2] == "grpc":
            counts[_GRPC.get(sample.labels[3], "INTERNAL")] += sample.values[0]
    labels = ("grpc_type", "grpc_service", "grpc_method")
    started = CounterMetricFamily("grpc_server_started", "Calls of ModelInfer.", labels=labels)
    started.add_metric(_GRPC_LABELS, float(sum(counts.values())))
    handled = CounterMetricFamily("grpc_server_handled", "Calls of ModelInfer by status.", labels=(*labels, "code"))
    for code, count in sorted(counts.items()):
        handled.add_metric((*_GRPC_LABELS, code), float(count))
    yield started
    yield handled
