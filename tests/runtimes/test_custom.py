"""The user's own code: classes, handlers, functions that a pickle needs, lagar.toml's rules, example files."""

from __future__ import annotations

import pickle
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB

from lagar.errors import InvalidInput, LoadFailed, MissingCode, SetupError
from runtimes.conftest import answers, load, rows_of, same

WINE, KIND = load_wine(return_X_y=True, as_frame=True)


def folder(path: Path, toml: str, **files: str) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    (path / "lagar.toml").write_text(toml, encoding="utf-8")
    for name, text in files.items():
        (path / f"{name}.py").write_text(textwrap.dedent(text), encoding="utf-8")
    return path


ADDER = """
    class Adder:
        def load(self, path):
            self.plus = 10

        def predict(self, rows):
            return [row["a"] + row["b"] + self.plus for row in rows]

        def close(self):
            self.plus = None
"""


def test_a_class_answers_records_with_fields_from_lagar_toml(tmp_path: Path) -> None:
    toml = 'class = "adder:Adder"\n[fields.a]\ntype = "float"\n[fields.b]\ntype = "int"\nrange = [0, 9]\n'
    loaded = load(folder(tmp_path / "sums", toml, adder=ADDER))
    same(answers(loaded, [{"a": 1.5, "b": 2}, {"a": 0, "b": 3}])["predict"], [13.5, 13.0])
    assert (loaded.source.kind, loaded.signature.task, loaded.signature.names) == ("custom", "custom", ("a", "b"))
    with pytest.raises(InvalidInput, match="b"):
        rows_of(loaded, [{"a": 1, "b": 10}])
    loaded.predictor.close()
    assert loaded.predictor._model.plus is None


@pytest.mark.parametrize(
    ("result", "seen"),
    [
        ('[1, "a"]', [1, "a"]),
        ('[True, "a"]', [True, "a"]),
        ('[None, "a"]', [None, "a"]),
        ('["b", "a"]', ["b", "a"]),
        ("[1, 2.5]", [1.0, 2.5]),
        ("[[1], [2, 3]]", [[1], [2, 3]]),
        ("np.ma.masked_array([1.0, 2.0], mask=[True, False])", [None, 2.0]),
    ],
)
def test_what_a_class_answers_keeps_its_types(tmp_path: Path, result: str, seen: list[Any]) -> None:
    code = f"""
        import numpy as np

        class Says:
            def load(self, path):
                pass

            def predict(self, rows):
                return ({result})[: len(rows)]
    """
    loaded = load(folder(tmp_path / "says", 'class = "says:Says"\nfields.a.type = "float"\n', says=code))
    assert answers(loaded, [{"a": 1}, {"a": 2}])["predict"].tolist() == seen


def test_a_class_says_its_fields_by_types(tmp_path: Path) -> None:
    code = """
        from typing import Literal, TypedDict

        class Row(TypedDict):
            size: float
            colour: Literal["red", "blue"]
            floor: int | None

        class Model:
            def load(self, path): ...

            def predict(self, rows: list[Row]):
                return {"price": [row["size"] * 2 for row in rows], "colour": [row["colour"] for row in rows]}
    """
    loaded = load(folder(tmp_path / "typed", 'class = "typed_model:Model"', typed_model=code))
    size, colour, floor = loaded.signature.fields
    assert (size.type, colour.categories, floor.nullable) == ("float", ("red", "blue"), True)
    found = answers(loaded, [{"size": 2, "colour": "blue", "floor": None}])
    assert (found["price"].tolist(), found["colour"].tolist()) == ([4.0], ["blue"])
    assert [output.name for output in loaded.signature.outputs] == ["price", "colour"]


