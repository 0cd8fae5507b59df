"""`lagar.push` and the verbs of the client against a real home and a real server."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lagar
from lagar import AsyncClient, Client
from lagar.client.local import Local
from lagar.client.upload import FOLDER_TYPE, Upload
from lagar.errors import NotFound, Refused, SettingsError, SetupError, VersionExists
from support.keys import key_for
from support.models import scripted_model


def test_a_push_into_the_home_and_one_to_a_server_give_the_same_version(
    serve: Any, logistic: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    monkeypatch.setenv("LAGAR_HOME", str(home))
    key = key_for(home, "admin")
    server = serve(scripted_model(tmp_path / "m"), home=home)
    steps: list[str] = []
    here = lagar.push("logistic", logistic.path, metrics={"auc": 0.9}, note="n", on_step=lambda s, _: steps.append(s))
    there = lagar.push(
        "other", logistic.path, metrics={"auc": 0.9}, note="n", to=server.url, key=key,
        on_step=lambda step, words: steps.append(step),
    )  # fmt: skip
    assert here.manifest.original.files == there.manifest.original.files
    assert here.manifest.signature == there.manifest.signature
    assert (here.card.metrics, there.card.metrics, there.card.note) == ({"auc": 0.9}, {"auc": 0.9}, "n")
    half = len(steps) // 2
    assert steps[:half] == steps[half:]
    with Client(server.url, key=key) as client:
        assert client.promote("other", "1").state == "committed"
        assert client.model("other").live == {"1": 100}
        with pytest.raises(VersionExists):
            client.push("other", scripted_model(tmp_path / "folder"), version="1")

    async def ask() -> tuple[list[str], str]:
        async with AsyncClient(server.url, key=key) as client:
            report = await client.push("folder", scripted_model(tmp_path / "folder"))
            return [card.name for card in await client.models()], report.card.kind

    assert asyncio.run(ask()) == (["folder", "logistic", "other", "scripted"], "custom")


def test_a_refused_push_raises_with_its_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAGAR_HOME", str(tmp_path / "home"))
    path = tmp_path / "model.joblib"
    path.write_bytes(b"this is no model at all")
    with pytest.raises(Refused, match=r"model\.joblib") as refused:
        lagar.push("bad", path)
    assert refused.value.step == "scan"
    with pytest.raises(Refused, match=r"--code .*features\.py: no such file"):
        lagar.push("bad", path, code="features.py")
    with pytest.raises(SettingsError, match="to=URL"):
        lagar.push("bad", path, key="lagar_a_b")
    with pytest.raises(SetupError, match="does not exist"):
        lagar.push("bad", tmp_path / "nothing", to="http://127.0.0.1:1")


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"version": True}, "version must be a text, or a whole number for its text, got True"),
    ({"version": Path("v1")}, "version must be a text"),
    ({"alias": 1.5}, "alias must be a text, .* got 1.5"),
    ({"note": b"n"}, "note must be a text"),
    ({"trust": "no"}, "trust must be True or False, got 'no'"),
    ({"compile": 3}, "compile must be wait, background or off, got '3'"),
    ({"metrics": {"auc": "high"}}, "metric 'auc' must be a finite number, such as 0.98, got 'high'"),
    ({"metrics": {"auc": float("nan")}}, "metric 'auc' must be a finite number"),
    ({"metrics": {"auc": True}}, "metric 'auc' must be a finite number"),
    ({"metrics": {"a=b": 1.0}}, "a metric's name must be a text without '='"),
    ({"metrics": [0.9]}, "metrics must be numbers by name"),
    ({"example": 7}, "example must be the path of a file or a folder, got 7"),
    ({"code": 7}, "code must be a path or several, got 7"),
    ({"code": [7]}, "code must be the path"),
]


@pytest.mark.parametrize(("said", "words"), WRONG)
def test_what_cannot_be_meant_is_refused_before_anything_is_sent_or_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: dict[str, Any], words: str
) -> None:
    monkeypatch.setenv("LAGAR_HOME", str(tmp_path / "home"))
    nobody = "http://127.0.0.1:1"

    async def ask() -> None:
        async with AsyncClient(nobody) as client:
            await client.push("m", "model.joblib", **said)

    for attempt in (
        lambda: lagar.push("m", "model.joblib", **said),
        lambda: lagar.push("m", "model.joblib", to=nobody, **said),
        lambda: asyncio.run(ask()),
    ):
        with pytest.raises(SettingsError, match=words):
            attempt()


def test_a_whole_number_stands_for_its_text(told: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAGAR_HOME", str(tmp_path / "home"))
    with Local() as home:
        with pytest.raises(NotFound, match="no model '7'"):
            home.promote(7, np.int64(3))  # type: ignore[arg-type]
        with pytest.raises(SettingsError, match=r"weight of version 3 must be a whole percentage, got 0\.5"):
            home.traffic("m", {3: 0.5})  # type: ignore[dict-item]
    told.answers = [(404, {}, b'{"error": {"code": "not_found", "message": "no"}}')]
    with Client(told.url) as client:
        for ask in (
            lambda: client.predict("m", [[1.0]], version=3),
            lambda: client.version("m", 3),
            lambda: client.diff("m", 3, 4),
            lambda: client.retire("m", np.int64(3)),  # type: ignore[arg-type]
            lambda: client.push("m", __file__, version=3, metrics={"auc": np.float32(0.5)}),
        ):
            with pytest.raises(NotFound):
                ask()
        with pytest.raises(SettingsError, match="a version must be a text"):
            client.promote("m", 1.0)  # type: ignore[arg-type]
    assert [path for path, _ in told.requests] == [
        "POST /models/m/versions/3/predict", "GET /api/models/m/versions/3",
        "GET /api/models/m/diff?before=3&after=4", "POST /api/models/m/versions/3/retire",
        "POST /api/models/m/versions",
    ]  # fmt: skip


def test_an_upload_is_made_while_it_is_sent(tmp_path: Path) -> None:
    large = tmp_path / "large.bin"
    with large.open("wb") as file:
        file.truncate(50_000_000)
    folder = scripted_model(tmp_path / "a folder")
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "scripted.pyc").write_bytes(b"x")
    upload = Upload()
    upload.field("note", "größer")
    upload.file("model", large)
    upload.file("code", folder)
    sizes, start = [], b""
    for piece in upload.pieces():
        sizes.append(len(piece))
        start += piece[:2000] if len(start) < 10_000 else b""
    assert max(sizes) <= 256 * 1024
    assert b'name="model"; filename="large.bin"' in start
    parts = b"".join(piece for piece in upload.pieces() if len(piece) < 10_000)
    assert FOLDER_TYPE.encode() in parts
    assert b"a folder/lagar.toml" in parts
    assert b"__pycache__" not in parts
