"""Which codec reads a request and writes an answer: what the request says, then the metadata, then a default.

Here too stand the request codec of data frames and the decorator that gives a method decoded arguments.
"""

from __future__ import annotations

import functools
import inspect
import json
import typing
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from lagar.mlserver.codecs import (
    NumpyCodec,
    RequestCodec,
    find_input_codec,
    find_request_codec,
    get_decoded,
    get_decoded_or_raw,
    has_decoded,
    register_request_codec,
    save_decoded,
    to_datatype,
)
from lagar.mlserver.errors import CodecError, CodecNotFound, InputNotFound
from lagar.mlserver.types import (
    InferenceRequest,
    InferenceResponse,
    MetadataTensor,
    Parameters,
    RequestInput,
    RequestOutput,
    ResponseOutput,
)

Metadata = Mapping[str, MetadataTensor]


@register_request_codec
class PandasCodec(RequestCodec):
    """One tensor per column."""

    ContentType = "pd"

    @classmethod
    def can_encode(cls, payload: Any) -> bool:
        return type(payload).__name__ == "DataFrame" and hasattr(payload, "iloc")

    @classmethod
    def encode_outputs(cls, payload: Any, **options: Any) -> list[ResponseOutput]:
        return [_column(str(name), payload[name]) for name in payload.columns]

    @classmethod
    def encode_response(
        cls, model_name: str, payload: Any, model_version: str | None = None, **options: Any
    ) -> InferenceResponse:
        return InferenceResponse(
            model_name=model_name,
            model_version=model_version,
            outputs=cls.encode_outputs(payload),
            parameters=Parameters(content_type=cls.ContentType),
        )

    @classmethod
    def encode_request(cls, payload: Any, **options: Any) -> InferenceRequest:
        inputs = [
            RequestInput(**{part: getattr(output, part) for part in output._names()})
            for output in cls.encode_outputs(payload)
        ]
        return InferenceRequest(inputs=inputs, parameters=Parameters(content_type=cls.ContentType))

    @classmethod
    def decode_request(cls, request: InferenceRequest) -> Any:
        return _frame(request.inputs)

    @classmethod
    def decode_response(cls, response: InferenceResponse) -> Any:
        return _frame(response.outputs)


def _frame(tensors: Any) -> Any:
    import pandas as pd

    columns: dict[str, Any] = {}
    for tensor in tensors:
        column = get_decoded(tensor) if has_decoded(tensor) else NumpyCodec.decode_input(tensor)
        if isinstance(column, np.ndarray) and column.ndim > 1:
            column = column.reshape(len(column), -1)
            column = column[:, 0] if column.shape[1] == 1 else list(column)
        columns[tensor.name] = column
    sizes = {name: len(column) for name, column in columns.items()}
    if len(set(sizes.values())) > 1:
        raise CodecError(f"the columns have different lengths: {sizes}")
    return pd.DataFrame(columns)


def _column(name: str, series: Any) -> ResponseOutput:
    values = series.to_numpy()
    datatype = to_datatype(values.dtype)
    data = values.tolist()
    written = None
    if datatype == "BYTES":
        written = "str" if all(isinstance(value, (str, bytes)) for value in data) else "pd_json"
        data = [json.dumps(value) for value in data] if written == "pd_json" else data
    elif values.dtype.kind == "f":
        data = [None if value != value else value for value in data]
    parameters = None if written is None else Parameters(content_type=written)
    return ResponseOutput(name=name, shape=[len(data), 1], datatype=datatype, data=data, parameters=parameters)


def content_type_of(parametrised: Any, metadata: Any = None) -> str | None:
    """What a request, a tensor or an output says of itself, else what the model's settings say of it."""
    for owner in (parametrised, metadata):
        parameters = getattr(owner, "parameters", None)
        found = getattr(parameters, "content_type", None)
        if found:
            return str(found)
    return None


def decode_request_input(request_input: RequestInput, metadata_inputs: Metadata | None = None) -> Any:
    """The decoded value of a tensor that names a content type, kept with the tensor; None for another one."""
    content_type = content_type_of(request_input, (metadata_inputs or {}).get(request_input.name))
    if content_type is None:
        return None
    codec = find_input_codec(content_type)
    if codec is None:
        if content_type == "pd":  # of the whole request
            return None
        raise CodecNotFound(name=content_type)
    save_decoded(request_input, codec.decode_input(request_input))
    return get_decoded(request_input)


def decode_inference_request(
    inference_request: InferenceRequest, model_settings: Any = None, metadata_inputs: Metadata | None = None
) -> Any:
    """The whole request as its content type says; the request itself, its tensors decoded, where it names none."""
    for request_input in inference_request.inputs:
        decode_request_input(request_input, metadata_inputs)
    content_type = content_type_of(inference_request, model_settings)
    if content_type is None:
        return inference_request
    codec = find_request_codec(content_type)
    if codec is None:
        raise CodecNotFound(name=content_type)
    decoded = codec.decode_request(inference_request)
    save_decoded(inference_request, decoded)
    return decoded


def encode_response_output(
    payload: Any, request_output: RequestOutput, metadata_outputs: Metadata | None = None
) -> ResponseOutput | None:
    """The value as the tensor that was asked for; None where no codec writes it."""
    content_type = content_type_of(request_output, (metadata_outputs or {}).get(request_output.name))
    codec = find_input_codec(content_type) if content_type else find_input_codec(payload=payload)
    return None if codec is None else codec.encode_output(name=request_output.name, payload=payload)


def encode_inference_response(payload: Any, model_settings: Any) -> InferenceResponse | None:
    codec = find_request_codec(payload=payload)
    if codec is None:
        return None
    return codec.encode_response(model_settings.name, payload, model_settings.version)


def decode_args(predict: Callable[..., Any]) -> Callable[..., Any]:
    """A `predict` whose arguments are the request's inputs by name, decoded by their annotations, or one frame.

    What it returns becomes the answer: one value, or a tuple of them.
    """
    hints = {name: hint for name, hint in typing.get_type_hints(predict).items() if name != "return"}

    @functools.wraps(predict)
    async def called(self: Any, request: InferenceRequest) -> InferenceResponse:
        given = _arguments(self, request, hints)
        result = predict(self, **given)
        result = await result if inspect.isawaitable(result) else result
        outputs: list[ResponseOutput] = []
        for value in result if isinstance(result, tuple) else (result,):
            codec = find_request_codec(payload=value)
            if codec is PandasCodec:
                outputs.extend(PandasCodec.encode_outputs(value))
                continue
            written = find_input_codec(payload=value)
            if written is None:
                raise CodecNotFound(payload_type=type(value).__name__)
            outputs.append(written.encode_output(f"output-{len(outputs)}", value))
        return InferenceResponse(id=request.id, model_name=self.name, model_version=self.version, outputs=outputs)

    return called


def _arguments(model: Any, request: InferenceRequest, hints: Mapping[str, Any]) -> dict[str, Any]:
    if len(hints) == 1 and getattr(next(iter(hints.values())), "__name__", "") == "DataFrame":
        (name,) = hints
        return {name: model.decode_request(request, default_codec=PandasCodec)}
    tensors = {tensor.name: tensor for tensor in request.inputs}
    given = {}
    for name, hint in hints.items():
        if name not in tensors:
            raise InputNotFound(name, tensors)
        codec = find_input_codec(type_hint=hint)
        given[name] = model.decode(tensors[name], default_codec=codec)
    return given


__all__ = ["PandasCodec", "decode_args", "get_decoded_or_raw"]