@pytest.mark.parametrize("head", ["", "from __future__ import annotations"])
def test_a_key_that_is_not_required_may_be_left_out(tmp_path: Path, head: str) -> None:
    code = f"""
        {head}
        from typing import NotRequired, TypedDict

        class Row(TypedDict):
            size: float
            floor: NotRequired[int]
            name: NotRequired[str | None]

        class Model:
            def load(self, path): ...

            def predict(self, rows: list[Row]):
                return [repr(sorted(row.items())) for row in rows]
    """
    loaded = load(folder(tmp_path / "typed", 'class = "sparse_model:Model"', sparse_model=code))
    found = answers(loaded, [{"size": 2}, {"size": 2, "floor": 3, "name": "a"}])["predict"].tolist()
    assert found == ["[('name', None), ('size', 2.0)]", "[('floor', 3), ('name', 'a'), ('size', 2.0)]"]


@pytest.mark.parametrize(("hint", "seen"), [("np.ndarray", "ndarray"), ("pd.DataFrame", "DataFrame"), ("list", "list")])
def test_a_class_gets_rows_in_the_shape_it_asks_for(tmp_path: Path, hint: str, seen: str) -> None:
    code = f"""
        import numpy as np
        import pandas as pd

        class Model:
            def load(self, path): ...
            def predict(self, rows: {hint}): return [type(rows).__name__] * len(rows)
    """
    toml = 'class = "shaped:Model"\n[fields.a]\ntype = "float"\n'
    loaded = load(folder(tmp_path / "shaped", toml, shaped=code))
    assert answers(loaded, [{"a": 1}, {"a": 2}])["predict"].tolist() == [seen, seen]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("def load(self, path): ...", r"has no predict\(self, rows\)"),
        (
            "def load(self): ...\n    def predict(self, rows): ...",
            r"load must take 2 argument\(s\): def load\(self, path\)",
        ),
        ("def load(self, path): ...\n    async def predict(self, rows): ...", "predict is async"),
        (
            "def __init__(self, x): ...\n    def load(self, path): ...\n    def predict(self, rows): ...",
            "without arguments",
        ),
        (
            "def load(self, path): open('/no/such')\n    def predict(self, rows): ...",
            "load.* failed: FileNotFoundError",
        ),
        (
            "def load(self, path): ...\n    def predict(self, rows): return [1]*9",
            "gave 9 values of 'predict' for 1 rows",
        ),
        ("def load(self, path): ...\n    def predict(self, rows): return 'x'", "one value per row"),
        *[
            (
                f"def load(self, path): ...\n    def predict(self, rows): return {{'predict': [1], '{name}': [2]}}",
                f"an output called '{name}'; call it otherwise: an answer has id, ids, model, version, classes, ",
            )
            for name in ("id", "ids", "model", "version", "classes", "predictions", "prediction")
        ],
    ],
)
def test_a_class_that_breaks_the_contract_is_refused_at_load(tmp_path: Path, body: str, message: str) -> None:
    made = folder(tmp_path / "bad", 'class = "broken_contract:Model"\n[fields.a]\n')
    (made / "broken_contract.py").write_text(f"class Model:\n    {body}\n")
    with pytest.raises(SetupError, match=message):
        load(made)


def test_a_class_whose_inputs_nobody_says_is_refused_with_what_to_write(tmp_path: Path) -> None:
    with pytest.raises(LoadFailed, match=r"name them in lagar.toml \(\[fields.NAME\]\)"):
        load(folder(tmp_path / "mute", 'class = "adder:Adder"', adder=ADDER))


def test_an_example_file_names_the_inputs_of_a_class(tmp_path: Path) -> None:
    made = folder(tmp_path / "shown", 'class = "adder:Adder"\nexample = "example.json"', adder=ADDER)
    (made / "example.json").write_text('[{"a": 1, "b": 2.5}]')
    loaded = load(made)
    assert loaded.signature.example == ({"a": 1, "b": 2.5},)
    same(answers(loaded, [{"a": 1, "b": 1}])["predict"], [12.0])


def wine_folder(path: Path, toml: str, **files: str) -> Path:
    made = folder(path, toml, **files)
    joblib.dump(GaussianNB().fit(WINE.iloc[:, :2], KIND), made / "model.joblib")
    return made


