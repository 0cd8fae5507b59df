"""Golden rows: recorded inputs with the outputs that every later load of a version must give again.

They go through the same path as a caller's rows (`protocols.columns`). Labels are compared exactly. Numbers may differ
by 1e-9 of their size, since BLAS sums in another order on another machine; by 1e-6 where all recorded ones are
32-bit floats, which such a model computed with. Values near zero are held to a thousandth of that, of the output's
largest number. NaN and the infinities are recorded as the texts that JSON can carry. A faster form may differ by what
it was proved to.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from lagar.errors import InvalidInput, LoadFailed
from lagar.protocols.columns import rows_from_records
from lagar.registry.manifest import Golden, Manifest
from lagar.registry.model import LoadedModel
from lagar.registry.proof import Criterion
from lagar.registry.signature import Field, Scalar, Signature
from lagar.runtimes import examples, sized
from lagar.types import Array, Outputs, Predictor, Record

ROWS: Final = 16
TOLERANCE: Final = 1e-9
TOLERANCE_32: Final = 1e-6
_WORDS: Final = ("text", "one two three", "Ação número 1")
_SHOWN: Final = 4
"""Libraries named in a refusal; those that the model's own classes come from stand first."""
_STEP: Final = (math.sqrt(5) - 1) / 2
"""Multiples of the golden section fill an interval evenly, however many are taken."""


class Recorded(msgspec.Struct, frozen=True):
    """What was recorded, and what is to be said about it."""

    golden: Golden
    words: tuple[str, ...] = ()


def record(model: LoadedModel, example: Path | None = None) -> Recorded:
    """The golden rows of a loaded model: rows of the example file, else rows made from the signature.

    Outputs that are not the same in two calls are left out, and said. Raises LoadFailed when no row is answered.
    """
    if model.signature.whole:
        return Recorded(Golden((), {}), ("it takes whole requests, which cannot be made up: none is recorded",))
    candidates = _from_example(model, example) if example is not None else []
    origin = "from the example"
    if not candidates:
        candidates, origin = generated(model), "made from the signature"
    records = _answered(model, candidates)
    if not records:
        raise LoadFailed(f"{model.source.path}: the model answers none of {len(candidates)} rows {origin}")
    names = tuple(output.name for output in model.signature.outputs)
    first, second = _answers(model, records, names), _answers(model, records, names)
    steady = [name for name in names if _difference(first[name], second[name]) is None]
    words = [f"{len(records)} rows {origin}"]
    if len(steady) < len(names):
        loose = ", ".join(name for name in names if name not in steady)
        words.append(f"{loose} is not the same in two calls and is not recorded")
    return Recorded(Golden(tuple(records), {name: first[name] for name in steady}), tuple(words))


def check(manifest: Manifest, predictor: Predictor, installed: Mapping[str, str] | None = None) -> None:
    """Raise LoadFailed unless the predictor gives the outputs that the version recorded.

    The message names the row (0-based), the output, both values, and the libraries whose version is another one.
    `installed` are those that the predictor runs on, where they are not this process's own.
    """
    golden, signature = manifest.golden, manifest.signature
    if not golden.records or not golden.outputs:
        return
    label = f"{manifest.model}@{manifest.version}"
    try:
        answers = [
            (_predict(part, signature, golden.records, tuple(golden.outputs)), criterion)
            for part, criterion in sized.parts_of(predictor)
        ]
    except Exception as error:
        raise LoadFailed(
            f"{label} does not answer its golden rows: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
            f"; {_versions(manifest, installed)}"
        ) from error
    for (answer, criterion), (name, wanted) in itertools.product(answers, golden.outputs.items()):
        got = _listed(answer[name]) if name in answer else []
        found = _difference(wanted, got, criterion)
        if found is not None:
            row, was, now = found
            raise LoadFailed(
                f"{label}: golden row {row}, output {name!r}: recorded {_shown(was)}, got {_shown(now)}; "
                f"{_versions(manifest, installed)}"
            )


