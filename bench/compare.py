"""Measure model servers side by side, so that anyone can repeat the figures of docs/performance.md.

The server's whole process tree is pinned to core 0 and the load generator, wrk, to core 1. Rounds are interleaved: each
round starts every contender afresh, so that a slow minute of the machine hurts all of them; the median of the rounds is
reported. Before it is measured, a contender must answer the classes that the model gives in process. Any answer that is
not 2xx stops the run. A model whose name ends in -onnx is served as ONNX by Lagar and as the original by the peers. The
model churn is asked for one named record at a time, by the contenders lagar-native and flask-churn, which is the
tutorial's own service.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import load
import machine
import models
from contenders import CONTENDERS, Contender, Start
from tables import markdown
from tree import ServerTree, free_port

CASES = ("1x1", "1x32", "32x1", "32x32", "1000x1")


def main() -> None:
    """Measure, print the table, keep the figures when asked to."""
    options = _options()
    for tool in ("wrk", "taskset"):
        if shutil.which(tool) is None:
            sys.exit(f"{tool} is not installed; Debian has it: apt-get install wrk util-linux")
    if (os.cpu_count() or 1) < 2:
        sys.exit("the benchmark needs two cores: one for the server, one for the load generator")
    names = options.contenders.split(",")
    unknown = [name for name in names if name not in CONTENDERS]
    if unknown:
        sys.exit(f"unknown contenders: {', '.join(unknown)}; there are {', '.join(CONTENDERS)}")
    contenders = [CONTENDERS[name] for name in names]
    _check_versions(contenders)
    for contender in contenders:
        contender.install()
    results = {name: _measure_model(name, contenders, options) for name in options.models.split(",")}
    report = {"machine": machine.facts(), "rounds": options.rounds, "seconds": options.seconds, "results": results}
    report["versions"] = {c.name: c.version_of(c.place) for c in contenders if c.place != "lagar"}
    report["scikit-learn"] = contenders[0].version_of("scikit-learn")
    if options.json:
        Path(options.json).write_text(json.dumps(report, indent=1) + "\n")
    print(markdown(report))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contenders", default="lagar,mlserver,fastapi", help=f"of {','.join(CONTENDERS)}")
    parser.add_argument("--models", default="logistic,forest", help=f"of {','.join(models.MODELS)}")
    parser.add_argument("--cases", default=",".join(CASES), help="ROWSxCONNECTIONS, rows 1, 32 or 1000")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=4, help="of load per case")
    parser.add_argument(
        "--serve-options", default="", help="more for `lagar serve`, as in --serve-options='--compile wait'"
    )
    parser.add_argument("--json", help="file to keep the figures of every round in")
    return parser.parse_args()


def _check_versions(contenders: list[Contender]) -> None:
    """All must run the model on one scikit-learn, or the figures would compare libraries."""
    versions = {contender.name: contender.version_of("scikit-learn") for contender in contenders}
    if len(set(versions.values())) > 1:
        sys.exit(f"the locks name different versions of scikit-learn: {versions}; run `make lock`")


def _measure_model(
    name: str, contenders: list[Contender], options: argparse.Namespace
) -> dict[str, dict[str, list[object]]]:
    """Contender → case → the figure of each round; `ready_s` and `pss_mb` beside the cases."""
    with tempfile.TemporaryDirectory(prefix="lagar-bench-") as folder:
        work = Path(folder)
        workload = models.make(name, work)
        chosen = [contender for contender in contenders if workload.suits(contender.kind)]
        cases = [case for case in options.cases.split(",") if int(case.split("x")[0]) in workload.expected]
        if not chosen or not cases:
            sys.exit(f"none of the contenders and cases is for the model {name}")
        results: dict[str, dict[str, list[object]]] = {contender.name: {} for contender in chosen}
        for round_ in range(options.rounds):
            for contender in chosen:
                print(f"{name}: round {round_ + 1} of {options.rounds}: {contender.name}", file=sys.stderr)
                figures = results[contender.name]
                with _running(contender, workload, work, tuple(options.serve_options.split())) as (tree, url):
                    _check_answers(contender, tree, url, workload, cases)
                    for case in cases:
                        rows, connections = map(int, case.split("x"))
                        script = load.wrk_script(work, workload.body(contender.kind, rows))
                        figures.setdefault(case, []).append(asdict(load.wrk(url, script, connections, options.seconds)))
                    tree.check_core(load.SERVER_CORE)
                    figures.setdefault("ready_s", []).append(tree.ready_s)
                    figures.setdefault("pss_mb", []).append(tree.pss_mb())
    return results


@contextmanager
def _running(
    contender: Contender, workload: models.Workload, work: Path, options: tuple[str, ...]
) -> Iterator[tuple[ServerTree, str]]:
    port = free_port()
    folder = Path(tempfile.mkdtemp(dir=work, prefix=contender.name))
    command = contender.command(Start(contender.bin, port, workload, folder, options))
    environment = {
        **contender.environment,
        "BENCH_MODEL": str(workload.pickled),
        "LAGAR_HOME": str(folder / "home"),
        "PATH": f"{contender.bin}:{os.environ['PATH']}",
    }
    url = f"http://127.0.0.1:{port}{contender.path}"
    tree = ServerTree(command, environment, load.SERVER_CORE, folder / "log")
    try:
        tree.wait_for(url, workload.body(contender.kind, 1))
        yield tree, url
    finally:
        tree.stop()


def _check_answers(
    contender: Contender, tree: ServerTree, url: str, workload: models.Workload, cases: list[str]
) -> None:
    for rows in sorted({int(case.split("x")[0]) for case in cases}):
        wrong = workload.wrong(contender.kind, tree.post(url, workload.body(contender.kind, rows)), rows)
        if wrong:
            sys.exit(f"{contender.name} answers otherwise than {workload.name} itself: {wrong}")


if __name__ == "__main__":
    main()
