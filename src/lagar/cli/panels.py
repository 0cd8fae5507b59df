"""A command with many options: they stand in panels, what matters most first."""

from __future__ import annotations

from typing import Any

import typer.core


class Panels(typer.core.TyperCommand):
    """A command whose arguments and options are listed by their `rich_help_panel`, without rich.

    Contexts and formatters are Any: newer typers carry click inside them, older ones import it.
    """

    def format_options(self, ctx: Any, formatter: Any) -> None:
        panels: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                shown = record[0].partition(" <")[0], record[1]  # newer typers say the type in Python's words
                panels.setdefault(getattr(parameter, "rich_help_panel", None) or "More", []).append(shown)
        for title, records in panels.items():
            with formatter.section(title):
                formatter.write_dl(records)
