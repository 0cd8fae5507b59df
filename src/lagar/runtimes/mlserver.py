"""Custom runtimes of MLServer: a class derived from `MLModel` gets whole V2 requests and gives whole answers.

Requests travel as plain values in one object column, `REQUEST`, one request per row, so that they share calls, queues
and host processes like rows of any other model; answers come back in `ANSWER`. The requests of one call run side by
side on an event loop in a thread of the model's own, which lives as long as the model: what `load` began goes on there.

Where the settings name inputs and outputs that are all columns, rows of the other protocols are put to it as a request
with one tensor per column.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import importlib.util
import inspect
import logging
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
import numpy as np

from lagar.errors import InvalidInput, LagarError, LoadFailed, MissingCode, NotFound, NotReady, SetupError
from lagar.intake import mlserver as folders
from lagar.intake.mlserver import Facts
from lagar.registry.model import ModelSource
from lagar.registry.signature import Field, FieldType, Output, Signature, Tensor
from lagar.runtimes import merged
from lagar.runtimes.base import Draft, Opened
from lagar.runtimes.raw_booster import answer_raw
from lagar.types import Array, Outputs, Rows

REQUEST: Final = "\x00request"
ANSWER: Final = "\x00answer"
"""No field of a model has such a name."""

_TYPES: Final[dict[str, FieldType]] = {
    "BOOL": "bool", "BYTES": "string", **dict.fromkeys(("FP16", "FP32", "FP64", "BF16"), "float"),
    **{f"{sign}INT{bits}": "int" for sign in ("", "U") for bits in (8, 16, 32, 64)},
}  # fmt: skip
_PLAIN: Final = frozenset({int, float, str, bool, bytes, type(None)})
_UNLOAD_S: Final = 10.0

log = logging.getLogger("lagar.runtimes")
P = TypeVar("P", Field, Output)


def open_source(source: ModelSource, threads: int) -> Opened:
    """An instance of the class, with its own `load` awaited; raises SetupError."""
    facts = folders.facts_of(source.options)
    if facts is None or source.class_name is None:
        raise SetupError(f"{source.path}: a custom runtime needs its {folders.NAME}; push the folder again")
    from lagar.mlserver import names

    names.install()
    cls = _class(source)
    loop = ModelLoop(f"loop of {source.name}@{source.version}")
    try:
        model = cls(_settings(source, facts))
        ready = loop.run(model.load())
    except LagarError:
        raise
    except Exception as error:
        loop.stop()
        where = source.class_name
        raise LoadFailed(f"{where}.load() failed: {type(error).__name__}: {' '.join(str(error).split())}") from error
    if ready is False:
        loop.stop()
        raise LoadFailed(f"{source.class_name}.load() returned False: the model says that it is not ready")
    facts = _as_loaded(facts, model, loop)
    fields, outputs = _columns(facts)
    draft = Draft(
        fields=fields,
        layout="columns",
        task="custom",
        outputs=tuple(output.name for output in outputs),
        native=tuple(output.name for output in outputs),
        named=bool(fields),
        origin=f"inputs of {folders.NAME}" if fields else "",
        whole=outputs,
        told=(facts.inputs, facts.outputs),
    )
    return Opened(WholePredictor(model, loop, source, facts), draft, {}, _unserved(cls))


def hides_another(source: ModelSource) -> bool:
    """Whether loading it here would hide an MLServer that is installed: then it gets a process of its own."""
    if source.kind != "mlserver":
        return False
    from lagar.mlserver import names

    if names.installed():
        return False
    try:
        found = importlib.util.find_spec("mlserver")
    except ValueError:  # somebody else's module without a spec
        return True
    return found is not None and found.origin is not None  # a folder that is only called so hides nothing


def adapt(source: ModelSource, opened: Opened) -> None:
    """Make a model of one of MLServer's own runtimes answer as that runtime does; raises LoadFailed.

    A raw booster answers with what its own `predict` gives, and `extra.predict_fn` names the output that is answered
    when none is asked for.
    """
    facts = folders.facts_of(source.options)
    if facts is None or source.kind == "mlserver":
        return
    answer_raw(source.kind, opened)
    draft, first = opened.draft, facts.predict_fn
    if first and first not in draft.outputs:
        raise LoadFailed(
            f"{source.path}: parameters.extra.predict_fn is {first!r}, and this model answers "
            f"{', '.join(draft.outputs)}"
        )
    if first:
        draft.outputs = (first, *(name for name in draft.outputs if name != first))


def described(source: ModelSource, signature: Signature) -> Signature:
    """The signature with the content types that MLServer's settings give to requests, inputs and outputs by name."""
    facts = folders.facts_of(source.options)
    if facts is None:
        return signature
    inputs = {tensor.name: tensor.content_type for tensor in facts.inputs}
    outputs = {tensor.name: tensor.content_type for tensor in facts.outputs}
    return msgspec.structs.replace(
        signature,
        content_type=facts.content_type,
        fields=signature.fields and tuple(_typed(field, inputs) for field in signature.fields),
        outputs=tuple(_typed(output, outputs) for output in signature.outputs),
    )


