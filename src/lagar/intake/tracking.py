"""Models of an MLflow tracking server or registry, fetched into a folder by mlflow's own client."""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from lagar import settings
from lagar.errors import MissingLibrary, SettingsError, SetupError, Unreachable
from lagar.intake import mlmodel

_REGISTERED: Final = "registered_model_meta"
"""What mlflow leaves beside a model that came from its registry."""
_URI: Final = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*):/")
_QUIET: Final = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # its own 7 take minutes to say that nobody answers
}


class Fetched(msgspec.Struct, frozen=True):
    """A model's folder on this machine, and what its registry calls it."""

    folder: Path
    name: str = ""
    version: str = ""
    source: str = ""
    """Where it came from, in words."""


@contextlib.contextmanager
def fetched(uri: str, tracking_uri: str | None) -> Iterator[Fetched]:
    """The model of `models:/NAME/VERSION`, `models:/NAME@ALIAS`, `runs:/RUN/PATH`, other URIs of mlflow's, or a folder.

    It lies in a temporary folder until the block ends. Raises SettingsError for a URI without a server to ask,
    Unreachable, MissingLibrary, and SetupError in mlflow's own words.
    """
    scheme = _URI.match(uri)
    if scheme is None:
        folder = Path(uri).expanduser().absolute()
        if not (folder / mlmodel.NAME).is_file():
            raise SetupError(f"{uri}: expected models:/NAME/VERSION, runs:/RUN/PATH or a folder with {mlmodel.NAME}")
        yield Fetched(folder, source=folder.name)
        return
    server = tracking_uri or settings.mlflow_tracking_uri()
    if server is None and scheme["scheme"] in ("models", "runs", "mlflow-artifacts"):
        raise SettingsError(f"{uri} lies on a tracking server: name it with --tracking-uri or MLFLOW_TRACKING_URI")
    with tempfile.TemporaryDirectory(prefix="lagar-mlflow-") as into:
        folder = _downloaded(uri, server, into)
        if not (folder / mlmodel.NAME).is_file():
            raise SetupError(f"{uri} has no {mlmodel.NAME} file: name the folder of the model itself")
        meta = _registered(folder)
        name, version = (str(meta.get(key) or "") for key in ("model_name", "model_version"))
        yield Fetched(folder, name, version, uri if server is None else f"{uri} of {_public(server)}")


def _public(server: str) -> str:
    """The address without the user and the password that may stand in it."""
    return re.sub(r"//[^/@]*@", "//", server)


def _downloaded(uri: str, server: str | None, into: str) -> Path:
    settings.set_own_environment(_QUIET)
    try:
        import mlflow
        from mlflow.artifacts import download_artifacts
        from mlflow.exceptions import MlflowException
    except ImportError:
        raise MissingLibrary(
            "models are fetched from a tracking server by mlflow; install it: pip install 'lagar[mlflow]'"
        ) from None
    if server is not None:  # for this process: what is given to a download alone is forgotten on its way
        mlflow.set_tracking_uri(server)
        mlflow.set_registry_uri(server)
    try:
        return Path(download_artifacts(artifact_uri=uri, dst_path=into))
    except MlflowException as error:
        text = _public(" ".join(str(error.message).split())[:500])
        if "API request to" in text or "Max retries" in text:
            raise Unreachable(f"{uri}: the tracking server {_public(server or '')} does not answer: {text}") from None
        raise SetupError(f"{uri}: {text}") from None
    except ImportError as error:
        raise MissingLibrary(f"{uri} is reached with {error.name}; install it: pip install {error.name}") from None
    except OSError as error:
        raise SetupError(f"{uri} cannot be fetched: {error}") from None


def _registered(folder: Path) -> dict[str, Any]:
    """What the registry calls the model; the note is taken away, so that the folder is what was logged."""
    path = folder / _REGISTERED
    if not path.is_file():
        return {}
    import yaml  # type: ignore[import-untyped]

    found = yaml.safe_load(path.read_text(encoding="utf-8"))
    path.unlink()
    return found if isinstance(found, dict) else {}
