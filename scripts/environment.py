"""Make `.venv` from requirements.lock, on a machine with nothing but Python and pip.

The lock is installed with its hashes, then Lagar itself, editable and without dependencies. uv does the work; where it
is missing, pip puts it into `.uv` (a target folder needs no rights and no virtual environment). Where uv finds no
package index, pip, which may be configured for another one, installs the same lock with the same hashes.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
LOCK = ROOT / "requirements.lock"
OLDEST = (3, 11)
PROJECT = ["--no-deps", "--no-build-isolation", "--editable", str(ROOT)]


def main() -> None:
    """Exit non-zero, with pip's own words on the terminal, when the environment cannot be made."""
    if sys.version_info < OLDEST:
        sys.exit(f"Lagar needs Python 3.11 or later, and this is {sys.version.split()[0]}: make env PYTHON=python3.11")
    uv = _uv()
    if not _usable(PYTHON):
        _run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(VENV)])
    print("installing requirements.lock into .venv", flush=True)
    if _succeeds([uv, "pip", "sync", "--quiet", "--python", str(PYTHON), "--require-hashes", str(LOCK)]):
        _run([uv, "pip", "install", "--quiet", "--python", str(PYTHON), *PROJECT])
    else:
        print("uv could not install the lock: trying pip, with pip's own configuration", flush=True)
        pip = [sys.executable, "-m", "pip", "--python", str(PYTHON), "install", "--quiet", "--no-input"]
        _run([*pip, "--require-hashes", "--requirement", str(LOCK)])
        _run([*pip, *PROJECT])


def _uv() -> str:
    """A uv that runs: the machine's, or our own copy in `.uv`."""
    own = ROOT / ".uv" / "bin" / "uv"
    for candidate in (shutil.which("uv"), str(own)):
        if candidate and _succeeds([candidate, "--version"], quiet=True):
            return candidate
    print("installing uv into .uv", flush=True)
    _run([sys.executable, "-m", "pip", "install", "--quiet", "--no-input", "--target", str(ROOT / ".uv"), "uv>=0.6"])
    return str(own)


def _usable(python: Path) -> bool:
    check = f"import sys; sys.exit(sys.version_info < {OLDEST})"
    return python.exists() and _succeeds([str(python), "-c", check], quiet=True)


def _succeeds(command: list[str], *, quiet: bool = False) -> bool:
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=quiet).returncode == 0
    except OSError:
        return False


def _run(command: list[str]) -> None:
    code = subprocess.run(command, cwd=ROOT).returncode
    if code:
        sys.exit(f"{' '.join(command)} ended with {code}")


if __name__ == "__main__":
    main()
