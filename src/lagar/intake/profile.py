"""Reference statistics of the training data: what later traffic is compared with.

`profile.json` is one object:

* `format`: 1; `source`: the file's name; `rows`: rows read; `skipped_columns`: columns that are no field.
* `fields`: field → its statistics. Each has `n` (present, finite), `missing`, `inf`, and of
  - `kind` "numeric": `edges` (at most 21 quantiles, de-duplicated; the first and last are the smallest and largest
    value) and `counts` (one fewer: bin i is [edges[i], edges[i+1]), the last one closed);
  - `kind` "categorical": `values` (at most 50 pairs [value, count], most frequent first), `other` (rows with another
    value) and `distinct` (how many different ones; with `distinct_exact` false, at least so many). Numbers with at
    most 20 different values are categorical too.
  Numbers also have `sum`, `sumsq`, `min`, `max`: counts and sums of parts of the data can be added.
* `outputs`: output → the same statistics of what the model answers for the rows.
* `scores`, for a classifier with probabilities: `cells` (1,024 cells evenly spaced in log-odds from -16 to 16),
  `counts` (predicted class → {cell: rows}), `of`: the class whose probability it is, null: that of the predicted one.
* `scored_rows`: how many rows the model was asked for, evenly over the data: at most 100,000.

The file is read twice in chunks, so it may be larger than memory: once for ranges, quantiles and frequent values (above
200,000 rows from a sample), once to count exactly.
"""

from __future__ import annotations

import csv
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from lagar.errors import LoadFailed, SetupError
from lagar.registry.model import LoadedModel, ModelSource
from lagar.registry.signature import Field, Scalar, Signature
from lagar.runtimes import examples
from lagar.types import Array, Rows

FILE: Final = "profile.json"
BINS: Final = 20
VALUES: Final = 50
CELLS: Final = 1024
SCORED_ROWS: Final = 100_000
SAMPLE_ROWS: Final = 200_000
_LOG_ODDS: Final = 16.0
_TABLE: Final = 100_000
"""Different values that are counted at once in the first reading; the rarest half goes when there are more."""
_LONGEST: Final = 200
"""Characters of a text that is counted as a value; longer ones count as `other`."""
_CHUNK_ROWS: Final = 20_000
_WHOLE_FILE: Final = 1024**3
_MISSING: Final = frozenset({"", "NA", "N/A", "NaN", "nan", "NULL", "null", "None", "?"})
Chunk = dict[str, Array]
"""Field → float64 (NaN: missing), or objects (None: missing), all of one length."""


class Statistics(msgspec.Struct, frozen=True, omit_defaults=True):
    """One field or output; the module says what each member means."""

    kind: str
    n: int
    missing: int = 0
    inf: int = 0
    edges: tuple[float, ...] = ()
    counts: tuple[int, ...] = ()
    values: tuple[tuple[Scalar, int], ...] = ()
    other: int = 0
    distinct: int = 0
    distinct_exact: bool = True
    sum: float | None = None
    sumsq: float | None = None
    min: float | None = None
    max: float | None = None


class Scores(msgspec.Struct, frozen=True):
    """Probabilities in cells of log-odds, by predicted class."""

    of: Scalar
    cells: int
    counts: dict[str, dict[str, int]]


class Profile(msgspec.Struct, frozen=True, omit_defaults=True):
    """The whole file."""

    format: int
    source: str
    rows: int
    fields: dict[str, Statistics]
    outputs: dict[str, Statistics] = {}
    scores: Scores | None = None
    scored_rows: int = 0
    skipped_columns: tuple[str, ...] = ()


_decoder = msgspec.json.Decoder(Profile)


def encode(profile: Profile) -> bytes:
    """The profile as its file."""
    return msgspec.json.format(msgspec.json.encode(profile, order="deterministic"), indent=1)


def decode(data: bytes) -> Profile:
    """The profile in these bytes; raises msgspec.ValidationError."""
    return _decoder.decode(data)


def words(profile: Profile) -> tuple[str, ...]:
    """What `lagar show` says about it."""
    said = [f"{profile.rows:,} rows of {profile.source}, {len(profile.fields)} fields"]
    holes = sum(1 for field in profile.fields.values() if field.missing)
    if holes:
        said.append(f"{holes} fields have missing values")
    infinite = [name for name, field in profile.fields.items() if field.inf]
    if infinite:
        said.append(f"infinite numbers in {', '.join(infinite[:5])}")
    constant = [name for name, field in profile.fields.items() if field.distinct == 1]
    if constant:
        said.append(f"only one value in {', '.join(constant[:5])}")
    if profile.scored_rows:
        said.append(f"the model's answers for {profile.scored_rows:,} rows")
    return tuple(said)


