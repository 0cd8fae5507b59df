"""What promotes and rollbacks cost under full load: five of each, two workers on core 0, wrk on core 1.

Requests are read from the workers' own counters, ten times a second, failures from wrk. "worst second" is the least
that was answered in any second from the order on, as a share of the median second of the three seconds before it;
"live" is the time from the order to the last answer of the version before, on any worker.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import joblib
from sklearn.datasets import load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import models
from lagar.client.local import Local
from lagar.intake.push import push
from lagar.metrics import collect
from lagar.registry.releases import Releases, Who, open_releases
from tree import ServerTree, free_port

SERVER_CORE, LOAD_CORE = 0, 1
SWITCHES = 5
LOOK_S = 0.1
WHO = Who("bench", "bench")
CASES = {"beside": ("1", "2"), "fresh": ("3", "4")}
"""Case → versions that take turns: in a library that the workers have, and with code of their own, which each time
takes a fresh worker that imports scikit-learn."""
CODE = """
import json
from pathlib import Path

import numpy as np
import sklearn.linear_model


class Wine:
    def load(self, path):
        self.coef, self.intercept = (np.array(values) for values in json.loads(Path(path).read_text()))

    def predict(self, rows: np.ndarray):
        return {"predict": (rows @ self.coef.T + self.intercept).argmax(axis=1)}
"""


@dataclass(frozen=True)
class Look:
    """The counters at one moment."""

    at: float
    answered: int
    of: dict[str, int]
    """Version → answers."""


class Watch(threading.Thread):
    """Looks at the workers' counters again and again."""

    def __init__(self, metrics: Path) -> None:
        super().__init__(daemon=True)
        self.looks: list[Look] = []
        self.ends = threading.Event()
        self._metrics = metrics

    def run(self) -> None:
        while not self.ends.wait(LOOK_S):
            of: dict[str, int] = {}
            for sample in collect(self._metrics):
                if sample.family.name == "lagar_requests":
                    of[sample.labels[1]] = of.get(sample.labels[1], 0) + sample.values[0]
            self.looks.append(Look(time.monotonic(), sum(of.values()), of))

    def per_second(self, start: float, end: float) -> list[float]:
        """Requests per second over each second that begins between start and end."""
        looks = [look for look in self.looks if start <= look.at <= end]
        rates, last = [], 0
        for first in looks:
            while last < len(looks) and looks[last].at < first.at + 1.0:
                last += 1
            if last == len(looks):
                break
            rates.append((looks[last].answered - first.answered) / (looks[last].at - first.at))
        return rates

    def last_answer(self, version: str, start: float, end: float) -> float:
        """When the count of a version grew for the last time."""
        looks = [look for look in self.looks if start <= look.at <= end]
        grown = [
            after.at
            for before, after in itertools.pairwise(looks)
            if after.of.get(version, 0) > before.of.get(version, 0)
        ]
        return grown[-1] if grown else start


def main() -> None:
    """Measure each case and print a line of Markdown for it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", default=",".join(CASES), help="which of them, comma-separated")
    parser.add_argument("--pause", type=float, default=4.0, help="seconds between two switches")
    parser.add_argument("--connections", type=int, default=32)
    options = parser.parse_args()
    for tool in ("wrk", "taskset"):
        if shutil.which(tool) is None:
            sys.exit(f"{tool} is not installed; Debian has it: apt-get install wrk util-linux")
    os.sched_setaffinity(0, {LOAD_CORE})
    print("| switch | requests | failed | requests/s | worst second | median worst | live, median | live, last |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder, open_releases(Path(folder) / "home") as releases:
        _push_all(releases, Path(folder))
        for case in options.cases.split(","):
            print(_measured(case, releases, Path(folder), options.pause, options.connections), flush=True)


def _push_all(releases: Releases, folder: Path) -> None:
    rows, classes = load_wine(return_X_y=True)
    for version, c in {"1": 1.0, "2": 0.1, "3": 1.0, "4": 0.1}.items():
        model = make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=1000)).fit(rows, classes)
        path = folder / f"{version}.joblib"
        if version in CASES["beside"]:
            joblib.dump(model, path)
        else:
            path = folder / version
            path.mkdir()
            (path / "wine.py").write_text(CODE)
            (path / "weights.json").write_text(json.dumps([model[1].coef_.tolist(), model[1].intercept_.tolist()]))
            fields = "".join(f'"x{number}" = {{}}\n' for number in range(rows.shape[1]))
            (path / "lagar.toml").write_text(f'model = "weights.json"\nclass = "wine:Wine"\n[fields]\n{fields}')
        push(releases, "wine", path, version=version, who=WHO)


def _measured(case: str, releases: Releases, folder: Path, pause_s: float, connections: int) -> str:
    first, second = CASES[case]
    verbs = Local(releases)
    verbs.promote("wine", first)
    port = free_port()
    body = models.body("mlflow", 1)
    command = [str(Path(sys.executable).with_name("lagar")), "serve", "--port", str(port), "--workers", "2"]
    server = ServerTree(command, {"LAGAR_HOME": str(folder / "home")}, SERVER_CORE, folder / "server.log")
    try:
        url = f"http://127.0.0.1:{port}/models/wine/predict"
        server.wait_for(url, body)
        watch = Watch(next((folder / "home" / "run").glob("*/metrics")))
        seconds = round(2 * SWITCHES * (pause_s + (30 if case == "fresh" else 2)) + 8)
        load = _wrk(url, folder, body, connections, seconds)
        watch.start()
        time.sleep(5)
        before_all, worst, live = [], [], []
        for turn in range(2 * SWITCHES):
            before = first if turn % 2 == 0 else second
            began = time.monotonic()
            usual = statistics.median(watch.per_second(began - 3, began))
            before_all.append(usual)
            if turn % 2 == 0:
                verbs.promote("wine", second)
            else:
                verbs.rollback("wine")
            time.sleep(pause_s)
            end = time.monotonic()
            worst.append(min(watch.per_second(began, end), default=0.0) / usual)
            live.append(watch.last_answer(before, began, end) - began)
        load.send_signal(signal.SIGINT)  # wrk ends and says what it has seen
        said, _ = load.communicate()
        watch.ends.set()
    finally:
        server.stop()
    requests = re.search(r"(\d+) requests in", said)
    failed = sum(int(count) for count in re.findall(r"Non-2xx or 3xx responses: (\d+)", said))
    print(said, file=sys.stderr)
    failed += sum(int(count) for line in re.findall(r"Socket errors: (.*)", said) for count in re.findall(r"\d+", line))
    return (
        f"| {case} | {int(requests[1]) if requests else 0:,} | {failed} | {statistics.median(before_all):,.0f} "
        f"| {min(worst):.0%} | {statistics.median(worst):.0%} | {statistics.median(live):.2f} s | {max(live):.2f} s |"
    )


def _wrk(url: str, folder: Path, body: bytes, connections: int, seconds: int) -> subprocess.Popen[str]:
    payload, script = folder / "body.json", folder / "post.lua"
    payload.write_bytes(body)
    script.write_text(
        f'local file = io.open("{payload}", "rb")\nwrk.method = "POST"\nwrk.body = file:read("*a")\nfile:close()\n'
        'wrk.headers["Content-Type"] = "application/json"\n'
    )
    command = ["taskset", "-c", str(LOAD_CORE), "wrk", "--threads", "1", "--connections", str(connections)]
    command += ["--duration", f"{seconds}s", "--script", str(script), url]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


if __name__ == "__main__":
    main()
