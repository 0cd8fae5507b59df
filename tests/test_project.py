"""What must be true of the repository itself: locks, make targets, what is tracked, and that the demo works."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import lagar
from support.markdown import blocks, commands, difference
from support.server import clean_env
from support.wait import eventually

ROOT = Path(__file__).resolve().parent.parent
COMPARED = [ROOT / "requirements.lock", *sorted((ROOT / "bench" / "peers").glob("*.lock"))]
LOCKS = [*COMPARED, *sorted((ROOT / "tests" / "judges").glob("*.lock"))]
TARGETS = {"env", "demo", "test", "test-all", "lint", "bench", "dist", "clean", "help"}
MAX_TRACKED_BYTES = 2_000_000
DEMO = [sys.executable, str(ROOT / "scripts" / "demo.py")]


def tracked() -> list[Path]:
    """The files that git has, or would take; skips where this is no clone."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git clone")
    command = ["git", "-c", f"safe.directory={ROOT}", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in said.split("\0") if name and (ROOT / name).is_file()]


def locked(lock: Path) -> dict[str, str]:
    return dict(re.findall(r"^([\w.-]+)==(\S+)", lock.read_text(), re.MULTILINE))


def project() -> dict[str, object]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_a_lock_names_no_address_and_has_a_hash_for_everything(lock: Path) -> None:
    text = lock.read_text()
    assert "://" not in text
    assert not re.search(r"^\s*(-i|--index-url|--extra-index-url|--find-links)\b", text, re.MULTILINE)
    entries = re.split(r"^(?=[\w.-]+==)", text, flags=re.MULTILINE)[1:]
    assert entries
    assert [entry.splitlines()[0] for entry in entries if "--hash=sha256:" not in entry] == []


def test_the_lock_has_everything_that_the_project_asks_for() -> None:
    described = project()
    asked = [
        *described["project"]["dependencies"],
        *[line for extra in described["project"]["optional-dependencies"].values() for line in extra],
        *described["dependency-groups"]["dev"],
    ]
    names = {re.match(r"[\w.-]+", line)[0] for line in asked} - {"lagar"}
    assert names <= set(locked(ROOT / "requirements.lock")), "run `make lock`"


def test_all_locks_have_one_scikit_learn_so_that_the_bench_compares_servers() -> None:
    assert len({locked(lock).get("scikit-learn") for lock in COMPARED}) == 1, "run `make lock`"


def test_no_tracked_file_names_a_package_index_or_a_place_on_one_machine() -> None:
    hosts = r"pypi\.org/simple|files\.pythonhosted\.org|index-url\s*=|extra-index"
    places = r"(?<![\w.~-])/(?:root|work|home/\w+)/"
    found = []
    for path in tracked():
        if path == Path(__file__) or path.suffix in (".png", ".ico", ".woff2", ".lock") or "static" in path.parts:
            continue
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            if re.search(f"{hosts}|{places}", line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    assert not found, "\n".join(found)


def test_no_model_and_nothing_large_is_tracked() -> None:
    wrong = [
        str(path.relative_to(ROOT))
        for path in tracked()
        if path.suffix in (".joblib", ".pkl", ".pickle", ".onnx", ".ubj", ".cbm")
        or path.stat().st_size > MAX_TRACKED_BYTES
        or path.name == "uv.lock"
    ]
    assert not wrong


def test_make_help_lists_every_target() -> None:
    said = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert set(re.findall(r"^\s*make ([\w-]+)", said, re.MULTILINE)) >= TARGETS - {"packages"}


def test_the_continuous_integration_runs_both_test_targets() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert "test test-all" in script.read_text()


def test_the_package_and_the_project_have_one_version_and_a_changelog() -> None:
    assert project()["project"]["version"] == lagar.__version__
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert "## [Unreleased]" in changelog or f"## [{lagar.__version__}]" in changelog


def demo_answers() -> list[str]:
    """What the README shows under the commands that the demo sends."""
    page = (ROOT / "README.md").read_text()
    after = page[page.index("<!-- demo -->") :]
    return [command.output for command in commands(blocks(after)[0])]


def run_demo(tmp_path: Path, **extra: str) -> str:
    env = clean_env(tmp_path / "home", extra)
    done = subprocess.run([*DEMO, "--once"], env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def answers_in(said: str) -> list[str]:
    return [line for line in said.splitlines() if line.startswith("{")]


def test_the_demo_gets_the_answers_that_the_readme_shows_though_its_port_is_taken(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind(("127.0.0.1", 8080))
            taken.listen()
        except OSError:
            pass  # someone else has it, which does as well
        said = run_demo(tmp_path)
    assert "Port 8080 is taken" in said
    shown = demo_answers()
    assert [difference(*pair) for pair in zip(shown, answers_in(said), strict=True)] == [None] * len(shown)


@pytest.mark.slow
def test_the_demo_does_without_curl(tmp_path: Path) -> None:
    said = run_demo(tmp_path, PATH=str(tmp_path / "no-programs"))
    assert "curl is not installed" in said
    assert len(answers_in(said)) == len(demo_answers())


def test_the_demo_stays_up_until_it_is_interrupted_and_takes_its_server_with_it(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("wb") as out:
        demo = subprocess.Popen(DEMO, env=clean_env(tmp_path / "home"), stdout=out, stderr=out, start_new_session=True)
    try:
        eventually(lambda: "Ctrl-C ends it" in log.read_text() or demo.poll() is not None, 90, "the demo's last words")
        assert demo.poll() is None, log.read_text()
        port = int(re.search(r"Serving at http://127\.0\.0\.1:(\d+)", log.read_text())[1])
        demo.send_signal(signal.SIGINT)
        assert demo.wait(60) == 0
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0
    finally:
        demo.kill()
        demo.wait()


@pytest.mark.slow
def test_make_env_builds_a_fresh_copy_of_the_project(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    for path in tracked():
        target = copy / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)
    env = clean_env(tmp_path / "home")
    env.pop("VIRTUAL_ENV", None)
    done = subprocess.run(["make", "env"], cwd=copy, env=env, capture_output=True, text=True, timeout=1200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    said = subprocess.run([copy / ".venv/bin/lagar", "--version"], capture_output=True, text=True, check=True).stdout
    assert lagar.__version__ in said
    again = subprocess.run(["make", "env"], cwd=copy, env=env, capture_output=True, text=True, timeout=60, check=True)
    assert "installing" not in again.stdout
