"""`/metrics`: what a scraper reads."""

from __future__ import annotations

from pathlib import Path

from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from lagar.metrics import FAMILIES, Registry
from support.infos import Control, wine_info

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


def counted(folder: Path) -> Path:
    """Two workers that answered some requests."""
    folder.mkdir()
    for slot, requests in ((0, 3), (1, 4)):
        registry = Registry(folder, slot)
        registry.counter("lagar_requests", "wine", "1", "native", "200").add(requests)
        registry.counter("lagar_queue_rows", "wine", "1").set(5)
        seconds = registry.histogram("lagar_request_seconds", "wine", "1")
        rows = registry.histogram("lagar_batch_rows", "wine", "1")
        for _ in range(requests):
            seconds.observe(0.002)
            rows.observe(32)
        seconds.observe(99.0)
    return folder


def test_counters_of_all_workers_are_one_number(control: Control, tmp_path: Path) -> None:
    text = control(wine_info(), metrics_dir=counted(tmp_path / "m")).get("/metrics").text
    assert 'lagar_requests_total{model="wine",protocol="native",status="200",version="1"} 7.0' in text
    assert 'lagar_queue_rows{model="wine",version="1"} 10.0' in text


def test_histograms_are_cumulative_with_sum_and_count_in_seconds(control: Control, tmp_path: Path) -> None:
    text = control(wine_info(), metrics_dir=counted(tmp_path / "m")).get("/metrics").text
    family = next(f for f in parse(text) if f.name == "lagar_request_seconds")
    samples = {(s.name, s.labels.get("le")): s.value for s in family.samples}
    assert samples["lagar_request_seconds_bucket", "0.001"] == 0
    assert samples["lagar_request_seconds_bucket", "0.0025"] == 7
    assert samples["lagar_request_seconds_bucket", "30.0"] == 7
    assert samples["lagar_request_seconds_bucket", "+Inf"] == 9
    assert samples["lagar_request_seconds_count", None] == 9
    assert abs(samples["lagar_request_seconds_sum", None] - (7 * 0.002 + 2 * 99)) < 1e-6
    rows = next(f for f in parse(text) if f.name == "lagar_batch_rows")
    assert {s.value for s in rows.samples if s.name == "lagar_batch_rows_sum"} == {7 * 32}


def test_every_family_has_a_help_text_before_it_has_a_value(control: Control) -> None:
    text = control().get("/metrics").text
    for family in FAMILIES.values():
        name = family.name + ("_total" if family.type == "counter" else "")
        assert f"# HELP {name} {family.help}\n" in text
    assert all(f.documentation for f in parse(text))


def test_the_server_tells_its_build_readiness_workers_and_models(control: Control) -> None:
    client = control(wine_info("2"), wine_info("1", live=False))
    text = client.get("/metrics").text
    assert 'lagar_build_info{python="' in text
    assert "\nlagar_ready 1.0\n" in text
    assert 'lagar_workers{state="ready"} 2.0' in text
    assert 'lagar_models{live="true",model="wine",version="2"} 1.0' in text
    assert 'lagar_models{live="false",model="wine",version="1"} 1.0' in text
    client.state.server = type(client.state.server)(ready=False)  # type: ignore[attr-defined]
    assert "\nlagar_ready 0.0\n" in client.get("/metrics").text


def test_openmetrics_is_written_for_those_who_ask_for_it(control: Control, tmp_path: Path) -> None:
    client = control(wine_info(), metrics_dir=counted(tmp_path / "m"))
    answer = client.get("/metrics", headers={"Accept": f"{OPENMETRICS},text/plain;q=0.5"})
    assert answer.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert answer.text.endswith("# EOF\n")
    assert {f.name for f in parse_openmetrics(answer.text)} >= set(FAMILIES)
    plain = client.get("/metrics", headers={"Accept": "*/*"})
    assert plain.headers["content-type"].startswith("text/plain; version=0.0.4")


def test_labels_name_loaded_models_only(control: Control, tmp_path: Path) -> None:
    client = control(wine_info(), metrics_dir=counted(tmp_path / "m"))
    client.get("/models/made-up/predict")
    client.get("/made-up")
    text = client.get("/metrics").text
    assert "made-up" not in text
    assert {s.labels["model"] for f in parse(text) for s in f.samples if "model" in s.labels} == {"wine"}
