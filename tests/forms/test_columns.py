"""Column programs of DataFrame and dict models answer as scikit-learn does, and refuse what it refuses."""

from __future__ import annotations

import tempfile
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor, make_column_selector
from sklearn.feature_extraction import DictVectorizer
from sklearn.feature_selection import SelectKBest, VarianceThreshold
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge, SGDClassifier
from sklearn.naive_bayes import BernoulliNB, GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    KBinsDiscretizer,
    MaxAbsScaler,
    MinMaxScaler,
    OneHotEncoder,
    OrdinalEncoder,
    PolynomialFeatures,
    RobustScaler,
    StandardScaler,
    TargetEncoder,
)

from lagar.forms.candidates import NotApplicable
from lagar.forms.columns import build
from lagar.forms.original import Original
from lagar.types import Rows
from support.forms import agree_or_refuse, built, opened

RANDOM = np.random.default_rng(7)
N = 160
TEXTS = ["São Paulo", "Évora", "Porto", "", "braga", "Évora".upper()]
MANY = [f"code {number}" for number in range(40)]


def _frame() -> pd.DataFrame:
    frame = pd.DataFrame({
        "age": RANDOM.integers(18, 90, N).astype(float),
        "income": RANDOM.normal(size=N) * 1e4,
        "id": RANDOM.normal(size=N) + 1e9,
        "visits": RANDOM.integers(0, 9, N),
        "member": RANDOM.random(N) < 0.5,
        "city": RANDOM.choice(TEXTS, N),
        "plan": RANDOM.choice(["a", "b"], N),
        "code": RANDOM.choice(MANY, N),
        "tier": RANDOM.choice([1.0, 2.0, 3.5], N),
    })  # fmt: skip
    frame.loc[RANDOM.random(N) < 0.15, "age"] = np.nan
    frame.loc[RANDOM.random(N) < 0.15, "plan"] = None
    frame.loc[RANDOM.random(N) < 0.15, "tier"] = np.nan
    return frame


FRAME = _frame()
WHOLE = FRAME.fillna({"age": 0.0, "plan": "a", "tier": 1.0})
YES = np.where(RANDOM.random(N) + (FRAME["city"] == "Porto") > 0.7, "sim", "não")
THREE = RANDOM.integers(0, 3, N)
VALUE = FRAME["income"].to_numpy() / 100 + RANDOM.normal(size=N)

NUMBERS = {
    "scaled": lambda: make_pipeline(SimpleImputer(), StandardScaler()),
    "median and indicator": lambda: make_pipeline(SimpleImputer(strategy="median", add_indicator=True), RobustScaler()),
    "constant": lambda: make_pipeline(SimpleImputer(strategy="constant", fill_value=-1), MinMaxScaler(clip=True)),
    "most frequent": lambda: make_pipeline(SimpleImputer(strategy="most_frequent"), MaxAbsScaler()),
    "scaled first": lambda: make_pipeline(StandardScaler(), SimpleImputer()),
    "binned": lambda: make_pipeline(SimpleImputer(), KBinsDiscretizer(3, quantile_method="averaged_inverted_cdf")),
    "products": lambda: make_pipeline(SimpleImputer(), StandardScaler(), PolynomialFeatures(2)),
    "chosen": lambda: make_pipeline(SimpleImputer(), VarianceThreshold(), StandardScaler()),
    "logarithm": lambda: make_pipeline(SimpleImputer(), FunctionTransformer(np.arcsinh), StandardScaler()),
}
CATEGORIES = {
    "one-hot": lambda: OneHotEncoder(handle_unknown="ignore"),
    "dense": lambda: OneHotEncoder(handle_unknown="ignore", sparse_output=False),
    "strict": lambda: OneHotEncoder(),
    "drop first": lambda: OneHotEncoder(drop="first", handle_unknown="ignore"),
    "drop if binary": lambda: OneHotEncoder(drop="if_binary"),
    "infrequent": lambda: OneHotEncoder(min_frequency=0.1, handle_unknown="infrequent_if_exist"),
    "few": lambda: OneHotEncoder(max_categories=3, handle_unknown="infrequent_if_exist"),
    "most frequent": lambda: make_pipeline(
        SimpleImputer(strategy="most_frequent"), OneHotEncoder(handle_unknown="ignore")
    ),
    "constant": lambda: make_pipeline(SimpleImputer(strategy="constant", fill_value="none"), OneHotEncoder()),
    "empty is missing": lambda: make_pipeline(
        SimpleImputer(missing_values="", strategy="constant", fill_value="?"), OneHotEncoder(handle_unknown="ignore")
    ),
    "indicated": lambda: SimpleImputerOfTexts(),
    "ordinal": lambda: OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1, encoded_missing_value=-2),
    "ordinal with NaN": lambda: make_pipeline(
        OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=np.nan), SimpleImputer()
    ),
    "ordinal, strict": lambda: OrdinalEncoder(encoded_missing_value=-1),
    "target": lambda: TargetEncoder(cv=2, random_state=0),
}
ENDS = {
    "logistic": (lambda: LogisticRegression(max_iter=20), YES),
    "logistic of three": (lambda: LogisticRegression(max_iter=20), THREE),
    "ridge": (Ridge, VALUE),
    "gradient": (lambda: SGDClassifier(random_state=0), YES),
    "bayes": (GaussianNB, THREE),
}


