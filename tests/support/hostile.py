"""Thirty pickles that run code when they are opened, each in another way."""

from __future__ import annotations

from itertools import cycle
from pathlib import Path

from test_scan import BY_HAND, SAVED, WRAPPED, evil


def thirty(marker: Path) -> dict[str, bytes]:
    """Name of a model file → its bytes; each would make the marker."""
    places, saved = list(WRAPPED), cycle(SAVED)
    ways = [SAVED[next(saved)](WRAPPED[place](evil(marker))) for place in (*places, *places[: 18 - len(places)])]
    ways += [write(f"touch {marker}"[-250:]) for write in BY_HAND.values()]
    assert len(ways) == 30
    return {f"hostile-{number}.pkl": data for number, data in enumerate(ways)}
