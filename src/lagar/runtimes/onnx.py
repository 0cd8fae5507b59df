"""ONNX graphs on ONNX Runtime: one matrix input, or one input per column."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lagar.errors import InvalidInput, LoadFailed, UnsupportedModel
from lagar.registry.model import ModelSource
from lagar.registry.signature import Field, FieldType, Scalar, Task
from lagar.runtimes.base import Chain, Draft, Head, MatrixInput, Opened, one_per_row, plain, unnamed
from lagar.types import Array, Outputs, Rows

_TENSORS: dict[str, tuple[FieldType, Any]] = {
    "tensor(float)": ("float", np.float32),
    "tensor(double)": ("float", np.float64),
    "tensor(float16)": ("float", np.float16),
    "tensor(int64)": ("int", np.int64),
    "tensor(int32)": ("int", np.int32),
    "tensor(int16)": ("int", np.int16),
    "tensor(int8)": ("int", np.int8),
    "tensor(uint8)": ("int", np.uint8),
    "tensor(bool)": ("bool", np.bool_),
    "tensor(string)": ("string", object),
}
_LIMITS = {kind: np.finfo(kind) for kind in (np.float16, np.float32)} | {
    kind: np.iinfo(kind) for kind in (np.int8, np.uint8, np.int16, np.int32)
}
"""What fits into the types that are narrower than the float64 and int64 that requests are read into."""
_LABELS = ("tensor(int64)", "tensor(int32)", "tensor(string)", "tensor(bool)")


def open_source(source: ModelSource, threads: int) -> Opened:
    """A session with `threads` threads and no spinning pools of its own."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(source.path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exception classes differ by version
        raise LoadFailed(
            f"{source.path}: ONNX Runtime {onnxruntime.__version__} does not read it: "
            f"{' '.join(str(error).split())[:300]}"
        ) from error
    inputs = session.get_inputs()
    fields, matrix = _fields(source, inputs)
    head = OnnxHead(session, Path(source.path).read_bytes())
    take: Any = _Feed(inputs, [field.type for field in fields or []], matrix)
    draft = Draft(
        fields=fields,
        layout="matrix" if matrix else "columns",
        named=not matrix,
        task=head.task,
        outputs=head.names,
        native=head.native,
        classes=head.classes,
        meanings=head.meanings,
        origin="inputs of the ONNX graph",
    )
    return Opened(Chain(take, [], head), draft, {"onnxruntime": onnxruntime.__version__})


def _fields(source: ModelSource, inputs: list[Any]) -> tuple[list[Field] | None, bool]:
    """Fields, and whether one matrix goes in; fields None where the graph leaves the width open."""
    for given in inputs:
        if given.type not in _TENSORS:
            raise UnsupportedModel(
                f"{source.path}: the graph's input {given.name!r} is a {given.type}; Lagar sends tensors of numbers or "
                "strings. Convert the model with tensor inputs"
            )
        if given.shape and isinstance(given.shape[0], int) and given.shape[0] != 1:
            raise UnsupportedModel(
                f"{source.path}: the graph takes exactly {given.shape[0]} rows at a time; "
                "export it with a dynamic first axis"
            )
    if len(inputs) == 1 and len(inputs[0].shape) == 2:
        kind, _ = _TENSORS[inputs[0].type]
        width = inputs[0].shape[1]
        if kind != "string":
            if not isinstance(width, int):
                return None, True
            nullable = None if kind == "float" else False
            return [Field(name, type=kind, nullable=nullable) for name in unnamed(width)], True
        names = [inputs[0].name] if width == 1 else unnamed(width if isinstance(width, int) else 1)
        return [Field(name, type="string", nullable=False) for name in names], False
    fields: list[Field] = []
    for given in inputs:
        rest = given.shape[1:]
        if len(given.shape) > 2 or any(size != 1 for size in rest):
            raise UnsupportedModel(
                f"{source.path}: the graph's input {given.name!r} has the shape {list(given.shape)}; Lagar serves one "
                "matrix (n, width) or one column (n, 1) per input. Wrap other models in a class"
            )
        kind, _ = _TENSORS[given.type]
        fields.append(Field(given.name, type=kind, nullable=None if kind == "float" else False))
    return fields, False