def _typed(part: P, content_types: Mapping[str, str]) -> P:
    content_type = content_types.get(part.name)
    return msgspec.structs.replace(part, content_type=content_type) if content_type else part


# The class.


def _class(source: ModelSource) -> type[Any]:
    """The class that the settings name, freshly imported: another version may have a module of that name."""
    assert source.class_name is not None
    module_name, _, name = source.class_name.partition(":")
    top = module_name.partition(".")[0]
    known = sys.modules.get(top)
    roots = [Path(path) for path in source.code]
    if known is not None and not _lies_in(known, roots):
        for loaded in [key for key in sys.modules if key == top or key.startswith(f"{top}.")]:
            del sys.modules[loaded]
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise MissingCode(_missing(module_name, error)) from None
    except Exception as error:
        raise LoadFailed(f"{module_name} does not import: {type(error).__name__}: {error}") from error
    cls = getattr(module, name, None)
    if cls is None:
        raise MissingCode(f"{module.__file__} has no class {name!r}, which {folders.NAME} names as implementation")
    from lagar.mlserver.model import MLModel

    if not isinstance(cls, type) or not issubclass(cls, MLModel):
        raise SetupError(f"{module_name}.{name} must be a class derived from mlserver.MLModel")
    if cls.predict is MLModel.predict:
        streams = cls.predict_stream is not MLModel.predict_stream
        raise SetupError(
            f"{module_name}.{name} has no predict(payload)"
            + (": streams (predict_stream) are not served; add a predict that answers at once" if streams else "")
        )
    return cls


def _lies_in(module: Any, roots: list[Path]) -> bool:
    file = getattr(module, "__file__", None)
    places = [file] if file else list(getattr(module, "__path__", ()))
    return any(Path(place).is_relative_to(root) or Path(place) == root for place in places for root in roots)


def _missing(module: str, error: ModuleNotFoundError) -> str:
    name = error.name or "?"
    if name.partition(".")[0].startswith("mlserver"):
        return f"{module} imports {name}, which Lagar has no counterpart of; docs/mlserver.md lists what there is"
    return f"{module} imports {name!r}, which is not installed: pip install {name.partition('.')[0]}"


def _unserved(cls: type[Any]) -> list[str]:
    paths = [
        handler for method in vars(cls).values() if (handler := getattr(method, "__custom_handler__", None)) is not None
    ]
    return [f"its own endpoints are not served: {', '.join(paths)}"] if paths else []


def _settings(source: ModelSource, facts: Facts) -> Any:
    """The settings as the class sees them."""
    from lagar.mlserver.settings import ModelParameters, ModelSettings

    parameters = ModelParameters(
        uri=facts.uri or ".",
        version=facts.version or None,
        content_type=facts.content_type or None,
        extra=dict(facts.extra),
        **facts.others,
    )
    settings = ModelSettings(
        name=source.name,
        implementation=facts.implementation,
        platform=facts.platform,
        versions=list(facts.versions),
        inputs=[_metadata(tensor) for tensor in facts.inputs],
        outputs=[_metadata(tensor) for tensor in facts.outputs],
        max_batch_size=facts.max_batch_size,
        max_batch_time=facts.max_batch_time,
        parameters=parameters,
    )
    settings._source = str(Path(source.path) / folders.NAME)
    return settings


def _metadata(tensor: Tensor) -> dict[str, Any]:
    content_type = {"parameters": {"content_type": tensor.content_type}} if tensor.content_type else {}
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape), **content_type}


def _as_loaded(facts: Facts, model: Any, loop: ModelLoop) -> Facts:
    """The facts with the inputs and outputs that the class tells of itself; it may have set them in `load`."""
    try:
        told = loop.run(model.metadata())
        return msgspec.structs.replace(facts, inputs=_tensors(told.inputs), outputs=_tensors(told.outputs))
    except Exception:  # MLServer would only fail the request for it
        log.warning("model %s has no metadata; its settings file's is told", model.name, exc_info=True)
        return facts


def _tensors(told: Any) -> tuple[Tensor, ...]:
    from lagar.mlserver.types import MetadataTensor

    found = [MetadataTensor.model_validate(tensor) for tensor in told or ()]
    return tuple(
        Tensor(
            one.name, one.datatype, tuple(map(int, one.shape)), str(getattr(one.parameters, "content_type", "") or "")
        )
        for one in found
    )


