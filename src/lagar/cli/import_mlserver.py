"""`lagar import mlserver`: every model of an MLServer folder becomes a version."""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from lagar import settings
from lagar.cli.output import say, write_json
from lagar.cli.place import Json, Key, To, place
from lagar.cli.push import Steps
from lagar.errors import CatalogAway, LagarError, SetupError, StoreAway, Unreachable


def mlserver(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A folder with model-settings.json at any depth.")],
    compile: Annotated[
        str | None, typer.Option(metavar="wait|background|off", help="When their faster forms are built [background].")
    ] = "background",
    trust: Annotated[bool, typer.Option("--trust", help="Open pickles that name code outside the allow-list.")] = False,
    to: To = None,
    key: Key = None,
    as_json: Json = False,
) -> int:
    """Take every model of an MLServer folder in, each as the version that its settings name.

    \b
    lagar import mlserver models/
    lagar import mlserver models/ --to https://models.example.com

    A model that is refused is named, the others are taken in, and the command ends with 1. No traffic moves:
    `lagar promote` does that.
    """
    from lagar.intake import inspect, mlserver_server
    from lagar.intake import mlserver as folders

    root = folder.expanduser().absolute()
    if not root.is_dir() or not mlserver_server.is_folder(root):
        raise SetupError(f"{folder} is no folder of MLServer's: there is no {folders.NAME} in it or below it")
    places, told = inspect.survey([root])
    for line in told:
        say(line)
    mode = None if compile is None else settings.compile_mode(compile, "--compile")
    taken: list[Any] = []
    refused = 0
    with place(to, key) as verbs, tempfile.TemporaryDirectory(prefix="lagar-import-") as into:
        for one in places:
            try:
                if one.refusal:
                    raise SetupError(one.refusal)
                settled = folders.read(one.path, one.root or root)
                alone = folders.gather(settled, one.root or root, Path(into) / str(len(taken) + refused))
                with Steps(settled.name, one.path.name, quiet=True):
                    report = verbs.push(
                        settled.name,
                        alone,
                        version=settled.facts.version or None,
                        note=f"imported from {one.path.name}",
                        compile=mode,
                        trust=trust,
                    )
            except (Unreachable, CatalogAway, StoreAway):
                raise
            except SetupError as error:
                refused += 1
                say(_shown(error, into))
                continue
            taken.append(report)
            if not as_json:
                sys.stdout.write(f"{settled.name}@{report.card.version}\n")
                sys.stdout.flush()
    if as_json:
        write_json(taken)
    return 1 if refused else 0


def _shown(error: LagarError, folder: str) -> str:
    """Without the places of the copies, which are gone by now."""
    return re.sub(rf"{re.escape(folder)}/\d+/", "", error.message)
