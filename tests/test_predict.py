from __future__ import annotations

import csv
import io
import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from conftest import Trained
from lagar import runtimes
from lagar.cli.predict import score
from lagar.cli.reading import FORMATS, SUFFIXES, Source
from lagar.cli.writing import Target
from lagar.errors import InvalidInput, ModelFailed, RequestError
from lagar.intake.inspect import find_models
from lagar.protocols.native import NativeAdapter
from lagar.registry.model import LoadedModel
from support.server import LAGAR, clean_env
from support.server import lagar as run_lagar

HANDLERS = """
def preprocess(records):
    return [{name.lower(): value for name, value in record.items()} for record in records]


def postprocess(outputs, records):
    return {"n": len(records), "first": outputs["predict"][0]}
"""


def load(path: Path) -> LoadedModel:
    (source,) = find_models([path]).sources
    return runtimes.load(source)


def write(frame: pd.DataFrame, path: Path) -> Path:
    kind = SUFFIXES[path.suffix]
    if kind == "csv":
        frame.to_csv(path, index=False)
    elif kind == "parquet":
        frame.to_parquet(path, index=False)
    else:
        frame.to_json(path, orient="records", lines=kind == "ndjson", double_precision=15)
    return path


def predictions(path: Path) -> list[Any]:
    """The predictions in a file that `lagar predict` wrote."""
    kind = SUFFIXES[path.suffix]
    if kind == "json":
        found: list[Any] = json.loads(path.read_text())["predictions"]
        return found
    if kind == "parquet":
        return list(pq.read_table(path)["prediction"].to_pylist())
    if kind == "ndjson":
        return [json.loads(line)["prediction"] for line in path.read_text().splitlines()]
    return [int(row["prediction"]) for row in csv.DictReader(path.read_text().splitlines())]


def run(loaded: LoadedModel, file: Path, output: Path, piece_rows: int = 20) -> None:
    source = Source(str(file), piece_rows=piece_rows)
    try:
        with Target(output) as target:
            score(loaded, source, target, SUFFIXES[output.suffix])
    finally:
        source.close()


@pytest.mark.parametrize("into", FORMATS)
@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_goes_in_and_out_in_pieces(wine: Trained, tmp_path: Path, kind: str, into: str) -> None:
    file = write(wine.rows.iloc[:50], tmp_path / f"rows.{kind}")
    output = tmp_path / f"out.{into}"
    run(load(wine.path), file, output)
    assert predictions(output) == wine.model.predict(wine.rows.iloc[:50]).tolist()


def test_json_is_the_answer_of_the_server(wine: Trained, tmp_path: Path) -> None:
    file = write(wine.rows.iloc[:45], tmp_path / "rows.csv")
    run(load(wine.path), file, tmp_path / "out.json")
    answer = json.loads((tmp_path / "out.json").read_text())
    assert (answer["model"], answer["version"], answer["id"]) == ("wine", "1", "rows.csv")
    assert answer["ids"] == [f"rows.csv:{row}" for row in range(45)]
    assert answer["classes"] == [0, 1, 2]
    np.testing.assert_array_equal(answer["probabilities"], wine.model.predict_proba(wine.rows.iloc[:45]))


def test_ids_of_the_file_are_kept(wine: Trained, tmp_path: Path) -> None:
    frame = wine.rows.iloc[:45].assign(id=[f"bottle {i}" for i in range(45)])
    for kind in ("csv", "parquet", "ndjson"):
        output = tmp_path / "out.csv"
        run(load(wine.path), write(frame, tmp_path / f"rows.{kind}"), output)
        assert [row["id"] for row in csv.DictReader(output.read_text().splitlines())] == frame["id"].tolist()


@pytest.mark.parametrize("kind", ["csv", "ndjson", "parquet", "json"])
def test_a_bad_row_is_named_as_in_the_file_and_in_the_servers_words(churn: Trained, tmp_path: Path, kind: str) -> None:
    frame = pd.DataFrame(churn.records)
    frame.loc[77, "contract"] = "row 3"
    file = write(frame, tmp_path / f"rows.{kind}")
    output = tmp_path / "out.csv"
    output.write_text("what was there")
    loaded = load(churn.path)
    with pytest.raises(InvalidInput) as caught:
        run(loaded, file, output)
    assert (caught.value.field, caught.value.row) == ("contract", 77)
    assert f"{caught.value.message}; see GET /models/churn" == server_says(loaded, frame)
    assert 'got "row 3" in row 77' in caught.value.message
    assert output.read_text() == "what was there"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.csv", file.name]


