"""Reads the opcodes of a pickle without executing them and notes every global it would name.

The opcodes come from CPython's own `pickletools`; what follows them here is a stack machine over symbols, so that a
name put together on the stack (STACK_GLOBAL) is still seen, and so that the raw array bytes which joblib writes between
two opcodes are stepped over by exactly their size. Where the walk cannot follow, it refuses: an honest pickler writes
nothing that it cannot follow.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable, Iterator
from typing import Any

from lagar.intake import allowlist
from lagar.intake.symbols import ArrayWrapper, Dict, DType, Global, List, NDArray, Opaque, built_dtype, plain_dtype

MAX_OPCODES = 100_000_000
"""About a minute of reading; a dictionary of ten million words has thirty million."""
MAX_MEMO = 20_000_000
MAX_GLOBALS = 10_000
MAX_MARKS = 10_000
_MAX_TEXT = 1024
_OPCODES = frozenset(opcode.code.encode("latin-1") for opcode in pickletools.opcodes)
_WRAPPER_KEYS = frozenset({"subclass", "shape", "order", "dtype", "allow_mmap", "numpy_array_alignment_bytes"})


class Malformed(Exception):
    """The bytes are no pickle that a pickler would write."""


_OPAQUE = Opaque()
_RANGE = Opaque()
"""A range: small in the file, and list(range(10**11)) is not."""


class Findings:
    """What walks over one file found, together."""

    def __init__(self) -> None:
        self.globals: set[str] = set()
        self.refused: dict[str, None] = {}
        self.protocol = 0
        self.arrays = 0
        self.opcodes = 0

    def add(self, name: str) -> None:
        self.globals.add(name)
        if len(self.globals) > MAX_GLOBALS:
            raise Malformed(f"it names more than {MAX_GLOBALS} globals")

    def refuse(self, what: str) -> None:
        if len(self.refused) < MAX_GLOBALS:
            self.refused[what] = None


class Walk:
    """One pickle, read from the position of `stream` to its STOP; `nested` for the pickle inside an object array.

    Raises `Malformed` itself, and whatever `pickletools` raises on broken bytes: see `BROKEN`.
    """

    def __init__(
        self, stream: io.BytesIO, size: int, code_modules: frozenset[str], findings: Findings, *, nested: bool = False
    ) -> None:
        self.stream = stream
        self.size = size
        self.code_modules = code_modules
        self.findings = findings
        self.nested = nested
        self.stack: list[object] = []
        self.marks: list[list[object]] = []
        self.memo: dict[int, object] = {}
        self.frame_end = 0
        self.pos = 0
        self._globals: dict[tuple[str, str], Global] = {}
        self._actions: dict[str, Callable[[Any], None]] = {
            name: getattr(self, method) for name, method in _ACTIONS.items()
        }

    def run(self) -> None:
        actions = self._actions
        count = 0
        previous = -1
        for op, arg, pos in self._opcodes():
            self.pos = pos
            if self.frame_end and pos >= self.frame_end:
                if pos > self.frame_end and previous < self.frame_end:
                    raise Malformed("an opcode crosses the end of its frame")
                self.frame_end = 0
            previous = pos
            count += 1
            if not count & 0xFFFF:
                self._count(0x10000)
            actions[op.name](arg)
        if self.frame_end > self.stream.tell():
            raise Malformed("it stops inside a frame")
        self._count(count & 0xFFFF)

    def begun(self) -> bool:
        """True when the stream begins with an opcode at all."""
        self.stream.seek(0)
        return self.stream.read(1) in _OPCODES

    def _opcodes(self) -> Iterator[tuple[pickletools.OpcodeInfo, Any, int]]:
        return pickletools.genops(self.stream)  # type: ignore[return-value]

    def _count(self, opcodes: int) -> None:
        self.findings.opcodes += opcodes
        if self.findings.opcodes > MAX_OPCODES:
            raise Malformed(f"it has more than {MAX_OPCODES} opcodes")

    def _items(self) -> list[object]:
        items = self.stack
        self.stack = self.marks.pop()
        return items

    def _changed(self, target: object) -> None:
        """A class or function is never filled with data by a pickle; an attacker would set its attributes."""
        if isinstance(target, Global) and not target.own:
            self.findings.refuse(f"{target} (changed by the pickle)")

    # Plain values.

    def opaque(self, arg: object) -> None:
        self.stack.append(_OPAQUE)

    def value(self, arg: object) -> None:
        self.stack.append(arg)

    def text(self, arg: str) -> None:
        self.stack.append(arg if len(arg) <= _MAX_TEXT else _OPAQUE)

    def none(self, arg: object) -> None:
        self.stack.append(None)

    def true(self, arg: object) -> None:
        self.stack.append(True)

    def false(self, arg: object) -> None:
        self.stack.append(False)

    # Stack and memo.

    def mark(self, arg: object) -> None:
        if len(self.marks) >= MAX_MARKS:
            raise Malformed(f"it nests deeper than {MAX_MARKS}")
        self.marks.append(self.stack)
        self.stack = []

    def pop(self, arg: object) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self._items()

    def pop_mark(self, arg: object) -> None:
        self._items()

    def dup(self, arg: object) -> None:
        self.stack.append(self.stack[-1])

    def get(self, arg: int) -> None:
        self.stack.append(self.memo[arg])

    def put(self, arg: int) -> None:
        # An honest pickler counts up; a high index makes the real unpickler allocate that many slots.
        if arg < 0 or arg > 2 * len(self.memo) + 1024 or len(self.memo) >= MAX_MEMO:
            raise Malformed(f"it stores at memo index {arg}")
        self.memo[arg] = self.stack[-1]

    def memoize(self, arg: object) -> None:
        self.put(len(self.memo))

    # Containers.

    def empty_tuple(self, arg: object) -> None:
        self.stack.append(())

    def tuple_mark(self, arg: object) -> None:
        items = self._items()
        self.stack.append(tuple(items))

    def tuple1(self, arg: object) -> None:
        self._tuple(1)

    def tuple2(self, arg: object) -> None:
        self._tuple(2)

    def tuple3(self, arg: object) -> None:
        self._tuple(3)

    def _tuple(self, n: int) -> None:
        if len(self.stack) < n:
            raise Malformed("its stack is empty")
        self.stack[-n:] = [tuple(self.stack[-n:])]

    def empty_list(self, arg: object) -> None:
        self.stack.append(List(0))

    def list_mark(self, arg: object) -> None:
        items = self._items()
        self.stack.append(List(len(items)))

    def sequence_mark(self, arg: object) -> None:
        self._items()
        self.stack.append(_OPAQUE)

    def append(self, arg: object) -> None:
        self.stack.pop()
        self._longer(self.stack[-1], 1)

    def extend_mark(self, arg: object) -> None:
        items = self._items()
        self._longer(self.stack[-1], len(items))

    def _longer(self, target: object, by: int) -> None:
        if isinstance(target, List):
            target.length += by
        self._changed(target)

    def empty_dict(self, arg: object) -> None:
        self.stack.append(Dict())

    def dict_mark(self, arg: object) -> None:
        items = self._items()
        made = Dict()
        self._fill(made, items)
        self.stack.append(made)

    def set_item(self, arg: object) -> None:
        value = self.stack.pop()
        key = self.stack.pop()
        self._fill(self.stack[-1], [key, value])

    def set_items(self, arg: object) -> None:
        items = self._items()
        self._fill(self.stack[-1], items)

    def _fill(self, target: object, items: list[object]) -> None:
        if isinstance(target, Dict):
            if len(items) % 2:
                raise Malformed("a dictionary has a key without a value")
            for key, value in zip(items[::2], items[1::2], strict=True):
                if not target.put(key, value):
                    break
        self._changed(target)

    # Names.

    def name(self, arg: str) -> None:
        self.stack.append(self._global(*arg.split(" ", 1)))

    def stack_name(self, arg: object) -> None:
        name = self.stack.pop()
        module = self.stack.pop()
        if isinstance(name, str) and isinstance(module, str):
            self.stack.append(self._global(module, name))
            return
        self.findings.refuse("a global whose name cannot be read from the file")
        self.stack.append(_OPAQUE)

    def _global(self, module: str, name: str) -> Global:
        key = allowlist.canonical(module, name)
        found = self._globals.get(key)
        if found is None:
            found = self._globals[key] = Global(*key, self.code_modules)
            self.findings.add(str(found))
            if not found.permitted:
                self.findings.refuse(str(found))
        return found

    def extension(self, arg: object) -> None:
        self.findings.refuse("a copyreg extension code, which names a global by number")
        self.stack.append(_OPAQUE)

    def persistent(self, arg: object) -> None:
        self.findings.refuse("a persistent id, which only the program that wrote the file can resolve")
        self.stack.append(_OPAQUE)

    def persistent_stack(self, arg: object) -> None:
        self.stack.pop()
        self.persistent(arg)

    # Calls.

    def reduce(self, arg: object) -> None:
        args = self.stack.pop()
        self.stack.append(self._call(self.stack.pop(), args))

    def instance(self, arg: str) -> None:
        args = tuple(self._items())
        self.stack.append(self._call(self._global(*arg.split(" ", 1)), args))

    def object_mark(self, arg: object) -> None:
        items = self._items()
        self.stack.append(self._call(items[0], tuple(items[1:])))

    def new_object(self, arg: object) -> None:
        args = self.stack.pop()
        cls = self.stack.pop()
        if isinstance(cls, Global) and cls.key == allowlist.WRAPPER and args == ():
            self.stack.append(ArrayWrapper())
        else:
            self.stack.append(self._call(cls, args, new=args == ()))

    def new_object_ex(self, arg: object) -> None:
        kwargs = self.stack.pop()
        args = self.stack.pop()
        cls = self.stack.pop()
        if isinstance(cls, Global) and (cls.key == allowlist.DTYPE or cls.key in allowlist.GUARDED):
            self.findings.refuse(f"{cls} (called with keywords)")
        if isinstance(kwargs, Global):
            self._changed(kwargs)
        self.stack.append(self._call(cls, args))

    def _call(self, target: object, args: object, *, new: bool = False) -> object:
        if not isinstance(target, Global):
            self.findings.refuse("a call of something that is not a global")
            return _OPAQUE
        if target.own or not target.permitted:
            return _OPAQUE
        known = args if isinstance(args, tuple) else ()
        if _RANGE in known or not target.calls or (target.key in allowlist.NEW_ONLY and not new):
            self.findings.refuse(f"{target} (called by the pickle)")
            return _OPAQUE
        guard = allowlist.GUARDED.get(target.key)
        if guard is not None and not guard(known):
            self.findings.refuse(f"{target} (called with {_told(known)})")
        made = _MADE.get(target.key)
        if made is not None:
            return made(self, target, known)
        return self._copyreg(target, known) if target.module == "copyreg" else _OPAQUE

    def made_dtype(self, target: Global, args: tuple[object, ...]) -> object:
        return DType(plain_dtype(args), copied=len(args) == 3 and args[2] in (True, 1))

    def made_range(self, target: Global, args: tuple[object, ...]) -> object:
        return _RANGE

    def made_array(self, target: Global, args: tuple[object, ...]) -> object:
        return NDArray()

    def made_scalar(self, target: Global, args: tuple[object, ...]) -> object:
        dtype = args[0] if args else None
        # For an object dtype it returns its argument, which could hide a class from this walk.
        if not isinstance(dtype, DType) or dtype.value is None or dtype.value.hasobject:
            self.findings.refuse(f"{target} (called without a plain dtype)")
        return _OPAQUE

    def _copyreg(self, target: Global, args: tuple[object, ...]) -> object:
        cls = args[0] if args else None
        base = args[1] if target.name == "_reconstructor" and len(args) > 1 else cls
        if not (isinstance(cls, Global) and isinstance(base, Global)):
            self.findings.refuse(f"{target} (called with something that is not a class)")
            return _OPAQUE
        if cls.key == allowlist.WRAPPER and args[1:] in ((), (base, None)):
            return ArrayWrapper()
        if target.name == "_reconstructor":
            self._only_class(cls)
            self._only_class(base)
            return _OPAQUE
        if cls.key == allowlist.DTYPE:
            self.findings.refuse(f"{target} (called with {cls})")
            return _OPAQUE
        return self._call(cls, args[1:], new=len(args) == 1)

    def _only_class(self, cls: Global) -> None:
        if cls.key in (allowlist.DTYPE, allowlist.WRAPPER) or cls.key in allowlist.GUARDED:
            self.findings.refuse(f"copyreg._reconstructor (called with {cls})")

    # State.

    def build(self, arg: object) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, DType):
            self._build_dtype(target, state)
        elif isinstance(target, ArrayWrapper):
            self._read_array(target, state)
        elif isinstance(target, NDArray):
            self._build_ndarray(state)
        else:
            self._changed(target)

    def _build_dtype(self, target: DType, state: object) -> None:
        # Without copy=True the state would change a dtype that the whole process shares.
        value = built_dtype(target, state) if target.copied and not target.built else None
        if value is None:
            self.findings.refuse("numpy.dtype (with a state that does not describe one)")
        target.value = value
        target.built = True

    def _build_ndarray(self, state: object) -> None:
        """numpy believes the length of a list of objects: one that is too short crashes the process."""
        fields = state if isinstance(state, tuple) else ()
        if len(fields) == 4:
            fields = (1, *fields)
        if len(fields) < 5:
            raise Malformed("an array has a state that numpy does not write")
        _, shape, dtype, _, values = fields[:5]
        if not isinstance(dtype, DType) or dtype.value is None:
            self.findings.refuse("a numpy array of a dtype that cannot be read from the file")
            return
        count = _count_of(shape)
        if dtype.value.hasobject and not (isinstance(values, List) and values.length == count):
            raise Malformed(f"an array of objects does not have the objects of its shape {shape}")

    def _read_array(self, target: ArrayWrapper, state: object) -> None:
        if self.nested or target.built or not isinstance(state, Dict) or not _WRAPPER_KEYS.issuperset(state.items):
            raise Malformed("an array wrapper of joblib is not one that joblib writes")
        target.built = True
        if self.frame_end > self.stream.tell():
            raise Malformed("array bytes lie inside a frame")
        self.frame_end = 0
        self.findings.arrays += 1
        self._skip_array(state.items)
        self.stack[-1] = _OPAQUE

    def _skip_array(self, state: dict[str, object]) -> None:
        shape, dtype, subclass = state.get("shape"), state.get("dtype"), state.get("subclass")
        if not isinstance(dtype, DType) or dtype.value is None:
            raise Malformed("an array has no dtype that can be read from the file")
        if not isinstance(subclass, Global) or subclass.module != "numpy" or state.get("order") not in ("C", "F"):
            raise Malformed("an array is neither in C nor in F order, or not numpy's")
        count = _count_of(shape)
        if dtype.value.hasobject:
            Walk(self.stream, self.size, self.code_modules, self.findings, nested=True).run()
            return
        alignment = state.get("numpy_array_alignment_bytes")
        if alignment is not None:
            if type(alignment) is not int:
                raise Malformed("an array has an impossible alignment")
            padding = self.stream.read(1)
            if not padding:
                raise Malformed("it ends before the bytes of an array")
            self.stream.seek(padding[0], io.SEEK_CUR)
        end = self.stream.tell() + count * dtype.value.itemsize
        if end > self.size:
            raise Malformed(f"it ends before the bytes of an array of shape {shape}")
        self.stream.seek(end)

    # The rest.

    def protocol(self, arg: int) -> None:
        if arg > 5:
            raise Malformed(f"it says pickle protocol {arg}; 5 is the highest")
        self.findings.protocol = max(self.findings.protocol, arg)

    def frame(self, arg: int) -> None:
        if self.frame_end:
            raise Malformed("a frame begins inside a frame")
        self.frame_end = self.pos + 9 + arg
        if self.frame_end > self.size:
            raise Malformed("it ends inside a frame")

    def stop(self, arg: object) -> None:
        self.stack.pop()

    def buffer(self, arg: object) -> None:
        raise Malformed("its buffers lie outside the file")


BROKEN = (
    Malformed,
    ValueError,
    OverflowError,
    IndexError,
    KeyError,
    TypeError,
    AttributeError,
    AssertionError,
    EOFError,
    MemoryError,
    RecursionError,
    Warning,  # where warnings are errors, pickletools' own about escapes in a name
)
"""What `Walk.run` raises for bytes that are no sound pickle."""

_ACTIONS = {
    **dict.fromkeys(("FLOAT", "BINFLOAT", "EMPTY_SET"), "opaque"),
    **dict.fromkeys(("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"), "opaque"),
    **dict.fromkeys(("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"), "value"),
    **dict.fromkeys(("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE"), "text"),
    **dict.fromkeys(("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"), "text"),
    **dict.fromkeys(("APPENDS", "ADDITEMS"), "extend_mark"),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), "get"),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), "put"),
    **dict.fromkeys(("EXT1", "EXT2", "EXT4"), "extension"),
    **dict.fromkeys(("NEXT_BUFFER", "READONLY_BUFFER"), "buffer"),
    "NONE": "none",
    "NEWTRUE": "true",
    "NEWFALSE": "false",
    "MARK": "mark",
    "POP": "pop",
    "POP_MARK": "pop_mark",
    "DUP": "dup",
    "MEMOIZE": "memoize",
    "EMPTY_TUPLE": "empty_tuple",
    "TUPLE": "tuple_mark",
    "TUPLE1": "tuple1",
    "TUPLE2": "tuple2",
    "TUPLE3": "tuple3",
    "EMPTY_LIST": "empty_list",
    "LIST": "list_mark",
    "FROZENSET": "sequence_mark",
    "APPEND": "append",
    "EMPTY_DICT": "empty_dict",
    "DICT": "dict_mark",
    "SETITEM": "set_item",
    "SETITEMS": "set_items",
    "GLOBAL": "name",
    "STACK_GLOBAL": "stack_name",
    "PERSID": "persistent",
    "BINPERSID": "persistent_stack",
    "REDUCE": "reduce",
    "INST": "instance",
    "OBJ": "object_mark",
    "NEWOBJ": "new_object",
    "NEWOBJ_EX": "new_object_ex",
    "BUILD": "build",
    "PROTO": "protocol",
    "FRAME": "frame",
    "STOP": "stop",
}
"""Opcode → method; a test holds that every opcode of `pickletools` is here."""


_MADE: dict[tuple[str, str], Callable[[Walk, Global, tuple[object, ...]], object]] = {
    allowlist.DTYPE: Walk.made_dtype,
    ("builtins", "range"): Walk.made_range,
    ("numpy._core.multiarray", "scalar"): Walk.made_scalar,
    **dict.fromkeys(
        (
            ("numpy._core.multiarray", "_reconstruct"),
            ("numpy._core.numeric", "_frombuffer"),
            ("numpy.ma.core", "_mareconstruct"),
            ("numpy.ma.core", "MaskedArray"),
            ("numpy.ma", "MaskedArray"),
            ("numpy", "ndarray"),
            ("numpy", "matrix"),
            ("numpy", "recarray"),
        ),
        Walk.made_array,
    ),
}
"""What a call returns, where the walk has to follow it."""


def _count_of(shape: object) -> int:
    count = 1
    for length in shape if isinstance(shape, tuple) else (None,):
        if type(length) is not int or not 0 <= length <= 2**48:
            raise Malformed("an array has an impossible shape")
        count *= length
    return count


def _told(args: tuple[object, ...]) -> str:
    shown = (arg for arg in args[:5] if isinstance(arg, str | int | Global))
    return ", ".join(str(arg)[:80] if isinstance(arg, Global) else repr(arg)[:80] for arg in shown)
