"""`push`: the steps from a file to a version, and what a refusal leaves."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import joblib
import msgspec
import pytest

from conftest import Trained
from lagar import runtimes
from lagar.errors import LoadFailed, Refused, VersionExists
from lagar.intake import golden, profile, push
from lagar.intake.environment import Environment
from lagar.intake.lock import Requirements
from lagar.registry.releases import Releases, Version, Who, open_releases
from support.registry import push as commit
from support.wait import eventually

WHO = Who("ana", "laptop")


@pytest.fixture
def releases(tmp_path: Path) -> Iterator[Releases]:
    with open_releases(tmp_path / "home") as opened:
        yield opened


@pytest.fixture(autouse=True)
def staged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where pushes put their private copies."""
    folder = tmp_path / "staged"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def refused(releases: Releases, staged: Path, *arguments: Any, **options: Any) -> Refused:
    """The refusal of a push, which has left nothing but the audit entry."""
    with pytest.raises(Refused) as caught:
        push.push(releases, *arguments, who=WHO, **options)
    error = caught.value
    assert releases.models() == []
    assert list(staged.iterdir()) == []
    (entry,) = releases.audit(arguments[0])
    assert (entry.what, entry.who) == ("push.refused", "ana")
    assert entry.details["step"] == error.step
    assert entry.details["why"] == error.message
    assert error.message.startswith(f"refused at {error.step}: ")
    assert str(staged) not in error.message, "people are told of their own paths"
    return error


def served(releases: Releases, version: Version) -> runtimes.LoadedModel:
    """The version as a worker loads it."""
    loaded = runtimes.load(releases.source(version))
    golden.check(version.manifest, loaded.predictor)
    assert loaded.signature == version.manifest.signature
    return loaded


def test_a_file_becomes_a_version_with_its_report(
    releases: Releases, wine: Trained, tmp_path: Path, staged: Path
) -> None:
    data, example = tmp_path / "train.csv", tmp_path / "example.csv"
    wine.rows.assign(target=1).to_csv(data, index=False)
    wine.rows.head(3).to_csv(example, index=False)
    steps: list[tuple[str, str]] = []
    version = push.push(
        releases, "vinho", wine.path, example=example, training_data=data, metrics={"accuracy": 0.98},
        alias="champion", note="first", who=WHO, on_step=lambda *step: steps.append(step),
    )  # fmt: skip
    manifest = version.manifest
    assert (version.model, version.version, releases.aliases("vinho")) == ("vinho", "1", {"champion": "1"})
    assert [name for name, words in steps if words] == list(push.STEPS)
    assert [name for name, words in steps if not words] == list(push.STEPS)
    assert [step.name for step in manifest.steps] == list(push.STEPS[:-1])
    assert manifest.metrics == {"accuracy": 0.98}
    assert manifest.note == "first"
    assert manifest.original.entry == "model/wine.joblib"
    assert manifest.golden.records == tuple(wine.records[:3])
    assert manifest.golden.outputs["predict"] == wine.model.predict(wine.rows.head(3)).tolist()
    assert manifest.provenance.source == "wine.joblib"
    assert manifest.libraries["scikit-learn"]
    assert manifest.load_s > 0
    assert "model" not in {path.name for path in staged.iterdir()}
    assert list(staged.iterdir()) == []
    served(releases, version)
    assert manifest.lock is not None
    assert manifest.profile is not None
    store = releases.store
    target = tmp_path / "fetched"
    store.fetch(manifest.lock.sha256, target)
    assert f"scikit-learn=={manifest.libraries['scikit-learn']}" in target.read_text()
    target.unlink()
    store.fetch(manifest.profile.sha256, target)
    assert profile.decode(target.read_bytes()).rows == len(wine.rows)