def _columns(facts: Facts) -> tuple[list[Field], tuple[Output, ...]]:
    """Fields and outputs, where the settings name both and every tensor is a column; else no fields."""
    tensors = (*facts.inputs, *facts.outputs)
    known = facts.inputs and facts.outputs and all(tensor.datatype in _TYPES for tensor in tensors)
    if not known or not all(_is_column(tensor) for tensor in facts.inputs):
        return [], tuple(Output(t.name, t.datatype, tuple(t.shape[1:])) for t in facts.outputs)
    fields = [
        Field(tensor.name, type=_TYPES[tensor.datatype], nullable=_TYPES[tensor.datatype] in ("float", "string"))
        for tensor in facts.inputs
    ]
    outputs = [Output(t.name, t.datatype, () if _is_column(t) else tuple(t.shape[1:])) for t in facts.outputs]
    return fields, tuple(outputs)


def _is_column(tensor: Tensor) -> bool:
    return len(tensor.shape) < 2 or (len(tensor.shape) == 2 and tensor.shape[1] == 1)


# Calls.


class ModelLoop:
    """An event loop in a thread of its own, for the coroutines of one model."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        self._loop.close()

    def run(self, work: Any, timeout_s: float | None = None) -> Any:
        """What a coroutine gives or raises; a plain value as it is. Called from any other thread."""
        if not inspect.isawaitable(work):
            return work
        return asyncio.run_coroutine_threadsafe(_awaited(work), self._loop).result(timeout_s)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)


async def _awaited(work: Any) -> Any:
    return await work


class WholePredictor:
    """Puts whole requests to an `MLModel` (types.Predictor)."""

    def __init__(self, model: Any, loop: ModelLoop, source: ModelSource, facts: Facts) -> None:
        self._model = model
        self._loop = loop
        self._label = f"{source.name}@{source.version}"
        self._name = source.name
        self._facts = facts
        self._signature: Signature | None = None

    def bind(self, signature: Signature) -> None:
        self._signature = signature

    def predict(self, rows: Rows, outputs: tuple[str, ...]) -> Outputs:
        """One answer per whole request; for rows, the named outputs."""
        assert rows.columns is not None
        asked = rows.columns.get(REQUEST)
        if asked is None:
            return self._of_rows(rows, outputs)
        return {ANSWER: _objects(self._loop.run(self._all(asked.tolist())))}

    async def _all(self, asked: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if len(asked) == 1:
            return [await self._outcome(asked[0])]
        most = self._facts.max_batch_size if self._facts.max_batch_time > 0 else 1
        if most <= 1:
            return list(await asyncio.gather(*(self._outcome(request) for request in asked)))
        places = merged.groups(asked, most)
        found = await asyncio.gather(*(self._together([asked[place] for place in group]) for group in places))
        outcomes: dict[int, dict[str, Any]] = {}
        for group, of_group in zip(places, found, strict=True):
            outcomes.update(zip(group, of_group, strict=True))
        return [outcomes[place] for place in range(len(asked))]

    async def _together(self, group: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The outcomes of requests that the model gets as one; one after the other where that fails."""
        if len(group) > 1:
            with contextlib.suppress(Exception):  # whose fault it was shows when each is alone
                answers = merged.split(_plain_answer(await self._answered(merged.merge(group)), None), group)
                if answers is not None:
                    return [{"answer": answer} for answer in answers]
        return [await self._outcome(request) for request in group]

    async def _answered(self, asked: dict[str, Any]) -> Any:
        from lagar.mlserver.types import InferenceRequest

        answer = self._model.predict(InferenceRequest.model_validate(asked))
        return await answer if inspect.isawaitable(answer) else answer

    async def _outcome(self, asked: dict[str, Any]) -> dict[str, Any]:
        """The answer, or why there is none: one request's failure must not touch those beside it."""
        from lagar.mlserver.errors import MLServerError

        try:
            return {"answer": _plain_answer(await self._answered(asked), asked.get("id"))}
        except MLServerError as error:
            if error.status_code < 500 or error.status_code == 503:
                return {"error": str(error), "status": error.status_code}
            return self._failed(error, asked)
        except LagarError as error:
            return (
                {"error": error.message, "status": 400}
                if isinstance(error, InvalidInput)
                else self._failed(error, asked)
            )
        except Exception as error:
            return self._failed(error, asked)

    def _failed(self, error: Exception, asked: Mapping[str, Any]) -> dict[str, Any]:
        log.error("model %s raised on request %s", self._label, asked.get("id"), exc_info=error)
        return {"error": "", "status": 500}

    # -- rows of the other protocols

    def _of_rows(self, rows: Rows, outputs: tuple[str, ...]) -> Outputs:
        signature = self._signature
        assert signature is not None
        assert rows.columns is not None
        if not signature.fields:
            raise InvalidInput(
                f"model '{self._name}' takes whole V2 requests: POST /v2/models/{self._name}/infer; with columns as "
                f'"inputs" and "outputs" in its {folders.NAME} it takes rows too'
            )
        inputs = [
            {
                "name": tensor.name,
                "datatype": tensor.datatype,
                "shape": [rows.n, 1],
                "data": _values(rows.columns[tensor.name]),
                "parameters": {"content_type": tensor.content_type} if tensor.content_type else None,
            }
            for tensor in self._facts.inputs
        ]
        request = {"inputs": inputs, "outputs": [{"name": name} for name in outputs] or None}
        answer = answer_of(self._loop.run(self._outcome(request)), self._name)
        found = {tensor["name"]: _array(tensor, rows.n) for tensor in answer["outputs"]}
        missing = [name for name in outputs if name not in found]
        if missing:
            raise LagarError(f"{self._label} answered {', '.join(found) or 'nothing'} and not {', '.join(missing)}")
        return {name: found[name] for name in outputs} if outputs else found

    def close(self) -> None:
        """Let the class put away what it holds."""
        try:
            self._loop.run(self._model.unload(), _UNLOAD_S)
        finally:
            self._loop.stop()


