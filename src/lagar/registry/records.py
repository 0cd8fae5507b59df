"""What the catalog knows of versions and their names, read inside a transaction."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from typing import Any, Literal

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from lagar.errors import ChangedArtifact, InvalidVersion, NotFound, VersionExists
from lagar.registry import manifest as manifests
from lagar.registry import tables
from lagar.registry.manifest import FileEntry, Manifest
from lagar.registry.store import is_sha256
from lagar.registry.versions import is_name, natural_key

State = Literal["ready", "retired"]
_AT_ONCE = 500
"""Names in one query."""


class Who(msgspec.Struct, frozen=True):
    """Who does something, and on which machine: for the audit and the history."""

    name: str
    host: str


class Version(msgspec.Struct, frozen=True):
    """One committed version; `created_at` is in Unix seconds."""

    model: str
    version: str
    state: State
    manifest: Manifest
    manifest_sha256: str
    seq: int
    """Order of commits over all models."""
    created_at: float
    created_by: str


class ModelEntry(msgspec.Struct, frozen=True):
    """One model in a list."""

    name: str
    versions: int
    newest: str
    """The last version in natural order."""
    weights: dict[str, int]
    """What answers for it, version → percent; {} when nothing does."""
    shadow: str | None
    aliases: dict[str, str]
    updated_at: float
    """When a version was committed last."""


class AuditEntry(msgspec.Struct, frozen=True):
    """One line of the audit: also what was refused, and left nothing else."""

    at: float
    who: str
    what: str
    """The words "push", "push.refused", "promote.failed", …"""
    subject: str
    details: dict[str, Any]


def get(connection: Connection, model: str, ref: str) -> Version:
    """The version with this label or alias; raises NotFound that says what there is."""
    return _version(_row(connection, model, resolve(connection, model, ref)))


def get_many(connection: Connection, keys: Iterable[tuple[str, str]]) -> list[Version]:
    """The versions with these names and labels; those that are not there are left out."""
    wanted = set(keys)
    models = sorted({model for model, _ in wanted})
    found: list[Version] = []
    for start in range(0, len(models), _AT_ONCE):
        chosen = tables.versions.c.model.in_(models[start : start + _AT_ONCE])
        labels_of = sa.select(tables.versions.c.seq, tables.versions.c.model, tables.versions.c.version).where(chosen)
        seqs = [row.seq for row in connection.execute(labels_of) if (row.model, row.version) in wanted]
        rows = connection.execute(sa.select(tables.versions).where(tables.versions.c.seq.in_(seqs)))
        found += map(_version, rows)
    return found


def every(connection: Connection) -> Iterator[Version]:
    """All versions of all models, one after the other."""
    return map(_version, connection.execute(sa.select(tables.versions)))


def resolve(connection: Connection, model: str, ref: str) -> str:
    """The label that a label or an alias stands for; raises NotFound."""
    if label_exists(connection, model, ref):
        return ref
    target = aliases(connection, model).get(ref)
    if target is not None:
        return target
    names = [*require(connection, model)[-10:], *aliases(connection, model)]
    raise NotFound(f"{model} has no version or alias {ref!r}; it has {', '.join(names)}")


def require(connection: Connection, model: str) -> list[str]:
    """The versions of a model in natural order; raises NotFound where there is none."""
    known = labels(connection, model)
    if not known:
        raise NotFound(f"there is no model {model!r}: `lagar models` lists them, `lagar push NAME PATH` makes one")
    return known


def label_exists(connection: Connection, model: str, label: str) -> bool:
    table = tables.versions
    found = connection.scalar(sa.select(table.c.seq).where(table.c.model == model, table.c.version == label))
    return found is not None


def labels(connection: Connection, model: str) -> list[str]:
    """The versions of a model in natural order, newest last."""
    table = tables.versions
    return sorted(connection.scalars(sa.select(table.c.version).where(table.c.model == model)), key=natural_key)


def state_of(connection: Connection, model: str, label: str) -> State:
    state = _row(connection, model, label).state
    return "retired" if state == "retired" else "ready"


def list_versions(connection: Connection, model: str) -> list[Version]:
    """All versions of a model with their manifests, in natural order, newest last; [] for an unknown one."""
    rows = connection.execute(sa.select(tables.versions).where(tables.versions.c.model == model))
    return sorted((_version(row) for row in rows), key=lambda version: natural_key(version.version))


def holding(connection: Connection, sha256: str, limit: int) -> list[Version]:
    """Versions of any model that have this file, newest first."""
    versions, artifacts = tables.versions, tables.artifacts
    rows = connection.execute(
        sa.select(versions)
        .join(artifacts, artifacts.c.seq == versions.c.seq)
        .where(artifacts.c.sha256 == sha256)
        .order_by(versions.c.seq.desc())
        .limit(limit)
    )
    return [_version(row) for row in rows]


def aliases(connection: Connection, model: str) -> dict[str, str]:
    """Alias → version, by name."""
    table = tables.aliases
    rows = connection.execute(
        sa.select(table.c.alias, table.c.version).where(table.c.model == model).order_by(table.c.alias)
    )
    return {row.alias: row.version for row in rows}


def next_number(connection: Connection, model: str) -> str:
    """One more than the greatest version that is a plain number; "1" for the first."""
    numbers = [int(label) for label in labels(connection, model) if re.fullmatch(r"[0-9]{1,18}", label)]
    return str(max(numbers, default=0) + 1)


def insert(connection: Connection, manifest: Manifest, who: Who, now: float) -> None:
    """Write a version and what it needs of the store; raises sqlalchemy's IntegrityError when the label is taken."""
    data = manifests.encode(manifest)
    seq = connection.execute(
        tables.versions.insert().values(
            model=manifest.model,
            version=manifest.version,
            state="ready",
            manifest=data.decode(),
            manifest_sha256=hashlib.sha256(data).hexdigest(),
            content_sha256=content_of(manifest),
            created_at=now,
            created_by=who.name,
        )
    ).inserted_primary_key
    assert seq is not None
    rows = [{"sha256": sha256, "seq": seq[0]} for sha256 in sorted({entry.sha256 for entry in entries(manifest)})]
    connection.execute(tables.artifacts.insert(), rows)