def test_numbers_count_up_and_the_same_content_is_the_same_label(releases: Releases, logistic: Trained) -> None:
    first = push.push(releases, "m", logistic.path, who=WHO)
    second = push.push(releases, "m", logistic.path, who=WHO)
    assert (first.version, second.version) == ("1", "2")
    words: list[str] = []
    again = push.push(
        releases, "m", logistic.path, version="2", metrics={"accuracy": 1.0}, who=WHO,
        on_step=lambda _step, said: words.append(said),
    )  # fmt: skip
    assert again.manifest_sha256 == second.manifest_sha256
    assert words[-1] == "m@2 was there with this content: nothing was written, metrics and note neither"


def test_a_label_that_is_taken_by_another_content_is_refused(
    releases: Releases, logistic: Trained, wine: Trained, staged: Path
) -> None:
    push.push(releases, "m", logistic.path, version="v1", who=WHO)
    begun: list[str] = []
    with pytest.raises(VersionExists, match="m@v1 exists with another content"):
        push.push(releases, "m", wine.path, version="v1", who=WHO, on_step=lambda step, _: begun.append(step))
    assert begun == ["scan"], "nothing is opened for a label that cannot be had"
    assert releases.audit("m")[0].details["step"] == "scan"
    assert list(staged.iterdir()) == []


@pytest.mark.parametrize(
    ("names", "why"),
    [
        ({"alias": "v1"}, "'v1' is a version of m"),
        ({"alias": "a b"}, "an alias must be"),
        ({"version": "champion"}, "'champion' is an alias of m"),
        ({"version": ""}, "a version must be"),
        ({"version": "v2", "alias": "v2"}, "'v2' is a version of m"),
    ],
)
def test_a_name_that_cannot_be_is_refused_before_anything_is_read(
    releases: Releases, names: dict[str, str], why: str, tmp_path: Path
) -> None:
    commit(releases, tmp_path, version="v1", model="m", alias="champion")
    with pytest.raises(Refused, match=f"^refused at scan: {why}"):
        push.push(releases, "m", tmp_path / "missing.joblib", who=WHO, **names)
    assert releases.audit("m")[0].what == "push.refused"


@pytest.mark.parametrize("value", ["0.9", float("nan"), None, True])
def test_a_metric_that_is_no_number_is_refused_before_anything_is_read(
    releases: Releases, tmp_path: Path, staged: Path, value: Any
) -> None:
    error = refused(releases, staged, "m", tmp_path / "missing.joblib", metrics={"accuracy": value})
    assert error.message == f"refused at scan: metric 'accuracy' must be a finite number, such as 0.98, got {value!r}"


def test_a_full_disk_is_named_with_what_to_do(staged: Path) -> None:
    with (
        pytest.raises(Refused, match=r"^refused at scan: no space is left in .*/staged, .* or set TMPDIR"),
        push._step("scan", lambda _step, _words: None),
    ):
        Path("/dev/full").write_text("x")


FOLDER = {
    "lagar.toml": 'version = "v7"\nmodel = "model.joblib"\ncode = ["features.py"]\nexample = "example.json"\n',
    "features.py": "def half(records):\n    return [{**r, 'x0': r['x0'] / 2} for r in records]\n",
    "handlers.py": "from features import half\n\n\ndef preprocess(records):\n    return half(records)\n",
    ".secret": "not part of it",
}


@pytest.fixture
def folder(tmp_path: Path, logistic: Trained) -> Path:
    """A model folder with code, handlers and an example."""
    place = tmp_path / "given"
    place.mkdir()
    for name, text in FOLDER.items():
        (place / name).write_text(text)
    (place / "example.json").write_text(json.dumps(logistic.records[:2]))
    shutil.copy(logistic.path, place / "model.joblib")
    return place