def generated(model: LoadedModel, count: int = ROWS) -> list[Record]:
    """Rows made from the signature: its example, then every category in turn and numbers over each field's range."""
    signature = model.signature
    if signature.fields is None:  # a width that was found by trying: only its example is known
        base = dict(signature.example[0])
        spread = [{name: round(_unit(row, index) * 4 - 2, 6) for index, name in enumerate(base)} for row in range(8)]
        return [base, *spread]
    known = _probed(model)
    base = known[0] if known else examples.made(signature.fields)
    rows = [dict(record) for record in known[:5]] or [base]
    rows.extend(
        {field.name: _value(field, base[field.name], row, index) for index, field in enumerate(signature.fields)}
        for row in range(max(count - len(rows), 0))
    )
    return rows


def _probed(model: LoadedModel) -> list[Record]:
    """The rows that loading has tried, as the model takes them: behind a preprocess the example is the caller's."""
    if model.handlers is None or not model.handlers.has_preprocess:
        return [dict(record) for record in model.signature.example]
    rows, names = model.probe, model.signature.names
    if rows is None:
        return []
    table = rows.matrix.T if rows.matrix is not None else [(rows.columns or {})[name] for name in names]
    columns = [[None if value != value else value for value in column.tolist()] for column in table]
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]


def _value(field: Field, base: Scalar, row: int, index: int) -> Scalar:
    if field.categories:
        return field.categories[(row + index) % len(field.categories)]
    if field.nullable is True and (row * 7 + index) % 11 == 5:
        return None
    if field.type == "string":
        return base if row % 4 == 0 else _WORDS[(row + index) % len(_WORDS)]
    if field.type == "bool":
        return (row + index) % 2 == 0
    if field.type == "unknown" and not isinstance(base, (int, float)):
        return base
    number = 0.0 if base is None or isinstance(base, str) else float(base)
    low, high = _range(field, number)
    value = low + (high - low) * _unit(row, index)
    return round(value) if field.type == "int" else float(f"{value:.6g}")


def _range(field: Field, base: float) -> tuple[float, float]:
    low = field.seen_min if field.minimum is None else field.minimum
    high = field.seen_max if field.maximum is None else field.maximum
    spread = max(abs(base), 1.0)
    low = min(base, base - spread if high is None else high) if low is None else low
    high = max(base + spread, low) if high is None else high
    return float(low), float(high)


def _unit(row: int, index: int) -> float:
    return (0.5 + (row + 1) * _STEP * (1 + index * 0.37)) % 1.0


# What the example file gives.


def _from_example(model: LoadedModel, path: Path) -> list[Record]:
    table = examples.read(path)
    fields = model.signature.fields
    if fields is not None and not table.named:  # its columns count in their order
        table.names = [field.name for field in fields]
    records: Sequence[Record] = table.records()
    if model.handlers is not None and model.handlers.has_preprocess:
        records = model.handlers.preprocess([dict(record) for record in _spread(records, ROWS * 4)])
    if fields is None:
        return [dict(record) for record in _spread(records, ROWS)]
    named = [
        {field.name: _as_text(field, record.get(field.name)) for field in fields}
        for record in _spread(records, ROWS * 16)
    ]
    good = [record for record in named if all(examples.accepts(field, record[field.name]) for field in fields)]
    return _chosen(good, fields)


def _as_text(field: Field, value: Any) -> Any:
    """A category "1" reads as a number in a CSV file."""
    return str(value) if field.type == "string" and value is not None else value