def describe(source: ModelSource, signature: Signature, path: Path) -> Profile:
    """The profile of a data file for a model: its fields, and what it answers.

    Raises SetupError that names the file, the column and the value where the data is not what the model takes.
    """
    from lagar import runtimes

    if signature.fields is None:
        raise SetupError(f"the model does not say its inputs, so {path.name} cannot be described: give --example FILE")
    model = runtimes.load(source)
    data = Data(path, signature, model)
    fields = signature.fields
    first = {field.name: _First(field) for field in fields}
    rows = 0
    for chunk in data.chunks():
        rows += len(next(iter(chunk.values())))
        for name, column in chunk.items():
            first[name].add(column)
    if not rows:
        raise SetupError(f"training data {path} has no rows; give the rows that the model was trained on")
    second = {name: _Second(seen) for name, seen in first.items()}
    answers = _Answers(model, math.ceil(rows / SCORED_ROWS))
    for chunk in data.chunks():
        for name, column in chunk.items():
            second[name].add(column)
        answers.add(chunk)
    return Profile(
        format=1,
        source=path.name,
        rows=rows,
        fields={name: counted.statistics() for name, counted in second.items()},
        outputs=answers.outputs(),
        scores=answers.scores(),
        scored_rows=answers.rows,
        skipped_columns=data.skipped,
    )


def rows(model: LoadedModel, path: Path, count: int = 4096) -> Rows | None:
    """The first rows of a data file that keep the model's rules, as the model takes them; None when there are none."""
    signature = model.signature
    if signature.fields is None:
        return None
    for chunk in Data(path, signature, model).chunks():
        good = np.logical_and.reduce([good_rows(field, chunk[field.name]) for field in signature.fields])
        picked = np.flatnonzero(good)[:count]
        if len(picked):
            return rows_of(signature, {name: column[picked] for name, column in chunk.items()})
    return None


# Statistics of one column, in two readings.


