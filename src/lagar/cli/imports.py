"""`lagar import`: models of other systems become versions."""

from __future__ import annotations

import typer

from lagar.cli.import_mlflow import mlflow
from lagar.cli.import_mlserver import mlserver

app = typer.Typer(add_completion=False, rich_markup_mode=None, no_args_is_help=True)


@app.callback()
def group() -> None:
    """Take models of other systems in, each as a version that never changes."""


app.command()(mlflow)
app.command()(mlserver)
