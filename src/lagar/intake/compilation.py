"""The faster forms of a version: built and proved apart, named in its manifest, or kept in the home of this machine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from lagar.errors import InvalidVersion, LoadFailed
from lagar.intake import content, sandbox
from lagar.intake.trial import Given, Proving
from lagar.registry.manifest import FileEntry, Form, Manifest
from lagar.registry.model import ModelSource
from lagar.registry.proof import ORIGINAL, Attempt, Proof, verdict

if TYPE_CHECKING:
    from lagar.registry.releases import Releases, Version

_FOLDER = "forms"


class Made(NamedTuple):
    """A manifest with its forms, and their files."""

    manifest: Manifest
    files: Mapping[str, Path]
    """Path in the version → file on disk."""
    words: tuple[str, ...]


def compiled(source: ModelSource, manifest: Manifest, folder: Path, training_data: Path | None) -> Made:
    """The forms of a version that is being taken in; `folder` is its private one.

    What cannot be compiled serves as it was saved: nothing here refuses a version.
    """
    if manifest.requirements:
        return Made(manifest, {}, ("it serves as it was saved: what has an environment of its own is not compiled",))
    into = folder / _FOLDER
    try:
        proof = sandbox.prove(source, into, training_data=training_data, within=folder)
    except LoadFailed as error:
        return Made(manifest, {}, (f"it serves as it was saved: {error.message}",))
    forms, files = forms_of(proof, into)
    changed = msgspec.structs.replace(manifest, forms=(manifest.original, *forms), proof=proof)
    return Made(changed, files, words(proof))


def forms_of(proof: Proof, into: Path) -> tuple[list[Form], dict[str, Path]]:
    """The forms that serve as a manifest names them, and their files."""
    forms: list[Form] = []
    files: dict[str, Path] = {}
    attempts = {attempt.name: attempt for attempt in proof.attempts}
    for part in proof.served:
        if part.name == ORIGINAL:
            continue
        attempt = attempts[part.name]
        entry = f"{_FOLDER}/{part.name}"
        entries: list[FileEntry] = []
        for path in sorted(path for path in (into / part.name).rglob("*") if path.is_file()):
            name = f"{entry}/{path.relative_to(into / part.name).as_posix()}"
            entries.append(content.entry(path, name))
            files[name] = path
        forms.append(
            Form(
                name=part.name,
                kind="form",
                entry=entry,
                files=tuple(entries),
                min_rows=part.min_rows,
                max_rows=part.max_rows,
                libraries=attempt.libraries,
                criterion=attempt.criterion,
                margin=attempt.margin,
            )
        )
    return forms, files


def compile_again(releases: Releases, version: Version, *, yields: bool = False) -> Proof:
    """Build, prove and race the forms of a committed version here, and keep them in the home for this machine.

    Servers that run on this home take them up. With `yields` the requests that are answered meanwhile go first. Raises
    LoadFailed where the original does not load, InvalidVersion for a version with an environment of its own.
    """
    if version.manifest.requirements:
        label = f"{version.model}@{version.version}"
        raise InvalidVersion(
            f"{label} has an environment of its own and serves as it was saved: its libraries are not those that a "
            "form would be built and proved with; push it without --requirements where the installed ones do"
        )
    with sandbox.private(releases.compiled.place()) as folder:
        source = msgspec.structs.replace(releases.source(version), forms=())
        proof = sandbox.prove(source, folder / _FOLDER, yields=yields, within=folder)
        releases.compiled.keep(version.manifest, proof, folder / _FOLDER)
    return proof


def prove_again(releases: Releases, version: Version, *, yields: bool = False) -> Proof | None:
    """Prove the forms that a version brings on this machine, and keep the proof; None where it brings none.

    Nothing is built: for a version that was pushed elsewhere.
    """
    forms = [form for form in version.manifest.forms[1:] if form.criterion is not None]
    if not forms:
        return None
    given = {}
    for form in forms:
        assert form.criterion is not None
        folder = releases.lay_out(version.manifest, form.name) / form.entry
        given[form.name] = Given(str(folder), form.criterion, leans=form.margin > 0)
    with sandbox.private(releases.compiled.place()) as folder:
        source = msgspec.structs.replace(releases.source(version), forms=())
        proving = Proving(given=given)
        proof = sandbox.prove(source, folder / _FOLDER, proving=proving, yields=yields, within=folder)
        releases.compiled.keep(version.manifest, proof, folder / _FOLDER)
    return proof


def words(proof: Proof) -> tuple[str, ...]:
    """What came of it, for the report of a push."""
    serving = [part for part in proof.served if part.name != ORIGINAL]
    if not serving:
        return (f"it serves as it was saved: {proof.words}", *(_tried(attempt) for attempt in proof.attempts[:4]))
    worst = max(attempt.worst for attempt in proof.attempts if attempt.outcome == "serves")
    return (f"{verdict(proof)}, worst difference {worst:.2g}",)


def _tried(attempt: Attempt) -> str:
    return f"{attempt.name}: {attempt.words or attempt.outcome}"
