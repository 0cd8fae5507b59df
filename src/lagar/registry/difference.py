"""What is different between two versions of a model: fields, outputs, metrics, libraries, the rest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from lagar.registry.manifest import Manifest
from lagar.registry.proof import ORIGINAL, Proof

Part = Literal["input", "output", "signature", "metric", "library", "model"]


class Change(msgspec.Struct, frozen=True):
    """One difference; None stands for what one of the two does not have."""

    part: Part
    name: str
    a: Any
    b: Any


class Difference(msgspec.Struct, frozen=True):
    """All differences between the versions a and b of a model."""

    model: str
    a: str
    b: str
    changes: tuple[Change, ...]
    same_inputs: bool
    """Whether a request for one is a request for the other: fields, types, categories, bounds."""


Proofs = tuple[Proof | None, Proof | None]


def compare(a: Manifest, b: Manifest, here: Proofs = (None, None)) -> Difference:
    """What changes from a to b, in the order signature, metrics, libraries, model.

    `here`: what is proved of both on this machine; what is not counts as where it was pushed.
    """
    inputs = [*_changes("input", _fields(a), _fields(b))]
    changes = [
        *inputs,
        *_changes("output", _outputs(a), _outputs(b)),
        *_changes("signature", _facts(a, b), _facts(b, a)),
        *_changes("metric", a.metrics, b.metrics),
        *_changes("library", {"python": a.python, **a.libraries}, {"python": b.python, **b.libraries}),
        *_changes("model", _model(a, here[0]), _model(b, here[1])),
    ]
    same = not inputs and a.signature.extra_fields == b.signature.extra_fields
    return Difference(a.model, a.version, b.version, tuple(changes), same)


def _changes(part: Part, a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Change]:
    names = [*a, *(name for name in b if name not in a)]
    return [Change(part, name, a.get(name), b.get(name)) for name in names if a.get(name) != b.get(name)]


def _fields(manifest: Manifest) -> dict[str, Any]:
    """What is enforced of each field; examples and what was seen in them are left out."""
    told = {"name", "example", "seen_min", "seen_max"}
    fields = manifest.signature.fields or ()
    return {f.name: {k: v for k, v in msgspec.to_builtins(f).items() if k not in told} for f in fields}


def _outputs(manifest: Manifest) -> dict[str, Any]:
    return {o.name: {"datatype": o.datatype, "shape": list(o.shape)} for o in manifest.signature.outputs}


def _facts(manifest: Manifest, other: Manifest) -> dict[str, Any]:
    signature, shared = manifest.signature, set(other.signature.names)
    return {  # an input that only one has is told of as such, and does not change the order of the others
        "order of inputs": [name for name in signature.names if name in shared]
        if signature.layout == "matrix"
        else None,
        "task": signature.task,
        "classes": None if signature.classes is None else list(signature.classes),
        "extra_fields": signature.extra_fields,
    }


def _served(manifest: Manifest, proof: Proof | None) -> list[str]:
    """The forms that answer here, or else where it was pushed."""
    proof = proof or manifest.proof
    if proof is None:
        return [ORIGINAL]
    return [part.name for part in proof.served] or [ORIGINAL]


def _model(manifest: Manifest, proof: Proof | None) -> dict[str, Any]:
    return {
        "kind": manifest.original.kind,
        "files": {entry.path: entry.sha256[:8] for entry in manifest.original.files},
        "memory_bytes": manifest.memory_bytes,
        "served by": _served(manifest, proof),
        "note": manifest.note,
    }
