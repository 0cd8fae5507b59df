"""A version's own record: written once, when the version is committed, and never changed.

Everything that changes later (traffic, aliases, whether it is retired) is a catalog row and not in here.
"""

from __future__ import annotations

from typing import Any

import msgspec

from lagar.registry.model import Kind
from lagar.registry.proof import Criterion, Proof
from lagar.registry.signature import Signature

FORMAT = 1


class FileEntry(msgspec.Struct, frozen=True):
    """One file of a version: where it lies in the version's folder, and what it must contain."""

    path: str
    """Relative, with forward slashes; never absolute, never with "..": checked when it is laid out."""
    sha256: str
    bytes: int


class Form(msgspec.Struct, frozen=True, omit_defaults=True):
    """One way to run a version: the original, or a faster form that was proved against it."""

    name: str
    """The word "original", or the name of a compiled form."""
    kind: Kind
    """The runtime that opens it."""
    entry: str
    """Path of the model file or folder among `files`; "" for the version's whole folder."""
    files: tuple[FileEntry, ...]
    min_rows: int = 1
    max_rows: int | None = None
    """Serves calls of min_rows to max_rows rows; None: no upper bound."""
    libraries: dict[str, str] = {}
    """Library → version that it was checked with."""
    criterion: Criterion | None = None
    """How close to the original it was proved to be; None for the original."""
    margin: float = 0.0
    """Rows whose two likeliest classes are no further apart are answered by the original."""


class Golden(msgspec.Struct, frozen=True):
    """Recorded inputs with the outputs that every load must give again."""

    records: tuple[dict[str, Any], ...]
    outputs: dict[str, list[Any]]
    """Output name → one value (or list) per record; numbers are exact in JSON."""


class Step(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one step of intake did, in words for `lagar show`."""

    name: str
    seconds: float
    words: tuple[str, ...] = ()


class Provenance(msgspec.Struct, frozen=True, omit_defaults=True):
    """Who pushed what from where."""

    who: str
    host: str
    at: float
    """Unix seconds."""
    source: str
    """Name of the file or folder that was pushed, without its path."""
    lagar: str
    git_commit: str | None = None
    git_dirty: bool = False


class Manifest(msgspec.Struct, frozen=True, omit_defaults=True):
    """One immutable version."""

    format: int
    model: str
    version: str
    signature: Signature
    forms: tuple[Form, ...]
    """The first is the original."""
    golden: Golden
    python: str
    libraries: dict[str, str]
    provenance: Provenance
    pickled: bool = False
    trust: bool = False
    class_name: str | None = None
    handlers: str | None = None
    """Relative path of handlers.py."""
    code: tuple[str, ...] = ()
    """Relative paths that become importable."""
    field_rules: dict[str, dict[str, Any]] = {}
    options: dict[str, Any] = {}
    example: str = ""
    """The rows it was tried with: a path among its files, or the SHA-256 of a file that lay beside it."""
    requirements: tuple[str, ...] = ()
    """What an environment for this version must hold, as requirement lines; () for this Lagar's own environment."""
    lock: FileEntry | None = None
    profile: FileEntry | None = None
    """Reference statistics of the training data."""
    memory_bytes: int = 0
    """What loading it adds to a fresh process."""
    load_s: float = 0.0
    metrics: dict[str, float] = {}
    note: str = ""
    steps: tuple[Step, ...] = ()
    proof: Proof | None = None
    """The race of its forms on the machine that pushed it; None where nothing was compiled."""
    compile_later: bool = False
    """True: it was pushed as it was saved, and the servers that answer with it build its forms."""

    @property
    def original(self) -> Form:
        return self.forms[0]


_decoder = msgspec.json.Decoder(Manifest)


def encode(manifest: Manifest) -> bytes:
    """The manifest as its file: JSON, with the keys of a record in the order in which people gave them."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=1)


def canonical(manifest: Manifest) -> bytes:
    """JSON with sorted keys: manifests that say the same are the same bytes."""
    return msgspec.json.encode(manifest, order="sorted")


def decode(data: bytes) -> Manifest:
    """The manifest in these bytes; raises msgspec.ValidationError."""
    return _decoder.decode(data)
