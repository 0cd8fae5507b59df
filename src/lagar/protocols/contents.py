"""Content types of V2: what an input's elements stand for, chosen as MLServer chooses.

The type of an input is the one that the input itself names, else the one that the model's metadata names for it, else
the request's. The type of the request is its own, else the model's. `np` and `str` for a whole request take one input,
`pd` and `dict` take columns by name. A type that nobody knows is refused; MLServer reads on as if there were none.
Source: mlserver/codecs/utils.py, pandas.py, string.py, base64.py, datetime.py (1.3 to 1.6).
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from lagar.errors import InvalidInput, InvalidJson
from lagar.protocols import json_body
from lagar.protocols.base import shown
from lagar.protocols.tensors import Form, Tensor
from lagar.registry.signature import Signature

Parameters = Mapping[str, Any]

KEY: Final = "content_type"
NP, PD, STR, BASE64, DATETIME, PD_JSON, DICT = "np", "pd", "str", "base64", "datetime", "pd_json", "dict"
_OF_INPUTS: Final = (NP, PD, STR, BASE64, DATETIME, PD_JSON)
_OF_REQUESTS: Final = (NP, PD, STR, BASE64, DATETIME, DICT)
_OF_OUTPUTS: Final = (NP, PD, STR, BASE64, DATETIME)
_SPREAD: Final = (STR, BASE64, DATETIME)
"""Of a request: they hold for each BYTES input that names none; `str` takes no other one."""
_OF_TEXT: Final = frozenset({STR, BASE64, DATETIME, PD_JSON})


class ContentTypes:
    """The content types of one model's inputs, outputs and requests."""

    __slots__ = ("_inputs", "_outputs", "_request", "_texts")

    def __init__(self, signature: Signature) -> None:
        self._request = signature.content_type
        self._inputs = {field.name: field.content_type for field in signature.fields or () if field.content_type}
        self._outputs = {output.name: output.content_type for output in signature.outputs if output.content_type}
        self._texts = {output.name for output in signature.outputs if output.datatype == "BYTES"}

    @property
    def plain(self) -> bool:
        """True for a model that says nothing about content types."""
        return not (self._request or self._inputs or self._outputs)

    def of_request(self, parameters: Parameters, inputs: int) -> tuple[Form, str]:
        """How the inputs are to be read together, and the type of BYTES inputs that name none; raises InvalidInput."""
        given = _known(parameters, _OF_REQUESTS, "the request")
        if given in (NP, STR) and inputs > 1:
            raise InvalidInput(
                f"content_type '{given}' of the request takes a single input, {inputs} were sent; "
                "'pd' takes one column per input",
                field=KEY,
            )
        chosen = given or self._request
        form: Form = "columns" if chosen in (PD, DICT) else "matrix" if given == NP else "any"
        return form, chosen if chosen in _SPREAD else ""

    def of_input(self, name: str, datatype: str, parameters: Parameters, spread: str = "") -> str:
        """The type of an input, "" for none; raises InvalidInput for one that is unknown or not for its datatype."""
        given = _known(parameters, _OF_INPUTS, f"input '{name}'")
        chosen = given or self._inputs.get(name, "")
        if chosen in _OF_TEXT and datatype != "BYTES":
            raise InvalidInput(
                f"content_type '{chosen}' is for BYTES, input '{name}' has datatype {datatype}", field=name
            )
        if chosen or datatype == "BYTES":
            return chosen or spread
        if spread == STR:
            raise InvalidInput(
                f"content_type 'str' of the request is for BYTES, input '{name}' has datatype {datatype}", field=name
            )
        return ""

    def of_output(self, name: str, parameters: Parameters) -> str:
        """The type in which an output is answered, "" as it is; raises InvalidInput."""
        given = _known(parameters, _OF_OUTPUTS, f"output '{name}'")
        if given in (STR, BASE64, DATETIME) and name not in self._texts:
            raise InvalidInput(f"content_type '{given}' is for BYTES, and output '{name}' is not", field=name)
        return given or self._outputs.get(name, "")


def _known(parameters: Parameters, known: Sequence[str], owner: str) -> str:
    given = parameters.get(KEY)
    if given is None:
        return ""
    if not isinstance(given, str) or given not in known:
        raise InvalidInput(
            f"content_type {shown(given)} of {owner} is not known here, known are {', '.join(known)}", field=KEY
        )
    return given


def is_text(content_type: str) -> bool:
    """Whether the elements are texts one by one, so that their number and not the shape says how many there are."""
    return content_type in _OF_TEXT


def decode(tensor: Tensor, content_type: str) -> None:
    """Replace the elements of a BYTES input by what they stand for; raises InvalidInput that names the row."""
    read = _READERS.get(content_type)
    if read is None:
        return
    values: list[Any] = []
    for row, value in enumerate(tensor.data):
        if value is None:
            values.append(None)
            continue
        try:
            values.append(read(value))
        except (ValueError, InvalidJson):  # of base64 and UTF-8 too
            raise InvalidInput(
                f"input '{tensor.name}' has content_type {content_type}, which is {_MEANINGS[content_type]}, got "
                f"{shown(value)} in row {row}",
                field=tensor.name,
                row=row,
            ) from None
    tensor.data = values


def encode(values: Iterable[Any], content_type: str) -> list[Any]:
    """The texts of an output as a content type writes them."""
    if content_type != BASE64:
        return list(values)
    return [None if value is None else base64.b64encode(str(value).encode()).decode() for value in values]


def _from_base64(text: str) -> str:
    return base64.b64decode(text, validate=True).decode("utf-8")


def _datetime(text: str) -> str:
    """The text itself: the fields of a model are texts and numbers, and both ends read ISO 8601."""
    datetime.fromisoformat(text)
    return text


def _from_json(text: str) -> Any:
    return json_body.parse(text.encode())


_READERS: Final[dict[str, Callable[[str], Any]]] = {BASE64: _from_base64, DATETIME: _datetime, PD_JSON: _from_json}
_MEANINGS: Final = {
    BASE64: "base64 of UTF-8 text",
    DATETIME: "a moment in ISO 8601",
    PD_JSON: "JSON in each element",
}
