"""Caller's values → validated `Rows`, compiled once per signature.

There is one set of value rules, `Plan._value`, applied value by value in row order, so that an error always names the
first bad field and row whatever the wire format was. Around it stand quick whole-column checks that only ever say
"certainly good"; whatever they do not recognise goes to the rules.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from operator import itemgetter
from typing import Any, Final, NoReturn

import numpy as np
from numpy.typing import NDArray

from lagar.errors import InvalidInput
from lagar.protocols.base import shown
from lagar.registry.signature import Field, Signature
from lagar.types import Array, Record, Rows

EXACT: Final = 2.0**53
"""Whole numbers up to here are exact in float64; from here on two of them may become one."""
_INT64: Final = 1 << 63
_NUMBERS: Final = frozenset({float, int})
_SHOWN_CATEGORIES: Final = 10
SHORT: Final = 64
"""Up to so many values Python's own sum is quicker than two numpy reductions."""
_ABSENT: Final = object()

Column = Sequence[Any] | Array
"""The values of one field: Python's own, or an array of numbers."""

_WANTED: Final = {
    "float": "a number",
    "int": "a whole number",
    "bool": "true or false",
    "string": "a string",
    "unknown": "a number, a string, true or false",
}


class Rule:
    """One field, compiled."""

    __slots__ = (
        "bounded",
        "categories",
        "default",
        "has_default",
        "high",
        "kind",
        "low",
        "name",
        "nullable",
        "texts",
        "unsaid",
    )

    def __init__(self, field: Field) -> None:
        self.name = field.name
        self.kind: str = field.type
        enforced = field.categories is not None and field.unknown == "refuse"
        self.categories: dict[tuple[type, Any], Any] | None = None
        self.texts: frozenset[str] | None = None
        """The categories, when all of them are strings."""
        if enforced and field.categories is not None:
            present = [category for category in field.categories if category is not None]
            self.categories = {_category_key(category): category for category in present}
            if all(type(category) is str for category in present):
                self.texts = frozenset(str(category) for category in present)
        self.unsaid = field.nullable is None and field.type == "float" and field.categories is None
        self.nullable = field.nullable is True or (field.categories is not None and None in field.categories)
        self.low = field.minimum
        self.high = field.maximum
        self.bounded = self.low is not None or self.high is not None
        self.has_default = field.has_default
        self.default = field.default

    @property
    def plain(self) -> bool:
        """A number with nothing else to check."""
        return self.kind == "float" and self.categories is None and not self.bounded and not self.nullable


def _category_key(value: Any) -> tuple[type, Any]:
    """1 and 1.0 are the same category, 1 and true are not."""
    return (float if type(value) in _NUMBERS else type(value), value)


