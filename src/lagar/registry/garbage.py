"""What no version needs: stored files of pushes that were killed or refused, folders laid out long ago, and forms that
were compiled for another release of Lagar or of a library.

An object goes only when no version names it and nobody has stored it anew for a day, which is looked at once more in
a transaction that writes: a push looks for its files in one too, and the two take turns. So either the push comes
first, and the object is named, or it finds the object gone and stores it again.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Final

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from lagar.registry import environments, layout, records, traffic
from lagar.registry.catalog import Catalog
from lagar.registry.compiled import Compiled, key_of
from lagar.registry.environments import Environments
from lagar.registry.layout import Cache
from lagar.registry.manifest import Manifest
from lagar.registry.store import Store, Stored
from lagar.registry.tables import artifacts

DAY_S: Final = 86_400.0
_BATCH: Final = 50
"""Objects per transaction: others wait meanwhile."""


class Garbage(msgspec.Struct, frozen=True):
    """What was removed, or would be."""

    objects: tuple[Stored, ...]
    bytes: int
    folders: int
    """Laid-out versions, forms compiled here, and environments: they can be made again."""


def collect(
    catalog: Catalog, store: Store, cache: Cache, places: Environments, compiled: Compiled, older_than_s: float,
    dry_run: bool,
) -> Garbage:  # fmt: skip
    """Remove, or with `dry_run` only list, what is unneeded and untouched for so many seconds."""
    until = store.now() - older_than_s
    with catalog.read() as connection:
        needed = set(connection.scalars(sa.select(artifacts.c.sha256)))
        live = _live(connection)
        forms = _without_version(connection, compiled.unused(older_than_s))
    keys = {layout.key_of(layout.files_of(manifest, form.name)) for manifest in live for form in manifest.forms}
    old = [found for found in store.objects() if found.modified_at < until and found.sha256 not in needed]
    folders = list(cache.unused(older_than_s, keys))
    kept = [key for manifest in live if (key := environments.key_for(manifest))]
    unneeded = list(places.unused(older_than_s, kept))
    if not dry_run:
        old = _remove(catalog, store, old, until)
        for key in folders:
            cache.remove(key)
        for name in forms:
            compiled.remove(name)
        unneeded = [key for key in unneeded if places.remove(key)]
        store.sweep(older_than_s)
    return Garbage(tuple(old), sum(found.bytes for found in old), len(folders) + len(forms) + len(unneeded))


def _without_version(connection: Connection, folders: list[str]) -> list[str]:
    """Those that hold forms of no version: it is retired, or they are of other releases of Lagar or of a library."""
    if not folders:
        return []
    needed = {key_of(version.manifest) for version in records.every(connection) if version.state != "retired"}
    return [name for name in folders if name not in needed]


def _remove(catalog: Catalog, store: Store, candidates: Iterable[Stored], until: float) -> list[Stored]:
    removed: list[Stored] = []
    left = iter(candidates)
    while batch := list(islice(left, _BATCH)):
        with catalog.write(quiet=True) as connection:
            hashes = [found.sha256 for found in batch]
            needed = set(connection.scalars(sa.select(artifacts.c.sha256).where(artifacts.c.sha256.in_(hashes))))
            for sha256 in hashes:
                now = store.find(sha256) if sha256 not in needed else None
                if now is not None and now.modified_at < until:
                    store.delete(sha256)
                    removed.append(now)
    return removed


def _live(connection: Connection) -> list[Manifest]:
    """The versions that answer now: a library may read from their folders long after they were loaded."""
    found: list[Manifest] = []
    for model, line in traffic.at(connection).items():
        labels = (*line.weights, *([line.shadow] if line.shadow else []))
        found += [records.get(connection, model, label).manifest for label in labels]
    return found
