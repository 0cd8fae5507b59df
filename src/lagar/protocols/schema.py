"""The `.proto` files beside this module: read once, they give the codecs of the small messages and the descriptors that
reflection answers with.

Of the language there is what those files use: proto3 messages, nested ones, enums, oneofs, maps, services. Messages are
dictionaries here; a field that has its default is absent. Tensors have a codec of their own, in `grpc.py`.
Source: protobuf.dev/reference/protobuf/proto3-spec, google/protobuf/descriptor.proto.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from lagar.protocols import protobuf
from lagar.protocols.protobuf import malformed, of_length, of_number, signed, text_at

_SCALARS: Final = {
    "double": 1, "float": 2, "int64": 3, "uint64": 4, "int32": 5, "bool": 8, "string": 9, "bytes": 12, "uint32": 13,
}  # fmt: skip
_MESSAGE, _ENUM = 11, 14
_TOKEN = re.compile(r'"[^"]*"|[\w.]+|[{}();=<>,]')
_COMMENT = re.compile(r"//[^\n]*")
_WIRE: Final = {
    "double": protobuf.FIXED64,
    "float": protobuf.FIXED32,
    "string": protobuf.LENGTH,
    "bytes": protobuf.LENGTH,
}


class Field:
    """One field of a message."""

    __slots__ = ("kind", "message", "name", "number", "oneof", "repeated", "values")

    def __init__(self, name: str, number: int, kind: str, *, repeated: bool = False, oneof: int | None = None) -> None:
        self.name = name
        self.number = number
        self.kind = kind
        """A scalar's name, or that of a message or an enum as it was written, then in full."""
        self.repeated = repeated
        self.oneof = oneof
        """The place of its oneof in the message."""
        self.message: Message | None = None
        self.values: dict[str, int] = {}
        """Of an enum: word → number."""

    @property
    def packed(self) -> bool:
        """Whether its numbers may stand behind each other in one field."""
        return self.repeated and self.message is None and self.kind not in _WIRE

    def descriptor(self) -> bytes:
        """Its FieldDescriptorProto."""
        number = _SCALARS.get(self.kind) or (_MESSAGE if self.message is not None else _ENUM)
        words, *rest = self.name.split("_")
        return b"".join(
            (
                _text(1, self.name),
                of_number(3, self.number),
                of_number(4, 3 if self.repeated else 1),
                of_number(5, number),
                b"" if self.kind in _SCALARS else _text(6, f".{self.kind}"),
                b"" if self.oneof is None else of_number(9, self.oneof),
                _text(10, words + "".join(word.capitalize() for word in rest)),
            )
        )


class Message:
    """A type of message, with its codec."""

    def __init__(self, name: str, *, entry: bool = False) -> None:
        self.name = name
        """In full: package.Outer.Inner."""
        self.entry = entry
        """True: one entry of a map."""
        self.fields: dict[int, Field] = {}
        self.nested: list[Message] = []
        self.enums: list[tuple[str, dict[str, int]]] = []
        self.oneofs: list[str] = []

    def walk(self) -> Iterator[Message]:
        """This type and all that are defined in it."""
        yield self
        for inner in self.nested:
            yield from inner.walk()

    def encode(self, values: dict[str, Any]) -> bytes:
        """A message of values by field name; names that are no field are left out."""
        parts: list[bytes] = []
        for field in self.fields.values():
            value = values.get(field.name)
            if value is None:
                continue
            if field.message is not None and field.message.entry:
                value = [{"key": key, "value": inner} for key, inner in value.items()]
            if not field.repeated:
                if value or field.oneof is not None:
                    parts.append(_encoded(field, value))
            elif field.packed:
                if value:
                    parts.append(of_length(field.number, protobuf.varints(map(int, value))))
            else:
                parts += [_encoded(field, inner) for inner in value]
        return b"".join(parts)

    def decode(self, data: bytes, at: int = 0, stop: int | None = None) -> dict[str, Any]:
        """The fields of a message that are there; raises InvalidInput when the bytes are none."""
        values: dict[str, Any] = {}
        for tag, begin, end in protobuf.fields(data, at, stop):
            field = self.fields.get(tag >> 3)
            if field is None:
                continue
            if (
                field.repeated
                and tag & 7 == protobuf.LENGTH
                and _WIRE.get(field.kind, 0) == 0
                and field.message is None
            ):
                numbers = protobuf.packed_varints(data, begin, end).tolist()
                values.setdefault(field.name, []).extend(_number(field, number) for number in numbers)
                continue
            value = _decoded(field, tag & 7, data, begin, end)
            if field.message is not None and field.message.entry:
                values.setdefault(field.name, {})[value.get("key", "")] = value.get("value", {})
            elif field.repeated:
                values.setdefault(field.name, []).append(value)
            else:
                values[field.name] = value
        return values

    def descriptor(self) -> bytes:
        """Its DescriptorProto."""
        parts = [_text(1, self.name.rpartition(".")[2])]
        parts += [of_length(2, field.descriptor()) for field in self.fields.values()]
        parts += [of_length(3, inner.descriptor()) for inner in self.nested]
        parts += [of_length(4, _enum_descriptor(name, values)) for name, values in self.enums]
        if self.entry:
            parts.append(of_length(7, of_number(7, 1)))
        parts += [of_length(8, _text(1, name)) for name in self.oneofs]
        return b"".join(parts)


