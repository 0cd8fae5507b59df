"""No unchecked pickle: what a pickled file would import is read, judged, and only then opened.

`check` reads without executing; `load` checks and opens the very same bytes, under the same rules again.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from lagar.errors import LoadFailed, UnsafePickle, UnsupportedModel
from lagar.intake import allowlist, compression, unpickle
from lagar.intake.walk import BROKEN, Findings, Malformed, Walk

_SHOWN = 20
_MAX_PICKLES = 1000


@dataclass(frozen=True)
class ScanReport:
    """What a pickled file holds, as far as its opcodes tell."""

    globals: tuple[str, ...]
    """Every `module.name` that it would import, sorted."""
    refused: tuple[str, ...]
    """What is outside the allow-list, in the order of the file; empty unless `trust` was given."""
    format: Literal["pickle", "joblib"]
    """joblib: raw array bytes lie between the opcodes."""
    compression: str | None
    protocol: int
    """The highest pickle protocol that it announces; 0 for files that announce none."""
    opcodes: int
    pickles: int
    """Pickles in a row; all are read, the first is what opening gives."""
    trailing_bytes: int
    """Bytes after the last pickle, which nothing reads."""


def check(
    data: bytes, *, code_modules: frozenset[str] = frozenset(), trust: bool = False, source: str = "the pickle"
) -> ScanReport:
    """What `data`, a whole file, would import when it is opened.

    `code_modules`: top-level modules of the user's own code, and `__main__`; `source` is how messages call the file.
    Raises UnsafePickle for globals outside the allow-list, MissingCode where they are all `__main__`'s,
    UnsupportedModel for what is no pickle, LoadFailed for what is broken or too large. With `trust`, globals are
    reported and not refused.
    """
    return _scan(data, code_modules, trust, source)[0]


def load(
    data: bytes,
    *,
    code_modules: frozenset[str] = frozenset(),
    trust: bool = False,
    resolve_main: Mapping[str, object] | None = None,
    source: str = "the pickle",
) -> object:
    """The object in `data`, checked first; the bytes that were checked are the bytes that are opened.

    `resolve_main`: the objects that `__main__` names mean, from the user's code files. The real `__main__` is Lagar's
    own and is never looked into. Raises what `check` raises, and MissingCode, MissingLibrary or LoadFailed for a global
    that is allowed and cannot be had here.
    """
    if resolve_main is not None:
        code_modules |= {"__main__"}
    report, payload = _scan(data, code_modules, trust, source)
    rules = unpickle.Rules(code_modules, resolve_main, trust, source)
    return unpickle.with_arrays(payload, rules) if report.format == "joblib" else unpickle.plain(payload, rules)


def _scan(data: bytes, code_modules: frozenset[str], trust: bool, source: str) -> tuple[ScanReport, bytes]:
    _known_as_no_pickle(data, source)
    payload = compression.opened(data, source)
    findings = Findings()
    stream = io.BytesIO(payload)
    try:
        _walk(Walk(stream, len(payload), code_modules, findings), source, len(payload))
    except LoadFailed:
        if findings.refused and not trust:
            _refuse(tuple(findings.refused), source)
        raise
    pickles, end = 1, stream.tell()
    while end < len(payload) and pickles < _MAX_PICKLES:
        found = _next(stream, len(payload), code_modules, findings)
        if found is None:
            break
        findings, pickles, end = found, pickles + 1, stream.tell()
    report = ScanReport(
        globals=tuple(sorted(findings.globals)),
        refused=tuple(findings.refused),
        format="joblib" if findings.arrays else "pickle",
        compression=compression.method(data),
        protocol=findings.protocol,
        opcodes=findings.opcodes,
        pickles=pickles,
        trailing_bytes=len(payload) - end,
    )
    if report.refused and not trust:
        _refuse(report.refused, source)
    return report, payload


def _walk(walk: Walk, source: str, size: int) -> None:
    try:
        walk.run()
    except Malformed as error:
        raise LoadFailed(
            f"{source} is a damaged pickle: {error} (byte {walk.pos:,} of {size:,}); copy it or save the model again"
        ) from None
    except BROKEN as error:
        if not walk.begun():
            raise UnsupportedModel(
                f"{source} is not a pickle; Lagar opens models saved by joblib.dump or pickle.dump"
            ) from None
        raise LoadFailed(
            f"{source} is a damaged pickle or none: {str(error)[:200] or type(error).__name__} "
            f"(byte {walk.pos:,} of {size:,}); copy it or save the model again"
        ) from None


def _next(stream: io.BytesIO, size: int, code_modules: frozenset[str], before: Findings) -> Findings | None:
    """The findings with one more pickle, or None when what follows is no pickle: it is never opened either."""
    findings = Findings()
    findings.globals |= before.globals
    findings.refused |= before.refused
    findings.protocol, findings.arrays, findings.opcodes = before.protocol, before.arrays, before.opcodes
    try:
        Walk(stream, size, code_modules, findings).run()
    except BROKEN:
        return None
    return findings


def _known_as_no_pickle(data: bytes, source: str) -> None:
    if not data:
        raise UnsupportedModel(f"{source} is empty; save the model again")
    if data.startswith(b"ZF"):
        raise UnsupportedModel(f"{source} was saved by joblib before 0.10; load it there and save it with a newer one")
    if data.startswith(b"PK\x03\x04"):
        raise UnsupportedModel(f"{source} is a zip archive, as torch.save or Keras write; export the model to ONNX")


def _refuse(refused: tuple[str, ...], source: str) -> None:
    if all(name.startswith("__main__.") for name in refused):
        raise unpickle.missing_main([name.removeprefix("__main__.") for name in refused], source)
    shown = ", ".join(name[:200] for name in refused[:_SHOWN])
    more = f" and {len(refused) - _SHOWN:,} more" if len(refused) > _SHOWN else ""
    advices = dict.fromkeys(text for text in map(allowlist.advice, refused) if text)
    raise UnsafePickle(
        f"{source} names what is outside the allow-list: {shown}{more}. A pickle runs code when it is opened, so only "
        "known classes of machine-learning libraries are let through."
        + "".join(f" {text}." for text in advices)
        + " If it is your own class, pass the file that defines it: --code FILE."
        + " If you made this file yourself: --trust"
    )
