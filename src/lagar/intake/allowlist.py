"""Which globals a pickle may name.

A global is let through for one of four reasons: it is on an exact list; it is a class, by its name, in a part of a
model library that was read for gadgets; it is a public function of a module that holds nothing but numeric functions;
or it belongs to the user's own code. All else is refused, and so is every dotted name outside the user's code: a
dotted name walks attributes, and `sklearn.utils` has an `os` somewhere below it.

What is left out on purpose, since each runs code or touches files from data alone: `scipy.stats` distributions
(`__setstate__` executes a string of their state), `numpy.memmap` as a class, `operator.attrgetter` and `methodcaller`
(a Pipeline of them walks to `os`), statsmodels (formulas are evaluated), `joblib.Memory`, `pandas.io`, `getattr`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping

EXTRAS: Mapping[str, str] = {
    "sklearn": "'lagar[sklearn]'",
    "joblib": "'lagar[sklearn]'",
    "scipy": "'lagar[sklearn]'",
    "pandas": "'lagar[sklearn]'",
    "xgboost": "'lagar[xgboost]'",
    "lightgbm": "'lagar[lightgbm]'",
    "catboost": "'lagar[catboost]'",
    "imblearn": "imbalanced-learn",
    "category_encoders": "category_encoders",
    "feature_engine": "feature-engine",
    "sksurv": "scikit-survival",
    "pyarrow": "pyarrow",
    "numpy": "numpy",
}
"""Top-level package of the allow-list → what to give `pip install`."""


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


UFUNCS = _names("""
    abs absolute acos acosh add arccos arccosh arcsin arcsinh arctan arctan2 arctanh asin asinh atan atan2 atanh
    cbrt ceil conj conjugate copysign cos cosh deg2rad degrees divide equal exp exp2 expm1 fabs float_power floor
    floor_divide fmax fmin fmod greater greater_equal heaviside hypot invert isfinite isinf isnan isnat less
    less_equal log log10 log1p log2 logaddexp logaddexp2 logical_and logical_not logical_or logical_xor maximum
    minimum mod multiply negative not_equal positive pow power rad2deg radians reciprocal remainder rint sign
    signbit sin sinh sqrt square subtract tan tanh true_divide trunc
""")
NUMPY_SCALARS = _names("""
    bool bool_ int8 int16 int32 int64 uint8 uint16 uint32 uint64 intp uintp intc uintc int_ uint longlong ulonglong
    float16 float32 float64 longdouble float128 double single half complex64 complex128 clongdouble complex256 str_
    bytes_ object_ void datetime64 timedelta64 generic number integer floating signedinteger unsignedinteger inexact
""")
_NUMPY_FUNCTIONS = _names("""
    abs all any around argmax argmin array asarray ascontiguousarray atleast_1d atleast_2d average clip column_stack
    concatenate corrcoef count_nonzero cov cumprod cumsum diff dot expand_dims hstack isclose mean median nan_to_num
    nanmax nanmean nanmedian nanmin nanpercentile nanquantile nanstd nansum nanvar percentile prod ptp quantile
    ravel reshape round squeeze std sum transpose unique var vstack where
