"""Pickles are read before they are opened: nothing that would run code is opened."""

from __future__ import annotations

import builtins
import bz2
import functools
import gzip
import io
import json
import lzma
import operator
import os
import pickle
import pickletools
import random
import struct
import subprocess
import sys
import types
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import cloudpickle
import joblib
import numpy as np
import pandas as pd
import pytest
from joblib.numpy_pickle import NumpyArrayWrapper
from joblib.numpy_pickle_compat import NDArrayWrapper, ZNDArrayWrapper
from sklearn.datasets import load_iris
from sklearn.ensemble import (
    RandomForestClassifier,
)
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    StandardScaler,
)

from lagar.errors import LoadFailed, MissingCode, MissingLibrary, SetupError, UnsafePickle, UnsupportedModel
from lagar.intake import allowlist, compression, scan, unpickle, walk

X, Y = load_iris(return_X_y=True)


def dumped(value: object, compress: Any = 0, protocol: int | None = None) -> bytes:
    """What joblib.dump writes."""
    buffer = io.BytesIO()
    joblib.dump(value, buffer, compress=compress, protocol=protocol)
    return buffer.getvalue()


def _missing(module: str) -> bool:
    try:
        __import__(module)
    except ImportError:
        return True
    return False


class Calls:
    """Pickles as a call of a function with arguments."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = (function, args)

    def __reduce__(self) -> Any:
        return self.call


def evil(marker: Path) -> Calls:
    return Calls(os.system, f"touch {marker}")


WRAPPED: dict[str, Callable[[Any], Any]] = {
    "alone": lambda bad: bad,
    "in a list": lambda bad: [1, [bad]],
    "as a dictionary's value": lambda bad: {"model": bad},
    "in a model": lambda bad: LogisticRegression(C=bad),
    "in a pipeline's function": lambda bad: make_pipeline(FunctionTransformer(bad), LogisticRegression()),
    "after an array": lambda bad: [np.arange(1000.0), bad],
    "before an array": lambda bad: [bad, np.arange(1000.0)],
    "in an array of objects": lambda bad: np.array([None, bad], dtype=object),
    "in a record array": lambda bad: np.array([(1, bad)], dtype=[("a", "i4"), ("b", "O")]),
    "in an array of objects after a plain one": lambda bad: [np.arange(9.0), np.array([bad], dtype=object), np.ones(3)],
}
SAVED: dict[str, Callable[[Any], bytes]] = {
    **{f"pickle {p}": functools.partial(pickle.dumps, protocol=p) for p in range(6)},
    **{f"joblib {p}": functools.partial(dumped, protocol=p) for p in (0, 2, 3, 4, 5)},
    **{f"joblib {method}": functools.partial(dumped, compress=(method, 3)) for method in ("zlib", "bz2", "xz", "lzma")},
    "gzip": lambda value: gzip.compress(pickle.dumps(value)),
}


@pytest.mark.parametrize("place", WRAPPED)
@pytest.mark.parametrize("save", SAVED)
def test_code_in_a_pickle_is_refused_and_does_not_run(place: str, save: str, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    data = SAVED[save](WRAPPED[place](evil(marker)))
    with pytest.raises(UnsafePickle, match=r"posix\.system.*--code FILE.*--trust"):
        scan.check(data)
    with pytest.raises(UnsafePickle):
        scan.load(data)
    _opened_without_the_scan(data)
    assert not marker.exists()


def _opened_without_the_scan(data: bytes) -> None:
    """The second line of defence alone: what is opened under the rules when the walk has a hole."""
    payload = compression.opened(data, "the pickle")
    rules = unpickle.Rules(frozenset(), None, False, "the pickle")
    for opened in (unpickle.plain, unpickle.with_arrays):
        with pytest.raises(SetupError):
            opened(payload, rules)


def stack_global(module: str, name: str) -> bytes:
    parts = (bytes([0x8C, len(text.encode())]) + text.encode() for text in (module, name))
    return b"".join(parts) + b"\x93"


def calling(module: str, name: str, argument: str) -> bytes:
    return b"\x80\x04" + stack_global(module, name) + b"\x8c" + bytes([len(argument)]) + argument.encode() + b"\x85R."


BY_HAND: dict[str, Callable[[str], bytes]] = {
    "dotted name": lambda cmd: calling("sklearn.utils", "os.system", cmd),
    "dotted name in an estimator's module": lambda cmd: calling("sklearn.pipeline", "Pipeline.os.system", cmd),
    "imported module": lambda cmd: calling("sklearn.cluster._kmeans", "warnings", cmd),
    "GLOBAL": lambda cmd: b"cos\nsystem\n(S'" + cmd.encode() + b"'\ntR.",
    "INST": lambda cmd: b"(S'" + cmd.encode() + b"'\nios\nsystem\n.",
    "OBJ": lambda cmd: b"(cos\nsystem\nS'" + cmd.encode() + b"'\no.",
    "names from the memo": lambda cmd: b"\x80\x04\x8c\x02os\x94\x8c\x06system\x9400h\x00h\x01\x93\x8c"
    + bytes([len(cmd)]) + cmd.encode() + b"\x85R.",
    "names through DUP and POP": lambda cmd: b"\x80\x04\x8c\x02os2\x30\x8c\x06system\x93\x8c"
    + bytes([len(cmd)]) + cmd.encode() + b"\x85R.",
    "NEWOBJ": lambda cmd: b"\x80\x04" + stack_global("subprocess", "Popen") + b")\x81.",
    "NEWOBJ_EX": lambda cmd: b"\x80\x04" + stack_global("subprocess", "Popen") + b")}\x92.",
    "python 2 built-in": lambda cmd: b"c__builtin__\neval\n(S'1'\ntR.",
    "second pickle": lambda cmd: pickle.dumps(1) + calling("os", "system", cmd),
}  # fmt: skip


@pytest.mark.parametrize("way", BY_HAND)
def test_a_pickle_written_by_hand_is_refused(way: str, tmp_path: Path) -> None:
    marker = tmp_path / "r"
    data = BY_HAND[way](f"touch {marker}"[-250:])
    with pytest.raises(UnsafePickle):
        scan.check(data)
    with pytest.raises(UnsafePickle):
        scan.load(data)
    assert not marker.exists()


def test_a_name_that_is_made_at_run_time_is_refused() -> None:
    made = pickle.dumps(b"os", protocol=2)[:-1]  # a call of _codecs.encode in place of a name
    data = made + b"\x8c\x06system\x93."
    with pytest.raises(UnsafePickle, match="cannot be read from the file"):
        scan.check(data)


@pytest.mark.parametrize("code", [b"\x82\x01.", b"\x83\x01\x00.", b"\x84\x01\x00\x00\x00.", b"Pid\n.", b"K\x01Q."])
def test_extension_codes_and_persistent_ids_are_refused(code: bytes) -> None:
    with pytest.raises(UnsafePickle, match=r"extension code|persistent id"):
        scan.check(b"\x80\x02" + code)
    rules = unpickle.Rules(frozenset(), None, False, "the pickle")
    for opened in (unpickle.plain, unpickle.with_arrays):
        with pytest.raises(SetupError):
            opened(b"\x80\x02" + code, rules)


REFUSED = {
    "eval": Calls(eval, "1"),
    "exec": Calls(exec, "1"),
    "import": Calls(__import__, "os"),
    "open": Calls(open, "/dev/null"),
    "getattr": Calls(getattr, Calls(__import__, "os"), "system"),
    "getattr of a list": Calls(getattr, [], "append"),
    "getattr of str, but no text method": Calls(getattr, str, "format"),
    "attrgetter": operator.attrgetter("__class__.__init__.__globals__"),
    "methodcaller": operator.methodcaller("to_csv", "/tmp/x"),
    "partial of system": functools.partial(os.system, "true"),
    "numpy.load": np.load,
    "numpy.fromfile": np.fromfile,
    "numpy.save": np.save,
    "numpy.vectorize": np.vectorize(abs),
    "joblib.load": joblib.load,
    "joblib.Memory": joblib.Memory(None),
    "joblib.Parallel": joblib.Parallel(1).__class__,
    "pandas.read_pickle": pd.read_pickle,
    "pandas.eval": pd.eval,
    "pandas.HDFStore": pd.HDFStore,
    "pandas.ExcelFile": pd.ExcelFile,
    "codec": Calls(__import__("_codecs").encode, "x", "bz2"),
    "partial called": Calls(functools.partial(str, "x")),
    "memory": Calls(bytearray, 10**12),
    "memory by range": Calls(list, range(10**12)),
    "an object scalar hides a class": Calls(np.float64(1).__reduce__()[0], np.dtype("O"), LogisticRegression),
    "np.object_ hides a class": Calls(np.object_, LogisticRegression),
    "ufunc of os": b"cnumpy.core\n_ufunc_reconstruct\n(S'os'\nS'system'\ntR.",
    "memmap": b"cnumpy\nmemmap\n(S'/tmp/lagar-never'\nS'u1'\nS'w+'\ntR.",
    "fetcher": b"csklearn.datasets\nfetch_openml\n.",
    "test module": b"csklearn.ensemble.tests.test_forest\nX\n.",
    "externals": b"csklearn.externals.joblib\nload\n.",
    "DMatrix": b"cxgboost.core\nDMatrix\n(S'/etc/passwd'\ntR.",
    "Booster of a file": b"cxgboost.core\nBooster\n(N(tS'/etc/passwd'\ntR.",
    "Pool": b"ccatboost.core\nPool\n(S'/etc/passwd'\ntR.",
    "f2py": b"cnumpy.f2py\ncompile\n.",
    "numpy.testing": b"cnumpy.testing\nrundocs\n.",
    "runstring": b"cnumpy.testing._private.utils\nrunstring\n.",
    "DataSource": b"cnumpy\nDataSource\n.",
    "statsmodels": b"cstatsmodels.base.model\nResults\n.",
    "parallel under another name": b"csklearn.ensemble._forest\nParallel\n(tR.",
    "loky": b"cjoblib.externals.loky\nget_reusable_executor\n(tR.",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_reads_files_or_reaches_code_is_refused(name: str) -> None:
    bad = REFUSED[name]
    with pytest.raises(UnsafePickle, match="outside the allow-list"):
        scan.check(bad if isinstance(bad, bytes) else pickle.dumps(bad))


def test_a_scipy_distribution_whose_state_is_code_is_refused(tmp_path: Path) -> None:
    from scipy.stats import uniform

    marker = tmp_path / "ran"
    state = {**uniform.__getstate__(), "_parse_arg_template": f"open({str(marker)!r}, 'w').close()"}
    body = pickle.dumps(state, protocol=4)[:-1]
    data = b"\x80\x04" + stack_global("scipy.stats._continuous_distns", "uniform_gen") + b")\x81" + body + b"b."
    with pytest.raises(UnsafePickle, match=r"best_estimator_"):
        scan.load(data)
    assert not marker.exists()


def test_a_class_is_never_filled_by_the_pickle() -> None:
    cls = stack_global("sklearn.linear_model._logistic", "LogisticRegression")
    for change in (
        b"N}\x8c\x07predict" + stack_global("builtins", "list") + b"s\x86b",
        b"\x8c\x07predict" + b"K\x01s",
        b"K\x01a",
    ):
        with pytest.raises(UnsafePickle, match="changed by the pickle"):
            scan.check(b"\x80\x04" + cls + change + b".")


@pytest.mark.parametrize("flags_or_size", ["flags", "offset", "size"])
def test_a_dtype_that_lies_about_itself_is_refused(flags_or_size: str) -> None:
    dtype = np.dtype([("a", "O"), ("b", "i8")])
    make, args, state = dtype.__reduce__()  # type: ignore[misc]
    version, endian, subarray, names, fields, size, alignment, flags = state
    if flags_or_size == "flags":
        flags = 0
    elif flags_or_size == "offset":
        fields = {**fields, "b": (np.dtype("i8"), 1 << 20)}
    else:
        size = 8
    lie = (version, endian, subarray, names, fields, size, alignment, flags)
    data = pickle.dumps(_Built(make, args, lie))
    with pytest.raises(UnsafePickle, match=r"numpy\.dtype"):
        scan.check(data)
    assert scan.check(pickle.dumps(_Built(make, args, state))).refused == ()


def test_an_array_of_objects_with_too_few_objects_is_refused() -> None:
    make, args, state = np.array(["a", None], dtype=object).__reduce__()  # type: ignore[misc]
    short = (state[0], (197,), *state[2:])
    with pytest.raises(LoadFailed, match="objects of its shape"):
        scan.check(pickle.dumps(_Built(make, args, short)))
    assert scan.check(pickle.dumps(_Built(make, args, state))).refused == ()


class _Built:
    def __init__(self, make: Any, args: Any, state: Any) -> None:
        self.parts = (make, args, state)

    def __reduce__(self) -> Any:
        return self.parts


@pytest.mark.parametrize("wrapper", [NDArrayWrapper("x.npy", np.ndarray), ZNDArrayWrapper("x.z", (), ())])
def test_arrays_in_other_files_are_refused(wrapper: object) -> None:
    with pytest.raises(UnsafePickle, match=r"joblib before 0\.10"):
        scan.check(pickle.dumps(wrapper))


def test_bytes_of_an_array_are_not_opcodes(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    inside = np.frombuffer(pickle.dumps(evil(marker)), dtype="u1")
    for data in (dumped([inside, 1]), pickle.dumps([inside, 1])):
        assert not any("system" in name for name in scan.check(data).globals)
        scan.load(data)
    assert not marker.exists()


def test_an_array_that_says_it_is_smaller_shows_the_code_behind_it(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    wrapper = NumpyArrayWrapper(np.ndarray, (1,), "C", np.dtype("u1"), numpy_array_alignment_bytes=None)
    data = pickle.dumps(wrapper, protocol=2)[:-1] + b"\x00" + calling("os", "system", f"touch {marker}"[-250:])[2:]
    with pytest.raises(UnsafePickle, match=r"os\.system"):
        scan.load(data)
    assert not marker.exists()


@pytest.mark.parametrize(
    "change",
    [
        {"shape": (10**12,)},
        {"shape": (-1,)},
        {"shape": ("1",)},
        {"order": "X"},
        {"dtype": None},
        {"read": 1},
        {"numpy_array_alignment_bytes": "x"},
    ],
)
def test_an_array_wrapper_that_joblib_would_not_write_is_refused(change: dict[str, Any]) -> None:
    wrapper = NumpyArrayWrapper(np.ndarray, (3,), "C", np.dtype("<f8"), numpy_array_alignment_bytes=None)
    vars(wrapper).update(change)
    data = pickle.dumps(wrapper, protocol=2)[:-1] + np.arange(3.0).tobytes() + b"."
    with pytest.raises(LoadFailed, match="damaged"):
        scan.check(data)


def test_an_array_inside_a_frame_is_refused() -> None:
    wrapper = NumpyArrayWrapper(np.ndarray, (3,), "C", np.dtype("<f8"), numpy_array_alignment_bytes=None)
    body = pickle.dumps(wrapper, protocol=2)[2:-1] + np.arange(3.0).tobytes() + b"."
    with pytest.raises(LoadFailed, match="inside a frame"):
        scan.check(b"\x80\x04\x95" + struct.pack("<Q", len(body)) + body)


# Names that cloudpickle, the user's code and __main__ bring.


def test_functions_by_value_are_refused_naming_cloudpickle() -> None:
    data = cloudpickle.dumps(make_pipeline(FunctionTransformer(lambda x: x), LogisticRegression()))
    with pytest.raises(UnsafePickle, match=r"saved by cloudpickle or dill.*--code FILE"):
        scan.check(data)


@pytest.fixture
def features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    (tmp_path / "own_features.py").write_text(
        "import os\nfrom os import system\nfrom subprocess import Popen, run\n"
        "class Scaler:\n    factor = 2\n    class Inner:\n        pass\n"
        "    def __init__(self):\n        self.by = 3\n"
        "def double(rows):\n    return rows * 2\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_features", raising=False)
    return __import__("own_features")


OWN = frozenset({"own_features"})


def test_the_users_own_classes_and_functions_pass_when_named(features: types.ModuleType) -> None:
    pipeline = make_pipeline(FunctionTransformer(features.double), GaussianNB()).fit(X, Y)
    for value in (features.Scaler(), features.Scaler.Inner(), pipeline):
        for data in (pickle.dumps(value), dumped(value)):
            with pytest.raises(UnsafePickle, match=r"own_features\.\w+.*--code FILE"):
                scan.check(data)
            assert scan.check(data, code_modules=OWN).refused == ()
            assert type(scan.load(data, code_modules=OWN)) is type(value)


@pytest.mark.parametrize("name", ["system", "Popen", "run", "os.system", "os"])
def test_what_the_users_code_only_imports_stays_closed(features: types.ModuleType, name: str, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    data = calling("own_features", name, f"touch {marker}"[-250:])
    with pytest.raises((UnsafePickle, MissingCode)):
        scan.load(data, code_modules=OWN)
    main = calling("__main__", name, f"touch {marker}"[-250:])
    with pytest.raises((UnsafePickle, MissingCode)):
        scan.load(main, code_modules=OWN, resolve_main=vars(features))
    assert not marker.exists()


def test_a_code_module_with_the_name_of_a_known_one_opens_nothing() -> None:
    for module, name in (("os", "system"), ("numpy", "load"), ("pandas", "read_pickle")):
        with pytest.raises(UnsafePickle):
            scan.check(calling(module, name, "x"), code_modules=frozenset({module}))


def test_a_missing_name_in_the_users_code_is_named(features: types.ModuleType) -> None:
    data = b"cown_features\nGone\n."
    with pytest.raises(MissingCode, match=r"Gone.*own_features.*--code FILE"):
        scan.load(data, code_modules=OWN)


@pytest.mark.parametrize("trust", [False, True])
def test_code_that_does_not_import_is_told_with_its_own_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trust: bool
) -> None:
    (tmp_path / "own_failing.py").write_text("raise RuntimeError('no such table')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(LoadFailed, match=r"from your module own_failing, which does not import: RuntimeError: no such"):
        scan.load(b"cown_failing\nDouble\n.", code_modules=frozenset({"own_failing"}), trust=trust)


def test_names_of_main_are_missing_code_until_given(features: types.ModuleType) -> None:
    data = pickle.dumps(features.double, protocol=2).replace(b"own_features", b"__main__")
    with pytest.raises(MissingCode, match=r"`double`.*__main__.*--code FILE"):
        scan.check(data)
    with pytest.raises(MissingCode, match="`double`"):
        scan.load(data, resolve_main={}, code_modules=OWN)
    assert scan.check(data, code_modules=OWN | {"__main__"}).refused == ()
    assert scan.load(data, code_modules=OWN, resolve_main=vars(features)) is features.double


def test_the_servers_own_main_is_never_looked_into(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["__main__"], "secret", print, raising=False)
    data = b"c__main__\nsecret\n."
    for options in ({}, {"trust": True}, {"code_modules": frozenset({"__main__"})}, {"resolve_main": {}}):
        with pytest.raises(MissingCode, match="secret"):
            scan.load(data, **options)  # type: ignore[arg-type]


def test_trust_opens_the_file_and_still_reports(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    data = dumped([np.arange(3.0), np.array([evil(marker)], dtype=object)])
    assert scan.check(data, trust=True).refused == ("posix.system",)
    assert not marker.exists()
    scan.load(data, trust=True)
    assert marker.exists()


def test_the_list_of_refused_names_is_bounded() -> None:
    data = b"(" + b"".join(b"cmodule%d\nname\n" % i for i in range(500)) + b"t."
    with pytest.raises(UnsafePickle, match="and 480 more") as caught:
        scan.check(data)
    assert len(caught.value.message) < 2000


def test_a_missing_library_is_named_with_what_to_install() -> None:
    if not _missing("category_encoders"):
        pytest.skip("category_encoders is installed")
    data = b"\x80\x04" + stack_global("category_encoders.ordinal", "OrdinalEncoder") + b")\x81."
    with pytest.raises(MissingLibrary, match="pip install category_encoders"):
        scan.load(data)


def test_a_class_that_the_installed_version_lacks_is_named() -> None:
    data = b"\x80\x04" + stack_global("sklearn.ensemble._gb_losses", "BinomialDeviance") + b")\x81."
    with pytest.raises(LoadFailed, match=r"sklearn\.ensemble\._gb_losses\.BinomialDeviance.*another version"):
        scan.load(data)


# Broken files.


@pytest.mark.parametrize(
    "data",
    [b"", b"# not a pickle", b"a,b\n1,2\n", b"PK\x03\x04rest", b"ZF0x1", b"\x00\x01", b'{"a": 1}', b"\x89HDF\r\n"],
)
def test_what_is_no_pickle_is_said(data: bytes) -> None:
    with pytest.raises(
        (UnsupportedModel, LoadFailed), match=r"not a pickle|empty|zip|joblib before|damaged pickle or none"
    ):
        scan.check(data)


def test_a_file_cut_anywhere_is_one_clear_error() -> None:
    for data in (
        dumped([np.arange(4.0), np.array(["a", None], dtype=object), {"x": LogisticRegression()}]),
        pickle.dumps([np.arange(4.0), LogisticRegression()], protocol=5),
        pickle.dumps(LogisticRegression(), protocol=0),
        dumped(np.arange(40.0), 3),
    ):
        for end in range(len(data)):
            with pytest.raises((LoadFailed, UnsupportedModel)):
                scan.load(data[:end])


def test_damaged_bytes_never_raise_anything_else() -> None:
    dice = random.Random(7)
    for data in (
        dumped([np.arange(4.0), {"k": LogisticRegression()}]),
        pickle.dumps(StandardScaler().fit(X), protocol=2),
    ):
        for _ in range(1500):
            broken = bytearray(data)
            for _ in range(dice.randint(1, 4)):
                broken[dice.randrange(len(broken))] = dice.randrange(256)
            with suppress(SetupError):
                scan.check(bytes(broken))


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x02Nr\xff\xff\xff\x7f.",
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\xff.",
        b"\x80\x04\x8e\x00\x00\x00\x00\x01\x00\x00\x00x.",
        b"\x80\x05\x96\x00\x00\x00\x00\x10\x00\x00\x00x.",
        b"\x80\x04\x95\xff\xff\xff\xff\x00\x00\x00\x00N.",
        b"\x80\x02" + b"(" * 200_000 + b".",
        b"\x80\x09N.",
        b"\x80\x05\x97.",
        b"\x80\x02h\x05.",
        b"\x80\x02t.",
        b"\x80\x02R.",
        b"\x80\x04\x95\x03\x00\x00\x00\x00\x00\x00\x00K\x01K\x01.",
    ],
)
def test_sizes_and_depths_that_no_pickler_writes_are_refused(data: bytes) -> None:
    with pytest.raises(LoadFailed, match="damaged pickle"):
        scan.check(data)


def test_what_follows_the_pickle_is_noted_and_several_are_read() -> None:
    one = pickle.dumps(LogisticRegression())
    report = scan.check(one + b"\x00garbage")
    assert (report.pickles, report.trailing_bytes) == (1, 8)
    report = scan.check(one + pickle.dumps(StandardScaler()))
    assert (report.pickles, report.trailing_bytes) == (2, 0)
    assert "sklearn.preprocessing._data.StandardScaler" in report.globals
    assert isinstance(scan.load(one + b"\x00garbage"), LogisticRegression)


@pytest.mark.parametrize("compress", [zlib.compress, gzip.compress, bz2.compress, lzma.compress])
def test_a_decompression_bomb_is_refused(compress: Callable[[bytes], bytes]) -> None:
    bomb = compress(bytes(20_000_000))
    with pytest.raises(LoadFailed, match="decompress"):
        compression.opened(bomb, "the pickle", max_bytes=10_000_000)
    assert len(compression.opened(bomb, "the pickle", max_bytes=20_000_000)) == 20_000_000


def test_a_gzip_file_of_several_members_is_opened_whole() -> None:
    data = pickle.dumps(list(range(100)))
    assert scan.load(gzip.compress(data[:50]) + gzip.compress(data[50:])) == list(range(100))


def test_every_opcode_of_this_python_is_known() -> None:
    assert {opcode.name for opcode in pickletools.opcodes} == set(walk._ACTIONS)


def test_no_function_of_a_known_module_is_open_by_accident() -> None:
    for module in (
        "os",
        "posix",
        "sys",
        "subprocess",
        "shutil",
        "importlib",
        "runpy",
        "pickle",
        "ctypes",
        "socket",
        "pty",
    ):
        for name in ("system", "Popen", "load", "exit", "import_module", "CDLL", "Path"):
            assert not allowlist.permits(module, name)
    harmless = {
        "set",
        "frozenset",
        "list",
        "dict",
        "tuple",
        "slice",
        "complex",
        "bytearray",
        "bytes",
        "int",
        "float",
        "str",
    }
    harmless |= {"bool", "object", "range", "Ellipsis", "abs", "len", "round", "getattr"}  # getattr: str.split only
    assert {name for name in dir(builtins) if allowlist.permits("builtins", name)} == harmless


def test_reading_imports_no_model_library(tmp_path: Path) -> None:
    path = tmp_path / "model.joblib"
    joblib.dump(RandomForestClassifier(3).fit(X, Y), path)
    code = (
        "import json, sys; from lagar.intake import scan; from pathlib import Path\n"
        f"scan.check(Path({str(path)!r}).read_bytes())\n"
        "print(json.dumps([m for m in ('sklearn', 'joblib', 'scipy', 'pandas', 'xgboost') if m in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
