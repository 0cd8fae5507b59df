"""`MLModel`, which a custom runtime derives from."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from lagar.mlserver import codecs, decoding
from lagar.mlserver.errors import CodecError
from lagar.mlserver.settings import ModelSettings
from lagar.mlserver.types import (
    InferenceRequest,
    InferenceResponse,
    MetadataModelResponse,
    MetadataTensor,
    RequestInput,
    RequestOutput,
    ResponseOutput,
)


class MLModel:
    """Derive from it, load in `load`, answer in `predict`; what is decoded and encoded is chosen as MLServer does."""

    def __init__(self, settings: ModelSettings) -> None:
        self._settings = settings
        self.ready = False
        self._inputs_index = {tensor.name: tensor for tensor in settings.inputs}
        self._outputs_index = {tensor.name: tensor for tensor in settings.outputs}

    @property
    def name(self) -> str:
        return self._settings.name

    @property
    def version(self) -> str | None:
        return self._settings.version

    @property
    def settings(self) -> ModelSettings:
        return self._settings

    @property
    def inputs(self) -> list[MetadataTensor]:
        """Metadata of the inputs; assigning to it changes what decoding looks at."""
        return self._settings.inputs  # type: ignore[no-any-return]

    @inputs.setter
    def inputs(self, value: list[MetadataTensor]) -> None:
        self._settings.inputs = value
        self._inputs_index = {tensor.name: tensor for tensor in value}

    @property
    def outputs(self) -> list[MetadataTensor]:
        return self._settings.outputs  # type: ignore[no-any-return]

    @outputs.setter
    def outputs(self, value: list[MetadataTensor]) -> None:
        self._settings.outputs = value
        self._outputs_index = {tensor.name: tensor for tensor in value}

    async def load(self) -> bool:
        """Called once, before the first request."""
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        raise NotImplementedError(f"{type(self).__name__} has no predict(payload)")

    async def predict_stream(self, payloads: AsyncIterator[InferenceRequest]) -> AsyncIterator[InferenceResponse]:
        raise NotImplementedError("streams are not served")
        yield

    async def unload(self) -> bool:
        """Called when the version is no longer needed."""
        return True

    async def metadata(self) -> MetadataModelResponse:
        settings = self._settings
        return MetadataModelResponse(
            name=settings.name,
            platform=settings.platform,
            versions=settings.versions,
            inputs=settings.inputs,
            outputs=settings.outputs,
        )

    def decode(self, request_input: RequestInput, default_codec: Any = None) -> Any:
        """The value of one tensor: by its content type, else by the default codec, else as it came."""
        decoded = decoding.decode_request_input(request_input, self._inputs_index)
        if codecs.has_decoded(request_input):
            return codecs.get_decoded(request_input) if decoded is None else decoded
        return request_input.data if default_codec is None else default_codec.decode_input(request_input)

    def decode_request(self, inference_request: InferenceRequest, default_codec: Any = None) -> Any:
        """The value of the whole request, in the same order of preference."""
        decoded = decoding.decode_inference_request(inference_request, self._settings, self._inputs_index)
        if decoded is not inference_request or default_codec is None:
            return decoded
        return default_codec.decode_request(inference_request)

    def encode(self, payload: Any, request_output: RequestOutput, default_codec: Any = None) -> ResponseOutput:
        """A value as the output that was asked for."""
        written = decoding.encode_response_output(payload, request_output, self._outputs_index)
        if written is None and default_codec is not None:
            written = default_codec.encode_output(request_output.name, payload)
        if written is None:
            raise CodecError(f"no codec writes a {type(payload).__name__} for output '{request_output.name}'")
        return written

    def encode_response(self, payload: Any, default_codec: Any = None) -> InferenceResponse:
        """A value as the whole answer."""
        written = decoding.encode_inference_response(payload, self._settings)
        if written is None and default_codec is not None:
            written = default_codec.encode_response(self.name, payload, self.version)
        if written is None:
            raise CodecError(f"no codec writes a {type(payload).__name__} as an answer")
        return written