""")

_EXACT: dict[str, frozenset[str]] = {
    "builtins": _names(
        "set frozenset list dict tuple slice complex bytearray bytes int float str bool object range Ellipsis"
    ),
    "collections": _names("OrderedDict defaultdict Counter deque"),
    "copyreg": _names("_reconstructor __newobj__ __newobj_ex__"),
    "datetime": _names("date datetime time timedelta timezone"),
    "decimal": _names("Decimal"),
    "fractions": _names("Fraction"),
    "functools": _names("partial"),
    "operator": _names("itemgetter"),
    "re": _names("_compile"),
    "types": _names("SimpleNamespace"),
    "numpy": _names("ndarray dtype matrix recarray record"),
    "numpy._core.multiarray": _names("_reconstruct scalar"),
    "numpy._core.numeric": _names("_frombuffer"),
    "numpy.ma": _names("MaskedArray"),
    "numpy.ma.core": _names("_mareconstruct MaskedArray MaskedConstant"),
    "numpy.random": _names("RandomState Generator"),
    "numpy.random._generator": _names("Generator"),
    "numpy.random.mtrand": _names("RandomState"),
    "numpy.random._mt19937": _names("MT19937"),
    "numpy.random._pcg64": _names("PCG64 PCG64DXSM"),
    "numpy.random._philox": _names("Philox"),
    "numpy.random._sfc64": _names("SFC64"),
    "numpy.random._pickle": _names("__randomstate_ctor __generator_ctor __bit_generator_ctor"),
    "numpy.random.bit_generator": _names("SeedSequence __pyx_unpickle_SeedSequence"),
    "scipy.interpolate._bsplines": _names("BSpline"),
    "scipy.interpolate._interpolate": _names("PPoly BPoly"),
    "scipy.optimize._optimize": _names("OptimizeResult"),
    "sklearn.utils": _names("Bunch"),
    "sklearn.utils._bunch": _names("Bunch"),
    "sklearn.utils._metadata_requests": _names(
        "MetadataRequest MethodMetadataRequest MetadataRouter MethodMapping MethodPair RouterMappingPair"
    ),
    "sklearn.compose._column_transformer": _names("make_column_selector"),
    "sklearn.neighbors._kd_tree": _names("newObj"),
    "sklearn.neighbors._ball_tree": _names("newObj"),
    "sklearn.metrics._dist_metrics": _names("newObj"),
    "joblib.numpy_pickle": _names("NumpyArrayWrapper"),
    "xgboost.core": _names("Booster"),
    "xgboost.sklearn": _names(
        "XGBModel XGBClassifier XGBRegressor XGBRanker XGBRFClassifier XGBRFRegressor XGBRankerMixIn"
    ),
    "xgboost.callback": _names("EarlyStopping EvaluationMonitor"),
    "lightgbm.basic": _names("Booster"),
    "lightgbm.sklearn": _names("LGBMModel LGBMClassifier LGBMRegressor LGBMRanker _LGBMLabelEncoder"),
    "catboost.core": _names("CatBoost CatBoostClassifier CatBoostRegressor CatBoostRanker"),
    "pandas._libs.arrays": _names("__pyx_unpickle_NDArrayBacked NDArrayBacked"),
    "pandas._libs.internals": _names("_unpickle_block BlockPlacement BlockValuesRefs"),
    "pandas._libs.interval": _names("Interval"),
    "pandas._libs.missing": _names("NA NAType"),
    "pandas._libs.tslibs.nattype": _names("_nat_unpickle NaTType"),
    "pandas._libs.tslibs.timestamps": _names("_unpickle_timestamp Timestamp"),
    "pandas._libs.tslibs.timedeltas": _names("_timedelta_unpickle Timedelta"),
    "pandas.core.internals.managers": _names("BlockManager SingleBlockManager"),
    "pandas.core.internals.blocks": _names("new_block ensure_block_shape"),
    "pandas.core.frame": _names("DataFrame"),
    "pandas.core.series": _names("Series"),
    "pandas.core.flags": _names("Flags"),
    "pandas.core.indexes.base": _names("_new_Index Index"),
    "pandas.core.indexes.datetimes": _names("_new_DatetimeIndex DatetimeIndex"),
    "pandas.core.indexes.period": _names("_new_PeriodIndex PeriodIndex"),
    "pandas.core.indexes.numeric": _names("Int64Index UInt64Index Float64Index"),
    "pandas.core.indexes.frozen": _names("FrozenList"),
    "pandas": _names("""
        DataFrame Series Index RangeIndex MultiIndex CategoricalIndex DatetimeIndex TimedeltaIndex PeriodIndex
        IntervalIndex Categorical CategoricalDtype StringDtype DatetimeTZDtype IntervalDtype PeriodDtype
        BooleanDtype Int8Dtype Int16Dtype Int32Dtype Int64Dtype UInt8Dtype UInt16Dtype UInt32Dtype UInt64Dtype
        Float32Dtype Float64Dtype Interval Timestamp Timedelta Period
    """),
    "pandas.arrays": _names("""
        ArrowStringArray StringArray DatetimeArray TimedeltaArray PeriodArray IntervalArray IntegerArray
        FloatingArray BooleanArray NumpyExtensionArray SparseArray
    """),
    "pyarrow.lib": _names("_restore_array py_buffer type_for_alias chunked_array"),
}
"""Module → classes, and functions that the library's own pickles call to rebuild its objects."""