def test_a_folder_is_pushed_whole_with_its_own_label(releases: Releases, folder: Path) -> None:
    version = push.push(releases, "m", folder, who=WHO)
    assert version.version == "v7"
    assert {entry.path for entry in version.manifest.original.files} == {
        "model/lagar.toml", "model/features.py", "model/handlers.py", "model/example.json", "model/model.joblib",
    }  # fmt: skip
    assert version.manifest.code == ("model/features.py",)
    assert version.manifest.handlers == "model/handlers.py"
    shutil.rmtree(folder)
    loaded = served(releases, version)
    assert loaded.handlers is not None
    assert push.push(releases, "m", releases_copy(releases, version), version="8", who=WHO).version == "8"


def releases_copy(releases: Releases, version: Version) -> Path:
    return Path(releases.source(version).path).parent


def test_code_from_elsewhere_comes_along(releases: Releases, tmp_path: Path) -> None:
    place = tmp_path / "custom"
    place.mkdir()
    (place / "lagar.toml").write_text('class = "plus:Plus"\n[fields.x]\ntype = "float"\n')
    (place / "plus.py").write_text(
        "from amounts import ONE\n\n\nclass Plus:\n    def load(self, path):\n        self.more = ONE\n\n"
        "    def predict(self, rows):\n        return [row['x'] + self.more for row in rows]\n"
    )
    (tmp_path / "amounts.py").write_text("ONE = 1.0\n")
    version = push.push(releases, "plus", place, code=[tmp_path / "amounts.py"], who=WHO)
    assert version.manifest.code == ("code/amounts.py", "model")
    shutil.rmtree(place)
    (tmp_path / "amounts.py").unlink()
    served(releases, version)


def test_an_archive_is_unpacked_and_pushed(releases: Releases, folder: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "model.tar.gz", "w:gz") as archive:
        archive.add(folder, "given")
    assert push.push(releases, "m", tmp_path / "model.tar.gz", who=WHO).version == "v7"


def test_an_unsafe_pickle_is_refused_at_scan_and_not_run(releases: Releases, tmp_path: Path, staged: Path) -> None:
    mark = tmp_path / "ran"
    path = tmp_path / "m.pkl"
    path.write_bytes(
        b"\x80\x02cos\nsystem\nX" + (len(f"touch {mark}")).to_bytes(4, "little") + f"touch {mark}".encode() + b"\x85R."
    )
    error = refused(releases, staged, "m", path)
    assert error.step == "scan"
    assert "os.system" in error.message
    assert str(path) in error.message
    assert not mark.exists()


def test_a_pickle_beside_custom_code_is_scanned_too(releases: Releases, tmp_path: Path, staged: Path) -> None:
    place = tmp_path / "custom"
    place.mkdir()
    (place / "lagar.toml").write_text('class = "c:C"\n[fields.x]\ntype = "float"\n')
    (place / "c.py").write_text(
        "class C:\n    def load(self, path):\n        pass\n    def predict(self, rows):\n        return [1]\n"
    )
    (place / "weights.dat").write_bytes(b"\x80\x02cbuiltins\neval\nX\x01\x00\x00\x001\x85R.")
    error = refused(releases, staged, "m", place)
    assert error.step == "scan"
    assert "weights.dat" in error.message


def test_a_crash_is_refused_at_load(releases: Releases, tmp_path: Path, staged: Path) -> None:
    place = tmp_path / "custom"
    place.mkdir()
    (place / "lagar.toml").write_text('class = "c:C"\n[fields.x]\ntype = "float"\n')
    (place / "c.py").write_text(
        "import os\n\n\nclass C:\n    def load(self, path):\n        os.abort()\n\n"
        "    def predict(self, rows):\n        pass\n"
    )
    error = refused(releases, staged, "m", place)
    assert error.step == "load"
    assert "crashed the process (SIGABRT)" in error.message
    assert str(place) in error.message


