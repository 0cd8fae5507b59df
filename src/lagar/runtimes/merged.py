"""Whole V2 requests as one, where a custom runtime's settings ask for batches: MLServer's adaptive batching.

Only requests that differ in nothing but their rows and their id are put together. Where MLServer merges what differs,
and gives everybody the last caller's parameters, they stay apart here. Source: mlserver/batching/requests.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

Plain = dict[str, Any]


def groups(asked: Sequence[Plain], most: int) -> list[list[int]]:
    """The places of requests that may be one, at most so many in each, in order of their first."""
    found: list[list[int]] = []
    open_groups: dict[bytes, list[int]] = {}
    for place, request in enumerate(asked):
        key = _key(request)
        group = None if key is None else open_groups.get(key)
        if group is None or len(group) >= most:
            group = []
            found.append(group)
            if key is not None:
                open_groups[key] = group
        group.append(place)
    return found


def merge(requests: Sequence[Plain]) -> Plain:
    """One request with the rows of all; they come from one group."""
    first = requests[0]
    inputs = []
    for position, tensor in enumerate(first["inputs"]):
        parts = [request["inputs"][position] for request in requests]
        rows = sum(part["shape"][0] for part in parts)
        data = [value for part in parts for value in part["data"]]
        inputs.append(tensor | {"shape": [rows, *tensor["shape"][1:]], "data": data})
    return first | {"id": None, "inputs": inputs, "parameters": _parameters(first)}


def split(answer: Plain, requests: Sequence[Plain]) -> list[Plain] | None:
    """The answer of each request; None for one whose outputs are not a row for each row of the inputs."""
    sizes = [request["inputs"][0]["shape"][0] for request in requests]
    rows = sum(sizes)
    takes: list[tuple[Plain, Callable[[int, int], list[Any]]]] = []
    for output in answer["outputs"]:
        shape, data = output["shape"], output["data"]
        if not shape or shape[0] != rows or len(data) not in (rows, math.prod(shape)):
            return None
        width = len(data) // rows

        def take(start: int, end: int, data: list[Any] = data, width: int = width) -> list[Any]:
            return data[start * width : end * width]

        takes.append((output, take))
    answers, start = [], 0
    for size, request in zip(sizes, requests, strict=True):
        outputs = [
            output | {"shape": [size, *output["shape"][1:]], "data": take(start, start + size)}
            for output, take in takes
        ]
        answers.append(answer | {"id": request.get("id"), "outputs": outputs})
        start += size
    return answers


def _key(request: Plain) -> bytes | None:
    """What requests that may be one have in common; None for a request that stays alone."""
    described = []
    rows = request["inputs"][0]["shape"][:1] if request["inputs"] else []
    for tensor in request["inputs"]:
        shape, data = tensor["shape"], tensor["data"]
        if type(data) is not list or not shape or shape[:1] != rows or not rows[0]:
            return None
        nested = any(type(value) is list for value in data)
        if len(data) != (rows[0] if nested else math.prod(shape)):
            return None
        described.append((tensor["name"], tensor["datatype"], shape[1:], nested, tensor.get("parameters")))
    if not described:
        return None
    return msgspec.json.encode((described, _parameters(request), request.get("outputs")), order="deterministic")


def _parameters(request: Plain) -> Plain | None:
    """Without the headers, which are one caller's."""
    return {name: value for name, value in (request.get("parameters") or {}).items() if name != "headers"} or None
