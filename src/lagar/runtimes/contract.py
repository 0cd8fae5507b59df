"""From what a model says of itself to its signature: refined by an example, ruled by lagar.toml, proved by a call."""

from __future__ import annotations

import difflib
import logging
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from lagar.errors import InvalidInput, LoadFailed, SetupError
from lagar.registry import manifest as manifests
from lagar.registry.model import LoadedModel, ModelSource
from lagar.registry.signature import Field, Output, Scalar, Signature
from lagar.runtimes import examples, mlserver
from lagar.runtimes.base import Chain, Draft, Opened
from lagar.types import Handlers, Outputs, Predictor, Rows

_log = logging.getLogger("lagar.runtimes")
_EXAMPLE_ROWS = 5
_PROBED_WIDTHS = 256
_DATATYPES = {"f": "FP64", "i": "INT64", "u": "UINT64", "b": "BOOL", "U": "BYTES", "O": "BYTES", "S": "BYTES"}


def keep(source: ModelSource, opened: Opened, handlers: Handlers | None) -> LoadedModel:
    """The loaded model with its final signature; LoadFailed when it does not answer its own example."""
    draft = opened.draft
    if source.manifest is not None:
        recorded = manifests.decode(Path(source.manifest).read_bytes()).signature
        return _keep_recorded(source, opened, recorded, handlers)
    if draft.whole is not None:
        return _keep_whole(source, opened, draft.whole, handlers)
    table, raw = _example_table(source, draft, handlers)
    fields = _with_example(source, draft, table) if table is not None else draft.fields
    fields = _with_rules(source, draft, fields)
    signature = Signature(
        fields=None if fields is None else tuple(fields),
        outputs=tuple(Output(name) for name in draft.outputs),
        native_outputs=draft.native,
        layout=draft.layout,
        named=draft.named,
        task=draft.task,
        classes=draft.classes,
        extra_fields=source.options.get("extra_fields", "ignore"),
        origin=_origin(source, draft),
    )
    opened.predictor.bind(signature)
    if fields is None:
        return _keep_unknown_width(source, opened, signature, handlers)
    records, shown = _example_rows(source, fields, table, raw, handlers)
    rows = examples.rows_of(fields, draft.layout == "matrix", records)
    answer = _predict(source, opened, rows, draft.outputs)
    if not shown:
        opened.warnings.append("preprocess refused the made example; give one that it takes: --example FILE")
    signature = msgspec.structs.replace(
        signature,
        outputs=_outputs(draft, answer, single=is_single(opened)),
        native_outputs=draft.native,
        example=tuple(shown),
        fields=_with_values(fields, records[0]),
    )
    signature = mlserver.described(source, signature)
    return LoadedModel(source, opened.predictor, signature, handlers, opened.libraries, opened.warnings, rows)


def _keep_recorded(source: ModelSource, opened: Opened, signature: Signature, handlers: Handlers | None) -> LoadedModel:
    """A version from the registry: its signature was found when it was pushed, with an example that may be gone."""
    draft = opened.draft
    if signature.whole:
        opened.predictor.bind(signature)
        return LoadedModel(source, opened.predictor, signature, handlers, opened.libraries, opened.warnings)
    if draft.fields is not None and signature.fields is not None and len(draft.fields) != len(signature.fields):
        raise LoadFailed(
            f"{source.path}: the model takes {len(draft.fields)} inputs and its version says {len(signature.fields)}; "
            "push it again"
        )
    draft.outputs = tuple(output.name for output in signature.outputs)
    opened.predictor.bind(signature)
    rows = _recorded_rows(source, signature, handlers)
    _predict(source, opened, rows, draft.outputs)
    return LoadedModel(source, opened.predictor, signature, handlers, opened.libraries, opened.warnings, rows)


def _keep_whole(
    source: ModelSource, opened: Opened, outputs: tuple[Output, ...], handlers: Handlers | None
) -> LoadedModel:
    """Code that takes whole V2 requests: what its settings say is believed, since no request can be made for it."""
    draft = opened.draft
    signature = Signature(
        fields=tuple(draft.fields or ()),
        outputs=outputs,
        native_outputs=draft.native,
        layout=draft.layout,
        named=draft.named,
        task=draft.task,
        whole=True,
        extra_fields=source.options.get("extra_fields", "ignore"),
        origin=_origin(source, draft),
        told_inputs=draft.told[0],
        told_outputs=draft.told[1],
    )
    opened.predictor.bind(signature)
    return LoadedModel(source, opened.predictor, signature, handlers, opened.libraries, opened.warnings)