_FUNCTIONS: dict[str, frozenset[str]] = {
    "builtins": _names("abs len round"),
    "math": _names("log log1p log2 log10 exp expm1 sqrt sin cos tan floor ceil fabs isnan isinf isfinite"),
    "numpy": _NUMPY_FUNCTIONS | UFUNCS | NUMPY_SCALARS,  # object_ called returns its argument: a way to hide a class
    "numpy._core._multiarray_umath": UFUNCS,
    "scipy._lib.array_api_compat.numpy._aliases": _names("asarray"),
    "scipy.special._ufuncs": _names(
        "expit logit log_expit boxcox boxcox1p inv_boxcox inv_boxcox1p erf erfc gammaln log1p expm1 xlogy xlog1py"
    ),
    "scipy.special._special_ufuncs": _names("expit logit log_expit erf erfc gammaln"),
    "sklearn.cluster._kmeans": _names("_kmeans_single_lloyd _kmeans_single_elkan"),
    "sklearn.preprocessing._data": _names("scale minmax_scale maxabs_scale robust_scale normalize binarize"),
    "sklearn.utils.validation": _names("check_array"),
    "sklearn.metrics._scorer": _names("_passthrough_scorer"),
    "sklearn.neural_network._base": _names("identity logistic tanh relu softmax"),
}
"""Module → functions that may be named (a FunctionTransformer's `func`, a metric) and never called by the pickle."""

_FUNCTION_MODULES = _names("""
    sklearn.metrics._classification sklearn.metrics._regression sklearn.metrics._ranking sklearn.metrics.pairwise
    sklearn.metrics.cluster._supervised sklearn.metrics.cluster._unsupervised
    sklearn.feature_selection._univariate_selection sklearn.feature_selection._mutual_info
    sklearn.feature_extraction.text
""")
"""Modules whose own public functions are all numeric or textual; may be named, never called by the pickle."""

_CLASS_PACKAGES: dict[str, frozenset[str]] = {
    "sklearn": _names("""
        _loss base calibration cluster compose covariance cross_decomposition decomposition discriminant_analysis
        dummy ensemble feature_extraction feature_selection frozen gaussian_process impute isotonic
        kernel_approximation kernel_ridge linear_model manifold metrics mixture model_selection multiclass
        multioutput naive_bayes neighbors neural_network pipeline preprocessing random_projection semi_supervised
        svm tree
    """),
    "imblearn": _names("base combine ensemble over_sampling pipeline under_sampling"),
    "category_encoders": _names("""
        backward_difference base_contrast_encoder basen binary cat_boost count gray hashing helmert james_stein
        leave_one_out m_estimate one_hot ordinal ordinal_encoder polynomial quantile_encoder rankhot sum_coding
        target_encoder utils woe wrapper
    """),
    "feature_engine": _names("""
        _base_transformers creation datetime discretisation encoding imputation outliers preprocessing scaling
        selection timeseries transformation variable_handling wrappers text
    """),
    "sksurv": _names("base ensemble functions kernels linear_model meta metrics preprocessing svm tree"),
}
"""Package → the parts of it whose classes are let through by their name. glmm fits statsmodels formulas: left out."""

_DENIED_PARTS = _names("tests testing _testing conftest externals datasets _plot io f2py distutils")
_DENIED_CLASSES = _names("Parallel Memory MemorizedFunc MemorizedResult Path PosixPath Popen Thread Process")
_CLASS_NAME = re.compile(r"_{0,2}[A-Z]\w*\Z")
_CYTHON_REBUILD = re.compile(r"__pyx_unpickle_\w+\Z")
_SPARSE_MODULE = re.compile(r"scipy\.sparse(\._?(csr|csc|coo|bsr|dia|dok|lil|base|matrix|arrays))?\Z")
_SPARSE_CLASS = re.compile(r"(csr|csc|coo|bsr|dia|dok|lil)_(matrix|array)\Z")
_OFFSETS = "pandas._libs.tslibs.offsets"

_BY_VALUE = ("cloudpickle.", "dill.", "joblib.externals.cloudpickle.", "types.CodeType", "types.FunctionType")

STR_METHODS = _names("split rsplit splitlines lower upper strip lstrip rstrip title casefold capitalize swapcase")
"""`str.NAME` that a pickle may ask for, as in `CountVectorizer(tokenizer=str.split)`."""
UFUNC_MODULES = ("numpy", "numpy.core._multiarray_umath", "numpy._core._multiarray_umath")
WRAPPER = ("joblib.numpy_pickle", "NumpyArrayWrapper")
DTYPE = ("numpy", "dtype")
NEW_ONLY = frozenset({("xgboost.core", "Booster"), ("lightgbm.basic", "Booster"), WRAPPER})
"""Classes that pickles make empty and then fill; called with arguments they would open a file of any name."""


def _guard_getattr(args: tuple[object, ...]) -> bool:
    return len(args) == 2 and str(args[0]) == "builtins.str" and isinstance(args[1], str) and args[1] in STR_METHODS


def _guard_ufunc(args: tuple[object, ...]) -> bool:
    return len(args) == 2 and args[0] in UFUNC_MODULES and isinstance(args[1], str) and args[1] in UFUNCS


def _guard_encode(args: tuple[object, ...]) -> bool:
    return len(args) == 2 and args[1] in ("latin1", "latin-1")


