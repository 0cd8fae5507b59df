"""What the layout of a V2 request costs: binary against JSON, and a column an input against one matrix.

One worker on core 0, wrk on core 1, every pair in turns beside the same server, medians of the rounds. Before they are
measured, both bodies of a pair must be answered alike.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import load
from tree import ServerTree, free_port

LENGTH = "Inference-Header-Content-Length"
COLUMNS = 39
BINARY_COLUMNS = 13
CASES = ((1, 32), (32, 32), (1000, 1))
"""Rows of a request, connections."""


@dataclass(frozen=True)
class Request:
    """A body and what its headers say."""

    body: bytes
    headers: dict[str, str] = field(default_factory=lambda: load.JSON)


def main() -> None:
    """Measure and print both tables."""
    options = _options()
    with tempfile.TemporaryDirectory(prefix="lagar-tensors-") as folder:
        work = Path(folder)
        paths = {columns: _model(work, columns) for columns in (COLUMNS, BINARY_COLUMNS)}
        port = free_port()
        command = ["lagar", "serve", *map(str, paths.values()), "--port", str(port), "--workers", "1"]
        tree = ServerTree(
            [*command, *options.serve_options.split()],
            {"LAGAR_HOME": str(work / "home"), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
            load.SERVER_CORE,
            work / "log",
        )
        try:
            tree.wait_for(_url(port, COLUMNS), matrix(COLUMNS, 1).body)
            print("| requests/s | JSON | binary | binary ÷ JSON |\n| --- | ---: | ---: | ---: |")
            for rows, connections in CASES:
                pair = (matrix(BINARY_COLUMNS, rows), binary(BINARY_COLUMNS, rows))
                first, second = _in_turns(_url(port, BINARY_COLUMNS), pair, connections, options, work)
                print(f"| {rows}×{connections} | {first:,.0f} | {second:,.0f} | **{second / first:.2f}×** |")
            print(f"\n| requests/s | one matrix | {COLUMNS} inputs | time, inputs ÷ matrix |")
            print("| --- | ---: | ---: | ---: |")
            for rows, connections in CASES:
                pair = (matrix(COLUMNS, rows), inputs(COLUMNS, rows))
                first, second = _in_turns(_url(port, COLUMNS), pair, connections, options, work)
                print(f"| {rows}×{connections} | {first:,.0f} | {second:,.0f} | **{first / second:.2f}×** |")
            tree.check_core(load.SERVER_CORE)
        finally:
            tree.stop()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2, help="of load per body and round")
    parser.add_argument("--serve-options", default="--compile off", help="more for `lagar serve`")
    return parser.parse_args()


def _model(folder: Path, columns: int) -> Path:
    """A fitted logistic model of so many columns that are named."""
    import pandas as pd

    names = [f"c{number}" for number in range(columns)]
    table = pd.DataFrame(_rows(columns, 400), columns=names)
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(table, table["c0"] > 0)
    joblib.dump(model, folder / f"wide{columns}.joblib")
    return folder / f"wide{columns}.joblib"


def _rows(columns: int, rows: int) -> Any:
    return np.random.default_rng(0).normal(size=(rows, columns)).round(3)


def _url(port: int, columns: int) -> str:
    return f"http://127.0.0.1:{port}/v2/models/wide{columns}/infer"


def matrix(columns: int, rows: int) -> Request:
    """All columns as one tensor."""
    values = _rows(columns, rows)
    tensor = {"name": "predict", "shape": list(values.shape), "datatype": "FP64", "data": values.ravel().tolist()}
    return Request(json.dumps({"inputs": [tensor]}).encode())


def inputs(columns: int, rows: int) -> Request:
    """Each column as a tensor of its own."""
    values = _rows(columns, rows)
    tensors = [
        {"name": f"c{place}", "shape": [rows, 1], "datatype": "FP64", "data": values[:, place].tolist()}
        for place in range(columns)
    ]
    return Request(json.dumps({"inputs": tensors}).encode())


def binary(columns: int, rows: int) -> Request:
    """All columns as one tensor behind the JSON; the answer is binary too."""
    data = _rows(columns, rows).tobytes()
    tensor = {
        "name": "predict", "shape": [rows, columns], "datatype": "FP64", "parameters": {"binary_data_size": len(data)},
    }  # fmt: skip
    head = json.dumps({"parameters": {"binary_data_output": True}, "inputs": [tensor]}).encode()
    return Request(head + data, {"Content-Type": "application/octet-stream", LENGTH: str(len(head))})


def _in_turns(
    url: str, pair: tuple[Request, Request], connections: int, options: argparse.Namespace, work: Path
) -> tuple[float, float]:
    """Requests per second of both, medians."""
    first, second = (_answered(url, request) for request in pair)
    if first != second:
        sys.exit(f"{url} answers the bodies differently: {first[:5]} and {second[:5]}")
    rates: tuple[list[float], list[float]] = ([], [])
    for _ in range(options.rounds):
        for request, found in zip(pair, rates, strict=True):
            script = load.wrk_script(work, request.body, request.headers)
            found.append(load.wrk(url, script, connections, options.seconds).rps)
    return statistics.median(rates[0]), statistics.median(rates[1])


def _answered(url: str, request: Request) -> list[Any]:
    """The values of the first output."""
    asked = urllib.request.Request(url, data=request.body, headers=request.headers)
    with urllib.request.urlopen(asked, timeout=30) as answer:
        body, length = answer.read(), answer.headers.get(LENGTH)
    if length is None:
        return list(json.loads(body)["outputs"][0]["data"])
    head, data = json.loads(body[: int(length)]), body[int(length) :]
    output = head["outputs"][0]
    size = output["parameters"]["binary_data_size"]
    dtype = {"BOOL": np.bool_, "INT64": np.int64, "FP64": np.float64}[output["datatype"]]
    return list(np.frombuffer(data[:size], dtype).tolist())


if __name__ == "__main__":
    main()
