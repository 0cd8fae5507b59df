"""Which path belongs to which protocol: where predictions are asked for, and in whose words an error is answered.

A protocol over HTTP is one row of `WIRES`; both lanes, the counters of refused keys and the shape of errors follow from
it. Who may ask what stands in `auth.ROUTES`, on purpose: a path that nobody listed there is closed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from lagar.protocols import grpc, mlflow, native, v1, v2, whole, whole_grpc
from lagar.protocols.base import Adapter, DeploymentView, ErrorAnswer, Limits

INVOCATIONS: Final = "/invocations"

Shape = Callable[[BaseException, str], ErrorAnswer]
"""(error, request id) → the answer."""


class Wire(NamedTuple):
    """One protocol over HTTP."""

    name: str
    """As `lagar_requests` counts it."""
    adapter: Callable[[DeploymentView, Limits], Adapter]
    error: Shape
    paths: tuple[str, ...]
    """Where predictions are posted to; {model} and {version} are one segment or a part of one, without {model} it is
    the default model's."""
    prefixes: tuple[str, ...] = ()
    """Every path below these has this protocol's errors; what is below none has those of the first row."""
    binary: bool = False
    """It reads bodies of type application/octet-stream with an Inference-Header-Content-Length."""


class Target(NamedTuple):
    """What a prediction path asks."""

    protocol: str
    model: str
    """Empty for the default one."""
    version: str | None
    """A label or an alias; None: whatever is live."""


def _v2(deployment: DeploymentView, limits: Limits) -> Adapter:
    """V2 in front of rows, or of a model that takes whole requests."""
    return (whole.WholeAdapter if deployment.signature.whole else v2.V2Adapter)(deployment, limits)


def _grpc(deployment: DeploymentView, limits: Limits) -> Adapter:
    """The same for ModelInfer of gRPC, whose calls come by no path."""
    return (whole_grpc.WholeGrpcAdapter if deployment.signature.whole else grpc.GrpcAdapter)(deployment, limits)


WIRES: Final[tuple[Wire, ...]] = (
    Wire(
        "native",
        native.NativeAdapter,
        native.error_answer,
        ("/predict", "/models/{model}/predict", "/models/{model}/versions/{version}/predict"),
    ),
    Wire(
        "v2",
        _v2,
        v2.error_answer,
        ("/v2/models/{model}/infer", "/v2/models/{model}/versions/{version}/infer"),
        prefixes=("/v2",),
        binary=True,
    ),
    Wire("grpc", _grpc, v2.error_answer, ()),
    Wire(
        "mlflow",
        mlflow.MlflowAdapter,
        mlflow.error_answer,
        (INVOCATIONS,),
        prefixes=(INVOCATIONS, "/version"),
    ),
    Wire(
        "v1",
        v1.V1Adapter,
        v1.error_answer,
        ("/v1/models/{model}:predict", "/v1/models/{model}/versions/{version}:predict"),
        prefixes=("/v1",),
    ),
)


def _compiled(path: str) -> re.Pattern[str]:
    """The path with a group for each of its parts."""
    escaped = re.escape(path)
    for part in ("model", "version"):
        escaped = escaped.replace(re.escape(f"{{{part}}}"), f"(?P<{part}>[^/]+)")
    return re.compile(escaped)


_ROUTES: Final = tuple((wire.name, path, _compiled(path)) for wire in WIRES for path in wire.paths)


def prediction(path: str) -> Target | None:
    """What a path asks if predictions are posted there; the path is decoded and plain."""
    for protocol, _, pattern in _ROUTES:
        found = pattern.fullmatch(path)
        if found is not None:
            parts = found.groupdict()
            return Target(protocol, parts.get("model", ""), parts.get("version"))
    return None


def paths_of(model: str, version: str | None = None, *, default: bool = False) -> Iterator[tuple[str, str]]:
    """Protocol and path of each place where predictions of a model, or of one version, are posted to.

    `default`: those where no model is named, too.
    """
    for protocol, path, _ in _ROUTES:
        if ("{version}" in path) != (version is not None):
            continue
        if "{model}" in path:
            yield protocol, path.replace("{model}", model).replace("{version}", version or "")
        elif default:
            yield protocol, path


def error_shape(path: str) -> Shape:
    """In whose words an error on a path is answered."""
    for wire in WIRES:
        if any(path == prefix or path.startswith(f"{prefix}/") for prefix in wire.prefixes):
            return wire.error
    return WIRES[0].error


def wire_of(protocol: str) -> Wire:
    """The row of a protocol."""
    return next(wire for wire in WIRES if wire.name == protocol)