def _guard_bytes(args: tuple[object, ...]) -> bool:
    return not (args and isinstance(args[0], int))  # bytearray(10**11) asks for that much memory


def _never(args: tuple[object, ...]) -> bool:
    return False


GUARDED: Mapping[tuple[str, str], Callable[[tuple[object, ...]], bool]] = {
    ("builtins", "getattr"): _guard_getattr,
    ("numpy._core", "_ufunc_reconstruct"): _guard_ufunc,
    ("_codecs", "encode"): _guard_encode,
    ("builtins", "bytes"): _guard_bytes,
    ("builtins", "bytearray"): _guard_bytes,
    ("numpy", "memmap"): _never,
}
"""Globals that are let through only when called with arguments that the walk sees to be harmless."""


def canonical(module: str, name: str) -> tuple[str, str]:
    """The one name of a global that went by several: Python 2's built-ins, numpy.core before numpy 2."""
    if module == "__builtin__":
        return "builtins", {"unicode": "str", "long": "int", "xrange": "range"}.get(name, name)
    if module == "copy_reg":
        return "copyreg", name
    if module == "numpy.core" or module.startswith("numpy.core."):
        module = "numpy._core" + module[len("numpy.core") :]
    if module == "numpy._core.multiarray" and name in ("dtype", "ndarray"):
        module = "numpy"
    if (module, name) == ("numpy._core.memmap", "memmap"):
        module = "numpy"
    return module, name


def own_code(module: str, code_modules: frozenset[str]) -> bool:
    """True when module belongs to the user's code: a name of the standard library or of the allow-list never does."""
    top = module.partition(".")[0]
    if top not in code_modules:
        return False
    return top == "__main__" or (top not in sys.stdlib_module_names and top not in EXTRAS)


def permits(module: str, name: str, code_modules: frozenset[str] = frozenset()) -> bool:
    """True when a pickle may name this global; module and name as `canonical` gives them."""
    if own_code(module, code_modules):
        return all(part.isidentifier() for part in name.split("."))
    if not (name.isidentifier() and name.isascii() and all(p.isidentifier() for p in module.split("."))):
        return False
    return (module, name) in GUARDED or callable_by_pickle(module, name) or _referable(module, name)


def callable_by_pickle(module: str, name: str) -> bool:
    """True for classes, and for the functions that libraries' pickles call to rebuild objects."""
    if name in _EXACT.get(module, ()) or (module, name) in GUARDED:
        return True
    if _SPARSE_MODULE.match(module):
        return _SPARSE_CLASS.match(name) is not None
    if module == _OFFSETS:
        return _CLASS_NAME.match(name) is not None
    return by_convention(module, name)


def exact(module: str, name: str) -> bool:
    """True for a global on a list: its name alone says what it is."""
    return name in _EXACT.get(module, ()) or name in _FUNCTIONS.get(module, ())


def by_convention(module: str, name: str) -> bool:
    """True for what is let through by its name alone: whoever resolves it must see that it is such a class."""
    package, _, rest = module.partition(".")
    parts = rest.split(".")
    if parts[0] not in _CLASS_PACKAGES.get(package, ()) or _DENIED_PARTS.intersection(parts):
        return False
    if name in _DENIED_CLASSES:
        return False
    return _CLASS_NAME.match(name) is not None or _CYTHON_REBUILD.match(name) is not None


def _referable(module: str, name: str) -> bool:
    if name in _FUNCTIONS.get(module, ()):
        return True
    if module == "numpy.dtypes":
        return _CLASS_NAME.match(name) is not None and name.endswith("DType")
    return from_function_module(module, name)


def from_function_module(module: str, name: str) -> bool:
    return module in _FUNCTION_MODULES and name.islower() and not name.startswith("_")


def advice(refused: str) -> str | None:
    """What to do about one refused global, where there is more to say than `--code` and `--trust`."""
    if refused.startswith(_BY_VALUE):
        return (
            "It was saved by cloudpickle or dill, which store your functions as code inside the file: move them into a "
            "module, save the model again, and pass that module with `--code FILE`"
        )
    if refused.startswith("scipy.stats."):
        return (
            "scipy.stats distributions run text from the file when they are opened: save `search.best_estimator_` "
            "instead of the whole search"
        )
    if refused.startswith(("torch.", "keras.", "tensorflow.")):
        return "PyTorch and Keras models are served from ONNX: export the model first"
    if refused.startswith("joblib.numpy_pickle_compat."):
        return "It was saved by joblib before 0.10, with arrays in other files: load it there and save it again"
    return None
