"""`/metrics`: what the workers counted and the facts of this server, as Prometheus text or OpenMetrics."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from itertools import accumulate

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

import lagar
from lagar.control import aliases
from lagar.control.state import ControlState
from lagar.metrics import FAMILIES, Family, Sample, collect


def exposition(state: ControlState, accept: str) -> tuple[bytes, str]:
    """The metrics and their content type, in the format that the Accept header asks for."""
    encode, content_type = choose_encoder(accept)
    return encode(ServerCollector(state)), content_type


class ServerCollector(Collector):
    """The metrics of one server, read anew at each scrape.

    A prediction's labels are made by workers when a model is loaded, never from a request, so a caller cannot add
    series.
    """

    def __init__(self, state: ControlState) -> None:
        self._state = state

    def collect(self) -> Iterator[Metric]:
        yield from server_facts(self._state)
        samples = collect(self._state.metrics_dir) if self._state.metrics_dir is not None else []
        for family in FAMILIES.values():
            yield metric(family, [sample for sample in samples if sample.family.name == family.name])
        if self._state.settings.metrics_aliases == "mlserver":
            yield from aliases.families(samples, self._state.settings.metrics_rest_prefix)


def server_facts(state: ControlState) -> Iterator[Metric]:
    """What control knows itself: build, readiness, workers, loaded models."""
    build = InfoMetricFamily("lagar_build", "Version of Lagar and of the Python that runs it.")
    build.add_metric((), {"version": lagar.__version__, "python": platform.python_version()})
    yield build
    yield GaugeMetricFamily("lagar_ready", "1 when every worker can answer, else 0.", value=float(state.server.ready))
    workers = GaugeMetricFamily("lagar_workers", "Worker processes, by state.", labels=("state",))
    workers.add_metric(("ready",), state.server.workers_ready)
    workers.add_metric(("configured",), state.server.workers)
    yield workers
    switches = CounterMetricFamily(
        "lagar_switches",
        "Changes of what is live, by how they ended here; abandoned: another server could not load the versions.",
        labels=("result",),
    )
    for result, count in state.switches.items():
        switches.add_metric((result,), count)
    yield switches
    yield GaugeMetricFamily(
        "lagar_paths_refused",
        "Places at the paths of this server that hold no model that can be served.",
        value=float(len(state.refused)),
    )
    models = GaugeMetricFamily(
        "lagar_models",
        "1 for each version in service, 0 for one that is loaded when it is asked for; live is true for the one that "
        "answers when none is named.",
        labels=("model", "version", "live"),
    )
    for info in state.models:
        models.add_metric((info.name, info.version, "true" if info.live else "false"), float(info.state == "ready"))
    yield models


def metric(family: Family, samples: Sequence[Sample]) -> Metric:
    """A family with its samples in Prometheus' terms: seconds and rows as floats, cumulative buckets."""
    if family.type == "histogram":
        histogram = HistogramMetricFamily(family.name, family.help, labels=family.labels)
        for sample in samples:
            *counts, total = sample.values
            bounds = [*map(floatToGoString, family.buckets), "+Inf"]
            buckets = list(zip(bounds, map(float, accumulate(counts)), strict=True))
            histogram.add_metric(sample.labels, buckets, total * family.scale)
        return histogram
    kind = CounterMetricFamily if family.type == "counter" else GaugeMetricFamily
    plain = kind(family.name, family.help, labels=family.labels)
    for sample in samples:
        plain.add_metric(sample.labels, sample.values[0] * family.scale)
    return plain
