"""`lagar models`, `versions`, `show`, `diff`: what is stored, and what is live."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from lagar.cli.output import say, write_json
from lagar.cli.place import Json, Key, To, place
from lagar.cli.screen import cut, scores, screen, shares, size, write_lines
from lagar.cli.verdict import serving
from lagar.registry.difference import Change

app = typer.Typer(add_completion=False, rich_markup_mode=None)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The model's name.")]


@app.command()
def models(to: To = None, key: Key = None, as_json: Json = False) -> None:
    """List the models, what is live of each, and its aliases."""
    with place(to, key) as verbs:
        cards = verbs.models()
    if as_json:
        write_json(cards)
        return
    if not cards:
        say("there is no model yet: `lagar push NAME PATH` makes one")
        return
    write_columns(
        ["MODEL", "LIVE", "SHADOW", "NEWEST", "VERSIONS", "ALIASES"],
        [
            (
                card.name,
                shares(card.live),
                card.shadow or "-",
                card.newest,
                str(card.versions),
                ", ".join(f"{alias}={version}" for alias, version in card.aliases.items()) or "-",
            )
            for card in cards
        ],
    )


@app.command()
def versions(name: Name, to: To = None, key: Key = None, as_json: Json = False) -> None:
    """List the versions of a model, the newest last."""
    with place(to, key) as verbs:
        cards = verbs.versions(name)
    if as_json:
        write_json(cards)
        return
    write_columns(
        ["VERSION", "TRAFFIC", "STATE", "ALIASES", "SIZE", "METRICS", "PUSHED", "BY", "NOTE"],
        [
            (
                card.version,
                f"{card.traffic} %" if card.traffic else "shadow" if card.shadow else "-",
                card.state,
                ", ".join(card.aliases) or "-",
                size(card.bytes),
                scores(card.metrics) or "-",
                card.created_at[:16].replace("T", " "),
                card.created_by,
                card.note or "-",
            )
            for card in cards
        ],
    )


@app.command()
def show(
    which: Annotated[str, typer.Argument(metavar="NAME[@VERSION]", help="A version or alias; default: the live one.")],
    to: To = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Show a version: signature, forms, golden rows, steps, lock, metrics, where it comes from, its traffic."""
    name, _, version = which.partition("@")
    with place(to, key) as verbs:
        report = verbs.version(name, version or None)
        history = () if as_json else verbs.history(name)
    if as_json:
        write_json(report)
    else:
        write_lines(screen(report, history))
        write_lines(serving(report.proof, report.manifest.memory_bytes) if report.proof is not None else ())


@app.command()
def diff(
    name: Name,
    before: Annotated[str, typer.Argument(metavar="V1", help="A version or alias.")],
    after: Annotated[str, typer.Argument(metavar="V2", help="Another one.")],
    to: To = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Show what the second version has differently: signature, metrics, libraries, files."""
    with place(to, key) as verbs:
        found = verbs.diff(name, before, after)
    if as_json:
        write_json(found)
        return
    if not found.changes:
        say(f"{name}@{found.a} and {name}@{found.b} differ in nothing")
        return
    write_columns(
        ["", "WHAT", found.a, found.b],
        [_row(change) for change in found.changes],
    )
    say("a request for one is a request for the other" if found.same_inputs else "they take different requests")


def _row(change: Change) -> tuple[str, ...]:
    if change.name == "memory_bytes":  # measured at each push, and never twice the same
        return change.part, "memory", *("-" if not value else size(value) for value in (change.a, change.b))
    return change.part, change.name, _words(change.a), _words(change.b)


def _words(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_words(item)}" for name, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def write_columns(headers: list[str], rows: list[tuple[str, ...]]) -> None:
    """A table no wider than the screen: columns that say nothing are left out, long cells are cut."""
    kept = [place for place in range(len(headers)) if any(row[place] not in ("-", "") for row in rows)] or [0]
    table = [[headers[place] for place in kept], *([row[place] for place in kept] for row in rows)]
    widths = [max(len(line[place]) for line in table) for place in range(len(kept))]
    soft = [at for at, place in enumerate(kept) if headers[place] == "NOTE"]
    while sum(widths) + 2 * (len(widths) - 1) > 100 and max(widths) > 8:
        # a note gives way first, then whatever is widest
        at = next((at for at in soft if widths[at] > 12), widths.index(max(widths)))
        widths[at] -= 1
    write_lines(
        "  ".join(f"{cut(cell, width):<{width}}" for cell, width in zip(line, widths, strict=True)) for line in table
    )
