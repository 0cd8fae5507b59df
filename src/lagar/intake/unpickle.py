"""Opens a pickle that was scanned, and holds it to the same allow-list once more, now with the real objects.

The scan decides by names; here each name is resolved without walking attributes, and what comes out must be what its
name promised: a class of an allowed module, a ufunc, a function of that very module. Globals that are harmless in one
use only are replaced by functions that do only that.
"""

from __future__ import annotations

import importlib
import io
import pickle
import sys
import types
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np

from lagar.errors import LagarError, LoadFailed, MissingCode, MissingLibrary, UnsafePickle
from lagar.intake import allowlist


class ArrayPlace:
    """Stands where joblib's NumpyArrayWrapper stands in the file; it has data and no methods."""

    subclass: object
    shape: tuple[int, ...]
    order: str
    dtype: np.dtype[Any]
    numpy_array_alignment_bytes: int | None = None


class Rules:
    """What one load may resolve: the user's modules, the objects of their `__main__`, and whether all is trusted."""

    def __init__(
        self, code_modules: frozenset[str], resolve_main: Mapping[str, object] | None, trust: bool, source: str
    ) -> None:
        self.code_modules = code_modules
        self.main = resolve_main or {}
        self.trust = trust
        self.source = source
        self._resolved: dict[tuple[str, str], object] = {}

    def find(self, module: str, name: str) -> object:
        """The object for a global; raises UnsafePickle, MissingCode, MissingLibrary or LoadFailed."""
        key = allowlist.canonical(module, name)
        if key not in self._resolved:
            self._resolved[key] = self._find(*key)
        return self._resolved[key]

    def _find(self, module: str, name: str) -> object:
        if (module, name) == allowlist.WRAPPER:
            return ArrayPlace
        if module == "__main__":
            return self._from_main(name)
        replaced = _REPLACED.get((module, name))
        if self.trust:
            return replaced() if module == "numpy" and replaced else self._import(module, name)
        if not allowlist.permits(module, name, self.code_modules):
            raise UnsafePickle(f"{self.source} asks for {module}.{name}, which is outside the allow-list")
        if replaced:
            return replaced()
        found = self._import(module, name)
        if not self._is_as_named(found, module, name):
            raise UnsafePickle(
                f"{self.source} asks for {module}.{name}, which is {_kind(found)} and not what the allow-list means"
            )
        return found

    def _from_main(self, name: str) -> object:
        if not self.trust and "__main__" not in self.code_modules:
            raise missing_main([name], self.source)
        try:
            first, *rest = name.split(".")
            found = self.main[first]
            for part in rest:
                found = _nested(found, part)
        except (KeyError, AttributeError):
            raise missing_main([name], self.source) from None
        if not self.trust and not self._is_users(found):
            raise UnsafePickle(
                f"{self.source} asks for __main__.{name}, which your code only imported: it is {_kind(found)}; "
                "a pickle names things by the module that defines them"
            )
        return found

    def _import(self, module: str, name: str) -> object:
        top = module.partition(".")[0]
        try:
            first, *rest = name.split(".")
            found: object = getattr(importlib.import_module(_installed_name(module)), first)
            for part in rest:
                found = getattr(found, part) if self.trust else _nested(found, part)
        except (ModuleNotFoundError, AttributeError) as error:
            raise self._absent(module, name, top, error) from None
        except (Exception, SystemExit) as error:
            if not allowlist.own_code(module, self.code_modules):
                raise
            raise LoadFailed(
                f"{self.source} wants {name} from your module {module}, which does not import: "
                f"{type(error).__name__}: {error}"
            ) from error
        return found

    def _absent(self, module: str, name: str, top: str, error: Exception) -> LagarError:
        if allowlist.own_code(module, self.code_modules):
            return MissingCode(
                f"{self.source} wants {name} from your module {module}, which does not have it ({error}); "
                "pass the file that defines it: --code FILE"
            )
        if isinstance(error, ModuleNotFoundError) and error.name == top:
            if top in allowlist.EXTRAS:
                return MissingLibrary(
                    f"{self.source} was saved with {top}, which is not installed; pip install {allowlist.EXTRAS[top]}"
                )
            return MissingCode(
                f"{self.source} wants {name} from module {module}, which cannot be imported; pass it: --code FILE|DIR"
            )
        version = getattr(sys.modules.get(top), "__version__", "")
        return LoadFailed(
            f"{self.source} wants {module}.{name}, which the installed {top} {version} does not have; "
            "it was saved with another version: install that one, or save the model again with this one"
        )

    def _is_as_named(self, found: object, module: str, name: str) -> bool:
        if allowlist.own_code(module, self.code_modules):
            return self._is_users(found)
        if isinstance(found, types.ModuleType):
            return False
        if allowlist.from_function_module(module, name):
            return isinstance(found, types.FunctionType) and found.__module__ == module
        if allowlist.exact(module, name):
            return True
        if not isinstance(found, type):
            return name.startswith("__pyx_unpickle_") and callable(found)
        defined = allowlist.canonical(found.__module__, found.__name__)
        return found.__module__.partition(".")[0] == module.partition(".")[0] and allowlist.callable_by_pickle(*defined)

    def _is_users(self, found: object) -> bool:
        """True for what the user's files define themselves: not for an `os.system` that they import."""
        if isinstance(found, types.ModuleType | types.BuiltinFunctionType | types.MethodType):
            return False
        owner = found if isinstance(getattr(found, "__module__", None), str) else type(found)
        module, name = str(owner.__module__), str(getattr(owner, "__qualname__", ""))
        return allowlist.own_code(module, self.code_modules | {"__main__"}) or allowlist.permits(
            *allowlist.canonical(module, name)
        )


