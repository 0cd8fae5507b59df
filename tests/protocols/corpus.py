"""Good and bad requests with what must become of them; other suites send the same bodies over real sockets.

`field` and `row` are what a native error carries; V2 has no place for them and says them in its message.
The models are those of `views.SIGNATURES`; "wine" is also what the session fixture `wine` trains.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from protocols.views import CHURN_RECORD, WINE_NAMES, WINE_RECORD, WINE_ROW

JSON = "application/json"
FORM = "application/x-www-form-urlencoded"
NDJSON = "application/x-ndjson"
CSV = "text/csv"


class Case(NamedTuple):
    """One request and the outcome it must have."""

    name: str
    protocol: str
    model: str
    body: bytes
    status: int
    field: str | None = None
    row: int | None = None
    content_type: str | None = JSON


def dumped(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def without(record: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name not in names}


def tensor(data: Any, shape: list[Any], datatype: str = "FP64", name: str = "input") -> dict[str, Any]:
    return {"name": name, "shape": shape, "datatype": datatype, "data": data}


def v2(*inputs: dict[str, Any], **members: Any) -> bytes:
    return dumped({"inputs": list(inputs), **members})


def wine(**changes: Any) -> dict[str, Any]:
    return {**WINE_RECORD, **changes}


def churn(**changes: Any) -> dict[str, Any]:
    return {**CHURN_RECORD, **changes}


def churn_inputs(**changes: Any) -> list[dict[str, Any]]:
    kinds = {str: "BYTES", bool: "BOOL", int: "INT64", float: "FP64", type(None): "FP64"}
    return [
        tensor([value], [1], kinds.get(type(value), "FP64"), name)
        for name, value in {**CHURN_RECORD, **changes}.items()
    ]


def nested(levels: int) -> bytes:
    return b'{"alcohol":' + b"[" * (levels - 1) + b"1" + b"]" * (levels - 1) + b"}"


R = WINE_ROW
ROW = dumped(R)
RECORD = dumped(WINE_RECORD)
LONG = [[value + row for value in R] for row in range(200)]
"""Enough rows for the number-buffer way."""

_NATIVE_WINE_GOOD: dict[str, bytes] = {
    "one record": RECORD,
    "one record, other key order": dumped(dict(reversed(WINE_RECORD.items()))),
    "one record, pretty": json.dumps(WINE_RECORD, indent=2).encode(),
    "one record of whole numbers": dumped(dict.fromkeys(WINE_NAMES, 1)),
    "an extra key": dumped(wine(colour="red")),
    "an extra key with colons": dumped(wine(note="a:b:c")),
    "a row id": dumped(wine(id="c-17")),
    "a list of records": dumped([WINE_RECORD] * 3),
    "a list of many records": dumped([WINE_RECORD] * 100),
    "batches": dumped({"batches": [R, R]}),
    "many batches": dumped({"batches": LONG}),
    "instances": dumped({"instances": [R]}),
    "instances of records": dumped({"instances": [WINE_RECORD, WINE_RECORD]}),
    "inputs": dumped({"inputs": [R]}),
    "inputs by column": dumped({"inputs": {name: [value] for name, value in WINE_RECORD.items()}}),
    "data": dumped({"data": [R]}),
    "data and columns": dumped({"data": [R[::-1]], "columns": list(WINE_NAMES[::-1])}),
    "input_data split": dumped({"input_data": {"columns": list(WINE_NAMES), "index": [7, 8], "data": [R, R]}}),
    "input_data without index": dumped({"input_data": {"columns": list(WINE_NAMES), "data": [R]}}),
    "input_data as rows": dumped({"input_data": [R]}),
    "rows": dumped([R, R]),
    "rows, pretty": json.dumps([R, R], indent=2).encode(),
    "many rows": dumped(LONG),
    "rows with ids": dumped({"batches": [R, R], "ids": ["a", 2]}),
    "a timeout member": dumped({"batches": [R], "timeout": 5}),
    "a timeout parameter": dumped({"batches": [R], "parameters": {"timeout": 0.5}}),
    "zero and minus": dumped(wine(alcohol=-0.0, hue=-1.5e-300)),
    "a large float": dumped(wine(proline=1e300)),
    "the largest exact whole number": dumped(wine(proline=2**53)),
    "exponents": RECORD.replace(b"13.2", b"1.32E+1"),
    "64 levels inside an extra key": RECORD[:-1] + b',"x":' + b"[" * 63 + b"]" * 63 + b"}",
    "brackets inside a text": RECORD[:-1] + b',"x":"' + b"[" * 100 + b'"}',
    "an escaped key": RECORD.replace(b'"hue"', b'"h\\u0075e"'),
    "blanks around": b" \n\t" + RECORD + b"\n ",
}

_NATIVE_WINE_BAD: dict[str, tuple[bytes, int, str | None, int | None]] = {
    "an empty body": (b"", 400, None, None),
    "blanks": (b" \n", 400, None, None),
    "not JSON": (b"{bad", 400, None, None),
    "a cut body": (RECORD[:-5], 400, None, None),
    "a trailing comma": (RECORD[:-1] + b",}", 400, None, None),
    "garbage behind": (RECORD + b"x", 400, None, None),
    "two documents": (RECORD + RECORD, 400, None, None),
    "a byte order mark": (b"\xef\xbb\xbf" + RECORD, 400, None, None),
    "a byte order mark before many rows": (b"\xef\xbb\xbf" + dumped(LONG), 400, None, None),
    "UTF-16": (RECORD.decode().encode("utf-16"), 400, None, None),
    "a byte that is not UTF-8": (RECORD[:-1] + b',"x":"\xff"}', 400, None, None),
    "a key that is not UTF-8": (RECORD[:-1] + b',"\xff":1}', 400, None, None),
    "a lone surrogate": (RECORD[:-1] + b',"x":"\\ud800"}', 400, None, None),
    "NaN": (RECORD.replace(b"13.2", b"NaN"), 400, None, None),
    "Infinity": (RECORD.replace(b"13.2", b"-Infinity"), 400, None, None),
    "NaN in rows": (dumped([R]).replace(b"13.2", b"NaN"), 400, None, None),
    "NaN in many rows": (dumped(LONG).replace(b"13.2", b"NaN"), 400, None, None),
    "an overflowing number": (RECORD.replace(b"13.2", b"1e999"), 400, None, None),
    "an overflowing number in an extra key": (RECORD[:-1] + b',"x":-1e999}', 400, None, None),
    "a leading zero": (RECORD.replace(b"13.2", b"013.2"), 400, None, None),
    "a duplicate key": (RECORD[:-1] + b',"hue":1.0}', 400, "hue", None),
    "a duplicate extra key": (RECORD[:-1] + b',"x":1,"x":2}', 400, "x", None),
    "a duplicate key behind a text with colons": (RECORD[:-1] + b',"x":"::","x":""}', 400, "x", None),
    "a duplicate escaped key": (RECORD[:-1] + b',"h\\u0075e":1}', 400, "hue", None),
    "a duplicate envelope": (b'{"batches":[' + ROW + b'],"batches":[' + ROW + b"]}", 400, "batches", None),
    "a duplicate in a list": (b"[" + RECORD + b"," + RECORD[:-1] + b',"ash":1}]', 400, "ash", None),
    "65 levels": (nested(65), 400, None, None),
    "5000 levels": (nested(5000), 400, None, None),
    "200000 levels": (b"[" * 200_000, 400, None, None),
    "a missing field": (dumped(without(WINE_RECORD, "hue")), 400, "hue", 0),
    "a misspelt field": (dumped({**without(WINE_RECORD, "hue"), "Hue": 1}), 400, "hue", 0),
    "no field at all": (b"{}", 400, "alcohol", 0),
    "a missing field in row 2": (dumped([WINE_RECORD] * 2 + [without(WINE_RECORD, "ash")]), 400, "ash", 2),
    "text for a number": (dumped(wine(ash="2.1")), 400, "ash", 0),
    "true for a number": (dumped(wine(ash=True)), 400, "ash", 0),
    "null": (dumped(wine(ash=None)), 400, "ash", 0),
    "a list for a number": (dumped(wine(ash=[1])), 400, "ash", 0),
    "an object for a number": (dumped(wine(ash={"x": 1})), 400, "ash", 0),
    "a whole number beyond 2^53": (dumped(wine(proline=2**53 + 1)), 400, "proline", 0),
    "a negative whole number beyond 2^53": (dumped(wine(proline=-(2**53) - 1)), 400, "proline", 0),
    "a whole number beyond 64 bits": (dumped(wine(proline=2**64)), 400, "proline", 0),
    "a whole number beyond float64": (dumped(wine(proline=10**400)), 400, "proline", 0),
    "a whole number beyond 2^53 in many rows": (dumped([*LONG, [2**60, *R[1:]]]), 400, "alcohol", 200),
    "text in row 1": (dumped([WINE_RECORD, wine(hue="x")]), 400, "hue", 1),
    "text in rows": (dumped([R, [*R[:12], "x"]]), 400, "proline", 1),
    "text in many rows": (dumped([*LONG, [*R[:12], "x"]]), 400, "proline", 200),
    "true in many rows": (dumped([*LONG, [True, *R[1:]]]), 400, "alcohol", 200),
    "null in many rows": (dumped([*LONG, [None, *R[1:]]]), 400, "alcohol", 200),
    "a short row": (dumped([R, R[:12]]), 400, None, 1),
    "a long row": (dumped({"batches": [R, [*R, 1]]}), 400, None, 1),
    "short rows": (dumped({"batches": [R[:12], R[:12]]}), 400, None, 0),
    "ragged rows with the right total": (dumped([R[:12], [*R, 1]]), 400, None, 0),
    "many ragged rows with the right total": (dumped([*LONG, R[:12], [*R, 1]]), 400, None, 200),
    "rows one level too deep": (dumped([[R]]), 400, None, 0),
    "many rows, one too deep": (dumped([*LONG, [*R[:12], [1]]]), 400, "proline", 200),
    "a flat list": (dumped(R), 400, None, 0),
    "a flat list in an envelope": (dumped({"batches": R}), 400, None, 0),
    "an empty batch": (dumped({"batches": []}), 400, None, None),
    "an empty list": (b"[]", 400, None, None),
    "a list of an empty list": (b"[[]]", 400, None, 0),
    "a record among rows": (dumped([R, WINE_RECORD]), 400, None, 1),
    "a row among records": (dumped([WINE_RECORD, R]), 400, None, 1),
    "a number": (b"1", 400, None, None),
    "a text": (b'"x"', 400, None, None),
    "null alone": (b"null", 400, None, None),
    "two envelopes": (dumped({"batches": [R], "instances": [R]}), 400, None, None),
    "columns that lack one": (dumped({"data": [R[:12]], "columns": list(WINE_NAMES[:12])}), 400, "proline", None),
    "columns named twice": (dumped({"data": [R], "columns": ["ash"] * 13}), 400, "columns", None),
    "columns and a short row": (dumped({"data": [R, R[:3]], "columns": list(WINE_NAMES)}), 400, None, 1),
    "columns that are no names": (dumped({"data": [R], "columns": [1] * 13}), 400, "columns", None),
    "split data that is no list": (dumped({"input_data": {"columns": ["a"], "data": 1}}), 400, "data", None),
    "columns of two lengths": (dumped({"inputs": {"ash": [1, 2], "hue": [1]}}), 400, "hue", None),
    "too few ids": (dumped({"batches": [R, R], "ids": ["a"]}), 400, "ids", None),
    "an id that is no text": (dumped({"batches": [R], "ids": [[1]]}), 400, "ids", 0),
    "an empty id": (dumped(wine(id="")), 400, "id", 0),
    "an id in some rows": (dumped([wine(id="a"), WINE_RECORD]), 400, "id", 1),
    "a timeout of zero": (dumped({"batches": [R], "timeout": 0}), 400, "timeout", None),
    "a timeout that is text": (dumped({"batches": [R], "parameters": {"timeout": "soon"}}), 400, "timeout", None),
    "too many rows": (dumped([R] * 1001), 413, None, None),
    "too many records": (dumped([WINE_RECORD] * 1001), 413, None, None),
}

_CHURN_BAD: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown category": (churn(contract="three_year"), "contract"),
    "a category in another case": (churn(gender="Female"), "gender"),
    "a number for a category": (churn(gender=1), "gender"),
    "null for a category": (churn(gender=None), "gender"),
    "a fraction for a whole number": (churn(tenure=41.5), "tenure"),
    "text for a whole number": (churn(tenure="41"), "tenure"),
    "below the range": (churn(tenure=-1), "tenure"),
    "above the range": (churn(tenure=601), "tenure"),
    "a whole number of 65 bits": (churn(visits=2**64), "visits"),
    "1 for true": (churn(paperless=1), "paperless"),
    "text for true": (churn(paperless="true"), "paperless"),
    "text where null is allowed": (churn(discount="x"), "discount"),
    "null where text is wanted": (churn(plan=None), "plan"),
    "a number for a free category": (churn(plan=1), "plan"),
    "a list where anything goes": (churn(zone=["x"]), "zone"),
}

_V2_WINE_GOOD: dict[str, bytes] = {
    "flat": v2(tensor(R, [1, 13])),
    "nested": v2(tensor([R, R], [2, 13])),
    "flat, 2 rows": v2(tensor(R + R, [2, 13])),
    "pretty": json.dumps({"inputs": [tensor([R], [1, 13])]}, indent=2).encode(),
    "many, flat": v2(tensor([value for row in LONG for value in row], [200, 13])),
    "many, nested": v2(tensor(LONG, [200, 13])),
    "many, with id": v2(tensor(LONG, [200, 13]), id="abc"),
    "FP32": v2(tensor(R, [1, 13], "FP32")),
    "FP16": v2(tensor(R, [1, 13], "FP16")),
    "BF16": v2(tensor(R, [1, 13], "BF16")),
    "INT64": v2(tensor([int(value) for value in R], [1, 13], "INT64")),
    "INT32 written as 3.0": v2(tensor([float(int(value)) for value in R], [1, 13], "INT32")),
    "UINT16": v2(tensor([int(value) for value in R], [1, 13], "UINT16")),
    "columns": v2(*(tensor([value], [1], name=name) for name, value in WINE_RECORD.items())),
    "columns [n,1]": v2(*(tensor([[value], [value]], [2, 1], name=name) for name, value in WINE_RECORD.items())),
    "columns in another order": v2(*(tensor([v], [1], name=k) for k, v in reversed(WINE_RECORD.items()))),
    "columns with an extra one": v2(
        *(tensor([value], [1], name=name) for name, value in wine(colour=1.0).items()),
    ),
    "an id": v2(tensor(R, [1, 13]), id="abc-1"),
    "a null id": v2(tensor(R, [1, 13]), id=None),
    "an id with a colon": v2(tensor(R, [1, 13]), id="a:b"),
    "parameters": v2({**tensor(R, [1, 13]), "parameters": {"content_type": "np"}}, parameters={"x": 1, "y": [1]}),
    "a timeout": v2(tensor(R, [1, 13]), parameters={"timeout": 2_500_000}),
    "outputs": v2(tensor(R, [1, 13]), outputs=[{"name": "predict_proba"}, {"name": "predict"}]),
    "empty outputs": v2(tensor(R, [1, 13]), outputs=[]),
    "an unknown member": v2(tensor(R, [1, 13]), extra={"a": [1]}),
    "the largest FP16": v2(tensor([65504.0, *R[1:]], [1, 13], "FP16")),
}

_V2_WINE_BAD: dict[str, tuple[bytes, int]] = {
    "an empty body": (b"", 400),
    "not JSON": (b"{bad", 400),
    "a byte order mark": (b"\xef\xbb\xbf" + v2(tensor(R, [1, 13])), 400),
    "a byte order mark before many rows": (b"\xef\xbb\xbf" + v2(tensor(LONG, [200, 13])), 400),
    "a list": (b"[]", 400),
    "no inputs": (b"{}", 400),
    "empty inputs": (v2(), 400),
    "inputs that are no list": (dumped({"inputs": {"a": 1}}), 400),
    "an input that is no object": (dumped({"inputs": [1]}), 400),
    "no name": (v2(without(tensor(R, [1, 13]), "name")), 400),
    "no shape": (v2(without(tensor(R, [1, 13]), "shape")), 400),
    "no datatype": (v2(without(tensor(R, [1, 13]), "datatype")), 400),
    "no data": (v2(without(tensor(R, [1, 13]), "data")), 400),
    "an unknown datatype": (v2(tensor(R, [1, 13], "INT322")), 400),
    "a datatype in lower case": (v2(tensor(R, [1, 13], "fp64")), 400),
    "a number as datatype": (v2({**tensor(R, [1, 13]), "datatype": 1}), 400),
    "a shape of a fraction": (v2(tensor(R, [1.0, 13])), 400),
    "a shape of true": (v2(tensor(R, [True, 13])), 400),
    "a negative shape": (v2(tensor(R, [-1, 13])), 400),
    "an empty shape": (v2(tensor(R, [])), 400),
    "a shape that is no list": (v2({**tensor(R, [1, 13]), "shape": 13}), 400),
    "a shape beyond 64 bits": (v2(tensor(R, [2**64, 13])), 400),
    "a shape that lies": (v2(tensor(R, [2, 13])), 400),
    "a shape that lies, many": (v2(tensor(LONG, [199, 13])), 400),
    "turned dimensions": (v2(tensor(R, [13, 1])), 400),
    "turned dimensions, nested": (v2(tensor([R], [13, 1])), 400),
    "one dimension": (v2(tensor(R, [13])), 400),
    "three dimensions": (v2(tensor(R, [1, 1, 13])), 400),
    "a wrong width": (v2(tensor(R[:12], [1, 12])), 400),
    "ragged": (v2(tensor([R[:12], [*R, 1]], [2, 13])), 400),
    "many, ragged": (v2(tensor([*LONG, R[:12], [*R, 1]], [202, 13])), 400),
    "nested too deep": (v2(tensor([[R]], [1, 13])), 400),
    "many, one nested too deep": (v2(tensor([*LONG, [*R[:12], [1]]], [201, 13])), 400),
    "flat and nested mixed": (v2(tensor([*R, R], [2, 13])), 400),
    "many, flat and nested mixed": (v2(tensor([[1, 2], *range(12 * 100 - 2 + 100)], [100, 13])), 400),
    "text": (v2(tensor([*R[:12], "x"], [1, 13])), 400),
    "true": (v2(tensor([*R[:12], True], [1, 13])), 400),
    "null": (v2(tensor([*R[:12], None], [1, 13])), 400),
    "many, text": (v2(tensor([*LONG, [*R[:12], "x"]], [201, 13])), 400),
    "data that is no list": (v2(tensor("x", [1, 13])), 400),
    "BYTES for numbers": (v2(tensor([str(value) for value in R], [1, 13], "BYTES")), 400),
    "BOOL for numbers": (v2(tensor([True] * 13, [1, 13], "BOOL")), 200),
    "INT8 of 300": (v2(tensor([300, *[1] * 12], [1, 13], "INT8")), 400),
    "UINT8 of -1": (v2(tensor([-1, *[1] * 12], [1, 13], "UINT8")), 400),
    "INT64 of a fraction": (v2(tensor(R, [1, 13], "INT64")), 400),
    "FP16 of 65505": (v2(tensor([65505.0, *R[1:]], [1, 13], "FP16")), 400),
    "FP32 of 1e39": (v2(tensor([1e39, *R[1:]], [1, 13], "FP32")), 400),
    "a whole number beyond 2^53": (v2(tensor([2**53 + 1, *R[1:]], [1, 13])), 400),
    "INT64 beyond 2^53 for a float": (v2(tensor([2**60, *[1] * 12], [1, 13], "INT64")), 400),
    "many, a whole number beyond 2^53": (v2(tensor([*LONG, [2**53 + 1, *R[1:]]], [201, 13])), 400),
    "zero rows": (v2(tensor([], [0, 13])), 400),
    "zero values": (v2(tensor([[]], [1, 0])), 400),
    "NaN": (v2(tensor(R, [1, 13])).replace(b"13.2", b"NaN"), 400),
    "1e999": (v2(tensor(R, [1, 13])).replace(b"13.2", b"1e999"), 400),
    "a duplicate member": (v2(tensor(R, [1, 13]))[:-1] + b',"inputs":[]}', 400),
    "many, a duplicate member": (v2(tensor(LONG, [200, 13]))[:-1] + b',"inputs":[]}', 400),
    "a duplicate in a tensor": (v2(tensor(R, [1, 13])).replace(b'"name"', b'"name":"a","name"'), 400),
    "many, a duplicate in a tensor": (v2(tensor(LONG, [200, 13])).replace(b'"shape"', b'"name":"b","shape"'), 400),
    "a duplicate parameter": (v2(tensor(R, [1, 13]))[:-1] + b',"parameters":{"a":1,"a":2}}', 400),
    "parameters that are no object": (v2(tensor(R, [1, 13]), parameters=[1]), 400),
    "an id that is a number": (v2(tensor(R, [1, 13]), id=7), 400),
    "an id of 300 characters": (v2(tensor(R, [1, 13]), id="x" * 300), 400),
    "an unknown output": (v2(tensor(R, [1, 13]), outputs=[{"name": "foo"}]), 400),
    "an output without name": (v2(tensor(R, [1, 13]), outputs=[{}]), 400),
    "outputs that are no list": (v2(tensor(R, [1, 13]), outputs="predict"), 400),
    "a timeout below zero": (v2(tensor(R, [1, 13]), parameters={"timeout": -1}), 400),
    "a missing column": (v2(*(tensor([v], [1], name=k) for k, v in without(WINE_RECORD, "hue").items())), 400),
    "columns of two lengths": (
        v2(*(tensor([v] * (2 if k == "hue" else 1), [2 if k == "hue" else 1], name=k) for k, v in WINE_RECORD.items())),
        400,
    ),
    "a column of two": (v2(tensor([1, 2], [1, 2], name="ash"), tensor([1], [1], name="hue")), 400),
    "a column twice": (v2(tensor([1], [1], name="ash"), tensor([1], [1], name="ash")), 400),
    "65 levels": (v2(tensor(R, [1, 13]))[:-1] + b',"x":' + b"[" * 64 + b"]" * 64 + b"}", 400),
    "too many rows": (v2(tensor([1.0] * 13 * 1001, [1001, 13])), 413),
}

_CSV_HEADER = ",".join(WINE_NAMES)
_CSV_ROW = ",".join(map(str, R))


def _native_tables() -> list[Case]:
    def csv(name: str, text: str | bytes, status: int, field: str | None = None, row: int | None = None) -> Case:
        body = text if isinstance(text, bytes) else text.encode()
        return Case(f"csv: {name}", "native", "wine", body, status, field, row, CSV)

    def lines(name: str, body: bytes, status: int, field: str | None = None, row: int | None = None) -> Case:
        return Case(f"ndjson: {name}", "native", "wine", body, status, field, row, NDJSON)

    head = _CSV_HEADER
    return [
        csv("rows", f"{head}\n{_CSV_ROW}\n{_CSV_ROW}\n", 200),
        csv("windows lines and no last one", f"{head}\r\n{_CSV_ROW}", 200),
        csv("a byte order mark", f"\ufeff{head}\n{_CSV_ROW}\n", 200),
        csv("an id and an extra column", f"id,{head},colour\nrow-a,{_CSV_ROW},red\n", 200),
        csv("quoted cells", f"{head}\n" + ",".join(f'"{value}"' for value in R), 200),
        csv("empty", "", 400),
        csv("only a header", f"{head}\n", 400),
        csv("a missing column", f"{head[8:]}\n{_CSV_ROW[5:]}\n", 400, "alcohol"),
        csv("a column twice", f"ash,{head}\n1,{_CSV_ROW}\n", 400, "ash"),
        csv("a short row", f"{head}\n{_CSV_ROW}\n1,2\n", 400, None, 1),
        csv("a blank line inside", f"{head}\n{_CSV_ROW}\n\n{_CSV_ROW}\n", 400, None, 1),
        csv("an empty cell", f"{head}\n{_CSV_ROW[4:]}\n", 400, "alcohol", 0),
        csv("text", f"{head}\nabc{_CSV_ROW[4:]}\n", 400, "alcohol", 0),
        csv("nan", f"{head}\nnan{_CSV_ROW[4:]}\n", 400, "alcohol", 0),
        csv("1e999", f"{head}\n1e999{_CSV_ROW[4:]}\n", 400, "alcohol", 0),
        csv("1_0", f"{head}\n1_0{_CSV_ROW[4:]}\n", 400, "alcohol", 0),
        csv("a whole number beyond 2^53", f"{head}\n9007199254740993{_CSV_ROW[4:]}\n", 400, "alcohol", 0),
        csv("an open quote", f'{head}\n"{_CSV_ROW}\n', 400),
        csv("not UTF-8", head.encode() + b"\n\xff" + _CSV_ROW[4:].encode(), 400),
        csv("too many rows", f"{head}\n" + f"{_CSV_ROW}\n" * 1001, 413),
        lines("records", RECORD + b"\n" + RECORD + b"\n", 200),
        lines("rows", ROW + b"\n" + ROW, 200),
        lines("blank lines", b"\n" + RECORD + b"\n\n", 200),
        lines("empty", b"", 400),
        lines("a bad line", RECORD + b"\n{bad\n", 400, None, 1),
        lines("a duplicate", RECORD + b"\n" + RECORD[:-1] + b',"hue":1}\n', 400, "hue"),
        lines("text for a number", RECORD + b"\n" + dumped(wine(hue="x")) + b"\n", 400, "hue", 1),
        lines("an object over two lines", RECORD[:-1] + b"\n" + b'"x":1}\n', 400, None, 0),
    ]


def _others() -> list[Case]:
    text, book = dumped, "Senhor dos anéis"
    cases = [
        Case("no content type", "native", "wine", RECORD, 200, content_type=None),
        Case("curl's form type with JSON", "native", "wine", RECORD, 200, content_type=FORM),
        Case("curl's form type without JSON", "native", "wine", b"alcohol=1", 415, content_type=FORM),
        Case("a JSON suffix", "native", "wine", RECORD, 200, content_type="application/vnd.x+json"),
        Case("a charset", "native", "wine", RECORD, 200, content_type="application/json; charset=UTF-8"),
        Case("another charset", "native", "wine", RECORD, 415, content_type="application/json; charset=latin-1"),
        Case("plain text", "native", "wine", RECORD, 415, content_type="text/plain"),
        Case("a type that is none", "native", "wine", RECORD, 415, content_type="json"),
        Case("no Parquet", "native", "wine", b"PAR1", 400, content_type="application/vnd.apache.parquet"),
        Case("no Arrow", "native", "wine", b"ARROW1", 400, content_type="application/vnd.apache.arrow.stream"),
        Case("v2, plain text", "v2", "wine", v2(tensor(R, [1, 13])), 415, content_type="text/plain"),
        Case("v2, no content type", "v2", "wine", v2(tensor(R, [1, 13])), 200, content_type=None),
        Case("one text", "native", "text", text({"text": book}), 200),
        Case("texts", "native", "text", text([book, "x"]), 200),
        Case("texts in an envelope", "native", "text", text({"instances": [book, ""]}), 200),
        Case("a number for a text", "native", "text", text({"text": 1}), 400, "text", 0),
        Case("a number among texts", "native", "text", text(["a", 1]), 400, "text", 1),
        Case("a list among texts", "native", "text", text(["a", ["b"]]), 400, None, 1),
        Case("v2, texts", "v2", "text", v2(tensor([book, "x"], [2], "BYTES", "predict")), 200),
        Case("v2, texts [n,1]", "v2", "text", v2(tensor([[book], ["x"]], [2, 1], "BYTES", "predict")), 200),
        Case("v2, one text by name", "v2", "text", v2(tensor([book], [1], "BYTES", "text")), 200),
        Case("v2, shape lies", "v2", "text", v2(tensor([book], [2], "BYTES", "predict")), 400),
        Case("v2, texts and numbers", "v2", "text", v2(tensor([book, 1], [2], "BYTES")), 400),
        Case("v2, numbers for a text", "v2", "text", v2(tensor([1.0], [1])), 400),
        Case("v2, no texts", "v2", "text", v2(tensor([], [0], "BYTES")), 400),
        Case("churn", "native", "churn", text(CHURN_RECORD), 200),
        Case("a default is used", "native", "churn", text(without(CHURN_RECORD, "visits")), 200),
        Case("3.0 for a whole number", "native", "churn", text(churn(tenure=3.0)), 200),
        Case("a large whole number", "native", "churn", text(churn(visits=2**60 + 1)), 200),
        Case("an extra field refused", "native", "strict", text({"a": 1, "b": 2, "k": 1, "c": 1}), 400, "c", 0),
        Case("a row id where extras are refused", "native", "strict", text({"a": 1, "b": 2, "k": 1, "id": "x"}), 200),
        Case("a numeric category", "native", "strict", text([[1, 2, 0], [1, 2, 1.0]]), 200),
        Case("an unknown numeric category", "native", "strict", text([[1, 2, 0], [1, 2, 2]]), 400, "k", 1),
        Case("a fraction in a matrix of whole numbers", "native", "strict", text([[1, 2.5, 0]]), 400, "b", 0),
        Case("v2, an extra column refused", "v2", "strict", v2(*(tensor([1], [1], name=k) for k in "abkc")), 400),
        Case("any width", "native", "open", text([[1, 2], [3, 4]]), 200),
        Case("any width, ragged", "native", "open", text([[1, 2], [3]]), 400, None, 1),
        Case("any width, text", "native", "open", text([[1, 2], [3, "x"]]), 400, "x1", 1),
        Case("any width, a record", "native", "open", text({"a": 1}), 400),
        Case("any width, empty rows", "native", "open", b"[[]]", 400, None, 0),
        Case("v2, any width", "v2", "open", v2(tensor([1, 2, 3, 4], [2, 2])), 200),
    ]
    for name, (record, field) in _CHURN_BAD.items():
        cases.append(Case(name, "native", "churn", text(record), 400, field, 0))
        cases.append(Case(f"{name}, in row 1", "native", "churn", text([CHURN_RECORD, record]), 400, field, 1))
    cases.append(Case("v2, churn", "v2", "churn", v2(*churn_inputs()), 200))
    cases += [
        Case(f"v2, {name}", "v2", "churn", v2(*churn_inputs(**{field: record[field]})), 400)
        for name, (record, field) in _CHURN_BAD.items()
    ]
    return cases


CORPUS: list[Case] = [
    *(Case(name, "native", "wine", body, 200) for name, body in _NATIVE_WINE_GOOD.items()),
    *(Case(name, "native", "wine", *outcome) for name, outcome in _NATIVE_WINE_BAD.items()),
    *(Case(f"v2, {name}", "v2", "wine", body, 200) for name, body in _V2_WINE_GOOD.items()),
    *(Case(f"v2, {name}", "v2", "wine", *outcome) for name, outcome in _V2_WINE_BAD.items()),
    *_native_tables(),
    *_others(),
]
MAX_ROWS = 1000
"""What the cases with too many rows exceed: the server under test is started with this limit."""
