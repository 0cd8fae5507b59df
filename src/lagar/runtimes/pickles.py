"""A pickled model file → its object: scanned, opened by the restricted unpickler, versions compared."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

from lagar.errors import LoadFailed, SetupError
from lagar.intake import scan
from lagar.registry.model import ModelSource
from lagar.runtimes import code, scikit

_SKLEARN_VERSION = re.compile(rb"_sklearn_version.{1,8}?(\d+\.\d+[0-9a-z.]*)", re.DOTALL)


def load(source: ModelSource, path: Path) -> tuple[object, dict[str, str], list[str]]:
    """The object, no libraries yet, and what is to be said: a pickle of another version, with both versions.

    Raises what the scan raises, and LoadFailed naming both versions when opening fails on another version's pickle.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SetupError(f"{path} cannot be read: {error.strerror or error}") from None
    modules = code.install(source.code)
    main = code.MainNames(modules) if modules else None
    names = frozenset(modules)
    scan.check(
        data, code_modules=names | ({"__main__"} if main is not None else set()), trust=source.trust, source=str(path)
    )
    if b"sklearn" in data or source.kind == "sklearn":
        scikit.import_alone()
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model = scan.load(data, code_modules=names, trust=source.trust, resolve_main=main, source=str(path))
    except LoadFailed as error:
        raise _with_versions(error, data, path) from error
    return model, {}, _said(caught)


def _said(caught: list[warnings.WarningMessage]) -> list[str]:
    """One line for scikit-learn's warning per estimator, and the others as they are."""
    texts: dict[str, None] = {}
    pairs: dict[tuple[str, str], list[str]] = {}
    for item in caught:
        message = item.message
        saved = getattr(message, "original_sklearn_version", None)
        if saved is not None:
            here = getattr(message, "current_sklearn_version", "")
            pairs.setdefault((saved, here), []).append(getattr(message, "estimator_name", "an estimator"))
        elif not issubclass(item.category, (DeprecationWarning, FutureWarning)):
            texts[" ".join(str(message).split())] = None
    versions = [
        f"saved with scikit-learn {saved} and running on {here} ({', '.join(dict.fromkeys(names))}): "
        f"its answers may differ; install scikit-learn=={saved}, push it with --requirements FILE that says "
        f"scikit-learn=={saved}, or train again"
        for (saved, here), names in pairs.items()
    ]
    return [*versions, *texts]


def _with_versions(error: LoadFailed, data: bytes, path: Path) -> LoadFailed:
    found = _SKLEARN_VERSION.search(data)
    if found is None:
        return error
    from sklearn import __version__ as here

    saved = found.group(1).decode()
    if saved == here:
        return error
    return LoadFailed(
        f"{error.message} ({path.name} was saved with scikit-learn {saved}, installed is {here}: "
        f"pip install scikit-learn=={saved}, push it with --requirements FILE that says scikit-learn=={saved}, which "
        "gives it an environment of its own, or train again)"
    )
