"""Inside the confined process: load the model, record what it answers, measure it, and write that down as JSON.

Started by `lagar.intake.sandbox` as `python -m lagar.intake.trial FOLDER GUARD`, with `task.json` in the folder; leaves
`answer.json` there. A model's own code runs in this process, so the answer is data for its reader and never code.
"""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from lagar import memory as process_memory
from lagar.errors import LagarError, SetupError
from lagar.forms.apart import Caps
from lagar.intake.confinement import die_with_parent
from lagar.registry.manifest import Golden
from lagar.registry.model import ModelSource
from lagar.registry.proof import Criterion, Proof
from lagar.registry.signature import Signature

TASK: Final = "task.json"
ANSWER: Final = "answer.json"
FORMS: Final = "forms"
"""Folder in which forms are left, one folder for each that serves."""
_LIBRARIES: Final = {
    "sklearn": ("sklearn",),
    "xgboost": ("xgboost",),
    "lightgbm": ("lightgbm",),
    "catboost": ("catboost",),
    "onnx": ("onnxruntime",),
    "pyfunc": ("mlflow.pyfunc",),
}
"""Kind → what its runtime imports, so that a model's own memory is measured without them."""


class Given(msgspec.Struct, frozen=True):
    """A form that was built before, to be proved again."""

    folder: str
    criterion: Criterion
    leans: bool = False
    """Rows near a tie are left to the original."""


class Proving(msgspec.Struct, frozen=True):
    """Forms are to be built and proved."""

    candidates: str = "lagar.forms.candidates:candidates"
    """The function that lists them."""
    given: dict[str, Given] = {}
    """Name → form; where there are any, nothing is built."""
    caps: Caps = Caps()


class Task(msgspec.Struct, frozen=True):
    """What is to be done."""

    source: ModelSource
    preload: tuple[str, ...] = ()
    """Modules that the scan found in the pickle and let through."""
    training_data: str | None = None
    """None: load and record; a path: load and describe the data."""
    signature: Signature | None = None
    """For the training data: what the model's fields are."""
    proving: Proving | None = None


class Tried(msgspec.Struct, frozen=True):
    """What a load showed."""

    signature: Signature
    golden: Golden
    golden_words: tuple[str, ...]
    libraries: dict[str, str]
    """Of the runtime: library → version."""
    imported: dict[str, str]
    """Every distribution that the load imported → version."""
    installed: dict[str, str]
    """Every distribution here → version, those of a folder or an address left out."""
    local: tuple[str, ...]
    """Imported distributions that no index has: installed from a folder or an address."""
    python: str
    memory_bytes: int
    load_s: float
    import_s: float
    warnings: tuple[str, ...] = ()


class Described(msgspec.Struct, frozen=True):
    """What the training data showed: the profile is in the file `profile.json` of the folder."""

    words: tuple[str, ...] = ()


class Failure(msgspec.Struct, frozen=True):
    """Why there is no result: `code` is that of the error, `limit` the limit that was hit, "" for none."""

    code: str
    message: str
    limit: str = ""


class Answer(msgspec.Struct, frozen=True):
    """One of the four."""

    tried: Tried | None = None
    described: Described | None = None
    proof: Proof | None = None
    failure: Failure | None = None


def main() -> None:
    """Do the task of a folder; exits 0 when an answer is there, a failure's too."""
    die_with_parent(signal.SIGKILL, int(sys.argv[2]))
    folder = Path(sys.argv[1])
    try:
        task = msgspec.json.decode((folder / TASK).read_bytes(), type=Task)
        answer = _done(task, folder)
    except BaseException as error:  # sys.exit in a model's module is a failure like another
        answer = Answer(failure=_failure(error))
    partial = folder / f"{ANSWER}.partial"
    partial.write_bytes(msgspec.json.encode(answer))
    partial.replace(folder / ANSWER)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # neither the model's threads nor its exit handlers are waited for


def _done(task: Task, folder: Path) -> Answer:
    if task.proving is not None:
        return Answer(proof=_proof(task, task.proving, folder))
    if task.training_data is None:
        return Answer(tried=_tried(task))
    from lagar.intake import profile

    assert task.signature is not None
    found = profile.describe(task.source, task.signature, Path(task.training_data))
    (folder / profile.FILE).write_bytes(profile.encode(found))
    return Answer(described=Described(profile.words(found)))


