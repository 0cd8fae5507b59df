"""Versions and their names, on SQLite and on PostgreSQL."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from lagar.errors import InvalidVersion, NotFound, VersionExists
from lagar.registry.manifest import FileEntry, Form
from lagar.registry.releases import Releases
from lagar.registry.signature import Field, Output, Signature
from support.registry import ANA, RUI, Place, manifest_of, push


def test_versions_without_a_label_are_numbered(releases: Releases, tmp_path: Path) -> None:
    assert releases.next_version("wine") == "1"
    assert [push(releases, tmp_path, bytes([i])).version for i in range(3)] == ["1", "2", "3"]
    push(releases, tmp_path, b"x", "v9.1")
    push(releases, tmp_path, b"y", "17")
    assert releases.next_version("wine") == "18"
    assert push(releases, tmp_path, b"z").version == "18"
    assert push(releases, tmp_path, b"z", model="other").version == "1"


def test_a_version_is_what_was_committed(releases: Releases, tmp_path: Path, place: Place) -> None:
    pushed = push(releases, tmp_path, b"weights", "v1", note="first")
    assert pushed.state == "ready"
    assert pushed.created_by == "ana"
    assert pushed.created_at == place.clock.now
    assert pushed.manifest == manifest_of({"model.onnx": b"weights"}, version="v1", note="first")
    with place.open() as other:
        assert other.get("wine", "v1") == pushed


def test_versions_are_listed_as_people_read_them(releases: Releases, tmp_path: Path) -> None:
    for number, label in enumerate(["v1.0.10", "v1.0.9", "10", "9", "v2.0.0-rc1", "v2.0.0"]):
        push(releases, tmp_path, bytes([number]), label)
    labels = [version.version for version in releases.versions("wine")]
    assert labels == ["v1.0.9", "v1.0.10", "v2.0.0-rc1", "v2.0.0", "9", "10"]
    assert releases.models()[0].newest == "10"


def test_a_label_is_never_given_to_another_content(releases: Releases, tmp_path: Path) -> None:
    first = push(releases, tmp_path, b"a", "v1", note="from the notebook")
    again = push(releases, tmp_path, b"a", "v1", who=RUI, note="from CI", metrics={"accuracy": 0.9})
    assert again == first
    with pytest.raises(VersionExists, match=r"wine@v1 exists with another content.*another label"):
        push(releases, tmp_path, b"b", "v1")
    with pytest.raises(VersionExists):
        push(releases, tmp_path, b"a", "v1", field_rules={"age": {"range": [0, 120]}})
    assert [version.version for version in releases.versions("wine")] == ["v1"]


def test_an_alias_stands_for_a_version_and_moves(releases: Releases, tmp_path: Path) -> None:
    push(releases, tmp_path, b"a", "v1", alias="champion")
    push(releases, tmp_path, b"b", "v2")
    assert releases.get("wine", "champion").version == "v1"
    releases.propose("wine", {"champion": 100}, ANA)
    assert releases.set_alias("wine", "champion", "v2", RUI) == "v2"
    assert releases.get("wine", "champion").version == "v2"
    live = releases.traffic("wine")
    assert live is not None
    assert live.weights == {"v1": 100}  # moving it moves no traffic
    assert releases.set_alias("wine", "best", "champion", RUI) == "v2"
    assert releases.aliases("wine") == {"best": "v2", "champion": "v2"}
    releases.drop_alias("wine", "best", RUI)
    with pytest.raises(NotFound, match="no alias 'best'; it has champion"):
        releases.drop_alias("wine", "best", RUI)


def test_a_word_is_a_version_or_an_alias_but_not_both(releases: Releases, tmp_path: Path) -> None:
    push(releases, tmp_path, b"a", "v1", alias="champion")
    with pytest.raises(InvalidVersion, match="'v1' is a version of wine"):
        releases.set_alias("wine", "v1", "v1", ANA)
    with pytest.raises(InvalidVersion, match="'champion' is an alias of wine"):
        push(releases, tmp_path, b"b", "champion")
    with pytest.raises(InvalidVersion, match="an alias must be letters"):
        releases.set_alias("wine", "../x", "v1", ANA)


def test_what_is_not_there_is_named_with_what_is(releases: Releases, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no model 'wine': `lagar models`"):
        releases.get("wine", "1")
    with pytest.raises(NotFound):
        releases.versions("wine")
    push(releases, tmp_path, b"a", "v1", alias="champion")
    with pytest.raises(NotFound, match="wine has no version or alias 'v7'; it has v1, champion"):
        releases.get("wine", "v7")
    with pytest.raises(NotFound, match="it has v1, champion"):
        releases.propose("wine", {"v7": 100}, ANA)
    assert releases.aliases("other") == {}


@pytest.mark.parametrize("path", ["/etc/passwd", "../up", "a/../../up", "", "a//b", "./a"])
def test_a_path_that_leaves_the_folder_is_refused(tmp_path: Path, path: str) -> None:
    manifest = manifest_of({"model.onnx": b"x"})
    form = msgspec.structs.replace(manifest.original, files=(FileEntry(path, "0" * 64, 1),))
    with (
        Place(tmp_path / "home").open() as releases,
        pytest.raises(InvalidVersion, match="a version's files lie in its folder"),
    ):
        releases.commit(msgspec.structs.replace(manifest, forms=(form,)), {path: tmp_path / "x"}, ANA)


def test_a_manifest_that_cannot_be_kept_is_refused(tmp_path: Path) -> None:
    good = manifest_of({"model.onnx": b"x"})
    twice = Form("fast", "onnx", "model.onnx", (FileEntry("model.onnx", "1" * 64, 1),))
    (tmp_path / "model.onnx").write_bytes(b"x")
    cases = [
        (msgspec.structs.replace(good, model="../x"), "a model's name must be letters"),
        (msgspec.structs.replace(good, version="a b"), "a version must be letters"),
        (msgspec.structs.replace(good, forms=()), "the first form of wine must be the original"),
        (msgspec.structs.replace(good, forms=(*good.forms, twice)), "stands for two different files"),
        (msgspec.structs.replace(good, lock=FileEntry("lock.txt", "1" * 64, 1)), r"not there: \['lock.txt'\]"),
    ]
    with Place(tmp_path / "home").open() as releases:
        for manifest, message in cases:
            with pytest.raises(InvalidVersion, match=message):
                releases.commit(manifest, {"model.onnx": tmp_path / "model.onnx"}, ANA)
        assert releases.models() == []


def test_a_refused_push_leaves_its_audit_entry_and_nothing_else(releases: Releases) -> None:
    releases.refused("wine", "scan", "the pickle names os.system", RUI)
    assert releases.models() == []
    [entry] = releases.audit("wine")
    assert (entry.who, entry.what, entry.subject) == ("rui", "push.refused", "wine")
    assert entry.details == {"host": "ci-7", "step": "scan", "why": "the pickle names os.system"}


def test_the_audit_of_a_model_is_its_own(releases: Releases, tmp_path: Path) -> None:
    push(releases, tmp_path, model="wine")
    push(releases, tmp_path, model="wine2", alias="best")
    push(releases, tmp_path, model="wine_2")
    releases.retire("wine2", "1", RUI)
    releases.retire("wine2", "1", ANA, undo=True)
    assert [entry.subject for entry in releases.audit("wine")] == ["wine@1"]
    assert [entry.what for entry in releases.audit("wine2")] == ["retire.undo", "retire", "alias", "push"]
    assert [entry.who for entry in releases.audit("wine2", limit=2)] == ["ana", "rui"]


def test_models_say_what_answers_and_what_is_newest(releases: Releases, tmp_path: Path) -> None:
    push(releases, tmp_path, b"a", "1", model="wine", alias="champion")
    push(releases, tmp_path, b"b", "2", model="wine")
    push(releases, tmp_path, b"c", model="churn")
    releases.propose("wine", {"1": 90, "2": 10}, ANA)
    churn, wine = releases.models()
    assert (churn.name, churn.versions, churn.weights, churn.aliases) == ("churn", 1, {}, {})
    assert (wine.name, wine.versions, wine.newest) == ("wine", 2, "2")
    assert wine.weights == {"1": 90, "2": 10}
    assert wine.aliases == {"champion": "1"}


def test_a_diff_says_what_callers_and_operators_would_notice(releases: Releases, tmp_path: Path) -> None:
    push(releases, tmp_path, b"a", "v1", metrics={"accuracy": 0.9})
    signature = Signature(
        fields=(Field("age", type="int"), Field("city", type="string")),
        outputs=(Output("predict", datatype="INT64"),),
        native_outputs=("predict",),
    )
    push(
        releases, tmp_path, b"b", "v2", metrics={"accuracy": 0.95, "auc": 0.99}, signature=signature,
        libraries={"onnxruntime": "1.21"},
    )  # fmt: skip
    difference = releases.diff("wine", "v1", "v2")
    found = {(change.part, change.name): (change.a, change.b) for change in difference.changes}
    assert found["metric", "accuracy"] == (0.9, 0.95)
    assert found["metric", "auc"] == (None, 0.99)
    assert found["library", "onnxruntime"] == ("1.20", "1.21")
    assert found["input", "age"] == ({}, {"type": "int"})
    assert found["input", "plan"][1] is None
    assert found["input", "city"] == (None, {"type": "string"})
    assert found["output", "predict"][1] == {"datatype": "INT64", "shape": []}
    assert ("library", "python") not in found
    assert not difference.same_inputs
    assert releases.diff("wine", "v1", "v1").changes == ()
    assert releases.diff("wine", "v1", "v1").same_inputs
