"""`lagar compile`: build, prove and race the faster forms of a version again, on this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from lagar.cli.output import say, write_json
from lagar.cli.place import Json
from lagar.cli.screen import write_lines
from lagar.cli.verdict import table

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def compile_version(
    which: Annotated[str, typer.Argument(metavar="NAME[@VERSION]", help="A version or alias; default: the live one.")],
    as_json: Json = False,
) -> None:
    """Build, prove and race the faster forms of a version again, on this machine.

    The version itself never changes: what is proved here is kept in this machine's home, and a server that runs on it
    switches within a second or two, without losing a request. A form that is not the same model is never served.
    """
    from lagar.intake.compilation import compile_again
    from lagar.registry import answers
    from lagar.registry.releases import open_default

    name, _, ref = which.partition("@")
    with open_default() as releases:
        version = releases.get(name, ref or answers.usual_version(answers.model_card(releases, name)))
        say(f"{name}@{version.version}: building, proving and timing its forms …")
        proof = compile_again(releases, version)
    if as_json:
        write_json(proof)
        return
    write_lines(table(proof, version.manifest.memory_bytes))
