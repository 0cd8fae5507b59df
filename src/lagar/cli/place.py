"""Where a verb works: on this machine's home, or on the server that `--to` names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from lagar.errors import SettingsError

if TYPE_CHECKING:
    from lagar.client.clients import Client
    from lagar.client.local import Local

To = Annotated[str | None, typer.Option("--to", metavar="URL", help="The server to ask; default: this machine's home.")]
Key = Annotated[str | None, typer.Option("--key", metavar="KEY", help="An API key of that server; default: LAGAR_KEY.")]
Json = Annotated[bool, typer.Option("--json", help="Write JSON.")]
Note = Annotated[str, typer.Option("--note", metavar="TEXT", help="Why; it stays in the history.")]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Return once every live server answers with it.")]
Timeout = Annotated[float, typer.Option("--timeout", metavar="SECONDS", help="How long to wait.", min=0.1)]


def place(to: str | None, key: str | None) -> Client | Local:
    """The verbs of a server, or of the home; both have the same methods and give the same answers."""
    if to is not None:
        from lagar.client.clients import Client

        return Client(to, key=key)
    if key is not None:
        raise SettingsError("--key is for a server: name it with --to URL")
    from lagar.client.local import Local

    return Local()
