"""The messages of the V2 protocol as MLServer's own types: attributes by name, made by keyword, dumped as plain values.

They check as little as a custom runtime needs: what is nested is made of dicts where dicts are given, `data` is wrapped
so that `data.root`, `data.__root__`, iteration and indexing all work. `dict()` and `model_dump()` are the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from enum import Enum, StrEnum
from typing import Any, Self

import numpy as np

_ALL = "__all__"
Plain = dict[str, Any]
"""Here, because the types have a method called dict."""


class Datatype(StrEnum):
    """The datatypes of the protocol."""

    BOOL = "BOOL"
    UINT8 = "UINT8"
    UINT16 = "UINT16"
    UINT32 = "UINT32"
    UINT64 = "UINT64"
    INT8 = "INT8"
    INT16 = "INT16"
    INT32 = "INT32"
    INT64 = "INT64"
    FP16 = "FP16"
    FP32 = "FP32"
    FP64 = "FP64"
    BYTES = "BYTES"


class Dumped:
    """What every type of this module can do with its fields: pydantic's methods in both of its dialects."""

    def _names(self) -> tuple[str, ...]:
        return tuple(part.name for part in fields(self))  # type: ignore[arg-type]

    def model_dump(
        self, *, exclude: Any = None, exclude_none: bool = False, exclude_unset: bool = False, by_alias: bool = False
    ) -> Plain:
        """The fields as plain values; `exclude` as pydantic has it: names, or names with what to leave out below."""
        del by_alias
        unwanted = exclude if isinstance(exclude, Mapping) else dict.fromkeys(exclude or (), True)
        found = {}
        for name in self._names():
            below = unwanted.get(name)
            value = getattr(self, name)
            if below in (True, ...) or (value is None and (exclude_none or exclude_unset)):
                continue
            found[name] = _dumped(value, below, exclude_none or exclude_unset)
        return found

    def dict(self, **options: Any) -> Plain:
        return self.model_dump(**options)

    def model_dump_json(self, *, indent: int | None = None, **options: Any) -> str:
        return json.dumps(self.model_dump(**options), indent=indent, default=_json)

    def json(self, **options: Any) -> str:
        return self.model_dump_json(**options)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy with other values for some fields; `deep` copies what is nested too."""
        given = {name: getattr(self, name) for name in self._names()}
        copied = type(self).model_validate(self.model_dump()) if deep else type(self)(**given)
        for name, value in (update or {}).items():
            setattr(copied, name, value)
        return copied

    def copy(self, **options: Any) -> Self:
        return self.model_copy(**options)

    @classmethod
    def model_validate(cls, obj: Any) -> Self:
        """One made of a mapping; names that it has no field for are left out."""
        if isinstance(obj, cls):
            return obj
        known = {part.name for part in fields(cls)}  # type: ignore[arg-type]
        return cls(**{name: value for name, value in dict(obj).items() if name in known})

    @classmethod
    def parse_obj(cls, obj: Any) -> Self:
        return cls.model_validate(obj)

    @classmethod
    def model_validate_json(cls, text: str | bytes) -> Self:
        return cls.model_validate(json.loads(text))

    @classmethod
    def parse_raw(cls, text: str | bytes) -> Self:
        return cls.model_validate_json(text)


class Parameters(Dumped):
    """Any names; `content_type` and `headers` are always there. What begins with "_" is never dumped."""

    content_type: str | None
    headers: Mapping[str, str] | None

    def __init__(
        self, *, content_type: str | None = None, headers: Mapping[str, str] | None = None, **others: Any
    ) -> None:
        self.content_type = content_type
        self.headers = headers
        self.__dict__.update(others)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Parameters) and self.model_dump() == other.model_dump()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Parameters({', '.join(f'{name}={value!r}' for name, value in self.model_dump().items())})"

    def _names(self) -> tuple[str, ...]:
        return tuple(name for name, value in vars(self).items() if name[0] != "_" and value is not None)

    @property
    def model_extra(self) -> Plain:
        """What is there beside the declared names."""
        return {name: getattr(self, name) for name in self._names() if name not in ("content_type", "headers")}

    @classmethod
    def model_validate(cls, obj: Any) -> Self:
        return obj if isinstance(obj, cls) else cls(**dict(obj))


class Tags(Parameters):
    """As older versions of MLServer call the parameters of metadata."""


class TensorData:
    """The values of a tensor as they came: a list, flat or nested, or bytes."""

    __slots__ = ("root",)

    def __init__(self, root: Any = None, **named: Any) -> None:
        self.root = named.get("__root__", root)

    @property
    def __root__(self) -> Any:
        return self.root

    def __iter__(self) -> Iterator[Any]:
        return iter(self.root)

    def __getitem__(self, index: Any) -> Any:
        return self.root[index]

    def __len__(self) -> int:
        return len(self.root)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        del copy
        return np.asarray(self.root, dtype=dtype)

    def __eq__(self, other: object) -> bool:
        same = self.root == (other.root if isinstance(other, TensorData) else other)
        return bool(same) if isinstance(same, (bool, np.bool_)) else bool(np.all(same))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"TensorData(root={self.root!r})"


def _of(kind: type[Dumped], value: Any) -> Any:
    return None if value is None else kind.model_validate(value)


def _all_of(kind: type[Dumped], values: Any) -> Any:
    return None if values is None else [kind.model_validate(value) for value in values]


def _data(value: Any) -> TensorData:
    return value if isinstance(value, TensorData) else TensorData(value)


@dataclass(kw_only=True)
class MetadataTensor(Dumped):
    name: str
    datatype: str
    shape: list[int]
    parameters: Parameters | None = None
    tags: Parameters | None = None

    def __post_init__(self) -> None:
        self.datatype = _text(self.datatype)
        self.parameters = _of(Parameters, self.parameters if self.parameters is not None else self.tags)
        self.tags = self.parameters


@dataclass(kw_only=True)
class RequestInput(Dumped):
    """One tensor of a request."""

    name: str
    shape: list[int]
    datatype: str
    parameters: Parameters | None = None
    data: Any = field(default_factory=TensorData)
    """A list or bytes when it is made, TensorData afterwards."""

    def __post_init__(self) -> None:
        self.datatype, self.shape = _text(self.datatype), list(self.shape)
        self.parameters, self.data = _of(Parameters, self.parameters), _data(self.data)


@dataclass(kw_only=True)
class RequestOutput(Dumped):
    """An output that a request asks for."""

    name: str
    parameters: Parameters | None = None

    def __post_init__(self) -> None:
        self.parameters = _of(Parameters, self.parameters)


@dataclass(kw_only=True)
class InferenceRequest(Dumped):
    id: str | None = None
    parameters: Parameters | None = None
    inputs: list[RequestInput] = field(default_factory=list)
    outputs: list[RequestOutput] | None = None

    def __post_init__(self) -> None:
        self.parameters = _of(Parameters, self.parameters)
        self.inputs, self.outputs = _all_of(RequestInput, self.inputs), _all_of(RequestOutput, self.outputs)


@dataclass(kw_only=True)
class ResponseOutput(RequestInput):
    """One tensor of an answer."""


@dataclass(kw_only=True)
class InferenceResponse(Dumped):
    model_name: str = ""
    model_version: str | None = None
    id: str | None = None
    parameters: Parameters | None = None
    outputs: list[ResponseOutput] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.parameters, self.outputs = _of(Parameters, self.parameters), _all_of(ResponseOutput, self.outputs)


@dataclass(kw_only=True)
class InferenceErrorResponse(Dumped):
    error: str | None = None


@dataclass(kw_only=True)
class MetadataModelResponse(Dumped):
    name: str
    platform: str = ""
    versions: list[str] | None = None
    inputs: list[MetadataTensor] | None = None
    outputs: list[MetadataTensor] | None = None
    parameters: Parameters | None = None


@dataclass(kw_only=True)
class MetadataServerResponse(Dumped):
    name: str
    version: str
    extensions: list[str] = field(default_factory=list)


def _text(value: Any) -> str:
    return str(value.value) if isinstance(value, Enum) else str(value)


def _dumped(value: Any, below: Any, without_none: bool) -> Any:
    if isinstance(value, Dumped):
        return value.model_dump(exclude=below, exclude_none=without_none)
    if isinstance(value, TensorData):
        return value.root
    if isinstance(value, list):
        each = below.get(_ALL) if isinstance(below, Mapping) else None
        return [_dumped(item, each, without_none) for item in value]
    return value


def _json(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode()
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"a {type(value).__name__} is no JSON value")
