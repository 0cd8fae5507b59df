"""Make an environment in `.venvs` from a lock with hashes, unless that very lock is installed there already.

Peers of the benchmark and judges of the protocols run in one each, so that none of their libraries meets Lagar's:
`python scripts/locked.py bench/peers/flask.lock` prints the folder.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENTS = ROOT / ".venvs"


def home_of(lock: Path) -> Path:
    """Where a lock is installed: `peers/flask.lock` in `.venvs/flask`, those of other folders beside their names."""
    folder = lock.resolve().parent.name
    return ENVIRONMENTS / (lock.stem if folder == "peers" else f"{folder}-{lock.stem}")


def install(lock: Path) -> Path:
    """The environment of a lock; raises CalledProcessError when it cannot be made, with uv's words on stderr."""
    home = home_of(lock)
    stamp = home / ".lock"
    if stamp.exists() and stamp.read_text() == lock.read_text():
        return home
    uv = str(Path(sys.executable).parent / "uv")
    env = {"UV_SYSTEM_CERTS": "1", **os.environ}  # as the Makefile has it: trust what the machine trusts
    if not home.exists():
        subprocess.run([uv, "venv", "-q", "--python", sys.executable, str(home)], check=True, env=env)
    print(f"installing {lock.resolve().relative_to(ROOT)} into {home.relative_to(ROOT)}", file=sys.stderr, flush=True)
    subprocess.run([uv, "pip", "sync", "-q", "-p", str(home), "--require-hashes", str(lock)], check=True, env=env)
    stamp.write_text(lock.read_text())
    return home


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(install(Path(name)))
