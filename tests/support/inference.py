"""A gRPC client of a server: grpcio's channel, and protobuf's own messages made from the descriptors that we serve."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from types import TracebackType
from typing import Any

import grpc
import numpy as np
from google.protobuf import descriptor_pool, message_factory

from lagar.protocols import schema

V2 = "inference.GRPCInferenceService"
REPOSITORY = "inference.model_repository.ModelRepositoryService"
HEALTH = "grpc.health.v1.Health"
REFLECTION = ("grpc.reflection.v1", "grpc.reflection.v1alpha")


@cache
def files() -> tuple[schema.ProtoFile, ...]:
    """Every file that the server describes."""
    named = [schema.read(name) for name in ("inference", "repository", "health")]
    return (*named, *(schema.read("reflection", package=package) for package in REFLECTION))


@cache
def _pool() -> descriptor_pool.DescriptorPool:
    pool = descriptor_pool.DescriptorPool()
    for file in files():
        pool.AddSerializedFile(file.descriptor())
    return pool


@cache
def message(name: str) -> Any:
    """Protobuf's class of a message, by its full name."""
    return message_factory.GetMessageClass(_pool().FindMessageTypeByName(name))


@cache
def rpc(service: str, name: str) -> Any:
    """The descriptor of a method."""
    return _pool().FindServiceByName(service).FindMethodByName(name)


def request(
    model: str,
    *inputs: tuple[str, str, Sequence[int], Any],
    raw: bool = False,
    outputs: Sequence[str] = (),
    version: str = "",
    id: str = "",
) -> Any:
    """A ModelInferRequest; each input is its name, datatype, shape and values."""
    asked = message("inference.ModelInferRequest")(model_name=model, model_version=version, id=id)
    for name, datatype, shape, values in inputs:
        tensor = asked.inputs.add(name=name, datatype=datatype, shape=shape)
        if raw:
            asked.raw_input_contents.append(blob(datatype, values))
        else:
            getattr(tensor.contents, LISTS[datatype]).extend(values)
    for name in outputs:
        asked.outputs.add(name=name)
    return asked


LISTS = {
    "BOOL": "bool_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents",
    "INT64": "int64_contents", "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents",
    "UINT64": "uint64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents",
}  # fmt: skip
_DTYPES = {
    "BOOL": "u1", "INT8": "i1", "INT16": "<i2", "INT32": "<i4", "INT64": "<i8", "UINT8": "u1", "UINT16": "<u2",
    "UINT32": "<u4", "UINT64": "<u8", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8",
}  # fmt: skip


def blob(datatype: str, values: Any) -> bytes:
    """The raw contents of a tensor, as a client writes them."""
    if datatype == "BYTES":
        texts = [value if isinstance(value, bytes) else value.encode() for value in values]
        return b"".join(len(text).to_bytes(4, "little") + text for text in texts)
    return np.asarray(values, _DTYPES[datatype]).tobytes()


def output(answer: Any, position: int = 0) -> list[Any]:
    """The flat values of an output, wherever they stand."""
    tensor = answer.outputs[position]
    if not answer.raw_output_contents:
        return list(getattr(tensor.contents, LISTS[tensor.datatype]))
    data = answer.raw_output_contents[position]
    if tensor.datatype != "BYTES":
        return np.frombuffer(data, _DTYPES[tensor.datatype]).tolist()
    found = []
    while data:
        size = int.from_bytes(data[:4], "little")
        found.append(data[4 : 4 + size])
        data = data[4 + size :]
    return found


class Client:
    """A channel to one server."""

    def __init__(self, target: str, *, credentials: grpc.ChannelCredentials | None = None, **options: Any) -> None:
        given = [(f"grpc.{name}", value) for name, value in options.items()]
        if credentials is None:
            self.channel = grpc.insecure_channel(target, given)
        else:
            self.channel = grpc.secure_channel(target, credentials, given)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.channel.close()

    def method(self, name: str, service: str = V2) -> Any:
        """What calls a method: takes a message, or an iterator of them."""
        about = rpc(service, name)
        kind = (
            "stream_stream" if about.client_streaming else "unary_stream" if about.server_streaming else "unary_unary"
        )
        make = getattr(self.channel, kind)
        return make(
            f"/{service}/{name}",
            request_serializer=lambda given: given.SerializeToString(),
            response_deserializer=message(about.output_type.full_name).FromString,
        )

    def call(
        self, name: str, service: str = V2, /, *, timeout: float = 60.0, metadata: Any = None, **fields: Any
    ) -> Any:
        """Call a method with a message of these fields."""
        asked = message(rpc(service, name).input_type.full_name)(**fields)
        return self.method(name, service)(asked, timeout=timeout, metadata=metadata)

    def infer(self, asked: Any, *, timeout: float = 60.0, metadata: Any = None, **options: Any) -> Any:
        """The answer to a ModelInferRequest."""
        return self.method("ModelInfer")(asked, timeout=timeout, metadata=metadata, **options)
