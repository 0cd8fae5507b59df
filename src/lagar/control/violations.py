"""What workers tell of forms that were wrong on a live row: the row is kept, and the form serves no more.

violations/NAME@VERSION/<time>.json, in the home: the row, both answers, and the forms that were given up. The forms
stay given up over restarts, since the record of what was compiled says that the original serves, until `lagar compile`
has proved others.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import msgspec

from lagar.errors import LagarError
from lagar.logs import Log
from lagar.registry.proof import ORIGINAL, Attempt, Served, given_up_words
from lagar.registry.releases import Releases
from lagar.server.channel import Violated

FOLDER: Final = "violations"
MAX_FILES: Final = 20
"""Per version; the oldest go first."""
MAX_BYTES: Final = 1_000_000
"""A row that takes more is left out of its file."""


def keep(releases: Releases, home: Path, message: Violated, log: Log) -> None:
    """Keep the row, and see to it that the forms are not served again; what cannot be written is logged."""
    label = f"{message.model}@{message.version}"
    words = given_up_words(message.violation, message.at)
    path = home / FOLDER / label / f"{message.at.replace(':', '').replace('+0000', '')}.json"
    if path.exists():
        return  # the control process before this one has done it
    try:
        _give_up(releases, message, words)
    except LagarError as error:
        log.error(f"{label}: a form that was wrong may serve again after a restart", error=error.message)
    try:
        _write(path, message)
        log.error(f"{label}: {words}; the original serves until `lagar compile {label}` proves others", row=str(path))
    except OSError as error:
        log.error(f"{label}: {words}; the row could not be kept", error=str(error))


def _write(path: Path, message: Violated) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    data = msgspec.json.encode(message)
    if len(data) > MAX_BYTES:
        violation = message.violation
        short = msgspec.structs.replace(
            violation, row={}, original=None, candidate=None, words=f"{violation.words} (the row is too large to keep)"
        )
        data = msgspec.json.encode(msgspec.structs.replace(message, violation=short))
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(msgspec.json.format(data, indent=2))
    for old in sorted(path.parent.glob("*.json"))[:-MAX_FILES]:
        old.unlink(missing_ok=True)


def _give_up(releases: Releases, message: Violated, words: str) -> None:
    """Write into the record of what was compiled here that the original serves."""
    version = releases.get(message.model, message.version)
    proof = releases.proof(version.manifest)
    if proof is None or releases.source(version).forms != message.forms:
        return  # proved anew since, or given up already
    wrong = {form.name for form in message.forms}
    marked = msgspec.structs.replace(
        proof,
        attempts=tuple(_marked(attempt, wrong, message, words) for attempt in proof.attempts),
        served=(Served(ORIGINAL, 1, None),),
        words=words,
        given_up=words,
    )
    releases.compiled.keep(version.manifest, marked, _nothing(releases))


def _marked(attempt: Attempt, wrong: set[str], message: Violated, words: str) -> Attempt:
    if attempt.name not in wrong or attempt.outcome != "serves":
        return attempt
    return msgspec.structs.replace(attempt, outcome="wrong", words=words, violation=message.violation)


def _nothing(releases: Releases) -> Path:
    """The folder of the forms that serve: there are none."""
    return releases.compiled.root / "none"
