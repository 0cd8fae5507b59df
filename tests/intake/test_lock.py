"""Requirements of every format, what an environment lacks, and the lock of what was imported."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from lagar.errors import SetupError
from lagar.intake import lock
from lagar.intake.lock import Requirements


def lines(path: Path, text: str) -> tuple[str, ...]:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return lock.read(path).lines


def refused(path: Path, text: str) -> str:
    path.write_text(text)
    with pytest.raises(SetupError) as caught:
        lock.read(path)
    return caught.value.message


def test_requirements_txt_with_comments_includes_hashes_and_markers(tmp_path: Path) -> None:
    (tmp_path / "base.txt").write_text("pandas>=2.1  # tables\n")
    text = (
        "# libraries\n-r base.txt\n--index-url https://example.com/simple\n"
        "scikit-learn==1.3.0 \\\n    --hash=sha256:00 \\\n    --hash=sha256:11\n"
        'pywin32==306; sys_platform == "win32"\nxgboost [scikit-learn] >=2,<3 ; python_version >= "3.8"\n'
    )
    assert lines(tmp_path / "requirements.txt", text) == (
        "pandas>=2.1", "scikit-learn==1.3.0", "xgboost[scikit-learn]<3,>=2",
    )  # fmt: skip


@pytest.mark.parametrize("line", ["-e .", "./wheels/mine.whl", "mine.whl", "/opt/mine", "mine @ file:///opt/mine"])
def test_what_lies_on_this_machine_only_is_refused(tmp_path: Path, line: str) -> None:
    assert "lies on this machine only" in refused(tmp_path / "requirements.txt", f"numpy\n{line}\n")


def test_a_line_that_is_no_requirement_is_shown(tmp_path: Path) -> None:
    assert "'numpy=1.2' is no requirement" in refused(tmp_path / "requirements.txt", "numpy=1.2\n")
    address = "git+https://example.com/mine.git"
    assert f"write it like NAME @ {address}" in refused(tmp_path / "requirements.txt", f"{address}\n")


def test_a_file_that_does_not_say_what_is_needed_is_refused(tmp_path: Path) -> None:
    assert "has no [packages]" in refused(tmp_path / "Pipfile", '[dev-packages]\npytest = "*"\n')
    assert "has no list of dependencies" in refused(tmp_path / "conda.yaml", "name: m\n")
    (tmp_path / "requirements.txt").write_text("# nothing but Python\n")
    assert lock.read(tmp_path / "requirements.txt").lines == ()


def test_files_that_include_each_other_end(tmp_path: Path) -> None:
    assert "include each other" in refused(tmp_path / "requirements.txt", "-r requirements.txt\n")


def test_a_missing_and_an_unknown_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="No such file"):
        lock.read(tmp_path / "requirements.txt")
    assert "expected requirements.txt, Pipfile" in refused(tmp_path / "setup.cfg", "[metadata]\n")


def test_pipfile(tmp_path: Path) -> None:
    text = (
        '[packages]\nnumpy = "*"\nscikit-learn = "==1.0.2"\n'
        'pandas = {version = ">=2", extras = ["parquet"]}\nmine = {git = "https://example.com/mine.git", ref = "v1"}\n'
        '[dev-packages]\npytest = "*"\n[requires]\npython_version = "3.9"\n'
    )
    (tmp_path / "Pipfile").write_text(text)
    found = lock.read(tmp_path / "Pipfile")
    assert found.lines == (
        "numpy", "scikit-learn==1.0.2", "pandas[parquet]>=2", "mine @ git+https://example.com/mine.git@v1",
    )  # fmt: skip
    assert found.python == "==3.9.*"
    assert "lies on this machine only" in refused(tmp_path / "Pipfile", '[packages]\nmine = {path = "."}\n')


def test_pipfile_lock(tmp_path: Path) -> None:
    content = {
        "_meta": {"requires": {"python_version": "3.9"}},
        "default": {
            "numpy": {"version": "==1.22.0", "hashes": ["sha256:00"], "markers": "python_version >= '3.8'"},
            "colorama": {"version": "==0.4.4", "markers": "sys_platform == 'win32'"},
        },
        "develop": {"pytest": {"version": "==7.0"}},
    }
    assert lines(tmp_path / "Pipfile.lock", json.dumps(content)) == ("numpy==1.22.0",)
    assert "no Pipfile.lock" in refused(tmp_path / "Pipfile.lock", "{}")


def test_pyproject_with_and_without_uv_lock(tmp_path: Path) -> None:
    text = '[project]\nname = "m"\nrequires-python = ">=3.10"\ndependencies = ["pandas>=2", "numpy"]\n'
    found = lines(tmp_path / "pyproject.toml", text)
    assert found == ("pandas>=2", "numpy")
    (tmp_path / "uv.lock").write_text(
        'version = 1\n[[package]]\nname = "m"\nversion = "0"\nsource = { virtual = "." }\n'
        '[[package]]\nname = "pandas"\nversion = "2.2.0"\n'
        'dependencies = [{ name = "six" }, { name = "tzdata", marker = "sys_platform == \'win32\'" }]\n'
        '[[package]]\nname = "numpy"\nversion = "1.26.0"\nresolution-markers = ["python_full_version < \'3.2\'"]\n'
        '[[package]]\nname = "numpy"\nversion = "2.1.0"\nresolution-markers = ["python_full_version >= \'3.2\'"]\n'
        '[[package]]\nname = "six"\nversion = "1.16.0"\n[[package]]\nname = "pytest"\nversion = "8.0"\n'
    )
    found_locked = lock.read(tmp_path / "pyproject.toml")
    assert found_locked.lines == ("numpy==2.1.0", "pandas==2.2.0", "six==1.16.0")
    assert found_locked.python == ">=3.10"


def test_poetry_with_and_without_its_lock(tmp_path: Path) -> None:
    text = (
        '[tool.poetry.dependencies]\npython = "^3.9"\nnumpy = "^1.22"\npandas = "~2.1.3"\nrich = {version = "*", '
        'optional = true}\n[tool.poetry.group.dev.dependencies]\npytest = "*"\n'
    )
    (tmp_path / "pyproject.toml").write_text(text)
    found = lock.read(tmp_path / "pyproject.toml")
    assert found.lines == ("numpy<2,>=1.22", "pandas<2.2,>=2.1.3")
    assert found.python == "<4,>=3.9"
    (tmp_path / "poetry.lock").write_text(
        '[[package]]\nname = "numpy"\nversion = "1.26.0"\n'
        '[[package]]\nname = "pandas"\nversion = "2.1.4"\n[package.dependencies]\nsix = ">=1.5"\n'
        'odd = {version = "*", optional = true}\n[[package]]\nname = "six"\nversion = "1.16.0"\n'
    )
    assert lock.read(tmp_path / "pyproject.toml").lines == ("numpy==1.26.0", "pandas==2.1.4", "six==1.16.0")


def test_a_lock_without_a_needed_package_is_refused(tmp_path: Path) -> None:
    (tmp_path / "uv.lock").write_text('[[package]]\nname = "six"\nversion = "1"\n')
    message = refused(tmp_path / "pyproject.toml", '[project]\nname = "m"\ndependencies = ["numpy"]\n')
    assert "does not lock numpy" in message
    assert "neither [project] nor [tool.poetry]" in refused(tmp_path / "pyproject.toml", "[tool.ruff]\n")


def test_conda_yaml(tmp_path: Path) -> None:
    text = (
        "name: m\nchannels: [conda-forge]\ndependencies:\n- python=3.10.12\n- pip<=23\n- scikit-learn=1.3.0\n"
        "- numpy==1.24.3\n- conda-forge::pandas>=2,<3\n- pytorch 2.1.*\n- joblib=1.3.2=pyh_0\n"
        "- xgboost[version='>=1.7']\n- pip:\n  - mlflow==2.9\n  - cloudpickle\n"
    )
    path = tmp_path / "conda.yaml"
    path.write_text(text)
    found = lock.read(path)
    assert found.lines == (
        "scikit-learn==1.3.0.*", "numpy==1.24.3", "pandas<3,>=2", "torch==2.1.*", "joblib==1.3.2", "xgboost>=1.7",
        "mlflow==2.9", "cloudpickle",
    )  # fmt: skip
    assert found.python == "==3.10.12.*"


def test_conda_packages_without_a_pypi_name_are_refused_by_name(tmp_path: Path) -> None:
    text = "dependencies:\n- python=3.10\n- numpy\n- cudatoolkit=11.8\n- libgcc-ng\n- r-base\n- libcst\n"
    message = refused(tmp_path / "conda.yaml", text)
    assert "cudatoolkit, libgcc-ng, r-base are no Python package" in message
    assert "libcst" not in message


def test_python_env_yaml_of_mlflow(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("scikit-learn==1.3.0\n")
    path = tmp_path / "python_env.yaml"
    path.write_text("python: 3.10.12\nbuild_dependencies:\n- pip==23\ndependencies:\n- -r requirements.txt\n- numpy\n")
    found = lock.read(path)
    assert found.lines == ("scikit-learn==1.3.0", "numpy")
    assert found.python == "==3.10.12"


def test_what_an_environment_does_not_meet_is_named_with_what_is_there() -> None:
    wanted = Requirements(("scikit-learn==1.3.0", "Num_Py>=1", "absent", "mine@ git+https://x/y"), "r.txt", "==3.9.*")
    assert lock.unmet(wanted, {"scikit_learn": "1.9.1", "num-py": "2.0"}, "3.11.7") == (
        "Python==3.9.* (this is 3.11.7)", "scikit-learn==1.3.0 (installed is 1.9.1)", "absent (not installed)",
        "mine from an address",
    )  # fmt: skip
    assert lock.unmet(Requirements(("numpy>=1",), "r.txt", ">=3.10"), {"numpy": "2.0"}, "3.11.7") == ()


def test_without_uv_the_lock_has_versions_and_says_so() -> None:
    made = lock.compiled({"numpy": "2.0.0"}, {"numpy": "2.0.0"}, (), uv="/nonexistent/uv")
    assert "numpy==2.0.0\n" in made.text
    assert not made.hashed
    assert "without hashes: uv did not answer" in made.words


def test_uv_is_asked_for_hashes_of_the_installed_versions(tmp_path: Path) -> None:
    uv = tmp_path / "uv"
    uv.write_text(
        f"#!{sys.executable}\nimport sys\nfrom pathlib import Path\n"
        f"Path({str(tmp_path / 'asked')!r}).write_text(sys.stdin.read() + '\\n' + "
        "Path(sys.argv[sys.argv.index('--constraint') + 1]).read_text())\n"
        "print('numpy==2.0.0 \\\\\\n    --hash=sha256:00\\nsix==1.0 \\\\\\n    --hash=sha256:11')\n"
    )
    uv.chmod(0o755)
    installed = {"numpy": "2.0.0", "six": "1.0", "other": "3"}
    made = lock.compiled({"mine": "1", "numpy": "2.0.0"}, installed, ("mine",), uv=str(uv))
    assert made.hashed
    assert made.text.startswith("# mine 1 was installed from a folder or an address\nnumpy==2.0.0 \\\n    --hash")
    assert made.words == "2 libraries with their hashes"
    assert (tmp_path / "asked").read_text() == "numpy==2.0.0\nnumpy==2.0.0\nsix==1.0\nother==3"


def test_an_index_that_refuses_leaves_versions_with_the_reason(tmp_path: Path) -> None:
    uv = tmp_path / "uv"
    uv.write_text("#!/bin/sh\necho 'no such package' >&2\nexit 1\n")
    uv.chmod(0o755)
    made = lock.compiled({"numpy": "2.0.0"}, {}, (), uv=str(uv))
    assert not made.hashed
    assert "uv could not lock them: no such package" in made.words