def keep_apart(
    source: ModelSource,
    predictor: Predictor,
    handlers: Handlers | None,
    libraries: dict[str, str],
    warnings: Sequence[str],
) -> LoadedModel:
    """A version from the registry that another process has loaded: its signature is the recorded one."""
    assert source.manifest is not None
    signature = manifests.decode(Path(source.manifest).read_bytes()).signature
    rows = None if signature.whole else _recorded_rows(source, signature, handlers)
    return LoadedModel(source, predictor, signature, handlers, libraries, list(warnings), rows)


def _recorded_rows(source: ModelSource, signature: Signature, handlers: Handlers | None) -> Rows:
    """The example of a recorded signature as the model takes it."""
    records: list[dict[str, Any]] = [dict(record) for record in signature.example]
    if handlers is not None and handlers.has_preprocess:
        records = _preprocessed(source, handlers, records) if records else [examples.made(signature.fields or ())]
    if signature.fields is None:
        return Rows(len(records), matrix=np.array([list(record.values()) for record in records], dtype=np.float64))
    return examples.rows_of(signature.fields, signature.layout == "matrix", records)


def _keep_unknown_width(
    source: ModelSource, opened: Opened, signature: Signature, handlers: Handlers | None
) -> LoadedModel:
    """A model that does not say how many inputs it has: the first width that it answers gives example and outputs."""
    if signature.layout != "matrix":
        raise LoadFailed(
            f"{source.path}: the model does not say its inputs; name them in lagar.toml ([fields.NAME]) "
            "or give an example: --example FILE"
        )
    for width in range(1, _PROBED_WIDTHS + 1):
        rows = Rows(1, matrix=np.zeros((1, width)))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                answer = opened.predictor.predict(rows, opened.draft.outputs)
        except Exception as error:
            _log.debug("%s does not take %d inputs: %s", source.path, width, error)
            continue
        opened.warnings.append(
            "the model does not say how many inputs it has, so widths are not checked; give one row: --example FILE"
        )
        example = ({f"x{index}": 0.0 for index in range(width)},)
        opened.draft.outputs, opened.draft.native = tuple(answer), opened.draft.native or tuple(answer)
        signature = msgspec.structs.replace(
            signature,
            outputs=_outputs(opened.draft, answer, single=is_single(opened)),
            native_outputs=opened.draft.native,
            example=example,
        )
        signature = mlserver.described(source, signature)
        return LoadedModel(source, opened.predictor, signature, handlers, opened.libraries, opened.warnings, rows)
    raise LoadFailed(
        f"{source.path}: the model does not say how many inputs it has and answered none of 1 to {_PROBED_WIDTHS}; "
        "give an example of its input: --example FILE"
    )


# What the example file says.


def _example_table(
    source: ModelSource, draft: Draft, handlers: Handlers | None
) -> tuple[examples.Table | None, list[dict[str, Any]]]:
    """The example as the model sees it, and as a caller sends it: they differ when there is a preprocess."""
    if source.example is not None:
        table = examples.read(Path(source.example))
    elif draft.rows:
        table = examples.from_records(draft.rows)
    else:
        return None, []
    if handlers is None or not handlers.has_preprocess:
        return table, []
    raw = table.records()
    return examples.from_records(_preprocessed(source, handlers, raw)), raw


