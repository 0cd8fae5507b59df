"""What MLflow's protocol and KServe's V1 have in common: rows in one member of an object, `{"predictions": …}` out.

The rows go the ways of the native protocol (`bodies`, `columns`), so they are the same rows, and the same mistake is
the same error. `params` belong to the call and not to a row: a model takes those that its MLflow signature names, and
they travel as columns with one value, so that calls with different ones may still share a batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import orjson

from lagar.errors import InvalidInput
from lagar.protocols.base import JSON, DeploymentView, Encoded, InferRequest, Limits, shown
from lagar.protocols.bodies import Batch, BodyReader
from lagar.protocols.columns import Plan
from lagar.protocols.json_answer import dumped, output_json
from lagar.protocols.plain_rows import PlainRows
from lagar.registry.signature import PARAM, PARAM_LIST
from lagar.types import Outputs, Record, Rows

_PLAIN: Final = "predict"
"""The output of a model that answers one value per row, and does not name it."""
_OPEN: Final = b'{"predictions":'


class Predictions:
    """Both directions for one deployment; the protocols around it say where the rows stand and how errors look."""

    __slots__ = ("_bare", "_names", "_outputs", "_params", "_plain", "_plan", "_preprocess", "_records", "reader")

    def __init__(
        self, deployment: DeploymentView, limits: Limits, members: Iterable[str], frames: Iterable[str] = ()
    ) -> None:
        """`members` may hold rows as they may stand everywhere, `frames` records."""
        signature = deployment.signature
        handlers = deployment.handlers
        self._plan = Plan(signature, deployment.name)
        self._names = signature.names
        self._params = {
            field.name.removeprefix(PARAM): field.default
            for field in signature.fields or ()
            if field.name.startswith(PARAM) and field.has_default
        }
        self._bare = bool(self._params) and len(self._names) == len(self._params) + 1
        """Beside its params it has a single input, whose values may stand by themselves."""
        self._preprocess = handlers is not None and handlers.has_preprocess
        self.reader = BodyReader(signature, self._plan, limits, all_columns=self._preprocess, takes_ids=False)
        known = tuple(output.name for output in signature.outputs)
        self._plain = (
            None if self._params or self._preprocess else PlainRows(signature, self._plan, limits, members, frames)
        )
        self._outputs = known if signature.task == "custom" else known[:1]
        self._records = signature.task == "custom" and self._outputs != (_PLAIN,)
        """Code that names what it answers is answered by name: one object per row."""

    def certainly_good(self, body: bytes, request_id: str, timeout_s: float | None) -> InferRequest | None:
        """The request of a body that holds plain rows and nothing else, None for one that needs a closer look."""
        if self._plain is None:
            return None
        rows = self._plain.in_member(body) or self._plain.in_split(body)
        return None if rows is None else InferRequest(rows.n, self._outputs, request_id, rows, timeout_s=timeout_s)

    def rows_under(self, key: str, rows: Any) -> Batch:
        """The batch in a member that holds a list of rows, lists by name, or a single record or value."""
        if type(rows) is dict and any(type(value) is list for value in rows.values()):
            return self.reader.from_lists(key, rows)
        if rows is None:
            raise InvalidInput(f"'{key}' must be a list of rows, got null", field=key)
        items = rows if type(rows) is list else [rows]
        if self._bare and items and not any(type(item) is list or type(item) is dict for item in items):
            items = [[item] for item in items]
        return self.reader.from_list(items)

    def request(self, batch: Batch, params: Any, request_id: str, timeout_s: float | None) -> InferRequest:
        """The request of a batch, with the params of the call; raises InvalidInput."""
        self._complete(batch, self._checked(params))
        records = self.reader.records_of(batch) if self._preprocess else None
        return InferRequest(
            batch.n,
            self._outputs,
            request_id,
            None if records is not None else self._rows(batch),
            records,
            self._plan.from_records if records is not None else None,
            timeout_s=timeout_s,
        )

    def _rows(self, batch: Batch) -> Rows:
        if batch.records is not None:
            return self._plan.from_records(batch.records)
        if batch.table is not None:
            return self._plan.from_rows(batch.table)
        assert batch.columns is not None
        return self._plan.from_columns(batch.columns, batch.n)

    # Params.

    def _checked(self, params: Any) -> Record:
        """Field → value of the params that were given; raises InvalidInput for one that the model does not take."""
        if params is None:
            return {}
        if type(params) is not dict:
            raise InvalidInput(f"'params' must be an object, got {shown(params)}", field="params")
        found: Record = {}
        for name, value in params.items():
            if name in self._params:
                if type(value) in (list, dict):
                    raise InvalidInput(f"param '{name}' must be a single value, got {shown(value)}", field=name)
                found[PARAM + name] = value
            elif name + PARAM_LIST in self._params:
                if type(value) is not list:
                    raise InvalidInput(f"param '{name}' must be a list, got {shown(value)}", field=name)
                found[PARAM + name + PARAM_LIST] = orjson.dumps(value).decode()
            else:
                known = ", ".join(key.removesuffix(PARAM_LIST) for key in self._params)
                raise InvalidInput(
                    f"param '{name}' is none of this model's: "
                    + (f"it takes {known}" if known else "its signature has no params, log it again with some"),
                    field=name,
                )
        return found

    def _complete(self, batch: Batch, params: Mapping[str, Any]) -> None:
        """Put the params beside the rows; rows by position end with them, those left out have their defaults."""
        if not self._params:
            return
        if batch.table is not None:
            rest = [params.get(PARAM + name, default) for name, default in self._params.items()]
            width = len(self._names) - len(rest)
            batch.table = [[*row, *rest] if type(row) is list and len(row) == width else row for row in batch.table]
        elif batch.columns is not None:
            batch.columns.update({name: [value] * batch.n for name, value in params.items()})
        elif batch.records is not None and params:
            batch.records = [{**record, **params} if type(record) is dict else record for record in batch.records]

    # Encoding.

    def encode(self, request: InferRequest, outputs: Outputs) -> Encoded:
        """`{"predictions": […]}`: a value, a list or an object per row; raises ModelFailed for what is none in JSON."""
        if not self._records:
            (name,) = request.outputs
            return b"%b%b}" % (_OPEN, output_json(outputs[name], name)), JSON, b""
        columns = [outputs[name].tolist() for name in request.outputs]
        rows = [dict(zip(request.outputs, values, strict=True)) for values in zip(*columns, strict=True)]
        return b"%b%b}" % (_OPEN, dumped(rows, "answer")), JSON, b""
