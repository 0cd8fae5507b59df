"""The `lagar` command: finds the module of a command, imports only that one, and says every error in one line.

A command's module has an `app` (`typer.Typer`). It writes data to stdout and words to stderr, and raises LagarError for
what the person can mend; exit codes are in `exit_code`.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Sequence
from typing import Annotated, Any, Final

import typer
import typer.core
import typer.main

import lagar
from lagar.errors import (
    CatalogAway,
    DeadlineExceeded,
    LagarError,
    NotReady,
    Overloaded,
    SettingsError,
    StoreAway,
    Unreachable,
)

COMMANDS: Final = {
    "serve": "Serve model files over HTTP.",
    "predict": "Score a file with a model, without a server.",
    "push": "Check a model and keep it as a version.",
    "import": "Take models of other systems in.",
    "models": "List the models and what is live.",
    "versions": "List the versions of a model.",
    "show": "Show everything about a version.",
    "diff": "Show what differs between two versions.",
    "promote": "Give a version all the traffic.",
    "rollback": "Restore what was live before.",
    "traffic": "Share the traffic among versions.",
    "history": "Show who put what into production.",
    "alias": "Let a word stand for a version.",
    "retire": "Take a version out of use.",
    "environment": "Make the Python environment of a version.",
    "compile": "Build, prove and time the faster forms of a version again.",
    "gc": "Remove stored files that no version needs.",
    "keys": "Create, list and revoke API keys.",
    "config": "Show each setting, its value and where it came from.",
}
"""Command → its line in `lagar --help`, which must not cost the command's imports."""
MODULES: Final = {
    "versions": "models", "show": "models", "diff": "models", "promote": "traffic", "rollback": "traffic",
    "history": "traffic", "alias": "upkeep", "retire": "upkeep", "gc": "upkeep", "import": "imports",
}  # fmt: skip
"""Command → its module, where that has another name."""


_PASSING: Final = (CatalogAway, DeadlineExceeded, NotReady, Overloaded, StoreAway, Unreachable)
_SHARED: Final = {f"lagar.cli.{module}" for module in MODULES.values()}


class Commands(typer.core.TyperGroup):
    """A group whose commands are modules of `lagar.cli`.

    Contexts and formatters are Any: newer typers carry click inside them, older ones import it.
    """

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"lagar.cli.{MODULES.get(cmd_name, cmd_name)}")
        command: Any = typer.main.get_command(module.app)
        if module.__name__ in _SHARED:
            command = command.commands.get(cmd_name, command)  # else its commands are this one's
        command.name = cmd_name
        return command

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


app = typer.Typer(cls=Commands, add_completion=False, rich_markup_mode=None, no_args_is_help=True)


def _version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"lagar {lagar.__version__}\n")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """From a trained model file to a production service.

    Settings come from flags, then LAGAR_* variables, then server.toml in $LAGAR_HOME (default ~/.lagar);
    `lagar config` shows them.
    """


def run() -> None:
    """The console script."""
    sys.exit(main(sys.argv[1:]))


def main(arguments: Sequence[str]) -> int:
    """Run one command line; the exit code: 0, 1 for a failure, 2 for wrong usage or settings, 130 for Ctrl-C.

    3 says that the same command may succeed later: something is away, busy, or took too long.
    """
    try:
        result = typer.main.get_command(app)(args=list(arguments), prog_name="lagar", standalone_mode=False)
        sys.stdout.flush()
    except (KeyboardInterrupt, typer.Abort):
        return 128 + signal.SIGINT
    except BrokenPipeError:
        _abandon_stdout()
        return 128 + signal.SIGPIPE
    except Exception as error:
        if "--debug" in arguments:
            import traceback

            traceback.print_exc()
        bare = type(error).__name__ == "NoArgsIsHelpError"  # its message is the help of the command
        sys.stderr.write(f"{error}\n" if bare else f"lagar: {message_of(error)}\n")
        return exit_code(error)
    return result if isinstance(result, int) else 0


def exit_code(error: Exception) -> int:
    """2 for wrong usage and settings, 3 for what may pass by itself, 1 for everything else."""
    if isinstance(error, SettingsError):
        return 2
    if isinstance(error, _PASSING):
        return 3
    code = getattr(error, "exit_code", 1)  # typer's own errors carry theirs
    return code if isinstance(code, int) else 1


def message_of(error: Exception) -> str:
    """One line for the person at the terminal."""
    if isinstance(error, LagarError):
        return error.message
    if callable(describe := getattr(error, "format_message", None)):
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "lagar"
        return f"{_lower_first(str(describe()).rstrip('.'))}; see `{command} --help`"
    return f"{type(error).__name__}: {error} (this is a fault of Lagar; --debug shows where)"


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]


def _abandon_stdout() -> None:
    """Whoever read stdout has gone (`lagar … | head`): the interpreter must not try to flush into it at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
