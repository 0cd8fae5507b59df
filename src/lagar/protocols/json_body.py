"""Strict JSON: a body either reads one way or is refused.

Refused besides what the grammar refuses: duplicate keys, a byte order mark, more than 64 levels, NaN and Infinity,
numbers that overflow float64, text that is not UTF-8, lone surrogates.

Duplicate keys are found by counting. Every key of the text brings one colon and colons inside strings only add to the
count, so a body with exactly as many colons as the decoder kept keys has no duplicate; only the others are looked at
again. Brackets and depth work the same way.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from typing import Any, Final, TypeVar

import msgspec
import orjson
import simdjson

from lagar.errors import InvalidJson

MAX_DEPTH: Final = 64
_KEEP_PARSER_BYTES: Final = 1 << 20
"""A simdjson parser never shrinks: one that saw a larger body is dropped."""

T = TypeVar("T")

PARSE_ERRORS: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for a body it does not take; ValidationError is a DecodeError."""

_decoder = msgspec.json.Decoder()
_STRINGS: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_NAN: Final = re.compile(_STRINGS.pattern + rb"|(?<![\w-])NaN(?!\w)", re.DOTALL)
_NO_NUMBERS: Final = re.compile(rb"-?\b(?:NaN|Infinity|nan|inf)\b")


def parse(body: bytes) -> Any:
    """The JSON value in `body`; raises InvalidJson."""
    try:
        value = _decoder.decode(body)
    except PARSE_ERRORS:
        raise invalid(body) from None
    check(body, value)
    return value


def parse_with_nan(body: bytes) -> Any:
    """The same, where NaN is null too: what `json.dumps` writes of a missing number, and MLflow's own client sends."""
    try:
        value = _decoder.decode(body)
    except PARSE_ERRORS:
        if b"NaN" not in body:
            raise invalid(body) from None
        body = _NAN.sub(lambda found: b"null" if found[0] == b"NaN" else found[0], body)
        return parse(body)
    check(body, value)
    return value


def parse_lines(body: bytes) -> list[Any]:
    """The values of an NDJSON body, blank lines left out; raises InvalidJson with the row of the bad line."""
    try:
        values: list[Any] = _decoder.decode_lines(body)
    except PARSE_ERRORS:
        row = 0
        for line in body.split(b"\n"):
            if line.strip():
                try:
                    parse(line)
                except InvalidJson as error:
                    raise InvalidJson(f"line of row {row}: {error.message}", field=error.field, row=row) from None
                row += 1
        raise InvalidJson("the body is not NDJSON: one JSON value per line was expected") from None
    check(body, values, lines=True)
    return values


def check(body: bytes, value: Any, *, lines: bool = False) -> None:
    """Refuse duplicate keys and too many levels in a body that parsed as `value`."""
    colons = body.count(b":")
    brackets = body.count(b"[") + body.count(b"{")
    if colons == _quick_keys(value) and (brackets <= MAX_DEPTH or brackets == _quick_brackets(value, lines)):
        return
    keys, depth = _measure(value)
    if depth - lines > MAX_DEPTH:
        raise _too_deep()
    if colons != keys and _STRINGS.sub(b"", body).count(b":") != keys:
        raise _duplicate(body, lines)


def _quick_keys(value: Any) -> int:
    """Keys in the first two levels, and in those of the members of an object."""
    if type(value) is dict:
        keys = len(value)
        for member in value.values():
            if type(member) is dict:
                keys += len(member)
            elif type(member) is list and member and type(member[0]) is dict:
                keys += sum([len(item) for item in member if type(item) is dict])
        return keys
    if type(value) is list and value and type(value[0]) is dict:
        return sum([len(item) for item in value if type(item) is dict])
    return 0


def _quick_brackets(value: Any, lines: bool) -> int:
    """Brackets that the common flat shapes account for: rows, records, and rows inside one member, or one below it."""
    count = 0 if lines else 1
    if type(value) is dict:
        for member in value.values():
            if type(member) is list:
                count += 1 + sum([type(item) is list or type(item) is dict for item in member])
            elif type(member) is dict:
                count += 1
                for inner in member.values():
                    if type(inner) is list:
                        count += 1 + sum([type(item) is list for item in inner])
    elif type(value) is list:
        count += sum([type(item) is list or type(item) is dict for item in value])
    return count


def _measure(value: Any) -> tuple[int, int]:
    """Keys and levels of a whole value, without recursion."""
    keys, depth, level = 0, 0, [value]
    while level:
        below: list[Any] = []
        nested = False
        for item in level:
            if type(item) is dict:
                nested = True
                keys += len(item)
                below.extend(item.values())
            elif type(item) is list:
                nested = True
                below.extend(item)
        depth += nested
        level = below
    return keys, depth


def invalid(body: bytes) -> InvalidJson:
    """What is wrong with a body that did not parse."""
    if not body.strip():
        return InvalidJson("the body is empty, JSON was expected")
    if body.startswith(b"\xef\xbb\xbf"):
        return InvalidJson("the body begins with a byte order mark, which JSON does not allow: send UTF-8 without it")
    try:
        body.decode()
    except UnicodeDecodeError as error:
        return InvalidJson(f"the body is not UTF-8: byte {error.start} is 0x{body[error.start]:02x}")
    found = _NO_NUMBERS.search(_STRINGS.sub(b"", body))
    if found is not None:
        return InvalidJson(f"{found[0].decode()} is not JSON: send null for a missing number")
    try:
        orjson.loads(body)
    except orjson.JSONDecodeError as error:
        if "depth limit" in error.msg:
            return _too_deep()
        return InvalidJson(f"the body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}")
    except RecursionError:
        return _too_deep()
    return _too_deep()  # the only thing that one parser takes and the other does not


def _too_deep() -> InvalidJson:
    return InvalidJson(f"the body is nested deeper than {MAX_DEPTH} levels")


def _duplicate(body: bytes, lines: bool) -> InvalidJson:
    first: list[str] = []

    def note(pairs: list[tuple[str, Any]]) -> None:
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen and not first:
                first.append(key)
            seen.add(key)

    for text in body.split(b"\n") if lines else [body]:
        if text.strip() and not first:
            try:
                json.loads(text, object_pairs_hook=note)
            except (ValueError, RecursionError):  # a value over several lines; the name is then left out
                break
    name = first[0] if first else None
    said = f"the key {json.dumps(name, ensure_ascii=False)}" if name is not None else "a key"
    return InvalidJson(f"{said} appears twice in one object: a body must read one way only", field=name)


_local = threading.local()


def read_numbers(body: bytes, read: Callable[[Any], T | None]) -> T | None:
    """What `read` takes from the parsed document, or None when the body needs the slower, exact way.

    `read` gets a simdjson object or array and must not return or keep any part of it. Bodies over 256 kB are parsed off
    the event loop, so each thread has a parser of its own. simdjson itself would take a byte order mark.
    """
    if body.startswith(b"\xef\xbb\xbf"):
        return None
    parser = getattr(_local, "parser", None)
    _local.parser = None
    if parser is None:
        parser = simdjson.Parser()
    try:
        result = read(parser.parse(body))
    except (ValueError, TypeError, KeyError, IndexError, RuntimeError, OverflowError):
        # The exception holds the document, and a parser with a living document refuses the next one: drop both.
        return None
    if len(body) <= _KEEP_PARSER_BYTES:
        _local.parser = parser
    return result
