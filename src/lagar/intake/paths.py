"""Paths given to `lagar serve`: what lies there becomes versions of the home, each content taken in once.

A version is `NAME@HASH8`, or has the label that lagar.toml or its folder gives it. Content that the home knows, opened
by the same Python and libraries, is found by one hash and one look into the catalog.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from importlib import metadata
from pathlib import Path
from platform import python_version
from typing import Protocol

import msgspec

from lagar.errors import LagarError, Refused, SetupError, VersionExists
from lagar.intake import content, inspect, mlserver
from lagar.intake.archive import Bounds
from lagar.intake.content import Content, Made
from lagar.intake.inspect import Common, Place
from lagar.registry.manifest import Manifest
from lagar.registry.model import Asked, ModelSource
from lagar.registry.releases import Releases, Version, Who
from lagar.registry.versions import natural_key, short

_HASH = 9
"""Characters of a label that are kept for "-HASH8"."""


class Progress(Protocol):
    """Who is told how the intake of several models goes on."""

    def step(self, path: str, step: str) -> None:
        """A step of one model begins."""

    def taken(self, path: str, version: str, seconds: float) -> None:
        """One model is a version now: "churn@ab12cd34"."""

    def left(self, path: str) -> None:
        """The intake of one model has ended without a version."""

    def said(self, text: str) -> None:
        """Something that is no step, in a line."""


class Found(msgspec.Struct, frozen=True):
    """A place and what lies there: the source as it is on disk."""

    place: Place
    source: ModelSource


class Admitted(msgspec.Struct, frozen=True):
    """A place whose content is a version."""

    found: Found
    source: ModelSource
    """The version laid out in the home."""

    @property
    def label(self) -> str:
        """What path or lagar.toml call it, "" for nothing: by this the greatest version is chosen."""
        return self.found.source.version


class Finding(msgspec.Struct, frozen=True):
    """What paths hold."""

    found: tuple[Found, ...]
    skipped: tuple[str, ...]
    """A line for each file of a folder whose format is not served."""
    wrong: tuple[tuple[Place, SetupError], ...] = ()
    """Places of a folder that hold no model, and why."""


def find(asked: Asked) -> Finding:
    """What lies at the paths, read but not opened.

    What a folder holds may be wrong as long as something is left; a path that was given itself must be right. Raises
    SetupError.
    """
    common = common_of(asked)
    places, skipped = inspect.survey([Path(path) for path in asked.paths])
    found: list[Found] = []
    wrong: list[tuple[Place, SetupError]] = []
    for place in places:
        try:
            found.append(Found(place, inspect.source_at(place, common)))
        except SetupError as error:
            if place.given:
                raise
            wrong.append((place, error))
    if wrong and not found:
        raise wrong[0][1]
    inspect.refuse_together([one.place for one in found], [one.source for one in found], common)
    return Finding(tuple(found), skipped, tuple(wrong))


def common_of(asked: Asked) -> Common:
    """What was said about every path; raises SetupError."""
    return inspect.common_of(
        name=asked.name,
        code=[Path(path) for path in asked.code],
        example=Path(asked.example) if asked.example else None,
        trust=asked.trust,
    )


def admit_all(
    releases: Releases,
    found: Sequence[Found],
    who: Who,
    progress: Progress,
    *,
    at_once: int,
    tell: Callable[[Place, LagarError], None] = lambda place, why: None,
) -> tuple[list[Admitted], list[tuple[Place, LagarError]]]:
    """Versions of what was found, several taken in at once, and what was refused.

    `tell` hears of each refusal as it happens, in the thread that it happens in.
    """

    def admitted_or_told(one: Found) -> Admitted:
        try:
            return admit(releases, one, who, progress)
        except LagarError as error:
            progress.left(str(_where(one.source)))
            tell(one.place, error)
            raise

    jobs = [partial(admitted_or_told, one) for one in found]
    outcomes = _side_by_side(jobs, at_once)
    admitted = [outcome for outcome in outcomes if isinstance(outcome, Admitted)]
    refused: list[tuple[Place, LagarError]] = []
    for one, outcome in zip(found, outcomes, strict=True):
        if isinstance(outcome, LagarError):
            refused.append((one.place, outcome))
        elif isinstance(outcome, BaseException):
            raise outcome
    return admitted, refused


def live_of(admitted: Iterable[Admitted]) -> dict[str, str]:
    """Model → the version that answers when none is named: the greatest label in natural order."""
    best: dict[str, Admitted] = {}
    for one in admitted:
        other = best.get(one.source.name)
        if other is None or _rank(one) >= _rank(other):
            best[one.source.name] = one
    return {model: best[model].source.version for model in sorted(best)}


def _rank(one: Admitted) -> tuple[bool, tuple[tuple[int, int, str], ...]]:
    """MLServer answers with the model that has no version, where there is one."""
    return one.found.place.root is not None and not one.label, natural_key(one.label)


def admit(releases: Releases, found: Found, who: Who, progress: Progress) -> Admitted:
    """The version of what was found: the one that the home has of this content, or a new one.

    Raises Refused with the step, and what the registry raises.
    """
    source = found.source
    path = _where(source)
    began = time.monotonic()
    try:
        made = Content(source, Bounds()).made()
        version = _known(releases, source, made, who, progress)
        if version is None:
            version = _taken_in(releases, source, path, who, progress)
            progress.taken(str(path), f"{version.model}@{version.version}", time.monotonic() - began)
    except OSError as error:
        raise SetupError(f"{path} cannot be read: {error.strerror or error}") from None
    if version.state == "retired":
        named = f"{version.model} {version.version}"
        raise Refused(
            "commit", f"{path} is {version.model}@{version.version}, which is retired: `lagar retire {named} --undo`"
        )
    return Admitted(found, releases.source(version))


def _where(source: ModelSource) -> Path:
    """What is said to be taken in: the folder, or the file that is no folder's."""
    return Path(source.folder or source.path)


