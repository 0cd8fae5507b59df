"""V2 over gRPC beside MLServer's: requests per second of one row, from a prepared message.

Both servers run on core 0 with one process, h2load on core 1 with 4 connections of 8 calls at a time; rounds are
interleaved and every contender starts afresh in each. gRPC's status travels behind the answer, where h2load does not
look: so the class is checked before and after the load, and the load's answers must have the size of the checked one.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import grpc
import numpy as np

import models
from contenders import CONTENDERS, Contender, Start
from lagar.protocols import schema
from lagar.protocols.protobuf import of_length, varints
from tree import ServerTree, free_port

SERVER_CORE, LOAD_CORE = 0, 1
METHOD = "/inference.GRPCInferenceService/ModelInfer"
FORMS = ("typed", "raw")
ANSWER = schema.read("inference").messages["inference.ModelInferResponse"]


def main() -> None:
    """Measure and print the medians; `--json` keeps every round."""
    options = _options()
    for tool in ("h2load", "taskset"):
        if shutil.which(tool) is None:
            sys.exit(f"{tool} is not installed; Debian has it: apt-get install nghttp2-client util-linux")
    contenders = [CONTENDERS[name] for name in options.contenders.split(",")]
    for contender in contenders:
        contender.install()
    figures: dict[str, dict[str, list[float]]] = {
        contender.name: {form: [] for form in FORMS} for contender in contenders
    }
    with tempfile.TemporaryDirectory(prefix="lagar-rpc-") as folder:
        workload = models.make(options.model, Path(folder))
        for round_ in range(options.rounds):
            for contender in contenders:
                print(f"round {round_ + 1} of {options.rounds}: {contender.name}", file=sys.stderr)
                for form, rate in _measured(contender, workload, Path(folder), options).items():
                    figures[contender.name][form].append(rate)
    if options.json:
        Path(options.json).write_text(json.dumps(figures, indent=1) + "\n")
    _print(figures, options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contenders", default="lagar,mlserver")
    parser.add_argument("--model", default="logistic", help="of logistic,forest")
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--streams", type=int, default=8, help="calls at a time on each connection")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=4, help="of load per form of message")
    parser.add_argument("--serve-options", default="--compile off", help="more for `lagar serve`")
    parser.add_argument("--json", help="file to keep the figures of every round in")
    return parser.parse_args()


def message(form: str, n: int = 1) -> bytes:
    """A ModelInferRequest of n rows, in the list of its datatype or raw."""
    matrix = models.rows(n)
    values = np.ascontiguousarray(matrix, "<f8").tobytes()
    described = of_length(1, b"predict") + of_length(2, b"FP64") + of_length(3, varints(matrix.shape))
    head = of_length(1, b"wine") + of_length(3, b"bench")  # an id of the server's own would grow with their number
    if form == "raw":
        return head + of_length(5, described) + of_length(7, values)
    return head + of_length(5, described + of_length(5, of_length(7, values)))


def _measured(
    contender: Contender, workload: models.Workload, work: Path, options: argparse.Namespace
) -> dict[str, float]:
    """Form of message → requests per second."""
    port = free_port()
    folder = Path(tempfile.mkdtemp(dir=work, prefix=contender.name))
    more = ("--grpc-port", str(port + 1), *options.serve_options.split()) if contender.name == "lagar" else ()
    command = contender.command(Start(contender.bin, port, workload, folder, more))
    environment = {
        **contender.environment,
        "LAGAR_HOME": str(folder / "home"),
        "PATH": f"{contender.bin}:/usr/bin:/bin",
    }
    tree = ServerTree(command, environment, SERVER_CORE, folder / "log")
    try:
        tree.wait_for(f"http://127.0.0.1:{port}{contender.path}", workload.body(contender.kind, 1))
        rates = {}
        for form in FORMS:
            size = _check(port + 1, message(form), workload)
            rates[form] = _load(port + 1, message(form), size, work, options)
            _check(port + 1, message(form), workload)
        tree.check_core(SERVER_CORE)
        return rates
    finally:
        tree.stop()


def _check(port: int, asked: bytes, workload: models.Workload) -> int:
    """The size of the answer, which must have the right class."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        data: bytes = channel.unary_unary(METHOD)(asked, timeout=60, wait_for_ready=True)
    answer = ANSWER.decode(data)
    if answer.get("raw_output_contents"):
        (got,) = np.frombuffer(answer["raw_output_contents"][0], "<i8")
    else:
        (got,) = answer["outputs"][0]["contents"]["int64_contents"]
    if [int(got)] != workload.expected[1]:
        sys.exit(f"class {got} in place of {workload.expected[1]}")
    return len(data)


def _load(port: int, asked: bytes, size: int, work: Path, options: argparse.Namespace) -> float:
    body = work / "message"
    body.write_bytes(b"\0" + len(asked).to_bytes(4, "big") + asked)
    command = ["taskset", "-c", str(LOAD_CORE), "h2load", "-t", "1", "-c", str(options.connections)]
    command += ["-m", str(options.streams), "--duration", str(options.seconds)]
    command += ["-d", str(body), "-H", "content-type: application/grpc", "-H", "te: trailers"]
    said = subprocess.run(
        [*command, f"http://127.0.0.1:{port}{METHOD}"], capture_output=True, text=True, check=True
    ).stdout
    found = re.search(r"finished in [\d.]+m?s, ([\d.]+) req/s", said)
    counts = re.search(r"(\d+) succeeded, (\d+) failed, (\d+) errored", said)
    data = re.search(r"\((\d+)\) data", said)
    if found is None or counts is None or data is None or int(counts[2]) or int(counts[3]):
        sys.exit(f"h2load failed:\n{said}")
    mean = int(data[1]) / int(counts[1])
    if abs(mean - size - 5) > 0.2:  # the last ones may be cut
        sys.exit(f"answers of {mean:.1f} bytes under load, {size + 5} were expected: some calls have failed\n{said}")
    return float(found[1])


def _print(figures: dict[str, dict[str, list[float]]], options: argparse.Namespace) -> None:
    print(
        f"ModelInfer, {options.model}, one row, {options.connections} connections × {options.streams} calls; median of "
        f"{options.rounds} rounds of {options.seconds} s.\n"
    )
    print("| | " + " | ".join(FORMS) + " |\n|---|" + "---:|" * len(FORMS))
    medians: dict[str, dict[str, Any]] = {
        name: {form: statistics.median(rates) for form, rates in by_form.items()} for name, by_form in figures.items()
    }
    for name, by_form in medians.items():
        print(f"| {name} | " + " | ".join(f"{by_form[form]:,.0f}/s" for form in FORMS) + " |")
    for name in list(medians)[1:]:
        ratios = [medians["lagar"][form] / medians[name][form] for form in FORMS]
        print(f"| **lagar ÷ {name}** | " + " | ".join(f"**{ratio:.1f}×**" for ratio in ratios) + " |")


if __name__ == "__main__":
    main()
