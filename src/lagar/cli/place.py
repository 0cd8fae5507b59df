"""Where a verb works: on this machine's home, or on the server that `--to` names."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from lagar import settings
from lagar.errors import Forbidden, SettingsError, Unauthorized

if TYPE_CHECKING:
    from lagar.client.clients import Client
    from lagar.client.local import Local

To = Annotated[str | None, typer.Option("--to", metavar="URL", help="The server to ask; default: this machine's home.")]
Key = Annotated[str | None, typer.Option("--key", metavar="KEY", help="An API key of that server; default: LAGAR_KEY.")]
Json = Annotated[bool, typer.Option("--json", help="Write JSON.")]
Note = Annotated[str, typer.Option("--note", metavar="TEXT", help="Why; it stays in the history.")]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Return once every live server answers with it.")]
Timeout = Annotated[float, typer.Option("--timeout", metavar="SECONDS", help="How long to wait.", min=0.1)]


@contextlib.contextmanager
def place(to: str | None, key: str | None) -> Iterator[Client | Local]:
    """The verbs of a server, or of the home; both have the same methods and give the same answers.

    A server that refuses the key is told of with the flag that gives another.
    """
    if to is not None:
        from lagar.client.clients import Client

        with Client(to, key=key) as client:
            try:
                yield client
            except (Unauthorized, Forbidden) as error:
                raise type(error)(f"{client.url}: {error.message}; {_next_key(key)}") from error
        return
    if key is not None:
        raise SettingsError("--key is for a server: name it with --to URL")
    from lagar.client.local import Local

    with Local() as home:
        yield home


def _next_key(key: str | None) -> str:
    if key is not None:
        return "that key came from --key"
    if settings.client_key() is not None:
        return "that key came from LAGAR_KEY, and --key KEY gives another"
    return "a key is given with --key KEY, or in LAGAR_KEY"
