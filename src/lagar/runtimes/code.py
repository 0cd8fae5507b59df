"""The user's own code: `--code` paths made importable, `__main__.f` answered, handlers and classes checked."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from lagar.errors import LoadFailed, MissingCode, SetupError
from lagar.types import Record

_ours: dict[str, str] = {}
"""Top-level module → the code path that it came from: another version's module of that name is replaced."""


def install(paths: Sequence[str]) -> dict[str, Path]:
    """Make files and folders importable: top-level module → its file.

    Two versions may bring a module of one name: the last installed wins for what is imported from then on, and what
    was loaded before keeps its own. Raises SetupError for a module with the name of one of Python's own.
    """
    offered: dict[str, Path] = {}
    for text in reversed(paths):
        path = Path(text)
        root = path.parent if path.is_file() or (path / "__init__.py").is_file() else path
        modules = _modules(path)
        for name, file in modules.items():
            _make_room(name, file)
        if str(root) in sys.path:
            sys.path.remove(str(root))
        sys.path.insert(0, str(root))
        offered.update(modules)
    importlib.invalidate_caches()
    return offered


def module_names(paths: Sequence[str]) -> frozenset[str]:
    """The top-level modules that `install` would offer; nothing is imported or made importable."""
    return frozenset(name for path in paths for name in _modules(Path(path)))


def _modules(path: Path) -> dict[str, Path]:
    if path.is_file():
        if path.suffix != ".py":
            raise SetupError(f"--code {path}: expected a .py file or a folder")
        files = [path]
    elif (path / "__init__.py").is_file():
        return {path.name: path / "__init__.py"}
    else:
        files = sorted(path.glob("*.py"))
    found = {file.stem: file for file in files}
    if path.is_dir():
        found.update({init.parent.name: init for init in sorted(path.glob("*/__init__.py"))})
    return {name: file for name, file in found.items() if name.isidentifier() and not name.startswith("__")}


def _make_room(name: str, file: Path) -> None:
    if name in sys.stdlib_module_names or name == "lagar":
        raise SetupError(f"--code {file}: Python has a module {name!r} of its own; give the file another name")
    if name in _ours and _ours[name] != str(file):
        for module in [key for key in sys.modules if key == name or key.startswith(f"{name}.")]:
            del sys.modules[module]
    _ours[name] = str(file)


class MainNames(Mapping[str, object]):
    """`__main__.NAME` of a pickle → the object of that name in the code paths.

    Only a module whose text defines the name is imported: a training script may lie beside it.
    """

    def __init__(self, modules: Mapping[str, Path]) -> None:
        self._modules = dict(modules)

    def __getitem__(self, name: str) -> object:
        head, *rest = name.split(".")
        defines = re.compile(
            rf"^(?:(?:async\s+)?def|class)\s+{re.escape(head)}\b|^{re.escape(head)}\s*[:=]", re.MULTILINE
        )
        for module_name, file in sorted(self._modules.items()):
            if not defines.search(file.read_text(encoding="utf-8", errors="replace")):
                continue
            found: object = getattr(import_module(module_name), head, None)
            for part in rest:
                found = getattr(found, part, None)
            if found is not None:
                return found
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        """The names that code defines at its top level."""
        pattern = re.compile(r"^(?:def|class)\s+(\w+)|^(\w+)\s*=", re.MULTILINE)
        for file in self._modules.values():
            for match in pattern.finditer(file.read_text(encoding="utf-8", errors="replace")):
                yield match.group(1) or match.group(2)

    def __len__(self) -> int:
        return sum(1 for _ in self)


def import_module(name: str) -> ModuleType:
    """A module of the user's; LoadFailed with its own error when it does not import."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name == name.partition(".")[0]:
            raise MissingCode(f"there is no module {name!r}; add the file or folder that has it: --code PATH") from None
        raise MissingCode(
            f"{name}.py imports {error.name!r}, which is not installed: pip install {error.name}"
        ) from None
    except (Exception, SystemExit) as error:
        raise LoadFailed(f"{name}.py does not import: {type(error).__name__}: {error}") from error


class UserHandlers:
    """`preprocess` and `postprocess` of a handlers.py, each optional."""

    def __init__(
        self,
        preprocess: Callable[[list[Record]], list[Record]] | None,
        postprocess: Callable[..., Any] | None,
    ) -> None:
        self._preprocess = preprocess
        self._postprocess = postprocess
        self.has_preprocess = preprocess is not None
        self.has_postprocess = postprocess is not None
        self._wants_single = postprocess is not None and "single" in inspect.signature(postprocess).parameters

    def preprocess(self, records: list[Record]) -> list[Record]:
        """The model's records, one for each of the caller's; TypeError when it gave another number of them.

        The hook gets copies: postprocess sees the records as they were sent, whatever this one does to its own.
        """
        if self._preprocess is None:
            return records
        made = self._preprocess([dict(record) for record in records])
        if not isinstance(made, list) or len(made) != len(records):  # answers would belong to other rows
            got = f"{type(made).__name__}{f' of {len(made)}' if isinstance(made, list) else ''}"
            raise TypeError(f"preprocess must return a list with one dict per record ({len(records)}), got {got}")
        return made

    def postprocess(self, outputs: Mapping[str, Any], records: list[Record], single: bool = False) -> Any:
        if self._postprocess is None:
            return outputs
        if self._wants_single:
            return self._postprocess(dict(outputs), records, single=single)
        return self._postprocess(dict(outputs), records)


def load_handlers(path: Path) -> UserHandlers:
    """The hooks of a handlers.py, checked: plain functions that take the right number of arguments."""
    # A name of its own: two versions have two files called handlers.py.
    name = f"lagar_handlers_{abs(hash(str(path))):x}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise LoadFailed(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # a script's sys.exit would end the process without a word
        raise LoadFailed(f"{path} does not import: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(path.parent))
    preprocess = _hook(path, module, "preprocess", 1, "preprocess(records)")
    postprocess = _hook(path, module, "postprocess", 2, "postprocess(outputs, records)")
    if preprocess is None and postprocess is None:
        raise SetupError(f"{path} has neither preprocess(records) nor postprocess(outputs, records)")
    return UserHandlers(preprocess, postprocess)


def _hook(path: Path, module: ModuleType, name: str, arity: int, shape: str) -> Callable[..., Any] | None:
    hook = getattr(module, name, None)
    if hook is None:
        return None
    if not callable(hook):
        raise SetupError(f"{path}: {name} must be a function {shape}, got {type(hook).__name__}")
    named = {"single": False} if name == "postprocess" and "single" in inspect.signature(hook).parameters else {}
    check_callable(f"{path}: {name}", hook, arity, shape, named)
    return hook  # type: ignore[no-any-return]


def check_callable(
    where: str, function: Callable[..., Any], arity: int, shape: str, named: Mapping[str, Any] | None = None
) -> None:
    """SetupError unless the function is sync and takes `arity` positional arguments and the named ones."""
    if inspect.iscoroutinefunction(function):
        raise SetupError(
            f"{where} is async; Lagar calls it in the model's own thread: write it as a plain `def {shape}`"
        )
    try:
        inspect.signature(function).bind(*range(arity), **(named or {}))
    except TypeError:
        raise SetupError(
            f"{where} must take {arity} argument(s): def {shape}, got {inspect.signature(function)}"
        ) from None
    except ValueError:  # builtins without a signature
        return
