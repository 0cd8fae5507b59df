"""MLflow folders without a native flavour: mlflow's own loader, only where --trust says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lagar.errors import InvalidInput, LoadFailed, UnsafePickle, UnsupportedModel
from lagar.intake.inspect import find_models
from lagar.registry.model import LoadedModel
from lagar.runtimes import load
from lagar.runtimes.examples import rows_of

mlflow = pytest.importorskip("mlflow", reason="mlflow-skinny is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")  # mlflow's own deprecations while saving

CODE = """
import mlflow.pyfunc
import pandas as pd
from mlflow.models import set_model


class Model(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
{body}


set_model(Model())
"""


def save(folder: Path, body: str, inputs: Any, outputs: Any = None, params: Any = None, **options: Any) -> Path:
    """An MLflow folder whose model is Python text: `body` has `model_input` and `params`."""
    from mlflow.models import infer_signature

    folder.parent.mkdir(parents=True, exist_ok=True)
    script = folder.parent / f"{folder.name}_code.py"
    script.write_text(CODE.format(body="".join(f"        {line}\n" for line in body.splitlines())))
    signature = None if inputs is None else infer_signature(inputs, outputs, params)
    mlflow.pyfunc.save_model(
        folder, python_model=str(script), signature=signature, pip_requirements=["mlflow"], **options
    )
    return folder


def opened(folder: Path, **options: Any) -> LoadedModel:
    return load(find_models([folder], trust=True, **options).sources[0])


def answers(loaded: LoadedModel, records: list[dict[str, Any]]) -> dict[str, list[Any]]:
    signature = loaded.signature
    assert signature.fields is not None
    rows = rows_of(signature.fields, signature.layout == "matrix", records)
    names = tuple(output.name for output in signature.outputs)
    return {name: values.tolist() for name, values in loaded.predictor.predict(rows, names).items()}


FRAME = pd.DataFrame({"a": [1, 2], "b": [0.5, 1.5], "word": ["x", "y"]})


def test_columns_arrive_in_the_types_of_the_signature(tmp_path: Path) -> None:
    body = 'return [f"{kind}" for kind in [str(dict(model_input.dtypes.astype(str)))] * len(model_input)]'
    loaded = opened(save(tmp_path / "kinds", body, FRAME))
    assert [(field.name, field.type) for field in loaded.signature.fields or ()] == [
        ("a", "int"), ("b", "float"), ("word", "string"),
    ]  # fmt: skip
    (answer,) = answers(loaded, [{"a": 1, "b": 2.5, "word": "é"}])["predict"]
    assert "'a': 'int64', 'b': 'float64'" in answer
    assert loaded.source.kind == "pyfunc"
    assert "mlflow" in loaded.libraries


def test_a_frame_that_it_answers_is_one_output_per_column(tmp_path: Path) -> None:
    body = 'return pd.DataFrame({"double": model_input["a"] * 2, "word": model_input["word"]})'
    loaded = opened(save(tmp_path / "frame", body, FRAME))
    assert [output.name for output in loaded.signature.outputs] == ["double", "word"]
    assert answers(loaded, [{"a": 3, "b": 0.0, "word": "z"}]) == {"double": [6], "word": ["z"]}


def test_params_are_inputs_with_defaults_and_rows_of_one_call_may_differ_in_them(tmp_path: Path) -> None:
    body = 'return [value * params["factor"] + len(params["words"]) for value in model_input["b"]]'
    folder = save(tmp_path / "params", body, FRAME, params={"factor": 2.0, "words": ["u", "v"]})
    loaded = opened(folder)
    names = [field.name for field in loaded.signature.fields or ()]
    assert names == ["a", "b", "word", "params.factor", "params.words[]"]
    row = {"a": 1, "b": 1.0, "word": "x", "params.factor": 2.0, "params.words[]": '["u", "v"]'}
    many = [row, {**row, "params.factor": 10.0}, {**row, "b": 3.0}, {**row, "params.words[]": "[]"}]
    assert answers(loaded, many) == {"predict": [4.0, 12.0, 8.0, 2.0]}
    with pytest.raises(InvalidInput, match="param 'words' must be a list"):
        answers(loaded, [{**row, "params.words[]": "no list"}])


def test_an_optional_column_may_be_left_out_of_a_request(tmp_path: Path) -> None:
    from mlflow.models import ModelSignature
    from mlflow.types.schema import ColSpec, DataType, Schema

    from lagar.registry.signature import Field

    columns = [ColSpec(DataType.double, "a"), ColSpec(DataType.string, "note", required=False)]
    folder = save(tmp_path / "optional", "return list(model_input['a'])", None)
    mlflow.models.set_signature(str(folder), ModelSignature(Schema(columns)))
    first, second = opened(folder).signature.fields or ()
    assert isinstance(first, Field)
    assert (first.has_default, second.has_default, second.default, second.nullable) == (False, True, None, True)


def test_a_tensor_of_rows_is_a_matrix_of_its_own_type(tmp_path: Path) -> None:
    body = "return [f'{model_input.dtype} {model_input.shape}'] * len(model_input)"
    loaded = opened(save(tmp_path / "tensor", body, np.zeros((2, 3), np.float32)))
    assert (loaded.signature.layout, loaded.signature.width, loaded.signature.named) == ("matrix", 3, False)
    assert answers(loaded, [{"x0": 1, "x1": 2, "x2": 3}]) == {"predict": ["float32 (1, 3)"]}


def test_an_image_tensor_is_refused_with_its_shape(tmp_path: Path) -> None:
    folder = save(tmp_path / "image", "return [0] * len(model_input)", np.zeros((1, 8, 8)))
    with pytest.raises(UnsupportedModel, match=r"a tensor of shape \(-1, 8, 8\); Lagar takes rows"):
        opened(folder)


def test_dates_and_binary_values_travel_as_text(tmp_path: Path) -> None:
    frame = pd.DataFrame({"day": pd.to_datetime(["2026-11-20"]), "blob": [b"\x00\xff"]})
    body = 'return [f"{row.day.year} {row.blob!r}" for row in model_input.itertuples()]'
    loaded = opened(save(tmp_path / "dates", body, frame))
    row = {"day": "2027-02-03T04:05:06", "blob": "AP8="}
    assert answers(loaded, [row]) == {"predict": ["2027 b'\\x00\\xff'"]}
    with pytest.raises(InvalidInput, match="input 'day' must be a date and time"):
        answers(loaded, [{**row, "day": "some day"}])
    with pytest.raises(InvalidInput, match="input 'blob' is binary: it must be base64, in row 0"):
        answers(loaded, [{**row, "blob": "no base64!"}])


def test_what_a_date_means_does_not_depend_on_those_beside_it(tmp_path: Path) -> None:
    frame = pd.DataFrame({"day": pd.to_datetime(["2026-11-20"])})
    loaded = opened(save(tmp_path / "days", "return [str(day) for day in model_input['day']]", frame))
    days = ["2027-02-03T04:05:06", "2027-02-03", "2027-02-03 04:05:06.5", None]
    together = answers(loaded, [{"day": day} for day in days])["predict"]
    assert together == [answers(loaded, [{"day": day}])["predict"][0] for day in days]
    for day in ("01/02/2027", "2027-02-03T04:05:06Z", "9999-01-01"):
        with pytest.raises(InvalidInput, match=f"without a zone, in ISO 8601 .* got '{day}' in row 1"):
            answers(loaded, [{"day": days[0]}, {"day": day}])


def test_a_number_that_the_type_of_the_signature_does_not_hold_is_refused(tmp_path: Path) -> None:
    frame = pd.DataFrame({"n": np.array([1], np.int32), "f": np.array([0.5], np.float32)})
    loaded = opened(save(tmp_path / "narrow", "return list(model_input['n'])", frame))
    assert answers(loaded, [{"n": -(2**31), "f": 0.1}])["predict"] == [-(2**31)]
    with pytest.raises(InvalidInput, match=r"input 'n' is of int32, which does not hold 2147483648 in row 1"):
        answers(loaded, [{"n": 1, "f": 0.0}, {"n": 2**31, "f": 0.0}])
    with pytest.raises(InvalidInput, match=r"input 'f' is of float32, which does not hold 1e\+300 in row 0"):
        answers(loaded, [{"n": 1, "f": 1e300}])


def test_a_tensor_of_whole_numbers_takes_no_others_and_one_of_one_axis_stays_so(tmp_path: Path) -> None:
    body = "return [f'{model_input.dtype} {model_input.shape}'] * len(model_input)"
    whole = opened(save(tmp_path / "whole", body, np.zeros((2, 2), np.int32)))
    assert [field.type for field in whole.signature.fields or ()] == ["int", "int"]
    assert answers(whole, [{"x0": 1, "x1": 2}]) == {"predict": ["int32 (1, 2)"]}
    with pytest.raises(InvalidInput, match=r"the tensor is of int32, which does not hold 4294967296\.0 in row 0"):
        answers(whole, [{"x0": 1, "x1": 2**32}])
    flat = opened(save(tmp_path / "flat", body, np.zeros(2)))
    assert answers(flat, [{"x0": 1}, {"x0": 2}]) == {"predict": ["float64 (2,)"] * 2}
    with pytest.raises(UnsupportedModel, match="takes a tensor of object; Lagar takes numbers"):
        opened(save(tmp_path / "words", body, np.array(["a", "b"], object)))


def test_without_a_signature_the_input_example_says_the_columns(tmp_path: Path) -> None:
    folder = save(tmp_path / "bare", "return list(model_input['b'])", None)
    with pytest.raises(LoadFailed, match=r"does not say its inputs; name them .* --example FILE"):
        opened(folder)
    example = tmp_path / "rows.csv"
    example.write_text("a,b\n1,2.5\n")
    assert opened(folder, example=example).signature.names == ("a", "b")


def test_a_folder_that_only_mlflow_can_open_is_refused_without_trust(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    folder = save(tmp_path / "theirs", f"open({str(mark)!r}, 'w').close()\nreturn [0] * len(model_input)", FRAME)
    with pytest.raises(UnsafePickle, match=r"no native flavour.*runs the code.*--trust"):
        find_models([folder])
    assert not mark.exists()


def test_a_model_whose_loader_is_not_installed_says_which_module(tmp_path: Path) -> None:
    from lagar.errors import LagarError

    folder = tmp_path / "torch"
    folder.mkdir()
    (folder / "MLmodel").write_text(
        "flavors:\n  python_function:\n    loader_module: nowhere_to_be_found\n"
        'signature:\n  inputs: \'[{"type": "double", "name": "a", "required": true}]\'\n'
    )
    with pytest.raises(LagarError, match=r"needs the module 'nowhere_to_be_found'"):
        opened(folder)
