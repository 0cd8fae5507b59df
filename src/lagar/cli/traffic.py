"""`lagar promote`, `rollback`, `traffic`, `history`: which version answers, and who said so."""

from __future__ import annotations

from typing import Annotated

import typer

from lagar.cli.models import Name, write_columns
from lagar.cli.output import say, write_json
from lagar.cli.place import Json, Key, Note, Timeout, To, Wait, place
from lagar.cli.screen import shares
from lagar.errors import SettingsError
from lagar.registry.answers import GenerationCard

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def promote(
    name: Name,
    version: Annotated[str, typer.Argument(metavar="VERSION", help="A version or alias.")],
    note: Note = "",
    wait: Wait = True,
    timeout: Timeout = 60.0,
    to: To = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Give a version all the traffic of its model.

    Every live server loads and checks it first; only then all switch, and no request is lost. If one cannot, nothing
    switches, and the command says why.
    """
    with place(to, key) as verbs:
        generation = verbs.promote(name, version, note=note, wait=wait, timeout=timeout)
    _tell(generation, as_json=as_json)


@app.command()
def rollback(
    name: Name,
    note: Note = "",
    wait: Wait = True,
    timeout: Timeout = 60.0,
    to: To = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Restore what was live before, weights and shadow included; once more, what was live before that."""
    with place(to, key) as verbs:
        generation = verbs.rollback(name, note=note, wait=wait, timeout=timeout)
    _tell(generation, as_json=as_json)


@app.command()
def traffic(
    name: Name,
    weights: Annotated[list[str], typer.Argument(metavar="VERSION=PERCENT", help="Versions or aliases; together 100.")],
    shadow: Annotated[
        str | None, typer.Option(metavar="VERSION", help="A version that gets every request too and answers none.")
    ] = None,
    note: Note = "",
    wait: Wait = True,
    timeout: Timeout = 60.0,
    to: To = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Share the traffic of a model among versions: lagar traffic churn v1.1.0=90 v1.2.0=10."""
    shared = dict(map(weight_of, weights))
    if len(shared) < len(weights):
        raise SettingsError(f"each version once, got {' '.join(weights)}")
    with place(to, key) as verbs:
        generation = verbs.traffic(name, shared, shadow=shadow, note=note, wait=wait, timeout=timeout)
    _tell(generation, as_json=as_json)


@app.command()
def history(name: Name, to: To = None, key: Key = None, as_json: Json = False) -> None:
    """Show who put what into production, when and from where, the newest first."""
    with place(to, key) as verbs:
        cards = verbs.history(name)
    if as_json:
        write_json(cards)
        return
    if not cards:
        say(f"nothing of {name} was ever live: `lagar promote {name} VERSION`")
        return
    write_columns(
        ["WHEN", "WHAT", "LIVE", "SHADOW", "BY", "FROM", "NOTE"],
        [
            (card.at, card.action, shares(card.weights), card.shadow or "-", card.by, card.host, card.note or "-")
            for card in cards
        ],
    )


def weight_of(text: str) -> tuple[str, int]:
    """The version and the percentage of "v1.2.0=10"."""
    version, _, share = text.rpartition("=")
    if not version or not share.isascii() or not share.isdigit():
        raise SettingsError(f"traffic is VERSION=PERCENT, like v1.2.0=10, got {text!r}")
    return version, int(share)


def _tell(generation: GenerationCard, *, as_json: bool) -> None:
    if as_json:
        write_json(generation)
        return
    state = "live" if generation.state == "committed" else "being prepared: `lagar models` shows when that is live"
    shadow = f", shadow {generation.shadow}" if generation.shadow else ""
    verb = "is" if len(generation.weights) == 1 else "are"
    say(f"{generation.model}: {shares(generation.weights)}{shadow} {verb} {state} (generation {generation.number})")
