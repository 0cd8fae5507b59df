"""Outputs of a model as JSON: NaN and infinite numbers are null, for which JSON has no other word."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import orjson

from lagar.errors import ModelFailed
from lagar.types import Array

_OPTIONS: Final = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS


def output_json(array: Array, name: str) -> bytes:
    """The values of one output; raises ModelFailed when one has no place in JSON."""
    if array.dtype != object and array.dtype.kind not in "US":
        if not array.flags.c_contiguous:
            array = np.ascontiguousarray(array)
        try:
            return orjson.dumps(array, None, _OPTIONS)
        except orjson.JSONEncodeError:
            pass
    return dumped(array.tolist(), f"output '{name}'")


def dumped(value: Any, what: str) -> bytes:
    """The JSON of anything that a model or its code has answered; raises ModelFailed."""
    try:
        return orjson.dumps(value, None, _OPTIONS)
    except (orjson.JSONEncodeError, TypeError, RecursionError) as error:
        raise ModelFailed(f"the model's {what} cannot be written as JSON: {error}") from None
