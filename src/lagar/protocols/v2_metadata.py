"""What V2 says of a server and its models: metadata, readiness, Triton's model configuration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import orjson

from lagar import __version__
from lagar.intake.mlserver import Facts
from lagar.protocols.v2_request import field_datatype
from lagar.registry.signature import Output, Signature, Tensor

EXTENSIONS: Final = ("binary_tensor_data", "model_configuration", "model_repository", "statistics")
"""By the names of Triton's protocol extensions."""


Tensors = list[dict[str, Any]]


def server_metadata() -> bytes:
    return orjson.dumps({"name": "lagar", "version": __version__, "extensions": list(EXTENSIONS)})


def model_ready(name: str, ready: bool = True) -> bytes:
    return orjson.dumps({"name": name, "ready": ready})


def models_list(names: Sequence[str]) -> bytes:
    """The names of the models, as KServe lists them."""
    return orjson.dumps({"models": list(names)})


def model_metadata(
    name: str, versions: Sequence[str], platform: str, signature: Signature, said: Facts | None = None
) -> bytes:
    """Names, datatypes and shapes of inputs and outputs; -1 is the number of rows, or unknown.

    A model that names its fields, or takes other things than numbers, lists them as columns [-1,1]; any other takes a
    single matrix. Both kinds accept both forms where all fields are numbers.
    What a settings file of MLServer says of them, or its class once it is loaded, is told as it stands there.
    """
    inputs = [_as_said(tensor) for tensor in signature.told_inputs or (said.inputs if said is not None else ())]
    outputs = [_as_said(tensor) for tensor in signature.told_outputs or (said.outputs if said is not None else ())]
    return orjson.dumps(
        {
            "name": name,
            "versions": list(versions),
            "platform": platform if said is None or not said.platform else said.platform,
            "inputs": inputs or _inputs(signature),
            "outputs": outputs or _outputs(signature),
            "parameters": _typed(signature.content_type),
        }
    )


def _as_said(tensor: Tensor) -> dict[str, Any]:
    described = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
    return described | ({"parameters": {"content_type": tensor.content_type}} if tensor.content_type else {})


def model_config(name: str, versions: Sequence[str], platform: str, signature: Signature, max_rows: int) -> bytes:
    """The model's configuration as Triton's JSON has it: dims leave out the rows, whose number is the batch size."""
    facts = {
        "name": name,
        "platform": platform,
        "backend": "lagar",
        "version_policy": {"specific": {"versions": list(versions)}},
        "max_batch_size": max_rows,
        "input": [_configured(tensor) for tensor in _inputs(signature)],
        "output": [_configured(tensor) for tensor in _outputs(signature)],
        "instance_group": [{"name": name, "kind": "KIND_CPU", "count": 1, "gpus": []}],
        "dynamic_batching": {"preferred_batch_size": [], "max_queue_delay_microseconds": 0},
        "model_transaction_policy": {"decoupled": False},
        "parameters": {},
    }
    return orjson.dumps(facts)


def _inputs(signature: Signature) -> Tensors:
    if signature.fields is None or (signature.layout == "matrix" and not signature.named):
        width = -1 if signature.width is None else signature.width
        return [{"name": "input", "datatype": "FP64", "shape": [-1, width]}]
    return [
        {"name": field.name, "datatype": field_datatype(field), "shape": [-1, 1], **_told(field.content_type)}
        for field in signature.fields
    ]


def _outputs(signature: Signature) -> Tensors:
    return [
        {"name": output.name, "datatype": output.datatype, "shape": _shape(output), **_told(output.content_type)}
        for output in signature.outputs
    ]


def _shape(output: Output) -> list[int]:
    return [-1, *output.shape] if output.shape else [-1, 1]


def _typed(content_type: str) -> dict[str, str]:
    return {"content_type": content_type} if content_type else {}


def _told(content_type: str) -> dict[str, Any]:
    return {"parameters": _typed(content_type)} if content_type else {}


def _configured(tensor: dict[str, Any]) -> dict[str, Any]:
    datatype = tensor["datatype"]
    kind = "STRING" if datatype == "BYTES" else datatype
    return {"name": tensor["name"], "data_type": f"TYPE_{kind}", "dims": tensor["shape"][1:]}


def version_to_load(body: bytes) -> str | None:
    """The version that a load names, by our own parameter `version`; None for none, and for a body that is refused."""
    try:
        value = orjson.loads(body or b"{}")
    except orjson.JSONDecodeError:
        return None
    parameters = value.get("parameters") if isinstance(value, dict) else None
    version = parameters.get("version") if isinstance(parameters, dict) else None
    return version if isinstance(version, str) else None