@pytest.mark.parametrize(
    ("options", "step", "words"),
    [
        ({"path": "missing.joblib"}, "scan", "no such file"),
        ({"example": "missing.csv"}, "scan", "--example .*missing.csv: no such file"),
        ({"training_data": "missing.csv"}, "scan", "--training-data .*missing.csv: no such file"),
        ({"version": "a b"}, "scan", "a version must be letters"),
        ({"requirements": "requirements.txt"}, "lock", "asks for scikit-learn==0.1 .installed is .*does not meet"),
        ({"requirements": "conda.yaml"}, "lock", "cudatoolkit is no Python package"),
        ({"training_data": "wrong.csv"}, "profile", "lacks 'alcohol'"),
    ],
)
def test_a_refusal_names_the_step_and_what_is_wrong(
    releases: Releases, wine: Trained, tmp_path: Path, staged: Path, options: dict[str, str], step: str, words: str
) -> None:
    (tmp_path / "requirements.txt").write_text("scikit-learn==0.1\n")
    (tmp_path / "conda.yaml").write_text("dependencies:\n- cudatoolkit\n")
    (tmp_path / "wrong.csv").write_text("a,b\n1,2\n")
    given: dict[str, Any] = {name: value if name == "version" else tmp_path / value for name, value in options.items()}
    error = refused(releases, staged, "m", given.pop("path", wine.path), **given)
    assert error.step == step
    assert re.search(words, error.message), error.message


def test_a_folder_of_several_models_and_a_link_that_leads_out_are_refused(
    releases: Releases, wine: Trained, logistic: Trained, tmp_path: Path, staged: Path, folder: Path
) -> None:
    several = tmp_path / "several"
    several.mkdir()
    shutil.copy(wine.path, several)
    shutil.copy(logistic.path, several)
    assert "push one of them at a time" in push_error(releases, several)
    (folder / "stolen").symlink_to("/etc/hostname")
    assert "link to '/etc/hostname', outside of the folder" in push_error(releases, folder)
    assert list(staged.iterdir()) == []


def push_error(releases: Releases, path: Path) -> str:
    with pytest.raises(Refused) as caught:
        push.push(releases, "m", path, who=WHO)
    assert caught.value.step == "scan"
    return caught.value.message


def test_requirements_that_are_met_here_need_no_environment(releases: Releases, wine: Trained, tmp_path: Path) -> None:
    path = tmp_path / "requirements.txt"
    path.write_text("scikit-learn>=1.0\n")
    assert push.push(releases, "m", wine.path, requirements=path, who=WHO).manifest.requirements == ()


def test_requirements_that_are_not_met_go_into_the_manifest_with_an_environment(
    releases: Releases, wine: Trained, tmp_path: Path
) -> None:
    path = tmp_path / "requirements.txt"
    path.write_text("scikit-learn>=1.0\nnosuchlibrary==1.0\n")
    asked: list[Requirements] = []

    def isolate(requirements: Requirements, trust: bool, say: Callable[[str], None]) -> Environment:
        asked.append(requirements)
        return Environment(sys.executable, "scikit-learn==1.0\nnosuchlibrary==1.0\n", "made for a test")

    version = push.push(releases, "m", wine.path, requirements=path, isolate=isolate, who=WHO)
    assert version.manifest.requirements == ("scikit-learn>=1.0", "nosuchlibrary==1.0")
    assert asked[0].lines == version.manifest.requirements


def test_a_version_whose_answers_have_changed_is_refused_at_load(releases: Releases, wine: Trained) -> None:
    version = push.push(releases, "m", wine.path, who=WHO)
    outputs = {name: list(values) for name, values in version.manifest.golden.outputs.items()}
    outputs["predict"][1] += 1
    changed = msgspec.structs.replace(
        version.manifest,
        golden=msgspec.structs.replace(version.manifest.golden, outputs=outputs),
        libraries={**version.manifest.libraries, "scikit-learn": "1.0.0"},
    )
    loaded = runtimes.load(releases.source(version))
    with pytest.raises(LoadFailed, match=r"m@1: golden row 1, output 'predict'.*scikit-learn 1\.0\.0 and"):
        golden.check(changed, loaded.predictor)


