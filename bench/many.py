"""What a thousand live models cost: the start, the idle server's memory, a first request, lists, a promote.

Every model is a scaler and a logistic regression of its own, live in one home. "over its load" is the time of the
first request to a model that is not loaded, less what `runtimes.load` takes for it in a process that has scikit-learn.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import joblib
import numpy as np
from sklearn.datasets import load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lagar import runtimes
from lagar.client.local import Local
from lagar.intake import golden
from lagar.registry.manifest import FileEntry, Form, Manifest, Provenance
from lagar.registry.model import ModelSource
from lagar.registry.releases import Releases, Who, open_releases
from tree import free_port

WHO = Who("bench", "bench")
ASKED = 40
"""Models that are asked for the first time."""
IDLE_S = 10.0

T = TypeVar("T")


def main() -> None:
    """Print one table of Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--max-memory", default="0")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, open_releases(Path(folder) / "home") as releases:
        _commit_all(releases, Path(folder), options.models)
        print("| | |\n|---|---|")
        print(f"| live models | {options.models} |")
        with Server(Path(folder), options.workers, options.max_memory) as server:
            _measure(server, releases, options.models)


def _commit_all(releases: Releases, folder: Path, count: int) -> None:
    """As many models, each with its own weights, committed as intake would and live."""
    rows, classes = load_wine(return_X_y=True)
    numbers = np.random.default_rng(0)
    path = folder / "model.joblib"
    for index in range(count):
        chosen = numbers.choice(len(rows), 100, replace=False)
        joblib.dump(make_pipeline(StandardScaler(), LogisticRegression()).fit(rows[chosen], classes[chosen]), path)
        name = f"model-{index:04d}"
        model = runtimes.load(ModelSource(name=name, version="1", path=str(path), kind="sklearn", pickled=True))
        data = path.read_bytes()
        entry = FileEntry(path.name, hashlib.sha256(data).hexdigest(), len(data))
        manifest = Manifest(
            format=1, model=name, version="1", signature=model.signature,
            forms=(Form("original", "sklearn", path.name, (entry,), libraries=dict(model.libraries)),),
            golden=golden.record(model).golden, python=sys.version.split()[0], libraries=dict(model.libraries),
            provenance=Provenance("bench", "bench", 0.0, path.name, "bench"), pickled=True, memory_bytes=300_000,
        )  # fmt: skip
        releases.commit(manifest, {path.name: path}, WHO)
        releases.propose(name, {"1": 100}, WHO)


class Server:
    """`lagar serve` on that home."""

    def __init__(self, folder: Path, workers: int, max_memory: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        command = [str(Path(sys.executable).with_name("lagar")), "serve", "--port", str(self.port)]
        self._command = [*command, "--workers", str(workers), "--max-memory", max_memory]
        self._environment = os.environ | {"LAGAR_HOME": str(folder / "home")}
        self._log = folder / "server.log"

    def __enter__(self) -> Server:
        began = time.monotonic()
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(self._command, stderr=log, env=self._environment, start_new_session=True)
        while b"ready at" not in self._log.read_bytes():
            if self._process.poll() is not None or time.monotonic() - began > 300:
                sys.exit(self._log.read_text())
            time.sleep(0.02)
        self.ready_s = time.monotonic() - began
        return self

    def __exit__(self, *_: object) -> None:
        os.killpg(self._process.pid, signal.SIGTERM)
        self._process.wait(60)

    def processes(self, module: str) -> list[int]:
        """Pids of the server's processes that run a module."""
        found = subprocess.run(["pgrep", "-g", str(self._process.pid), "-f", module], capture_output=True, check=False)
        return [int(pid) for pid in found.stdout.split()]

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(self.url + path, timeout=60) as answer:
            return answer.read()

    def post(self, name: str, body: bytes) -> bytes:
        request = urllib.request.Request(
            f"{self.url}/models/{name}/predict", data=body, headers={"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.read()


def _measure(server: Server, releases: Releases, count: int) -> None:
    workers = server.processes("lagar.server.worker")
    control = server.processes("lagar.control.main")[0]
    print(f"| ready after | {server.ready_s:.1f} s |")
    print(f"| loaded then | {_loaded(server)} |")
    before = _cpu_s(control)
    time.sleep(IDLE_S)
    print(f"| PSS of a worker, idle | {max(map(_pss_mb, workers)):.0f} MB |")
    print(f"| control's CPU, idle | {(_cpu_s(control) - before) / IDLE_S:.1%} |")
    body = json.dumps({"instances": [[float(number) for number in range(13)]]}).encode()
    cards = json.loads(server.get("/models"))["models"]
    unloaded = [card["name"] for card in cards if card["versions"][0]["state"] == "unloaded"]
    over, loads = [], []
    for name in random.Random(1).sample(unloaded, min(ASKED, len(unloaded))):
        source = releases.source(releases.get(name, "1"))
        loads.append(statistics.median(_timed(lambda source=source: runtimes.load(source))[0] for _ in range(3)))
        over.append(_timed(lambda name=name: server.post(name, body))[0] - loads[-1])
    print(f"| first request, over its load of {statistics.median(loads) * 1000:.0f} ms (median) "
          f"| {statistics.median(over) * 1000:.0f} ms |")  # fmt: skip
    print(f"| … the slowest of {len(over)} | {max(over) * 1000:.0f} ms |")
    for path in ("/models", "/metrics", "/", "/openapi.json"):
        seconds, data = _timed(lambda path=path: server.get(path))
        print(f"| `GET {path}` | {seconds * 1000:.0f} ms, {len(data) / 1000:.0f} kB |")
    print(f"| a promote, live everywhere | {_promote(server, releases, body):.2f} s |")
    for card in cards:
        server.post(card["name"], body)
    print(f"| PSS of a worker, all {_loaded(server)} loaded | {max(map(_pss_mb, workers)):.0f} MB |")
    for path in ("/models", "/metrics"):
        seconds, data = _timed(lambda path=path: server.get(path))
        print(f"| `GET {path}` then | {seconds * 1000:.0f} ms, {len(data) / 1000:.0f} kB |")


def _promote(server: Server, releases: Releases, body: bytes) -> float:
    """Seconds from the order to the first answer of a new version."""
    first = releases.get("model-0000", "1").manifest
    root = releases.lay_out(first)
    data = {entry.path: root / entry.path for entry in first.original.files}
    import msgspec

    releases.commit(msgspec.structs.replace(first, version="2"), data, WHO)
    began = time.monotonic()
    Local(releases).promote("model-0000", "2")
    while json.loads(server.post("model-0000", body))["version"] != "2":
        time.sleep(0.01)
    return time.monotonic() - began


def _timed(work: Callable[[], T]) -> tuple[float, T]:
    began = time.monotonic()
    result = work()
    return time.monotonic() - began, result


def _loaded(server: Server) -> int:
    cards = json.loads(server.get("/models"))["models"]
    return sum(card["versions"][0]["state"] == "ready" for card in cards)


def _pss_mb(pid: int) -> float:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(size) for size in re.findall(r"^Pss:\s+(\d+) kB", text, re.MULTILINE)) / 1000


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