class Plan:
    """The compiled input side of one signature."""

    __slots__ = ("_getter", "_hint", "_rules", "layout", "names", "numbers", "plain", "refuse_extra", "width")

    def __init__(self, signature: Signature, model: str = "") -> None:
        self.layout = signature.layout
        self.width = signature.width
        """None: the model does not say, any rectangular matrix is let through."""
        self.names = signature.names
        self.numbers = frozenset(field.name for field in signature.fields or () if field.type in ("float", "int"))
        self.refuse_extra = signature.extra_fields == "refuse"
        self._rules = tuple(Rule(field) for field in signature.fields or ())
        if self.layout == "matrix":
            for rule in self._rules:
                if rule.kind not in ("float", "int", "bool"):
                    rule.kind = "float"  # what a matrix can hold
        self.plain = self.layout == "matrix" and all(rule.plain for rule in self._rules)
        """True when any finite float64 matrix of the right width is good."""
        self._getter: Callable[[Any], Any] | None = itemgetter(*self.names) if len(self.names) > 1 else None
        self._hint = f"; see GET /models/{model}" if model else ""

    # Entrances: one per shape that a body may have.

    def from_matrix(self, matrix: NDArray[np.float64], *, exact: bool = False) -> Rows | None:
        """Rows of a C-ordered (n, width) matrix that came from JSON numbers; None when it needs a closer look.

        `exact`: the caller knows that all numbers are below 2^53.
        """
        if self.layout != "matrix":
            return None
        # A number beyond 2^53 may have been a whole number that lost digits: look closer.
        if not exact and not _keeps_digits(matrix):
            return self._with_nulls(matrix)
        if not self.plain:
            for index, rule in enumerate(self._rules):
                if rule.kind == "bool" or not _numbers_pass(rule, matrix[:, index]):
                    return None
        return Rows(matrix.shape[0], matrix)

    def _with_nulls(self, matrix: NDArray[np.float64]) -> Rows | None:
        """Rows of a matrix whose NaN are the nulls of fields that may be null; None when it needs a closer look."""
        if not self._rules or any(
            _quick_array(rule, matrix[:, index]) is None for index, rule in enumerate(self._rules)
        ):
            return None
        return Rows(matrix.shape[0], matrix)

    def from_rows(self, table: Sequence[Any]) -> Rows:
        """Rows of lists of values in the order of the fields; raises InvalidInput."""
        self.check_rectangle(table)
        rules = self._rules if self.width is not None else self._anonymous(len(table[0]))
        if self.plain if self.width is not None else self.layout == "matrix":
            flat = list(chain.from_iterable(table))
            column = _quick_numbers(flat)
            if column is not None:
                return Rows(len(table), column.reshape(len(table), len(rules)))
        elif (rows := self._quick(len(table), zip(*table, strict=True))) is not None:
            return rows
        return self._exact(rules, table)

    def from_records(self, records: Sequence[Any], known_extra: frozenset[str] = frozenset()) -> Rows:
        """Rows of objects by name; `known_extra` are keys that are no field and yet never refused."""
        if self.width is None:
            raise InvalidInput(
                "this model does not say the names of its inputs: send rows of numbers, or give the model an example"
                " when it is served (--example FILE)"
            )
        table = self._pick(records)
        if table is not None:
            return self.from_tuples(table) or self._exact(self._rules, table)
        return self._exact(self._rules, (self._row_of(record, row, known_extra) for row, record in enumerate(records)))

    def from_columns(
        self, columns: Mapping[str, Sequence[Any]], n: int, known_extra: frozenset[str] = frozenset()
    ) -> Rows:
        """Rows of one list of n values per field, by name; raises InvalidInput."""
        if self.width is None:
            return self.from_rows(list(zip(*columns.values(), strict=True)))
        if self.refuse_extra:
            self._check_extra(columns, None, known_extra)
        ordered: list[Sequence[Any]] = []
        for rule in self._rules:
            values = columns.get(rule.name)
            if values is None:
                if not rule.has_default:
                    self._missing(rule, columns, None)
                values = [rule.default] * n
            ordered.append(values)
        return self._quick(n, ordered) or self._exact(self._rules, zip(*ordered, strict=True), n)

    def from_arrays(self, columns: Mapping[str, Column], n: int) -> Rows | None:
        """Rows of one array or list of n values per field, by name; None when they need a closer look, as lists."""
        if self.width is None or len(columns) != self.width:
            return None
        arrays: list[Array] = []
        for rule in self._rules:
            values = columns.get(rule.name)
            if values is None:
                return None
            array = _quick_array(rule, values) if isinstance(values, np.ndarray) else _quick_column(rule, values)
            if array is None:
                return None
            arrays.append(array)
        return self._assemble(n, self._rules, arrays)

    # Shapes.

    def check_rectangle(self, table: Sequence[Any]) -> None:
        first = table[0]
        width = self.width
        if width is None:
            if type(first) is list and not first:
                raise InvalidInput("row 0 has no values: a row is a list of numbers", row=0)
            width = len(first) if type(first) in (list, tuple) else -1
        for row, values in enumerate(table):
            if type(values) is not list and type(values) is not tuple:
                raise InvalidInput(f"row {row} must be a list of values, got {shown(values)}{self._hint}", row=row)
            if len(values) != width:
                raise InvalidInput(self._width_message(row, len(values), width), row=row)

    def _width_message(self, row: int, got: int, width: int) -> str:
        if self.width is None:
            return f"row {row} has {got} values where row 0 has {width}: all rows must be of one width"
        return f"row {row} has {got} values, this model takes {width}: {self.described_names()}{self._hint}"

    def described_names(self) -> str:
        """The names of the fields, shortened for a message."""
        names = ", ".join(self.names[:20])
        return names if len(self.names) <= 20 else f"{names}, …"

    def _anonymous(self, width: int) -> tuple[Rule, ...]:
        return tuple(Rule(Field(name=f"x{index}")) for index in range(width))

    # Records.

    def _pick(self, records: Sequence[Any]) -> list[tuple[Any, ...]] | None:
        """The values of every record; None if one lacks a field, or may have a key that is to be refused."""
        try:
            if self.refuse_extra and any(len(record) != self.width for record in records):
                return None
            if self._getter is not None:
                return [self._getter(record) for record in records]
            name = self.names[0]
            return [(record[name],) for record in records]
        except (KeyError, TypeError, IndexError):
            return None

    def _row_of(self, record: Any, row: int, known_extra: frozenset[str]) -> tuple[Any, ...]:
        if not isinstance(record, dict):
            raise InvalidInput(f"row {row} must be an object of named values, got {shown(record)}{self._hint}", row=row)
        values = []
        for rule in self._rules:
            if rule.name in record:
                values.append(record[rule.name])
            elif rule.has_default:
                values.append(rule.default)
            else:
                self._missing(rule, record, row)
        if self.refuse_extra:
            self._check_extra(record, row, known_extra)
        return tuple(values)

    def _missing(self, rule: Rule, given: Iterable[Any], row: int | None) -> NoReturn:
        extra = [str(key) for key in given if key not in self.names]
        near = _nearest(rule.name, extra)
        meant = f" (is it the {shown(near)} that was sent?)" if near is not None else ""
        where = "" if row is None else f" in row {row}"
        raise InvalidInput(f"input '{rule.name}' is missing{where}{meant}{self._hint}", field=rule.name, row=row)

    def _check_extra(self, given: Iterable[Any], row: int | None, known: frozenset[str]) -> None:
        for key in given:
            if key not in self.names and key not in known:
                near = _nearest(str(key), self.names)
                meant = f" (did you mean {shown(near)}?)" if near is not None else ""
                where = "" if row is None else f" in row {row}"
                raise InvalidInput(
                    f"{shown(key)} is no input of this model{where}{meant}{self._hint}", field=str(key), row=row
                )

    def from_tuples(self, table: Sequence[tuple[Any, ...]]) -> Rows | None:
        """Rows of values in the order of the fields; None when they need a closer look.

        A typed decoder has already made floats of all numbers, so a whole number may have lost digits: the closer look
        is at the body, not at these values.
        """
        if self.plain:
            column = _quick_numbers(list(chain.from_iterable(table)))
            return None if column is None else Rows(len(table), column.reshape(len(table), len(self._rules)))
        return self._quick(len(table), zip(*table, strict=True))

    # Values.

    def _quick(self, n: int, columns: Iterable[Sequence[Any]]) -> Rows | None:
        """Rows if every column is certainly good."""
        if self.width is None:
            return None
        quick = _quick_value if n == 1 else _quick_column
        arrays: list[Array] = []
        for rule, values in zip(self._rules, columns, strict=True):
            array = quick(rule, values)
            if array is None:
                return None
            arrays.append(array)
        return self._assemble(n, self._rules, arrays)

    def _exact(self, rules: Sequence[Rule], table: Iterable[Sequence[Any]], n: int | None = None) -> Rows:
        """Rows by the rules; the first value in row order that breaks one is the error."""
        columns: list[list[Any]] = [[] for _ in rules]
        row = -1
        for row, values in enumerate(table):
            for rule, column, value in zip(rules, columns, values, strict=True):
                column.append(self._value(rule, value, row))
        n = row + 1 if n is None else n
        return self._assemble(n, rules, [_array(rule, column) for rule, column in zip(rules, columns, strict=True)])

    def _assemble(self, n: int, rules: Sequence[Rule], arrays: Sequence[Array]) -> Rows:
        if self.layout == "columns":
            return Rows(n, columns={rule.name: array for rule, array in zip(rules, arrays, strict=True)})
        matrix = np.empty((n, len(rules)))
        for index, array in enumerate(arrays):
            matrix[:, index] = array
        return Rows(n, matrix)

    def _value(self, rule: Rule, value: Any, row: int) -> Any:
        """The value as the model gets it; raises InvalidInput. The one place that holds the rules for values."""
        if isinstance(value, np.generic):
            value = value.item()  # a preprocess may hand us numpy's own scalars
        if value is None or (isinstance(value, float) and value != value):
            if rule.nullable:
                return None
            why = " (the model does not say what it does with it; nullable = true in lagar.toml lets it through)"
            word = "null" if value is None else "NaN"
            self._refuse(rule, f"must not be {word}", None, row, why if rule.unsaid else "")
        if rule.categories is not None:
            return self._category(rule, value, row)
        value = self._typed(rule, value, row)
        if rule.bounded and isinstance(value, (int, float)):
            if rule.low is not None and value < rule.low:
                self._refuse(rule, f"must be at least {rule.low:g}", value, row)
            if rule.high is not None and value > rule.high:
                self._refuse(rule, f"must be at most {rule.high:g}", value, row)
        return value

    def _typed(self, rule: Rule, value: Any, row: int) -> Any:
        kind = rule.kind
        if kind == "string":
            good = isinstance(value, str)
        elif kind == "bool":
            good = isinstance(value, bool)
        elif kind == "unknown":
            good = isinstance(value, (str, bool, int, float))
        else:
            good = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not good:
            self._refuse(rule, f"must be {_WANTED[kind]}", value, row)
        if isinstance(value, float):
            if math.isinf(value):
                self._refuse(rule, "must be a finite number, and is infinite or beyond 1.8e308", None, row)
            if kind == "int":
                if not value.is_integer():
                    self._refuse(rule, f"must be {_WANTED[kind]}", value, row)
                if abs(value) > EXACT:
                    self._refuse(rule, "must be a whole number written without a fraction or exponent", value, row)
                return int(value)
        elif isinstance(value, int) and not isinstance(value, bool):
            self._check_size(rule, value, row)
            if kind == "float":
                return float(value)
        return value

    def _check_size(self, rule: Rule, value: int, row: int) -> None:
        if rule.kind == "float" or self.layout == "matrix":
            if abs(value) > EXACT:
                self._refuse(rule, "is a float64, which holds whole numbers up to 2^53 only", value, row)
        elif not -_INT64 <= value < _INT64:
            self._refuse(rule, "must be a whole number of 64 bits", value, row)

    def _category(self, rule: Rule, value: Any, row: int) -> Any:
        assert rule.categories is not None
        try:
            known_value = rule.categories.get(_category_key(value), _ABSENT)
        except TypeError:  # a list or an object: unhashable
            known_value = _ABSENT
        if known_value is not _ABSENT:
            return known_value
        self._typed(rule, value, row)  # a wrong type is the plainer error
        known = list(rule.categories.values())
        listed = ", ".join(shown(category) for category in known[:_SHOWN_CATEGORIES])
        if len(known) > _SHOWN_CATEGORIES:
            listed += f", … ({len(known)} in all)"
        near = _nearest(value, [category for category in known if isinstance(category, str)])
        meant = f" (did you mean {shown(near)}?)" if near is not None else ""
        return self._refuse(rule, f"must be one of {listed}", value, row, meant)

    def _refuse(self, rule: Rule, must: str, value: Any, row: int, more: str = "") -> NoReturn:
        got = "" if value is None else f", got {shown(value)}"
        raise InvalidInput(f"input '{rule.name}' {must}{got} in row {row}{more}{self._hint}", field=rule.name, row=row)