def test_handlers_are_found_beside_lagar_toml_and_called(tmp_path: Path) -> None:
    code = """
        def preprocess(records):
            return [{"alcohol": r["grade"] / 10, "malic_acid": r.get("acid", 2)} for r in records]

        def postprocess(outputs, records):
            return {"Prediction": outputs["predict"]}
    """
    made = wine_folder(tmp_path / "wine", 'example = "example.json"', handlers=code)
    (made / "example.json").write_text('{"grade": 130}')
    loaded = load(made)
    assert loaded.handlers.has_preprocess
    assert loaded.handlers.has_postprocess
    assert loaded.signature.example == ({"grade": 130},)  # what a caller sends, before preprocess
    assert loaded.probe.matrix.tolist() == [[13.0, 2.0]]  # what the model takes, behind it
    assert loaded.handlers.preprocess([{"grade": 100}]) == [{"alcohol": 10.0, "malic_acid": 2}]
    assert loaded.handlers.postprocess({"predict": [1]}, []) == {"Prediction": [1]}


def test_a_preprocess_that_loses_a_record_fails_instead_of_shifting_answers(tmp_path: Path) -> None:
    code = "def preprocess(records):\n    return [r for r in records if r['alcohol'] > 0]\n"
    loaded = load(wine_folder(tmp_path / "wine", "", handlers=code))
    with pytest.raises(TypeError, match=r"one dict per record \(2\), got list of 1"):
        loaded.handlers.preprocess([{"alcohol": 1.0}, {"alcohol": 0.0}])


def test_two_versions_have_handlers_of_their_own(tmp_path: Path) -> None:
    from lagar import runtimes
    from lagar.intake.inspect import find_models

    for version in ("1.0", "1.1"):
        code = f"from words import V\n\ndef postprocess(outputs, records):\n    return V + '{version}'\n"
        made = wine_folder(tmp_path / "wine" / version, 'code = ["words.py"]', handlers=code)
        (made / "words.py").write_text(f"V = 'v{version}:'")
    first, second = [runtimes.load(source) for source in find_models([tmp_path / "wine"]).sources]
    assert first.handlers.postprocess({}, []) == "v1.0:1.0"
    assert second.handlers.postprocess({}, []) == "v1.1:1.1"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def preprocess(): ...", r"preprocess must take 1 argument"),
        ("def postprocess(outputs): ...", r"postprocess must take 2 argument"),
        ("async def preprocess(records): ...", "preprocess is async"),
        ("preprocess = 3", "must be a function"),
        ("x = 1", "neither preprocess"),
        ("import nothing_of_that_name", "does not import"),
    ],
)
def test_handlers_that_cannot_work_are_refused_at_load(tmp_path: Path, code: str, message: str) -> None:
    with pytest.raises(SetupError, match=message):
        load(wine_folder(tmp_path / "wine", "", handlers=code))


SCRIPT = """
import joblib, numpy as np, sys
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

def double(x):
    return x * 2

x = np.arange(20.0).reshape(10, 2)
joblib.dump(make_pipeline(FunctionTransformer(double), LogisticRegression()).fit(x, [0, 1] * 5), sys.argv[1])
"""


