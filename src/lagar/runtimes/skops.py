"""Models saved by skops, MLflow's own default: no pickle, and its types are held to the same allow-list."""

from __future__ import annotations

from pathlib import Path

from lagar.errors import LoadFailed, SetupError, UnsafePickle
from lagar.intake import allowlist
from lagar.registry.model import ModelSource
from lagar.runtimes import code

_SHOWN = 20


def is_one(path: Path) -> bool:
    """Whether a file is a zip archive: no pickle is, and of those that are only skops files come this far."""
    try:
        with path.open("rb") as file:
            return file.read(4) == b"PK\x03\x04"
    except OSError as error:
        raise SetupError(f"{path} cannot be read: {error.strerror or error}") from None


def load(source: ModelSource, path: Path) -> object:
    """The object in the file; raises UnsafePickle for types outside the allow-list, LoadFailed for a damaged file."""
    modules = frozenset(code.install(source.code))
    import skops.io

    try:
        types = skops.io.get_untrusted_types(file=path)
    except Exception as error:
        raise _damaged(path, error) from error
    refused = [name for name in types if not _permitted(name, modules)]
    if refused and not source.trust:
        shown = ", ".join(refused[:_SHOWN]) + (", …" if len(refused) > _SHOWN else "")
        raise UnsafePickle(
            f"{path} names what is outside the allow-list: {shown}. If it is your own class, pass the file that "
            "defines it: --code FILE. If you made this file yourself: --trust"
        )
    try:
        return skops.io.load(path, trusted=types)
    except ImportError:
        raise
    except Exception as error:
        raise _damaged(path, error) from error


def _permitted(full: str, modules: frozenset[str]) -> bool:
    module, _, name = full.rpartition(".")
    return allowlist.permits(*allowlist.canonical(module, name), modules)


def _damaged(path: Path, error: Exception) -> LoadFailed:
    import skops

    text = " ".join(str(error).split())[:300]
    return LoadFailed(f"{path} cannot be read by skops {skops.__version__}: {type(error).__name__}: {text}")
