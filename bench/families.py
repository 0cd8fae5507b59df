"""Every family of models, original against compiled: the table of docs/compile.md.

Each model is trained in a process of its own on synthetic data with a fixed seed, saved, and compiled as intake does.
Then the library's own call for probabilities, a score or a prediction, on rows in its own form, is timed in turns with
the same output of the form that serves, at 1, 32 and 1,000 rows; medians of the rounds. Everything runs on one core.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import machine
from family_models import FAMILIES, Family

SIZES = (1, 32, 1000)
ROUNDS = 7
SAMPLE_S = 2e-3
AIMS = {
    "forest": 300, "large forest": 60, "isolation": 100, "boosting": 20, "xgboost": 20, "catboost": 8, "frame": 200,
}  # fmt: skip
"""Group → how many times the library's speed one row should have."""
ALLOWED = 1.05
"""What the served form may take of the library's time at any size."""
BEGIN, END = "<!-- families: written by bench/families.py -->", "<!-- families: end -->"


def main() -> None:
    """Measure the families asked for and print the table; `--write` puts it between the markers of a page."""
    options = _options()
    if options.one:
        print(json.dumps(measured(next(family for family in FAMILIES if family.name == options.one), options.rounds)))
        return
    chosen = [family for family in FAMILIES if re.search(options.only, family.name, re.IGNORECASE)]
    results = []
    for family in chosen:
        print(f"{family.name} …", file=sys.stderr, flush=True)
        results.append(_in_a_process(family, options.rounds, options.core))
        if options.json:
            Path(options.json).write_text(json.dumps(results, indent=1) + "\n")
    table = f"{_where()}\n\n{markdown(results)}"
    if options.write:
        _write(Path(options.write), table)
    else:
        print(table)
    for line in missed(results):
        print(line, file=sys.stderr)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="a regular expression that the families' names match")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--core", type=int, default=0, help="the core that everything runs on")
    parser.add_argument("--json", help="file to keep the figures in")
    parser.add_argument("--write", help="page with the two markers between which the table goes: docs/compile.md")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    return parser.parse_args()


def _in_a_process(family: Family, rounds: int, core: int) -> dict[str, Any]:
    command = ["taskset", "-c", str(core), sys.executable, __file__, "--one", family.name, "--rounds", str(rounds)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "LOKY_MAX_CPU_COUNT": "1"}
    ran = subprocess.run(command, capture_output=True, text=True, env=environment)
    if ran.returncode:
        reason = ran.stderr.strip().splitlines()[-1:] or ["no words"]
        return {"family": family.name, "group": family.group, "error": f"ended with {ran.returncode}: {reason[0]}"}
    found: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return found


def measured(family: Family, rounds: int) -> dict[str, Any]:
    """What one family's compilation and times are; runs in the process of that family."""
    import joblib

    from lagar.forms.candidates import candidates
    from lagar.forms.compilation import compile_forms
    from lagar.forms.original import Original
    from lagar.intake.inspect import find_models
    from lagar.runtimes.form import open_folder

    warnings.simplefilter("ignore")
    model, rows = family.make()
    with tempfile.TemporaryDirectory(prefix="lagar-families-") as folder:
        path = Path(folder) / f"model{family.suffix}"
        joblib.dump(model, path)
        (source,) = find_models([path]).sources
        original = Original.open(source)
        forms = Path(folder) / "forms"
        proof = compile_forms(original, candidates(), forms)
        predictors: dict[str, Any] = {"original": original.predictor}
        for part in proof.served:
            if part.name not in predictors:
                predictors[part.name] = open_folder(forms / part.name, 1)
                predictors[part.name].bind(original.signature)
        output = _output(original.outputs)
        us = {}
        for size in SIZES:
            form = next(
                (part.name for part in proof.served if part.min_rows <= size <= (part.max_rows or size)), "original"
            )
            library = _library(model, rows, size, output)
            served = _served(predictors[form], original, rows, size, output)
            us[size] = (form, *_timed(library, served, rounds))
    return {
        "family": family.name,
        "group": family.group,
        "us": us,
        "rows": sum(proof.rows.values()),
        "refused": proof.refused,
        "jitter": proof.jitter,
        "words": proof.words,
        "attempts": [
            {
                "name": attempt.name,
                "outcome": attempt.outcome,
                "words": attempt.words,
                "worst": attempt.worst,
                "rows": attempt.rows,
                "criterion": attempt.criterion.words(),
            }
            for attempt in proof.attempts
        ],
    }


def _output(outputs: tuple[str, ...]) -> str:
    """What both are asked for: probabilities where there are some, else a score, else the prediction."""
    return next((name for name in ("predict_proba", "decision_function") if name in outputs), "predict")


def _library(model: Any, rows: Any, size: int, output: str) -> Callable[[], Any]:
    """The library's own call on rows in its own form."""
    block = _block(rows, size)
    if isinstance(model, tuple):  # a vectorizer and a model
        vectorizer, estimator = model
        return lambda: estimator.predict_proba(vectorizer.transform(block))
    call: Callable[[Any], Any] = getattr(model, output)
    return lambda: call(block)


def _block(rows: Any, size: int) -> Any:
    import numpy as np

    index = np.arange(size) % len(rows)
    if isinstance(rows, list):
        return [rows[place] for place in index]
    return rows.iloc[index].reset_index(drop=True) if hasattr(rows, "iloc") else np.ascontiguousarray(rows[index])


