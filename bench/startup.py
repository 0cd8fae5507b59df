"""How long a person waits for the command line: `lagar --help` and `import lagar`, median of some runs."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

RUNS = 9
LIMIT_MS = 300.0
BIN = Path(sys.executable).parent
COMMANDS = {
    "lagar --help": [str(BIN / "lagar"), "--help"],
    "import lagar": [sys.executable, "-c", "import lagar"],
    "python -c ''": [sys.executable, "-c", ""],
}


def main() -> None:
    """Print a line per command; the aim for `lagar --help` is LIMIT_MS."""
    for name, command in COMMANDS.items():
        times_ms = []
        for _ in range(RUNS):
            started = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            times_ms.append((time.perf_counter() - started) * 1000)
        aim = f" (aim: {LIMIT_MS:.0f} ms)" if name == "lagar --help" else ""
        print(f"{name:14} {statistics.median(times_ms):6.0f} ms{aim}")


if __name__ == "__main__":
    main()
