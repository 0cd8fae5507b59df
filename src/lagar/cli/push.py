"""`lagar push`: a model file or folder becomes a version."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated

import typer

from lagar import settings
from lagar.cli.output import say, write_json
from lagar.cli.place import Json, Key, To, place
from lagar.cli.screen import cut, summary, write_lines
from lagar.cli.verdict import table
from lagar.errors import SettingsError

if TYPE_CHECKING:
    from lagar.registry.answers import VersionReport

app = typer.Typer(add_completion=False, rich_markup_mode=None)

STEPS = ("scan", "load", "signature", "prove", "lock", "profile", "commit")
_LAST = ("profile", "commit")
"""From here on the end may have come before Ctrl-C did: a server commits by itself."""


@app.command()
def push(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The model's name.")],
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A model file, a folder or an archive of one.")],
    version: Annotated[
        str | None, typer.Option(metavar="LABEL", help="Any label, such as v1.2.0; default: the next number.")
    ] = None,
    example: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Rows it must answer: names, types, ranges, golden rows.")
    ] = None,
    training_data: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What it was trained on: the reference for monitoring.")
    ] = None,
    code: Annotated[
        list[Path] | None, typer.Option(metavar="PATH", help="A .py file or folder that it needs; may be repeated.")
    ] = None,
    metric: Annotated[
        list[str] | None, typer.Option(metavar="NAME=NUMBER", help="How good it is; may be repeated.")
    ] = None,
    alias: Annotated[str | None, typer.Option(metavar="NAME", help="Let this alias stand for it.")] = None,
    note: Annotated[str, typer.Option(metavar="TEXT", help="What is to be remembered of it.")] = "",
    requirements: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="requirements.txt, Pipfile, pyproject.toml, conda.yaml or python_env.yaml."),
    ] = None,
    compile: Annotated[
        str | None,
        typer.Option(
            metavar="wait|background|off",
            help="Build and prove its faster forms before it is committed [wait], leave that to the servers, or none.",
        ),
    ] = None,
    trust: Annotated[bool, typer.Option("--trust", help="Open pickles that name code outside the allow-list.")] = False,
    to: To = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Check a model and keep it as a version that never changes.

    \b
    lagar push churn model.joblib --example customers.csv
    lagar push churn model.joblib --version v1.2.0 --metric auc=0.91 --to https://models.example.com

    A push moves no traffic: `lagar promote` does. Of a refused one nothing is kept but a line of the audit.
    """
    metrics = metrics_of(metric or ())
    with Steps(name, path.name, quiet=as_json) as steps, place(to, key) as verbs:
        report = verbs.push(
            name,
            path,
            version=version,
            example=example,
            training_data=training_data,
            code=code or (),
            metrics=metrics,
            alias=alias,
            note=note,
            requirements=requirements,
            compile=None if compile is None else settings.compile_mode(compile, "--compile"),
            trust=trust,
            on_step=steps.heard,
        )
    tell(report, as_json=as_json)


def tell(report: VersionReport, *, as_json: bool) -> None:
    """Show a version that was pushed, and the next step."""
    if as_json:
        write_json(report)
        return
    write_lines(summary(report))
    proof = report.proof or report.manifest.proof
    if proof is not None:
        write_lines(table(proof, report.manifest.memory_bytes))
    name, version = report.card.model, report.card.version
    if not report.card.traffic:
        say(f"{name}@{version} has no traffic yet: `lagar promote {name} {version}`")


def metrics_of(texts: Sequence[str]) -> dict[str, float]:
    """Metrics by name; raises SettingsError for one that is given twice: nobody knows which is meant."""
    found: dict[str, float] = {}
    for text in texts:
        name, number = metric_of(text)
        if name in found:
            raise SettingsError(f"--metric {name} is given twice: {found[name]:g} and {number:g}; say it once")
        found[name] = number
    return found


def metric_of(text: str) -> tuple[str, float]:
    """The name and the number of "accuracy=0.98"."""
    name, _, value = text.partition("=")
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not name.strip() or not math.isfinite(number):
        raise SettingsError(f"--metric must be NAME=NUMBER, like accuracy=0.98, got {text!r}")
    return name.strip(), number


class Steps:
    """The steps of a push on stderr: as they are done, and on a terminal the one that runs."""

    def __init__(self, name: str, file: str, *, quiet: bool) -> None:
        self._quiet = quiet
        self._live = sys.stderr.isatty() and not settings.no_colour() and not quiet
        self._name = name
        self._what = f"{name} from {file}"
        self._began = time.monotonic()
        self._step = ""
        """The last one that was heard of."""

    def heard(self, step: str, words: str) -> None:
        """A step begins (no words), or is done, and `words` say what it found."""
        self._step = step
        if self._quiet:
            return
        now = time.monotonic()
        if self._live:
            sys.stderr.write("\r\x1b[K")
        if words:
            line = f"{step:<13}{words}"
            took = f" {now - self._began:5.1f} s"
            sys.stderr.write(f"lagar: {cut(line, 84):<84}{took}\n" if self._live else f"lagar: {line}\n")
        else:
            self._began = now
            if self._live:
                sys.stderr.write(f"lagar: {step:<13}…  ({self._place(step)})")
        sys.stderr.flush()

    def _place(self, step: str) -> str:
        return f"step {STEPS.index(step) + 1} of {len(STEPS)}" if step in STEPS else "another step"

    def __enter__(self) -> Steps:
        if self._live:
            sys.stderr.write(f"lagar: {self._what}\n")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
        if kind is KeyboardInterrupt:
            say(self._interrupted())

    def _interrupted(self) -> str:
        """What Ctrl-C leaves: nothing, unless the version was just being committed."""
        if self._step in _LAST:
            return f"interrupted at {self._step}: `lagar versions {self._name}` shows whether it became a version"
        return f"interrupted{f' at {self._step}' if self._step else ''}: nothing of it was kept"
