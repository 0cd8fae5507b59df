"""What control answers below `/v2`: statistics in Triton's shape, the repository, the documentation of the V2 paths."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from lagar.control.repository import CatalogRepository, Entry, PathRepository
from lagar.errors import InvalidInput, LagarError, NotFound
from lagar.metrics import Registry
from lagar.registry.releases import Releases, open_releases
from support.infos import Control, churn_info, wine_info
from support.registry import ANA, manifest_of
from support.wait import eventually


def counted(folder: Path) -> Path:
    """Two workers that answered some requests of two versions."""
    folder.mkdir()
    for slot in (0, 1):
        registry = Registry(folder, slot)
        for version, requests in (("1", 3), ("2", 1)):
            labels = ("wine", version)
            for protocol, status, count in (("v2", "200", requests), ("native", "200", 1), ("v2", "400", 2)):
                registry.counter("lagar_requests", *labels, protocol, status).add(count)
            registry.counter("lagar_rows", *labels).add(10 * requests)
            registry.counter("lagar_batches", *labels).add(requests)
            registry.histogram("lagar_request_seconds", *labels).observe(0.004)
            registry.histogram("lagar_queue_seconds", *labels).observe(0.001)
            registry.histogram("lagar_compute_seconds", *labels).observe(0.001)
            registry.counter("lagar_reading_seconds", *labels).add(300_000)
            registry.counter("lagar_infer_seconds", *labels).add(2_000_000)
            registry.counter("lagar_last_call_timestamp_seconds", *labels).set(1_800_000_000_000 + slot)
    return folder


def test_statistics_are_the_counters_of_all_workers_in_triton_s_shape(control: Control, tmp_path: Path) -> None:
    infos = wine_info("1"), wine_info("2", live=False), churn_info()
    client = control(*infos, metrics_dir=counted(tmp_path / "metrics"))
    (one,) = client.get("/v2/models/wine/versions/1/stats").json()["model_stats"]
    assert (one["name"], one["version"], one["inference_count"], one["execution_count"]) == ("wine", "1", 60, 6)
    stats = one["inference_stats"]
    assert stats["success"] == {"count": 8, "ns": 8_000_000}
    assert stats["fail"] == {"count": 4, "ns": 0}
    assert one["last_inference"] == 1_800_000_000_001
    assert stats["queue"] == {"count": 2, "ns": 1_400_000}
    assert stats["compute_input"] == {"count": 2, "ns": 600_000}
    assert stats["compute_infer"] == {"count": 2, "ns": 4_000_000}
    assert stats["compute_output"] == {"count": 8, "ns": 2_000_000}
    assert set(stats) == {
        "success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss",
    }  # fmt: skip
    of_model = client.get("/v2/models/wine/stats").json()["model_stats"]
    assert [entry["version"] for entry in of_model] == ["1", "2"]
    everything = client.get("/v2/models/stats").json()["model_stats"]
    assert [(entry["name"], entry["version"]) for entry in everything] == [
        ("wine", "1"), ("wine", "2"), ("churn", "v1.0.10"),
    ]  # fmt: skip
    assert everything[2]["inference_stats"]["success"] == {"count": 0, "ns": 0}


def test_statistics_of_an_unknown_model_are_404_in_the_shape_of_v2(control: Control) -> None:
    client = control(wine_info())
    for path, message in (
        ("/v2/models/nada/stats", "Model nada not found"),
        ("/v2/models/wine/versions/9/stats", "Model wine with version 9 not found"),
        ("/v2/models/nada/docs", "Model nada not found"),
        ("/v2/models/wine/versions/9/docs/dataplane.json", "Model wine with version 9 not found"),
    ):
        answer = client.get(path)
        assert (answer.status_code, answer.json()) == (404, {"error": message}), path


def test_the_v2_document_has_the_v2_paths_and_no_others(control: Control) -> None:
    client = control(wine_info("1"), wine_info("2", live=False), churn_info())
    document = client.get("/v2/docs/dataplane.json").json()
    assert document["openapi"] == "3.1.0"
    assert all(path == "/v2" or path.startswith("/v2/") for path in document["paths"])
    assert {"/v2", "/v2/models", "/v2/models/wine/infer", "/v2/repository/index"} <= set(document["paths"])
    of_model = client.get("/v2/models/wine/docs/dataplane.json").json()["paths"]
    assert "/v2/models/wine/versions/2/infer" in of_model
    assert all(path.startswith("/v2/models/wine") for path in of_model)
    of_version = client.get("/v2/models/wine/versions/2/docs/dataplane.json").json()["paths"]
    assert all(path.startswith("/v2/models/wine/versions/2") for path in of_version)


def test_every_reference_in_the_v2_document_leads_somewhere(control: Control) -> None:
    document = control(wine_info(), churn_info()).get("/v2/docs/dataplane.json").json()
    references = []

    def collect(node: object) -> None:
        if isinstance(node, dict):
            references.extend(value for key, value in node.items() if key == "$ref")
            for value in node.values():
                collect(value)
        elif isinstance(node, list):
            for value in node:
                collect(value)

    collect(document)
    assert references
    for reference in references:
        place = document
        for part in reference.removeprefix("#/").split("/"):
            place = place[part]


@pytest.mark.parametrize("path", ["/v2/docs", "/v2/models/wine/docs", "/v2/models/wine/versions/1/docs"])
def test_the_v2_pages_show_their_document(control: Control, path: str) -> None:
    answer = control(wine_info(), root_path="/ml").get(path)
    assert answer.status_code == 200
    assert f'data-document="/ml{path}/dataplane.json"' in answer.text
    assert "script-src 'self'" in answer.headers["content-security-policy"]


def test_the_page_of_one_model_is_open_beside_however_many_others(control: Control) -> None:
    client = control(wine_info(), *(msgspec.structs.replace(wine_info(), name=f"wine-{n}") for n in range(60)))
    everything, one = client.get("/v2/docs").text, client.get("/v2/models/wine/docs").text
    assert ('data-expansion="none"' in everything, 'data-expansion="list"' in one) == (True, True)
    assert ("<title>Lagar: API</title>" in everything, "<title>Lagar: API of wine</title>" in one) == (True, True)


# The repository


class Switchboard:
    """Paths of a server, without one."""

    def __init__(self) -> None:
        self.versions = [("iris", "1"), ("wine", "1"), ("wine", "2")]
        self.off: set[str] = set()
        self.why = ""

    def placed(self) -> list[tuple[str, str, bool]]:
        return [(name, version, name not in self.off) for name, version in self.versions]

    def refused_places(self) -> list[tuple[str, str]]:
        return [("broken", "no model in it")]

    async def put_in_service(self, model: str, on: bool) -> str:
        (self.off.discard if on else self.off.add)(model)
        return self.why

    def live(self) -> set[str]:
        return {name for name, _, on in self.placed() if on}


def test_the_repository_over_http_takes_and_refuses_as_triton_s(control: Control) -> None:
    client = control()
    assert client.post("/v2/repository/index").status_code == 503
    board = Switchboard()
    client.state.repository = PathRepository(board, board.live)  # type: ignore[attr-defined]
    for body in (b"", b"{}", b'{"ready": false}'):
        entries = client.post("/v2/repository/index", content=body).json()
        assert entries[0] == {"name": "iris", "version": "1", "state": "READY", "reason": ""}
        assert entries[3] == {"name": "broken", "version": "", "state": "UNAVAILABLE", "reason": "no model in it"}
    assert client.post("/v2/repository/models/iris/unload").content == b""
    index = {entry["name"]: entry for entry in client.post("/v2/repository/index").json()}
    assert (index["iris"]["state"], index["iris"]["reason"]) == ("UNAVAILABLE", "unloaded")
    ready = client.post("/v2/repository/index", json={"ready": True}).json()
    assert [entry["name"] for entry in ready] == ["wine", "wine"]
    assert client.post("/v2/repository/models/iris/load", json={}).status_code == 200
    assert not board.off
    body = {"parameters": {"unload_dependents": False}}
    assert client.post("/v2/repository/models/iris/unload", json=body).status_code == 200


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("nada/load", {}, 404, "Model nada not found"),
        ("nada/unload", {}, 404, "Model nada not found"),
        ("wine/load", {"parameters": {"version": "9"}}, 404, "Model wine with version 9 not found"),
        ("wine/load", {"parameters": {"version": 2}}, 400, "must be a text"),
        ("wine/load", {"parameters": {"config": "{}"}}, 400, "'config' is not taken by load"),
        ("wine/load", {"parameters": {"file:1/model.onnx": "AA=="}}, 400, "lagar push"),
        ("wine/unload", {"parameters": {"version": "2"}}, 400, "'version' is not taken by unload"),
        ("wine/load", {"parameters": []}, 400, "must be a JSON object"),
        ("broken/load", {}, 400, "no model in it"),
    ],
)
def test_what_cannot_be_loaded_is_refused_by_name(
    control: Control, path: str, body: object, status: int, words: str
) -> None:
    client = control()
    board = Switchboard()
    client.state.repository = PathRepository(board, board.live)  # type: ignore[attr-defined]
    answer = client.post(f"/v2/repository/models/{path}", json=body)
    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["error"]
    assert words in answer.json()["error"]


def test_a_switch_that_fails_is_told_with_its_reason(control: Control) -> None:
    client = control()
    board = Switchboard()
    board.why = "worker 0 has not loaded it"
    client.state.repository = PathRepository(board, board.live)  # type: ignore[attr-defined]
    answer = client.post("/v2/repository/models/wine/load")
    assert (answer.status_code, answer.json()) == (400, {"error": "failed to load 'wine', worker 0 has not loaded it"})


@pytest.fixture
def releases(tmp_path: Path) -> Iterator[Releases]:
    with open_releases(tmp_path / "home") as opened:
        for version in ("1", "2", "3"):
            file = tmp_path / "m.bin"
            file.write_bytes(version.encode())
            opened.commit(manifest_of({"m.bin": version.encode()}, "wine", version), {"m.bin": file}, ANA)
        yield opened


@pytest.fixture
def repository(releases: Releases) -> CatalogRepository:
    """The repository of a server that takes every generation at once."""
    return CatalogRepository(releases, releases.current_number, lambda: set(releases.all_traffic()))


def weights(releases: Releases) -> dict[str, int]:
    found = releases.traffic("wine")
    return {} if found is None else found.weights


def test_unloading_takes_a_model_out_of_production_and_loading_brings_back_what_was(
    releases: Releases, repository: CatalogRepository
) -> None:
    releases.propose("wine", {"1": 90, "2": 10}, ANA)
    asyncio.run(repository.unload("wine", ANA))
    assert weights(releases) == {}
    assert releases.is_unloaded("wine")
    assert repository.index() == [Entry("wine", label, "UNAVAILABLE", "unloaded") for label in ("1", "2", "3")]
    asyncio.run(repository.unload("wine", ANA))
    asyncio.run(repository.load("wine", None, ANA))
    assert weights(releases) == {"1": 90, "2": 10}
    assert [entry.state for entry in repository.index()] == ["READY"] * 3
    assert [line.action for line in releases.history("wine")] == ["promote", "unload", "load"]
    asyncio.run(repository.load("wine", None, ANA))
    assert len(releases.history("wine")) == 3


def test_loading_a_version_brings_it_back_and_moves_no_traffic(
    releases: Releases, repository: CatalogRepository
) -> None:
    releases.propose("wine", {"1": 100}, ANA)
    releases.retire("wine", "2", ANA)
    assert repository.index()[1] == Entry("wine", "2", "UNAVAILABLE", "retired")
    asyncio.run(repository.load("wine", "2", ANA))
    assert repository.index()[1] == Entry("wine", "2", "READY")
    assert weights(releases) == {"1": 100}


def test_the_version_that_is_loaded_into_an_unloaded_model_answers_for_it(
    releases: Releases, repository: CatalogRepository
) -> None:
    releases.propose("wine", {"1": 100}, ANA)
    asyncio.run(repository.unload("wine", ANA))
    asyncio.run(repository.load("wine", "2", ANA))
    assert weights(releases) == {"2": 100}


def test_a_model_that_was_never_live_is_loaded_in_its_newest_version(
    releases: Releases, repository: CatalogRepository
) -> None:
    releases.retire("wine", "3", ANA)
    asyncio.run(repository.load("wine", None, ANA))
    assert weights(releases) == {"2": 100}


def test_a_promote_ends_an_unload(releases: Releases, repository: CatalogRepository) -> None:
    asyncio.run(repository.unload("wine", ANA))
    assert releases.is_unloaded("wine")
    releases.propose("wine", {"3": 100}, ANA)
    assert not releases.is_unloaded("wine")


def test_what_is_not_in_the_catalog_is_not_loaded(releases: Releases, repository: CatalogRepository) -> None:
    for work in (repository.load("nada", None, ANA), repository.unload("nada", ANA)):
        with pytest.raises(NotFound, match=r"^Model nada not found$"):
            asyncio.run(work)
    with pytest.raises(NotFound, match=r"^Model wine with version 9 not found$"):
        asyncio.run(repository.load("wine", "9", ANA))
    for label in ("1", "2", "3"):
        releases.retire("wine", label, ANA)
    with pytest.raises(InvalidInput, match="all its versions are retired"):
        asyncio.run(repository.load("wine", None, ANA))


def test_a_change_that_fails_says_why(releases: Releases) -> None:
    releases.propose("wine", {"1": 100}, ANA)
    releases.lease("server", "http://one", releases.current_number(), True)
    repository = CatalogRepository(releases, releases.current_number, lambda: set(releases.all_traffic()))

    async def failing() -> None:
        work = asyncio.create_task(repository.unload("wine", ANA))
        pending = await asyncio.to_thread(eventually, releases.pending, 60, "the proposed change")
        await asyncio.to_thread(releases.report, pending.n, "server", False, "no memory")
        await work

    with pytest.raises(LagarError, match="failed to unload 'wine', http://one: no memory"):
        asyncio.run(failing())
