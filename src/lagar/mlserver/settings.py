"""The settings that a custom runtime sees: those of its model-settings.json, as MLServer's own objects."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlparse

from lagar.mlserver.errors import InvalidModelURI
from lagar.mlserver.types import MetadataTensor

Plain = dict[str, Any]
"""Here, because the settings have a method called dict."""


class _Named:
    """Fields by keyword; whatever else is given is kept under its name."""

    _fields: ClassVar[tuple[str, ...]] = ()

    def __init__(self, **given: Any) -> None:
        self.__dict__.update(given)

    def model_dump(self, **_: Any) -> Plain:
        own = (name for name in vars(self) if not name.startswith("_"))
        return {name: getattr(self, name) for name in dict.fromkeys((*self._fields, *own))}

    def dict(self, **options: Any) -> Plain:
        return self.model_dump(**options)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.model_dump().items())})"


class ModelParameters(_Named):
    """What may differ from version to version of a model."""

    _fields = (
        "uri", "version", "environment_path", "environment_tarball", "inference_pool_gid",
        "autogenerate_inference_pool_gid", "format", "content_type", "extra",
    )  # fmt: skip

    uri: str | None = None
    version: str | None = None
    environment_path: str | None = None
    environment_tarball: str | None = None
    inference_pool_gid: str | None = None
    autogenerate_inference_pool_gid: bool = False
    format: str | None = None
    content_type: str | None = None
    extra: Any = None

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        if self.extra is None:
            self.extra = {}


class ModelSettings(_Named):
    """The settings of one model."""

    _fields = (
        "name", "platform", "versions", "inputs", "outputs", "parallel_workers", "warm_workers", "max_batch_size",
        "max_batch_time", "cache_enabled", "implementation_", "parameters",
    )  # fmt: skip

    name: str = ""
    platform: str = ""
    versions: Any = None
    inputs: Any = None
    outputs: Any = None
    parallel_workers: int | None = None
    warm_workers: bool = False
    max_batch_size: int = 0
    max_batch_time: float = 0.0
    cache_enabled: bool = False
    implementation_: str = ""
    parameters: Any = None
    _source: str | None = None

    def __init__(self, **given: Any) -> None:
        implementation = given.pop("implementation", None)
        super().__init__(**given)
        if implementation is not None:
            self.implementation_ = implementation
        self.versions = list(self.versions or [])
        self.inputs = [MetadataTensor.model_validate(tensor) for tensor in self.inputs or []]
        self.outputs = [MetadataTensor.model_validate(tensor) for tensor in self.outputs or []]
        if isinstance(self.parameters, Mapping):
            self.parameters = ModelParameters(**self.parameters)

    @property
    def implementation(self) -> str:
        """The dotted name of the class."""
        return self.implementation_

    @property
    def version(self) -> str | None:
        return None if self.parameters is None else self.parameters.version


class Settings(_Named):
    """The settings of the server, for code that makes one; a runtime is given those of its model."""


async def get_model_uri(
    settings: ModelSettings, wellknown_filenames: list[str] | None = None, allowed_schemes: list[str] | None = None
) -> str:
    """The model's file or folder: `parameters.uri`, relative to the settings file; in a folder, a well-known file.

    Raises InvalidModelURI.
    """
    return model_uri(settings, wellknown_filenames or [], allowed_schemes or [])


def model_uri(settings: ModelSettings, files: list[str], schemes: list[str]) -> str:
    """The same without waiting for anything."""
    uri = settings.parameters.uri if settings.parameters is not None else None
    if not uri:
        raise InvalidModelURI(settings.name)
    scheme = urlparse(uri).scheme
    if scheme:
        if scheme in schemes:
            return str(uri)
        raise InvalidModelURI(settings.name, uri)
    source = settings._source
    path = Path(os.path.normpath(uri if source is None else Path(source).parent / uri))
    if path.is_dir():
        known = [path / name for name in files]
        return str(next((file for file in known if file.is_file()), path))
    if not path.is_file():
        raise InvalidModelURI(settings.name, str(path))
    return str(path)
