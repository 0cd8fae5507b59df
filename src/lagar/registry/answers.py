"""What the verbs answer about models and versions: on the command line, over HTTP and in Python the same.

Times are UTC in ISO 8601. The structs need neither the catalog nor a server; the functions beside them read `Releases`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import msgspec

from lagar.errors import NotFound
from lagar.registry.manifest import Manifest
from lagar.registry.proof import Proof
from lagar.registry.signature import Field

if TYPE_CHECKING:  # the catalog brings SQLAlchemy, which a client does without
    from lagar.registry.garbage import Garbage
    from lagar.registry.releases import Generation, Releases, Traffic, Version


class TrafficCard(msgspec.Struct, frozen=True):
    """One row of a model's history: which versions answer from then on, and who said so."""

    weights: dict[str, int]
    """Version → percent; together 100."""
    shadow: str | None
    action: str
    """The verb that wrote it: "promote", "rollback", "traffic" or "retire"."""
    at: str
    by: str
    host: str
    note: str
    generation: int


class ModelCard(msgspec.Struct, frozen=True):
    """One model."""

    name: str
    live: dict[str, int]
    """Version → percent of the traffic; empty when nothing is live."""
    shadow: str | None
    newest: str
    """The last version in natural order."""
    versions: int
    """How many there are."""
    aliases: dict[str, str]
    updated_at: str
    """When a version was pushed last."""


class VersionCard(msgspec.Struct, frozen=True):
    """One version, in the words of a list."""

    model: str
    version: str
    state: str
    """Either "ready" or "retired"."""
    traffic: int
    """Percent of the model's traffic."""
    shadow: bool
    aliases: tuple[str, ...]
    kind: str
    task: str
    created_at: str
    created_by: str
    metrics: dict[str, float]
    note: str
    bytes: int
    manifest_sha256: str


class VersionReport(msgspec.Struct, frozen=True):
    """One version with its own record."""

    card: VersionCard
    manifest: Manifest
    proof: Proof | None = None
    """The race of its forms that holds where this is answered: compiled there, else of the push. None: it answers as it
    was saved."""


class GenerationCard(msgspec.Struct, frozen=True):
    """A change of traffic on its way: it is live everywhere once its state is "committed"."""

    number: int
    state: str
    """One of "prepare", "committed", "failed", "expired"."""
    model: str
    weights: dict[str, int]
    shadow: str | None
    reason: str
    """Why it failed."""
    waiting: tuple[str, ...]
    """Addresses of the servers that have not prepared it yet."""
    action: str
    by: str
    host: str
    note: str
    created_at: str


class GarbageCard(msgspec.Struct, frozen=True):
    """What `gc` removed, or would remove."""

    objects: int
    """Stored files."""
    bytes: int
    folders: int
    """Versions laid out on the server's disk, which are laid out again when they are needed."""
    dry_run: bool


