"""Hostile rows: what a wrong form shows itself on, made from a model's signature, its own thresholds and its answers.

Each kind is a block of rows. Ordinary kinds come from the example, the training data and the values around them; the
others are at the edge of something: a threshold and the numbers beside it in both precisions, a tie, a missing or
unknown value, an offset that eats the digits, numbers that float32 cannot hold, text in another normal form.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from lagar.forms.boundaries import Matrix, beside, borders, edges, is_closed, ties
from lagar.forms.original import Original
from lagar.forms.thresholds import inward, thresholds_of
from lagar.registry.signature import Field
from lagar.runtimes import examples
from lagar.types import Rows

_F32_MAX: Final = float(np.finfo(np.float32).max)
EXTREMES: Final = (
    0.0, -0.0, 5e-324, -5e-324, 1e-310, 1e-45, 1e-38, 1e-35, -1e-35, 1e-36, 1.0000001e-35, 1.0, -1.0, 0.5, 2.5, -1.5,
    255.0, 16777217.0, 2.0**31, 2.0**53, 1e16, -1e16, _F32_MAX, -_F32_MAX, float(np.nextafter(_F32_MAX, np.inf)),
    3.4028235677973366e38, 1e39, -1e39, 1e300, -1.7e308, float("inf"), float("-inf"),
)  # fmt: skip
_LARGEST: Final = (_F32_MAX, -_F32_MAX, 1e300, -1.7e308)
"""What overflows behind a step that makes a number larger, in one precision or the other."""
OFFSETS: Final = (1e9, -1e9, 1.7e9, 3.3e9, 1e10, -1e10)
WORDS: Final = (
    "", " ", "text", "one two three", "TEXT", "Ação número 1", "AÇÃO NÚMERO 1", "İstanbul ẞ straße", "naïve café",
    "a\u00a0b", "tab\tand\nline", "soft\u00adhyphen", "zero\u200bwidth", "漢字 かな", "e\u0301tude", "ﬁne ½", "1",
    "1.0", "nan", "None", "don't stop-it, e.g. x_y", "😀 ok", "a", "ab", "\u0130", "ŞIK şık", "é" * 3, "x" * 300,
)  # fmt: skip


class Group(NamedTuple):
    """Rows of one kind."""

    kind: str
    rows: Rows


def hostile(original: Original, *, seed: int = 0, size: int = 384) -> list[Group]:
    """Rows of every kind that the signature allows, about `size` of the larger kinds; the same for the same seed."""
    random = np.random.default_rng(seed)
    matrix = original.signature.layout == "matrix"
    maker = _MatrixRows(original, random, size) if matrix else _ColumnRows(original, random, size)
    groups = maker.groups()
    ordinary = Rows.join([group.rows for group in groups if group.kind in ORDINARY])
    for kind, find in (("edges", edges), ("ties", ties), ("borders", borders)):
        found = find(original, ordinary, random)
        if found is not None:
            groups.append(Group(kind, found))
    return [group for group in groups if group.rows.n]


ORDINARY: Final = ("example", "training", "ordinary")
"""Kinds that a model answers every day; the first of them are used to measure time."""


# Numbers.


class _MatrixRows:
    """Rows of a model that takes a matrix of numbers."""

    def __init__(self, original: Original, random: np.random.Generator, size: int) -> None:
        probe = original.loaded.probe
        assert probe is not None
        assert probe.matrix is not None
        self._original, self._random, self._size = original, random, size
        self._width = int(probe.matrix.shape[1])
        known = [probe.matrix]
        if original.training is not None and original.training.matrix is not None:
            known.append(original.training.matrix)
        self._known = known
        self._splits = self._thresholds()
        self._pool = [self._values(index) for index in range(self._width)]

    def groups(self) -> list[Group]:
        random, size = self._random, self._size
        ordinary = self._ordinary(size)
        groups = [Group("example", _rows(self._known[0][:64]))]
        if len(self._known) > 1:
            groups.append(Group("training", _rows(_some(self._known[1], random, size))))
        groups.append(Group("ordinary", _rows(ordinary)))
        if self._splits is not None:
            groups.append(Group("thresholds", _rows(self._at_thresholds(3 * size))))
        groups += [
            Group("codes", _rows(self._codes(size // 4))),
            Group("missing", _rows(self._missing(_some(ordinary, random, size // 4)))),
            Group("offsets", _rows(self._offset(_some(ordinary, random, size // 4)))),
            Group("extremes", _rows(self._extreme(_some(ordinary, random, 64)))),
        ]
        return groups

    def _thresholds(self) -> list[Matrix] | None:
        """In the units of the input, where the steps in front can be undone."""
        final = self._original.steps[-1] if self._original.steps else None
        width = int(getattr(final, "n_features_in_", self._width) or self._width)
        found = thresholds_of(self._original, width)
        if not any(len(values) for values in found):
            return None
        if len(self._original.steps) < 2:
            return found
        deep = max(len(values) for values in found)
        table = np.column_stack([np.resize(values, deep) if len(values) else np.zeros(deep) for values in found])
        undone = inward(self._original, table)
        return None if undone is None else [np.unique(column) for column in undone.T]

    def _values(self, index: int) -> Matrix:
        """Values that this column has where it is known, and those around its thresholds."""
        known = np.concatenate([part[:4096, index] for part in self._known])
        known = known[np.isfinite(known)]
        splits = self._splits[index] if self._splits is not None else np.empty(0)
        values = np.concatenate([known, splits]) if len(known) or len(splits) else np.zeros(1)
        if len(values) < 8:
            spread = max(float(np.ptp(values)), abs(float(values[0])), 1.0)
            values = np.concatenate([values, values[0] + spread * np.linspace(-1.0, 1.0, 9)])
        return values

    def _ordinary(self, count: int) -> Matrix:
        random = self._random
        table = np.column_stack([random.choice(values, size=count) for values in self._pool])
        spread = np.array([np.ptp(values) or 1.0 for values in self._pool])
        moved = random.random((count, self._width)) < 0.5
        table = np.where(moved, table + spread * random.normal(0.0, 0.1, table.shape), table)
        far = random.random(count) < 0.1
        low, high = (np.array([edge(values) for values in self._pool]) for edge in (np.min, np.max))
        table[far] = low + (high - low) * random.uniform(-0.5, 1.5, (int(far.sum()), self._width))
        return np.ascontiguousarray(table)

    def _at_thresholds(self, count: int) -> Matrix:
        assert self._splits is not None
        random = self._random
        table = np.column_stack(
            [
                random.choice(splits if len(splits) else values, size=count)
                for splits, values in zip(self._splits, self._pool, strict=True)
            ]
        )
        return beside(table, random)

    def _codes(self, count: int) -> Matrix:
        """Small whole numbers, as categories are coded, some with a fraction, some below zero."""
        random = self._random
        table = random.integers(-2, 40, (count, self._width)).astype(np.float64)
        table[random.random(table.shape) < 0.1] += 0.5
        return table

    def _missing(self, table: Matrix) -> Matrix:
        holes = self._random.random(table.shape) < 0.15
        holes[np.arange(len(table)), np.arange(len(table)) % self._width] = True
        holes[-1] = True
        return np.asarray(np.where(holes, np.nan, table))

    def _offset(self, table: Matrix) -> Matrix:
        random = self._random
        shift = random.choice(OFFSETS, size=table.shape)
        return np.asarray(table + shift * (random.random(table.shape) < max(0.2, 1.5 / self._width)))

    def _extreme(self, table: Matrix) -> Matrix:
        """Every extreme alone in a row, in one column after another; the largest numbers in every column."""
        count = max(len(EXTREMES), min(self._width * 4, 256))
        columns = [np.arange(count), *[np.arange(min(self._width, 64))] * len(_LARGEST)]
        numbers = [np.resize(np.array(EXTREMES), count), *(np.full(len(columns[1]), value) for value in _LARGEST)]
        order = np.concatenate(columns)
        table = np.resize(table, (len(order), self._width))
        table[np.arange(len(order)), order % self._width] = np.concatenate(numbers)
        return table


def _rows(table: Matrix) -> Rows:
    return Rows(len(table), matrix=np.ascontiguousarray(table, dtype=np.float64))


def _some(table: Matrix, random: np.random.Generator, count: int) -> Matrix:
    if len(table) <= count:
        return table
    return np.asarray(table[random.choice(len(table), size=count, replace=False)])


# Columns of numbers and texts.


class _ColumnRows:
    """Rows of a model that takes columns by name."""

    def __init__(self, original: Original, random: np.random.Generator, size: int) -> None:
        assert original.signature.fields is not None
        assert original.loaded.probe is not None
        self._original, self._random, self._size = original, random, size
        self._fields: Sequence[Field] = original.signature.fields
        self._known = [original.loaded.probe] + ([] if original.training is None else [original.training])
        self._terms = _vocabulary(original, random)

    def groups(self) -> list[Group]:
        size = self._size
        groups = [Group("example", self._known[0].take(np.arange(min(self._known[0].n, 64))))]
        if len(self._known) > 1:
            picked = self._random.permutation(self._known[1].n)[:size]
            groups.append(Group("training", self._known[1].take(picked)))
        groups.append(Group("ordinary", self._made(size, self._usual)))
        if any(field.type in ("string", "unknown") for field in self._fields):
            groups.append(Group("text", self._made(size // 2, self._odd_text)))
            groups.append(Group("unknown", self._made(size // 4, self._unknown)))
        groups.append(Group("missing", self._made(size // 4, self._maybe_missing)))
        if any(_is_number(field) for field in self._fields):
            groups.append(Group("offsets", self._made(size // 8, self._shifted)))
            groups.append(Group("extremes", self._made(size // 4, self._extreme)))
        return groups

    def _made(self, count: int, value: Callable[[Field], Any]) -> Rows:
        """Rows in which each field is made by `value` half of the time, and usual otherwise."""
        records = [
            {field.name: (value if self._random.random() < 0.5 else self._usual)(field) for field in self._fields}
            for _ in range(count)
        ]
        return examples.rows_of(self._fields, False, records)

    def _usual(self, field: Field) -> Any:
        random = self._random
        seen = self._seen(field)
        if field.categories:
            return _picked(random, [value for value in field.categories if value is not None] or [None])
        if field.type == "bool":
            return bool(random.integers(2))
        if field.type in ("string", "unknown") and not any(_counts(value) for value in seen):
            if self._terms:
                words = _picked(random, (" ", " ", ", ")).join(
                    _picked(random, self._terms) for _ in range(int(random.integers(1, 20)))
                )
                return words.title() if random.random() < 0.2 else words
            return _picked(random, [value for value in seen if isinstance(value, str)] or ["text"])
        numbers = [float(value) for value in seen if _counts(value)] or [0.0]
        low, high = self._range(field, numbers)
        number = float(_picked(random, numbers) if random.random() < 0.4 else random.uniform(low, high))
        return round(number) if field.type == "int" else number

    def _range(self, field: Field, numbers: Sequence[float]) -> tuple[float, float]:
        low = field.seen_min if field.minimum is None else field.minimum
        high = field.seen_max if field.maximum is None else field.maximum
        spread = max(abs(numbers[0]), 1.0)
        low = min(numbers) - spread if low is None else low
        high = max(numbers) + spread if high is None else high
        return float(low), float(max(high, low))

    def _seen(self, field: Field) -> list[Any]:
        values: list[Any] = []
        for rows in self._known:
            assert rows.columns is not None
            values += rows.columns[field.name][:256].tolist()
        return [value for value in values if value is not None and value == value]

    def _odd_text(self, field: Field) -> Any:
        if not _is_text(field) or is_closed(field):
            return self._usual(field)
        random = self._random
        base = str(self._usual(field))
        changes: tuple[Callable[[str], str], ...] = (
            str.upper, str.title, str.swapcase,
            lambda text: unicodedata.normalize("NFD", text + " éàç"),
            lambda text: unicodedata.normalize("NFKC", text),
            lambda text: f" {text} ", lambda text: text.replace(" ", "\u00a0"), lambda text: text[::-1],
            lambda text: f"{text} {_picked(random, WORDS)}", lambda text: str(_picked(random, WORDS)),
        )  # fmt: skip
        return changes[int(random.integers(len(changes)))](base)

    def _unknown(self, field: Field) -> Any:
        if not _is_text(field) or is_closed(field):
            return self._usual(field)
        if field.type == "unknown":
            return _picked(self._random, (*WORDS, 0, 1, 7, -1, 2.5, 1e10, True, False))
        return _picked(self._random, WORDS)

    def _maybe_missing(self, field: Field) -> Any:
        open_numbers = field.type == "float" and field.categories is None
        if open_numbers or field.nullable is True or (field.categories is not None and None in field.categories):
            return None
        return self._usual(field)

    def _shifted(self, field: Field) -> Any:
        usual = self._usual(field)
        return usual + type(usual)(_picked(self._random, OFFSETS)) if _is_number(field) and _counts(usual) else usual

    def _extreme(self, field: Field) -> Any:
        if not _is_number(field):
            return self._usual(field)
        if field.type == "int":
            return _picked(self._random, (0, -1, 1, 255, 2**24 + 1, 2**31, -(2**31), 2**53, -(2**53)))
        return _picked(self._random, EXTREMES)


def _is_number(field: Field) -> bool:
    return field.type in ("float", "int") and field.categories is None


def _is_text(field: Field) -> bool:
    return field.type in ("string", "unknown")


def _counts(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _picked(random: np.random.Generator, values: Sequence[Any]) -> Any:
    return values[int(random.integers(len(values)))]


def _vocabulary(original: Original, random: np.random.Generator) -> list[str]:
    """Terms that a vectorizer knows, at most 300."""
    if original.model is None:
        return []
    from lagar.runtimes.sklearn import parts

    for part in parts(original.model):
        known = getattr(part, "vocabulary_", None)
        if isinstance(known, dict) and known and all(isinstance(term, str) for term in list(known)[:10]):
            terms = sorted(known)
            return [terms[index] for index in random.permutation(len(terms))[:300]]
    return []