def missing_main(names: list[str], source: str) -> MissingCode:
    """The error for names that the script or notebook which saved the model defined."""
    shown = ", ".join(f"`{name}`" for name in names[:10])
    return MissingCode(
        f"{source} wants {shown} from `__main__`, the script or notebook that saved it; put the definition into a file "
        'and pass it: --code FILE (or code = ["FILE"] in lagar.toml)'
    )


def plain(data: bytes, rules: Rules) -> object:
    """The object of the first pickle in data."""
    with _told(rules.source):
        return _Plain(io.BytesIO(data), rules).load()


def with_arrays(data: bytes, rules: Rules) -> object:
    """The object of a joblib file, decompressed, with its arrays copied out of data (never memory-mapped)."""
    with _told(rules.source):
        return _WithArrays(io.BytesIO(data), len(data), rules).load()


class _Plain(pickle.Unpickler):
    def __init__(self, stream: io.BytesIO, rules: Rules) -> None:
        super().__init__(stream)
        self.rules = rules

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        return self.rules.find(module_name, global_name)

    def persistent_load(self, pid: Any) -> Any:
        raise UnsafePickle(f"{self.rules.source} has a persistent id, which only the program that wrote it can resolve")


class _WithArrays(pickle._Unpickler):
    """CPython's unpickler in Python, the base of joblib's own: array bytes are read where a wrapper is built."""

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(pickle._Unpickler.dispatch)

    def __init__(self, stream: io.BytesIO, size: int, rules: Rules) -> None:
        super().__init__(stream)
        self.stream = stream
        self.size = size
        self.rules = rules

    def find_class(self, module: str, name: str) -> Any:
        return self.rules.find(module, name)

    def persistent_load(self, pid: Any) -> Any:
        raise UnsafePickle(f"{self.rules.source} has a persistent id, which only the program that wrote it can resolve")

    def get_extension(self, code: int) -> Any:
        raise UnsafePickle(f"{self.rules.source} names a global by a copyreg extension code")

    def load_build(self) -> None:
        pickle._Unpickler.load_build(self)  # type: ignore[attr-defined]
        stack: list[Any] = self.stack  # type: ignore[attr-defined]
        if type(stack[-1]) is ArrayPlace:
            stack[-1] = self._array(stack[-1])

    dispatch[pickle.BUILD[0]] = load_build

    def _array(self, place: ArrayPlace) -> np.ndarray[Any, Any]:
        dtype, shape = place.dtype, place.shape
        if not isinstance(dtype, np.dtype) or not all(type(length) is int and length >= 0 for length in shape):
            raise LoadFailed(f"{self.rules.source} has an array without a dtype and shape")
        if dtype.hasobject:
            array = _Plain(self.stream, self.rules).load()
            if not isinstance(array, np.ndarray):
                raise LoadFailed(f"{self.rules.source} has {_kind(array)} where an array of objects is announced")
            return array
        if place.numpy_array_alignment_bytes is not None:
            self.stream.seek(self.stream.read(1)[0], io.SEEK_CUR)
        count = 1
        for length in shape:
            count *= length
        if count * dtype.itemsize > self.size - self.stream.tell():
            raise LoadFailed(f"{self.rules.source} ends before the bytes of an array of shape {shape}")
        array = np.empty(count, dtype=dtype)
        if array.nbytes:
            self.stream.readinto(array.view(np.uint8).data)
        array = array.reshape(shape[::-1]).transpose() if place.order == "F" else array.reshape(shape)
        return array if dtype.isnative else array.astype(dtype.newbyteorder("="))


