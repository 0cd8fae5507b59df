"""What `make dist` builds is installed elsewhere and serves a model there."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

import lagar
from support.server import clean_env, is_ready_line
from support.wait import eventually

ROOT = Path(__file__).resolve().parent.parent
UV = str(Path(sys.executable).with_name("uv"))
TRAIN = """
import joblib
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

data = load_iris(as_frame=True)
joblib.dump(LogisticRegression(max_iter=1000).fit(data.data, data.target), "iris.joblib")
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the source distribution."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-d", str(folder)], cwd=ROOT, check=True, timeout=120)
    return folder


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    (found,) = dist.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of a fresh environment with the wheel and scikit-learn, at the versions of the lock."""
    home = tmp_path_factory.mktemp("elsewhere") / "venv"
    pins = re.findall(r"^[\w.-]+==[^\s\\;]+", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    constraints = home.parent / "constraints.txt"
    constraints.write_text("\n".join(pins))
    subprocess.run([UV, "venv", "-q", "--python", sys.executable, str(home)], check=True, timeout=120)
    install = [UV, "pip", "install", "-q", "--python", str(home), "-c", str(constraints), f"{wheel}[sklearn]"]
    subprocess.run(install, check=True, timeout=900)
    return home / "bin"


@pytest.fixture
def url(installed: Path, tmp_path: Path) -> Iterator[str]:
    """Where the installed Lagar serves a model that its own scikit-learn has trained."""
    subprocess.run([installed / "python", "-c", TRAIN], cwd=tmp_path, check=True, timeout=120)
    log = tmp_path / "log"
    with log.open("wb") as out:
        server = subprocess.Popen(
            [installed / "lagar", "serve", "iris.joblib", "--port", "0"],
            cwd=tmp_path,
            env=clean_env(tmp_path / "home", {"PATH": f"{installed}:/usr/bin:/bin"}),
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    try:

        def ready_line() -> str | None:
            ended = "" if server.poll() is None else f"ended with {server.returncode}"
            return next(filter(is_ready_line, log.read_text().splitlines()), ended)

        line = eventually(ready_line, 90, "the ready line")
        assert is_ready_line(line), f"{line}:\n{log.read_text()}"
        yield line.split(" ready at ", 1)[1].split()[0]
    finally:
        server.terminate()
        server.wait(30)


def test_the_wheel_has_the_pages_the_migrations_and_the_type_marker(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert "lagar/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    for folder in ("control/templates", "control/static", "registry/migrations"):
        assert any(name.startswith(f"lagar/{folder}/") for name in names), folder
    assert not [name for name in names if name.startswith(("tests/", "bench/"))]


def test_the_source_distribution_builds_the_same_wheel(dist: Path, wheel: Path, tmp_path: Path) -> None:
    (sdist,) = dist.glob("*.tar.gz")
    subprocess.run(["tar", "-xzf", str(sdist), "-C", str(tmp_path)], check=True)
    (source,) = tmp_path.iterdir()
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "again")]
    subprocess.run(build, cwd=source, check=True, timeout=120)
    (again,) = (tmp_path / "again").glob("*.whl")
    assert set(zipfile.ZipFile(again).namelist()) == set(zipfile.ZipFile(wheel).namelist())


def test_the_installed_command_says_its_version(installed: Path, tmp_path: Path) -> None:
    said = subprocess.run([installed / "lagar", "--version"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert lagar.__version__ in said.stdout


def test_the_installed_lagar_serves_a_model_with_its_pages_and_documentation(url: str) -> None:
    example = httpx.get(f"{url}/models/iris/example", timeout=30)
    assert example.status_code == 200
    answer = httpx.post(f"{url}/predict", json=example.json(), timeout=30)
    assert answer.status_code == 200, answer.text
    assert answer.json()["predictions"]
    for page in ("/", "/docs"):
        shown = httpx.get(url + page, timeout=30, follow_redirects=True)
        assert shown.status_code == 200
        for asset in re.findall(r'(?:src|href)="([^"#]+\.(?:js|css|svg|png|ico))"', shown.text):
            found = httpx.get(str(shown.url.join(asset)), timeout=30)
            assert found.status_code == 200, f"{page} wants {asset}"
