"""Reference statistics: exact counts over whatever the training data holds."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from conftest import Trained
from lagar import runtimes
from lagar.errors import SetupError
from lagar.intake import profile
from lagar.intake.inspect import find_models
from lagar.intake.profile import Profile, Statistics

ECHO = """
class Echo:
    def load(self, path):
        pass

    def predict(self, rows):
        return [0.0 if row["number"] is None else row["number"] for row in rows]
"""
FIELDS = """
class = "echo:Echo"
[fields.number]
type = "float"
nullable = true
[fields.colour]
type = "string"
nullable = true
[fields.grade]
type = "int"
categories = [1, 2, 3]
nullable = true
[fields.good]
type = "bool"
nullable = true
"""


@pytest.fixture
def echo(tmp_path: Path) -> Path:
    folder = tmp_path / "echo"
    folder.mkdir()
    (folder / "lagar.toml").write_text(FIELDS)
    (folder / "echo.py").write_text(ECHO)
    return folder


def described(model: Path, data: Path, **options: Any) -> Profile:
    (source,) = find_models([model], **options).sources
    found = profile.describe(source, runtimes.load(source).signature, data)
    return profile.decode(profile.encode(found))


def written(path: Path, frame: pd.DataFrame) -> Path:
    """The frame as the file that its suffix says."""
    if path.suffix == ".csv":
        frame.to_csv(path, index=False)
    elif path.suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_json(path, orient="records", lines=path.suffix == ".ndjson")
    return path


def counted(field: Statistics) -> int:
    return sum(field.counts) + sum(count for _, count in field.values) + field.other


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".json", ".ndjson"])
def test_numbers_have_twenty_bins_of_quantiles(wine: Trained, tmp_path: Path, suffix: str) -> None:
    frame = wine.rows.assign(target=1)
    found = described(wine.path, written(tmp_path / f"train{suffix}", frame))
    assert found.rows == len(frame)
    assert found.skipped_columns == ("target",)
    alcohol = found.fields["alcohol"]
    column = frame["alcohol"].to_numpy()
    assert alcohol.kind == "numeric"
    assert len(alcohol.edges) == 21
    assert len(alcohol.counts) == 20
    assert alcohol.counts == tuple(np.histogram(column, bins=np.array(alcohol.edges))[0])
    assert counted(alcohol) == alcohol.n == len(frame)
    assert (alcohol.min, alcohol.max) == (column.min(), column.max())
    assert alcohol.sum == pytest.approx(column.sum(), rel=1e-12)
    assert alcohol.sumsq == pytest.approx((column**2).sum(), rel=1e-12)


def test_a_classifier_has_its_labels_and_scores(wine: Trained, tmp_path: Path) -> None:
    found = described(wine.path, written(tmp_path / "train.csv", wine.rows))
    labels = Counter(wine.model.predict(wine.rows).tolist())
    assert dict(found.outputs["predict"].values) == labels
    assert found.scores is not None
    assert found.scores.of is None, "of three classes: the predicted one's"
    assert {label: sum(cells.values()) for label, cells in found.scores.counts.items()} == {
        str(label): count for label, count in labels.items()
    }
    certain = wine.model.predict_proba(wine.rows).max(axis=1) == 1.0
    assert sum(cells.get("1023", 0) for cells in found.scores.counts.values()) == certain.sum()


def test_nulls_infinities_and_unknown_values_are_counted(echo: Path, tmp_path: Path) -> None:
    data = tmp_path / "train.csv"
    data.write_text(
        "number,colour,grade,good\n1.5,red,1,true\n,red,2,false\ninf,blue,3,\n-inf,,9,TRUE\nNaN,NA,,true\n2,None,2.0,x\n"
    )
    found = described(echo, data)
    number, colour, grade, good = (found.fields[name] for name in ("number", "colour", "grade", "good"))
    assert (number.n, number.missing, number.inf) == (2, 2, 2)
    assert dict(number.values) == {1.5: 1, 2.0: 1}
    assert dict(colour.values) == {"red": 2, "blue": 1, "NA": 1, "None": 1}
    assert colour.missing == 1
    assert dict(grade.values) == {1: 1, 2: 2, 3: 1, "9": 1}
    assert grade.missing == 1
    assert dict(good.values) == {True: 3, False: 1, "x": 1}
    assert found.scored_rows == 3, "rows that the model would refuse are not asked"


def test_a_constant_column_one_row_and_an_empty_column(echo: Path, tmp_path: Path) -> None:
    data = tmp_path / "train.csv"
    data.write_text("number,colour,grade,good\n7,,1,true\n")
    found = described(echo, data)
    assert found.rows == 1
    assert found.fields["number"].values == ((7.0, 1),)
    assert (found.fields["number"].min, found.fields["number"].max) == (7.0, 7.0)
    assert (found.fields["colour"].n, found.fields["colour"].missing) == (0, 1)
    data.write_text("number,colour,grade,good\n,,,\n,,,\n")
    found = described(echo, data)
    assert (found.fields["number"].n, found.fields["number"].missing, found.fields["number"].sum) == (0, 2, None)


def test_many_equal_values_give_fewer_bins(echo: Path, tmp_path: Path) -> None:
    numbers = [0.0] * 900 + [float(i) for i in range(100)]
    frame = pd.DataFrame({"number": numbers, "colour": "x", "grade": 1, "good": True})
    number = described(echo, written(tmp_path / "train.csv", frame)).fields["number"]
    assert number.kind == "numeric"
    assert len(number.edges) == len(set(number.edges)) < 21
    assert counted(number) == 1000


def test_the_fifty_most_frequent_values_and_the_rest(echo: Path, tmp_path: Path) -> None:
    colours = [f"c{i}" for i in range(80) for _ in range(80 - i)] + ["z" * 500]
    frame = pd.DataFrame({"number": 1.0, "colour": colours, "grade": 1, "good": True})
    colour = described(echo, written(tmp_path / "train.parquet", frame)).fields["colour"]
    assert [value for value, _ in colour.values] == [f"c{i}" for i in range(50)]
    assert colour.values[0] == ("c0", 80)
    assert colour.other == sum(80 - i for i in range(50, 80)) + 1
    assert counted(colour) == len(colours)


def test_a_file_of_many_chunks_is_counted_exactly(echo: Path, tmp_path: Path) -> None:
    path = tmp_path / "train.parquet"
    generator = np.random.default_rng(1)
    total = np.zeros(0)
    schema = pa.schema([("number", pa.float64()), ("colour", pa.string()), ("grade", pa.int64()), ("good", pa.bool_())])
    with parquet.ParquetWriter(path, schema) as writer:
        for part in range(5):
            numbers = generator.normal(part, 1, 60_000)
            total = np.concatenate([total, numbers])
            columns = [numbers, ["red", "blue"] * 30_000, [1, 2, 3] * 20_000, [True, False] * 30_000]
            writer.write_table(pa.table(dict(zip(schema.names, columns, strict=True)), schema=schema))
    found = described(echo, path)
    number = found.fields["number"]
    assert found.rows == number.n == sum(number.counts) == 300_000
    assert number.sum == pytest.approx(total.sum(), rel=1e-9)
    assert number.counts == tuple(np.histogram(total, bins=np.array(number.edges))[0])
    assert max(abs(count - 15_000) for count in number.counts) < 600, "quantiles of a sample are near those of all"
    assert dict(found.fields["colour"].values) == {"red": 150_000, "blue": 150_000}
    assert found.scored_rows == 100_000
    assert counted(found.outputs["predict"]) == 100_000


def test_semicolons_decimal_commas_latin_1_and_a_byte_order_mark(echo: Path, tmp_path: Path) -> None:
    data = tmp_path / "train.csv"
    data.write_bytes("number;colour;grade;good\n1,5;maçã;1;true\n1.200,5;maçã;2;false\n".encode("latin-1"))
    found = described(echo, data)
    assert found.fields["number"].sum == 1202.0
    assert dict(found.fields["colour"].values) == {"maçã": 2}
    data.write_bytes(b"\xef\xbb\xbfnumber,colour,grade,good\n1,a,1,true\n")
    assert described(echo, data).rows == 1


def test_columns_without_names_count_in_their_order(logistic: Trained, tmp_path: Path) -> None:
    data = tmp_path / "train.csv"
    pd.DataFrame(logistic.rows, columns=list("abcd")).to_csv(data, index=False)
    found = described(logistic.path, data)
    assert found.fields["x0"].sum == pytest.approx(logistic.rows[:, 0].sum())
    assert found.scored_rows == len(logistic.rows)


def test_texts_and_dictionaries_are_described(churn: Trained, text: Trained, tmp_path: Path) -> None:
    found = described(churn.path, written(tmp_path / "churn.ndjson", pd.DataFrame(churn.records)))
    assert dict(found.fields["contract"].values) == Counter(record["contract"] for record in churn.records)
    assert found.scores is not None
    assert found.scores.of == 1
    found = described(text.path, written(tmp_path / "text.json", pd.DataFrame(text.records)))
    assert found.scored_rows == len(text.records)


def test_a_preprocess_is_run_on_the_data(tmp_path: Path, echo: Path) -> None:
    (echo / "handlers.py").write_text(
        "def preprocess(records):\n    return [{'number': r['n'] * 2, 'colour': r['c'], 'grade': 1, 'good': True} "
        "for r in records]\n"
    )
    (echo / "lagar.toml").write_text(f'example = "example.json"\n{FIELDS}')
    (echo / "example.json").write_text('[{"n": 1, "c": "red"}]')
    data = tmp_path / "train.csv"
    data.write_text("n,c\n1,red\n2.5,blue\n")
    found = described(echo, data)
    assert found.fields["number"].sum == 7.0
    assert dict(found.fields["colour"].values) == {"red": 1, "blue": 1}


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        (
            "a.csv",
            "numbr,colour,grade,good\n1,a,1,true\n",
            "lacks 'number'; its columns are 'numbr', .* is it 'numbr'?",
        ),
        ("b.csv", "number,colour,grade,good\n1,a,1,true\nabc,a,1,true\n", "column 'number' has 'abc' in row 1"),
        ("c.csv", "number,colour,grade,good\n1,a,1\n", "is not CSV"),
        ("d.csv", "number,number,grade,good\n1,a,1,x\n", "the column 'number' twice"),
        ("e.csv", "number,colour,grade,good\n", "has no rows"),
        ("f.csv", "", "has no header"),
        ("g.parquet", "not parquet", "is not Parquet"),
        ("h.ndjson", '{"number": 1}\n[1]\n', "line 2 is no JSON object"),
        ("i.json", "{", "is not JSON"),
        ("j.xlsx", "x", "expected .csv"),
    ],
)
def test_wrong_data_is_refused_with_the_place(echo: Path, tmp_path: Path, name: str, text: str, words: str) -> None:
    data = tmp_path / name
    data.write_text(text)
    with pytest.raises(SetupError, match=words):
        described(echo, data)


def test_the_file_has_no_numbers_that_json_lacks(echo: Path, tmp_path: Path) -> None:
    data = tmp_path / "train.csv"
    data.write_text("number,colour,grade,good\n1e300,a,1,true\ninf,a,1,true\n")
    (source,) = find_models([echo]).sources
    encoded = profile.encode(profile.describe(source, runtimes.load(source).signature, data))

    def refuse(text: str) -> float:
        raise AssertionError(text)

    content = json.loads(encoded, parse_constant=refuse)
    assert content["format"] == 1
    assert math.isfinite(content["fields"]["number"]["max"])
    assert "sumsq" not in content["fields"]["number"], "1e600 is no float64"