class _told:  # noqa: N801  (a context manager, read as one)
    """Turns what unpickling raises for broken or foreign files into LoadFailed."""

    def __init__(self, source: str) -> None:
        self.source = source

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, LagarError | Warning):
            raise LoadFailed(
                f"{self.source} could not be opened: {type(error).__name__}: {str(error)[:500]}; it was saved with "
                "other library versions, or it is damaged"
            ) from error


def _kind(found: object) -> str:
    if isinstance(found, types.ModuleType):
        return f"the module {found.__name__}"
    name = getattr(found, "__qualname__", None) or type(found).__qualname__
    return f"{getattr(found, '__module__', None) or type(found).__module__}.{name}"


def _nested(owner: object, name: str) -> object:
    """A class inside a class, or a function of a class: nothing that is reached through a module."""
    if not isinstance(owner, type) or name not in vars(owner):
        raise AttributeError(name)
    return getattr(owner, name)


def _installed_name(module: str) -> str:
    if module.startswith("numpy._core") and int(np.__version__.split(".")[0]) < 2:
        return "numpy.core" + module[len("numpy._core") :]
    return module


def _str_method(owner: object, name: object) -> Callable[..., Any]:
    if owner is not str or name not in allowlist.STR_METHODS:
        raise UnsafePickle(f"the pickle asks for getattr with {str(name)[:80]!r}; only str.split and the like are open")
    return getattr(str, str(name))  # type: ignore[no-any-return]


def _ufunc(module: object, name: object) -> np.ufunc:
    found = getattr(np, str(name), None) if module in allowlist.UFUNC_MODULES and name in allowlist.UFUNCS else None
    if not isinstance(found, np.ufunc):
        raise UnsafePickle(f"the pickle asks for {module}.{name} as a numpy ufunc, which it is not")
    return found


def _latin1(text: str, encoding: str) -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise UnsafePickle(f"the pickle asks for the codec {encoding!r}; pickled bytes use latin1 only")
    return text.encode("latin1")


_REPLACED: Mapping[tuple[str, str], Callable[[], object]] = {
    ("builtins", "getattr"): lambda: _str_method,
    ("numpy._core", "_ufunc_reconstruct"): lambda: _ufunc,
    ("_codecs", "encode"): lambda: _latin1,
    # joblib notes np.memmap for arrays that were mapped while training; as a class it opens and creates files.
    ("numpy", "memmap"): lambda: np.ndarray,
}
