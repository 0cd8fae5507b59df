"""Artifacts in a folder and on S3, laid out for loading, and collected when nobody needs them."""

from __future__ import annotations

import hashlib
import shutil
import stat
from pathlib import Path

import msgspec
import pytest

from lagar.errors import ChangedArtifact, HomeError, InvalidVersion, SettingsError, StoreAway
from lagar.registry import layout
from lagar.registry.compiled import key_of
from lagar.registry.home import open_home
from lagar.registry.manifest import FileEntry, Form
from lagar.registry.proof import Proof, this_machine
from lagar.registry.releases import Releases, open_releases
from lagar.registry.store import open_store
from support.registry import ANA, LONG_AGO, Place, manifest_of, push, together
from support.s3 import S3Server

FILES = {"model.onnx": b"weights", "handlers.py": b"def preprocess(r): return r", "lib/features.py": b"X = 1"}


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def stored(place: Place, releases: Releases) -> set[str]:
    """The hashes in the store."""
    return {found.sha256 for found in releases.store.objects()}


def test_a_version_is_laid_out_as_it_was_pushed(any_place: Place, tmp_path: Path) -> None:
    with any_place.open() as releases:
        version = push(releases, tmp_path, FILES, handlers="handlers.py", code=("lib",))
        assert stored(any_place, releases) == {sha256(data) for data in FILES.values()}
    with any_place.elsewhere(tmp_path / "other").open() as releases:
        source = releases.source(releases.get("wine", "1"))
    root = Path(source.folder or "")
    assert {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()} == FILES
    assert source.path == str(root / "model.onnx")
    assert source.handlers == str(root / "handlers.py")
    assert source.code == (str(root / "lib"),)
    assert source.sha256 == sha256(b"weights")
    assert source.libraries == ("onnxruntime",)
    assert sha256(Path(source.manifest or "").read_bytes()) == version.manifest_sha256
    assert not (root / "model.onnx").stat().st_mode & stat.S_IWUSR


def test_a_file_that_was_changed_where_it_is_laid_out_is_refused_with_both_hashes(
    any_place: Place, tmp_path: Path
) -> None:
    with any_place.open() as releases:
        version = push(releases, tmp_path, FILES)
        folder = releases.lay_out(version.manifest)
        (folder / "model.onnx").unlink()
        (folder / "model.onnx").write_bytes(b"other")
        with pytest.raises(ChangedArtifact) as caught:
            releases.source(version)
        for words in ("wine@1", str(folder / "model.onnx"), sha256(b"other"), sha256(b"weights"), "remove the folder"):
            assert words in str(caught.value)
        (folder / "model.onnx").unlink()
        with pytest.raises(ChangedArtifact, match="none: the file is gone"):
            releases.source(version)


def test_an_artifact_that_was_changed_in_the_folder_is_refused_with_both_hashes(place: Place, tmp_path: Path) -> None:
    with place.open() as releases:
        version = push(releases, tmp_path, FILES)
        root = tmp_path / "store" if place.store else place.home / "artifacts"
        blob = root / sha256(b"weights")[:2] / sha256(b"weights")
        blob.chmod(0o644)
        blob.write_bytes(b"other")
        with pytest.raises(ChangedArtifact) as caught:
            releases.source(version)
        for words in (str(blob), sha256(b"other"), sha256(b"weights"), "push the model again", "part of wine@1"):
            assert words in str(caught.value)
        push(releases, tmp_path, FILES)  # as the message says
        assert (releases.lay_out(version.manifest) / "model.onnx").read_bytes() == b"weights"


def test_a_laid_out_file_that_is_the_stored_one_is_refused_with_what_mends_both(tmp_path: Path) -> None:
    with Place(tmp_path / "home").open() as releases:
        version = push(releases, tmp_path, FILES)
        push(releases, tmp_path, FILES, model="twin")
        folder = releases.lay_out(version.manifest)
        (folder / "model.onnx").chmod(0o644)
        (folder / "model.onnx").write_bytes(b"other")  # in place: the stored file is the same one
        with pytest.raises(ChangedArtifact) as caught:
            releases.source(version)
        for words in (
            sha256(b"other"),
            "push the model again",
            f"then remove the folder {folder}",
            "part of twin@1, wine@1",
        ):
            assert words in str(caught.value)
        push(releases, tmp_path, FILES)
        shutil.rmtree(folder)
        assert (releases.lay_out(version.manifest) / "model.onnx").read_bytes() == b"weights"


