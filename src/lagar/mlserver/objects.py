"""MLServer's JSON codec: BYTES whose elements are JSON. It is chosen by its content type only, never by a value."""

from __future__ import annotations

import json
from typing import Any

import orjson

from lagar.mlserver.codecs import (
    InputCodec,
    SingleInputRequestCodec,
    decode_str,
    elements,
    register_input_codec,
    register_request_codec,
)
from lagar.mlserver.errors import CodecError
from lagar.mlserver.types import Parameters, RequestInput, ResponseOutput


def encode_to_json_bytes(v: Any) -> bytes:
    """A value as JSON; bytes in it are text."""
    return orjson.dumps(v, default=_plain, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS)


def encode_to_json(v: Any, use_bytes: bool = True) -> str | bytes:
    """The same as text where bytes are not wanted."""
    written = encode_to_json_bytes(v)
    return written if use_bytes else written.decode()


def decode_from_bytelike_json_to_dict(v: str | bytes) -> Any:
    return json.loads(v)


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return decode_str(value)
    raise TypeError(f"a {type(value).__name__} is no JSON value")


@register_input_codec
class JSONCodec(InputCodec):
    """A list of any values."""

    ContentType = "json"
    TypeHint = list[Any]

    @classmethod
    def encode_output(cls, name: str, payload: Any, use_bytes: bool = True, **options: Any) -> ResponseOutput:
        values = [encode_to_json(value, use_bytes) for value in payload]
        parameters = Parameters(content_type=cls.ContentType)
        return ResponseOutput(name=name, datatype="BYTES", shape=[len(values), 1], data=values, parameters=parameters)

    @classmethod
    def decode_input(cls, request_input: RequestInput) -> list[Any]:
        try:
            return [decode_from_bytelike_json_to_dict(element) for element in elements(request_input)]
        except ValueError as error:
            raise CodecError(f"input '{request_input.name}' is not JSON: {error}") from error


@register_request_codec
class JSONRequestCodec(SingleInputRequestCodec):
    InputCodec = JSONCodec
    ContentType = JSONCodec.ContentType
