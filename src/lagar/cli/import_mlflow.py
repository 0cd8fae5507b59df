"""`lagar import mlflow`: a model of a tracking server, its registry or a folder becomes a version."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lagar import settings
from lagar.cli.place import Json, Key, To, place
from lagar.cli.push import Steps, tell
from lagar.errors import SettingsError


def mlflow(
    uri: Annotated[
        str, typer.Argument(metavar="URI", help="models:/NAME/VERSION, models:/NAME@ALIAS, runs:/RUN/PATH or a folder.")
    ],
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="The model's name here [that of its registry].")
    ] = None,
    version: Annotated[
        str | None, typer.Option(metavar="LABEL", help="Its label here [the registry's number, else the next one].")
    ] = None,
    tracking_uri: Annotated[
        str | None, typer.Option(metavar="URL", help="The tracking server [MLFLOW_TRACKING_URI].")
    ] = None,
    example: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Rows it must answer [the input example that was logged].")
    ] = None,
    alias: Annotated[str | None, typer.Option(metavar="NAME", help="Let this alias stand for it.")] = None,
    requirements: Annotated[Path | None, typer.Option(metavar="FILE", help="What its environment must hold.")] = None,
    compile: Annotated[
        str | None, typer.Option(metavar="wait|background|off", help="When its faster forms are built [wait].")
    ] = None,
    trust: Annotated[
        bool, typer.Option("--trust", help="Run the code of a model without a native flavour, and of any pickle.")
    ] = False,
    to: To = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Take a model of MLflow in, from a tracking server, its registry or a folder.

    \b
    lagar import mlflow models:/churn/3 --tracking-uri http://mlflow.example.com:5000
    lagar import mlflow runs:/5f2…/model --name churn

    It is checked as `lagar push` checks a folder, and moves no traffic: `lagar promote` does.
    """
    from lagar.intake.tracking import fetched

    with fetched(uri, tracking_uri) as found:
        model = name or found.name
        if not model:
            raise SettingsError(f"{uri} says no name for the model: give one with --name")
        with Steps(model, uri, quiet=as_json) as steps, place(to, key) as verbs:
            report = verbs.push(
                model,
                found.folder,
                version=version or found.version or None,
                example=example,
                alias=alias,
                note=f"imported from {found.source}",
                requirements=requirements,
                compile=None if compile is None else settings.compile_mode(compile, "--compile"),
                trust=trust,
                on_step=steps.heard,
            )
    tell(report, as_json=as_json)