def _served(predictor: Any, original: Any, rows: Any, size: int, output: str) -> Callable[[], Any]:
    """The form's call on the same rows, as the protocols hand them over."""
    import numpy as np

    from lagar.protocols.columns import Plan
    from lagar.types import Rows

    block = _block(rows, size)
    if isinstance(block, np.ndarray):
        given = Rows(size, matrix=np.ascontiguousarray(block, dtype=np.float64))
    else:
        if hasattr(block, "to_dict"):
            records = block.to_dict(orient="records")
        else:
            records = [each if isinstance(each, dict) else {original.signature.names[0]: each} for each in block]
        given = Plan(original.signature).from_records(
            [{key: _json(value) for key, value in r.items()} for r in records]
        )
    return lambda: predictor.predict(given, (output,))


def _json(value: Any) -> Any:
    """A cell as JSON carries it: a missing number is null."""
    return None if isinstance(value, float) and math.isnan(value) else value


def _timed(library: Callable[[], Any], served: Callable[[], Any], rounds: int) -> tuple[float, float]:
    """µs per call of both, in turns: medians of the rounds."""
    both = (library, served)
    repeats = []
    for call in both:
        call()
        started = time.perf_counter()
        call()
        repeats.append(max(1, round(SAMPLE_S / max(time.perf_counter() - started, 1e-7))))
    samples: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for at, call in enumerate(both):
            started = time.perf_counter()
            for _ in range(repeats[at]):
                call()
            samples[at].append((time.perf_counter() - started) / repeats[at])
    return statistics.median(samples[0]) * 1e6, statistics.median(samples[1]) * 1e6


def markdown(results: list[dict[str, Any]]) -> str:
    """A row per family: times, what serves, what was proved; the reasons of the native ones below."""
    head = ["family", "library, µs at 1 · 32 · 1,000 rows", "Lagar, µs", "1 row", "served by", "proved on", "worst"]
    lines = [_row(head), _row(["---", "---:", "---:", "---:", "---", "---:", "---:"])]
    notes = []
    for result in results:
        if "error" in result:
            lines.append(_row([result["family"], "", "", "", result["error"], "", ""]))
            continue
        us = list(result["us"].values())
        names = list(dict.fromkeys(form for form, _, _ in us))
        attempts = {attempt["name"]: attempt for attempt in result["attempts"]}
        serving = [attempts[name] for name in names if name in attempts]
        lines.append(
            _row(
                [
                    result["family"],
                    " · ".join(_number(library) for _, library, _ in us),
                    " · ".join(_number(served) for _, _, served in us),
                    f"{us[0][1] / us[0][2]:.0f}×",
                    _forms(us),
                    f"{result['rows']:,} rows" if serving else "",
                    _worst(serving),
                ]
            )
        )
        if not serving:
            notes.append(f"* {result['family']}: {_reason(result)}")
    return "\n".join([*lines, *(["", "Served by the original, because:", "", *notes] if notes else [])])


def _worst(serving: list[dict[str, Any]]) -> str:
    """The largest difference of a number that the proof has seen; the bound where that goes by the number's size."""
    if not serving:
        return ""
    greatest = max(serving, key=lambda attempt: attempt["worst"])
    if not greatest["worst"]:
        return "the same bits"
    return f"≤ {greatest['criterion']}" if "of the number" in greatest["criterion"] else f"{greatest['worst']:.0e}"


def _forms(us: list[tuple[str, float, float]]) -> str:
    """Which form at which size: one name, or two with the sizes."""
    names = [name for name, _, _ in us]
    if len(set(names)) == 1:
        return names[0]
    return ", ".join(
        f"{name} ({' · '.join(f'{size:,}' for size, each in zip(SIZES, names, strict=True) if each == name)})"
        for name in dict.fromkeys(names)
    )


def _reason(result: dict[str, Any]) -> str:
    tried = [attempt for attempt in result["attempts"] if attempt["outcome"] != "left out"]
    if tried:
        return "; ".join(f"{attempt['name']} {attempt['outcome']}: {attempt['words']}" for attempt in tried)
    return str(result["words"]) or "; ".join(
        sorted({attempt["words"] for attempt in result["attempts"] if "not one of" not in attempt["words"]})
    )


def _where() -> str:
    """When, on what and with which libraries the figures were seen."""
    here = machine.facts()
    names = ("scikit-learn", "lightgbm", "xgboost-cpu", "catboost", "onnxruntime")
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in names)
    return (
        f"{datetime.now(UTC).date()}, one core of: {here['cpu']}, Linux {here['kernel']}, Python {here['python']}; "
        f"{versions}."
    )


def missed(results: list[dict[str, Any]]) -> list[str]:
    """A line per aim that a family misses."""
    lines = []
    for result in results:
        if "error" in result:
            lines.append(f"{result['family']}: {result['error']}")
            continue
        us = list(result["us"].values())
        aim, reached = AIMS.get(result["group"]), us[0][1] / us[0][2]
        if aim and reached < aim:
            lines.append(f"{result['family']}: {reached:.0f}× at one row, the aim is {aim}×")
        for size, (form, library, served) in zip(SIZES, us, strict=True):
            if served > ALLOWED * library:
                lines.append(f"{result['family']}: {form} takes {served / library:.2f} of the library's time at {size}")
    return lines


def _number(us: float) -> str:
    return f"{us:,.0f}" if us >= 20 else f"{us:.1f}"


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _write(page: Path, table: str) -> None:
    text = page.read_text()
    if BEGIN not in text or END not in text:
        sys.exit(f"{page} has no lines {BEGIN} and {END}")
    before, _, rest = text.partition(BEGIN)
    page.write_text(f"{before}{BEGIN}\n\n{table}\n\n{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    main()