class _First:
    """Ranges, moments, a sample for quantiles, and the frequent values."""

    def __init__(self, field: Field | None) -> None:
        self.field = field
        self.rows = self.n = self.missing = self.inf = 0
        self.sum = self.sumsq = 0.0
        self.min, self.max = math.inf, -math.inf
        self.numeric = False
        self.counts: Counter[Any] = Counter()
        self.distinct_exact = True
        self._samples: list[Array] = []
        self._random = np.random.default_rng(0)
        self._held = 0

    def add(self, column: Array) -> None:
        self.rows += len(column)
        if column.dtype == object:
            present = [value for value in column.tolist() if value is not None]
            self.missing += len(column) - len(present)
            self.n += len(present)
            self._count(value for value in present if not isinstance(value, str) or len(value) <= _LONGEST)
            return
        self.numeric = True
        missing, infinite = np.isnan(column), np.isinf(column)
        self.missing += int(missing.sum())
        self.inf += int(infinite.sum())
        finite = column[~(missing | infinite)]
        self.n += len(finite)
        if len(finite):
            with np.errstate(over="ignore"):  # squares of large numbers are infinite in float64
                self.sum += float(finite.sum())
                self.sumsq += float(np.square(finite).sum())
            self.min = min(self.min, float(finite.min()))
            self.max = max(self.max, float(finite.max()))
            if len(self.counts) <= BINS:
                self._count(np.unique(finite).tolist() if len(self.counts) else np.unique(finite)[: BINS + 1].tolist())
            self._sample(finite)

    def _count(self, values: Any) -> None:
        self.counts.update(values)
        if len(self.counts) > _TABLE:
            self.distinct_exact = False
            self.counts = Counter(dict(self.counts.most_common(_TABLE // 2)))

    def _sample(self, finite: Array) -> None:
        """Keep about SAMPLE_ROWS of all rows, each as likely as any other; all of them up to so many."""
        before = self.n - len(finite)
        if self.n > SAMPLE_ROWS:
            kept = self._random.random(len(finite)) < SAMPLE_ROWS / self.n
            if before:
                ratio = max(before, SAMPLE_ROWS) / self.n
                self._samples = [part[self._random.random(len(part)) < ratio] for part in self._samples]
            finite = finite[kept]
        self._samples.append(finite)

    def quantiles(self) -> tuple[float, ...]:
        sample = np.concatenate(self._samples)
        inner = np.quantile(sample, np.linspace(0, 1, BINS + 1)[1:-1])
        edges = np.unique(np.concatenate([[self.min], inner, [self.max]]))
        return tuple(float(edge) for edge in edges)


class _Second:
    """Exact counts, once it is known of what."""

    def __init__(self, first: _First) -> None:
        self._first = first
        self._binned = first.numeric and len(first.counts) > BINS
        self._edges = first.quantiles() if self._binned else ()
        self._bins: NDArray[np.int64] = np.zeros(max(len(self._edges) - 1, 0), dtype=np.int64)
        kept = first.counts if first.numeric else dict(first.counts.most_common(VALUES))
        self._counts: dict[Any, int] = dict.fromkeys(kept, 0)

    def add(self, column: Array) -> None:
        if self._binned:
            self._bins += np.histogram(column[np.isfinite(column)], bins=np.asarray(self._edges))[0]
            return
        values: Any = column
        if column.dtype != object:
            values, numbers = np.unique(column[np.isfinite(column)], return_counts=True)
            found = dict(zip(values.tolist(), numbers.tolist(), strict=True))
        else:
            found = Counter(value for value in column.tolist() if value is not None)
        for value in found.keys() & self._counts.keys():
            self._counts[value] += found[value]

    def statistics(self) -> Statistics:
        first = self._first
        moments: dict[str, Any] = {}
        if first.numeric and first.n:
            moments = {"sum": _finite(first.sum), "sumsq": _finite(first.sumsq), "min": first.min, "max": first.max}
        common = {"n": first.n, "missing": first.missing, "inf": first.inf, **moments}
        if self._binned:
            return Statistics("numeric", edges=self._edges, counts=tuple(self._bins.tolist()), **common)
        ordered = sorted(self._counts.items(), key=lambda item: (-item[1], str(item[0])))
        return Statistics(
            "categorical",
            values=tuple((_shown(value), count) for value, count in ordered),
            other=first.n - sum(self._counts.values()),
            distinct=len(first.counts),
            distinct_exact=first.distinct_exact,
            **common,
        )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _shown(value: Any) -> Scalar:
    return value if isinstance(value, (bool, int, float, str)) else str(value)


# What the model answers.


class _Answers:
    """The model's outputs for every `step`-th row that keeps the signature's rules."""

    def __init__(self, model: LoadedModel, step: int) -> None:
        self._model = model
        self._step = step
        self._seen = 0
        self.rows = 0
        names = {output.name for output in model.signature.outputs}
        usual = [name for name in ("predict", "predict_proba") if name in names]
        self._wanted: tuple[str, ...] = tuple(usual) or model.signature.native_outputs
        self._columns: dict[str, list[Array]] = {}
        self._cells: dict[str, Counter[int]] = {}

    def add(self, chunk: Chunk) -> None:
        signature = self._model.signature
        n = len(next(iter(chunk.values())))
        every = (np.arange(self._seen, self._seen + n) % self._step) == 0
        self._seen += n
        for field in signature.fields or ():
            every &= good_rows(field, chunk[field.name])
        if not every.any():
            return
        rows = rows_of(signature, {name: column[every] for name, column in chunk.items()})
        try:
            found = self._model.predictor.predict(rows, self._wanted)
        except Exception as error:
            raise LoadFailed(
                f"the model does not answer the training data: {type(error).__name__}: "
                f"{' '.join(str(error).split())[:300]}; leave out the rows that it was not trained on"
            ) from error
        self.rows += rows.n
        for name, values in found.items():
            if values.ndim == 1:
                self._columns.setdefault(name, []).append(_column_of(values))
        self._add_scores(found)

    def _add_scores(self, found: Mapping[str, Array]) -> None:
        classes = self._model.signature.classes
        chances, labels = found.get("predict_proba"), found.get("predict")
        if classes is None or chances is None or labels is None or chances.ndim != 2 or labels.ndim != 1:
            return
        score = chances[:, 1] if len(classes) == 2 else chances.max(axis=1)
        with np.errstate(divide="ignore"):
            odds = np.log(np.clip(score, 0, 1)) - np.log1p(-np.clip(score, 0, 1))
        cells = np.floor((np.clip(odds, -_LOG_ODDS, _LOG_ODDS) + _LOG_ODDS) / (2 * _LOG_ODDS) * CELLS)
        cells = np.minimum(np.nan_to_num(cells), CELLS - 1).astype(np.int64)
        for label, cell in zip(labels.tolist(), cells.tolist(), strict=True):
            self._cells.setdefault(str(label), Counter())[cell] += 1

    def outputs(self) -> dict[str, Statistics]:
        found: dict[str, Statistics] = {}
        for name, parts in self._columns.items():
            column = np.concatenate(parts)
            first = _First(None)
            first.add(column)
            second = _Second(first)
            second.add(column)
            found[name] = second.statistics()
        return found

    def scores(self) -> Scores | None:
        classes = self._model.signature.classes
        if not self._cells or classes is None:
            return None
        counts = {
            label: {str(cell): cells[cell] for cell in sorted(cells)} for label, cells in sorted(self._cells.items())
        }
        return Scores(classes[1] if len(classes) == 2 else None, CELLS, counts)


def _column_of(values: Array) -> Array:
    """An output as a column: class labels, even those that are numbers, are values and not numbers."""
    if values.dtype.kind == "f":
        return values
    column = np.empty(len(values), dtype=object)
    column[:] = values.tolist()
    return column


def good_rows(field: Field, column: Array) -> NDArray[np.bool_]:
    """Which values of a column keep the field's rules, so that the model may be asked."""
    if column.dtype == object:
        known = None if field.categories is None or field.unknown == "allow" else set(field.categories)
        if field.type == "bool" and known is None:
            known = {True, False}
        return np.array(
            [field.nullable is True if value is None else known is None or value in known for value in column.tolist()],
            dtype=np.bool_,
        )
    good = np.isfinite(column) | (np.isnan(column) & (field.nullable is True))
    if field.minimum is not None:
        good &= ~(column < field.minimum)
    if field.maximum is not None:
        good &= ~(column > field.maximum)
    if field.type == "int":
        good &= np.isnan(column) | (column == np.trunc(column))
    return good


def rows_of(signature: Signature, columns: Chunk) -> Rows:
    """Columns that keep the rules → Rows as the model takes them."""
    fields = signature.fields or ()
    n = len(next(iter(columns.values())))
    if signature.layout == "matrix":
        return Rows(n, matrix=np.column_stack([columns[field.name].astype(np.float64) for field in fields]))
    return Rows(n, columns={field.name: _typed(field, columns[field.name]) for field in fields})


def _typed(field: Field, column: Array) -> Array:
    missing = [value is None for value in column.tolist()] if column.dtype == object else np.isnan(column)
    if field.type == "float":
        return column.astype(np.float64)
    if field.type == "int":
        return column.astype(np.float64 if np.any(missing) else np.int64)
    if field.type == "bool" and not np.any(missing):
        return column.astype(np.bool_)
    return column


# The data file, as chunks of typed columns.


class Data:
    """A data file that is read in chunks, as often as wanted."""

    def __init__(self, path: Path, signature: Signature, model: LoadedModel) -> None:
        self.path = path
        self._fields = signature.fields or ()
        self._named = signature.named
        self._handlers = model.handlers if model.handlers is not None and model.handlers.has_preprocess else None
        self._converters: dict[str, Callable[[Sequence[Any], int], Array]] = {}
        self._columns: dict[str, str] = {}
        """Field → the column that it comes from."""
        self.skipped: tuple[str, ...] = ()

    def chunks(self) -> Iterator[Chunk]:
        """Every field's column, a few thousand rows at a time."""
        start = 0
        for names, table in self._tables():
            if self._handlers is not None:
                names, table = self._preprocessed(names, table, start)
            if not self._columns:
                self._columns = self._matched(names)
                used = set(self._columns.values())
                self.skipped = tuple(name for name in names if name not in used)
            chunk = {field.name: self._converted(field, table, start) for field in self._fields}
            n = len(next(iter(chunk.values())))
            start += n
            if n:
                yield chunk

    def _converted(self, field: Field, table: Mapping[str, list[Any]], start: int) -> Array:
        values = table[self._columns[field.name]]
        convert = self._converters.get(field.name)
        if convert is None:
            convert = self._converters[field.name] = self._converter(field, values)
        return convert(values, start)

    def _matched(self, names: Sequence[str]) -> dict[str, str]:
        """Field → column: by name; by place where the model has no names and the number is the same."""
        missing = [field.name for field in self._fields if field.name not in names]
        if not missing:
            return {field.name: field.name for field in self._fields}
        if not self._named and len(names) == len(self._fields):
            return {field.name: name for field, name in zip(self._fields, names, strict=True)}
        import difflib

        inputs = {field.name for field in self._fields}
        near = difflib.get_close_matches(missing[0], [name for name in names if name not in inputs], n=1)
        hint = f"; is it {near[0]!r}?" if near else "; give a file that has all inputs of the model"
        raise SetupError(f"training data {self.path} lacks {_few(missing)}; its columns are {_few(names)}{hint}")

    def _preprocessed(
        self, names: Sequence[str], table: Mapping[str, list[Any]], start: int
    ) -> tuple[list[str], dict[str, list[Any]]]:
        """The rows as the user's preprocess hands them to the model."""
        assert self._handlers is not None
        cells = {name: [_guess(value) for value in table[name]] for name in names}
        records = [dict(zip(names, row, strict=True)) for row in zip(*cells.values(), strict=True)]
        try:
            made = self._handlers.preprocess(records)
        except Exception as error:
            raise SetupError(
                f"training data {self.path}: preprocess failed within rows {start} to {start + len(records) - 1}: "
                f"{type(error).__name__}: {error}"
            ) from error
        found = list(dict.fromkeys(key for record in made for key in record))
        return found, {name: [record.get(name) for record in made] for name in found}

    def _converter(self, field: Field, values: Sequence[Any]) -> Callable[[Sequence[Any], int], Array]:
        if field.categories is not None:
            return _Categories(field.categories)
        if field.type == "string":
            return _texts
        if field.type == "bool":
            return _Categories((True, False))
        if field.type == "unknown":
            try:
                _Numbers(self.path, field.name)(values, 0)
            except SetupError:
                return _texts
        return _Numbers(self.path, field.name)

    def _tables(self) -> Iterator[tuple[list[str], dict[str, list[Any]]]]:
        suffix = self.path.suffix.lower()
        try:
            if suffix in (".csv", ".tsv", ".txt"):
                yield from _csv_tables(self.path)
            elif suffix in (".parquet", ".pq"):
                yield from _parquet_tables(self.path)
            elif suffix in (".ndjson", ".jsonl"):
                yield from _line_tables(self.path)
            elif suffix == ".json":
                yield from _json_tables(self.path)
            else:
                raise SetupError(
                    f"training data {self.path}: expected .csv, .parquet, .json or .ndjson, got {suffix!r}"
                )
        except (OSError, UnicodeDecodeError) as error:
            raise SetupError(f"training data {self.path} cannot be read: {error}") from None


class _Numbers:
    """Cells → float64."""

    def __init__(self, path: Path, name: str) -> None:
        self._path = path
        self._name = name

    def __call__(self, values: Sequence[Any], start: int) -> Array:
        try:
            return np.array(values, dtype=np.float64)  # None becomes NaN, a clean column of texts is parsed at once
        except (ValueError, TypeError):
            pass
        try:
            return np.array([_number(value) for value in values], dtype=np.float64)
        except (ValueError, TypeError):
            row = next(index for index, value in enumerate(values) if not _is_number(value))
            raise SetupError(
                f"training data {self._path}: column {self._name!r} has {values[row]!r} in row {start + row}, and the "
                "model takes a number there"
            ) from None


def _number(value: Any) -> float:
    if value is None:
        return math.nan
    if isinstance(value, str):
        text = value.strip()
        return math.nan if text in _MISSING else float(text)
    return float(value)


def _is_number(value: Any) -> bool:
    try:
        _number(value)
    except (ValueError, TypeError):
        return False
    return True


class _Categories:
    """Cells → the categories that they mean ("1" in a CSV file is the category 1); others stay as they are."""

    def __init__(self, categories: Sequence[Scalar]) -> None:
        self._known: dict[Any, Scalar] = {}
        for category in categories:
            if category is not None:
                self._known |= {category: category, str(category): category}
                if isinstance(category, bool):
                    self._known |= {str(category).lower(): category, str(category).upper(): category}
                if isinstance(category, float) and category.is_integer():
                    self._known[str(int(category))] = category
                if isinstance(category, int) and not isinstance(category, bool):
                    self._known[f"{category}.0"] = category

    def __call__(self, values: Sequence[Any], start: int) -> Array:
        column = np.empty(len(values), dtype=object)
        known = self._known
        for index, value in enumerate(values):
            if isinstance(value, str):
                # among words, "NA" or "None" may be a category
                column[index] = known[value] if value in known else known.get(value.strip(), value.strip() or None)
            elif value is None or value != value:
                column[index] = None
            else:
                column[index] = known.get(value, known.get(str(value), value))
        return column


def _texts(values: Sequence[Any], start: int) -> Array:
    column = np.empty(len(values), dtype=object)
    column[:] = [None if value is None or value == "" or value != value else str(value) for value in values]
    return column


def _guess(value: Any) -> Any:
    """A cell of a CSV file as a caller would send it: a number where it is one."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    if text in _MISSING:
        return None
    try:
        number = float(text)
    except ValueError:
        return {"true": True, "false": False}.get(text.lower(), value)
    return int(text) if text.lstrip("+-").isdigit() else number


def _csv_tables(path: Path) -> Iterator[tuple[list[str], dict[str, list[Any]]]]:
    import pyarrow as pa
    import pyarrow.csv as arrow_csv

    encoding = "utf8" if _is_utf8(path) else "latin1"
    with path.open(encoding="utf-8-sig" if encoding == "utf8" else "latin-1", newline="") as file:
        line = file.readline()
    delimiter = max(",;\t|", key=line.count) if any(mark in line for mark in ",;\t|") else ","
    names = [name.strip() for name in next(csv.reader([line], delimiter=delimiter), [])]
    double = next((name for name, count in Counter(names).items() if count > 1), None)
    if not names or double is not None:
        what = f"the column {double!r} twice" if double is not None else "no header"
        raise SetupError(f"training data {path} has {what}; write one name per column")
    try:
        reader = arrow_csv.open_csv(
            path,
            read_options=arrow_csv.ReadOptions(
                column_names=names, skip_rows=1, encoding=encoding, block_size=4 * 1024**2, use_threads=False
            ),
            parse_options=arrow_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
            convert_options=arrow_csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False
            ),
        )
        for batch in reader:
            columns = batch.to_pydict()
            if delimiter == ";":
                columns = {name: [_comma(value) for value in values] for name, values in columns.items()}
            yield names, columns
    except pa.ArrowInvalid as error:
        if "Empty CSV" in str(error):
            return
        raise SetupError(f"training data {path} is not CSV: {' '.join(str(error).split())[:300]}") from None


def _comma(value: str) -> str:
    """A number with a decimal comma as one with a point, as files with semicolons write them."""
    whole, comma, fraction = value.partition(",")
    if comma and fraction.isdigit() and whole.lstrip("+-").replace(".", "").isdigit():
        return f"{whole.replace('.', '')}.{fraction}"
    return value


def _is_utf8(path: Path) -> bool:
    """Whether the first megabytes decode; the last bytes may be half a character."""
    with path.open("rb") as file:
        head = file.read(8 * 1024**2)
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start > len(head) - 4
    return True


def _parquet_tables(path: Path) -> Iterator[tuple[list[str], dict[str, list[Any]]]]:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_CHUNK_ROWS, use_threads=False):
                columns = batch.to_pydict()
                names = [name for name in columns if not name.startswith("__index_level_")]
                yield names, columns
    except pa.ArrowInvalid as error:
        raise SetupError(f"training data {path} is not Parquet: {' '.join(str(error).split())[:300]}") from None


def _line_tables(path: Path) -> Iterator[tuple[list[str], dict[str, list[Any]]]]:
    names: list[str] = []
    records: list[dict[str, Any]] = []
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except ValueError:
                record = None
            if not isinstance(record, dict):
                raise SetupError(f"training data {path}, line {number + 1} is no JSON object; write one per line")
            names = names or list(record)
            records.append(record)
            if len(records) == _CHUNK_ROWS:
                yield names, _columns(names, records)
                records = []
    if records:
        yield names, _columns(names, records)


def _columns(names: list[str], records: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    return {name: [record.get(name) for record in records] for name in names}


def _json_tables(path: Path) -> Iterator[tuple[list[str], dict[str, list[Any]]]]:
    if path.stat().st_size > _WHOLE_FILE:
        raise SetupError(f"training data {path} is JSON of over 1 GiB, which is read whole: write it as .ndjson")
    try:
        table = examples.read(path)
    except LoadFailed as error:
        raise SetupError(error.message.replace("example ", "training data ", 1)) from None
    for start in range(0, table.n, _CHUNK_ROWS):
        stop = start + _CHUNK_ROWS
        yield (
            table.names,
            {name: list(column[start:stop]) for name, column in zip(table.names, table.columns, strict=True)},
        )


def _few(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:10])
    return shown if len(names) <= 10 else f"{shown} and {len(names) - 10} more"