def _chosen(records: list[Record], fields: Sequence[Field]) -> list[Record]:
    """Rows that show a category or a null for the first time, up to half; the rest evenly over the others."""
    seen: set[tuple[str, Any]] = set()
    first: list[Record] = []
    later: list[Record] = []
    for record in records:
        signs = {
            (field.name, record[field.name])
            for field in fields
            if field.categories is not None or record[field.name] is None
        }
        (later if signs <= seen or len(first) == ROWS // 2 else first).append(record)
        seen |= signs
    return first + _spread(later, ROWS - len(first))


def _spread(records: Sequence[Record], count: int) -> list[Record]:
    """At most count of the records, evenly over their order."""
    if len(records) <= count:
        return list(records)
    return [records[index * len(records) // count] for index in range(count)]


# Answers, and how they are compared.


def _answered(model: LoadedModel, candidates: list[Record]) -> list[Record]:
    """The candidates that keep the signature's rules and that the model answers, each tried by itself if need be."""
    names = tuple(output.name for output in model.signature.outputs)

    def answers(records: list[Record]) -> bool:
        try:
            _answers(model, records, names)
        except Exception:  # the model's own, of any kind: made rows may be nothing to it
            return False
        return True

    return candidates if answers(candidates) else [record for record in candidates if answers([record])]


def _answers(model: LoadedModel, records: Sequence[Record], names: tuple[str, ...]) -> dict[str, list[Any]]:
    answer = _predict(model.predictor, model.signature, records, names)
    return {name: _listed(answer[name]) for name in names}


def _predict(predictor: Predictor, signature: Signature, records: Sequence[Record], names: tuple[str, ...]) -> Outputs:
    try:
        rows = rows_from_records(signature, records)
    except InvalidInput as error:
        raise LoadFailed(f"the golden rows do not keep the signature: {error.message}") from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # told once at load
        return predictor.predict(rows, names)


def _listed(array: Array) -> list[Any]:
    """An output as JSON carries it: numbers, texts, booleans and lists of them."""
    values = array.tolist() if isinstance(array, np.ndarray) else list(array)
    return [_plain(value) for value in values]


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return _listed(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return str(value)


def _difference(wanted: list[Any], got: list[Any], criterion: Criterion | None = None) -> tuple[int, Any, Any] | None:
    """The first row whose value differs, with both values; a form may differ by what it was proved to."""
    numbers = [value for row in wanted for value in _floats(row)]
    single = all(float(np.float32(value)) == value for value in numbers if abs(value) < 3e38)
    relative = TOLERANCE_32 if single else TOLERANCE
    floor = relative * 1e-3 * max((abs(value) for value in numbers), default=0.0)
    if criterion is not None:
        relative, floor = max(relative, criterion.relative), max(floor, criterion.absolute)
    if len(wanted) != len(got):
        return (min(len(wanted), len(got)), f"{len(wanted)} rows", f"{len(got)} rows")
    for row, (was, now) in enumerate(zip(wanted, got, strict=True)):
        if not _same(was, now, relative, floor):
            return row, was, now
    return None


def _floats(value: Any) -> list[float]:
    if isinstance(value, float):
        return [value]
    if isinstance(value, list):
        return [number for item in value for number in _floats(item)]
    return [number for item in value.values() for number in _floats(item)] if isinstance(value, dict) else []


def _same(was: Any, now: Any, relative: float, floor: float) -> bool:
    if isinstance(was, list) and isinstance(now, list):
        return len(was) == len(now) and all(_same(a, b, relative, floor) for a, b in zip(was, now, strict=True))
    if isinstance(was, dict) and isinstance(now, dict):
        return was.keys() == now.keys() and all(_same(was[key], now[key], relative, floor) for key in was)
    if isinstance(was, float) and isinstance(now, float):
        return was == now or abs(was - now) <= max(relative * abs(was), floor)
    return type(was) is type(now) and bool(was == now)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:117]}…"


def _versions(manifest: Manifest, installed: Mapping[str, str] | None) -> str:
    """Which libraries are not the recorded ones, with both versions and what to do."""
    libraries = {**manifest.original.libraries, **manifest.libraries} if manifest.forms else manifest.libraries
    others = [
        (name, recorded, here)
        for name, recorded in libraries.items()
        if (here := _installed(name) if installed is None else installed.get(name)) not in (None, recorded)
    ]
    if not others:
        return "its libraries have the recorded versions, so the file or the machine differs: push the model again"
    said = ", ".join(f"{name} {recorded} and {here} is installed" for name, recorded, here in others[:_SHOWN])
    more = f" and {len(others) - _SHOWN} more libraries differ" if len(others) > _SHOWN else ""
    pins = " ".join(f"{name}=={recorded}" for name, recorded, _ in others[:_SHOWN])
    return f"it was recorded with {said}{more}: pip install {pins}, or push the model again"


def _installed(name: str) -> str | None:
    """The installed version of a distribution, or of its build without GPU code."""
    from importlib.metadata import PackageNotFoundError, version

    for distribution in (name, name.removesuffix("-cpu"), f"{name}-cpu"):
        try:
            return version(distribution)
        except PackageNotFoundError:
            continue
    return None