class Rpc:
    """One method of a service."""

    __slots__ = ("answer", "answers_stream", "name", "request", "requests_stream")

    def __init__(self, name: str, request: str, answer: str, requests_stream: bool, answers_stream: bool) -> None:
        self.name = name
        self.request = request
        """The full name of the message."""
        self.answer = answer
        self.requests_stream = requests_stream
        self.answers_stream = answers_stream

    def descriptor(self) -> bytes:
        """Its MethodDescriptorProto."""
        flags = (of_number(5, 1) if self.requests_stream else b"") + (of_number(6, 1) if self.answers_stream else b"")
        return _text(1, self.name) + _text(2, f".{self.request}") + _text(3, f".{self.answer}") + flags


class ProtoFile:
    """A read `.proto` file."""

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        """As reflection calls it."""
        self.package = ""
        self.messages: dict[str, Message] = {}
        """Full name → type, nested ones too."""
        self.enums: list[tuple[str, dict[str, int]]] = []
        """Those that belong to no message."""
        self.services: dict[str, list[Rpc]] = {}
        """Full name → methods."""
        self._outer: list[Message] = []
        _Reader(self, _TOKEN.findall(_COMMENT.sub("", text))).read()

    def take(self, message: Message) -> None:
        self._outer.append(message)

    def resolve(self) -> None:
        """Every type by its full name, now that all are known."""
        for outer in self._outer:
            self.messages |= {message.name: message for message in outer.walk()}
        enums = {f"{self.package}.{name}": values for name, values in self.enums}
        enums |= {f"{m.name}.{name}": values for m in self.messages.values() for name, values in m.enums}
        for message in self.messages.values():
            for field in message.fields.values():
                if field.kind not in _SCALARS:
                    field.kind = self._full_name(field.kind, message.name, enums)
                    field.message = self.messages.get(field.kind)
                    field.values = enums.get(field.kind, {})

    def _full_name(self, written: str, scope: str, enums: Mapping[str, Any]) -> str:
        """The type that a name means inside a message: the nearest one outwards."""
        while True:
            full = f"{scope}.{written}" if scope else written
            if full in self.messages or full in enums:
                return full
            if not scope:
                raise ValueError(f"{self.name}: no type {written}")
            scope = scope.rpartition(".")[0]

    @property
    def symbols(self) -> set[str]:
        """Full names of everything that reflection may be asked for."""
        methods = {f"{service}.{rpc.name}" for service, rpcs in self.services.items() for rpc in rpcs}
        enums = {f"{self.package}.{name}" for name, _ in self.enums}
        return {*self.messages, *self.services, *methods, *enums}

    def descriptor(self) -> bytes:
        """Its FileDescriptorProto."""
        parts = [_text(1, self.name), _text(2, self.package)]
        parts += [of_length(4, message.descriptor()) for message in self._outer]
        parts += [of_length(5, _enum_descriptor(name, values)) for name, values in self.enums]
        for service, rpcs in self.services.items():
            methods = b"".join(of_length(2, rpc.descriptor()) for rpc in rpcs)
            parts.append(of_length(6, _text(1, service.rpartition(".")[2]) + methods))
        return b"".join((*parts, _text(12, "proto3")))


