"""What a platform that starts the server as its container says, in variables and folders of its own.

SageMaker runs `IMAGE serve` with the model in /opt/ml/model, Vertex AI says everything in AIP_* variables, KServe puts
the model into /mnt/models. Each of them reaches the container from outside, so each stands for host 0.0.0.0, and the
rule for keys is that of any such address. A flag, a LAGAR_* variable and server.toml go before all of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

SAGEMAKER_FOLDER: Final = "opt/ml/model"
KSERVE_FOLDER: Final = "mnt/models"
KSERVE_GRPC_PORT: Final = "8081"
"""Where KServe's own servers answer gRPC; their port for HTTP is ours."""
_EVERYWHERE: Final = "0.0.0.0"  # noqa: S104 - the platform's own network; keys are asked for as on any such address


class Said(msgspec.Struct, frozen=True):
    """A setting as text, and where it was said."""

    value: str
    origin: str


class Container(msgspec.Struct, frozen=True):
    """What the platform says of a container that it runs."""

    path: str = ""
    """What is to be served where the command names nothing; "" for nothing."""
    name: str | None = None
    """What the model is to be called."""
    settings: dict[str, Said] = {}
    """Setting → what stands for its default."""


def container(environ: Mapping[str, str], root: Path = Path("/")) -> Container | None:
    """The container that this process runs in, None outside of one."""
    if environ.get("AIP_HTTP_PORT"):
        return _vertex(environ)
    if environ.get("SAGEMAKER_BIND_TO_PORT") or (root / SAGEMAKER_FOLDER).is_dir():
        return _sagemaker(environ, root)
    if environ.get("KUBERNETES_SERVICE_HOST") and (root / KSERVE_FOLDER).is_dir():
        return _kserve(environ, root)
    return None


def _vertex(environ: Mapping[str, str]) -> Container:
    """Source: Vertex AI, "Custom container requirements for inference"."""
    names = {"port": "AIP_HTTP_PORT", "predict_route": "AIP_PREDICT_ROUTE", "health_route": "AIP_HEALTH_ROUTE"}
    settings = {name: Said(environ[variable], variable) for name, variable in names.items() if environ.get(variable)}
    settings["host"] = Said(_EVERYWHERE, "AIP_HTTP_PORT")
    return Container(path=environ.get("AIP_STORAGE_URI", ""), settings=settings)


def _sagemaker(environ: Mapping[str, str], root: Path) -> Container:
    """Source: SageMaker AI, "Custom inference code with hosting services"."""
    folder = root / SAGEMAKER_FOLDER
    port = environ.get("SAGEMAKER_BIND_TO_PORT")
    settings = {"host": Said(_EVERYWHERE, "SAGEMAKER_BIND_TO_PORT" if port else str(folder))}
    if port:
        settings["port"] = Said(port, "SAGEMAKER_BIND_TO_PORT")
    return Container(path=str(folder) if folder.is_dir() else "", settings=settings)


def _kserve(environ: Mapping[str, str], root: Path) -> Container:
    """Source: KServe, "ServingRuntime": the storage initializer's folder, and MODEL_NAME where the runtime sets it."""
    folder = str(root / KSERVE_FOLDER)
    said = {"host": Said(_EVERYWHERE, folder), "grpc_port": Said(KSERVE_GRPC_PORT, folder)}
    return Container(folder, environ.get("MODEL_NAME") or None, said)