def test_a_function_of_main_is_asked_for_by_name_and_found_in_code(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(SCRIPT)
    path = tmp_path / "pipe.joblib"
    subprocess.run([sys.executable, tmp_path / "train.py", path], check=True)
    with pytest.raises(MissingCode, match=r"`double` from `__main__`.*--code FILE"):
        load(path)
    (tmp_path / "features.py").write_text("import os\n\ndef double(x):\n    return x * 2\n")
    (tmp_path / "other.py").write_text("raise SystemExit('a script that must not be imported')")
    x = np.arange(20.0).reshape(10, 2)
    for code in (tmp_path / "features.py", tmp_path):
        if code == tmp_path:
            (tmp_path / "train.py").unlink()
        loaded = load(path, code=[code])
        assert answers(loaded, x)["predict"].shape == (10,)
    (tmp_path / "features.py").write_text("def triple(x):\n    return x * 3\n")
    with pytest.raises(MissingCode, match="double"):
        load(path, code=[tmp_path / "features.py"])


def test_lagar_toml_rules_the_fields(tmp_path: Path) -> None:
    toml = """
        extra_fields = "refuse"
        [fields.alcohol]
        range = [10, 15]
        [fields.malic_acid]
        default = 2.0
        nullable = false
    """
    loaded = load(wine_folder(tmp_path / "wine", textwrap.dedent(toml)))
    alcohol, acid = loaded.signature.fields
    assert (alcohol.minimum, alcohol.maximum) == (10, 15)
    assert (acid.default, acid.has_default) == (2.0, True)
    assert loaded.signature.extra_fields == "refuse"
    assert 10 <= loaded.signature.example[0]["alcohol"] <= 15


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("[fields.alcohl]\nrange = [1, 2]", r"'alcohl', which the model has not; .*did you mean 'alcohol'"),
        ("[fields.alcohol]\nrage = [1, 2]", r"no key 'rage'; known keys: type, .*did you mean 'range'"),
        ("modle = 'x'", r"no key 'modle'; known keys: name, .*did you mean 'model'"),
        ("[fields.alcohol]\nrange = [2, 1]", r"range is \[min, max\]"),
        ("[fields.alcohol]\nrange = [1, 2]\ndefault = 3", "breaks the field's own rules"),
        ("[fields.alcohol]\ntype = 'string'", "the model takes numbers"),
        ("version = 1", "version must be a text in quotes"),
        ("model = 'gone.joblib'", "gone.joblib does not exist"),
        ("name = 'a b'", "a model's name has 1 to 100 of the characters"),
        ("= 3", "is not valid TOML"),
    ],
)
def test_a_lagar_toml_that_contradicts_itself_or_the_model_is_refused(tmp_path: Path, toml: str, message: str) -> None:
    with pytest.raises(SetupError, match=message):
        load(wine_folder(tmp_path / "wine", toml))


def unnamed(path: Path) -> Path:
    joblib.dump(LogisticRegression(max_iter=5000).fit(WINE.to_numpy()[:, :3], KIND), path)
    return path


def test_an_example_gives_names_ranges_and_rows(tmp_path: Path) -> None:
    path = unnamed(tmp_path / "wine.joblib")
    shown = WINE.iloc[:20, :3]
    shown.to_csv(tmp_path / "comma.csv", index=False)
    shown.to_csv(tmp_path / "semicolon.csv", index=False, sep=";", decimal=",")
    shown.to_parquet(tmp_path / "rows.parquet")
    shown.to_json(tmp_path / "records.json", orient="records")
    shown.to_json(tmp_path / "split.json", orient="split", index=False)
    shown.to_json(tmp_path / "lines.ndjson", orient="records", lines=True)
    for file in ("comma.csv", "semicolon.csv", "rows.parquet", "records.json", "split.json", "lines.ndjson"):
        loaded = load(path, example=tmp_path / file)
        assert loaded.signature.names == tuple(shown.columns), file
        assert loaded.signature.fields[0].seen_max == shown["alcohol"].max(), file
        assert list(loaded.signature.example) == shown.head(5).to_dict(orient="records"), file
        assert f"example {file}" in loaded.signature.origin


