"""What a caller gives in Python, as the verbs take it: a version 3 is "3", and what cannot be meant is refused."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any, TypeVar

from lagar.errors import SettingsError
from lagar.settings import Compile, compile_mode

T = TypeVar("T")

Label = str | int
"""A version or an alias; a whole number stands for its text."""


def word(given: Any, what: str) -> str:
    """A name, a label or a note; raises SettingsError for what is neither a text nor a whole number."""
    if isinstance(given, str):
        return given
    if isinstance(given, Integral) and not isinstance(given, bool):
        return str(int(given))
    raise SettingsError(f"{what} must be a text, or a whole number for its text, got {_shown(given)}")


def place(given: Any, what: str) -> Path:
    """A file or a folder; raises SettingsError for what is no path."""
    if isinstance(given, (str, os.PathLike)):
        return Path(given)
    raise SettingsError(f"{what} must be the path of a file or a folder, got {_shown(given)}")


def maybe(read: Callable[[Any, str], T], given: Any, what: str) -> T | None:
    """What `read` makes of it; None for None."""
    return None if given is None else read(given, what)


def places(given: Any, what: str) -> tuple[Path, ...]:
    """Several paths; one by itself, which Python would take for its characters, is one path."""
    if isinstance(given, (str, os.PathLike)):
        return (place(given, what),)
    if not isinstance(given, Iterable):
        raise SettingsError(f"{what} must be a path or several, got {_shown(given)}")
    return tuple(place(one, what) for one in given)


def scores(given: Any) -> dict[str, float]:
    """Metrics by name; raises SettingsError for what is no finite number. NumPy's numbers are numbers."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise SettingsError(f'metrics must be numbers by name, like {{"accuracy": 0.98}}, got {_shown(given)}')
    found: dict[str, float] = {}
    for name, value in given.items():
        text = word(name, "a metric's name").strip()
        if not text or "=" in text:
            raise SettingsError(f"a metric's name must be a text without '=', got {text!r}")
        if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
            raise SettingsError(f"metric {text!r} must be a finite number, such as 0.98, got {_shown(value)}")
        found[text] = float(value)
    return found


def shares(given: Any) -> dict[str, int]:
    """Percent by version; raises SettingsError where a version or a share is no such thing."""
    if not isinstance(given, Mapping):
        raise SettingsError(f'weights must be percent by version, like {{"1": 90, "2": 10}}, got {_shown(given)}')
    found: dict[str, int] = {}
    for label, share in given.items():
        version = word(label, "a version")
        if isinstance(share, bool) or not isinstance(share, Integral):
            raise SettingsError(f"the weight of version {version} must be a whole percentage, got {_shown(share)}")
        if version in found:
            raise SettingsError(f"the weights name version {version} twice")
        found[version] = int(share)
    return found


def yes(given: Any, what: str) -> bool:
    """True or False: a text such as "no" would be true."""
    if isinstance(given, bool):
        return given
    raise SettingsError(f"{what} must be True or False, got {_shown(given)}")


def mode(given: Any, what: str) -> Compile:
    """When faster forms are built."""
    return compile_mode(word(given, what), what)


def _shown(given: Any) -> str:
    return repr(given)[:80]