class _Feed(MatrixInput):
    """Rows → the feeds of a session, in the types that the graph declares."""

    def __init__(self, inputs: list[Any], types: list[FieldType], matrix: bool) -> None:
        self._inputs = [(given.name, len(given.shape), _TENSORS[given.type][1]) for given in inputs]
        self._one_row = any(isinstance(given.shape[0], int) for given in inputs if given.shape)
        self._matrix = matrix
        self._names: tuple[str, ...] = ()

    def bind(self, names: tuple[str, ...]) -> None:
        self._names = names

    def __call__(self, rows: Rows) -> Any:
        if self._one_row and rows.n > 1:
            return [self._feed(rows.slice(index, index + 1)) for index in range(rows.n)]
        return self._feed(rows)

    def _feed(self, rows: Rows) -> dict[str, Array]:
        name, _, dtype = self._inputs[0]
        if self._matrix:
            assert rows.matrix is not None
            return {name: np.ascontiguousarray(_cast(rows.matrix, dtype, self._names))}
        columns = rows.columns
        if columns is None:
            assert rows.matrix is not None
            columns = {field: rows.matrix[:, index] for index, field in enumerate(self._names)}
        if len(self._inputs) == 1 and len(self._names) > 1:
            return {name: np.column_stack([columns[field] for field in self._names]).astype(dtype)}
        return {
            graph_name: _cast(columns[field], kind, (field,)).reshape((-1, 1) if rank == 2 else (-1,))
            for (graph_name, rank, kind), field in zip(self._inputs, self._names, strict=True)
        }


def _cast(values: Array, dtype: Any, names: tuple[str, ...]) -> Array:
    """The values in the graph's type; InvalidInput for a number that NumPy would wrap or make infinite."""
    limits: Any = _LIMITS.get(dtype)
    if limits is not None:
        wrong = (values < limits.min) | (values > limits.max)
        if wrong.any():
            first = np.argwhere(wrong)[0]
            row, column = (int(index) for index in (*first, 0)[:2])
            name = names[column] if names else unnamed(column + 1)[column]
            raise InvalidInput(
                f"field {name!r} is {values[tuple(first)].item()!r} in row {row}; the graph takes {limits.dtype}, "
                f"which holds {limits.min} to {limits.max}",
                field=name,
                row=row,
            )
    return values.astype(dtype, copy=False)