def rows_from_records(signature: Signature, records: Sequence[Record]) -> Rows:
    """Rows of records, for callers that do this once; an adapter keeps its Plan.

    The examples of a model that does not name its inputs are records too: their values count in their order.
    """
    if not records:
        raise InvalidInput("there are no rows")
    plan = Plan(signature)
    if plan.width is None:
        return plan.from_rows([list(record.values()) for record in records])
    return plan.from_records(records)


def _nearest(word: Any, words: Sequence[str]) -> str | None:
    if not isinstance(word, str) or len(word) > 200 or not words:
        return None
    import difflib

    folded = {other.casefold().replace(" ", "_").replace("-", "_"): other for other in words[:1000]}
    near = difflib.get_close_matches(word.casefold().replace(" ", "_").replace("-", "_"), folded, 1, 0.75)
    return folded[near[0]] if near else None


def _keeps_digits(matrix: NDArray[np.float64]) -> bool:
    """Whether all are numbers below 2^53. NaN, which is the largest and the smallest, fails both comparisons."""
    flat = matrix.reshape(-1)  # argmax takes a third of the time of max: it does not ask what the processor thought
    return flat.item(flat.argmax()) < EXACT and flat.item(flat.argmin()) > -EXACT


def _quick_numbers(values: Sequence[Any]) -> NDArray[np.float64] | None:
    """A float64 array if all values are numbers that surely keep their digits."""
    if not set(map(type, values)) <= _NUMBERS:
        return None
    try:
        array = np.array(values, np.float64)
    except OverflowError:
        return None
    if len(values) <= SHORT:
        return array if sum(map(abs, values)) < EXACT else None
    return array if array.max() < EXACT and array.min() > -EXACT else None