def server_says(loaded: LoadedModel, frame: pd.DataFrame) -> str:
    class Served:
        name, version = loaded.source.name, loaded.source.version
        signature, handlers = loaded.signature, loaded.handlers
        native_outputs = loaded.signature.native_outputs

    with pytest.raises(RequestError) as caught:
        NativeAdapter(Served()).decode(frame.to_json(orient="records").encode(), "r")
    return caught.value.message


def test_a_ragged_line_and_a_blank_one_are_numbered_as_in_the_file(wine: Trained, tmp_path: Path) -> None:
    text = wine.rows.iloc[:60].to_csv(index=False).splitlines()
    loaded = load(wine.path)
    for bad in ("1,2", ""):
        (tmp_path / "rows.csv").write_text("\n".join([*text[:46], bad, *text[46:]]))
        with pytest.raises(InvalidInput, match=r"row 45 (has 2 cells|is blank)") as caught:
            run(loaded, tmp_path / "rows.csv", tmp_path / "out.csv")
        assert caught.value.row == 45


def test_blank_lines_at_the_end_are_nothing(wine: Trained, tmp_path: Path) -> None:
    for kind in ("csv", "ndjson"):
        file = write(wine.rows.iloc[:40], tmp_path / f"rows.{kind}")
        with file.open("a") as stream:
            stream.write("\n\n\n")
        run(load(wine.path), file, tmp_path / "out.csv")
        assert len(predictions(tmp_path / "out.csv")) == 40


def test_cells_with_line_ends_quotes_and_commas_do_not_break_a_piece(text: Trained, tmp_path: Path) -> None:
    names = [f'Livro\nde "{i}", histórias' if i % 3 else "Boneca de pano" for i in range(60)]
    pd.DataFrame({"text": names}).to_csv(tmp_path / "rows.csv", index=False)
    run(load(text.path), tmp_path / "rows.csv", tmp_path / "out.parquet", piece_rows=7)
    found = pq.read_table(tmp_path / "out.parquet")["prediction"].to_pylist()
    assert found == text.model.predict(names).tolist()


@pytest.mark.parametrize(("mark", "bom"), [(";", ""), ("\t", ""), (",", "\ufeff"), (";", "\ufeff")])
def test_csv_of_spreadsheets_is_read(wine: Trained, tmp_path: Path, mark: str, bom: str) -> None:
    (tmp_path / "rows.csv").write_text(bom + wine.rows.iloc[:45].to_csv(index=False, sep=mark), encoding="utf-8")
    run(load(wine.path), tmp_path / "rows.csv", tmp_path / "out.csv")
    assert predictions(tmp_path / "out.csv") == wine.model.predict(wine.rows.iloc[:45]).tolist()