def rows_of(request: dict[str, Any]) -> Rows:
    """A whole request, as plain values, for the engine: `id`, `parameters`, `inputs` and `outputs` as V2 has them."""
    return Rows(1, columns={REQUEST: _objects([request])})


def answer_of(outcome: Mapping[str, Any], model: str) -> dict[str, Any]:
    """The plain V2 answer in the outcome of a whole request; raises RequestError, and LagarError for a failure."""
    answer = outcome.get("answer")
    if answer is not None:
        return answer  # type: ignore[no-any-return]
    status, message = outcome["status"], outcome["error"]
    if status == 404:
        raise NotFound(message)
    if status == 503:
        raise NotReady(message)
    if status < 500:
        raise InvalidInput(message)
    from lagar.errors import ModelFailed

    raise ModelFailed(f"model '{model}' failed on this request; the server's log has the reason")


def _plain_answer(answer: Any, given_id: str | None) -> dict[str, Any]:
    """An InferenceResponse as values that JSON, msgpack and protobuf can carry."""
    from lagar.mlserver.types import InferenceResponse

    if not isinstance(answer, InferenceResponse):
        raise TypeError(f"predict must return an InferenceResponse, got {type(answer).__name__}")
    outputs = [
        {
            "name": output.name,
            "shape": [int(size) for size in output.shape],
            "datatype": output.datatype,
            "parameters": _parameters(output.parameters),
            "data": _data(output.data.root),
        }
        for output in answer.outputs
    ]
    return {
        "id": answer.id or given_id,
        "model_version": answer.model_version,
        "parameters": _parameters(answer.parameters),
        "headers": dict(getattr(answer.parameters, "headers", None) or {}),
        "outputs": outputs,
    }


def _parameters(parameters: Any) -> dict[str, Any]:
    if parameters is None:
        return {}
    return {name: _value(value) for name, value in parameters.model_dump().items() if name != "headers"}


def _data(root: Any) -> Any:
    if isinstance(root, (bytes, str)):
        return [root]
    if isinstance(root, list) and set(map(type, root)) <= _PLAIN:
        return root
    return _value(root)


def _value(value: Any) -> Any:
    """Lists, dicts, numbers and texts; what has `tolist` (arrays, tensors, numpy's numbers) as that gives."""
    if type(value) in _PLAIN:
        return value
    if isinstance(value, Mapping):
        return {str(name): _value(item) for name, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [_value(item) for item in value]
    for method in ("tolist", "isoformat"):
        if hasattr(value, method):
            return getattr(value, method)()
    raise TypeError(f"an answer holds a {type(value).__name__}, which no protocol can carry")


def _values(column: Array) -> list[Any]:
    values = column.tolist()
    return [None if value != value else value for value in values] if column.dtype.kind == "f" else values


def _objects(values: list[Any]) -> Array:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def _array(tensor: Mapping[str, Any], n: int) -> Array:
    shape = tensor["shape"]
    values = list(_flat(tensor["data"]))
    if not shape or shape[0] != n or len(values) % n:
        raise LagarError(f"output '{tensor['name']}' has shape {shape} for {n} rows")
    texts = tensor["datatype"] == "BYTES"
    plain = [value.decode() if isinstance(value, bytes) else value for value in values] if texts else values
    array = _objects(plain) if texts else np.array([np.nan if value is None else value for value in plain])
    return array if len(values) == n else array.reshape(n, -1)


def _flat(values: Any) -> Any:
    for value in values:
        if isinstance(value, list):
            yield from _flat(value)
        else:
            yield value
