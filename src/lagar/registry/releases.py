"""The registry as everyone uses it: versions are committed, named, promoted and rolled back here.

Catalog and store together: a version is a row of the catalog that names files in the store. A file is stored before
the row and looked for once more in the transaction that writes the row, so that no version ever lacks one.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType

import msgspec
from sqlalchemy import exc
from sqlalchemy.engine import Connection

from lagar import settings
from lagar.errors import ChangedArtifact, InvalidVersion, NotFound
from lagar.registry import difference, environments, garbage, generations, leases, records, tables, traffic
from lagar.registry import manifest as manifests
from lagar.registry.catalog import Catalog, open_catalog, record
from lagar.registry.compiled import Compiled, runs_here
from lagar.registry.difference import Difference
from lagar.registry.environments import Environments
from lagar.registry.garbage import DAY_S, Garbage
from lagar.registry.generations import Generation
from lagar.registry.home import Home, open_home
from lagar.registry.layout import Cache, files_of, form_of
from lagar.registry.leases import Server
from lagar.registry.manifest import Manifest
from lagar.registry.model import FormSource, ModelSource
from lagar.registry.proof import ORIGINAL, Proof, Served, this_machine
from lagar.registry.records import AuditEntry, ModelEntry, Version, Who
from lagar.registry.store import Store, open_store
from lagar.registry.traffic import Action, Split, Traffic

__all__ = [
    "AuditEntry", "Difference", "Garbage", "Generation", "ModelEntry", "Releases", "Server", "Split", "Traffic",
    "Version", "Who", "open_default", "open_releases",
]  # fmt: skip
"""The registry and what it answers with; who uses it needs no other module of this package."""

Clock = Callable[[Connection], float]
_ATTEMPTS = 5
_NAMED = 5
"""Versions that a message lists; the others are counted."""


class Releases:
    """An open registry; close it, or use it as a context manager. Threads may share it.

    Every method may raise CatalogAway, and those that touch files StoreAway; the next call tries again.
    """

    def __init__(self, catalog: Catalog, store: Store, cache: Cache, *, clock: Clock | None = None) -> None:
        self.catalog = catalog
        self.store = store
        self._cache = cache
        self.compiled = Compiled(cache.root.parent / "compiled")
        self.environments = Environments(cache.root.parent / environments.FOLDER)
        self._now = clock or catalog.now

    # ---- versions ------------------------------------------------------------------------------------------------

    def next_version(self, model: str) -> str:
        """The number that a push without a label would get now; `commit` chooses anew."""
        with self.catalog.read() as connection:
            return records.next_number(connection, model)

    def commit(self, manifest: Manifest, files: Mapping[str, Path], who: Who, *, alias: str | None = None) -> Version:
        """Store the files and make the version visible, all of it at once.

        `files` maps the paths in the manifest to files on disk. With `manifest.version` "" the version gets the next
        number. A label that is taken by the same content is that version, and nothing is written; by another content
        it raises VersionExists. Raises InvalidVersion for names and paths that cannot be, ChangedArtifact when a file
        is not what its hash says.
        """
        records.check(manifest)
        needed = {entry.sha256: entry.path for entry in records.entries(manifest)}
        missing = [path for path in needed.values() if path not in files]
        if missing:
            raise InvalidVersion(f"the manifest of {manifest.model} names files that are not there: {missing[:10]}")
        lost = list(needed)
        for attempt in range(_ATTEMPTS):
            self._store(lost, needed, files)
            try:
                with self.catalog.write() as connection:
                    lost = [sha256 for sha256 in needed if self.store.find(sha256) is None]
                    if lost and attempt:  # collected twice; not a third time, since a gc waits for us now
                        self._store(lost, needed, files)
                        lost = []
                    if not lost:
                        return self._insert(connection, manifest, who, alias)
            except exc.IntegrityError:
                continue  # someone else got the label: look again whose it is
        raise InvalidVersion(f"{manifest.model} could not be committed in {_ATTEMPTS} attempts: try again")

    def refuse_full(self) -> None:
        """Raise HomeError now where the home cannot hold another version."""
        open_home(self._cache.root.parent)

    def refuse_names(self, model: str, label: str | None, alias: str | None) -> None:
        """Raise now what `commit` would raise of these names later: InvalidVersion."""
        with self.catalog.read() as connection:
            aliases = records.aliases(connection, model)
            if label is not None:
                records.check_name(label, "a version")
                _refuse_alias(model, label, aliases)
            if alias is not None:
                _check_alias(connection, model, alias)
                if alias == label:
                    raise _clash(model, alias)

    def refuse_taken(self, model: str, label: str, may_be: Callable[[Manifest], bool]) -> None:
        """Raise VersionExists now where `commit` would later: the label is of a version that cannot be this one."""
        for there in self.get_many([(model, label)]):
            if not may_be(there.manifest):
                raise records.taken(model, label)

    def _store(self, hashes: Iterable[str], paths: Mapping[str, str], files: Mapping[str, Path]) -> None:
        for sha256 in hashes:
            self.store.put(files[paths[sha256]], sha256)

    def _insert(self, connection: Connection, manifest: Manifest, who: Who, alias: str | None) -> Version:
        model, label = manifest.model, manifest.version or records.next_number(connection, manifest.model)
        named = msgspec.structs.replace(manifest, version=label)
        _refuse_alias(model, label, records.aliases(connection, model))
        if records.label_exists(connection, model, label):
            if records.content_at(connection, model, label) != records.content_of(named):
                raise records.taken(model, label)
        else:
            records.insert(connection, named, who, self._now(connection))
            record(connection, "push", f"{model}@{label}", who.name, host=who.host)
        if alias is not None:
            self._name(connection, model, alias, label, who)
        return records.get(connection, model, label)

    def refused(self, model: str, step: str, why: str, who: Who) -> None:
        """Leave a push that was refused in the audit, and nowhere else."""
        with self.catalog.write() as connection:
            record(connection, "push.refused", model, who.name, host=who.host, step=step, why=why)

    def models(self) -> list[ModelEntry]:
        """All models by name."""
        with self.catalog.read() as connection:
            live = {model: (line.weights, line.shadow) for model, line in traffic.at(connection).items()}
            return records.list_models(connection, live)

    def versions(self, model: str) -> list[Version]:
        """The versions of a model in natural order, newest last; raises NotFound for an unknown model."""
        with self.catalog.read() as connection:
            records.require(connection, model)
            return records.list_versions(connection, model)

    def get(self, model: str, ref: str) -> Version:
        """The version with this label or alias; raises NotFound that says what there is."""
        with self.catalog.read() as connection:
            return records.get(connection, model, ref)

    def get_many(self, keys: Iterable[tuple[str, str]]) -> list[Version]:
        """The versions with these names and labels; those that are not there are left out."""
        with self.catalog.read() as connection:
            return records.get_many(connection, keys)

    def holding(self, sha256: str, limit: int = 50) -> list[Version]:
        """Versions of any model that have a file with this hash, newest first."""
        with self.catalog.read() as connection:
            return records.holding(connection, sha256, limit)

    def relabel(self, manifest: Manifest, who: Who) -> Version | None:
        """Commit content that is in the store already under another model or label; None when some of it is not.

        Raises what `commit` raises.
        """
        records.check(manifest)
        with self.catalog.write() as connection:
            if any(self.store.find(entry.sha256) is None for entry in records.entries(manifest)):
                return None
            return self._insert(connection, manifest, who, None)

    def diff(self, model: str, a: str, b: str) -> Difference:
        """What changes from version a to version b."""
        first, second = self.get(model, a).manifest, self.get(model, b).manifest
        return difference.compare(first, second, (self.proof(first), self.proof(second)))

    def audit(self, model: str, limit: int = 100) -> list[AuditEntry]:
        """The last entries about a model, newest first."""
        with self.catalog.read() as connection:
            return records.list_audit(connection, model, limit)

    def retire(self, model: str, ref: str, who: Who, *, undo: bool = False) -> Version:
        """Take a version out of use: it is loaded and promoted no more. Refused while it has traffic."""
        with self.catalog.write() as connection:
            label = records.resolve(connection, model, ref)
            if not undo:
                self._refuse_in_use(connection, model, label)
            table = tables.versions
            state = "ready" if undo else "retired"
            connection.execute(
                table.update().where(table.c.model == model, table.c.version == label).values(state=state)
            )
            what = "retire.undo" if undo else "retire"
            record(connection, what, f"{model}@{label}", who.name, host=who.host)
            return records.get(connection, model, label)

    def _refuse_in_use(self, connection: Connection, model: str, label: str) -> None:
        now = self._now(connection)
        pending = generations.in_preparation(connection, now)
        for n in (generations.last(connection), *([pending] if pending else [])):
            split = generations.get(connection, n, now).traffic.get(model)
            if split is not None and (label in split.weights or label == split.shadow):
                raise InvalidVersion(
                    f"{model}@{label} is in use ({traffic.describe(split)}): promote another version first"
                )

    # ---- aliases -------------------------------------------------------------------------------------------------

    def aliases(self, model: str) -> dict[str, str]:
        """Alias → version."""
        with self.catalog.read() as connection:
            return records.aliases(connection, model)

    def set_alias(self, model: str, alias: str, ref: str, who: Who) -> str:
        """Make the alias stand for a version, and move it there if it exists; the version. Moves no traffic."""
        with self.catalog.write() as connection:
            label = records.resolve(connection, model, ref)
            self._name(connection, model, alias, label, who)
            return label

    def drop_alias(self, model: str, alias: str, who: Who) -> None:
        """Forget an alias; raises NotFound for an unknown one."""
        table = tables.aliases
        with self.catalog.write() as connection:
            records.require(connection, model)
            where = (table.c.model == model, table.c.alias == alias)
            if connection.execute(table.delete().where(*where)).rowcount == 0:
                known = ", ".join(records.aliases(connection, model)) or "none"
                raise NotFound(f"{model} has no alias {alias!r}; it has {known}")
            record(connection, "alias.drop", model, who.name, host=who.host, alias=alias)

    def _name(self, connection: Connection, model: str, alias: str, label: str, who: Who) -> None:
        _check_alias(connection, model, alias)
        was = records.aliases(connection, model).get(alias)
        if was == label:
            return
        table = tables.aliases
        connection.execute(table.delete().where(table.c.model == model, table.c.alias == alias))
        connection.execute(
            table.insert().values(
                model=model, alias=alias, version=label, updated_at=self._now(connection), updated_by=who.name
            )
        )
        record(connection, "alias", f"{model}@{label}", who.name, host=who.host, alias=alias, was=was)

    # ---- traffic -------------------------------------------------------------------------------------------------

    def traffic(self, model: str) -> Traffic | None:
        """What answers for a model now; None where nothing does."""
        with self.catalog.read() as connection:
            return traffic.at(connection).get(model)

    def all_traffic(self) -> dict[str, Traffic]:
        """What answers for every model that is live."""
        with self.catalog.read() as connection:
            return traffic.at(connection)

    def is_unloaded(self, model: str) -> bool:
        """Whether a model was taken out of service as a whole: nothing of it is loaded until it is brought back."""
        with self.catalog.read() as connection:
            line = traffic.last(connection, model)
            return line is not None and line.action == "unload" and not line.weights

    def history(self, model: str) -> list[Traffic]:
        """Who put what into production, when and from where, oldest first; raises NotFound for an unknown model."""
        with self.catalog.read() as connection:
            records.require(connection, model)
            return traffic.history(connection, model)

    def propose(
        self, model: str, weights: Mapping[str, int], who: Who, *, action: Action = "promote", note: str = "",
        shadow: str | None = None,
    ) -> int:  # fmt: skip
        """Prepare a change of traffic: a new generation, or the one that already is just so; its number.

        Weights are percentages of labels or aliases and add up to 100; {} lets nothing answer. Where no server lives
        the generation is committed at once. Raises PromoteRefused while another is prepared, naming whose it is;
        NotFound; InvalidVersion for weights that cannot be and for a retired version.
        """
        with self.catalog.write() as connection:
            split = traffic.checked(connection, model, Split(dict(weights), shadow))
            records.require(connection, model)
            last = traffic.last(connection, model)
            if last is not None and last.split == split and generations.in_preparation(connection, 0.0) is None:
                return last.generation
            return generations.propose(
                connection, model, split, who, action=action, note=note,
                before=None if last is None else last.id, now=self._now(connection),
            )  # fmt: skip

    def rollback(self, model: str, who: Who, *, note: str = "") -> int:
        """Propose the traffic that was before the present one, weights and shadow; again, the one before that.

        Raises InvalidVersion where nothing was before, or a version of it is retired; PromoteRefused; NotFound.
        """
        with self.catalog.write() as connection:
            split, before = traffic.previous(connection, model)
            return generations.propose(
                connection, model, traffic.checked(connection, model, split), who, action="rollback", note=note,
                before=before, now=self._now(connection),
            )  # fmt: skip

    # ---- generations and servers ---------------------------------------------------------------------------------

    def generation(self, n: int) -> Generation:
        """A generation as it stands; raises NotFound."""
        with self.catalog.read() as connection:
            return generations.get(connection, n, self._now(connection))

    def current(self) -> Generation:
        """The last committed generation; number 0, with nothing live, where there is none."""
        with self.catalog.read() as connection:
            return generations.get(connection, generations.last(connection), self._now(connection))

    def current_number(self) -> int:
        """The number of `current`."""
        with self.catalog.read() as connection:
            return generations.last(connection)

    def pending(self) -> Generation | None:
        """The generation that waits for servers."""
        with self.catalog.read() as connection:
            now = self._now(connection)
            n = generations.in_preparation(connection, now)
            return None if n is None else generations.get(connection, n, now)

    def report(self, n: int, server_id: str, ok: bool, reason: str = "") -> None:
        """Say that this server has prepared generation n in every worker, or why it cannot: then it has failed."""
        with self.catalog.write() as connection:
            generations.report(connection, n, server_id, ok, reason, self._now(connection))

    def try_commit(self, n: int) -> bool:
        """Commit generation n if every live server has prepared it; whether it is committed, by whomever.

        A preparation that has taken more than 60 s ends here. Call it after each report, and each second: a server
        that lapses is no longer waited for.
        """
        with self.catalog.write(quiet=True) as connection:
            before = generations.get(connection, n, 0.0).state
            after = generations.decide(connection, n, self._now(connection))
            if after != before:
                self.catalog.tell(connection)
            return after == "committed"

    def lease(self, server_id: str, url: str, generation: int | None, ready: bool, reason: str = "") -> bool:
        """Say that this server lives, for 10 s from now; whether its lease had lasted until now.

        `generation` is what it serves, None while it starts. After False, a server that serves must take the current
        generation before it is ready again.
        """
        with self.catalog.write(quiet=True) as connection:
            now = self._now(connection)
            unbroken, news = leases.renew(connection, server_id, url, generation, ready, reason, now)
            if news:
                self.catalog.tell(connection)
            return unbroken

    def release(self, server_id: str) -> None:
        """Give the lease back: the server ends."""
        with self.catalog.write() as connection:
            leases.release(connection, server_id)

    def servers(self) -> list[Server]:
        """The servers on this catalog, those that have lapsed within the last hour too."""
        with self.catalog.read() as connection:
            return leases.list_servers(connection, self._now(connection))

    # ---- files ---------------------------------------------------------------------------------------------------

    def lay_out(self, manifest: Manifest, form: str = "original") -> Path:
        """A local folder with the files of a form, every one checked; see `Cache.lay_out` for what it raises."""
        try:
            return self._cache.lay_out(manifest, form)
        except ChangedArtifact as error:
            raise ChangedArtifact(error.message + self._part_of(error.sha256)) from error

    def _part_of(self, sha256: str) -> str:
        """Which versions a damaged stored file belongs to, as the end of a message."""
        found = [f"{version.model}@{version.version}" for version in self.holding(sha256)] if sha256 else []
        more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
        return f"; it is part of {', '.join(found[:_NAMED])}{more}" if found else ""

    def source(self, version: Version, form: str = "original") -> ModelSource:
        """The version laid out, as `runtimes.load` takes it. Raises what `lay_out` raises."""
        manifest, chosen = version.manifest, form_of(version.manifest, form)
        root = self.lay_out(manifest, form)
        own = environments.key_for(manifest) if chosen is manifest.original else None
        data = manifests.encode(manifest)
        forms = self.forms(manifest) if chosen is manifest.original else ()
        return ModelSource(
            name=version.model,
            version=version.version,
            path=str(root / chosen.entry),
            kind=chosen.kind,
            pickled=manifest.pickled and chosen is manifest.original,
            folder=str(root),
            code=tuple(str(root / path) for path in manifest.code),
            handlers=None if manifest.handlers is None else str(root / manifest.handlers),
            class_name=manifest.class_name,
            field_rules=manifest.field_rules,
            options=manifest.options,
            trust=manifest.trust,
            sha256=_sha256_of(manifest, form),
            manifest=str(self._cache.write_manifest(data, version.manifest_sha256)),
            libraries=tuple(sorted(chosen.libraries or manifest.libraries)),
            forms=forms,
            given_up="" if forms else self.given_up(manifest),
            requirements=manifest.requirements if own is not None else (),
            environment=None if own is None else str(self.environments.root / own),
            memory_bytes=manifest.memory_bytes,
        )

    def lock(self, manifest: Manifest) -> str:
        """The text of a version's lock; raises ChangedArtifact, StoreAway."""
        if manifest.lock is None:
            return ""
        with tempfile.TemporaryDirectory(prefix="lagar-lock-") as folder:
            path = Path(folder) / "lock.txt"
            self.store.fetch(manifest.lock.sha256, path)
            return path.read_text()

    def touch(self, source: ModelSource) -> None:
        """Say that a laid-out version is still in use: `gc` leaves it for another day."""
        self._cache.touch(Path(source.folder or source.path).name)

    def proof(self, manifest: Manifest) -> Proof | None:
        """The proof that holds on this machine: of what was compiled here, else of the push; None where none does."""
        found = self.compiled.find(manifest)
        if found is not None:
            return found.proof
        words = self.compiled.given_up(manifest)
        if words:
            return Proof(this_machine(), {}, served=(Served(ORIGINAL, 1, None),), words=words, given_up=words)
        pushed = manifest.proof
        holds = pushed is not None and pushed.machine == this_machine() and runs_here(pushed)
        return pushed if holds else None

    def given_up(self, manifest: Manifest) -> str:
        """Why no form serves a version here any more, where one was wrong on a live row; "" where none was."""
        proof = self.proof(manifest)
        return "" if proof is None else proof.given_up

    def forms(self, manifest: Manifest) -> tuple[FormSource, ...]:
        """What serves a version here: proved forms; () for the original by itself. Raises what `lay_out` raises."""
        proof = self.proof(manifest)
        if proof is None or manifest.requirements or all(part.name == ORIGINAL for part in proof.served):
            return ()
        found = self.compiled.find(manifest)
        attempts = {attempt.name: attempt for attempt in proof.attempts}
        forms: list[FormSource] = []
        for part in proof.served:
            if part.name == ORIGINAL:
                forms.append(FormSource(ORIGINAL, None, part.max_rows))
                continue
            if found is not None:
                folder = found.folders[part.name]
            else:
                folder = self.lay_out(manifest, part.name) / form_of(manifest, part.name).entry
            attempt = attempts[part.name]
            libraries = tuple(sorted(attempt.libraries))
            sha256 = "" if found is None else found.sha256
            forms.append(
                FormSource(part.name, str(folder), part.max_rows, attempt.criterion, libraries, sha256, attempt.margin)
            )
        return tuple(forms)

    def gc(self, older_than_s: float = DAY_S, *, dry_run: bool = False) -> Garbage:
        """Remove what no version needs and nobody has touched for so long; see `garbage`."""
        return garbage.collect(
            self.catalog, self.store, self._cache, self.environments, self.compiled, older_than_s, dry_run
        )

    # ---- changes -------------------------------------------------------------------------------------------------

    def changed(self) -> bool:
        """Whether anyone has changed the catalog since the last call; renewed leases do not count."""
        return self.catalog.changed()

    def wait_changed(self, timeout_s: float) -> bool:
        """Wait for a change, at most so long."""
        return self.catalog.wait_changed(timeout_s)

    def close(self) -> None:
        self.catalog.close()

    def __enter__(self) -> Releases:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_releases(
    home: Path | Home, *, catalog: str | None = None, store: str | None = None, endpoint: str | None = None,
    clock: Clock | None = None,
) -> Releases:  # fmt: skip
    """The registry of a home; `catalog`, `store` and `endpoint` are what LAGAR_CATALOG, LAGAR_STORE and AWS's say.

    Raises HomeError, CatalogAway, SettingsError, MissingLibrary.
    """
    place = home if isinstance(home, Home) else open_home(home, full=True)
    files = open_store(place, store, endpoint)
    return Releases(open_catalog(place, catalog), files, Cache(place.cache, files), clock=clock)


def open_default() -> Releases:
    """The registry that LAGAR_HOME, LAGAR_CATALOG and LAGAR_STORE name."""
    return open_releases(
        settings.home_path()[0],
        catalog=settings.catalog_url(),
        store=settings.store_url(),
        endpoint=settings.s3_endpoint(),
    )


def _refuse_alias(model: str, label: str, aliases: Mapping[str, str]) -> None:
    if label in aliases:
        raise InvalidVersion(f"{label!r} is an alias of {model}: push under another label, or drop the alias")


def _check_alias(connection: Connection, model: str, alias: str) -> None:
    records.check_name(alias, "an alias")
    if records.label_exists(connection, model, alias):
        raise _clash(model, alias)


def _clash(model: str, alias: str) -> InvalidVersion:
    return InvalidVersion(f"{alias!r} is a version of {model} and cannot be an alias too: choose another word")


def _sha256_of(manifest: Manifest, form: str) -> str:
    """The hash of the model file, where the form is one."""
    entry = form_of(manifest, form).entry
    return next((file.sha256 for file in files_of(manifest, form) if file.path == entry), "")