def test_an_example_that_does_not_fit_says_why(tmp_path: Path) -> None:
    path = unnamed(tmp_path / "wine.joblib")
    WINE.iloc[:5, :4].to_csv(tmp_path / "wide.csv", index=False)
    with pytest.raises(LoadFailed, match=r"has 4 columns .* the model takes 3; leave out what is no input"):
        load(path, example=tmp_path / "wide.csv")
    pd.DataFrame({"a": ["x"], "b": [1], "c": [2]}).to_csv(tmp_path / "words.csv", index=False)
    with pytest.raises(LoadFailed, match="column 'a' has the text 'x'"):
        load(path, example=tmp_path / "words.csv")
    (tmp_path / "empty.csv").write_text("a,b,c\n")
    with pytest.raises(LoadFailed, match="a header and at least one row"):
        load(path, example=tmp_path / "empty.csv")
    (tmp_path / "bad.json").write_text("{nope")
    with pytest.raises(LoadFailed, match="is not JSON"):
        load(path, example=tmp_path / "bad.json")
    named = tmp_path / "named.joblib"
    joblib.dump(GaussianNB().fit(WINE, KIND), named)
    WINE.head(3).drop(columns="proline").to_csv(tmp_path / "less.csv", index=False)
    with pytest.raises(LoadFailed, match="lacks 'proline'"):
        load(named, example=tmp_path / "less.csv")


def test_a_pickle_of_another_version_is_said_with_both_versions(tmp_path: Path) -> None:
    model = GaussianNB().fit(WINE, KIND)
    data = pickle.dumps(model)
    from sklearn import __version__ as here

    other = "1.4.2"
    assert len(other) == len(here)
    (tmp_path / "old.pkl").write_bytes(data.replace(here.encode(), other.encode()))
    loaded = load(tmp_path / "old.pkl")
    (warning,) = loaded.warnings
    assert f"saved with scikit-learn {other} and running on {here} (GaussianNB)" in warning
    broken = data.replace(b"GaussianNB", b"GaussianXX").replace(here.encode(), other.encode())
    (tmp_path / "gone.pkl").write_bytes(broken)
    with pytest.raises(LoadFailed, match=f"saved with scikit-learn {other}, installed is {here}"):
        load(tmp_path / "gone.pkl")


def test_a_model_that_fails_on_its_example_is_refused_with_its_own_message(tmp_path: Path) -> None:
    code = """
        class Model:
            def load(self, path): ...
            def predict(self, rows): raise RuntimeError("no such table: prices")
    """
    with pytest.raises(LoadFailed, match="RuntimeError: no such table: prices"):
        load(folder(tmp_path / "bad", 'class = "failing:Model"\n[fields.a]', failing=code))


def run_apart(code: str, *arguments: Any) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=True
    )
    return done.stdout


def test_a_missing_library_names_its_extra(tmp_path: Path) -> None:
    import xgboost

    xgboost.XGBClassifier(n_estimators=1).fit(WINE, KIND).save_model(tmp_path / "wine.ubj")
    out = run_apart(
        "import sys; sys.modules['xgboost'] = None\n"
        "from pathlib import Path; from lagar import errors, runtimes; from lagar.intake.inspect import find_models\n"
        "try: runtimes.load(find_models([Path(sys.argv[1])]).sources[0])\n"
        "except errors.MissingLibrary as error: print(error)",
        tmp_path / "wine.ubj",
    )
    assert "pip install 'lagar[xgboost]'" in out


def test_finding_and_loading_import_no_library_that_the_model_does_not_need(tmp_path: Path) -> None:
    import xgboost

    xgboost.XGBClassifier(n_estimators=1).fit(WINE, KIND).save_model(tmp_path / "wine.ubj")
    out = run_apart(
        "import sys; from pathlib import Path\n"
        "from lagar import runtimes; from lagar.intake.inspect import find_models\n"
        "found = find_models([Path(sys.argv[1])])\n"
        "libraries = {'sklearn', 'xgboost', 'lightgbm', 'catboost', 'onnxruntime'}\n"
        "libraries |= {'mlflow', 'yaml', 'pyarrow', 'fastapi'}\n"
        "print(sorted(libraries & set(sys.modules)))\n"
        "runtimes.load(found.sources[0])\n"
        "print(sorted(libraries & set(sys.modules) - {'sklearn', 'pyarrow'}))",  # xgboost imports both by itself
        tmp_path / "wine.ubj",
    )
    assert out.split("\n")[:2] == ["[]", "['xgboost']"]
