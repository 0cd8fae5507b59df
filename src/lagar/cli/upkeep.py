"""`lagar alias`, `retire`, `gc`: names for versions, and the end of their use."""

from __future__ import annotations

from typing import Annotated

import typer

from lagar.cli.models import Name, write_columns
from lagar.cli.output import say, write_json
from lagar.cli.place import Json, Key, To, place
from lagar.cli.screen import size
from lagar.errors import SettingsError

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def alias(
    name: Name,
    alias: Annotated[str, typer.Argument(metavar="ALIAS", help="The word, such as champion.")],
    version: Annotated[str | None, typer.Argument(metavar="VERSION", help="What it is to stand for.")] = None,
    drop: Annotated[bool, typer.Option("--drop", help="Forget the alias.")] = False,
    to: To = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Let a word stand for a version wherever a version may be named; it moves no traffic."""
    if drop is (version is not None):
        raise SettingsError(
            f"`lagar alias {name} {alias} VERSION` sets an alias, `lagar alias {name} {alias} --drop` forgets it"
        )
    with place(to, key) as verbs:
        left = verbs.drop_alias(name, alias) if version is None else verbs.alias(name, alias, version)
    if as_json:
        write_json(left)
        return
    if not left:
        say(f"{name} has no alias")
        return
    write_columns(["ALIAS", "VERSION"], list(left.items()))


@app.command()
def retire(
    name: Name,
    version: Annotated[str, typer.Argument(metavar="VERSION", help="A version or alias without traffic.")],
    undo: Annotated[bool, typer.Option("--undo", help="Bring it back.")] = False,
    to: To = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Take a version out of use: it is loaded and promoted no more; its record and its files stay."""
    with place(to, key) as verbs:
        card = verbs.retire(name, version, undo=undo)
    if as_json:
        write_json(card)
    else:
        say(f"{name}@{card.version} is {'in use again' if undo else 'retired'}")


@app.command()
def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    to: To = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Remove stored files that no version has needed for a day: of refused, cut and killed pushes."""
    with place(to, key) as verbs:
        found = verbs.gc(dry_run=dry_run)
    if as_json:
        write_json(found)
        return
    verb = "would go" if dry_run else "removed"
    say(f"{found.objects} stored files of {size(found.bytes)} and {found.folders} unused folders {verb}")
