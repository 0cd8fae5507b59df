"""ONNX graphs: one matrix, or one input per column; classifiers answer as they did before conversion."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pytest
from onnx import TensorProto, helper
from skl2onnx import convert_sklearn, to_onnx
from skl2onnx.common.data_types import FloatTensorType, Int64TensorType, StringTensorType
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_wine
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from lagar.errors import InvalidInput, LoadFailed, UnsupportedModel
from runtimes.conftest import answers, load, rows_of, same

WINE, KIND = load_wine(return_X_y=True)
FLOATS = WINE.astype(np.float32)
NAMES = np.array(["red", "rosé", "white"])[KIND]


def run(path: Path, feeds: dict[str, Any]) -> list[Any]:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, feeds)


@pytest.mark.parametrize("zipmap", [True, False])
@pytest.mark.parametrize("labels", [KIND, NAMES], ids=["ints", "words"])
def test_a_converted_classifier_answers_labels_probabilities_and_classes(
    tmp_path: Path, zipmap: bool, labels: Any
) -> None:
    model = make_pipeline(StandardScaler(), RandomForestClassifier(5, random_state=0)).fit(FLOATS, labels)
    path = tmp_path / "wine.onnx"
    path.write_bytes(to_onnx(model, FLOATS[:1], options={"zipmap": zipmap}).SerializeToString())
    loaded = load(path)
    found = answers(loaded, WINE)
    label, probabilities = run(path, {"X": FLOATS})
    same(found["predict"], label)
    matrix = [list(row.values()) for row in probabilities] if zipmap else probabilities
    same(found["predict_proba"], np.asarray(matrix, dtype=np.float32).astype(float))
    assert loaded.signature.classes == tuple(np.unique(labels).tolist())
    assert loaded.signature.native_outputs == ("predict", "predict_proba")
    assert (len(loaded.signature.fields), loaded.signature.layout) == (13, "matrix")
    same(answers(loaded, WINE, "predict_proba")["predict_proba"], found["predict_proba"])


def test_a_regressor_answers_one_value_per_row(tmp_path: Path) -> None:
    model = LinearRegression().fit(FLOATS, KIND)
    path = tmp_path / "value.onnx"
    path.write_bytes(to_onnx(model, FLOATS[:1]).SerializeToString())
    loaded = load(path)
    same(answers(loaded, WINE)["predict"], run(path, {"X": FLOATS})[0].ravel().astype(float))
    assert (loaded.signature.task, loaded.signature.outputs[0].shape) == ("regressor", ())


def test_one_input_per_column_becomes_one_field_each(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {"age": [30.0, 50.0, 60.0, 41.0] * 5, "floor": [1, 2, 3, 4] * 5, "sex": ["f", "m", "m", "f"] * 5}
    )
    model = make_pipeline(
        ColumnTransformer(
            [("n", StandardScaler(), ["age", "floor"]), ("c", OneHotEncoder(handle_unknown="ignore"), ["sex"])]
        ),
        LogisticRegression(),
    ).fit(frame, [0, 1, 1, 0] * 5)
    types = [
        ("age", FloatTensorType([None, 1])),
        ("floor", Int64TensorType([None, 1])),
        ("sex", StringTensorType([None, 1])),
    ]
    path = tmp_path / "columns.onnx"
    path.write_bytes(convert_sklearn(model, initial_types=types, options={"zipmap": False}).SerializeToString())
    loaded = load(path)
    found = answers(loaded, frame)
    feeds = {
        "age": frame[["age"]].to_numpy(np.float32),
        "floor": frame[["floor"]].to_numpy(),
        "sex": frame[["sex"]].to_numpy(object),
    }
    same(found["predict_proba"], run(path, feeds)[1].astype(float))
    assert [(field.name, field.type) for field in loaded.signature.fields] == [
        ("age", "float"),
        ("floor", "int"),
        ("sex", "string"),
    ]


def graph(path: Path, shape: list[Any], out: list[Any]) -> Path:
    node = helper.make_node("ReduceSum", ["x", "axes"], ["y"], keepdims=1)
    axes = helper.make_tensor("axes", TensorProto.INT64, [1], [1])
    made = helper.make_graph(
        [node],
        "sum",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, out)],
        [axes],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path


def test_a_graph_made_for_one_row_answers_many(tmp_path: Path) -> None:
    loaded = load(graph(tmp_path / "one.onnx", [1, 3], [1, 1]))
    same(answers(loaded, np.arange(12.0).reshape(4, 3))["predict"], [3.0, 12.0, 21.0, 30.0])


def test_a_graph_with_an_open_width_takes_any_matrix(tmp_path: Path) -> None:
    loaded = load(graph(tmp_path / "open.onnx", ["n", "k"], ["n", 1]))
    assert loaded.signature.fields is None
    assert loaded.signature.example
    assert any("does not say how many inputs" in warning for warning in loaded.warnings)
    found = loaded.predictor.predict(rows_of(loaded, np.ones((2, 5))), ("predict",))
    same(found["predict"], [5.0, 5.0])


def identity(path: Path, kind: int, columns: int) -> Path:
    """A graph that answers its one matrix, or the first of its columns."""
    shape = ["n", 1 if columns > 1 else 2]
    inputs = [helper.make_tensor_value_info(f"x{index}", kind, shape) for index in range(columns)]
    nodes = [helper.make_node("Identity", ["x0"], ["y"])]
    made = helper.make_graph(nodes, "same", inputs, [helper.make_tensor_value_info("y", kind, shape)])
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.mark.parametrize("columns", [1, 2], ids=["matrix", "columns"])
@pytest.mark.parametrize(
    ("kind", "most", "beyond"),
    [
        (TensorProto.INT8, 127, 128),
        (TensorProto.UINT8, 255, -1),
        (TensorProto.INT16, 32767, 32768),
        (TensorProto.INT32, 2**31 - 1, 2**31),
        (TensorProto.FLOAT16, 65504.0, 65536.0),
        (TensorProto.FLOAT, 1e38, 1e39),
    ],
)
def test_a_number_that_the_graphs_own_type_cannot_hold_is_refused_not_wrapped(
    tmp_path: Path, kind: int, most: float, beyond: float, columns: int
) -> None:
    loaded = load(identity(tmp_path / "narrow.onnx", kind, columns))
    found = answers(loaded, [{"x0": 1, "x1": 1}, {"x0": most, "x1": 2}])["predict"]
    assert np.asarray(found).reshape(2, -1)[1, 0] == np.asarray(most, helper.tensor_dtype_to_np_dtype(kind))
    with pytest.raises(InvalidInput, match=r"field 'x0' is .* in row 1; the graph takes .*, which holds") as caught:
        answers(loaded, [{"x0": 1, "x1": 1}, {"x0": beyond, "x1": 1}])
    assert (caught.value.field, caught.value.row) == ("x0", 1)


def test_graphs_of_images_and_fixed_batches_are_refused_with_the_way_round(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match=r"'x' has the shape .*Wrap other models in a class"):
        load(graph(tmp_path / "image.onnx", ["n", 3, 8, 8], ["n", 1, 8, 8]))
    with pytest.raises(UnsupportedModel, match="exactly 8 rows at a time"):
        load(graph(tmp_path / "eight.onnx", [8, 3], [8, 1]))


def test_a_damaged_graph_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"\x08\x08\x12\x04nope" * 9)
    with pytest.raises(LoadFailed, match=r"broken\.onnx: ONNX Runtime .* does not read it"):
        load(tmp_path / "broken.onnx")


def test_a_text_that_the_graphs_encoder_does_not_know_is_the_callers_mistake(tmp_path: Path) -> None:
    frame = pd.DataFrame({"city": ["Évora", "Porto"] * 10, "age": np.arange(20.0)})
    pipe = make_pipeline(
        ColumnTransformer([("c", OneHotEncoder(), ["city"])], remainder="passthrough"), LogisticRegression()
    ).fit(frame, [0, 1] * 10)
    types = [("city", StringTensorType([None, 1])), ("age", FloatTensorType([None, 1]))]
    (tmp_path / "city.onnx").write_bytes(convert_sklearn(pipe, initial_types=types).SerializeToString())
    pd.DataFrame({"city": ["Porto"], "age": [3.0]}).to_csv(tmp_path / "rows.csv", index=False)
    loaded = load(tmp_path / "city.onnx", example=tmp_path / "rows.csv")
    with pytest.raises(InvalidInput, match="none of the categories"):
        answers(loaded, pd.DataFrame({"city": ["ZZ"], "age": [3.0]}))
