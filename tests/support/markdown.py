"""Markdown pages as a list of things to run, and a matcher for the output they show.

A page is run from top to bottom. What its HTML comments say to the runner, each on a line of its own before a block:

    <!-- not run: REASON -->    the block is shown only
    <!-- file: NAME -->         the block is the content of a file that later blocks use
    <!-- exit: N -->            the block's last command ends with N instead of 0
    <!-- setup: COMMAND -->     (no block needed) run this first, as if it had been shown

In shown output `…` stands for anything: a line or more when alone on a line, and in JSON any value, any further list
elements or any further keys.
"""

from __future__ import annotations

import json
import math
import re
import shlex
from dataclasses import dataclass, field
from typing import Any

ANY = "…"
_FENCE = re.compile(r"^(?P<indent>\s*)(?P<fence>`{3,}|~{3,})\s*(?P<language>[\w+-]*)")
_DIRECTIVE = re.compile(r"^\s*<!--\s*(?P<name>not run|file|exit|setup):\s*(?P<value>.+?)\s*-->\s*$")
_JSON_TOKEN = re.compile(r'"(?:\\.|[^"\\])*"|…|[{}\[\],:]|[^\s{}\[\],:"…]+')


@dataclass(frozen=True)
class Block:
    """A fenced block, or the command of a setup comment (language "setup")."""

    line: int
    """1-based."""
    language: str
    text: str
    directives: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Command:
    text: str
    output: str
    """What the page shows after it; empty where it shows nothing."""


def blocks(page: str) -> list[Block]:
    """The blocks of a page in order, each with the directives that stand before it."""
    found: list[Block] = []
    directives: dict[str, str] = {}
    lines = page.splitlines()
    at = 0
    while at < len(lines):
        directive, fence = _DIRECTIVE.match(lines[at]), _FENCE.match(lines[at])
        if directive and directive["name"] == "setup":
            found.append(Block(at + 1, "setup", directive["value"]))
        elif directive:
            directives[directive["name"]] = directive["value"]
        elif fence:
            end = next((i for i in range(at + 1, len(lines)) if lines[i].strip() == fence["fence"]), len(lines))
            body = [line.removeprefix(fence["indent"]) for line in lines[at + 1 : end]]
            found.append(Block(at + 1, fence["language"], "\n".join(body) + "\n", directives))
            directives = {}
            at = end
        elif lines[at].strip():
            directives = {}
        at += 1
    return found


def commands(block: Block) -> list[Command]:
    """The commands of a console block, each with its shown output; a bash block is one command without output."""
    if block.language != "console":
        return [Command(block.text.strip(), "")]
    found: list[tuple[list[str], list[str]]] = []
    for line in block.text.splitlines():
        if line.startswith("$ "):
            found.append(([line[2:]], []))
        elif not found:
            raise ValueError(f"line {block.line}: a console block begins with a line `$ COMMAND`")
        elif not found[-1][1] and _is_open("\n".join(found[-1][0])):
            found[-1][0].append(line.removeprefix("> "))
        else:
            found[-1][1].append(line)
    return [Command("\n".join(command), "\n".join(output)) for command, output in found]


def _is_open(command: str) -> bool:
    """True while a shell would ask for another line: after a backslash, in a quote, in a here-document."""
    if command.endswith("\\"):
        return True
    here = re.search(r"<<-?\s*['\"]?(\w+)", command)
    if here:
        return not re.search(rf"^\s*{here[1]}$", command, re.MULTILINE)
    try:
        shlex.split(command)
    except ValueError:
        return True
    return False


def difference(shown: str, real: str) -> str | None:
    """None when the output that a page shows fits what really came, else both, for a person to compare."""
    if not shown.strip():
        return None
    try:
        expected = json.loads(_any_as_json(shown))
        actual = json.loads(real)
    except ValueError:
        fits = re.fullmatch(_pattern(shown), _squeezed(real)) is not None
    else:
        fits = _json_fits(expected, actual)
    return None if fits else f"the page shows\n{shown.strip()}\nand the command printed\n{real.strip()}"


def _any_as_json(text: str) -> str:
    """Bare … made valid JSON: a string, or in an object's key position a key with any value."""
    out: list[str] = []
    nesting: list[str] = []
    previous = ""
    for match in _JSON_TOKEN.finditer(text):
        token = match[0]
        if token in "{[":
            nesting.append(token)
        elif token in "}]" and nesting:
            nesting.pop()
        key = nesting[-1:] == ["{"] and previous in ("{", ",")
        out.append((f'"{ANY}": "{ANY}"' if key else f'"{ANY}"') if token == ANY else token)
        previous = token
    return " ".join(out)


def _json_fits(expected: Any, actual: Any) -> bool:
    if expected == ANY:
        return True
    if isinstance(expected, dict) and isinstance(actual, dict):
        open_ended = ANY in expected
        named = {key: value for key, value in expected.items() if key != ANY}
        if not (named.keys() <= actual.keys() if open_ended else named.keys() == actual.keys()):
            return False
        return all(_json_fits(value, actual[key]) for key, value in named.items())
    if isinstance(expected, list) and isinstance(actual, list):
        return _list_fits(expected, actual)
    if isinstance(expected, str) and isinstance(actual, str):
        return re.fullmatch(re.escape(expected).replace(ANY, ".*"), actual, re.DOTALL) is not None
    if isinstance(expected, float) and isinstance(actual, (int, float)) and not isinstance(actual, bool):
        return math.isclose(expected, actual, rel_tol=1e-6, abs_tol=1e-12)
    return type(expected) is type(actual) and bool(expected == actual)


def _list_fits(expected: list[Any], actual: list[Any]) -> bool:
    if not expected:
        return not actual
    if expected[0] == ANY:
        return any(_list_fits(expected[1:], actual[i:]) for i in range(len(actual) + 1))
    return bool(actual) and _json_fits(expected[0], actual[0]) and _list_fits(expected[1:], actual[1:])


def _squeezed(text: str) -> str:
    """Without the differences no reader sees: runs of blanks, trailing blanks, empty lines at both ends."""
    return "\n".join(" ".join(line.split()) for line in text.strip().splitlines())


def _pattern(shown: str) -> str:
    lines = _squeezed(shown).splitlines()
    parts = ["(?:.*\n)*?(?:.*)?" if line == ANY else re.escape(line).replace(ANY, ".*") for line in lines]
    return "\n?".join(parts) if ANY in lines else "\n".join(parts)


def headings(page: str) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    anchors: set[str] = set()
    for line in _without_fences(page).splitlines():
        if heading := re.match(r"#{1,6}\s+(.+?)\s*#*$", line):
            text = re.sub(r"[^\w\- ]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading[1]).lower())
            anchors.add(text.replace(" ", "-"))
    return anchors


def links(page: str) -> list[str]:
    """The targets of a page's inline links and images, outside of code."""
    prose = re.sub(r"`[^`\n]*`", "", _without_fences(page))
    return re.findall(r"\]\(([^)\s]+)(?:\s+\"[^\"]*\")?\)", prose)


def _without_fences(page: str) -> str:
    kept: list[str] = []
    fence = ""
    for line in page.splitlines():
        mark = _FENCE.match(line)
        if not fence and mark:
            fence = mark["fence"]
        elif fence and line.strip() == fence:
            fence = ""
        elif not fence:
            kept.append(line)
    return "\n".join(kept)
