"""Versions that answer as they were saved are compiled beside everything else, one after the other.

What a push has proved on another machine is proved again here; what was never compiled is built where the push or the
server says so. Whoever asks `done` gets the sources to serve instead, of what `lagar compile` has made meanwhile too.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterable
from pathlib import Path

import msgspec

from lagar.errors import LagarError
from lagar.logs import Log
from lagar.registry.manifest import Manifest
from lagar.registry.model import ModelSource
from lagar.registry.proof import verdict
from lagar.registry.releases import Releases, Version

Key = tuple[str, str]
"""Name and version."""


class Compiler:
    """The compilations of one server."""

    def __init__(self, releases: Releases, log: Log, *, build: bool) -> None:
        self._releases = releases
        self._log = log
        self._build = build
        """False: only what a push has compiled elsewhere, or has left to be compiled later."""
        self._wanted: queue.SimpleQueue[ModelSource] = queue.SimpleQueue()
        self._known: set[Key] = set()
        self._records: dict[Key, tuple[Manifest, Path]] = {}
        self._seen: dict[Key, tuple[int, int]] = {}
        """How the record of what was compiled for a version looked last."""
        self._thread: threading.Thread | None = None

    def want(self, sources: Iterable[ModelSource]) -> None:
        """Compile those that have no forms, each once."""
        for source in sources:
            key = source.name, source.version
            if source.forms or source.requirements or key in self._known:
                continue
            self._known.add(key)
            self._wanted.put(source)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="compiling", daemon=True)
                self._thread.start()

    def done(self, sources: Iterable[ModelSource]) -> dict[Key, ModelSource]:
        """Name and version → what can be served now instead of these: compiled since, here or by `lagar compile`.

        Each is told once. Asks the catalog and the disk.
        """
        found: dict[Key, ModelSource] = {}
        for source in sources:
            key = source.name, source.version
            if source.requirements or not self._is_new(key):
                continue
            forms = self._releases.forms(self._records[key][0])
            if forms != source.forms:
                given_up = "" if forms else self._releases.given_up(self._records[key][0])
                found[key] = msgspec.structs.replace(source, forms=forms, given_up=given_up)
        return found

    def _is_new(self, key: Key) -> bool:
        if key not in self._records:
            manifest = self._releases.get(*key).manifest
            self._records[key] = manifest, self._releases.compiled.record_of(manifest)
        try:
            status = self._records[key][1].stat()
        except OSError:
            return False  # not compiled, or just now being put in place of an older one
        stamp = status.st_mtime_ns, status.st_ino
        if self._seen.get(key) == stamp:
            return False
        self._seen[key] = stamp
        return True

    def now(self, source: ModelSource) -> ModelSource:
        """The same compiled before it serves; as it was saved where that cannot be."""
        if source.forms or source.requirements:
            return source
        self._known.add((source.name, source.version))
        return self._compiled(source, yields=False) or source

    def _run(self) -> None:
        while True:
            self._compiled(self._wanted.get(), yields=True)

    def _compiled(self, source: ModelSource, *, yields: bool) -> ModelSource | None:
        """The source with its forms; None where the original goes on."""
        label = f"{source.name}@{source.version}"
        started = time.monotonic()
        try:
            version = self._releases.get(source.name, source.version)
            words = self._proved(version, yields=yields)
            found = self._releases.source(version)
        except LagarError as error:
            self._log.warning(f"{label} could not be compiled; it serves as it was saved", reason=error.message)
            return None
        except Exception as error:  # whatever it is, what serves goes on
            self._log.error(f"{label} could not be compiled; it serves as it was saved", exc_info=error)
            return None
        if words:
            self._log.info(f"{label} compiled in {time.monotonic() - started:.1f} s: {words}")
        return msgspec.structs.replace(source, forms=found.forms, given_up="") if found.forms else None

    def _proved(self, version: Version, *, yields: bool) -> str:
        """Compile a version unless that was done; what came of it."""
        from lagar.intake import compilation

        manifest = version.manifest
        if self._releases.proof(manifest) is not None:
            return ""
        if manifest.proof is not None:
            proof = compilation.prove_again(self._releases, version, yields=yields)
        elif self._build or manifest.compile_later:
            proof = compilation.compile_again(self._releases, version, yields=yields)
        else:
            return ""
        return "" if proof is None else verdict(proof)
