"""ONNX files, written without the onnx package: the few protobuf messages that a graph of Lagar's needs.

Field numbers: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto. Arrays go in as NumPy has them, because a forest
of a million nodes is a second of Python otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

TENSOR_TYPES = {np.dtype(np.float32): 1, np.dtype(np.uint8): 2, np.dtype(np.int64): 7, np.dtype(np.float64): 11}
"""NumPy type → TensorProto.DataType."""
_IR_VERSION = 9
_ATTRIBUTE_INT, _ATTRIBUTE_TENSOR, _ATTRIBUTE_INTS = 2, 4, 7


def model(
    nodes: Sequence[bytes],
    inputs: Sequence[bytes],
    outputs: Sequence[bytes],
    opsets: Mapping[str, int],
    name: str = "lagar",
) -> bytes:
    """A ModelProto of one graph; `nodes` in an order in which each has its inputs."""
    graph = b"".join(_message(1, node) for node in nodes) + _message(2, name.encode())
    graph += b"".join(_message(11, value) for value in inputs) + b"".join(_message(12, value) for value in outputs)
    versions = b"".join(
        _message(8, _message(1, domain.encode()) + _number(2, version)) for domain, version in opsets.items()
    )
    return _number(1, _IR_VERSION) + _message(2, b"lagar") + _message(7, graph) + versions


def node(operator: str, inputs: Sequence[str], outputs: Sequence[str], domain: str = "", **attributes: Any) -> bytes:
    """A NodeProto; an attribute is an int, an int64 array (INTS) or, as a pair (array,), a tensor."""
    content = b"".join(_message(1, value.encode()) for value in inputs)
    content += b"".join(_message(2, value.encode()) for value in outputs)
    content += _message(4, operator.encode())
    content += b"".join(_message(5, _attribute(key, value)) for key, value in attributes.items())
    return content + _message(7, domain.encode())


def value(name: str, dtype: Any, shape: Sequence[int | str]) -> bytes:
    """A ValueInfoProto; a name in the shape is an open dimension."""
    dims = b"".join(
        _message(1, _number(1, size) if isinstance(size, int) else _message(2, size.encode())) for size in shape
    )
    tensor = _number(1, TENSOR_TYPES[np.dtype(dtype)]) + _message(2, dims)
    return _message(1, name.encode()) + _message(2, _message(1, tensor))


def _attribute(name: str, content: Any) -> bytes:
    head = _message(1, name.encode())
    if isinstance(content, int):
        return head + _number(3, content) + _number(20, _ATTRIBUTE_INT)
    if isinstance(content, tuple):
        return head + _message(5, _tensor(content[0])) + _number(20, _ATTRIBUTE_TENSOR)
    return head + _message(8, varints(content)) + _number(20, _ATTRIBUTE_INTS)


def _tensor(array: NDArray[Any]) -> bytes:
    dims = b"".join(_number(1, size) for size in array.shape)
    little_endian = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return dims + _number(2, TENSOR_TYPES[array.dtype]) + _message(9, little_endian.tobytes())


def varints(values: NDArray[np.int64]) -> bytes:
    """Numbers from 0 to 2^35 in protobuf's packed form: seven bits a byte, the lowest first."""
    numbers = np.asarray(values, dtype=np.int64)
    if not len(numbers):
        return b""
    if numbers.min() < 0 or numbers.max() >= 1 << 35:
        raise ValueError("a packed number is outside 0 to 2^35")
    shifts = np.arange(5, dtype=np.int64) * 7
    longer = numbers[:, None] >> (shifts + 7)  # what is left after each byte
    parts = ((numbers[:, None] >> shifts) & 0x7F).astype(np.uint8)
    parts[longer > 0] |= 0x80
    used = np.ones(parts.shape, dtype=bool)
    used[:, 1:] = longer[:, :-1] > 0
    return parts[used].tobytes()


def _number(field: int, content: int) -> bytes:
    return _varint(field << 3) + _varint(content)


def _message(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    found.append(number)
    return bytes(found)
