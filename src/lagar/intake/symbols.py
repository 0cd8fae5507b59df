"""What the walk over a pickle keeps of its values: only as much as names, array sizes and dtypes need."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from lagar.intake import allowlist

_MAX_DICT = 8192
_DTYPE_TEXT = re.compile(r"[<>=|]?[A-Za-z?_]{1,12}\d{0,9}(\[\w{1,8}\])?\Z")


class Global:
    """A name that the pickle would import."""

    __slots__ = ("calls", "key", "module", "name", "own", "permitted")

    def __init__(self, module: str, name: str, code_modules: frozenset[str]) -> None:
        self.key = (module, name)
        self.module = module
        self.name = name
        self.own = allowlist.own_code(module, code_modules)
        self.permitted = allowlist.permits(module, name, code_modules)
        self.calls = self.own or allowlist.callable_by_pickle(module, name)

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class Opaque:
    """A value whose content cannot matter: numbers, bytes, lists, finished objects."""

    __slots__ = ()


class Dict:
    """A dictionary, as far as its keys are short text."""

    __slots__ = ("items",)

    def __init__(self) -> None:
        self.items: dict[str, object] = {}

    def put(self, key: object, value: object) -> bool:
        """False when it is full: an array's state or a record's fields have fewer keys."""
        if isinstance(key, str):
            self.items[key] = value
        return len(self.items) < _MAX_DICT


class List:
    """A list, of which only the length is kept."""

    __slots__ = ("length",)

    def __init__(self, length: int) -> None:
        self.length = length


class NDArray:
    """A numpy array that waits for its state, or has it."""

    __slots__ = ()


class DType:
    """A numpy dtype in the making; `value` is None while it cannot be known."""

    __slots__ = ("built", "copied", "value")

    def __init__(self, value: np.dtype[Any] | None, copied: bool) -> None:
        self.value = value
        self.copied = copied
        self.built = False


class ArrayWrapper:
    """A joblib NumpyArrayWrapper: when its state is set, array bytes follow in the stream."""

    __slots__ = ("built",)

    def __init__(self) -> None:
        self.built = False


def plain_dtype(args: tuple[object, ...]) -> np.dtype[Any] | None:
    """numpy.dtype(*args) where args are what numpy itself pickles."""
    spec = args[0] if args else None
    if isinstance(spec, Global) and spec.module == "numpy" and spec.name in allowlist.NUMPY_SCALARS:
        spec = spec.name.rstrip("_")
    if not isinstance(spec, str) or not _DTYPE_TEXT.match(spec):
        return None
    try:
        return np.dtype(spec)
    except (TypeError, ValueError, SyntaxError, OverflowError):
        return None


def built_dtype(target: DType, state: object) -> np.dtype[Any] | None:
    """The dtype that numpy's __setstate__ would make of state, or None where the two would not agree on size and kind.

    numpy believes a state's flags, offsets and sizes; here the dtype is made by the constructor, which checks them.
    """
    if target.value is None or not isinstance(state, tuple) or not 8 <= len(state) <= 9 or state[0] not in (3, 4):
        return None
    _, endian, subarray, names, fields, itemsize, _, flags = state[:8]
    if endian not in ("<", ">", "|", "=") or type(itemsize) is not int or type(flags) is not int:
        return None
    try:
        if subarray is not None:
            value = _subarray_dtype(subarray)
        elif names is not None:
            value = _record_dtype(names, fields, itemsize)
        elif fields is None:
            value = target.value.newbyteorder(endian)
        else:
            return None
    except (TypeError, ValueError, KeyError, OverflowError, AttributeError):
        return None
    if value is None or (itemsize != -1 and itemsize != value.itemsize) or bool(flags & 1) != value.hasobject:
        return None
    return value if value.kind == target.value.kind else None


def _subarray_dtype(subarray: object) -> np.dtype[Any] | None:
    if not isinstance(subarray, tuple) or len(subarray) != 2:
        return None
    base, shape = subarray
    if not isinstance(base, DType) or base.value is None:
        return None
    shape = shape if isinstance(shape, tuple) else (shape,)
    if not all(type(length) is int and 0 <= length < 2**31 for length in shape):
        return None
    return np.dtype((base.value, shape))


def _record_dtype(names: object, fields: object, itemsize: int) -> np.dtype[Any] | None:
    if not isinstance(names, tuple) or not isinstance(fields, Dict) or not set(fields.items) >= set(names):
        return None
    formats, offsets = [], []
    for name in names:
        dtype, offset = fields.items[name][:2]  # type: ignore[index]
        if not isinstance(dtype, DType) or dtype.value is None or type(offset) is not int or offset < 0:
            return None
        formats.append(dtype.value)
        offsets.append(offset)
    return np.dtype({"names": list(names), "formats": formats, "offsets": offsets, "itemsize": itemsize})