def content_of(manifest: Manifest) -> str:
    """The hash of what a version answers with: neither who pushed it when, nor what was measured or noted."""
    what = msgspec.structs.replace(
        manifest,
        version="",
        provenance=manifests.Provenance(who="", host="", at=0.0, source="", lagar=""),
        example="",
        forms=manifest.forms[:1],  # the others follow from it
        golden=manifests.Golden(records=(), outputs={}),
        python="",
        libraries={},
        memory_bytes=0,
        load_s=0.0,
        metrics={},
        note="",
        steps=(),
        lock=None,
        profile=None,
        proof=None,
        compile_later=False,
    )
    return hashlib.sha256(manifests.canonical(what)).hexdigest()


def entries(manifest: Manifest) -> list[FileEntry]:
    """Every file that a version names, each path once; raises InvalidVersion for a path with two contents."""
    found: dict[str, FileEntry] = {}
    every = [entry for form in manifest.forms for entry in form.files]
    for entry in (*every, *(extra for extra in (manifest.lock, manifest.profile) if extra is not None)):
        if found.setdefault(entry.path, entry).sha256 != entry.sha256:
            raise InvalidVersion(f"the path {entry.path!r} stands for two different files of {manifest.model}")
    return list(found.values())


def check(manifest: Manifest) -> None:
    """Refuse a manifest that cannot be committed: names, paths, hashes."""
    check_name(manifest.model, "a model's name")
    if manifest.version:
        check_name(manifest.version, "a version")
    if not manifest.forms or manifest.original.name != "original":
        raise InvalidVersion(f"the first form of {manifest.model} must be the original")
    for entry in entries(manifest):
        path = PurePosixPath(entry.path)
        if not entry.path or path.is_absolute() or ".." in path.parts or str(path) != entry.path or "\0" in entry.path:
            raise InvalidVersion(f"a version's files lie in its folder, got the path {entry.path!r}")
        if not is_sha256(entry.sha256):
            raise InvalidVersion(f"the file {entry.path!r} has no SHA-256, got {entry.sha256!r}")


def check_name(text: str, what: str) -> None:
    """Refuse a name that could not stand in a path or an address."""
    if not is_name(text):
        raise InvalidVersion(
            f"{what} must be letters, digits, '.', '_' or '-', at most 100, beginning with a letter or digit, "
            f"got {text!r}"
        )


def taken(model: str, label: str) -> VersionExists:
    """The refusal of a label that another content has."""
    return VersionExists(
        f"{model}@{label} exists with another content, and versions never change: "
        "push under another label, or without --version for the next number"
    )


def content_at(connection: Connection, model: str, label: str) -> str:
    """The hash of what the version with this label answers with."""
    return str(_row(connection, model, label).content_sha256)


def list_models(connection: Connection, traffic: dict[str, tuple[dict[str, int], str | None]]) -> list[ModelEntry]:
    """All models by name; `traffic` says what answers for them."""
    versions: dict[str, list[str]] = {}
    updated: dict[str, float] = {}
    table = tables.versions
    for row in connection.execute(sa.select(table.c.model, table.c.version, table.c.created_at)):
        versions.setdefault(row.model, []).append(row.version)
        updated[row.model] = max(updated.get(row.model, 0.0), row.created_at)
    named: dict[str, dict[str, str]] = {}
    for row in connection.execute(sa.select(tables.aliases).order_by(tables.aliases.c.alias)):
        named.setdefault(row.model, {})[row.alias] = row.version
    return [
        ModelEntry(
            name=model,
            versions=len(versions[model]),
            newest=max(versions[model], key=natural_key),
            weights=traffic.get(model, ({}, None))[0],
            shadow=traffic.get(model, ({}, None))[1],
            aliases=named.get(model, {}),
            updated_at=updated[model],
        )
        for model in sorted(versions)
    ]


def list_audit(connection: Connection, model: str, limit: int) -> list[AuditEntry]:
    """The last entries about a model and its versions, newest first."""
    table = tables.audit
    rows = connection.execute(
        sa.select(table)
        .where(sa.or_(table.c.subject == model, table.c.subject.startswith(f"{model}@", autoescape=True)))
        .order_by(table.c.id.desc())
        .limit(limit)
    )
    return [AuditEntry(row.at, row.who, row.what, row.subject, json.loads(row.details)) for row in rows]


def _row(connection: Connection, model: str, label: str) -> Row[Any]:
    table = tables.versions
    return connection.execute(sa.select(table).where(table.c.model == model, table.c.version == label)).one()


def _version(row: Row[Any]) -> Version:
    data = row.manifest.encode()
    seen = hashlib.sha256(data).hexdigest()
    if seen != row.manifest_sha256:
        raise ChangedArtifact(
            f"the manifest of {row.model}@{row.version} was changed in the catalog: its SHA-256 is {seen}, committed "
            f"was {row.manifest_sha256}; restore the catalog from a backup, or push the model again"
        )
    return Version(
        model=row.model,
        version=row.version,
        state=row.state,
        manifest=manifests.decode(data),
        manifest_sha256=row.manifest_sha256,
        seq=row.seq,
        created_at=row.created_at,
        created_by=row.created_by,
    )