def test_intake_alone_commits_nothing(releases: Releases, wine: Trained) -> None:
    options = push.Options()
    with push.intake("m", wine.path, options, who=("ana", "laptop")) as draft:
        assert draft.manifest.version == ""
        assert len(draft.sha256) == 64
        golden.check(draft.manifest, runtimes.load(draft.source).predictor)
        place = draft.staging
    assert not place.exists()
    assert releases.models() == []


def test_the_hash_of_a_draft_is_that_of_its_files(tmp_path: Path) -> None:
    from sklearn.linear_model import LinearRegression

    hashes = []
    for slope in (1.0, 1.0, 2.0):
        joblib.dump(LinearRegression().fit([[0.0], [1.0]], [0.0, slope]), tmp_path / "line.joblib")
        with push.intake("m", tmp_path / "line.joblib", push.Options(), who=("ana", "laptop")) as draft:
            hashes.append(draft.sha256)
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_killed_push_leaves_nothing_visible_and_the_next_one_clears_its_files(
    releases: Releases, tmp_path: Path, logistic: Trained, staged: Path
) -> None:
    place = tmp_path / "slow"
    place.mkdir()
    (place / "lagar.toml").write_text('class = "c:C"\n[fields.x]\ntype = "float"\n')
    (place / "c.py").write_text(
        "import threading\n\n\nclass C:\n    def load(self, path):\n        threading.Event().wait()\n\n"
        "    def predict(self, rows):\n        pass\n"
    )
    script = (
        "import sys\nfrom pathlib import Path\nfrom lagar.intake.push import push\n"
        "from lagar.registry.releases import Who, open_releases\n"
        "push(open_releases(Path(sys.argv[1])), 'm', sys.argv[2], who=Who('ana', 'laptop'))\n"
    )
    environment = {**os.environ, "TMPDIR": str(staged)}
    pusher = subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "home"), str(place)], env=environment)
    try:
        eventually(lambda: list(staged.glob("lagar-push-*/lagar-trial-*/task.json")), 60, "the trial's start")
    finally:
        pusher.send_signal(signal.SIGKILL)
        pusher.wait()
    assert releases.models() == []
    (left,) = staged.iterdir()
    os.utime(left, (0, 0))
    push.push(releases, "other", logistic.path, who=WHO)
    assert list(staged.iterdir()) == []


def test_what_git_knows_is_recorded(releases: Releases, logistic: Trained, tmp_path: Path) -> None:
    place = tmp_path / "repository"
    place.mkdir()
    shutil.copy(logistic.path, place / "model.joblib")

    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        done = subprocess.run(["git", *identity, *arguments], cwd=place, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "model")
    provenance = push.push(releases, "m", place / "model.joblib", who=WHO).manifest.provenance
    assert provenance.git_commit == git("rev-parse", "HEAD")
    assert not provenance.git_dirty
    assert (provenance.who, provenance.host) == ("ana", "laptop")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # MLflow's own, while it saves
def test_an_mlflow_folder_and_a_graph_are_pushed(releases: Releases, wine: Trained, tmp_path: Path) -> None:
    import skl2onnx
    from mlflow.sklearn import save_model

    saved = str(tmp_path / "saved")
    save_model(wine.model, saved, serialization_format="cloudpickle", pip_requirements=["scikit-learn"])
    version = push.push(releases, "flow", tmp_path / "saved", who=WHO)
    assert version.manifest.original.entry == "model"
    assert version.manifest.pickled
    served(releases, version)
    graph = skl2onnx.to_onnx(wine.model, wine.rows.to_numpy()[:1].astype("float32"))
    (tmp_path / "graph.onnx").write_bytes(graph.SerializeToString())
    version = push.push(releases, "graph", tmp_path / "graph.onnx", who=WHO)
    assert version.manifest.original.kind == "onnx"
    served(releases, version)
