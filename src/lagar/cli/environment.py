"""`lagar environment`: the Python environment of a version, made on this machine where it is not there yet."""

from __future__ import annotations

import sys
import time
from typing import Annotated

import msgspec
import typer

from lagar.cli.output import say, write_json
from lagar.cli.place import Json
from lagar.errors import SettingsError

app = typer.Typer(add_completion=False, rich_markup_mode=None)


class Place(msgspec.Struct, frozen=True):
    """Where a version runs on this machine."""

    version: str
    python: str | None
    """The interpreter; None for this Lagar's own environment."""
    requirements: tuple[str, ...]
    unmet: tuple[str, ...]
    """What of them this Lagar's own environment does not meet."""


@app.command()
def environment(
    which: Annotated[str, typer.Argument(metavar="NAME@VERSION", help="A version or an alias of this home.")],
    as_json: Json = False,
) -> None:
    """Make the environment of a version on this machine, and say where it is.

    A push makes it where it runs, and a server where it is missing; this makes it beforehand. A version whose
    requirements this environment meets needs none. `lagar gc` removes one that has not been used for a day.
    """
    name, _, ref = which.partition("@")
    if not name or not ref:
        raise SettingsError(f"name the version: lagar environment NAME@VERSION, got {which!r}")

    from lagar.intake import environment as making
    from lagar.registry.releases import open_default

    with open_default() as releases:
        manifest = releases.get(name, ref).manifest
        label = f"{manifest.model}@{manifest.version}"
        unmet = making.missing(manifest.requirements)
        python = None
        if unmet:
            began = time.monotonic()
            say(f"{label} needs {', '.join(unmet)}")
            python = making.make(releases.environments, manifest, releases.lock(manifest))
            say(f"its environment is there after {time.monotonic() - began:.1f} s")
    if as_json:
        write_json(Place(label, python, manifest.requirements, unmet))
    elif python is None:
        say(f"{label} runs in this environment, which has what it was checked with")
    else:
        sys.stdout.write(f"{python}\n")  # whole, however long: it is there to be run