@pytest.mark.parametrize("name", ["empty.csv", "header.csv", "empty.ndjson", "empty.json", "list.json", "rows.parquet"])
def test_a_file_without_rows_is_refused(wine: Trained, tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    if name == "rows.parquet":
        write(wine.rows.iloc[:0], file)
    else:
        file.write_text({"header.csv": ",".join(wine.rows.columns), "list.json": "[]"}.get(name, ""))
    with pytest.raises(RequestError):
        run(load(wine.path), file, tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()


def test_a_file_that_is_not_what_its_name_says_is_refused(wine: Trained, tmp_path: Path) -> None:
    for kind in FORMATS:
        (tmp_path / f"rows.{kind}").write_bytes(b"\x00\xff\xfe nothing of this")
        with pytest.raises(RequestError):
            run(load(wine.path), tmp_path / f"rows.{kind}", tmp_path / "out.csv")


def test_handlers_run_as_in_the_server(wine: Trained, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "wine.joblib").write_bytes(wine.path.read_bytes())
    (folder / "handlers.py").write_text(HANDLERS)
    (folder / "lagar.toml").write_text('name = "wine"\n')
    file = write(wine.rows.iloc[:45].rename(columns=str.upper), tmp_path / "rows.csv")
    loaded = load(folder)
    run(loaded, file, tmp_path / "out.json")
    first = int(wine.model.predict(wine.rows.iloc[:1])[0])
    assert json.loads((tmp_path / "out.json").read_text()) == {"n": 45, "first": first}
    run(loaded, file, tmp_path / "out.csv")  # a table has no place for what a postprocess shapes
    assert predictions(tmp_path / "out.csv") == wine.model.predict(wine.rows.iloc[:45]).tolist()


def test_a_postprocess_sees_the_records_as_sent_though_preprocess_changes_its_own(
    wine: Trained, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "wine.joblib").write_bytes(wine.path.read_bytes())
    (folder / "handlers.py").write_text(
        "def preprocess(records):\n"
        "    for record in records:\n"
        "        record['alcohol'] = record.pop('grade')\n"
        "    return records\n"
        "def postprocess(outputs, records):\n"
        "    return ['grade' in records[0], 'alcohol' in records[0]]\n"
    )
    (folder / "lagar.toml").write_text('name = "wine"\n')
    file = write(wine.rows.iloc[:1].rename(columns={"alcohol": "grade"}), tmp_path / "rows.csv")
    run(load(folder), file, tmp_path / "out.json")
    assert json.loads((tmp_path / "out.json").read_text()) == [True, False]


def test_a_model_that_fails_says_on_which_rows_and_why(wine: Trained, tmp_path: Path) -> None:
    loaded = load(wine.path)

    class Failing:
        calls = 0

        def predict(self, rows: Any, outputs: tuple[str, ...]) -> Any:
            self.calls += 1
            if self.calls == 2:
                raise RuntimeError("no luck\nat all")
            return {name: np.zeros(rows.n) for name in outputs}

        def close(self) -> None: ...

    loaded.predictor = Failing()
    file = write(wine.rows.iloc[:45], tmp_path / "rows.csv")
    with pytest.raises(ModelFailed, match="the model failed on rows 20 to 39: RuntimeError: no luck at all"):
        run(loaded, file, tmp_path / "out.csv")


def test_a_name_without_a_suffix_is_read_by_its_content(wine: Trained, tmp_path: Path) -> None:
    frame = wine.rows.iloc[:3]
    parquet = io.BytesIO()
    frame.to_parquet(parquet, index=False)
    records = frame.to_json(orient="records", double_precision=15)
    loaded = load(wine.path)
    for kind, body in (
        ("csv", frame.to_csv(index=False).encode()),
        ("json", records.encode()),
        ("json", json.dumps(json.loads(records), indent=1).encode()),
        ("json", json.dumps({"instances": frame.to_numpy().tolist()}).encode() + b"\n\n"),
        ("ndjson", frame.to_json(orient="records", lines=True, double_precision=15).encode()),
        ("parquet", parquet.getvalue()),
    ):
        (tmp_path / "rows").write_bytes(body)
        source = Source(str(tmp_path / "rows"))
        assert source.format == kind
        source.close()
        run(loaded, tmp_path / "rows", tmp_path / "out.json")
        assert predictions(tmp_path / "out.json") == wine.model.predict(frame).tolist()


def test_the_command_reads_stdin_and_writes_json(wine: Trained, tmp_path: Path) -> None:
    parquet = io.BytesIO()
    wine.rows.iloc[:3].to_parquet(parquet, index=False)
    done = subprocess.run(
        [LAGAR, "predict", str(wine.path), "-"],
        input=parquet.getvalue(),
        capture_output=True,
        env=clean_env(tmp_path),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["predictions"] == wine.model.predict(wine.rows.iloc[:3]).tolist()


def test_what_a_class_prints_does_not_stand_between_the_data(tmp_path: Path) -> None:
    (tmp_path / "loud.py").write_text(
        "import os\n"
        "class Loud:\n"
        "    def load(self, path):\n"
        "        print('loading')\n"
        "    def predict(self, rows):\n"
        "        print('predicting')\n"
        "        os.write(1, b'from C')\n"
        "        return [row['x'] for row in rows]\n"
    )
    (tmp_path / "lagar.toml").write_text('class = "loud:Loud"\n[fields]\nx = { type = "int" }\n')
    (tmp_path / "rows.csv").write_text("x\n1\n2\n")
    done = run_lagar("predict", tmp_path, tmp_path / "rows.csv", home=tmp_path / "home")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["predictions"] == [1, 2]
    assert all(word in done.stderr for word in ("loading", "predicting", "from C"))


def test_what_handlers_print_is_never_on_stdout_and_their_sys_exit_says_a_word(wine: Trained, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "wine.joblib").write_bytes(wine.path.read_bytes())
    (tmp_path / "m" / "lagar.toml").write_text("")
    handlers = tmp_path / "m" / "handlers.py"
    handlers.write_text("import sys\nprint('hello')\ndef preprocess(records):\n    return records\n")
    rows = write(wine.rows.iloc[:2], tmp_path / "rows.csv")
    done = run_lagar("predict", tmp_path / "m", rows, "-o", tmp_path / "out.json", home=tmp_path / "home")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert "hello" in done.stderr
    handlers.write_text(handlers.read_text() + "sys.exit(3)\n")
    done = run_lagar("predict", tmp_path / "m", rows, home=tmp_path / "home")
    assert (done.returncode, done.stdout) == (1, "")
    assert "handlers.py does not import: SystemExit: 3" in done.stderr


def test_the_file_of_rows_is_never_written_over(wine: Trained, tmp_path: Path) -> None:
    rows = write(wine.rows.iloc[:2], tmp_path / "rows.csv")
    before = rows.read_bytes()
    (tmp_path / "link.csv").symlink_to(rows)
    for name in ("rows.csv", "link.csv"):
        done = run_lagar("predict", wine.path, rows, "-o", tmp_path / name, home=tmp_path / "home")
        assert done.returncode == 1
        assert f"{name} is the file of rows itself: give the answers another name" in done.stderr
        assert rows.read_bytes() == before


def test_the_command_ends_with_1_and_one_line_on_a_bad_row(wine: Trained, tmp_path: Path) -> None:
    frame = wine.rows.iloc[:5].astype(object)
    frame.iloc[3, 0] = "strong"
    file = write(frame, tmp_path / "rows.csv")
    done = run_lagar("predict", wine.path, file, "-o", tmp_path / "out.csv", home=tmp_path / "home")
    assert done.returncode == 1
    assert done.stderr.startswith("lagar: input 'alcohol' must be a number, got \"strong\" in row 3")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out.csv").exists()
    assert not (tmp_path / "home").exists()


def test_what_is_wrong_with_the_command_is_one_line(wine: Trained, tmp_path: Path) -> None:
    file = write(wine.rows.iloc[:5], tmp_path / "rows.csv")
    for args, code, words in (
        ([wine.path, tmp_path / "none.csv"], 1, "cannot be read"),
        ([wine.path, tmp_path], 1, "cannot be read"),
        ([tmp_path / "none.joblib", file], 1, "none.joblib"),
        ([wine.path, file, "--format", "xml"], 2, "must be one of json, csv, ndjson, parquet, got 'xml'"),
        ([wine.path, file, "-o", tmp_path / "out.xlsx"], 2, "does not say a format"),
        ([wine.path, file, "-o", tmp_path / "no" / "out.csv"], 1, "cannot be written"),
        ([wine.path, file, "--example", tmp_path / "none.csv"], 1, "none.csv"),
        ([wine.path], 2, "FILE"),
    ):
        done = run_lagar("predict", *args, home=tmp_path / "home")
        assert done.returncode == code, args
        assert words in done.stderr, args
        assert done.stderr.startswith("lagar: ")
        assert done.stderr.count("\n") == 1


def test_of_several_models_one_must_be_named_and_of_versions_the_greatest_answers(
    wine: Trained, logistic: Trained, tmp_path: Path
) -> None:
    for place in ("m/wine/9", "m/wine/10", "m/other/1"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "model.joblib").write_bytes((logistic if "other" in place else wine).path.read_bytes())
    file = write(wine.rows.iloc[:2], tmp_path / "rows.csv")
    done = run_lagar("predict", tmp_path / "m", file, home=tmp_path / "home")
    assert done.returncode == 1
    assert "holds 2 models (other, wine)" in done.stderr
    (tmp_path / "m" / "other" / "1" / "model.joblib").unlink()
    for folder in (tmp_path / "m" / "other" / "1", tmp_path / "m" / "other"):
        folder.rmdir()
    done = run_lagar("predict", tmp_path / "m", file, home=tmp_path / "home")
    assert json.loads(done.stdout)["version"] == "10"
