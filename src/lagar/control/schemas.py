"""JSON Schemas (2020-12, as OpenAPI 3.1 takes them) and examples of what a model takes and answers."""

from __future__ import annotations

import csv
import io
from typing import Any

from lagar.control.facts import bound, example_records, input_fields, null_words, range_words, token
from lagar.registry.model import ModelInfo
from lagar.registry.signature import Field, Output, Scalar, answer_names

Schema = dict[str, Any]

ARROW = "application/vnd.apache.arrow.stream"
PARQUET = "application/vnd.apache.parquet"
NDJSON = "application/x-ndjson"
CSV = "text/csv"
JSON = "application/json"

_JSON_TYPES = {"float": "number", "int": "integer", "bool": "boolean", "string": "string"}
_V2_TYPES = {"float": "FP64", "int": "INT64", "bool": "BOOL", "string": "BYTES", "unknown": "BYTES"}
DATATYPES = (
    "BOOL", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64", "FP16", "BF16",
    "FP32", "FP64", "BYTES",
)  # fmt: skip


def field_schema(field: Field) -> Schema:
    """One input: its type, categories as an enum, null where allowed, enforced range, default, example."""
    if field.type == "unknown":
        schema: Schema = {"type": ["number", "string", "boolean"] + (["null"] if field.nullable else [])}
    else:
        kind = _JSON_TYPES[field.type]
        schema = {"type": [kind, "null"] if field.nullable else kind}
    if field.categories is not None:
        known = [*field.categories, *([None] if field.nullable and None not in field.categories else [])]
        if field.unknown == "refuse":
            schema["enum"] = known
        else:
            schema = {"anyOf": [{"enum": known}, schema]}
    for key, value in (("minimum", bound(field.minimum)), ("maximum", bound(field.maximum))):
        if value is not None:
            schema[key] = value
    if field.has_default:
        schema["default"] = field.default
    if field.example is not None:
        schema["examples"] = [field.example]
    description = field_words(field)
    if description:
        schema["description"] = description
    return schema


def field_words(field: Field) -> str:
    """What a schema cannot say: what is unknown, what was only seen, what other values do."""
    words = []
    if field.type == "unknown":
        words.append("The model does not say its type.")
    if field.categories is not None and field.unknown == "allow":
        words.append("Values outside the known ones are let through; the model's own encoder decides.")
    if field.nullable is None:
        words.append(f"Null: {null_words(field)}.")
    if range_words(field) and bound(field.minimum) is None and bound(field.maximum) is None:
        words.append(f"From {range_words(field)}; not enforced.")
    return " ".join(words)


def record_schema(info: ModelInfo) -> Schema:
    """One row as an object. A model with a `preprocess` hook takes whatever the hook takes."""
    signature = info.signature
    fields = input_fields(info)
    schema: Schema = {"type": "object", "title": f"One record of {info.name} {info.version}"}
    if info.has_preprocess:
        schema["description"] = (
            "This model's own preprocess code reads the record; the fields are those of its example."
        )
        schema["additionalProperties"] = True
    elif signature.fields is None:
        schema["description"] = "The model does not say which fields it takes."
        return schema
    schema["properties"] = {field.name: field_schema(field) for field in fields}
    if not info.has_preprocess:
        schema["required"] = [field.name for field in fields if not field.has_default]
        schema["additionalProperties"] = signature.extra_fields != "refuse"
    examples = example_records(signature)
    if examples:
        schema["examples"] = examples[:1]
    if signature.origin:
        schema["$comment"] = f"Learned from {signature.origin}"
    return schema


def row_schema(info: ModelInfo) -> Schema:
    """One row as an array, in the order of the fields."""
    fields = input_fields(info)
    if info.signature.fields is None or not fields:
        return {"type": "array", "items": {"type": "number"}, "minItems": 1, "title": "One row"}
    cells = [field_schema(field) | {"title": field.name} for field in fields]
    return {
        "type": "array",
        "title": "One row, in the order of the fields",
        "prefixItems": cells,
        "items": {"not": {}},
        "minItems": len(fields),
        "maxItems": len(fields),
    }


def json_body(record: str, row: str, *, by_name: bool) -> Schema:
    """Every form that a JSON body may have; `record` and `row` are references to the model's schemas."""
    one_record, one_row = {"$ref": record}, {"$ref": row}
    rows = {"type": "array", "items": one_row, "minItems": 1}
    records = {"type": "array", "items": one_record, "minItems": 1}
    either = {"type": "array", "items": {"anyOf": [one_record, one_row]}, "minItems": 1}
    names = {"type": "array", "items": {"type": "string"}}
    forms: list[Schema] = [
        one_record,
        {"title": "List of records", **records},
        {"title": "List of rows", **rows},
        _wrapped("batches", rows),
        _wrapped("instances", either),
        _wrapped("inputs", either),
        _object("Columns and data", {"columns": names, "data": rows}, ["data"]),
        _object(
            "input_data: columns, index, data",
            {"input_data": _object("", {"columns": names, "index": {"type": "array"}, "data": rows}, ["data"])},
            ["input_data"],
        ),
    ]
    return {"anyOf": forms if by_name else [form for form in forms if form not in (one_record, forms[1])]}


def _wrapped(name: str, items: Schema) -> Schema:
    return _object(name, {name: items}, [name])


def _object(title: str, properties: dict[str, Schema], required: list[str]) -> Schema:
    return ({"title": title} if title else {}) | {"type": "object", "properties": properties, "required": required}