def SimpleImputerOfTexts() -> Any:  # noqa: N802
    """Not used by ordinary people, and allowed: what is missing becomes a column of its own."""
    return make_pipeline(
        FeatureUnion([
            ("kept", make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder(handle_unknown="ignore"))),
            ("codes", OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1, encoded_missing_value=-2)),
        ])
    )  # fmt: skip


VALUES: dict[str, list[Any]] = {
    "number": [0.0, -0.0, 1.0, 2.5, -3.0, 1e9 + 0.5, 1e10, -1e10, 1e39, 1e-300, np.nan, np.inf, 40.0, 1e300],
    "int": [0, 1, 5, -7, 2**40],
    "text": [
        *TEXTS, unicodedata.normalize("NFD", "Évora"), "évora", " Porto", "a", "b", "A", "code 1", "nan", "None", "1",
        "?", "none", "x" * 80, None, "\x00",
    ],
    "tier": [1.0, 2.0, 3.5, 3, 4.0, np.nan, -0.0],
}  # fmt: skip


def columns_of(original: Original, frame: pd.DataFrame) -> Rows:
    """Rows as the protocols make them: float64, int64 and bool arrays, objects with None for texts."""
    columns: dict[str, Any] = {}
    for field in original.signature.fields or ():
        values = frame[field.name].tolist()
        if field.type == "string" or any(isinstance(value, str) for value in values):
            column = np.empty(len(values), dtype=object)
            column[:] = [None if value is None or value != value else value for value in values]
        else:
            column = np.array(values)
            column = column if column.dtype.kind in "bi" else column.astype(np.float64)
        columns[field.name] = column
    return Rows(len(frame), columns=columns)


def hostile_frame(random: np.random.Generator, n: int, rate: float) -> pd.DataFrame:
    """Rows of the training data in which some values were replaced by bad ones."""
    rows = FRAME.iloc[random.integers(0, N, n)].reset_index(drop=True)
    pools = {"age": "number", "income": "number", "id": "number", "city": "text", "plan": "text", "code": "text"}
    columns = {}
    for name in rows:
        pool = VALUES[pools.get(str(name), "tier" if name == "tier" else "int")]
        values = rows[name].tolist()
        if name != "member":
            values = [pool[random.integers(len(pool))] if random.random() < rate else value for value in values]
        columns[name] = pd.Series(values, dtype=object)
    return pd.DataFrame(columns)


def assert_same(model: Any, random: np.random.Generator, *, absolute: float = 1e-12, relative: float = 1e-9) -> None:
    with tempfile.TemporaryDirectory() as folder:
        original = opened(model, Path(folder))
        predictor = built(original, build, Path(folder) / "form")
        frames = [FRAME, *(hostile_frame(random, 12, rate) for rate in (0.04, 0.4))]
        for frame in frames:
            agree_or_refuse(predictor, original, columns_of(original, frame), absolute, relative)


