"""Golden rows: what is recorded, and which difference at a later load is one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from conftest import Trained
from lagar import runtimes
from lagar.errors import LoadFailed
from lagar.intake import golden
from lagar.intake.inspect import find_models
from lagar.registry import manifest as manifests
from lagar.registry.manifest import Form, Golden, Manifest, Provenance
from lagar.registry.model import LoadedModel
from lagar.types import Outputs, Rows


def load(path: Path, **options: Any) -> LoadedModel:
    return runtimes.load(find_models([path], **options).sources[0])


def manifest(model: LoadedModel, recorded: Golden, libraries: dict[str, str] | None = None) -> Manifest:
    """A version of the model, once through its file."""
    form = Form("original", model.source.kind, "model", (), libraries=libraries or model.libraries)
    made = Manifest(
        format=1, model=model.source.name, version="2", signature=model.signature, forms=(form,), golden=recorded,
        python="3", libraries=libraries or model.libraries, provenance=Provenance("me", "here", 0.0, "model", "0"),
    )  # fmt: skip
    return manifests.decode(manifests.encode(made))


def altered(version: Manifest, name: str, row: int, value: Any) -> Manifest:
    outputs = {key: list(values) for key, values in version.golden.outputs.items()}
    outputs[name][row] = value
    return msgspec.structs.replace(version, golden=Golden(version.golden.records, outputs))


class Answering:
    """A predictor that changes what another answers."""

    def __init__(self, model: LoadedModel, change: Callable[[np.ndarray[Any, Any]], Any], name: str) -> None:
        self._model, self._change, self._name = model, change, name

    def predict(self, rows: Rows, outputs: tuple[str, ...]) -> Outputs:
        found = self._model.predictor.predict(rows, outputs)
        return {**found, self._name: self._change(found[self._name])}

    def close(self) -> None:
        """Nothing is held."""


@pytest.mark.parametrize("name", ["wine", "logistic", "churn", "text"])
def test_a_version_keeps_its_own_golden_rows(name: str, request: pytest.FixtureRequest) -> None:
    model = load(request.getfixturevalue(name).path)
    recorded = golden.record(model)
    assert len(recorded.golden.records) >= 5
    golden.check(manifest(model, recorded.golden), model.predictor)


def test_rows_come_from_the_example_when_there_is_one(churn: Trained, tmp_path: Path) -> None:
    example = tmp_path / "example.json"
    example.write_text(json.dumps(churn.records))
    recorded = golden.record(load(churn.path, example=example), example)
    assert all(record in churn.records for record in recorded.golden.records)
    assert {record["contract"] for record in recorded.golden.records} == {"month-to-month", "one_year", "two_year"}
    assert "from the example" in recorded.words[0]


def test_made_rows_show_every_category(churn: Trained) -> None:
    recorded = golden.record(load(churn.path))
    assert {record["contract"] for record in recorded.golden.records} == {"month-to-month", "one_year", "two_year"}
    assert {record["paperless"] for record in recorded.golden.records} == {"yes", "no"}
    assert len({record["charges"] for record in recorded.golden.records}) > 5
    assert "made from the signature" in recorded.words[0]


def test_rows_without_names_count_in_their_order(logistic: Trained, tmp_path: Path) -> None:
    example = tmp_path / "example.json"
    example.write_text(json.dumps(logistic.rows[:3].tolist()))
    recorded = golden.record(load(logistic.path, example=example), example)
    assert [list(record.values()) for record in recorded.golden.records] == logistic.rows[:3].tolist()


def test_a_difference_names_row_output_both_values_and_both_versions(wine: Trained) -> None:
    model = load(wine.path)
    version = manifest(model, golden.record(model).golden, {"scikit-learn": "0.1.0"})
    was = version.golden.outputs["predict"][3]
    here = model.libraries["scikit-learn"]
    with pytest.raises(LoadFailed) as caught:
        golden.check(altered(version, "predict", 3, was + 1), model.predictor)
    message = caught.value.message
    assert f"wine@2: golden row 3, output 'predict': recorded {was + 1}, got {was}" in message
    assert f"recorded with scikit-learn 0.1.0 and {here} is installed" in message
    assert "pip install scikit-learn==0.1.0, or push the model again" in message


def test_with_the_recorded_libraries_the_file_or_the_machine_is_named(wine: Trained) -> None:
    model = load(wine.path)
    version = manifest(model, golden.record(model).golden)
    with pytest.raises(LoadFailed, match="recorded versions, so the file or the machine differs"):
        golden.check(altered(version, "predict", 0, 7), model.predictor)


def test_the_order_of_a_sum_is_no_difference_and_more_is(logistic: Trained) -> None:
    model = load(logistic.path)
    version = manifest(model, golden.record(model).golden)
    golden.check(version, Answering(model, lambda values: values * (1 + 1e-12), "predict_proba"))
    with pytest.raises(LoadFailed, match="predict_proba"):
        golden.check(version, Answering(model, lambda values: values * (1 + 1e-7), "predict_proba"))


def test_labels_are_exact_in_value_and_type(logistic: Trained) -> None:
    model = load(logistic.path)
    version = manifest(model, golden.record(model).golden)
    with pytest.raises(LoadFailed, match=r"recorded \d, got \d\.0"):
        golden.check(version, Answering(model, lambda values: values.astype(float), "predict"))


def test_another_shape_is_a_difference(logistic: Trained) -> None:
    model = load(logistic.path)
    version = manifest(model, golden.record(model).golden)
    with pytest.raises(LoadFailed, match="output 'predict_proba'"):
        golden.check(version, Answering(model, lambda values: values[:, :2], "predict_proba"))
    with pytest.raises(LoadFailed, match=r"recorded '\d+ rows', got '1 rows'"):
        golden.check(version, Answering(model, lambda values: values[:1], "predict_proba"))


def test_a_model_that_fails_on_golden_rows_is_refused(logistic: Trained) -> None:
    def fail(values: Any) -> Any:
        raise RuntimeError("no such attribute")

    model = load(logistic.path)
    version = manifest(model, golden.record(model).golden)
    with pytest.raises(LoadFailed, match="does not answer its golden rows: RuntimeError: no such attribute"):
        golden.check(version, Answering(model, fail, "predict"))


def custom(folder: Path, predict: str) -> LoadedModel:
    folder.mkdir()
    (folder / "lagar.toml").write_text('class = "c:C"\n[fields.x]\ntype = "float"\n')
    load_text = "class C:\n    def load(self, path):\n        pass\n"
    (folder / "c.py").write_text(f"{load_text}    def predict(self, rows):\n{predict}")
    return load(folder)


def test_numbers_that_json_lacks_are_recorded_and_compared(tmp_path: Path) -> None:
    predict = "        return [[float('nan'), float('inf'), -float('inf'), 1.5] for row in rows]\n"
    model = custom(tmp_path / "m", predict)
    recorded = golden.record(model)
    assert recorded.golden.outputs["predict"][0] == ["NaN", "Infinity", "-Infinity", 1.5]
    golden.check(manifest(model, recorded.golden), model.predictor)


def test_an_output_that_changes_from_call_to_call_is_left_out_and_said(tmp_path: Path) -> None:
    predict = (
        "        import random\n"
        "        return {'steady': [1] * len(rows), 'loose': [random.random() for row in rows]}\n"
    )
    model = custom(tmp_path / "m", predict)
    recorded = golden.record(model)
    assert recorded.golden.outputs.keys() == {"steady"}
    assert any("loose is not the same in two calls" in text for text in recorded.words)
    golden.check(manifest(model, recorded.golden), model.predictor)


def test_rows_that_the_model_refuses_are_not_recorded(tmp_path: Path) -> None:
    predict = (
        "        if any(row['x'] > 0 for row in rows):\n            raise ValueError('too large')\n"
        "        return [row['x'] for row in rows]\n"
    )
    model = custom(tmp_path / "m", predict)
    recorded = golden.record(model)
    assert recorded.golden.records
    assert all(record["x"] <= 0 for record in recorded.golden.records)


def test_32_bit_models_may_differ_by_their_own_precision(tmp_path: Path) -> None:
    predict = (
        "        import numpy as np\n        return np.array([row['x'] * 1.1 + 1 for row in rows], dtype=np.float32)\n"
    )
    model = custom(tmp_path / "m", predict)
    version = manifest(model, golden.record(model).golden)
    golden.check(version, Answering(model, lambda values: values * (1 + 1e-7), "predict"))
    with pytest.raises(LoadFailed):
        golden.check(version, Answering(model, lambda values: values * (1 + 1e-5), "predict"))


def test_a_model_of_unknown_width_is_recorded_too(tmp_path: Path) -> None:
    import joblib
    from sklearn.preprocessing import FunctionTransformer

    path = tmp_path / "double.joblib"
    joblib.dump(FunctionTransformer(np.square).fit([[1.0]]), path)
    model = load(path)
    golden.check(manifest(model, golden.record(model).golden), model.predictor)
