"""`lagar keys`: API keys of the servers on this home."""

from __future__ import annotations

import re
import time
from typing import Annotated, Any

import typer

from lagar.cli.output import moment, say, write_json, write_table
from lagar.errors import SettingsError
from lagar.registry import catalog, keys
from lagar.registry.secret import SCOPES

app = typer.Typer(add_completion=False, rich_markup_mode=None, no_args_is_help=True)

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_LONGEST_S = 36500 * 86400
Json = Annotated[bool, typer.Option("--json", help="Write JSON.")]


@app.callback()
def group() -> None:
    """Create, list and revoke API keys.

    A server on this home asks for a key as soon as one exists; a running one takes changes within a second.
    """


@app.command()
def create(
    name: Annotated[str, typer.Option(help="What or whom the key is for.", metavar="NAME")],
    scope: Annotated[
        list[str],
        typer.Option(help=f"What it may do; once or more: {', '.join(SCOPES)}.", metavar="SCOPE"),
    ],
    expires: Annotated[
        str | None, typer.Option(help="For how long: 90d, 12h, 30m, 4w. Default: for ever.", metavar="DURATION")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a key and print it, once: only a digest of it is stored.

    infer: predictions. feedback: outcomes. read: pages, docs, metadata, metrics. admin: everything.
    """
    expires_in_s = None if expires is None else seconds(expires)
    with catalog.open_default() as place:
        key, text = keys.create_key(place, name, scope, expires_in_s=expires_in_s)
    if as_json:
        write_json({**_facts(key), "key": text})
        return
    typer.echo(text)
    say(
        f"key {key.id} for {key.name}: {', '.join(key.scopes)}, expires {moment(key.expires_at)}; it is not shown again"
    )


@app.command("list")
def list_(as_json: Json = False) -> None:
    """Show all keys, revoked and expired ones too; never their secrets."""
    with catalog.open_default() as place:
        found = keys.list_keys(place)
    if as_json:
        write_json([_facts(key) for key in found])
        return
    now = time.time()
    write_table(
        ["ID", "NAME", "SCOPES", "STATE", "CREATED", "EXPIRES"],
        [(k.id, k.name, ",".join(k.scopes), k.state(now), moment(k.created_at), moment(k.expires_at)) for k in found],
    )


@app.command()
def revoke(
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Ids as `lagar keys list` shows them.")],
    as_json: Json = False,
) -> None:
    """Make keys invalid: running servers refuse them within a second."""
    with catalog.open_default() as place:
        revoked = [keys.revoke_key(place, key_id) for key_id in ids]
    if as_json:
        write_json([_facts(key) for key in revoked])
        return
    for key in revoked:
        say(f"key {key.id} for {key.name} is revoked since {moment(key.revoked_at)}")


def seconds(duration: str) -> float:
    """Seconds of "90d", "12h", "30m", "45s", "4w"."""
    match = re.fullmatch(r"(\d{1,9})([smhdw])", duration.strip())
    if match is None or int(match[1]) == 0:
        raise SettingsError(f"--expires must be a number and a unit of s, m, h, d or w, like 90d, got {duration!r}")
    length_s = float(int(match[1]) * _UNITS_S[match[2]])
    if length_s > _LONGEST_S:
        raise SettingsError(
            f"--expires may be 36500d, a hundred years, at most, got {duration!r}; leave it out for never"
        )
    return length_s


def _facts(key: keys.Key) -> dict[str, Any]:
    """What is told of a key: not even its digest."""
    return {
        "id": key.id,
        "name": key.name,
        "scopes": key.scopes,
        "state": key.state(time.time()),
        "created_at": moment(key.created_at),
        "created_by": key.created_by,
        "expires_at": None if key.expires_at is None else moment(key.expires_at),
        "revoked_at": None if key.revoked_at is None else moment(key.revoked_at),
        "revoked_by": key.revoked_by,
    }