property_test = settings(
    max_examples=14,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],  # a smaller model is not easier to read, and each one is trained
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


@property_test
@given(
    numbers=st.sampled_from(sorted(NUMBERS)),
    categories=st.sampled_from(sorted(CATEGORIES)),
    end=st.sampled_from(sorted(ENDS)),
    texts=st.sampled_from([["city", "plan"], ["plan"], ["city", "code"], ["code", "plan", "tier"]]),
    remainder=st.sampled_from(["drop", "passthrough", StandardScaler()]),
    threshold=st.sampled_from([0.0, 0.3, 1.0]),
    seed=st.integers(0, 2**20),
)
@pytest.mark.filterwarnings("ignore")
def test_random_pipelines_of_a_frame_are_the_original(
    numbers: str, categories: str, end: str, texts: list[str], remainder: Any, threshold: float, seed: int
) -> None:
    if "tier" in texts and categories in ("constant", "empty is missing"):
        texts = texts[:2]  # a text is no value of a column of numbers
    make, target = ENDS[end]
    dense = threshold if end != "bayes" else 0.0
    left = [name for name in FRAME if name not in {"city", "plan", "code"} | set(texts)]
    picked = ["income", "age"] if seed % 2 else [name for name in ("id", "age", "visits") if name in left]
    model = make_pipeline(
        ColumnTransformer(
            [("n", NUMBERS[numbers](), picked), ("c", CATEGORIES[categories](), texts)]
            + ([("rest", remainder, ["member", "visits"])] if remainder != "drop" and "visits" not in picked else []),
            sparse_threshold=dense,
        ),
        make(),
    )
    try:
        model.fit(FRAME, target)
    except (ValueError, TypeError):
        assume(False)  # scikit-learn does not train this combination
    assert_same(model, np.random.default_rng(seed))


RECORDS = [
    {str(key): value for key, value in record.items()} for record in WHOLE.drop(columns=["tier"]).to_dict("records")
]


@property_test
@given(
    end=st.sampled_from(["logistic", "logistic of three", "ridge", "gradient", "bernoulli"]),
    sparse=st.booleans(),
    shape=st.sampled_from(["tuple", "pipeline", "scaled", "chosen"]),
    seed=st.integers(0, 2**20),
)
@pytest.mark.filterwarnings("ignore")
def test_dict_models_are_the_original(end: str, sparse: bool, shape: str, seed: int) -> None:
    make, target = (BernoulliNB, THREE) if end == "bernoulli" else ENDS[end]
    vectorizer = DictVectorizer(sparse=sparse, separator="=" if seed % 2 else "::")
    middle = {
        "tuple": [],
        "pipeline": [],
        "scaled": [StandardScaler(with_mean=False)],
        "chosen": [SelectKBest(k=5)],
    }[shape]
    try:
        model: Any = make_pipeline(vectorizer, *middle, make()).fit(RECORDS, target)
    except (ValueError, TypeError):
        assume(False)  # some estimators take no sparse matrix with long indices
    if shape == "tuple":
        model = (model[0], model[-1])
    assert_same(model, np.random.default_rng(seed))


def test_columns_by_position_slice_selector_and_mask_are_found() -> None:
    frame = WHOLE[["age", "income", "visits", "city", "plan"]]
    model = make_pipeline(
        ColumnTransformer([
            ("position", StandardScaler(), [0]),
            ("slice", "passthrough", slice("income", "visits")),
            ("selector", OneHotEncoder(handle_unknown="ignore"), make_column_selector(pattern="^c")),
            ("mask", OrdinalEncoder(), [False, False, False, False, True]),
        ]),
        Ridge(),
    ).fit(frame, VALUE)  # fmt: skip
    assert_same(model, RANDOM)