def _preprocessed(source: ModelSource, handlers: Handlers, records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    try:
        result = handlers.preprocess([dict(record) for record in records])
    except InvalidInput as error:
        raise LoadFailed(f"{source.handlers}: preprocess refused the example: {error.message}") from error
    except (Exception, SystemExit) as error:
        raise LoadFailed(
            f"{source.handlers}: preprocess failed on the example: {type(error).__name__}: {error}"
        ) from error
    for record in result:
        if not isinstance(record, dict):
            raise LoadFailed(f"{source.handlers}: preprocess must return a list of dicts, got {type(record).__name__}")
    return result


def _with_example(source: ModelSource, draft: Draft, table: examples.Table) -> list[Field]:
    """The fields with names, types, nullability and ranges of the example."""
    where = source.example or source.path
    fields = draft.fields
    if fields is None:
        if draft.open_fields and not source.field_rules:
            draft.layout = draft.layout if all(_numeric(column) for column in table.columns) else "columns"
        fields = [Field(name, type="unknown" if draft.open_fields else "float") for name in table.names]
        if draft.open_fields and source.field_rules:
            fields = [field for field in fields if field.name in source.field_rules] or fields
        draft.named = table.named
    elif not draft.named or not table.named:
        if len(fields) != len(table.names):
            raise LoadFailed(
                f"example {where} has {len(table.names)} columns ({_few(table.names)}) and the model takes "
                f"{len(fields)}; leave out what is no input (the target, an id)"
            )
        if table.named:
            fields = [
                msgspec.structs.replace(field, name=name) for field, name in zip(fields, table.names, strict=True)
            ]
            draft.named = True
        else:
            table.names = [field.name for field in fields]
    for field in fields:
        if field.has_default and field.name not in table.names:
            table.names.append(field.name)
            table.columns.append([field.default] * table.n)
    missing = [field.name for field in fields if field.name not in table.names]
    if missing:
        raise LoadFailed(f"example {where} lacks {_few(missing)}; its columns are {_few(table.names)}")
    return [_refined(where, field, table) for field in fields]


def _numeric(column: Sequence[Scalar]) -> bool:
    return all(value is None or isinstance(value, (int, float)) for value in column)


def _refined(where: str, field: Field, table: examples.Table) -> Field:
    index = table.names.index(field.name)
    if field.type == "string":  # a category "1" reads as a number in a CSV file
        table.columns[index] = [None if value is None else str(value) for value in table.columns[index]]
    values = table.columns[index]
    present = [value for value in values if value is not None and not (isinstance(value, float) and math.isnan(value))]
    changes: dict[str, Any] = {}
    if len(present) < len(values) and field.nullable is None:
        changes["nullable"] = True
    if field.type == "unknown" and field.categories is None:
        changes["type"] = _type_of(present)
    elif field.type == "float" and field.categories is None and present and _type_of(present) == "bool":
        changes["type"] = "bool"
    elif field.type in {"float", "int"} and any(isinstance(value, str) for value in present):
        word = next(value for value in present if isinstance(value, str))
        raise LoadFailed(
            f"example {where}: column {field.name!r} has the text {word!r}, and the model takes a number there"
        )
    numbers = [float(value) for value in present if not isinstance(value, str)]
    if numbers and len(numbers) == len(present) and changes.get("type", field.type) in {"float", "int"}:
        changes |= {"seen_min": min(numbers), "seen_max": max(numbers)}
    return msgspec.structs.replace(field, **changes) if changes else field


def _type_of(values: Sequence[Scalar]) -> str:
    if not values:
        return "unknown"
    if all(isinstance(value, bool) for value in values):
        return "bool"
    if all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values):
        return "float"  # whole numbers in a sample do not say that 0.5 is wrong
    return "string" if all(isinstance(value, str) for value in values) else "unknown"


# What lagar.toml says.


def _with_rules(source: ModelSource, draft: Draft, fields: list[Field] | None) -> list[Field] | None:
    rules = source.field_rules
    if not rules:
        return fields
    if fields is None:
        fields = [Field(name, type="unknown" if draft.open_fields else "float") for name in rules]
        draft.named = True
    names = [field.name for field in fields]
    for name in rules:
        if name not in names and draft.open_fields and source.example is None and not draft.fields:
            continue
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise SetupError(
                f"lagar.toml rules the field {name!r}, which the model has not; its fields: {_few(names)}{hint}"
            )
    return [_ruled(field, rules[field.name], draft) if field.name in rules else field for field in fields]