def test_an_artifact_that_was_changed_on_s3_is_refused_with_both_hashes(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = s3_place(s3, tmp_path, monkeypatch)
    with place.open() as releases:
        version = push(releases, tmp_path)
        name = sha256(b"weights")
        s3.write(place.store or "", f"{name[:2]}/{name}", b"other")
        with pytest.raises(ChangedArtifact) as caught:
            releases.source(version)
        for words in (place.store or "-", sha256(b"other"), name):
            assert words in str(caught.value)


def test_an_artifact_that_is_gone_is_named_with_its_store(any_place: Place, tmp_path: Path) -> None:
    with any_place.open() as releases:
        version = push(releases, tmp_path)
        releases.store.delete(sha256(b"weights"))
        with pytest.raises(ChangedArtifact, match=rf"{sha256(b'weights')} is not in the store .*LAGAR_STORE"):
            releases.source(version)
        again = push(releases, tmp_path, version="1")
        assert again == version
        assert releases.source(version).path  # a push of the same content brings it back


def test_the_same_file_is_stored_once(any_place: Place, tmp_path: Path) -> None:
    with any_place.open() as releases:
        for _ in range(3):
            push(releases, tmp_path, {"model.onnx": b"weights", "copy.onnx": b"weights"})
        assert len(stored(any_place, releases)) == 1
        folder = releases.lay_out(releases.get("wine", "3").manifest)
        assert {path.name for path in folder.iterdir()} == {"model.onnx", "copy.onnx"}


def test_a_file_that_is_changed_while_it_is_pushed_is_not_stored(any_place: Place, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"other")
    with any_place.open() as releases:
        with pytest.raises(ChangedArtifact) as caught:
            releases.commit(manifest_of({"model.onnx": b"weights"}), {"model.onnx": tmp_path / "model.onnx"}, ANA)
        for words in ("model.onnx was changed while it was pushed", sha256(b"other"), sha256(b"weights")):
            assert words in str(caught.value)
        assert releases.models() == []
        assert stored(any_place, releases) == set()


def test_a_large_file_goes_to_s3_in_parts_and_only_whole(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = s3_place(s3, tmp_path, monkeypatch)
    data = bytes(range(256)) * (270 * 1024)  # 67.5 MiB, more than one put takes
    with place.open() as releases:
        version = push(releases, tmp_path, data)
        assert sha256((releases.lay_out(version.manifest) / "model.onnx").read_bytes()) == sha256(data)
        (tmp_path / "model.onnx").write_bytes(data[:-1] + b"!")
        manifest = manifest_of({"model.onnx": data + b"another"})
        with pytest.raises(ChangedArtifact):
            releases.commit(manifest, {"model.onnx": tmp_path / "model.onnx"}, ANA)
        assert stored(place, releases) == {sha256(data)}


def test_a_second_form_is_laid_out_with_the_code_of_the_version(any_place: Place, tmp_path: Path) -> None:
    files = {**FILES, "forms/fast.onnx": b"fast"}
    manifest = manifest_of(FILES, handlers="handlers.py", code=("lib",), pickled=True)
    fast = Form("fast", "onnx", "forms/fast.onnx", (FileEntry("forms/fast.onnx", sha256(b"fast"), 4),))
    manifest = msgspec.structs.replace(manifest, forms=(*manifest.forms, fast))
    paths = {}
    for name, data in files.items():
        paths[name] = tmp_path / "in" / name
        paths[name].parent.mkdir(parents=True, exist_ok=True)
        paths[name].write_bytes(data)
    with any_place.open() as releases:
        version = releases.commit(manifest, paths, ANA)
        source = releases.source(version, "fast")
        root = Path(source.folder or "")
        names = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
        assert names == {"forms/fast.onnx", "handlers.py", "lib/features.py"}
        assert source.path == str(root / "forms/fast.onnx")
        assert not source.pickled  # the original alone is
        assert releases.source(version).pickled
        with pytest.raises(InvalidVersion, match="wine@1 has no form 'slow', it has original, fast"):
            releases.lay_out(version.manifest, "slow")


def test_processes_that_lay_out_at_once_are_given_one_folder(each_place: Place, tmp_path: Path) -> None:
    with each_place.open() as releases:
        push(releases, tmp_path, FILES)
        script = "sys.stdin.read()\nprint(releases.source(releases.get('wine', '1')).path)\n"
        paths = set(together(each_place.start(script, count=4)))
        assert paths == {str(releases.lay_out(releases.get("wine", "1").manifest) / "model.onnx")}


def test_a_lay_out_that_was_killed_half_way_is_done_again(place: Place, tmp_path: Path) -> None:
    with place.open() as releases:
        manifest = push(releases, tmp_path, FILES).manifest
        draft = place.home / "cache" / f"{layout.key_of(layout.files_of(manifest, 'original'))}.tmp"
        (draft / "lib").mkdir(parents=True)
        (draft / "model.onnx").write_bytes(b"half")
        folder = releases.lay_out(manifest)
        assert (folder / "model.onnx").read_bytes() == b"weights"
        assert not draft.exists()


# ---- garbage -------------------------------------------------------------------------------------------------------


def leave(releases: Releases, folder: Path, data: bytes) -> str:
    """An object that no version needs, as a push that was killed leaves it."""
    path = folder / "left"
    path.write_bytes(data)
    releases.store.put(path, sha256(data))
    return sha256(data)


def test_gc_takes_what_no_version_needs(any_place: Place, tmp_path: Path) -> None:
    with any_place.open() as releases:
        push(releases, tmp_path, b"1")
        retired = push(releases, tmp_path, b"2")
        releases.retire("wine", "2", ANA)
        left = leave(releases, tmp_path, b"left over")
        listed = releases.gc(LONG_AGO, dry_run=True)
        assert [found.sha256 for found in listed.objects] == [left]
        assert left in stored(any_place, releases)
        done = releases.gc(LONG_AGO)
        assert ([found.sha256 for found in done.objects], done.bytes) == ([left], 9)
        assert stored(any_place, releases) == {sha256(b"1"), sha256(b"2")}
        assert releases.lay_out(retired.manifest)  # a retired version is kept
        assert releases.gc(LONG_AGO).objects == ()


def test_gc_takes_forms_that_were_compiled_for_no_version(tmp_path: Path) -> None:
    with open_releases(tmp_path / "home") as releases:
        versions = [push(releases, tmp_path, data) for data in (b"1", b"2")]
        other = manifest_of({"model/other.onnx": b"3"})
        proof = Proof(machine=this_machine(), rows={}, words="nothing is quicker")
        for manifest in (versions[0].manifest, versions[1].manifest, other):
            releases.compiled.keep(manifest, proof, tmp_path / "no-forms")
        releases.retire("wine", "2", ANA)
        (releases.compiled.root / ".draft-of-a-killed-one").mkdir()
        releases.gc()
        assert len(list(releases.compiled.root.iterdir())) == 4, "what was used within a day is kept"
        releases.gc(LONG_AGO)
        assert [folder.name for folder in releases.compiled.root.iterdir()] == [key_of(versions[0].manifest)]
        assert releases.compiled.find(versions[0].manifest)


def test_gc_takes_nothing_that_was_stored_within_the_last_day(any_place: Place, tmp_path: Path) -> None:
    with any_place.open() as releases:
        leave(releases, tmp_path, b"left over")
        assert releases.gc().objects == ()
        assert releases.gc(3600).objects == ()


class Interrupted:
    """A store between whose puts and the commit something else happens, once."""

    def __init__(self, releases: Releases, place: Place) -> None:
        self._store = releases.store
        self._place = place
        self.collected: list[str] = []

    def put(self, file: Path, sha256: str) -> None:
        self._store.put(file, sha256)
        if not self.collected:
            with self._place.open() as other:
                self.collected = [found.sha256 for found in other.gc(LONG_AGO).objects]

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)


def test_a_push_whose_files_are_collected_before_it_commits_stores_them_again(any_place: Place, tmp_path: Path) -> None:
    with any_place.open() as releases:
        interrupted = Interrupted(releases, any_place)
        releases.store = interrupted  # type: ignore[assignment]
        version = push(releases, tmp_path, b"weights")
        assert interrupted.collected == [sha256(b"weights")]
        folder = releases.lay_out(version.manifest)
        assert (folder / "model.onnx").read_bytes() == b"weights"


def test_gc_removes_laid_out_folders_but_not_of_what_is_live(any_place: Place, tmp_path: Path) -> None:
    with any_place.open() as releases:
        for data in (b"1", b"2"):
            releases.lay_out(push(releases, tmp_path, data).manifest)
        releases.propose("wine", {"1": 100}, ANA)
        assert releases.gc(3600).folders == 0
        assert releases.gc(LONG_AGO, dry_run=True).folders == 1
        assert releases.gc(LONG_AGO).folders == 1
        assert len([path for path in (any_place.home / "cache").iterdir() if len(path.name) == 64]) == 1
        assert (releases.lay_out(releases.get("wine", "2").manifest) / "model.onnx").read_bytes() == b"2"


# ---- the places themselves -----------------------------------------------------------------------------------------


def s3_place(s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    from support.s3 import VARIABLES

    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    return Place(tmp_path / "home", None, s3.new_prefix(), s3.endpoint)


@pytest.mark.parametrize("url", ["http://host/x", "s3:///prefix", "file://relative/x", "/plain/path", "gs://b/x"])
def test_a_store_that_is_none_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(SettingsError, match=r"LAGAR_STORE must be s3://BUCKET/PREFIX or file:///FOLDER, got"):
        open_store(open_home(tmp_path), url)


def test_a_store_that_does_not_answer_is_said_and_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = S3Server()
    try:
        place = s3_place(server, tmp_path, monkeypatch)
        with place.open() as releases:
            push(releases, tmp_path, b"1")
            server.stop()
            with pytest.raises(StoreAway, match=r"the store s3://artifacts/.* cannot be used: .*LAGAR_STORE"):
                push(releases, tmp_path, b"2")
            assert [version.version for version in releases.versions("wine")] == ["1"]
            server.start()
            assert push(releases, tmp_path, b"2").version == "2"
    finally:
        server.stop()


def test_a_bucket_that_is_not_there_is_said(s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = s3_place(s3, tmp_path, monkeypatch)
    elsewhere = Place(place.home, None, "s3://no-such-bucket/x", s3.endpoint)
    with elsewhere.open() as releases:
        with pytest.raises(StoreAway, match=r"no-such-bucket.*bucket"):
            push(releases, tmp_path)
        with pytest.raises(StoreAway, match=r"no-such-bucket.*bucket"):
            releases.gc()


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file")
    with (
        Place(tmp_path / "home", None, f"file://{tmp_path}/store").open() as releases,
        pytest.raises(HomeError, match="cannot store artifacts"),
    ):
        push(releases, tmp_path)