class OnnxHead(Head):
    """The graph's outputs; label and probabilities of a classifier are called predict and predict_proba."""

    def __init__(self, session: Any, model: bytes) -> None:
        self._session = session
        outputs = session.get_outputs()
        graph_names = [output.name for output in outputs]
        label, proba = _classifier(outputs)
        self.classes: tuple[Scalar, ...] | None = None
        self._keys: list[Any] | None = None
        self.meanings: dict[str, str] = {}
        if label is not None:
            self.task: Task = "classifier" if proba is not None else "unknown"
            renamed = {graph_names[label]: "predict"}
            if proba is not None:
                renamed[graph_names[proba]] = "predict_proba"
                self.classes = class_labels(model)
                self.meanings = {"predict": "the predicted class", "predict_proba": "the probability of each class"}
        else:
            first = outputs[0]
            single = len(outputs) == 1 and len(first.shape) <= 2
            self.task = "regressor" if single and (len(first.shape) == 1 or first.shape[1] == 1) else "unknown"
            renamed = {graph_names[0]: "predict"} if single else {}
        self._graph = {renamed.get(name, name): name for name in graph_names}
        self.names = tuple(
            sorted(self._graph, key=lambda name: (name not in {"predict"}, name not in {"predict_proba"}))
        )
        self.native = self.names

    def outputs(self, x: Any, names: tuple[str, ...]) -> Outputs:
        asked = [self._graph[name] for name in names]
        if isinstance(x, list):  # a graph that takes one row at a time
            parts = [self._answers(self._run(asked, feed)) for feed in x]
            values = [np.concatenate(column) for column in zip(*parts, strict=True)]
        else:
            values = self._answers(self._run(asked, x))
        return {
            name: one_per_row(value) if name == "predict" else value for name, value in zip(names, values, strict=True)
        }

    def _run(self, asked: list[str], feed: Any) -> list[Any]:
        try:
            result: list[Any] = self._session.run(asked, feed)
        except Exception as error:
            if "unknown category" in str(error).lower():
                raise InvalidInput(
                    "a text is none of the categories that the model's encoder knows; send one that it was fitted on"
                ) from None
            raise
        return result

    def _answers(self, raw: list[Any]) -> list[Array]:
        return [plain(self._of_maps(value) if isinstance(value, list) else value) for value in raw]

    def _of_maps(self, maps: list[Any]) -> Any:
        """A sequence of {class: probability}, as ZipMap makes, → a matrix in the order of the classes."""
        if not maps or not isinstance(maps[0], dict):
            return np.asarray(maps)
        keys = self._keys = self._keys or list(self.classes or maps[0])
        return np.array([[row[key] for key in keys] for row in maps], dtype=np.float32)


def _classifier(outputs: list[Any]) -> tuple[int | None, int | None]:
    """Positions of a label output and of its probabilities."""
    label = next((i for i, out in enumerate(outputs) if out.type in _LABELS and len(out.shape) <= 2), None)
    if label is None or len(outputs) == 1:
        return label, None
    for index, output in enumerate(outputs):
        if index == label:
            continue
        if output.type.startswith("seq(map("):
            return label, index
        if output.type in {"tensor(float)", "tensor(double)"} and "prob" in output.name.lower():
            return label, index
    return label, None


def class_labels(model: bytes) -> tuple[Scalar, ...] | None:
    """Class labels from the attributes of a graph's classifier or ZipMap nodes, read without the onnx package."""
    for number, value in _fields_of(model):
        if number != 7:  # ModelProto.graph
            continue
        nodes = [content for kind, content in _fields_of(value) if kind == 1]  # GraphProto.node
        for node in reversed(nodes):
            for kind, attribute in _fields_of(node):
                if kind == 5:  # NodeProto.attribute
                    labels = _labels(attribute)
                    if labels:
                        return labels
    return None


def _labels(attribute: bytes) -> tuple[Scalar, ...] | None:
    """Name 1, ints 8 (packed or not), strings 9 of an AttributeProto."""
    parts = list(_fields_of(attribute))
    name = next((value for kind, value in parts if kind == 1), b"")
    if name in {b"classlabels_strings", b"classlabels_string"}:
        return tuple(value.decode("utf-8", "replace") for kind, value in parts if kind == 9)
    if name in {b"classlabels_ints", b"classlabels_int64s"}:
        numbers: list[int] = []
        for kind, value in parts:
            if kind == 8:
                numbers.extend(_varints(value))
        return tuple(number - (1 << 64) if number >> 63 else number for number in numbers)
    return None


def _varints(data: bytes) -> Iterator[int]:
    position = 0
    while position < len(data):
        value, position = _varint(data, position)
        yield value


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7


def _fields_of(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(field number, content) of a protobuf message; a varint comes as its own bytes."""
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        wire = key & 7
        if wire == 0:
            start = position
            _, position = _varint(data, position)
            yield key >> 3, data[start:position]
        elif wire == 2:
            size, position = _varint(data, position)
            yield key >> 3, data[position : position + size]
            position += size
        elif wire in {1, 5}:
            size = 8 if wire == 1 else 4
            yield key >> 3, data[position : position + size]
            position += size
        else:
            return
