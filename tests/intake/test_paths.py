"""What is given to `lagar serve` becomes versions of the home, each content once."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from lagar.errors import LagarError, Refused, SetupError
from lagar.intake import inspect, paths
from lagar.intake.paths import Admitted
from lagar.intake.push import push
from lagar.registry.model import Asked
from lagar.registry.releases import Releases, open_releases
from lagar.registry.versions import short
from support.hostile import thirty
from support.models import SCRIPTED, scripted_model
from support.registry import ANA


class Seen:
    """A progress that remembers."""

    def __init__(self) -> None:
        self.new: list[str] = []
        self.lines: list[str] = []

    def step(self, path: str, step: str) -> None:
        pass

    def taken(self, path: str, version: str, seconds: float) -> None:
        self.new.append(version)

    def left(self, path: str) -> None:
        self.lines.append(f"left {Path(path).name}")

    def said(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture
def releases(tmp_path: Path) -> Iterator[Releases]:
    with open_releases(tmp_path / "home") as opened:
        yield opened


def taken(releases: Releases, *given: Path, seen: Seen | None = None, **said: Any) -> list[Admitted]:
    finding = paths.find(Asked(paths=tuple(map(str, given)), **said))
    admitted, refused = paths.admit_all(releases, finding.found, ANA, seen or Seen(), at_once=2)
    for _, error in refused:
        raise error
    return admitted


def test_a_file_becomes_the_version_of_its_hash_and_is_taken_in_once(releases: Releases, tmp_path: Path) -> None:
    folder, seen = scripted_model(tmp_path / "m"), Seen()
    (first,) = taken(releases, folder, seen=seen)
    (again,) = taken(releases, folder, seen=seen)
    assert first.source == again.source
    assert seen.new == [f"scripted@{first.source.version}"]
    (version,) = releases.versions("scripted")
    assert version.version == first.source.version
    assert len(version.version) >= 8
    assert (version.created_by, version.manifest.provenance.source) == (ANA.name, "m")
    assert Path(first.source.path).is_relative_to(tmp_path / "home")


def test_a_refusal_is_told_while_others_are_taken_in(releases: Releases, tmp_path: Path) -> None:
    folder, seen = tmp_path / "models", Seen()
    (folder / "a").mkdir(parents=True)
    (folder / "a" / "model.pkl").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    scripted_model(folder / "b")
    told: list[str] = []

    def tell(place: inspect.Place, error: LagarError) -> None:
        assert seen.new == [], "the other one is still to come"
        told.append(f"{place.name}: {error.message}")

    finding = paths.find(Asked(paths=(str(folder),)))
    admitted, refused = paths.admit_all(releases, finding.found, ANA, seen, at_once=1, tell=tell)
    assert [one.source.name for one in admitted] == ["scripted"]
    assert [place.name for place, _ in refused] == ["a"]
    assert len(told) == 1
    assert told[0].startswith("a: refused at scan")
    assert seen.lines == ["left model.pkl"], "nothing goes on there"


def test_known_content_gets_another_name_or_label_without_another_intake(releases: Releases, tmp_path: Path) -> None:
    folder, seen = scripted_model(tmp_path / "m"), Seen()
    push(releases, "scripted", folder, version="v1", who=ANA)
    (served,) = taken(releases, folder, seen=seen)
    (other,) = taken(releases, folder, seen=seen, name="other")
    assert seen.new == []
    assert {version.version for version in releases.versions("scripted")} == {"v1", served.source.version}
    assert (other.source.name, other.source.version) == ("other", served.source.version)


def test_other_rules_or_another_example_are_another_content(releases: Releases, tmp_path: Path) -> None:
    folder, seen = scripted_model(tmp_path / "m"), Seen()
    (plain,) = taken(releases, folder, seen=seen)
    rows = tmp_path / "rows.json"
    rows.write_text('[{"seconds": 0.0, "tag": 7}]')
    (tried,) = taken(releases, folder, seen=seen, example=str(rows))
    assert tried.source.version.startswith(f"{plain.source.version}-"), "the files are the same"
    assert len(seen.lines) == 1
    settings = folder / "lagar.toml"
    settings.write_text(settings.read_text() + "range = [0, 9]\n")
    (ruled,) = taken(releases, folder, seen=seen)
    assert len(seen.new) == 3
    assert len({one.source.version for one in (plain, tried, ruled)}) == 3


def test_a_label_that_another_content_has_is_told_and_extended(releases: Releases, tmp_path: Path) -> None:
    folder, seen = tmp_path / "scripted", Seen()
    scripted_model(folder / "v1")
    (first,) = taken(releases, folder, seen=seen)
    assert first.source.version == "v1"
    scripted_model(folder / "v1", SCRIPTED.replace("offset = 0", "offset = 5"))
    (second,) = taken(releases, folder, seen=seen)
    assert second.source.version.startswith("v1-")
    (line,) = seen.lines
    assert f"scripted@{second.source.version}" in line
    assert "scripted@v1 is there with another content" in line
    (again,) = taken(releases, folder, seen=seen)
    assert again.source == second.source
    assert len(seen.new) == 2


def test_other_libraries_are_another_intake(releases: Releases, tmp_path: Path) -> None:
    folder, seen = scripted_model(tmp_path / "m"), Seen()
    version = push(releases, "scripted", folder, who=ANA)
    elsewhere = msgspec.structs.replace(version.manifest, version="", python="3.0.0")
    (here,) = taken(releases, folder, seen=seen)
    assert seen.new == []
    with open_releases(tmp_path / "other") as other:
        other.commit(msgspec.structs.replace(elsewhere, version=here.source.version), _files(releases, version), ANA)
        (again,) = taken(other, folder, seen=seen)
    assert seen.new == [f"scripted@{again.source.version}"]
    assert again.source.version.startswith(f"{here.source.version}-")


def _files(releases: Releases, version: Any) -> dict[str, Path]:
    root = releases.lay_out(version.manifest)
    files = {entry.path: root / entry.path for entry in version.manifest.original.files}
    if version.manifest.lock is not None:
        files["lock.txt"] = root.parent / "lock"
        releases.store.fetch(version.manifest.lock.sha256, files["lock.txt"])
    return files


def test_the_greatest_label_answers_and_what_is_refused_is_left_out(releases: Releases, tmp_path: Path) -> None:
    folder = tmp_path / "scripted"
    for number in (9, 10):
        scripted_model(folder / f"v1.0.{number}", SCRIPTED.replace("offset = 0", f"offset = {number}"))
    scripted_model(folder / "v1.0.11", "this is no Python\n")
    finding = paths.find(Asked(paths=(str(folder),)))
    admitted, refused = paths.admit_all(releases, finding.found, ANA, Seen(), at_once=2)
    assert paths.live_of(admitted) == {"scripted": "v1.0.10"}
    ((place, error),) = refused
    assert place.path == folder / "v1.0.11"
    assert isinstance(error, Refused)
    assert error.step == "load"
    assert "scripted.py" in error.message


def test_a_retired_version_is_not_served(releases: Releases, tmp_path: Path) -> None:
    folder = scripted_model(tmp_path / "m")
    (one,) = taken(releases, folder)
    releases.retire("scripted", one.source.version, ANA)
    with pytest.raises(Refused, match=rf"is retired: `lagar retire scripted {one.source.version} --undo`"):
        taken(releases, folder)


def test_a_path_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"gone\.joblib: no such file"):
        paths.find(Asked(paths=(str(tmp_path / "gone.joblib"),)))


def test_thirty_pickles_that_run_code_are_refused_by_serve_and_push_and_do_not_run(
    releases: Releases, tmp_path: Path
) -> None:
    marker = tmp_path / "ran"
    for name, data in thirty(marker).items():
        file = tmp_path / name
        file.write_bytes(data)
        with pytest.raises(SetupError, match=name):
            taken(releases, file)
        with pytest.raises(Refused, match=rf"refused at scan.*{name}"):
            push(releases, "hostile", file, who=ANA)
    assert not marker.exists()
    assert releases.models() == []


def test_hashes_that_read_as_numbers_are_longer() -> None:
    assert short("ab345678ff") == "ab345678"
    assert short("12345678ff") == "12345678f"
    assert short("1234567890" * 6 + "abcd") == "1234567890" * 6 + "a"


def test_half_a_file_is_refused_by_its_name(releases: Releases, logistic: Any, tmp_path: Path) -> None:
    file = tmp_path / "half.joblib"
    shutil.copy(logistic.path, file)
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(Refused, match=r"refused at scan: .*half\.joblib is a damaged pickle"):
        taken(releases, file)
