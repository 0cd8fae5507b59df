"""The design page's twenty rules each name the function that holds them, and the function is there."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).parent.parent / "docs" / "design.md"
ROWS = re.findall(r"^\| (\d+) \| (.+?) \| (`lagar\..+?) \|$", PAGE.read_text(), re.MULTILINE)
NAMES = [name for _, _, cell in ROWS for name in re.findall(r"`(lagar[\w.]+)`", cell)]


def resolve(dotted: str) -> Any:
    """The object of a dotted name: the longest importable module, then attributes."""
    parts = dotted.split(".")
    for size in range(len(parts) - 1, 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:size]))
        except ModuleNotFoundError:
            continue
        for part in parts[size:]:
            found = getattr(found, part)
        return found
    raise AssertionError(f"no module holds {dotted}")


def test_there_are_twenty_rules_numbered_through() -> None:
    assert [int(number) for number, _, _ in ROWS] == list(range(1, 21))


@pytest.mark.parametrize("name", NAMES)
def test_the_function_that_holds_a_rule_exists(name: str) -> None:
    assert callable(resolve(name))