def _quick_nullable(rule: Rule, values: Sequence[Any]) -> NDArray[np.float64] | None:
    """Numbers and nulls of a field without further rules, nulls as NaN."""
    if rule.bounded or rule.categories is not None:
        return None
    try:
        array = np.array(values, np.float64)
    except OverflowError:
        return None
    return None if (np.abs(array) >= EXACT).any() else array


def _numbers_pass(rule: Rule, column: NDArray[np.float64]) -> bool:
    """Whether finite numbers below 2^53 keep the rule."""
    if rule.kind == "int" and not (column == np.trunc(column)).all():
        return False
    if rule.categories is not None:
        return set(column.tolist()) <= {key[1] for key in rule.categories if key[0] is float}
    return (rule.low is None or bool(column.min() >= rule.low)) and (
        rule.high is None or bool(column.max() <= rule.high)
    )


def _quick_value(rule: Rule, values: Sequence[Any]) -> Array | None:
    """As `_quick_column` for a single row, where every call that looks at a whole column costs more than it checks."""
    (value,) = values
    if rule.kind == "string" and type(value) is str:
        if rule.categories is None or (rule.texts is not None and value in rule.texts):
            column = np.empty(1, object)
            column[0] = value
            return column
    elif rule.kind == "float" and not rule.bounded and rule.categories is None and type(value) in _NUMBERS:
        if -EXACT < value < EXACT:
            column = np.empty(1)
            column[0] = value
            return column
        return None
    return _quick_column(rule, values)


