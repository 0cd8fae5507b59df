"""The figures of a run as Markdown, ready for docs/performance.md."""

from __future__ import annotations

import statistics
from typing import Any


def markdown(report: dict[str, Any]) -> str:
    """Machine, then per model: requests per second, latency, ratios; medians of the rounds."""
    machine = report["machine"]
    lines = [
        f"{machine['cpu']}, {machine['cores']} cores, Linux {machine['kernel']}, Python {machine['python']}, "
        f"scikit-learn {report['scikit-learn']}; load before the run {machine['load_before']}. "
        + ", ".join(f"{name} {version}" for name, version in report["versions"].items())
        + f". Median of {report['rounds']} rounds of {report['seconds']} s; cases are rows per request × connections.",
    ]
    for model, by_contender in report["results"].items():
        lines += ["", f"### {model}", "", *_table(by_contender)]
    return "\n".join(lines)


def _table(by_contender: dict[str, dict[str, list[Any]]]) -> list[str]:
    cases = [key for key in next(iter(by_contender.values())) if "x" in key]
    head = ["", *[case.replace("x", "×") for case in cases], "ready", "memory"]
    lines = [_row(head), _row(["---", *["---:"] * (len(head) - 1)])]
    for name, figures in by_contender.items():
        cells = [f"{_median(figures, case, 'rps'):,.0f}/s" for case in cases]
        ready, memory = statistics.median(figures["ready_s"]), statistics.median(figures["pss_mb"])
        lines.append(_row([name, *cells, f"{ready:.2f} s", f"{memory:.0f} MB"]))
        lines.append(_row([f"{name}, p50 / p99 ms", *[_latency(figures, case) for case in cases], "", ""]))
    subject = next((name for name in by_contender if name.startswith("lagar")), None)
    if subject is not None:
        for name, figures in by_contender.items():
            if name != subject:
                ratios = [_median(by_contender[subject], case, "rps") / _median(figures, case, "rps") for case in cases]
                lines.append(_row([f"**lagar ÷ {name}**", *[f"**{ratio:.1f}×**" for ratio in ratios], "", ""]))
    return lines


def _latency(figures: dict[str, list[Any]], case: str) -> str:
    return f"{_median(figures, case, 'p50_ms'):.2f} / {_median(figures, case, 'p99_ms'):.2f}"


def _median(figures: dict[str, list[Any]], case: str, key: str) -> float:
    return statistics.median(figure[key] for figure in figures[case])


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
