"""The user's `lagar.toml`: parsed strictly, unknown keys refused."""

from __future__ import annotations

import difflib
import json
import tomllib
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from lagar.errors import SetupError

NAME = "lagar.toml"


class FieldRule(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """One `[fields.NAME]`: what is set here wins over what the model says."""

    type: Literal["float", "int", "bool", "string"] | None = None
    categories: list[str | bool | int | float] | None = None
    unknown: Literal["refuse", "allow"] | None = None
    nullable: bool | None = None
    range: tuple[float, float] | None = None
    """[min, max], both inclusive; use -inf or inf for an open end."""
    default: str | bool | int | float | None = None


class LagarToml(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"class_name": "class"}):
    """The whole file."""

    name: str | None = None
    version: str | None = None
    model: str | None = None
    class_name: str | None = None
    handlers: str | None = None
    code: list[str] = []
    example: str | None = None
    extra_fields: Literal["ignore", "refuse"] | None = None
    fields: dict[str, FieldRule] = {}


_TEXT: Final = "a text in quotes"
_ALLOWED: Final = {
    "name": _TEXT,
    "version": f'{_TEXT}, such as "2"',
    "model": _TEXT,
    "class": f'{_TEXT}: "module:Class"',
    "handlers": _TEXT,
    "code": "a list of texts",
    "example": _TEXT,
    "extra_fields": '"ignore" or "refuse"',
    "fields": 'a table: [fields."NAME"]',
    "type": '"float", "int", "bool" or "string"',
    "categories": "a list of texts, numbers, true and false",
    "unknown": '"refuse" or "allow"',
    "nullable": "true or false",
    "range": "two numbers, [min, max], where -inf and inf are open ends",
    "default": "a text, a number, true or false",
}
"""What each key of the file and of its [fields.NAME] takes, in words."""


def read(folder: Path) -> LagarToml:
    """`folder/lagar.toml`; SetupError names the file, the key and the keys that exist."""
    path = folder / NAME
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SetupError(f"{path} cannot be read: {error.strerror or error}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SetupError(f"{path} is not valid TOML: {error}") from None
    _refuse_unknown(path, "", raw, _keys(LagarToml))
    for name, rule in raw.get("fields", {}).items() if isinstance(raw.get("fields"), dict) else ():
        if not isinstance(rule, dict):
            raise SetupError(f'{path}: fields.{name} must be a table, got {rule!r}; write [fields."{name}"]')
        _refuse_unknown(path, f'[fields."{name}"] ', rule, _keys(FieldRule))
        _refuse_wrong(path, f'[fields."{name}"] ', rule, FieldRule)
    _refuse_wrong(path, "", raw, LagarToml)
    return msgspec.convert(raw, LagarToml)


def rules(content: LagarToml, path: Path) -> dict[str, dict[str, Any]]:
    """Field name → the keys that the file sets, checked against each other."""
    found: dict[str, dict[str, Any]] = {}
    for name, rule in content.fields.items():
        values: dict[str, Any] = msgspec.to_builtins(rule)
        if rule.range is not None:
            low, high = rule.range
            if not low <= high:
                raise SetupError(f"{path}: fields.{name}.range is [min, max], got [{low:g}, {high:g}]")
            if rule.type in {"bool", "string"}:
                raise SetupError(
                    f"{path}: fields.{name} has a range, but its type is {rule.type}; ranges are for numbers"
                )
        if rule.categories is not None and not rule.categories:
            raise SetupError(f"{path}: fields.{name}.categories is empty; name the values or leave the key out")
        found[name] = values
    return found


def _keys(struct: type[msgspec.Struct]) -> list[str]:
    return [field.encode_name for field in msgspec.structs.fields(struct)]


def _refuse_wrong(path: Path, where: str, table: dict[str, Any], struct: type[msgspec.Struct]) -> None:
    for field in msgspec.structs.fields(struct):
        key = field.encode_name
        if key not in table:
            continue
        try:
            msgspec.convert(table[key], field.type)
        except msgspec.ValidationError:
            seen = json.dumps(table[key], ensure_ascii=False, default=str)
            seen = seen if len(seen) <= 60 else f"{seen[:60]}…"
            raise SetupError(f"{path}: {where}{key} must be {_ALLOWED[key]}, got {seen}") from None


def _refuse_unknown(path: Path, where: str, table: dict[str, Any], known: list[str]) -> None:
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise SetupError(f"{path}: {where}has no key {key!r}; known keys: {', '.join(known)}{hint}")
