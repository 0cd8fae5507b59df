"""Which of the live versions a server loads at once: a thousand may be live, and most of them wait to be asked for.

What has just gone live is loaded and checked before it answers. A process that starts loads what is pinned, one
version for each set of libraries (so that no later load has to import one beside requests), and what went live last.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec

from lagar.control.equipment import Equipment
from lagar.control.pins import absence
from lagar.errors import ChangedArtifact, NotFound
from lagar.logs import Log
from lagar.registry.generations import Generation
from lagar.registry.model import ModelInfo, ModelSource, without_folders
from lagar.registry.releases import Releases, Version
from lagar.registry.traffic import Split
from lagar.server.channel import Prepare

AT_START = 64
"""Live versions that a process loads when it starts; the others on their first request."""

Key = tuple[str, str]
"""Name and version."""


class Choice:
    """Turns generations into what the workers are told."""

    def __init__(
        self,
        releases: Releases,
        equipment: Equipment,
        log: Log,
        pins: Sequence[str],
        tell_live: Callable[[tuple[ModelInfo, ...]], None],
    ) -> None:
        self._releases = releases
        self._log = log
        self._equipment = equipment
        self._pins = pins
        self._tell_live = tell_live
        self._infos: dict[Key, ModelInfo] = {}
        """Every live version, as its manifest has it."""
        self._sources: dict[Key, ModelSource] = {}
        """Versions whose files this process has checked and laid out."""
        self._absent: set[str] = set()
        """Pins that nothing is loaded of, as the log was told."""
        self._left_out: set[Key] = set()
        """Live versions whose files were changed, as the log was told."""
        self._taken: tuple[int, frozenset[Key]] | None = None
        """The generation that the workers answer with, and its versions."""

    def prepare(self, generation: Generation, serving: int) -> Prepare:
        """What the workers need of a generation; the files of what is new in it are checked and on this machine's disk.

        `serving` is the generation that they have, -1 for none. Raises what `Releases.source` raises.
        """
        shares = {model: _shares(split) for model, split in generation.traffic.items()}
        live = {model: max(split, key=lambda label: split[label]) for model, split in shares.items() if split}
        keys = {(model, label) for model, split in shares.items() for label in split}
        new = sorted(keys - self._before(serving))
        self._learn(keys)
        chosen = self._chosen(generation, keys, new if serving >= 0 else [])
        sources = self._laid_out(chosen, new, must=set(new) if serving >= 0 else set())
        weights = {model: split for model, split in shares.items() if len(split) > 1}
        return Prepare(generation.n, tuple(sources), live, weights)

    def taken(self, generation: Generation) -> None:
        """The workers answer with it now."""
        keys = _keys(generation.traffic)
        self._taken = generation.n, frozenset(keys)
        self._sources = {key: source for key, source in self._sources.items() if key in keys}
        self._infos = {key: info for key, info in self._infos.items() if key in keys}
        most = {model: max(shares, key=lambda label: shares[label]) for model, shares in _splits(generation.traffic)}
        self._tell_live(
            tuple(_told(info, live=most[info.name] == info.version) for _, info in sorted(self._infos.items()))
        )

    def sources(self) -> tuple[ModelSource, ...]:
        """What the workers were given."""
        return tuple(self._sources.values())

    def replace(self, sources: Mapping[Key, ModelSource]) -> None:
        """Other forms of versions are to be loaded from now on."""
        self._sources |= {key: source for key, source in sources.items() if key in self._sources}

    def _before(self, serving: int) -> frozenset[Key]:
        if serving < 0:
            return frozenset()
        if self._taken is None or self._taken[0] != serving:  # another control process gave it to them
            self._taken = serving, frozenset(_keys(self._releases.generation(serving).traffic))
        return self._taken[1]

    def _learn(self, keys: set[Key]) -> None:
        for version in self._releases.get_many(keys - self._infos.keys()):
            self._infos[version.model, version.version] = _info(version)

    def _chosen(self, generation: Generation, keys: set[Key], new: list[Key]) -> list[Key]:
        """New ones first, then what is pinned, then what any process loads at its start."""
        since = {model: traffic.generation for model, traffic in self._releases.all_traffic().items()}
        recent = sorted(keys, key=lambda key: (-since.get(key[0], generation.n), key))
        first_of_kind: dict[object, Key] = {}
        for key in recent:
            info = self._infos.get(key)
            if info is not None:
                first_of_kind.setdefault((info.kind, tuple(sorted(info.libraries))), key)
        needed = list(dict.fromkeys([*new, *self._pinned(keys)]))
        return list(dict.fromkeys([*needed, *first_of_kind.values(), *recent]))[: max(AT_START, len(needed))]

    def _pinned(self, keys: set[Key]) -> list[Key]:
        found: list[Key] = []
        for pin in self._pins:
            name, _, label = pin.partition("@")
            matching = [(name, label)] if label else sorted(key for key in keys if key[0] == name)
            if not matching:
                self._tell_absent(pin)
            elif not label:
                self._absent.discard(pin)
            found += matching
        return found

    def _tell_absent(self, pin: str, why: str = "") -> None:
        """Say once why nothing is loaded of a pin, and what would bring it."""
        if pin not in self._absent:
            self._absent.add(pin)
            self._log.warning("nothing is loaded of a pin", pin=pin, reason=why or absence(self._releases, pin))

    def _laid_out(self, chosen: list[Key], new: list[Key], must: set[Key]) -> list[ModelSource]:
        """The chosen versions on disk; those that the workers have not had yet are checked now.

        One whose files were changed is left out unless it must be there: a request for it is told why, and the others
        are served.
        """
        unchecked = [key for key in chosen if key in new or key not in self._sources]
        versions = {(version.model, version.version): version for version in self._releases.get_many(unchecked)}
        self._equipment.require(version.manifest for version in versions.values() if version.state != "retired")
        for key in unchecked:
            version = versions.get(key)
            pin = f"{key[0]}@{key[1]}"
            if version is None and pin in self._pins:
                self._tell_absent(pin)
                continue
            if version is None:
                raise NotFound(f"{pin} is live and not in the catalog: restore the catalog from a backup")
            if version.state == "retired":  # nothing retired is live, so it is pinned only
                self._tell_absent(pin, f"it is retired: `lagar retire {key[0]} {key[1]} --undo` brings it back")
                continue
            try:
                self._sources[key] = self._releases.source(version)
            except ChangedArtifact as error:
                if key in must:
                    raise
                self._sources.pop(key, None)
                if key not in self._left_out:
                    self._left_out.add(key)
                    self._log.error("a live version is not loaded", reason=error.message)
            else:
                self._left_out.discard(key)
                self._absent.discard(pin)
        return [self._sources[key] for key in chosen if key in self._sources]


def _info(version: Version) -> ModelInfo:
    manifest = version.manifest
    signature = manifest.signature
    return ModelInfo(
        name=version.model,
        version=version.version,
        kind=manifest.original.kind,
        signature=signature,
        state="unloaded",
        libraries=dict(manifest.original.libraries or manifest.libraries),
        has_preprocess=manifest.handlers is not None,
        has_postprocess=manifest.handlers is not None,
    )


def _told(info: ModelInfo, *, live: bool) -> ModelInfo:
    signature = msgspec.structs.replace(info.signature, origin=without_folders(info.signature.origin))
    return msgspec.structs.replace(info, live=live, signature=signature)


def _shares(split: Split) -> dict[str, int]:
    return {label: weight for label, weight in split.weights.items() if weight > 0}


def _splits(traffic: Mapping[str, Split]) -> list[tuple[str, dict[str, int]]]:
    return [(model, shares) for model, split in traffic.items() if (shares := _shares(split))]


def _keys(traffic: Mapping[str, Split]) -> set[Key]:
    return {(model, label) for model, shares in _splits(traffic) for label in shares}
