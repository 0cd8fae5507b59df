"""Forms that were built or proved on this machine: kept in the home beside the versions, which never change.

compiled/<key>/
├─ proof.json        the proof, and the hash of every file
└─ forms/<name>/     the forms that serve

The key is what a proof holds for: the original's files, the libraries that open it, this Lagar, and the machine. What
does not look as it was written is not used, and compiled again.

given-up/<key>       why no form of a model serves here: one was wrong on a live row. Its key is the model alone, so
                     that another release of a library, or of Lagar, does not bring the form back.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

import lagar
from lagar import native
from lagar.registry.home import explained
from lagar.registry.manifest import Manifest
from lagar.registry.proof import ORIGINAL, Proof, installed_version, this_machine
from lagar.registry.store import sha256_of

_RECORD = "proof.json"
_FORMS = "forms"
_GIVEN_UP = "given-up"


class Kept(msgspec.Struct, frozen=True):
    """The file proof.json."""

    proof: Proof
    files: dict[str, str]
    """Path below `forms/` → SHA-256."""


_decoder = msgspec.json.Decoder(Kept)
"""Built once, at import: two threads that build what msgspec knows of a class at the same time crash the process."""


class Found(NamedTuple):
    """What was compiled for a version on this machine."""

    proof: Proof
    folders: Mapping[str, Path]
    """Form → where it lies."""
    sha256: str
    """Of the record: compiled again, it is another one."""


class Compiled:
    """The folder `compiled/` of a home."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._given_up = root.parent / _GIVEN_UP

    def find(self, manifest: Manifest) -> Found | None:
        """The proof for this machine and the folder of each form; None where there is none, or it was changed."""
        folder = self.root / key_of(manifest)
        try:
            record = (folder / _RECORD).read_bytes()
            kept = _decoder.decode(record)
            if any(sha256_of(folder / _FORMS / path) != sha256 for path, sha256 in kept.files.items()):
                return None
        except (OSError, msgspec.DecodeError):
            return None
        if not runs_here(kept.proof):
            return None
        with contextlib.suppress(OSError):
            os.utime(folder)  # `gc` leaves what was asked for within a day
        names = [part.name for part in kept.proof.served if part.name != ORIGINAL]
        folders = {name: folder / _FORMS / name for name in names}
        return Found(kept.proof, folders, hashlib.sha256(record).hexdigest())

    def record_of(self, manifest: Manifest) -> Path:
        """Where the record of a version lies, or would: its time says whether it was compiled again."""
        return self.root / key_of(manifest) / _RECORD

    def given_up(self, manifest: Manifest) -> str:
        """Why no form of a version serves here until it is compiled again; "" where one may."""
        try:
            return (self._given_up / content_key_of(manifest)).read_text()
        except OSError:
            return ""

    def keep(self, manifest: Manifest, proof: Proof, forms: Path) -> None:
        """Keep what was compiled, instead of what was there; `forms` holds a folder for each form that serves."""
        target = self.root / key_of(manifest)
        mark = self._given_up / content_key_of(manifest)
        with explained(self._given_up, "cannot hold what was given up"):
            if proof.given_up:
                self._given_up.mkdir(mode=0o700, parents=True, exist_ok=True)
                mark.write_text(proof.given_up)
            else:
                mark.unlink(missing_ok=True)
        with explained(self.root, "cannot hold compiled forms"):
            draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=self.place()))
            try:
                if forms.is_dir():
                    shutil.copytree(forms, draft / _FORMS)
                paths = sorted(path for path in draft.rglob("*") if path.is_file())
                files = {path.relative_to(draft / _FORMS).as_posix(): sha256_of(path) for path in paths}
                (draft / _RECORD).write_bytes(msgspec.json.encode(Kept(proof, files)))
                _put(draft, target)
            finally:
                shutil.rmtree(draft, ignore_errors=True)

    def place(self) -> Path:
        """The folder, for what is being compiled too: what a killed process leaves there goes with `unused`."""
        with explained(self.root, "cannot hold compiled forms"):
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self.root

    def forget(self, manifest: Manifest) -> None:
        """Remove what was compiled for a version here."""
        shutil.rmtree(self.root / key_of(manifest), ignore_errors=True)

    def unused(self, older_than_s: float) -> list[str]:
        """Names of folders that nobody has asked for since, drafts of killed processes too."""
        until = time.time() - older_than_s
        found = []
        with contextlib.suppress(FileNotFoundError):
            for folder in sorted(self.root.iterdir()):
                with contextlib.suppress(FileNotFoundError):
                    if folder.stat().st_mtime < until:
                        found.append(folder.name)
        return found

    def remove(self, name: str) -> None:
        """Remove one folder; who needs it compiles it again."""
        shutil.rmtree(self.root / name, ignore_errors=True)


def runs_here(proof: Proof) -> bool:
    """Whether the installation has what the forms that serve need: some of them Lagar's compiled walk through trees."""
    return native.path().exists() or all(part.name not in native.FORMS for part in proof.served)


def key_of(manifest: Manifest) -> str:
    """The name of the folder for a version on this machine."""
    machine = this_machine()
    libraries = sorted({**manifest.libraries, **manifest.original.libraries})
    lines = [
        content_key_of(manifest),
        *(f"{name} {installed_version(name)}" for name in libraries),
        f"{machine.onnxruntime} {machine.cpu} {lagar.__version__}",
    ]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def content_key_of(manifest: Manifest) -> str:
    """A hash of the original's files, how they are opened, and the signature: the model, wherever it is."""
    form = manifest.original
    lines = [
        *sorted(f"{entry.path}\0{entry.sha256}" for entry in form.files),
        f"{form.kind} {form.entry} {manifest.class_name}",
        msgspec.json.encode(manifest.signature, order="sorted").decode(),
    ]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _put(draft: Path, target: Path) -> None:
    """Put a folder into its place, whoever else does so at the same time."""
    for _ in range(3):
        with contextlib.suppress(OSError):
            os.rename(draft, target)
            return
        old = Path(tempfile.mkdtemp(prefix=".old-", dir=target.parent))
        with contextlib.suppress(OSError):
            os.rename(target, old / "it")
        shutil.rmtree(old, ignore_errors=True)
