"""How an environment is made, found, kept and removed; what cannot be made is refused with uv's own words."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import msgspec
import pytest

from conftest import Trained
from lagar.control.equipment import Equipment
from lagar.errors import MissingEnvironment, MissingLibrary, Refused, SetupError
from lagar.intake import environment, lock
from lagar.intake.environment import Environment
from lagar.intake.lock import Requirements
from lagar.intake.push import push
from lagar.logs import open_log
from lagar.registry import environments
from lagar.registry.environments import Environments
from lagar.registry.releases import Releases, open_releases
from support.environments import isolating, requirements, scaled_folder
from support.registry import ANA, LONG_AGO
from support.server import LAGAR, LagarServer, clean_env

WAIT_S = 120.0
SRC = Path(__file__).resolve().parents[2] / "src"


@pytest.fixture
def without_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """uv, whose index nobody can reach."""
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    monkeypatch.setenv("UV_PYTHON_DOWNLOADS", "never")


def refused(place: Path, *lines: str, python: str | None = None) -> str:
    with pytest.raises(SetupError) as caught:
        environment.resolve(Environments(place), Requirements(lines, "requirements.txt", python))
    assert not [entry for entry in place.glob("*") if entry.name != "drafts"], "nothing half-made is left"
    assert not list(place.glob("drafts/*"))
    return caught.value.message


@pytest.mark.usefixtures("without_index")
def test_an_index_that_does_not_answer_is_named_with_the_next_step(tmp_path: Path) -> None:
    said = refused(tmp_path, "nosuchlibrary==1.0")
    assert said.startswith("the requirements (nosuchlibrary==1.0) cannot be resolved; uv says: ")
    assert "127.0.0.1:9" in said
    assert "see that this machine reaches its package index" in said.lower()


def test_requirements_that_nothing_meets_are_told_by_uv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_NO_INDEX", "1")
    said = refused(tmp_path, "nosuchlibrary==1.0")
    assert "uv says: " in said
    assert "nosuchlibrary" in said
    assert said.endswith("push again")


@pytest.mark.parametrize("python", ["==3.9.*", "==3.10.4", "<3.11"])
def test_a_python_that_is_too_old_is_refused_before_anything_is_fetched(tmp_path: Path, python: str) -> None:
    assert f"ask for Python {python}, and what loads a model in its environment runs on Python 3.11" in refused(
        tmp_path, "numpy", python=python
    )


@pytest.mark.usefixtures("without_index")
def test_a_python_that_is_not_here_is_named(tmp_path: Path) -> None:
    said = refused(tmp_path, "numpy", python="==3.29.*")
    assert said.startswith("an environment with Python ==3.29.* cannot be made; uv says: ")


def test_without_uv_the_next_step_is_to_install_it(tmp_path: Path, releases: Releases) -> None:
    source = releases.source(releases.get("scaled", "1"))
    code = (
        "from pathlib import Path; from lagar.intake import environment; from lagar.intake.lock import Requirements\n"
        "from lagar.registry.environments import Environments\n"
        f"environment.resolve(Environments(Path({str(tmp_path)!r})), Requirements(('numpy',), 'x'))"
    )
    done = subprocess.run(
        [str(environment.interpreter(source)), "-c", code], env={"PATH": "/nowhere", "PYTHONPATH": str(SRC)},
        capture_output=True, text=True, check=False, timeout=WAIT_S,
    )  # fmt: skip
    assert "uv, which is not installed here: pip install uv" in done.stderr


@pytest.mark.usefixtures("without_index")
def test_a_push_is_refused_at_the_lock_and_leaves_no_version(tmp_path: Path, wine: Trained) -> None:
    wanted = requirements(tmp_path / "requirements.txt", "7.0")
    with open_releases(tmp_path / "home") as releases, pytest.raises(Refused) as caught:
        push(
            releases, "wine", wine.path, requirements=wanted, who=ANA,
            isolate=environment.isolation(releases.environments),
        )  # fmt: skip
    assert caught.value.step == "lock"
    assert caught.value.message.startswith(
        "refused at lock: the requirements (factors==7.0) cannot be resolved; uv says"
    )


def test_the_steps_of_a_push_say_what_is_made(tmp_path: Path) -> None:
    steps: list[tuple[str, str]] = []
    with open_releases(tmp_path / "home") as releases:
        version = push(
            releases, "scaled", scaled_folder(tmp_path / "scaled"), who=ANA,
            requirements=requirements(tmp_path / "requirements.txt", "1.0"),
            isolate=isolating(releases.environments, 2.0), on_step=lambda *step: steps.append(step),
        )  # fmt: skip
    words = [words for name, words in steps if name == "environment" and words]
    assert words == [
        "requirements.txt asks for factors==1.0 (not installed)",
        "made of what is installed",
        "an environment for a test",
    ]
    manifest = version.manifest
    assert manifest.requirements == ("factors==1.0",)
    assert manifest.libraries["factors"] == "1.0"
    assert manifest.golden.outputs["predict"]


@pytest.mark.usefixtures("without_index")
def test_what_nobody_asked_for_is_no_reason_to_refuse(tmp_path: Path, wine: Trained) -> None:
    folder = tmp_path / "wine"
    folder.mkdir()
    (folder / "lagar.toml").write_text('name = "wine"\n')
    (folder / "requirements.txt").write_text("scikit-learn==1.0.2\n")
    shutil.copy(wine.path, folder)
    steps: list[tuple[str, str]] = []
    with open_releases(tmp_path / "home") as releases:
        version = push(
            releases, "wine", folder, who=ANA, isolate=environment.isolation(releases.environments),
            on_step=lambda *step: steps.append(step), compiling="off",
        )  # fmt: skip
    words = [words for name, words in steps if name == "environment" and words]
    assert words[0].startswith("requirements.txt asks for scikit-learn==1.0.2 (installed is ")
    assert words[1].startswith(
        "none: what is installed here is tried, since the requirements (scikit-learn==1.0.2) can"
    )
    assert version.manifest.requirements == ()


def test_a_library_that_the_requirements_forgot_is_named(tmp_path: Path) -> None:
    folder = scaled_folder(tmp_path / "scaled")
    (folder / "scaled.py").write_text("import forgotten\n" + (folder / "scaled.py").read_text())
    with open_releases(tmp_path / "home") as releases, pytest.raises(Refused, match=r"forgotten") as caught:
        push(
            releases, "scaled", folder, who=ANA, requirements=requirements(tmp_path / "requirements.txt", "1.0"),
            isolate=isolating(releases.environments, 2.0),
        )  # fmt: skip
    assert caught.value.step == "load"


def test_versions_with_equal_locks_share_an_environment(releases: Releases) -> None:
    first, shaped = (releases.get(name, "1").manifest for name in ("scaled", "shaped"))
    assert environments.key_for(first) == environments.key_for(shaped)
    assert environments.key_for(first) != environments.key_for(releases.get("scaled", "2").manifest)


def test_of_what_lies_beside_a_model_only_another_release_of_its_own_library_counts(tmp_path: Path) -> None:
    import sklearn

    major, minor, *_ = sklearn.__version__.split(".")
    path = tmp_path / "requirements.txt"

    def found(text: str, kind: str = "sklearn") -> Requirements | None:
        path.write_text(text)
        return environment.beside(tmp_path, kind, ("sklearn.pipeline",))

    assert found(f"scikit-learn=={major}.{minor}.99\nnumpy==1.0\n") is None, (
        "another patch, and no library of the model"
    )
    assert found("scikit-learn>=1.0\n") is None
    assert found("-e .\nscikit-learn==1.0\n") is None, "nobody asked for it: what cannot be read says nothing"
    other = found("mlflow==3.1.0\nscikit-learn==1.0.2\npandas\nnumpy @ https://example.com/numpy.whl\nunheard-of\n")
    assert other is not None
    assert other.lines == ("scikit-learn==1.0.2", "pandas"), "a folder does not choose what is installed here"
    assert found("lightgbm==1.0\n") is None
    assert found("lightgbm==1.0\n", kind="lightgbm") is not None


def test_gc_removes_what_nothing_needs_and_keeps_what_is_live(tmp_path: Path) -> None:
    with open_releases(tmp_path / "home") as releases:
        for version, factor in (("1", 2.0), ("2", 3.0)):
            push(
                releases, "scaled", scaled_folder(tmp_path / version / "scaled"), version=version, who=ANA,
                requirements=requirements(tmp_path / version / "requirements.txt", f"{version}.0"),
                isolate=isolating(releases.environments, factor),
            )  # fmt: skip
        releases.propose("scaled", {"2": 100}, ANA)
        keys = [environments.key_for(releases.get("scaled", version).manifest) or "" for version in ("1", "2")]
        assert releases.gc().folders == 0, "used today"
        assert releases.gc(LONG_AGO, dry_run=True).folders == releases.gc(LONG_AGO).folders > 0
        there = [releases.environments.interpreter(key) is not None for key in keys]
        assert there == [False, True]
        with pytest.raises(MissingEnvironment):
            environment.interpreter(releases.source(releases.get("scaled", "1")))


@pytest.mark.usefixtures("without_index")
def test_a_server_that_lacks_an_environment_says_why_it_cannot_be_made(tmp_path: Path) -> None:
    with open_releases(tmp_path / "home") as releases:
        manifest = _orphan(releases, tmp_path)
        log = open_log("json", "error", no_colour=True, process="test")
        with pytest.raises(MissingEnvironment, match=r"environment of scaled@1 cannot be made: .*uv says") as caught:
            Equipment(releases, log, patience_s=WAIT_S).require([manifest])
        assert "factors" in caught.value.message
        hurried = Equipment(releases, log, patience_s=0.0)
        with pytest.raises(MissingEnvironment, match=r"still being made on this server .* try again in a minute"):
            hurried.require([manifest])
        met = msgspec.structs.replace(manifest, requirements=("numpy",))
        hurried.require([met])


def _orphan(releases: Releases, tmp_path: Path) -> environments.Manifest:
    """A version that was pushed on another machine."""
    version = push(
        releases, "scaled", scaled_folder(tmp_path / "scaled"), who=ANA,
        requirements=requirements(tmp_path / "requirements.txt", "1.0"),
        isolate=isolating(releases.environments, 2.0),
    )  # fmt: skip
    assert releases.environments.remove(environments.key_for(version.manifest) or "")
    return version.manifest


# With the package index.

OTHER = "1.6.1"


def train(python: str, path: Path) -> None:
    code = (
        "import sys, joblib\n"
        "from sklearn.datasets import load_wine\n"
        "from sklearn.linear_model import LogisticRegression\n"
        "x, y = load_wine(return_X_y=True)\n"
        "joblib.dump(LogisticRegression(max_iter=50).fit(x[:, :4], y), sys.argv[1])"
    )
    subprocess.run([python, "-W", "ignore", "-c", code, str(path)], check=True, timeout=WAIT_S)


@pytest.fixture(scope="module")
def older(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Environment]:
    """A home that holds an environment with an older scikit-learn; skips where the index does not answer."""
    home = tmp_path_factory.mktemp("older") / "home"
    try:
        made = environment.resolve(
            environments.of_home(home), Requirements((f"scikit-learn=={OTHER}",), "requirements.txt")
        )
    except SetupError as error:
        pytest.skip(f"the package index does not give scikit-learn {OTHER}: {error.message[:300]}")
    return home, made


@pytest.mark.slow
def test_two_releases_of_scikit_learn_serve_side_by_side(older: tuple[Path, Environment], tmp_path: Path) -> None:
    home, made = older
    assert lock.here()[0]["scikit-learn"] != OTHER
    train(made.python, tmp_path / "old.joblib")
    train(sys.executable, tmp_path / "new.joblib")
    (tmp_path / "requirements.txt").write_text(f"scikit-learn=={OTHER}\n")
    env = clean_env(home)
    for version, arguments in (("old", ["--requirements", "requirements.txt"]), ("new", [])):
        command = [LAGAR, "push", "wine", f"{version}.joblib", "--version", version, *arguments]
        subprocess.run(command, cwd=tmp_path, env=env, check=True, timeout=600)
    subprocess.run([LAGAR, "traffic", "wine", "old=50", "new=50"], env=env, check=True, timeout=WAIT_S)
    row = {"x0": 14.23, "x1": 1.71, "x2": 2.43, "x3": 15.6}
    with LagarServer(home=home, workers=2, timeout_s=WAIT_S) as server:
        for version in ("old", "new"):
            url = f"{server.url}/models/wine/versions/{version}/predict"
            assert httpx.post(url, json=row, timeout=WAIT_S).json()["predictions"] == [0]
    shown = subprocess.run(
        [LAGAR, "show", "wine@old"], env=env, capture_output=True, text=True, check=True, timeout=WAIT_S
    )
    assert f"scikit-learn=={OTHER}" in shown.stdout


@pytest.mark.slow
def test_an_environment_is_made_once_of_its_lock_on_another_machine(
    older: tuple[Path, Environment], tmp_path: Path
) -> None:
    home, made = older
    train(made.python, tmp_path / "old.joblib")
    (tmp_path / "requirements.txt").write_text(f"scikit-learn=={OTHER}\n")
    with open_releases(home) as releases:
        version = push(
            releases, "other", tmp_path / "old.joblib", requirements=tmp_path / "requirements.txt", who=ANA,
            isolate=environment.isolation(releases.environments),
        )  # fmt: skip
        text = releases.lock(version.manifest)
    elsewhere = environments.of_home(tmp_path / "elsewhere")
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda: found.append(environment.make(elsewhere, version.manifest, text)))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(600)
    assert len(found) == 3
    assert len(set(found)) == 1
    assert os.access(found[0], os.X_OK)
    assert not list(elsewhere.root.glob("drafts/*"))
    wrong = text.replace("sha256:", "sha256:00")
    with pytest.raises((SetupError, MissingLibrary), match="the environment cannot be installed; uv says"):
        environment.make(environments.of_home(tmp_path / "third"), version.manifest, wrong)
