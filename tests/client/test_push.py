"""`lagar.push` and the verbs of the client against a real home and a real server."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

import lagar
from lagar import AsyncClient, Client
from lagar.client.upload import FOLDER_TYPE, Upload
from lagar.errors import Refused, SettingsError, SetupError, VersionExists
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
