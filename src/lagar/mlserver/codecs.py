"""MLServer's codecs: tensors and whole requests to Python values and back, chosen by content type or by the value.

Different from MLServer's: text that is no base64, and data that does not fill its shape, are errors instead of being
passed through.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from datetime import datetime
from typing import Any, TypeVar

import numpy as np

from lagar.mlserver.errors import CodecError
from lagar.mlserver.types import (
    InferenceRequest,
    InferenceResponse,
    Parameters,
    RequestInput,
    ResponseOutput,
)

DecodedParameterName = "_decoded_payload"
DefaultOutputPrefix = "output-"
DefaultInputPrefix = "input-"
_DTYPES = {
    "BOOL": "bool",
    **{f"{kind}{bits}": f"{kind.lower()}{bits}" for kind in ("INT", "UINT") for bits in (8, 16, 32, 64)},
    **{f"FP{bits}": f"float{bits}" for bits in (16, 32, 64)},
}
_DATATYPES = {dtype: datatype for datatype, dtype in _DTYPES.items()}
_DTYPES["BF16"] = "float32"
"""numpy has none of its own; a float32 holds each of its values."""
Codec = TypeVar("Codec", bound=type)
InputCodecLike = RequestCodecLike = InputOrOutput = Any
"""Names that MLServer has for annotations."""


def encode_str(elem: str) -> bytes:
    return elem.encode()


def decode_str(encoded: Any, str_codec: str = "utf-8") -> str:
    """An element as text; None stays None, as in MLServer."""
    return encoded.decode(str_codec) if isinstance(encoded, bytes) else encoded


def is_list_of(payload: Any, instance_type: type) -> bool:
    return isinstance(payload, list) and all(isinstance(item, instance_type) for item in payload)


def as_list(input_value: Any) -> list[Any]:
    return list(input_value) if isinstance(input_value, (list, tuple)) else [input_value]


def inject_batch_dimension(shape: list[int]) -> list[int]:
    """A shape with an axis behind the rows."""
    return shape if len(shape) > 1 else [*shape, 1]


class InputCodec:
    """One tensor to a Python value and back."""

    ContentType: str = ""
    TypeHint: Any = None

    @classmethod
    def can_encode(cls, payload: Any) -> bool:
        return False

    @classmethod
    def encode_output(cls, name: str, payload: Any, **options: Any) -> ResponseOutput:
        raise NotImplementedError

    @classmethod
    def decode_output(cls, response_output: ResponseOutput) -> Any:
        return cls.decode_input(response_output)

    @classmethod
    def encode_input(cls, name: str, payload: Any, **options: Any) -> RequestInput:
        output = cls.encode_output(name, payload, **options)
        return RequestInput(**{part: getattr(output, part) for part in output._names()})

    @classmethod
    def decode_input(cls, request_input: RequestInput) -> Any:
        raise NotImplementedError

    @classmethod
    def encode(cls, name: str, payload: Any) -> ResponseOutput:
        """As versions before 1.2 call it."""
        return cls.encode_output(name, payload)

    @classmethod
    def decode(cls, request_input: RequestInput) -> Any:
        """As versions before 1.2 call it."""
        return cls.decode_input(request_input)


class RequestCodec:
    """A whole request or answer to a Python value and back."""

    ContentType: str = ""

    @classmethod
    def can_encode(cls, payload: Any) -> bool:
        return False

    @classmethod
    def encode_response(
        cls, model_name: str, payload: Any, model_version: str | None = None, **options: Any
    ) -> InferenceResponse:
        raise NotImplementedError

    @classmethod
    def decode_response(cls, response: InferenceResponse) -> Any:
        raise NotImplementedError

    @classmethod
    def encode_request(cls, payload: Any, **options: Any) -> InferenceRequest:
        raise NotImplementedError

    @classmethod
    def decode_request(cls, request: InferenceRequest) -> Any:
        raise NotImplementedError


input_codecs: dict[str, type[InputCodec]] = {}
request_codecs: dict[str, type[RequestCodec]] = {}


def register_input_codec(codec: Codec) -> Codec:
    """A class decorator: the codec is found by its `ContentType`."""
    input_codecs[codec.ContentType] = codec  # type: ignore[attr-defined]
    return codec


def register_request_codec(codec: Codec) -> Codec:
    request_codecs[codec.ContentType] = codec  # type: ignore[attr-defined]
    return codec


def find_input_codec(
    content_type: str | None = None, payload: Any = None, type_hint: Any = None
) -> type[InputCodec] | None:
    """The codec of a content type, or one that can write the value, or that makes the hinted type."""
    if content_type is not None:
        return input_codecs.get(content_type)
    if type_hint is not None:
        return next((codec for codec in input_codecs.values() if codec.TypeHint == type_hint), None)
    return next((codec for codec in input_codecs.values() if codec.can_encode(payload)), None)


def find_request_codec(
    content_type: str | None = None, payload: Any = None, type_hint: Any = None
) -> type[RequestCodec] | None:
    if content_type is not None:
        return request_codecs.get(content_type)
    if type_hint is not None:
        return next((c for c in request_codecs.values() if getattr(c, "TypeHint", None) == type_hint), None)
    return next((codec for codec in request_codecs.values() if codec.can_encode(payload)), None)


def find_input_codec_by_payload(payload: Any) -> type[InputCodec] | None:
    return find_input_codec(payload=payload)


def find_request_codec_by_payload(payload: Any) -> type[RequestCodec] | None:
    return find_request_codec(payload=payload)


# What a parametrised object remembers of its own decoding.


def has_decoded(parametrised: Any) -> bool:
    return parametrised.parameters is not None and hasattr(parametrised.parameters, DecodedParameterName)


def get_decoded(parametrised: Any) -> Any:
    return getattr(parametrised.parameters, DecodedParameterName) if has_decoded(parametrised) else None


def get_decoded_or_raw(parametrised: Any) -> Any:
    """What was decoded of it, else its data, else the object itself."""
    return get_decoded(parametrised) if has_decoded(parametrised) else getattr(parametrised, "data", parametrised)


def save_decoded(parametrised: Any, payload: Any) -> None:
    if parametrised.parameters is None:
        parametrised.parameters = Parameters()
    setattr(parametrised.parameters, DecodedParameterName, payload)


# Arrays.


def to_datatype(dtype: Any) -> str:
    """The protocol's datatype for numpy's."""
    dtype = np.dtype(dtype)
    return "BYTES" if dtype.kind in "SUOM" else _DATATYPES[dtype.name]


def to_dtype(tensor: RequestInput) -> Any:
    if tensor.datatype != "BYTES":
        return np.dtype(_DTYPES[tensor.datatype])
    texts = elements(tensor)
    return np.dtype(str if all(isinstance(text, str) for text in texts) else object)


def elements(tensor: RequestInput) -> list[Any]:
    """The texts or bytes of a BYTES tensor, each by itself and flat."""
    data = tensor.data.root
    if isinstance(data, bytes) and tensor.shape and tensor.shape[-1]:  # texts of one length, one after the other
        size = tensor.shape[-1]
        return [data[start : start + size] for start in range(0, len(data), size)]
    if isinstance(data, (str, bytes)):
        return [data]
    return list(_flat(data))


def _flat(values: Iterable[Any]) -> Iterable[Any]:
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from _flat(value)
        else:
            yield value


@register_input_codec
class NumpyCodec(InputCodec):
    """Any tensor as an array of its datatype and shape; null is NaN."""

    ContentType = "np"
    TypeHint = np.ndarray

    @classmethod
    def can_encode(cls, payload: Any) -> bool:
        return isinstance(payload, np.ndarray)

    @classmethod
    def encode_output(cls, name: str, payload: Any, **options: Any) -> ResponseOutput:
        array = np.asarray(payload)
        shape = list(array.shape) if array.ndim != 1 else [len(array), 1]
        datatype = to_datatype(array.dtype)
        values = array.reshape(-1).tolist()
        if array.dtype.kind == "f" and np.isnan(array).any():
            values = [None if value != value else value for value in values]
        written = "str" if datatype == "BYTES" and all(isinstance(value, str) for value in values) else cls.ContentType
        return ResponseOutput(
            name=name, datatype=datatype, shape=shape, data=values, parameters=Parameters(content_type=written)
        )

    @classmethod
    def decode_input(cls, request_input: RequestInput) -> Any:
        dtype = to_dtype(request_input)
        data = request_input.data.root
        if request_input.datatype == "BYTES":
            data = elements(request_input)
        elif isinstance(data, bytes):
            data = np.frombuffer(data, dtype=dtype)
        elif isinstance(data, list) and dtype.kind == "f":
            data = [np.nan if value is None else value for value in _flat(data)]
        try:
            return np.array(data, dtype=dtype).reshape(request_input.shape)
        except (ValueError, TypeError, OverflowError) as error:
            raise CodecError(f"input '{request_input.name}' of shape {request_input.shape}: {error}") from error


@register_input_codec
class StringCodec(InputCodec):
    """Texts."""

    ContentType = "str"
    TypeHint = list[str]

    @classmethod
    def can_encode(cls, payload: Any) -> bool:
        return isinstance(payload, list) and all(isinstance(text, str) for text in payload)

    @classmethod
    def encode_output(cls, name: str, payload: Any, use_bytes: bool = True, **options: Any) -> ResponseOutput:
        del use_bytes
        return _column(cls, name, list(payload))

    @classmethod
    def decode_input(cls, request_input: RequestInput) -> list[str | None]:
        return [_text(element, request_input.name) for element in elements(request_input)]


def _column(codec: type[InputCodec], name: str, texts: list[Any]) -> ResponseOutput:
    """An output of one text a row."""
    parameters = Parameters(content_type=codec.ContentType)
    return ResponseOutput(name=name, datatype="BYTES", shape=[len(texts), 1], data=texts, parameters=parameters)


def _text(value: Any, name: str) -> str | None:
    """An element as text; null stays None."""
    try:
        return value.decode() if isinstance(value, bytes) else None if value is None else str(value)
    except UnicodeDecodeError as error:
        raise CodecError(f"input '{name}' holds bytes that are not UTF-8: {error}") from error


@register_input_codec
class Base64Codec(InputCodec):
    """Bytes, written as base64."""

    ContentType = "base64"
    TypeHint = list[bytes]

    @classmethod
    def can_encode(cls, payload: Any) -> bool:
        return isinstance(payload, list) and all(isinstance(item, bytes) for item in payload)

    @classmethod
    def encode_output(cls, name: str, payload: Any, use_bytes: bool = True, **options: Any) -> ResponseOutput:
        del use_bytes
        return _column(
            cls,
            name,
            [base64.b64encode(item if isinstance(item, bytes) else str(item).encode()).decode() for item in payload],
        )

    @classmethod
    def decode_input(cls, request_input: RequestInput) -> list[bytes]:
        try:
            return [base64.b64decode(element, validate=True) for element in elements(request_input)]
        except (binascii.Error, ValueError) as error:
            raise CodecError(f"input '{request_input.name}' is not base64: {error}") from error


@register_input_codec
class DatetimeCodec(InputCodec):
    """Moments, written as ISO 8601."""

    ContentType = "datetime"
    TypeHint = list[datetime]

    @classmethod
    def can_encode(cls, payload: Any) -> bool:
        return isinstance(payload, list) and all(isinstance(item, datetime) for item in payload)

    @classmethod
    def encode_output(cls, name: str, payload: Any, use_bytes: bool = True, **options: Any) -> ResponseOutput:
        del use_bytes
        return _column(cls, name, [item.isoformat() if isinstance(item, datetime) else str(item) for item in payload])

    @classmethod
    def decode_input(cls, request_input: RequestInput) -> list[datetime]:
        texts = [_text(element, request_input.name) for element in elements(request_input)]
        try:
            return [datetime.fromisoformat(text or "") for text in texts]
        except ValueError as error:
            raise CodecError(f"input '{request_input.name}' is no ISO 8601 moment: {error}") from error


# Requests that are one tensor.


class SingleInputRequestCodec(RequestCodec):
    """A request with one tensor, as that tensor's value."""

    InputCodec: Any = None
    """The codec of that tensor: a class derived from InputCodec."""

    @classmethod
    def _codec(cls) -> Any:
        if cls.InputCodec is None:
            raise NotImplementedError(f"{cls.__name__} names no InputCodec")
        return cls.InputCodec

    @classmethod
    def can_encode(cls, payload: Any) -> bool:
        return cls.InputCodec is not None and cls.InputCodec.can_encode(payload)

    @classmethod
    def encode_response(
        cls, model_name: str, payload: Any, model_version: str | None = None, **options: Any
    ) -> InferenceResponse:
        output = cls._codec().encode_output(f"{DefaultOutputPrefix}1", payload, **options)
        return InferenceResponse(
            model_name=model_name,
            model_version=model_version,
            outputs=[output],
            parameters=Parameters(content_type=cls.ContentType),
        )

    @classmethod
    def decode_response(cls, response: InferenceResponse) -> Any:
        return cls._decoded(response.outputs, "output")

    @classmethod
    def encode_request(cls, payload: Any, **options: Any) -> InferenceRequest:
        tensor = cls._codec().encode_input(f"{DefaultInputPrefix}1", payload, **options)
        return InferenceRequest(inputs=[tensor], parameters=Parameters(content_type=cls.ContentType))

    @classmethod
    def decode_request(cls, request: InferenceRequest) -> Any:
        return cls._decoded(request.inputs, "input")

    @classmethod
    def _decoded(cls, tensors: Any, kind: str) -> Any:
        if len(tensors) != 1:
            raise CodecError(
                f"The '{cls.ContentType}' codec only supports a single {kind} tensor ({len(tensors)} were received)"
            )
        (tensor,) = tensors
        if not has_decoded(tensor):
            save_decoded(tensor, cls._codec().decode_input(tensor))
        return get_decoded(tensor)


FirstInputRequestCodec = SingleInputRequestCodec


@register_request_codec
class NumpyRequestCodec(SingleInputRequestCodec):
    InputCodec = NumpyCodec
    ContentType = NumpyCodec.ContentType


@register_request_codec
class StringRequestCodec(SingleInputRequestCodec):
    InputCodec = StringCodec
    ContentType = StringCodec.ContentType