class Told(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is told of an error."""

    code: str = ""
    message: str = ""
    field: str | None = None
    row: int | None = None
    request_id: str | None = None
    step: str | None = None
    """Of a refused push: where."""


class PushLine(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of the answer to a push over HTTP: a step that is done, or how it ended."""

    step: str = ""
    words: str = ""
    version: VersionReport | None = None
    error: Told | None = None


FOLDER_TYPE: Final = "application/vnd.lagar.folder+tar"
"""Content type of a pushed folder: a tar archive whose entries lie below the folder's own name."""


def moment(unix_s: float) -> str:
    """A time as it is written."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(unix_s))


def size_of(manifest: Manifest) -> int:
    """Bytes of all files of a version, each counted once."""
    return sum({entry.sha256: entry.bytes for form in manifest.forms for entry in form.files}.values())


def field_words(field: Field) -> str:
    """A field's rules in a few words: "float, nullable, 0 to 100"."""
    words: list[str] = [field.type]
    if field.categories is not None:
        shown = ", ".join(map(str, field.categories[:4]))
        words.append(f"{len(field.categories)} values ({shown}{', …' if len(field.categories) > 4 else ''})")
        if field.unknown == "allow":
            words.append("others allowed")
    if field.nullable:
        words.append("nullable")
    for word, bound in (("at least", field.minimum), ("at most", field.maximum)):
        if bound is not None:
            words.append(f"{word} {bound:g}")
    if field.has_default:
        words.append(f"default {field.default}")
    return ", ".join(words)


def model_cards(releases: Releases) -> tuple[ModelCard, ...]:
    """All models, by name."""
    return tuple(
        ModelCard(
            name=entry.name,
            live=entry.weights,
            shadow=entry.shadow,
            newest=entry.newest,
            versions=entry.versions,
            aliases=entry.aliases,
            updated_at=moment(entry.updated_at),
        )
        for entry in releases.models()
    )


def model_card(releases: Releases, name: str) -> ModelCard:
    """One model; raises NotFound."""
    card = next((card for card in model_cards(releases) if card.name == name), None)
    if card is None:
        raise NotFound(f"there is no model {name!r}: `lagar models` lists them, `lagar push NAME PATH` makes one")
    return card


def usual_version(card: ModelCard) -> str:
    """The version that is meant where none is named: the one with most of the traffic, else the newest."""
    return max(card.live, key=lambda label: card.live[label], default=card.newest)


def version_cards(releases: Releases, name: str) -> tuple[VersionCard, ...]:
    """The versions of a model in natural order; raises NotFound."""
    traffic, aliases = releases.traffic(name), releases.aliases(name)
    return tuple(_version_card(version, traffic, aliases) for version in releases.versions(name))


def version_report(releases: Releases, name: str, ref: str) -> VersionReport:
    """One version by its label or an alias; raises NotFound."""
    version = releases.get(name, ref)
    manifest = version.manifest
    proof = None if manifest.requirements else releases.proof(manifest)
    return VersionReport(_version_card(version, releases.traffic(name), releases.aliases(name)), manifest, proof)


def _version_card(version: Version, traffic: Traffic | None, aliases: Mapping[str, str]) -> VersionCard:
    manifest = version.manifest
    return VersionCard(
        model=version.model,
        version=version.version,
        state=version.state,
        traffic=0 if traffic is None else traffic.weights.get(version.version, 0),
        shadow=traffic is not None and traffic.shadow == version.version,
        aliases=tuple(sorted(alias for alias, label in aliases.items() if label == version.version)),
        kind=manifest.original.kind,
        task=manifest.signature.task,
        created_at=moment(version.created_at),
        created_by=version.created_by,
        metrics=manifest.metrics,
        note=manifest.note,
        bytes=size_of(manifest),
        manifest_sha256=version.manifest_sha256,
    )


def traffic_card(traffic: Traffic) -> TrafficCard:
    """One row of a history."""
    return TrafficCard(
        weights=traffic.weights,
        shadow=traffic.shadow,
        action=traffic.action,
        at=moment(traffic.at),
        by=traffic.by,
        host=traffic.host,
        note=traffic.note,
        generation=traffic.generation,
    )


def history_cards(releases: Releases, name: str) -> tuple[TrafficCard, ...]:
    """What has been live of a model, the newest first; raises NotFound."""
    return tuple(map(traffic_card, reversed(releases.history(name))))


def garbage_card(garbage: Garbage, *, dry_run: bool) -> GarbageCard:
    """What a collection did."""
    return GarbageCard(len(garbage.objects), garbage.bytes, garbage.folders, dry_run)


def generation_card(generation: Generation) -> GenerationCard:
    """A change of traffic as it stands."""
    traffic = generation.traffic.get(generation.model)
    return GenerationCard(
        number=generation.n,
        state=generation.state,
        model=generation.model,
        weights={} if traffic is None else traffic.weights,
        shadow=None if traffic is None else traffic.shadow,
        reason=generation.reason,
        waiting=generation.waiting,
        action=generation.action,
        by=generation.by,
        host=generation.host,
        note=generation.note,
        created_at=moment(generation.created_at),
    )


class Live(msgspec.Struct, frozen=True):
    """What answers for a model now."""

    weights: dict[str, int]
    shadow: str | None


def live_traffic(releases: Releases, name: str) -> Live:
    """What answers for a model; raises NotFound."""
    card = model_card(releases, name)
    return Live(card.live, card.shadow)