def _quick_column(rule: Rule, values: Sequence[Any]) -> Array | None:
    """The column if it is certainly good, None when the rules must look at it."""
    types = set(map(type, values))
    if rule.kind == "string":
        if types != {str} and not (rule.nullable and types <= {str, type(None)}):
            return None
        present = values if types == {str} else [value for value in values if value is not None]
        if rule.categories is not None and (rule.texts is None or not rule.texts.issuperset(present)):
            return None
        return _array(rule, values)
    if rule.kind == "bool":
        return np.array(values, np.bool_) if types == {bool} and rule.categories is None else None
    if rule.kind == "float":
        if rule.nullable and type(None) in types and types <= {float, int, type(None)}:
            return _quick_nullable(rule, values)
        column = _quick_numbers(values)
        return column if column is not None and _numbers_pass(rule, column) else None
    if rule.kind == "unknown" and rule.categories is None and types == {str}:
        return _array(rule, values)
    if rule.kind == "int" and types == {int}:
        if rule.categories is not None:
            return None
        try:
            whole = np.array(values, np.int64)
        except OverflowError:
            return None
        if not (whole.max() < EXACT and whole.min() > -EXACT):
            return None
        if (rule.low is not None and whole.min() < rule.low) or (rule.high is not None and whole.max() > rule.high):
            return None
        return whole
    return None


def _quick_array(rule: Rule, values: Array) -> Array | None:
    """An array as the column if it is certainly good, None when the rules must look at its values."""
    kind = values.dtype.kind
    if kind == "b" or rule.kind == "bool":
        return values if kind == "b" and rule.kind == "bool" and rule.categories is None else None
    if kind not in "fiu" or rule.kind not in ("float", "int"):
        return None
    if values.dtype == np.float16:
        values = values.astype(np.float64)  # 2^53 is beyond its range
    present = values
    if kind == "f" and rule.nullable and rule.categories is None:
        present = values[~np.isnan(values)]
    if present.size and not (present.max() < EXACT and present.min() > -EXACT and _numbers_pass(rule, present)):
        return None
    whole = rule.kind == "int" and present.size == values.size
    return values.astype(np.int64 if whole else np.float64, copy=False)


def _array(rule: Rule, values: Sequence[Any]) -> Array:
    """An array of values that kept the rules: float64, int64, bool, or object where nothing else holds them."""
    if rule.kind == "float":
        return np.array(values, np.float64)  # None becomes NaN
    if rule.kind == "int":
        return np.array(values, np.float64) if None in values else np.array(values, np.int64)
    if rule.kind == "bool" and None not in values:
        return np.array(values, np.bool_)
    if rule.kind == "unknown":
        types = set(map(type, values))
        if types == {bool}:
            return np.array(values, np.bool_)
        if types == {int}:
            return np.array(values, np.int64)
        if types == {float} or (types <= _NUMBERS and all(abs(value) <= EXACT for value in values)):
            return np.array(values, np.float64)
    column = np.empty(len(values), object)
    column[:] = values
    return column
