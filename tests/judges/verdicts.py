"""What the judges share: a judge tries one feature after the other with a client of others, and prints what it found.

A judge is a script that runs in an environment of its own, without Lagar: `python triton_http.py CASE.json` prints
`[[protocol, feature, ""], …]`, with what went wrong in place of the empty text.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

Check = Callable[[Any], Any]


class Judge:
    """The features of one script, in the order in which they are tried."""

    def __init__(self, protocol: str) -> None:
        self._protocol = protocol
        self._checks: list[tuple[str, str, Check]] = []

    def feature(self, name: str, protocol: str = "") -> Callable[[Check], Check]:
        """Register a function that takes the case and raises where the feature is not as the client wants it."""

        def register(check: Check) -> Check:
            self._checks.append((protocol or self._protocol, name, check))
            return check

        return register

    def main(self) -> None:
        """Try everything on the case in the file that the command line names."""
        case = Case(json.loads(Path(sys.argv[1]).read_text()))
        print(json.dumps([[protocol, name, verdict(check, case)] for protocol, name, check in self._checks]))


class Case(dict[str, Any]):
    """Where the servers are, and which rows get which answers; `case.wine["rows"]` is `case["wine"]["rows"]`."""

    __getattr__ = dict.__getitem__


def verdict(check: Check, case: Case) -> str:
    """Empty where a check passes, else where it failed and how."""
    try:
        result = check(case)
        if inspect.isawaitable(result):
            asyncio.run(_ended(result))
    except BaseException as error:
        at = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {error} ({Path(at.filename).name}:{at.lineno}: {at.line})"[:1000]
    return ""


async def _ended(awaitable: Any) -> None:
    async with asyncio.timeout(120):
        await awaitable


def refusal(kind: type[BaseException], call: Callable[[], Any]) -> Any:
    """The error of a call that must be refused."""
    try:
        answer = call()
    except kind as error:
        return error
    raise AssertionError(f"it was not refused: {answer!r}")