def _known(releases: Releases, source: ModelSource, made: Made, who: Who, progress: Progress) -> Version | None:
    """The version with this content and label; where only another label has it, it is named again, not taken in."""
    largest = max(made.files, key=lambda file: file.bytes)
    alike = [
        version
        for version in releases.holding(largest.sha256)
        if made.same(version.manifest) and _opened_here(version.manifest)
    ]
    if not alike:
        return None
    wanted = source.version or short(content.files_hash(made.files))
    for version in alike:
        if version.model == source.name and version.version in _labels(version.manifest, wanted):
            return version
    provenance = msgspec.structs.replace(alike[0].manifest.provenance, who=who.name, host=who.host, at=time.time())
    manifest = msgspec.structs.replace(alike[0].manifest, model=source.name, provenance=provenance)
    return _committed(manifest, wanted, lambda labelled: releases.relabel(labelled, who), source, progress)


def _taken_in(releases: Releases, source: ModelSource, path: Path, who: Who, progress: Progress) -> Version:
    from lagar.intake import environment, push

    options = push.Options(
        version=source.version or None,
        example=Path(source.example) if source.example else None,
        code=tuple(Path(code) for code in source.code if not Path(code).is_relative_to(path)),
        trust=source.trust,
        on_step=lambda step, words: None if words else progress.step(str(path), step),
        isolate=environment.isolation(releases.environments),
        found=source if mlserver.facts_of(source.options) is not None else None,
        compiling="off",
    )
    try:
        with push.intake(source.name, path, options, who=(who.name, who.host)) as draft:
            wanted = source.version or short(draft.sha256)
            files = draft.files
            version = _committed(
                draft.manifest, wanted, lambda labelled: releases.commit(labelled, files, who), source, progress
            )
    except Refused as error:
        releases.refused(source.name, error.step, error.message, who)
        raise error if str(path) in error.message else Refused(error.step, f"{path}: {error.message}") from None
    assert version is not None
    return version


def _committed(
    manifest: Manifest, wanted: str, commit: Callable[[Manifest], Version | None], source: ModelSource,
    progress: Progress,
) -> Version | None:  # fmt: skip
    """The content under the label that it should have, or LABEL-HASH8 where that is another content's."""
    for label in _labels(manifest, wanted):
        try:
            version = commit(msgspec.structs.replace(manifest, version=label))
        except VersionExists:
            continue
        if version is None:
            return None
        if content.fingerprint(version.manifest) == content.fingerprint(manifest):
            if label != wanted:
                model = manifest.model
                progress.said(
                    f"{source.path} is {model}@{label}: {model}@{wanted} is there with another content, or was taken "
                    "in with other libraries"
                )
            return version
    raise Refused("commit", f"{source.path}: {manifest.model}@{wanted} is taken by another content; name another label")


def _labels(manifest: Manifest, wanted: str) -> tuple[str, str]:
    return wanted, f"{wanted[: 100 - _HASH]}-{content.fingerprint(manifest)[: _HASH - 1]}"


def _opened_here(manifest: Manifest) -> bool:
    """Whether Python and the libraries that opened a version are those of this environment, or its own ones."""
    if manifest.requirements:
        return True
    if manifest.python != python_version():
        return False
    try:
        return all(metadata.version(name) == version for name, version in manifest.libraries.items())
    except metadata.PackageNotFoundError:
        return False


def _side_by_side(jobs: Sequence[Callable[[], Admitted]], at_once: int) -> list[Admitted | BaseException]:
    """What each job gave or raised. Interrupting this waits for none of them: their processes end with this one."""
    if len(jobs) == 1 or at_once <= 1:
        return [_outcome(job) for job in jobs]
    waiting: queue.SimpleQueue[tuple[int, Callable[[], Admitted]] | None] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[int, Admitted | BaseException]] = queue.SimpleQueue()

    def work() -> None:
        while (item := waiting.get()) is not None:
            done.put((item[0], _outcome(item[1])))

    for number, job in enumerate(jobs):
        waiting.put((number, job))
    for _ in range(min(at_once, len(jobs))):
        waiting.put(None)
        threading.Thread(target=work, daemon=True).start()
    outcomes = dict(done.get() for _ in jobs)
    return [outcomes[number] for number in range(len(jobs))]


def _outcome(job: Callable[[], Admitted]) -> Admitted | BaseException:
    try:
        return job()
    except Exception as error:
        return error
