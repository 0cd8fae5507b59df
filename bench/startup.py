"""How long a person waits for Lagar: `lagar --help`, `import lagar`, and `lagar serve` of a model that the home knows.

The server starts on one core, in the home of a first start that is not counted; each of its processes is listed with
the seconds it computed and its memory.
"""

from __future__ import annotations

import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import models

RUNS = 9
STARTS = 5
LIMIT_MS = 300.0
LIMIT_START_MS = 1200.0
LIMIT_WORKER_MB = 90.0
BIN = Path(sys.executable).parent
COMMANDS = {
    "lagar --help": [str(BIN / "lagar"), "--help"],
    "import lagar": [sys.executable, "-c", "import lagar"],
    "python -c ''": [sys.executable, "-c", ""],
}
SERVED = ("logistic", "forest", "forest-onnx")
COMPILED = ("logistic", "forest")


class Cost(NamedTuple):
    """What a process has used when the server is ready."""

    computed_ms: float
    pss_mb: float


class Start(NamedTuple):
    """One start of a server."""

    ready_ms: float
    processes: dict[str, Cost]


def main() -> None:
    """Print a line per command, then the starts of servers with the aims beside them."""
    for name, command in COMMANDS.items():
        times_ms = []
        for _ in range(RUNS):
            started = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            times_ms.append((time.perf_counter() - started) * 1000)
        aim = f" (aim: {LIMIT_MS:.0f} ms)" if name == "lagar --help" else ""
        print(f"{name:14} {statistics.median(times_ms):6.0f} ms{aim}")
    for name in SERVED:
        show(name, "off")
    for name in COMPILED:
        show(name, "wait")


def show(name: str, compiling: str) -> None:
    """Start a server of that model some times, and print the medians; the first start has compiled what is compiled."""
    with tempfile.TemporaryDirectory() as scratch:
        path = models.make(name, Path(scratch)).served
        home = Path(scratch) / "home"
        start(path, home, compiling)
        starts = [start(path, home, compiling) for _ in range(STARTS)]
    ready_ms = statistics.median(each.ready_ms for each in starts)
    aim = f"(aim: {LIMIT_START_MS:.0f} ms)"
    state = "compiled before" if compiling == "wait" else "not compiled"
    print(f"\nlagar serve {path.name}, known to the home, {state}, one core: ready in {ready_ms:.0f} ms {aim}")
    for process in starts[0].processes:
        costs = [each.processes[process] for each in starts]
        computed_ms = statistics.median(cost.computed_ms for cost in costs)
        pss_mb = statistics.median(cost.pss_mb for cost in costs)
        aim = f" (aim: {LIMIT_WORKER_MB:.0f} MB)" if process == "worker" else ""
        print(f"  {process:12} {computed_ms:6.0f} ms computed  {pss_mb:5.0f} MB{aim}")


def start(path: Path, home: Path, compiling: str) -> Start:
    """Start a server, look at its processes when it is ready, and end it."""
    core = max(os.sched_getaffinity(0))
    command = ["taskset", "-c", str(core), str(BIN / "lagar"), "serve", str(path), "--port", "0", "--workers", "1"]
    command += ["--compile", compiling]
    began = time.perf_counter()
    with subprocess.Popen(
        command, env=os.environ | {"LAGAR_HOME": str(home)}, stderr=subprocess.PIPE, text=True
    ) as server:
        assert server.stderr is not None
        said = []
        for line in server.stderr:
            said.append(line)
            if "ready at" in line:
                break
        else:
            sys.exit("the server did not become ready:\n" + "".join(said))
        ready_ms = (time.perf_counter() - began) * 1000
        processes = {name: cost_of(pid) for name, pid in members(server.pid)}
        server.send_signal(signal.SIGTERM)
        server.stderr.read()
    return Start(ready_ms, processes)


def members(pid: int) -> Iterator[tuple[str, int]]:
    """The server's processes by their role."""
    yield "supervisor", pid
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        command = Path(f"/proc/{child}/cmdline").read_text()
        role = re.search(r"lagar\.(?:server\.)?(\w+)", command)
        yield role[1] if role else command.replace("\0", " "), int(child)


def cost_of(pid: int) -> Cost:
    """Seconds of computing from /proc/PID/stat, memory from smaps_rollup."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    ticks = int(fields[11]) + int(fields[12])
    pss = re.search(r"^Pss:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    assert pss is not None
    return Cost(ticks * 1000 / os.sysconf("SC_CLK_TCK"), int(pss[1]) / 1024)


if __name__ == "__main__":
    main()
