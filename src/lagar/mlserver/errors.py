"""MLServer's errors as a custom runtime raises them: `status_code` says whose fault it was."""

from __future__ import annotations

from typing import Any


class MLServerError(Exception):
    """The base of all: a status below 500 is the caller's mistake, and its text is told to the caller."""

    def __init__(self, msg: str, status_code: int = 400) -> None:
        super().__init__(msg)
        self.status_code = status_code


class InvalidModelURI(MLServerError):
    def __init__(self, name: str, model_uri: str | None = None) -> None:
        shown = f" ({model_uri})" if model_uri else ""
        super().__init__(f"Invalid URI specified for model {name}{shown}", 422)


class ModelNotFound(MLServerError):
    def __init__(self, name: str, version: str | None = None) -> None:
        label = name if version is None else f"{name} with version {version}"
        super().__init__(f"Model {label} not found", 404)


class ModelNotReady(MLServerError):
    def __init__(self, name: str, version: str | None = None) -> None:
        label = name if version is None else f"{name} with version {version}"
        super().__init__(f"Model {label} is not ready yet.", 503)


class InferenceError(MLServerError):
    """What a runtime raises for a request that it does not take."""

    def __init__(self, msg: str) -> None:
        super().__init__(msg, 400)


class ModelParametersMissing(MLServerError):
    def __init__(self, model_name: str, reason: str | None = None) -> None:
        super().__init__(f"Parameters missing for model {model_name}{f': {reason}' if reason else ''}", 400)


class CodecError(MLServerError):
    def __init__(self, msg: str) -> None:
        super().__init__(f"There was an error encoding / decoding the payload: {msg}", 400)


class CodecNotFound(CodecError):
    def __init__(
        self, name: str | None = None, payload_type: Any = None, is_input: bool = True, is_request: bool = False
    ) -> None:
        del is_input, is_request
        parts = [f"with name {name}"] if name else []
        parts += [f"with type {payload_type}"] if payload_type else []
        super().__init__(f"no codec was found {' and '.join(parts)}")


class InputNotFound(CodecError):
    def __init__(self, input_name: str, known: Any) -> None:
        super().__init__(f"input '{input_name}' was not found; the request has {', '.join(map(str, known)) or 'none'}")
