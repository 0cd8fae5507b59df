"""Fields of MLServer's two settings files, from the file or from `MLSERVER_*` variables, as loosely typed as there.

The file comes before the variable. A field that Lagar cannot honour is refused by its name with what to do instead.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from lagar.errors import SetupError

_TRUE: Final = {"true", "1", "yes", "on", "t", "y"}
_FALSE: Final = {"false", "0", "no", "off", "f", "n"}


class Fields:
    """The fields of one settings file, over the variables that stand for the same fields."""

    def __init__(self, path: Path, content: Mapping[str, Any], variables: Mapping[str, str], prefix: str) -> None:
        """`variables` have lower-case names; those of these fields begin with `prefix`."""
        self._path = path
        self._content = content
        self._variables = variables
        self._prefix = prefix

    def given(self, name: str) -> bool:
        """Whether the field is said anywhere, null aside."""
        return self._raw(name)[0] is not None

    def origin(self, name: str) -> str:
        """Where a field was said: a file or a variable."""
        return self._raw(name)[1]

    def _raw(self, name: str) -> tuple[Any, str]:
        value = self._content.get(name)
        if value is not None:
            return value, str(self._path)
        text = self._variables.get(self._prefix + name)
        return text, (self._prefix + name).upper()

    def text(self, name: str, default: str = "") -> str:
        """A text; numbers are taken as they are written."""
        value, origin = self._raw(name)
        if value is None:
            return default
        if isinstance(value, (dict, list, bool)):
            raise self._wrong(name, origin, "a text", value)
        return str(value)

    def boolean(self, name: str, default: bool = False) -> bool:
        """True and false, and the words for them."""
        value, origin = self._raw(name)
        if value is None:
            return default
        word = str(value).strip().lower()
        if word in _TRUE or word in _FALSE:
            return word in _TRUE
        raise self._wrong(name, origin, "true or false", value)

    def whole(self, name: str, default: int = 0) -> int:
        number = self.number(name, default)
        if not number.is_integer():
            raise self._wrong(name, self.origin(name), "a whole number", self._raw(name)[0])
        return int(number)

    def number(self, name: str, default: float = 0.0) -> float:
        """A number that is not negative."""
        value, origin = self._raw(name)
        if value is None:
            return float(default)
        try:
            number = math.nan if isinstance(value, (bool, dict, list)) else float(value)
        except ValueError:
            number = math.nan
        if not 0 <= number < math.inf:
            raise self._wrong(name, origin, "a number of at least 0", value)
        return number

    def listed(self, name: str) -> list[Any]:
        value = self._structured(name, list, "a list")
        return [] if value is None else list(value)

    def table(self, name: str) -> dict[str, Any]:
        value = self._structured(name, dict, "an object")
        return {} if value is None else dict(value)

    def _structured(self, name: str, kind: type, wanted: str) -> Any:
        value, origin = self._raw(name)
        if isinstance(value, str):  # a variable holds JSON
            try:
                value = json.loads(value)
            except ValueError:
                raise self._wrong(name, origin, f"{wanted}, as JSON", value) from None
        if value is not None and not isinstance(value, kind):
            raise self._wrong(name, origin, wanted, value)
        return value

    def refuse(self, name: str, why: str) -> None:
        """Raise SetupError where the field says something: not null, false, 0 or empty."""
        if self._means_something(name):
            value, origin = self._raw(name)
            raise SetupError(f"{origin}: {name} = {_shown(value)} is not honoured: {why}")

    def silent(self, reasons: Mapping[str, str]) -> list[str]:
        """A line for each of these fields that says something in MLServer and nothing here."""
        return [
            f"{self.origin(name)}: {name} = {_shown(self._raw(name)[0])} says nothing here: {why}"
            for name, why in reasons.items()
            if self._means_something(name)
        ]

    def _means_something(self, name: str) -> bool:
        value = self._raw(name)[0]
        return value not in (None, "", False, 0, [], {}) and str(value).strip().lower() not in _FALSE

    def unknown(self, known: Sequence[str]) -> list[str]:
        """A line for each key of the file that MLServer does not know either."""
        lines = []
        for key in self._content:
            if key in known:
                continue
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            lines.append(f"{self._path}: {key!r} is no field of MLServer's and says nothing here{hint}")
        return lines

    def _wrong(self, name: str, origin: str, wanted: str, value: Any) -> SetupError:
        return SetupError(f"{origin}: {name} must be {wanted}, got {_shown(value)}")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a settings file; raises SetupError."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SetupError(f"{path} cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise SetupError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(content, dict):
        raise SetupError(f"{path} must hold an object {{…}}, got {_shown(content)}")
    return content


def variables_of(folder: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """The variables of MLServer by their lower-case names; those of `.env` in the folder where the process has none."""
    found: dict[str, str] = {}
    file = folder / ".env"
    if file.is_file():
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise SetupError(f"{file} cannot be read: {error}") from None
        for line in lines:
            name, equals, value = line.strip().removeprefix("export ").partition("=")
            if equals and name.strip().lower().startswith("mlserver_"):
                found[name.strip().lower()] = value.strip().strip("\"'")
    return found | {name.lower(): value for name, value in environ.items()}


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else text[:77] + "…"