def _ruled(field: Field, rule: Mapping[str, Any], draft: Draft) -> Field:
    kind = rule.get("type")
    if draft.layout == "matrix" and kind == "string":
        if not draft.open_fields:
            raise SetupError(f"lagar.toml: fields.{field.name}.type is string, and the model takes numbers")
        draft.layout = "columns"
    changes: dict[str, Any] = {key: rule[key] for key in ("type", "unknown", "nullable") if rule.get(key) is not None}
    if rule.get("categories") is not None:
        changes["categories"] = tuple(rule["categories"])
        if field.type == "unknown" and kind is None:
            changes["type"] = _type_of(rule["categories"])
    if rule.get("range") is not None:
        low, high = rule["range"]  # an infinite end is None once it came through JSON to a worker
        changes |= {
            "minimum": low if low is not None and math.isfinite(low) else None,
            "maximum": high if high is not None and math.isfinite(high) else None,
        }
        if field.type == "unknown" and kind is None:
            changes["type"] = "float"
    if "default" in rule and rule["default"] is not None:
        changes |= {"default": rule["default"], "has_default": True}
    changed = msgspec.structs.replace(field, **changes)
    if changed.has_default and not examples.accepts(changed, changed.default):
        raise SetupError(f"lagar.toml: fields.{field.name}.default {changed.default!r} breaks the field's own rules")
    return changed


# The example rows, and the call that proves them.


def _example_rows(
    source: ModelSource,
    fields: list[Field],
    table: examples.Table | None,
    raw: list[dict[str, Any]],
    handlers: Handlers | None,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows for the model, and the same rows as a caller sends them (empty: not known)."""
    if table is None:
        made = [examples.made(fields)]
        if handlers is None or not handlers.has_preprocess:
            return made, made
        try:
            return _preprocessed(source, handlers, made), made
        except LoadFailed:
            return made, []
    names = [field.name for field in fields]
    good: list[int] = []
    reason = ""
    for index, record in enumerate(table.records()):
        wrong = next((field for field in fields if not examples.accepts(field, record[field.name])), None)
        if wrong is None:
            good.append(index)
            if len(good) == _EXAMPLE_ROWS:
                break
        elif not reason:
            reason = f"row {index} has {record[wrong.name]!r} for {wrong.name!r}"
    if not good:
        raise LoadFailed(f"example {source.example}: no row keeps the model's own rules: {reason}")
    records = table.records()
    picked = [{name: records[index][name] for name in names} for index in good]
    return picked, [raw[index] for index in good] if raw else picked


def _predict(source: ModelSource, opened: Opened, rows: Rows, outputs: tuple[str, ...]) -> Outputs:
    """The proof that the model answers; warnings it gives now are told once instead of at every call."""
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            answer = opened.predictor.predict(rows, outputs)
    except (Exception, SystemExit) as error:
        notes = f" ({'; '.join(opened.warnings)})" if opened.warnings else ""
        hint = "" if source.example else "; if the example is at fault, give one: --example FILE"
        raise LoadFailed(
            f"{source.path}: the model does not answer its example: {type(error).__name__}: "
            f"{' '.join(str(error).split())}{notes}{hint}"
        ) from error
    opened.warnings.extend(dict.fromkeys(" ".join(str(warning.message).split()) for warning in caught))
    if not outputs:  # custom code: what it answered is what it has
        opened.draft.outputs = opened.draft.native = tuple(answer)
    for name in opened.draft.outputs:
        found = answer.get(name)
        if found is None or found.shape[:1] != (rows.n,):
            shape = None if found is None else found.shape
            raise LoadFailed(
                f"{source.path}: output {name!r} must have one value per row ({rows.n}), got shape {shape}"
            )
    return answer


def is_single(opened: Opened) -> bool:
    """Whether the model's numbers are those of single precision, though they travel as float64."""
    predictor = opened.predictor
    return isinstance(predictor, Chain) and predictor.head.single


def _outputs(draft: Draft, answer: Outputs, *, single: bool) -> tuple[Output, ...]:
    datatypes = _DATATYPES | ({"f": "FP32"} if single else {})
    return tuple(
        Output(
            name,
            datatype=datatypes.get(answer[name].dtype.kind, "BYTES"),
            shape=tuple(int(size) for size in answer[name].shape[1:]),
            meaning=draft.meanings.get(name, ""),
            classes=draft.target_classes.get(name),
        )
        for name in draft.outputs
    )


def _with_values(fields: list[Field], record: Mapping[str, Any]) -> tuple[Field, ...]:
    return tuple(msgspec.structs.replace(field, example=record.get(field.name)) for field in fields)


def _origin(source: ModelSource, draft: Draft) -> str:
    parts = [draft.origin] if draft.origin else []
    if source.example:
        parts.append(f"example {Path(source.example).name}")
    if source.field_rules:
        parts.append("lagar.toml")
    return ", ".join(parts)


def _few(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:10])
    return shown if len(names) <= 10 else f"{shown} and {len(names) - 10} more"