def json_examples(info: ModelInfo) -> dict[str, Any]:
    """The example of a model in each JSON form that can carry it, by the form's name; {} without an example."""
    records = example_records(info.signature)
    if not records:
        return {}
    columns = list(records[0])
    rows = [[record.get(name) for name in columns] for record in records]
    by_name = {"one record": records[0], "list of records": records}
    by_order = {
        "list of rows": rows,
        "batches": {"batches": rows},
        "instances": {"instances": rows},
        "inputs": {"inputs": rows},
    }
    by_column = {
        "columns and data": {"columns": columns, "data": rows},
        "input_data": {"input_data": {"columns": columns, "index": list(range(len(rows))), "data": rows}},
    }
    if not takes_records(info):
        forms: dict[str, Any] = by_order
    elif info.has_preprocess or columns != list(info.signature.names):
        forms = by_name
    else:
        forms = by_name | by_order | by_column
    return {name: {"summary": name, "value": value} for name, value in forms.items()}


def takes_records(info: ModelInfo) -> bool:
    """False for a model that does not say which fields it has: it takes rows of numbers only."""
    return info.has_preprocess or info.signature.fields is not None


def csv_example(info: ModelInfo) -> str:
    """The example rows as CSV with a header; "" when a cell is no plain value."""
    records = example_records(info.signature)
    if (
        not records
        or not takes_records(info)
        or any(isinstance(value, list | dict) for record in records for value in record.values())
    ):
        return ""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(records[0])
    for record in records:
        writer.writerow([_cell(record.get(name)) for name in records[0]])
    return text.getvalue()


def _cell(value: Scalar) -> str:
    if isinstance(value, str):
        return value
    text = token(value)
    return "" if text == "null" else text


def ndjson_example(info: ModelInfo) -> str:
    return "".join(token(item) + "\n" for item in example_items(info))


def example_items(info: ModelInfo) -> list[Any]:
    """The example as a caller posts it: records, or rows where the model takes those only."""
    records = example_records(info.signature)
    return list(records) if takes_records(info) else [list(record.values()) for record in records]


def answer_schema(info: ModelInfo) -> Schema:
    """The native JSON answer; with a `postprocess` hook it is whatever the hook returns."""
    if info.has_postprocess:
        return {
            "title": f"Answer of {info.name} {info.version}",
            "description": "Shaped by the model's own postprocess code.",
        }
    text = {"type": "string"}
    properties: dict[str, Schema] = {
        "model": {**text, "const": info.name},
        "version": {**text, "const": info.version},
        "id": {**text, "description": "The request id.", "examples": ["7f3c9d"]},
        "ids": {
            "type": "array",
            "items": text,
            "description": "One id per row: REQUEST_ID:ROW, unless the caller gave ids.",
            "examples": [["7f3c9d:0"]],
        },
    }
    required = ["model", "version", "id", "ids"]
    names = answer_names(info.signature.native_outputs)
    for name, shown in names.items():
        output = info.signature.output(name) or Output(name=name)
        labels = info.signature.classes if name == "predict" and not output.shape else None
        properties[shown] = {"type": "array", "items": output_schema(output, labels), "description": output.meaning}
        required.append(shown)
    if "predict_proba" in info.signature.native_outputs and info.signature.classes is not None:
        properties["classes"] = {
            "const": list(info.signature.classes),
            "examples": [list(info.signature.classes)],
            "description": "Class names in the order of each row of probabilities.",
        }
        required.append("classes")
    several = {
        names.get(output.name, output.name): list(output.classes)
        for output in info.signature.outputs
        if output.classes is not None
    }
    if several:
        properties["classes"] = {
            "const": several,
            "examples": [several],
            "description": "By output: class names in the order of each row of its probabilities.",
        }
        required.append("classes")
    title = f"Answer of {info.name} {info.version}"
    return {"type": "object", "title": title, "properties": properties, "required": required}


def output_schema(output: Output, labels: tuple[Scalar, ...] | None = None) -> Schema:
    """One row of an output."""
    schema: Schema = {"type": json_type(output.datatype)}
    if labels is not None:
        schema = {"enum": list(labels)}
    for size in reversed(output.shape):
        schema = {"type": "array", "items": schema} | ({"minItems": size, "maxItems": size} if size >= 0 else {})
    return schema


def json_type(datatype: str) -> str:
    if datatype == "BYTES":
        return "string"
    if datatype == "BOOL":
        return "boolean"
    return "number" if datatype.startswith("FP") else "integer"


def v2_tensor() -> Schema:
    return {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1},
            "datatype": {"enum": list(DATATYPES)},
            "parameters": {"type": "object"},
            "data": {"type": "array", "description": "Flat or nested, rows first."},
        },
        "required": ["name", "shape", "datatype", "data"],
    }


def v2_example(info: ModelInfo) -> dict[str, Any] | None:
    """The example as a V2 request: one matrix, or one input per field; None when there is nothing to show."""
    records = example_records(info.signature)
    fields = info.signature.fields
    if not records or not fields or info.has_preprocess:
        return None
    n = len(records)
    if info.signature.layout == "matrix":
        data = [record.get(field.name) for record in records for field in fields]
        return {"inputs": [{"name": "input-0", "shape": [n, len(fields)], "datatype": "FP64", "data": data}]}
    return {
        "inputs": [
            {
                "name": field.name,
                "shape": [n, 1],
                "datatype": _V2_TYPES[field.type],
                "data": [record.get(field.name) for record in records],
            }
            for field in fields
        ]
    }
