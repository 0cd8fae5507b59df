"""What the servers of the tests have taken in: a model's intake is paid once per session, not once per server.

A home that is shared by all processes of the session remembers each version that any server has made of a path. A
server that is about to serve the same content finds it in its own home.
"""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections.abc import Iterable
from pathlib import Path

import msgspec

from lagar.errors import LagarError
from lagar.intake.content import fingerprint
from lagar.registry.records import entries
from lagar.registry.releases import Releases, Version, Who, open_releases

WHO = Who("tests", "tests")
_memory: Releases | None = None


def remember_in(folder: Path) -> None:
    """Where the versions of this session are kept."""
    global _memory
    _memory = open_releases(folder)


def forget() -> None:
    global _memory
    if _memory is not None:
        _memory.close()
        _memory = None


def give(home: Path, paths: Iterable[str | Path]) -> None:
    """Put the known versions of what lies at the paths into a home."""
    if _memory is None:
        return
    present = set(map(_sha256, _files(paths)))
    found = {version.seq: version for sha256 in present for version in _memory.holding(sha256)}
    found = {
        seq: version
        for seq, version in found.items()
        if {entry.sha256 for entry in version.manifest.original.files} <= present
    }
    if found:
        with open_releases(home) as releases:
            for version in found.values():
                _copy(version, version.version.rpartition(".")[0], _memory, releases)


def learn(home: Path) -> None:
    """Remember every version that a home has."""
    if _memory is None:
        return
    with open_releases(home) as releases:
        for model in releases.models():
            for version in releases.versions(model.name):
                _copy(version, f"{version.version}.{fingerprint(version.manifest)[:8]}", releases, _memory)


def _copy(version: Version, label: str, source: Releases, target: Releases) -> None:
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(LagarError):
        files = {}
        for entry in entries(version.manifest):
            files[entry.path] = Path(folder) / f"{len(files)}"
            source.store.fetch(entry.sha256, files[entry.path])
        target.commit(msgspec.structs.replace(version.manifest, version=label), files, WHO)


def _files(paths: Iterable[str | Path]) -> list[Path]:
    found: list[Path] = []
    for path in map(Path, paths):
        found += [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    return [file for file in found if file.is_file()][:200]


def _sha256(path: Path) -> str:
    with contextlib.suppress(OSError), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
    return ""