def _proof(task: Task, proving: Proving, folder: Path) -> Proof:
    import importlib

    from lagar.forms import compilation
    from lagar.forms.original import Original

    original = Original.open(task.source)
    if task.training_data is not None:
        from lagar.intake import profile

        with contextlib.suppress(SetupError):  # what is wrong with the data is said when it is described
            original.training = profile.rows(original.loaded, Path(task.training_data))
    if proving.given:
        candidates = tuple(
            compilation.given(name, Path(form.folder), form.criterion, leans=form.leans)
            for name, form in proving.given.items()
        )
    else:
        module, _, name = proving.candidates.partition(":")
        candidates = getattr(importlib.import_module(module), name)()
    (folder / FORMS).mkdir()
    return compilation.compile_forms(original, candidates, folder / FORMS, proving.caps)


def _tried(task: Task) -> Tried:
    from lagar import runtimes
    from lagar.intake import golden

    before = set(sys.modules) - {name for name in sys.modules if name.partition(".")[0] == "numpy"}
    started = time.perf_counter()
    _preload(task)
    import_s = time.perf_counter() - started
    empty = process_memory.held()
    started = time.perf_counter()
    model = runtimes.load(task.source)
    load_s = time.perf_counter() - started
    memory = max(process_memory.held() - empty, 0)
    recorded = golden.record(model, Path(task.source.example) if task.source.example else None)
    imported, installed, local = _distributions(set(sys.modules) - before)
    return Tried(
        signature=model.signature,
        golden=recorded.golden,
        golden_words=recorded.words,
        libraries=model.libraries,
        imported=imported,
        installed=installed,
        local=local,
        python=platform.python_version(),
        memory_bytes=memory,
        load_s=round(load_s, 4),
        import_s=round(import_s, 4),
        warnings=tuple(model.warnings),
    )


def _preload(task: Task) -> None:
    import importlib

    kind = "sklearn" if task.source.pickled else task.source.kind
    for name in (*_LIBRARIES.get(kind, ()), *task.preload):
        try:
            importlib.import_module(name)
        except Exception:  # noqa: S112 - what is missing is named by the load itself
            continue


def _distributions(modules: set[str]) -> tuple[dict[str, str], dict[str, str], tuple[str, ...]]:
    """Imported distribution → version, every installed one → version, and the imported ones that no index has."""
    from importlib import metadata

    roots = {name.partition(".")[0] for name in modules} - set(sys.stdlib_module_names) - {"lagar"}
    owners = metadata.packages_distributions()
    names = {owner for root in roots for owner in owners.get(root, ())}
    imported: dict[str, str] = {}
    installed: dict[str, str] = {}
    local: list[str] = []
    for distribution in metadata.distributions():
        name, version = distribution.name, distribution.version
        here = distribution.read_text("direct_url.json") is not None
        if not here:
            installed[name] = version
        if name in names:
            imported[name] = version
            if here:
                local.append(name)
    return dict(sorted(imported.items())), dict(sorted(installed.items())), tuple(sorted(local))


def _failure(error: BaseException) -> Failure:
    limit = _limit_of(error)
    if isinstance(error, LagarError):
        return Failure(error.code, error.message, limit)
    text = " ".join(str(error).split())[:500]
    if isinstance(error, SystemExit):
        return Failure("load_failed", f"the model's code ended the process: sys.exit({text})", limit)
    return Failure("load_failed", f"{type(error).__name__}: {text}", limit)


def _limit_of(error: BaseException) -> str:
    """The limit that an error, or what caused it, speaks of."""
    for cause in _causes(error):
        if isinstance(cause, MemoryError) or "bad_alloc" in str(cause) or "Unable to allocate" in str(cause):
            return "memory"
        number: Any = getattr(cause, "errno", None)
        if isinstance(cause, OSError) and number in (errno.EACCES, errno.EPERM):
            return "files" if cause.filename is not None else "network"
        if isinstance(cause, OSError) and number in _ERRNOS:
            return _ERRNOS[number]
        if type(cause).__name__ == "gaierror":
            return "network"
    return ""


_ERRNOS: Final = {
    errno.EFBIG: "file size",
    errno.EMFILE: "open files",
    errno.ENOMEM: "memory",
    errno.ENETUNREACH: "network",
    errno.EADDRNOTAVAIL: "network",
}


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__


if __name__ == "__main__":
    main()