def test_transformer_weights_and_nested_column_transformers_are_kept() -> None:
    inner = ColumnTransformer([("a", StandardScaler(), ["income"])], remainder="passthrough")
    model = make_pipeline(
        ColumnTransformer(
            [("inner", inner, ["income", "visits"]), ("c", OneHotEncoder(handle_unknown="ignore"), ["city"])],
            transformer_weights={"inner": 0.5, "c": 3.0},
        ),
        LogisticRegression(),
    ).fit(FRAME, YES)
    assert_same(model, RANDOM)


def test_a_transformed_target_and_a_marker_of_none_are_kept() -> None:
    encode = ColumnTransformer([
        ("n", NUMBERS["scaled"](), ["age", "income"]),
        ("c", make_pipeline(SimpleImputer(missing_values=None, strategy="most_frequent"), OneHotEncoder()), ["city"]),
    ])  # fmt: skip
    inner = make_pipeline(encode, Ridge())
    model = TransformedTargetRegressor(inner, func=np.log1p, inverse_func=np.expm1).fit(WHOLE, np.abs(VALUE))
    assert_same(model, RANDOM)


def test_an_array_of_objects_without_names_is_served_by_position() -> None:
    x = WHOLE[["age", "city", "plan"]].to_numpy(dtype=object)
    model = make_pipeline(
        ColumnTransformer([
            ("n", StandardScaler(), [0]),
            ("c", OneHotEncoder(handle_unknown="ignore"), [1, 2]),
        ]),
        LogisticRegression(),
    ).fit(x, YES)  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        original = opened(model, Path(folder))
        predictor = built(original, build, Path(folder) / "form")
        columns = {"x0": WHOLE["age"].to_numpy(), "x1": x[:, 1], "x2": x[:, 2]}
        agree_or_refuse(predictor, original, Rows(N, columns=columns), 1e-12, 1e-9)


def test_numbers_as_categories_in_a_matrix_are_looked_up() -> None:
    x = RANDOM.integers(0, 4, size=(N, 3)).astype(float)
    model = make_pipeline(OneHotEncoder(handle_unknown="ignore"), LogisticRegression()).fit(x, YES)
    with tempfile.TemporaryDirectory() as folder:
        original = opened(model, Path(folder))
        predictor = built(original, build, Path(folder) / "form")
        bad = np.array([[0.0, 1.0, 2.0], [-0.0, 9.0, 1.5], [np.nan, 1.0, 1.0], [np.inf, 1.0, 1.0], [1e39, 0.0, 3.0]])
        agree_or_refuse(predictor, original, Rows(len(bad), matrix=bad), 1e-12, 1e-9)


def test_what_has_no_program_says_which_part(tmp_path: Path) -> None:
    encode = ColumnTransformer([("c", OneHotEncoder(), ["city"])])
    own = ColumnTransformer([("f", FunctionTransformer(np.nan_to_num), ["age"])])
    models = {
        "KNeighborsClassifier has no column program": make_pipeline(encode, KNeighborsClassifier()).fit(FRAME, YES),
        "code of its own": make_pipeline(own, LogisticRegression()).fit(WHOLE, YES),
    }
    for number, (words, model) in enumerate(models.items()):
        original = opened(model, tmp_path, f"{number}.joblib")
        with pytest.raises(NotApplicable, match=words):
            build(original, tmp_path)


def test_a_form_holds_no_pickle_and_runs_without_scikit_learn(tmp_path: Path) -> None:
    import subprocess
    import sys

    model = make_pipeline(
        ColumnTransformer([("n", NUMBERS["scaled"](), ["age"]), ("c", OneHotEncoder(), ["city"])]), LogisticRegression()
    ).fit(FRAME, YES)
    original = opened(model, tmp_path)
    built(original, build, tmp_path / "form")
    assert sorted(path.name for path in (tmp_path / "form").iterdir()) == ["arrays.npy", "form.json"]
    script = (
        "import sys; from pathlib import Path; from lagar.runtimes import form\n"
        f"form.open_folder(Path({str(tmp_path / 'form')!r}), 1)\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules} & {'sklearn', 'scipy', 'pandas', 'joblib'}))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
