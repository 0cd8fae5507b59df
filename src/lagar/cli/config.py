"""`lagar config`: each setting, its value, and where it came from."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import typer

from lagar import settings
from lagar.cli.output import write_json, write_table

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def config(
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON.")] = False,
) -> None:
    """Show each setting of a server, its value, and where it came from.

    A flag of `lagar serve` comes before its LAGAR_* variable, that before server.toml in the home, that before the
    default. Unknown names are refused.
    """
    loaded = settings.load()
    rows = loaded.table()
    if as_json:
        home = {"path": str(loaded.home), "origin": loaded.home_origin}
        write_json({"home": home, "settings": [msgspec.to_builtins(row) for row in rows]})
    else:
        write_table(
            ["SETTING", "VALUE", "FROM"],
            [("home", str(loaded.home), loaded.home_origin), *((r.name, _shown(r.value), r.origin) for r in rows)],
        )


def _shown(value: Any) -> str:
    if value is None or value in ("", ()):
        return "-"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
