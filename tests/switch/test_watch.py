"""Paths that are watched: what changes there goes live without a lost request, what is broken does not."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from lagar.intake import content
from lagar.intake.archive import Bounds
from lagar.intake.content import Content
from lagar.intake.inspect import find_models
from lagar.registry.versions import short
from support.hostile import thirty
from support.load import Load
from support.models import SCRIPTED, scripted_model
from support.s3 import BUCKET, VARIABLES, S3Server
from support.server import LagarServer
from support.wait import eventually
from support.wines import Wines

LONG_S = 120.0


def label_of(path: Path) -> str:
    """The version that a file becomes."""
    (source,) = find_models([path]).sources
    return short(content.files_hash(Content(source, Bounds()).made().files))


def put(source: Path, target: Path) -> None:
    """A file that is there all at once."""
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}")
    shutil.copy(source, draft)
    os.replace(draft, target)


class Watched(NamedTuple):
    server: LagarServer
    folder: Path

    def live(self, model: str) -> str:
        """The version that answers; "" for a model that is not served."""
        answer = httpx.get(f"{self.server.url}/models/{model}", timeout=30)
        return answer.json()["live"] if answer.status_code == 200 else ""

    def becomes(self, model: str, version: str) -> None:
        eventually(lambda: self.live(model) == version, LONG_S, f"{model}@{version or 'nothing'}")

    def looked(self, name: str) -> None:
        """Return when the paths have been looked at long enough for a new model to be served."""
        scripted_model(self.folder / name)
        toml = self.folder / name / "lagar.toml"
        toml.write_text(toml.read_text().replace('"scripted"', f'"{name}"', 1))
        eventually(lambda: self.live(name), LONG_S, f"{name} is served")

    def wrong(self) -> float:
        """How many places are not served, as the metrics tell it."""
        text = httpx.get(f"{self.server.url}/metrics", timeout=30).text
        return next(float(line.split()[1]) for line in text.splitlines() if line.startswith("lagar_paths_refused "))


@pytest.fixture(scope="module")
def watched(wines: Wines, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """One server over a folder of models, for all tests here: each has names of its own."""
    folder = tmp_path_factory.mktemp("watched") / "models"
    put(wines.files["1"], folder / "wine.joblib")
    with LagarServer(folder, home=folder.parent / "home", workers=2, args=["--watch"], timeout_s=LONG_S) as server:
        yield Watched(server, folder)


def test_a_file_that_changes_under_load_goes_live_without_a_lost_request(watched: Watched, wines: Wines) -> None:
    file = watched.folder / "wine.joblib"
    expected: dict[str, Any] = {label_of(file): wines.expected["1"]}
    first = label_of(file)
    put(wines.files["2"], file)
    second = label_of(file)
    put(wines.files["1"], file)
    watched.becomes("wine", first)
    with Load(watched.server.port, "wine", wines.rows, expected | {second: wines.expected["2"]}) as load:
        load.only(first)
        put(wines.files["2"], file)
        watched.becomes("wine", second)
        load.only(second)
        shutil.copy(wines.files["1"], file)  # in place
        watched.becomes("wine", first)
        load.only(first)


@pytest.mark.slow  # copies are waited for
def test_a_copy_is_acted_on_when_it_is_whole(watched: Watched, wines: Wines) -> None:
    data = wines.files["2"].read_bytes()
    file = watched.folder / "slow.joblib"
    with file.open("wb") as copy:
        for number in range(2):
            copy.write(data[len(data) // 4 * number : len(data) // 4 * (number + 1)])
            copy.flush()
            watched.looked(f"beside-{number}")
            assert watched.live("slow") == ""
        copy.write(data[len(data) // 4 * 2 :])
    watched.becomes("slow", label_of(file))
    assert "slow.joblib is not served" not in watched.server.stderr()


@pytest.mark.slow  # copies are waited for
def test_a_model_whose_copy_goes_on_by_its_names_waits(watched: Watched) -> None:
    folder = scripted_model(watched.folder / "download")
    toml = folder / "lagar.toml"
    toml.write_text(toml.read_text().replace('"scripted"', '"download"', 1))
    (folder / "weights.bin.part").write_bytes(b"half")
    watched.looked("beside-download")
    assert watched.live("download") == ""
    (folder / "weights.bin.part").rename(folder / "weights.bin")
    eventually(lambda: watched.live("download"), LONG_S, "the whole model")


@pytest.mark.slow  # copies are waited for
def test_folders_of_versions_come_and_go(watched: Watched, wines: Wines) -> None:
    for version, wine in (("v1.0.9", "1"), ("v1.0.10", "2")):
        put(wines.files[wine], watched.folder / f"red-{version}" / "model.joblib")
        watched.becomes("red", version)
    broken = watched.folder / "red-v1.0.11" / "model.joblib"
    broken.parent.mkdir()
    broken.write_bytes(wines.files["1"].read_bytes()[:-50])
    watched.server.wait_line("red-v1.0.11 is not served", LONG_S)
    assert watched.live("red") == "v1.0.10"
    assert watched.wrong() >= 1
    assert "red-v1.0.11" in httpx.get(watched.server.url, timeout=30).text
    put(wines.files["1"], broken)
    watched.becomes("red", "v1.0.11")
    assert (
        "red-v1.0.11" not in httpx.get(watched.server.url, timeout=30).text.split("</main>")[0].split("Not served")[-1]
    )
    for left in ("v1.0.10", "v1.0.9"):
        shutil.rmtree(watched.folder / ("red-v1.0.11" if left == "v1.0.10" else "red-v1.0.10"))
        watched.becomes("red", left)
    shutil.rmtree(watched.folder / "red-v1.0.9")
    watched.becomes("red", "")


def test_versions_in_a_folder_of_their_model_are_served_too(watched: Watched, wines: Wines) -> None:
    put(wines.files["1"], watched.folder / "rose" / "9" / "model.joblib")
    watched.becomes("rose", "9")
    put(wines.files["2"], watched.folder / "rose" / "10" / "model.joblib")
    watched.becomes("rose", "10")
    told = httpx.get(f"{watched.server.url}/models/rose", timeout=30).json()["versions"]
    assert {version["version"] for version in told} == {"9", "10"}  # as a server that starts has both
    answer = httpx.post(
        f"{watched.server.url}/models/rose/versions/9/predict", json={"inputs": wines.rows[:1]}, timeout=30
    )
    assert answer.json()["version"] == "9"


@pytest.mark.slow
def test_thirty_pickles_that_run_code_are_refused_and_the_old_one_goes_on(
    watched: Watched, wines: Wines, tmp_path: Path
) -> None:
    marker = tmp_path / "ran"
    victim = watched.folder / "victim.pkl"
    put(wines.files["1"], victim)
    good = label_of(victim)
    watched.becomes("victim", good)
    files = thirty(marker)
    for name, data in files.items():
        (watched.folder / name).write_bytes(data)
    victim.write_bytes(next(iter(files.values())))
    for name in files:
        watched.server.wait_line(f"{name} is not served", LONG_S)
    watched.server.wait_line(f"victim.pkl is not served; victim@{good} goes on", LONG_S)
    assert not marker.exists()
    assert watched.live("victim") == good
    assert watched.server.is_ready()
    refusals = [line for line in watched.server.stderr().splitlines() if "hostile-7.pkl is not served" in line]
    assert len(refusals) == 1, "told once"
    for name in files:
        (watched.folder / name).unlink()
    eventually(lambda: watched.wrong() <= 1, LONG_S, "what is gone is forgotten")


@pytest.mark.slow
def test_a_control_process_that_dies_goes_on_watching(watched: Watched) -> None:
    folder = scripted_model(watched.folder / "lasting")
    toml = folder / "lagar.toml"
    toml.write_text(toml.read_text().replace('"scripted"', '"lasting"', 1))
    eventually(lambda: watched.live("lasting"), LONG_S, "the model")
    before = watched.live("lasting")
    os.kill(watched.server.control(), signal.SIGKILL)
    (folder / "scripted.py").write_text(SCRIPTED.replace("offset = 0", "offset = 3"))
    eventually(lambda: watched.live("lasting") not in ("", before), LONG_S, "the changed model")


def test_an_empty_folder_is_watched_until_a_model_comes(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "README.md").write_text("models come here")
    with LagarServer(folder, home=tmp_path / "home", args=["--watch"], timeout_s=LONG_S) as server:
        assert "models: none" in server.wait_line("ready at")
        assert f"{folder} shows no model yet; what is put there is served" in server.stderr()
        assert server.is_ready()
        scripted_model(folder / "scripted")
        seen = Watched(server, folder)
        eventually(lambda: seen.live("scripted"), LONG_S, "the first model")


@pytest.mark.slow
def test_a_given_path_that_vanishes_goes_on(wines: Wines, tmp_path: Path) -> None:
    file = tmp_path / "wine.joblib"
    put(wines.files["1"], file)
    with LagarServer(file, home=tmp_path / "home", args=["--watch"], timeout_s=LONG_S) as server:
        seen = Watched(server, tmp_path)
        first = label_of(file)
        file.unlink()
        server.wait_line("shows no model; what is served of it goes on", LONG_S)
        assert seen.live("wine") == first
        put(wines.files["2"], file)
        seen.becomes("wine", label_of(file))


@pytest.mark.slow
def test_a_prefix_on_s3_is_served_and_watched(wines: Wines, tmp_path: Path) -> None:
    s3 = S3Server()
    try:
        store = s3.new_prefix()
        s3.write(store, "wine.joblib", wines.files["1"].read_bytes())
        env = VARIABLES | {"AWS_ENDPOINT_URL": s3.endpoint}
        with LagarServer(store, home=tmp_path / "home", args=["--watch"], env=env, timeout_s=LONG_S) as server:
            seen = Watched(server, tmp_path)
            first = seen.live("wine")
            assert first
            s3.write(store, "wine.joblib", wines.files["2"].read_bytes())
            eventually(lambda: seen.live("wine") not in ("", first), LONG_S, "the changed object")
            s3.write(store, "white-v2/model.joblib", wines.files["1"].read_bytes())
            seen.becomes("white", "v2")
            s3.write(store, "bad.pkl", b"cos\nsystem\n(S'true'\ntR.")
            line = server.wait_line("is not served", LONG_S)
            assert f"s3://{BUCKET}" in line, "people are told of their own paths"
        with LagarServer(f"{store}/white-v2/model.joblib", home=tmp_path / "home", env=env, timeout_s=LONG_S) as server:
            assert server.version("white-v2"), "one object, without --watch"
    finally:
        s3.stop()
