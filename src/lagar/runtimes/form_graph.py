"""Forms that are an ONNX graph: a converter's, or the trees' sums with what the objective makes of them beside it."""

from __future__ import annotations

import re
import threading
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import numpy as np

from lagar.errors import LoadFailed
from lagar.registry.signature import Signature
from lagar.runtimes.answers import Answer, Answers, Labels
from lagar.runtimes.arrays import ORDINARY, weights
from lagar.runtimes.base import one_per_row, plain, refuse_if_callers
from lagar.types import Array, Outputs, Rows

MODEL: Final = "model.onnx"
_SPACES: Final = re.compile(r"\s\s+")
Refused = Literal["nothing", "infinity", "missing", "beyond float32"]
"""What the original refuses of a matrix: nothing; infinity; NaN too; and numbers that float32 does not hold."""


class Text(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a text vectorizer does to a text before it looks for words."""

    lower: bool = True
    accents: Literal["kept", "unicode", "ascii"] = "kept"
    spaces: bool = False
    """Several white spaces in a row become one blank, as for n-grams of characters."""


class Output(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One output of a converted graph."""

    source: str
    """Its name in the graph."""
    labels: Labels | None = None
    """The graph answers one of these classes, perhaps in another type."""


class Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`form.json` of this kind; either `answer` or `outputs` is set."""

    format: int
    kind: Literal["graph"]
    input: Literal["float32", "float64", "text"]
    width: int
    refused: Refused = "nothing"
    limits: list[tuple[float, float]] = []
    """Per column the least and the greatest number that the original takes, where steps in front overflow on others."""
    text: Text | None = None
    answer: Answer | None = None
    """The graph's only output is values, (n, k)."""
    outputs: dict[str, Output] = {}


_decoder = msgspec.json.Decoder(Document)
"""Built once, at import: two threads that build what msgspec knows of a class at the same time crash the process."""


def open_form(folder: Path, document: bytes, threads: int) -> GraphForm:
    """The graph of a form's folder; raises LoadFailed."""
    try:
        read = _decoder.decode(document)
    except msgspec.DecodeError as error:
        raise LoadFailed(f"{folder.name} is no graph form that this Lagar can read: {error}") from error
    return GraphForm(read, folder / MODEL, threads)


class GraphForm:
    """A predictor: rows → the graph's one input → ONNX Runtime → outputs."""

    def __init__(self, document: Document, path: Path, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exception classes differ by version
            raise LoadFailed(
                f"{path}: ONNX Runtime {onnxruntime.__version__} does not read it: {' '.join(str(error).split())[:300]}"
            ) from error
        self._document = document
        self._input: str = self._session.get_inputs()[0].name
        self._values = [self._session.get_outputs()[0].name]
        self._answers = Answers(document.answer) if document.answer is not None else None
        self._labels = {
            name: output.labels.array() for name, output in document.outputs.items() if output.labels is not None
        }
        self._single = document.input == "float32"
        self._limits = np.array(document.limits).T if document.limits else None
        self._safe = 0.0 if self._limits is None else float(np.abs(self._limits).min())
        self._one: _OneRow | None = None
        self._names: tuple[str, ...] | None = None
        self._field = ""
        self.libraries = {"onnxruntime": str(onnxruntime.__version__)}

    def bind(self, signature: Signature) -> None:
        self._names = signature.names if signature.fields is not None else None
        self._field = signature.names[0] if signature.names else ""

    def predict(self, rows: Rows, outputs: tuple[str, ...]) -> Outputs:
        try:
            if self._answers is not None:
                return self._of_sums(self._answers, rows, outputs)
            feed = {self._input: self._texts(rows) if self._document.text is not None else self._matrix(rows)}
            names = [name for name in self._document.outputs if name in outputs]
            found = self._session.run([self._document.outputs[name].source for name in names], feed)
            return {name: self._read(name, value) for name, value in zip(names, found, strict=True)}
        except ValueError as error:
            refuse_if_callers(rows, self._names, error)
            raise

    def _of_sums(self, answers: Answers, rows: Rows, outputs: tuple[str, ...]) -> Outputs:
        """What is made of the trees' sums (n, k)."""
        if rows.n == 1:
            row = self._one
            if row is None:
                row = self._one = _OneRow(self._session, self._document.width)
            sums = row.sums(self._checked(rows)[0])
            if isinstance(sums, float):
                return answers.one(sums, True, outputs)
            return answers.outputs(sums, outputs)
        values = self._session.run(self._values, {self._input: self._matrix(rows)})[0]
        return answers.outputs(values[:, 0] if values.shape[1] == 1 else values, outputs)

    def _checked(self, rows: Rows) -> Array:
        x = rows.matrix
        assert x is not None
        if x.shape[1] != self._document.width:
            raise ValueError(f"the model takes {self._document.width} columns, got {x.shape[1]}")
        if self._document.refused != "nothing":
            _check(x, self._document.refused)
        if self._limits is not None and not (np.abs(x) <= self._safe).all():
            least, greatest = self._limits
            if ((x < least) | (x > greatest)).any():
                raise ValueError("Input X contains infinity or a value too large for dtype('float64').")
        return x

    def _matrix(self, rows: Rows) -> Array:
        x = self._checked(rows)
        if not self._single:
            return x
        with np.errstate(over="ignore"):
            return x.astype(np.float32)

    def _texts(self, rows: Rows) -> Array:
        assert rows.columns is not None
        text = self._document.text
        assert text is not None
        values = rows.columns[self._field].tolist()
        if text.lower:
            values = [value.lower() for value in values]
        if text.accents != "kept":
            values = [_without_accents(value, text.accents) for value in values]
        if text.spaces:
            values = [_SPACES.sub(" ", value) for value in values]
        x = np.empty((len(values), 1), dtype=object)
        x[:, 0] = values
        return x

    def _read(self, name: str, value: Any) -> Array:
        labels = self._labels.get(name)
        if labels is not None:
            return np.asarray(value).reshape(-1).astype(labels.dtype)
        return one_per_row(value) if name == "predict" else plain(value)

    def close(self) -> None:
        """Memory only, which goes with the session."""


class _OneRow:
    """One row of float32 through buffers that the session knows: half of what an ordinary call takes."""

    def __init__(self, session: Any, width: int) -> None:
        self._row = np.zeros((1, width), dtype=np.float32)
        given, answered = session.get_inputs()[0], session.get_outputs()[0]
        self._sums = np.zeros((1, int(answered.shape[1])), dtype=np.float32)
        self._is_one = self._sums.size == 1
        self._binding = session.io_binding()  # the native object below is its
        for bind, name, array in (
            (self._binding.bind_input, given.name, self._row),
            (self._binding.bind_output, answered.name, self._sums),
        ):
            bind(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
        self._run: Callable[..., Any] = session._sess.run_with_iobinding
        self._native = self._binding._iobinding
        self._weights = weights(width)
        self._lock = threading.Lock()

    def sums(self, x: Array) -> Array | float:
        """The graph's answer for a row (width,): (1, k), or the number itself where it is one."""
        with self._lock:
            if -ORDINARY < x.dot(self._weights) < ORDINARY:
                self._row[0] = x
            else:
                with np.errstate(all="ignore"):
                    self._row[0] = x
            self._run(self._native, None)
            return self._sums.item() if self._is_one else self._sums.copy()


def _check(x: Array, refused: Refused) -> None:
    """ValueError for what the original does not take; ONNX Runtime would answer it."""
    total = x.sum()
    if refused == "infinity":
        if not np.isfinite(total) and np.isinf(x).any():
            raise ValueError("Input X contains infinity.")
        return
    if not np.isfinite(total) and not np.isfinite(x).all():
        raise ValueError("Input X contains NaN or infinity.")
    if refused == "beyond float32":
        with np.errstate(over="ignore"):  # a number little above the greatest float32 is rounded to it
            if np.isinf(x.astype(np.float32)).any():
                raise ValueError("Input X contains a value too large for dtype('float32').")


def _without_accents(text: str, how: str) -> str:
    """As scikit-learn's strip_accents_unicode and strip_accents_ascii."""
    if text.isascii():
        return text
    decomposed = unicodedata.normalize("NFKD", text)
    if how == "ascii":
        return decomposed.encode("ascii", "ignore").decode("ascii")
    return "".join(letter for letter in decomposed if not unicodedata.combining(letter))
