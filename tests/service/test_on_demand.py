"""Versions that are loaded when they are asked for, within the memory that a worker may use."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import joblib
import msgspec
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from lagar import runtimes
from lagar.errors import ChangedArtifact
from lagar.intake import golden
from lagar.registry.manifest import Golden
from lagar.registry.model import LoadedModel, ModelSource
from lagar.registry.releases import Releases, Version, open_releases
from lagar.server.channel import WorkerBoot
from lagar.server.worker import Worker
from lagar.settings import ServerSettings
from support.registry import ANA, manifest_of
from support.wait import eventually
from support.workers import WorkerThread

MB = 1_000_000
BODY = {"instances": [[1.0, 2.0]]}
SIZE = 10 * MB
"""What each version is said to take."""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, LoadedModel, Golden]:
    """A small model on disk, opened once: its signature and its golden rows."""
    path = tmp_path_factory.mktemp("small") / "small.joblib"
    rows = np.random.default_rng(0).normal(size=(40, 2))
    joblib.dump(LogisticRegression().fit(rows, rows[:, 0] > 0), path)
    model = runtimes.load(ModelSource(name="small", version="1", path=str(path), kind="sklearn", pickled=True))
    return path, model, golden.record(model).golden


@pytest.fixture
def releases(tmp_path: Path) -> Iterator[Releases]:
    with open_releases(tmp_path / "home") as opened:
        yield opened


@pytest.fixture
def commit(small: tuple[Path, LoadedModel, Golden], releases: Releases) -> Callable[..., Version]:
    """Make that model a version under a name."""
    path, model, recorded = small

    def committed(
        name: str, label: str, *, live: bool = True, size: int = SIZE, file: str = path.name, **more: Any
    ) -> Version:
        made = manifest_of(
            {file: path.read_bytes()}, name, label, signature=model.signature, memory_bytes=size, pickled=True,
            **{"golden": recorded, "libraries": dict(model.libraries)} | more,
        )  # fmt: skip
        form = msgspec.structs.replace(made.original, kind="sklearn")
        done = releases.commit(msgspec.structs.replace(made, forms=(form,)), {file: path}, ANA)
        if live:
            releases.propose(name, {label: 100}, ANA)
        return done

    return committed


@pytest.fixture
def start(releases: Releases, tmp_path: Path) -> Iterator[Callable[..., WorkerThread]]:
    started: list[WorkerThread] = []

    def begun(**options: Any) -> WorkerThread:
        worker = WorkerThread(releases, tmp_path / f"worker-{len(started)}", **options)
        started.append(worker)
        return worker.__enter__()

    yield begun
    for worker in started:
        worker.__exit__()


def ok(answer: Any, version: str) -> None:
    assert answer.status_code == 200, answer.text
    assert answer.json()["version"] == version


def test_a_version_that_is_not_live_is_loaded_when_its_path_is_asked(commit: Any, start: Any) -> None:
    commit("small", "1")
    commit("small", "2", live=False)
    worker = start()
    assert worker.loaded() == {"small@1"}
    ok(worker.post("small", "2", BODY), "2")
    assert worker.loaded() == {"small@1", "small@2"}
    ok(worker.post("small", None, BODY), "1")
    v2 = {"inputs": [{"name": "input", "shape": [1, 2], "datatype": "FP64", "data": [1.0, 2.0]}]}
    answer = httpx.post(f"{worker.url}/v2/models/small/versions/2/infer", json=v2, timeout=60)
    assert answer.json()["model_version"] == "2"


def test_a_hundred_requests_for_one_version_load_it_once(commit: Any, start: Any) -> None:
    commit("small", "1")
    commit("small", "2", live=False)
    worker = start()
    with ThreadPoolExecutor(20) as pool:
        for answer in pool.map(lambda _: worker.post("small", "2", BODY), range(100)):
            ok(answer, "2")
    assert len([want for want in worker.wants if want.lay_out]) == 1


def test_an_alias_stands_for_its_version_and_is_followed_when_it_moves(
    commit: Any, start: Any, releases: Releases
) -> None:
    commit("small", "1")
    commit("small", "2", live=False)
    commit("small", "3", live=False)
    worker = start()
    releases.set_alias("small", "next", "2", ANA)
    ok(worker.post("small", "next", BODY), "2")
    asked = len(worker.wants)
    ok(worker.post("small", "next", BODY), "2")
    assert len(worker.wants) == asked  # remembered
    releases.set_alias("small", "next", "3", ANA)
    worker.run(worker.worker.demand.changed())
    ok(worker.post("small", "next", BODY), "3")
    assert worker.get("/models/small/versions/next").json()["version"] == "3"
    assert worker.get("/v2/models/small/versions/next").status_code == 200


def test_unknown_and_retired_versions_are_refused_with_the_reason(commit: Any, start: Any, releases: Releases) -> None:
    commit("small", "1")
    commit("small", "2", live=False)
    worker = start()
    ok(worker.post("small", "2", BODY), "2")
    releases.retire("small", "2", ANA)
    worker.run(worker.worker.demand.changed())
    assert worker.loaded() == {"small@1"}
    gone = worker.post("small", "2", BODY)
    assert gone.status_code == 404
    assert "small@2 is retired" in gone.json()["error"]["message"]
    assert "lagar retire small 2 --undo" in gone.json()["error"]["message"]
    for path in ("/v2/models/small/versions/2/ready", "/models/small/versions/9", "/v2/models/small/versions/9"):
        assert worker.get(path).status_code == 404
    assert worker.post("other", "1", BODY).status_code == 404
    assert "9" in worker.post("small", "9", BODY).json()["error"]["message"]


def test_ready_loads_nothing_since_it_is_open_to_all(commit: Any, start: Any) -> None:
    commit("small", "1")
    commit("small", "2", live=False)
    worker = start()
    assert worker.get("/v2/models/small/versions/2/ready").status_code == 200
    assert worker.loaded() == {"small@1"}
    assert worker.get("/v2/models/small/versions/2").json()["name"] == "small"
    assert worker.loaded() == {"small@1", "small@2"}


def test_a_broken_version_is_not_loaded_again_for_each_request(commit: Any, start: Any, releases: Releases) -> None:
    commit("small", "1")
    good = commit("small", "2", live=False).manifest.golden
    wrong = {name: list(reversed(values)) for name, values in good.outputs.items()}
    commit("small", "3", live=False, golden=msgspec.structs.replace(good, outputs=wrong))
    worker = start()
    first, second = (worker.post("small", "3", BODY) for _ in range(2))
    for answer in (first, second):
        assert answer.status_code == 503
        assert "could not be loaded" in answer.json()["error"]["message"]
        assert 0 < int(answer.headers["retry-after"]) <= 30
    assert len([want for want in worker.wants if want.lay_out]) == 1
    ok(worker.post("small", None, BODY), "1")


def test_what_was_called_longest_ago_makes_room(commit: Any, start: Any) -> None:
    for number in range(5):
        commit(f"m{number}", "1")
    worker = start(memory_bytes=3 * SIZE)
    assert len(worker.loaded()) == 3
    for name in ("m0", "m1", "m2", "m0"):
        ok(worker.post(name, None, BODY), "1")
    assert worker.loaded() == {"m0@1", "m1@1", "m2@1"}
    ok(worker.post("m3", None, BODY), "1")
    assert worker.loaded() == {"m0@1", "m2@1", "m3@1"}
    listed = {card["name"]: card["versions"][0]["state"] for card in worker.get("/models").json()["models"]}
    assert listed == {"m0": "ready", "m1": "unloaded", "m2": "ready", "m3": "ready", "m4": "unloaded"}
    assert worker.get("/v2/models/m1/ready").status_code == 200


def test_pinned_models_stay_and_a_version_without_room_is_refused(commit: Any, start: Any) -> None:
    for number in range(4):
        commit(f"m{number}", "1")
    commit("m0", "2", live=False)
    worker = start(memory_bytes=3 * SIZE, pin=("m0@2", "m1"))
    for _ in range(2):
        for number in range(4):
            ok(worker.post(f"m{number}", None, BODY), "1")
            assert worker.loaded() >= {"m0@2", "m1@1"}
            assert len(worker.loaded()) == 3
    everything = start(memory_bytes=2 * SIZE, pin=("m0@2", "m1"))
    refused = everything.post("m2", None, BODY)
    assert refused.status_code == 503
    assert "pinned" in refused.json()["error"]["message"]


def test_a_pin_does_not_bring_a_retired_version_back(commit: Any, start: Any, releases: Releases) -> None:
    commit("m0", "1")
    commit("m0", "2", live=False)
    releases.retire("m0", "2", ANA)
    worker = start(pin=("m0@2",))
    assert worker.loaded() == {"m0@1"}
    refused = worker.post("m0", "2", BODY)
    assert (refused.status_code, "retire m0 2 --undo" in refused.text) == (404, True)


def test_a_version_larger_than_the_bound_is_refused_with_both_sizes(commit: Any, start: Any) -> None:
    commit("small", "1")
    commit("large", "1", size=50 * MB, live=False)
    worker = start(memory_bytes=2 * SIZE)
    refused = worker.post("large", "1", BODY)
    assert refused.status_code == 503
    assert "takes 50 MB and a worker may use 20 MB" in refused.json()["error"]["message"]
    worker.releases.propose("large", {"1": 100}, ANA)
    outcome = worker.switch()
    assert not outcome.ok
    assert "raise max_memory" in outcome.reason


def test_a_switch_has_room_for_the_old_version_and_the_new_one(commit: Any, start: Any) -> None:
    commit("small", "1")
    worker = start(memory_bytes=SIZE)
    commit("small", "2")
    answers: list[str] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            answers.append(worker.post("small", None, BODY).json()["version"])

    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(ask)
        eventually(lambda: len(answers) > 5)
        assert worker.switch().ok
        eventually(lambda: answers[-1] == "2")
        stop.set()
        asking.result(60)
    assert answers == sorted(answers)
    eventually(lambda: worker.loaded() == {"small@2"})


def test_models_that_push_each_other_out_all_answer(commit: Any, start: Any) -> None:
    for number in range(4):
        commit(f"m{number}", "1")
    worker = start(memory_bytes=2 * SIZE)
    with ThreadPoolExecutor(8) as pool:
        asked = [f"m{turn % 4}" for turn in range(64)]
        for answer in pool.map(lambda name: worker.post(name, None, BODY), asked):
            ok(answer, "1")
    assert len(worker.loaded()) <= 2


def test_a_split_model_answers_with_both_versions_though_one_was_unloaded(
    commit: Any, start: Any, releases: Releases
) -> None:
    commit("other", "1")
    commit("small", "1")
    commit("small", "2", live=False)
    releases.propose("small", {"1": 50, "2": 50}, ANA, action="traffic")
    worker = start(memory_bytes=2 * SIZE, at_start=False)
    seen = set()
    while seen != {"1", "2"}:
        seen.add(worker.post("small", None, BODY).json()["version"])
        ok(worker.post("other", None, BODY), "1")


def test_a_caller_waits_no_longer_than_it_said(commit: Any, start: Any) -> None:
    commit("small", "1")
    commit("small", "2", live=False)
    worker = start()
    late = worker.post("small", "2", BODY, timeout="0.001")
    assert late.status_code == 504
    eventually(lambda: worker.loaded() == {"small@1", "small@2"}, 60)  # it goes on being loaded
    ok(worker.post("small", "2", BODY), "2")


def test_a_live_version_whose_file_was_changed_is_refused_with_both_hashes_and_the_others_are_served(
    commit: Any, start: Any, releases: Releases, capfd: pytest.CaptureFixture[str]
) -> None:
    commit("small", "1")
    version = commit("other", "1", file="other.joblib")
    laid_out = Path(releases.source(version).path)
    laid_out.unlink()
    laid_out.write_bytes(b"something else")
    worker = start()
    ok(worker.post("small", None, BODY), "1")
    answer = worker.post("other", None, BODY)
    assert answer.status_code == 503
    for sha256 in (version.manifest.original.files[0].sha256, hashlib.sha256(b"something else").hexdigest()):
        assert sha256 in answer.json()["error"]["message"]
    commit("small", "2")
    assert worker.switch().ok
    assert capfd.readouterr().err.count("a live version is not loaded") == 1


def test_a_live_version_that_no_longer_loads_is_left_out_at_a_start_and_the_others_are_served(
    commit: Any, start: Any, caplog: pytest.LogCaptureFixture
) -> None:
    good = commit("small", "1").manifest.golden
    wrong = {name: list(reversed(values)) for name, values in good.outputs.items()}
    commit("other", "1", golden=msgspec.structs.replace(good, outputs=wrong))
    worker = start()
    ok(worker.post("small", None, BODY), "1")
    assert worker.loaded() == {"small@1"}
    refused = worker.post("other", None, BODY)
    assert (refused.status_code, "golden row" in refused.text) == (503, True)
    assert "other@1 is not loaded, and requests for it are refused: other@1: golden row" in caplog.text


def test_a_process_that_loads_again_what_was_laid_out_before_looks_at_the_files(
    commit: Any, releases: Releases
) -> None:
    version = commit("small", "1")
    source = releases.source(version)
    runtimes.load(source).predictor.close()
    Path(source.path).unlink()
    Path(source.path).write_bytes(b"something else")
    with pytest.raises(ChangedArtifact) as refused:
        runtimes.load(source)
    assert version.manifest.original.files[0].sha256 in str(refused.value)
    assert hashlib.sha256(b"something else").hexdigest() in str(refused.value)


def test_a_worker_that_is_started_again_serves_the_versions_whose_files_are_as_they_were(
    commit: Any, releases: Releases, tmp_path: Path
) -> None:
    sources = releases.source(commit("small", "1")), releases.source(commit("other", "1", file="other.joblib"))
    Path(sources[1].path).unlink()
    Path(sources[1].path).write_bytes(b"something else")
    boot = WorkerBoot(
        slot=0, workers=1, threads=1, settings=ServerSettings(), sources=sources, live={"small": "1", "other": "1"},
        control_socket=str(tmp_path / "nobody"), metrics_dir=str(tmp_path), keys=(), port=0,
    )  # fmt: skip

    async def loaded(boot: WorkerBoot) -> set[str]:
        worker = Worker(boot, asyncio.get_running_loop())
        await worker.load()
        worker.close_models()
        return {deployment.name for deployment in worker.serving.router.deployments}

    assert asyncio.run(loaded(boot)) == {"small"}
    with pytest.raises(ChangedArtifact):  # a set that is to go live is there as a whole or not at all
        asyncio.run(loaded(msgspec.structs.replace(boot, whole=True)))