class _Reader:
    """Reads the words of one file."""

    def __init__(self, file: ProtoFile, words: list[str]) -> None:
        self._file = file
        self._words = iter(words)

    def _next(self, wanted: str = "") -> str:
        word = next(self._words)
        if wanted and word != wanted:
            raise ValueError(f"{self._file.name}: {word!r} where {wanted!r} is expected")
        return word

    def read(self) -> None:
        for word in self._words:
            if word == "syntax":
                self._next("=")
                self._next('"proto3"')
                self._next(";")
            elif word == "package":
                self._file.package = self._next()
                self._next(";")
            elif word == "message":
                self._file.take(self._message(self._file.package))
            elif word == "enum":
                self._file.enums.append(self._enum())
            elif word == "service":
                self._service()
            else:
                raise ValueError(f"{self._file.name}: {word!r} is not expected")
        self._file.resolve()

    def _message(self, scope: str) -> Message:
        message = Message(f"{scope}.{self._next()}")
        self._next("{")
        while (word := self._next()) != "}":
            if word == "message":
                message.nested.append(self._message(message.name))
            elif word == "enum":
                message.enums.append(self._enum())
            elif word == "oneof":
                message.oneofs.append(self._next())
                self._next("{")
                while (kind := self._next()) != "}":
                    self._field(message, kind, oneof=len(message.oneofs) - 1)
            elif word == "map":
                self._map(message)
            elif word == "repeated":
                self._field(message, self._next(), repeated=True)
            else:
                self._field(message, word)
        return message

    def _field(self, message: Message, kind: str, *, repeated: bool = False, oneof: int | None = None) -> None:
        name, _, number, _ = self._next(), self._next("="), int(self._next()), self._next(";")
        message.fields[number] = Field(name, number, kind, repeated=repeated, oneof=oneof)

    def _map(self, message: Message) -> None:
        _, key, _, value, _ = self._next("<"), self._next(), self._next(","), self._next(), self._next(">")
        name, _, number, _ = self._next(), self._next("="), int(self._next()), self._next(";")
        word = "".join(part.capitalize() for part in name.split("_"))
        entry = Message(f"{message.name}.{word}Entry", entry=True)
        entry.fields = {1: Field("key", 1, key), 2: Field("value", 2, value)}
        message.nested.append(entry)
        message.fields[number] = Field(name, number, entry.name.rpartition(".")[2], repeated=True)

    def _enum(self) -> tuple[str, dict[str, int]]:
        name, values = self._next(), {}
        self._next("{")
        while (word := self._next()) != "}":
            self._next("=")
            values[word] = int(self._next())
            self._next(";")
        return name, values

    def _service(self) -> None:
        name, rpcs = f"{self._file.package}.{self._next()}", []
        self._next("{")
        while self._next() != "}":  # else it is "rpc"
            method = self._next()
            request, requests = self._argument()
            self._next("returns")
            answer, answers = self._argument()
            self._next(";")
            package = self._file.package
            rpcs.append(Rpc(method, f"{package}.{request}", f"{package}.{answer}", requests, answers))
        self._file.services[name] = rpcs

    def _argument(self) -> tuple[str, bool]:
        self._next("(")
        word = self._next()
        stream = word == "stream"
        if stream:
            word = self._next()
        self._next(")")
        return word, stream


def read(name: str, *, package: str | None = None) -> ProtoFile:
    """The file NAME.proto beside this module; with `package`, as if it were of that one."""
    text = Path(__file__).with_name(f"{name}.proto").read_text(encoding="utf-8")
    if package is None:
        return ProtoFile(f"lagar/{name}.proto", text)
    text = re.sub(r"^package [\w.]+;", f"package {package};", text, flags=re.MULTILINE)
    return ProtoFile(f"lagar/{package.rpartition('.')[2]}/{name}.proto", text)


def _text(number: int, value: str) -> bytes:
    return of_length(number, value.encode("utf-8"))


def _enum_descriptor(name: str, values: Mapping[str, int]) -> bytes:
    """Its EnumDescriptorProto."""
    listed = [of_length(2, _text(1, word) + of_number(2, number)) for word, number in values.items()]
    return _text(1, name) + b"".join(listed)


def _encoded(field: Field, value: Any) -> bytes:
    number, kind = field.number, field.kind
    if field.message is not None:
        return of_length(number, field.message.encode(value))
    if kind == "string":
        return _text(number, value)
    if kind == "bytes":
        return of_length(number, value)
    if kind == "double":
        return protobuf.of_double(number, value)
    return of_number(number, field.values[value] if isinstance(value, str) else int(value))


def _decoded(field: Field, wire: int, data: bytes, begin: int, end: int) -> Any:
    wanted = protobuf.LENGTH if field.message is not None else _WIRE.get(field.kind, protobuf.VARINT)
    if wire != wanted:
        raise malformed(f"the field {field.name} has wire type {wire} where {wanted} is expected")
    if field.message is not None:
        value = field.message.decode(data, begin, end)
        if field.message.entry and field.message.fields[2].message is None:
            value.setdefault("value", _DEFAULTS.get(field.message.fields[2].kind, 0))
        return value
    if field.kind == "string":
        return text_at(data, begin, end)
    if field.kind == "bytes":
        return data[begin:end]
    if field.kind == "double":
        return struct.unpack_from("<d", data, begin)[0]
    if field.kind == "float":
        return struct.unpack_from("<f", data, begin)[0]
    return _number(field, begin)


_DEFAULTS: Final = {"string": "", "bytes": b"", "double": 0.0, "bool": False}


def _number(field: Field, value: int) -> Any:
    if field.kind == "bool":
        return value != 0
    if field.kind in ("uint32", "uint64"):
        return value
    return signed(value)
