"""Native answers, ids, negotiation, handlers, and the example that can be posted back."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lagar.errors import InvalidInput, ModelFailed, NotAcceptable, PayloadTooLarge
from lagar.protocols import cards
from lagar.protocols.base import Envelope, Limits
from lagar.protocols.native import ARROW, CSV, NativeAdapter
from lagar.registry.model import ModelInfo
from lagar.registry.signature import Field, Output, Signature
from protocols.corpus import dumped, wine
from protocols.views import (
    CHURN,
    CHURN_RECORD,
    OPEN,
    SIGNATURES,
    TEXT,
    WINE,
    WINE_NAMES,
    WINE_RECORD,
    WINE_ROW,
    Hooks,
    View,
    view,
)

OUTPUTS = {
    "predict": np.array([0, 2]),
    "predict_proba": np.array([[0.8, 0.2, 0.0], [0.0, 1 / 3, 2 / 3]]),
}
TWO = dumped([WINE_ROW, WINE_ROW])


def answered(body: bytes, outputs: dict[str, Any], model: Any = None, **head: Any) -> Any:
    adapter = NativeAdapter(model or view("wine"))
    request = adapter.decode(body, "r-1", Envelope(**head))
    return orjson.loads(adapter.encode(request, outputs)[0])


def test_an_answer_has_predictions_in_order_probabilities_classes_ids_model_and_version() -> None:
    assert answered(TWO, OUTPUTS) == {
        "model": "wine",
        "version": "1",
        "id": "r-1",
        "ids": ["r-1:0", "r-1:1"],
        "predictions": [0, 2],
        "probabilities": [[0.8, 0.2, 0.0], [0.0, 1 / 3, 2 / 3]],
        "classes": [0, 1, 2],
    }


@pytest.mark.parametrize("name", ['size 5"', "c\\d", "tab\there", "line\nbreak", "nul\x00", "größe:é", "\x7f"])
def test_a_field_may_have_any_name(name: str) -> None:
    model = View(Signature(fields=(Field(name), Field("b")), outputs=(Output("predict"),), native_outputs=("predict",)))
    for body in (dumped({name: 1.0, "b": 2.0}), dumped([{"b": 2.0, name: 1.0}]), dumped([[1.0, 2.0]])):
        rows = NativeAdapter(model).decode(body, "r-1").rows
        assert rows is not None
        assert rows.matrix is not None
        assert rows.matrix.tolist() == [[1.0, 2.0]]


def test_a_regressor_answers_predictions_only() -> None:
    model = View(Signature(fields=WINE.fields, outputs=(Output("predict"),), native_outputs=("predict",)))
    answer = answered(TWO, {"predict": np.array([0.1, np.nan])}, model)
    assert answer["predictions"] == [0.1, None]
    assert set(answer) == {"model", "version", "id", "ids", "predictions"}


def test_further_outputs_bear_their_own_names() -> None:
    signature = Signature(
        fields=WINE.fields,
        outputs=(Output("predict", "INT64"), Output("decision_function")),
        native_outputs=("predict", "decision_function"),
    )
    answer = answered(TWO, {"predict": np.array([1, -1]), "decision_function": np.array([0.5, -0.5])}, View(signature))
    assert answer["decision_function"] == [0.5, -0.5]


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (("id", "version"), ("output_id", "output_version")),
        (("model", "ids", "classes", "scores"), ("output_model", "output_ids", "output_classes", "scores")),
        (("predict", "predictions", "probabilities"), ("predictions", "output_predictions", "probabilities")),
        (("id", "output_id", "output_output_id"), ("output_output_output_id", "output_id", "output_output_id")),
    ],
)
def test_an_output_that_is_called_as_a_key_of_the_answer_is_told_as_output(
    names: tuple[str, ...], told: tuple[str, ...]
) -> None:
    model = View(Signature(fields=(Field("x"),), outputs=tuple(map(Output, names)), native_outputs=names))
    adapter = NativeAdapter(model)
    outputs = {name: np.array([float(place)]) for place, name in enumerate(names)}
    request = adapter.decode(b"[[1]]", "r-1")
    text, _, _ = adapter.encode(request, outputs)
    pairs = json.loads(text, object_pairs_hook=list)
    assert [key for key, _ in pairs] == ["model", "version", "id", "ids", *told]
    assert dict(pairs)["ids"] == ["r-1:0"]
    table, _, _ = adapter.encode(adapter.decode(b"[[1]]", "r-1", Envelope(accept=CSV)), outputs)
    header, row = (line.split(",") for line in table.decode().splitlines())
    assert len(set(header)) == len(header) == len(names) + 1
    assert row == ["r-1:0", *(str(float(place)) for place in range(len(names)))]


def test_several_targets_say_their_classes_by_output() -> None:
    signature = Signature(
        fields=WINE.fields,
        outputs=(
            Output("predict", "BYTES", (2,)),
            Output("predict_proba_0", "FP64", (2,), classes=("no", "yes")),
            Output("predict_proba_1", "FP64", (3,), classes=("a", "b", "c")),
        ),
        native_outputs=("predict", "predict_proba_0", "predict_proba_1"),
    )
    outputs = {
        "predict": np.array([["yes", "c"]]),
        "predict_proba_0": np.array([[0.1, 0.9]]),
        "predict_proba_1": np.array([[0.1, 0.2, 0.7]]),
    }
    answer = answered(dumped([WINE_ROW]), outputs, View(signature))
    assert answer["classes"] == {"predict_proba_0": ["no", "yes"], "predict_proba_1": ["a", "b", "c"]}
    adapter = NativeAdapter(View(signature))
    request = adapter.decode(dumped([WINE_ROW]), "r", Envelope(accept=CSV))
    head = bytes(adapter.encode(request, outputs)[0]).splitlines()[0].decode()
    assert head == (
        "id,prediction_0,prediction_1,predict_proba_0_no,predict_proba_0_yes,"
        "predict_proba_1_a,predict_proba_1_b,predict_proba_1_c"
    )
    card = cards.version_card(ModelInfo("m", "1", "sklearn", signature))
    assert [output.get("classes") for output in card["outputs"]] == [None, ["no", "yes"], ["a", "b", "c"]]


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.array(["a", "ö"], object), ["a", "ö"]),
        (np.array(["a", "bc"]), ["a", "bc"]),
        (np.array([True, False]), [True, False]),
        (np.array([1.5, np.inf], np.float32), [1.5, None]),
        (np.array([[1, 2], [3, 4]]).T, [[1, 3], [2, 4]]),
        (np.array([{"a": 1}, None], object), [{"a": 1}, None]),
        (np.array([1, 2], np.uint8), [1, 2]),
        (np.array([1, 2], ">i4"), [1, 2]),
    ],
)
def test_values_of_every_kind_are_written(array: Any, expected: list[Any]) -> None:
    model = View(Signature(fields=WINE.fields, outputs=(Output("predict"),), native_outputs=("predict",)))
    assert answered(TWO, {"predict": array}, model)["predictions"] == expected


def test_a_value_that_has_no_json_is_the_models_failure() -> None:
    model = View(Signature(fields=WINE.fields, outputs=(Output("predict"),), native_outputs=("predict",)))
    with pytest.raises(ModelFailed, match="cannot be written as JSON"):
        answered(TWO, {"predict": np.array([object(), 1], object)}, model)


@pytest.mark.parametrize("n", [1, 2, 33, 2000])
def test_ids_are_the_request_id_and_the_row(n: int) -> None:
    adapter = NativeAdapter(view("wine"))
    for request_id in ("a", 'b"\\ü'):
        request = adapter.decode(dumped([WINE_ROW] * n), request_id)
        outputs = {"predict": np.zeros(n, int), "predict_proba": np.zeros((n, 3))}
        answer = orjson.loads(adapter.encode(request, outputs)[0])
        assert answer["id"] == request_id
        assert answer["ids"] == [f"{request_id}:{row}" for row in range(n)]


@pytest.mark.parametrize(
    ("body", "ids"),
    [
        (dumped({"batches": [WINE_ROW] * 2, "ids": ["a", 7]}), ["a", "7"]),
        (dumped([wine(id="a"), wine(id="b")]), ["a", "b"]),
        (dumped({"input_data": {"columns": list(WINE_NAMES), "index": [5, 6], "data": [WINE_ROW] * 2}}), ["5", "6"]),
        (dumped({"inputs": {**{k: [v, v] for k, v in WINE_RECORD.items()}, "id": ["x", "y"]}}), ["x", "y"]),
    ],
)
def test_the_caller_may_give_the_ids(body: bytes, ids: list[str]) -> None:
    assert answered(body, OUTPUTS)["ids"] == ids


def test_the_id_column_of_a_csv_gives_the_ids() -> None:
    lines = [",".join(["id", *WINE_NAMES]), *(",".join([name, *map(str, WINE_ROW)]) for name in ("007", "8"))]
    assert answered("\n".join(lines).encode(), OUTPUTS, content_type="text/csv")["ids"] == ["007", "8"]


def test_csv_has_one_column_per_id_prediction_and_class() -> None:
    adapter = NativeAdapter(view("wine"))
    request = adapter.decode(TWO, "r-1", Envelope(accept="text/csv"))
    body, kind, _ = adapter.encode(request, OUTPUTS)
    assert kind == CSV
    assert body.decode().splitlines() == [
        "id,prediction,probability_0,probability_1,probability_2",
        "r-1:0,0,0.8,0.2,0.0",
        "r-1:1,2,0.0,0.3333333333333333,0.6666666666666666",
    ]


def test_csv_quotes_and_leaves_nan_empty() -> None:
    model = View(Signature(fields=WINE.fields, outputs=(Output("predict", "BYTES"),), native_outputs=("predict",)))
    adapter = NativeAdapter(model)
    request = adapter.decode(TWO, "r-1", Envelope(accept="text/csv"))
    body, _, _ = adapter.encode(request, {"predict": np.array(['a,"b"', None], object)})
    assert body == b'id,prediction\nr-1:0,"a,""b"""\nr-1:1,\n'


def test_arrow_answers_are_a_stream_of_the_same_columns() -> None:
    adapter = NativeAdapter(view("wine"))
    request = adapter.decode(TWO, "r-1", Envelope(accept=ARROW))
    body, kind, _ = adapter.encode(request, OUTPUTS)
    assert kind == ARROW
    table = pa.ipc.open_stream(body).read_all()
    assert table.column_names == ["id", "prediction", "probability_0", "probability_1", "probability_2"]
    assert table["prediction"].to_pylist() == [0, 2]
    assert table["probability_2"].to_pylist() == [0.0, 2 / 3]


def test_an_accept_that_takes_nothing_of_ours_is_refused_before_the_model_runs() -> None:
    with pytest.raises(NotAcceptable, match="text/html"):
        NativeAdapter(view("wine")).decode(TWO, "r-1", Envelope(accept="text/html"))


def stream_of(table: pa.Table, compression: str | None = None) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_table(table, max_chunksize=2)
    return sink.getvalue()


def parquet_of(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


CHURN_TABLE = pa.table(
    {
        "gender": pa.array(["female", "male", "male"]).dictionary_encode(),
        "contract": ["two_year", "one_year", "one_year"],
        "plan": ["c", "a", ""],
        "tenure": pa.array([1, 2, 3], pa.int32()),
        "charges": pa.array([1.5, 2.5, 3.5], pa.float32()),
        "discount": pa.array([None, float("nan"), 1.0]),
        "paperless": [True, False, True],
        "zone": ["n", "s", "n"],
        "joined": pa.array([0, 1, 2], pa.timestamp("s")),
    }
)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (stream_of(CHURN_TABLE), ARROW),
        (stream_of(CHURN_TABLE, "zstd"), ARROW),
        (stream_of(CHURN_TABLE, "lz4"), ARROW),
        (parquet_of(CHURN_TABLE), "application/vnd.apache.parquet"),
    ],
)
def test_arrow_and_parquet_carry_every_kind_of_field(body: bytes, kind: str) -> None:
    rows = NativeAdapter(view("churn")).decode(body, "r-1", Envelope(content_type=kind)).rows
    assert rows is not None
    assert rows.columns is not None
    assert rows.n == 3
    assert rows.columns["gender"].tolist() == ["female", "male", "male"]
    assert rows.columns["tenure"].tolist() == [1, 2, 3]
    assert rows.columns["charges"].tolist() == [1.5, 2.5, 3.5]
    np.testing.assert_array_equal(rows.columns["discount"], [np.nan, np.nan, 1.0])
    assert rows.columns["visits"].tolist() == [3, 3, 3]
    assert rows.columns["paperless"].dtype == np.bool_


@pytest.mark.parametrize(
    ("column", "values", "row"),
    [
        ("contract", ["two_year", "three_year", "one_year"], 1),
        ("charges", pa.array([1.0, None, 2.0]), 1),
        ("charges", pa.array([1.0, 2.0, float("nan")]), 2),
        ("charges", pa.array([1.0, 2.0, float("inf")]), 2),
        ("charges", ["1.0", "2", "3"], 0),
        ("tenure", [1.5, 2.0, 3.0], 0),
        ("paperless", [1, 0, 1], 0),
        ("zone", pa.array([0, 1, 2], pa.timestamp("s")), None),
    ],
)
def test_a_bad_value_in_arrow_names_field_and_row(column: str, values: Any, row: int | None) -> None:
    table = CHURN_TABLE.set_column(CHURN_TABLE.column_names.index(column), column, pa.chunked_array([values]))
    for body, kind in ((stream_of(table), ARROW), (parquet_of(table), "application/vnd.apache.parquet")):
        with pytest.raises(InvalidInput) as caught:
            NativeAdapter(view("churn")).decode(body, "r-1", Envelope(content_type=kind))
        assert (caught.value.field, caught.value.row) == (column, row)


def test_a_number_in_csv_beyond_a_float_is_said_to_be_that() -> None:
    cells = dict.fromkeys(WINE_NAMES, "1") | {WINE_NAMES[2]: "1e999"}
    body = f"{','.join(cells)}\n{','.join(cells.values())}\n".encode()
    with pytest.raises(
        InvalidInput, match=r"must be a finite number, and is infinite or beyond 1\.8e308 in row 0"
    ) as caught:
        NativeAdapter(view("wine")).decode(body, "r-1", Envelope(content_type="text/csv"))
    assert (caught.value.field, caught.value.row) == (WINE_NAMES[2], 0)


def test_a_compressed_stream_is_measured_before_it_is_unpacked() -> None:
    table = pa.table({name: np.zeros(50_000) for name in WINE_NAMES})
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(table)
    body = sink.getvalue()
    assert len(body) < 50_000
    adapter = NativeAdapter(view("wine"), Limits(max_decoded_bytes=1_000_000))
    with pytest.raises(PayloadTooLarge, match="unpacks to 52"):
        adapter.decode(body, "r-1", Envelope(content_type=ARROW))
    with pytest.raises(PayloadTooLarge, match="50000 rows"):
        NativeAdapter(view("wine"), Limits(max_rows=100)).decode(body, "r-1", Envelope(content_type=ARROW))


def test_a_parquet_file_is_measured_by_its_footer() -> None:
    body = parquet_of(pa.table({name: np.zeros(50_000) for name in WINE_NAMES}))
    with pytest.raises(PayloadTooLarge, match="50000 rows"):
        NativeAdapter(view("wine"), Limits(max_rows=100)).decode(
            body, "r-1", Envelope(content_type="application/x-parquet")
        )
    body = parquet_of(pa.table({name: np.arange(50_000) * 1.5 for name in WINE_NAMES}))
    with pytest.raises(PayloadTooLarge, match="unpacks to"):
        NativeAdapter(view("wine"), Limits(max_decoded_bytes=100_000)).decode(
            body, "r-1", Envelope(content_type="application/x-parquet")
        )


def test_cut_and_changed_arrow_streams_are_the_callers_mistake() -> None:
    body = bytearray(stream_of(CHURN_TABLE))
    adapter = NativeAdapter(view("churn"))
    for place in range(0, len(body), 7):
        changed = bytes(body[:place]) + bytes([body[place] ^ 0xFF]) + bytes(body[place + 1 :])
        for candidate in (changed, bytes(body[:place])):
            try:
                adapter.decode(candidate, "r-1", Envelope(content_type=ARROW))
            except (InvalidInput, PayloadTooLarge):
                continue


# Names that collide with ours.


@pytest.mark.parametrize("name", ["data", "inputs", "batches", "instances", "input_data", "id", "ids", "columns"])
def test_a_field_may_be_called_as_an_envelope_is(name: str) -> None:
    signature = Signature(
        fields=(Field(name), Field("b")), outputs=(Output("predict"),), native_outputs=("predict",), named=True
    )
    adapter = NativeAdapter(View(signature))
    for body in ({name: 1.5, "b": 2}, [{name: 1.5, "b": 2}]):
        rows = adapter.decode(dumped(body), "r-1").rows
        assert rows is not None
        assert rows.matrix is not None
        assert rows.matrix.tolist() == [[1.5, 2.0]]
    other = "instances" if name == "batches" else "batches"
    rows = adapter.decode(dumped({other: [[1, 2]]}), "r-1").rows
    assert rows is not None
    assert rows.n == 1


def test_a_model_without_names_takes_the_columns_of_a_table_by_position() -> None:
    signature = Signature(
        fields=(Field("x0"), Field("x1")), outputs=(Output("predict"),), native_outputs=("predict",), named=False
    )
    adapter = NativeAdapter(View(signature))
    rows = adapter.decode(b"width,height\n1,2\n3,4\n", "r-1", Envelope(content_type="text/csv")).rows
    assert rows is not None
    assert rows.matrix is not None
    assert rows.matrix.tolist() == [[1, 2], [3, 4]]
    with pytest.raises(InvalidInput, match="row 0 has 3 values, this model takes 2"):
        adapter.decode(b"a,b,c\n1,2,3\n", "r-1", Envelope(content_type="text/csv"))


# Handlers.


def test_with_a_preprocess_the_records_are_left_for_the_engine() -> None:
    hooks = Hooks(preprocess=lambda records: [{k: float(v) for k, v in record.items()} for record in records])
    adapter = NativeAdapter(view("wine", hooks))
    sent = {name: str(value) for name, value in WINE_RECORD.items()}
    request = adapter.decode(dumped(sent), "r-1")
    assert request.rows is None
    assert request.records == [sent]
    assert request.rows_of is not None
    assert request.rows_of(hooks.preprocess(request.records)).matrix.tolist() == [WINE_ROW]  # type: ignore[union-attr]


def test_what_a_preprocess_leaves_bad_names_field_and_row() -> None:
    adapter = NativeAdapter(view("wine", Hooks(preprocess=lambda records: records)))
    request = adapter.decode(dumped([WINE_RECORD, {}]), "r-1")
    assert request.rows_of is not None
    assert request.records is not None
    with pytest.raises(InvalidInput) as caught:
        request.rows_of(request.records)
    assert (caught.value.field, caught.value.row) == ("alcohol", 1)


def test_rows_reach_a_preprocess_by_name() -> None:
    adapter = NativeAdapter(view("wine", Hooks(preprocess=lambda records: records)))
    assert adapter.decode(dumped({"batches": [WINE_ROW]}), "r-1").records == [WINE_RECORD]


def test_a_postprocess_gets_the_callers_records_and_shapes_the_answer() -> None:
    hooks = Hooks(postprocess=lambda outputs, records: {"Prediction": outputs["predict"], "of": records[0]["ash"]})
    adapter = NativeAdapter(view("wine", hooks))
    request = adapter.decode(dumped(WINE_RECORD), "r-1")
    assert request.postprocess
    assert request.single
    assert request.rows is not None
    assert request.records == [WINE_RECORD]
    shaped = hooks.postprocess({"predict": [1]}, request.records)
    assert adapter.encode(request, OUTPUTS, shaped) == (b'{"Prediction":[1],"of":2.1}', "application/json", b"")
    assert adapter.encode(request, OUTPUTS, None) == (b"null", "application/json", b"")


def test_a_postprocess_may_answer_numpy_values_but_not_anything() -> None:
    adapter = NativeAdapter(view("wine", Hooks(postprocess=lambda outputs, records: None)))
    request = adapter.decode(dumped(WINE_RECORD), "r-1")
    assert adapter.encode(request, OUTPUTS, {"p": np.float64(0.5), 1: np.array([1, 2])})[0] == b'{"p":0.5,"1":[1,2]}'
    with pytest.raises(ModelFailed, match="postprocess"):
        adapter.encode(request, OUTPUTS, {1, 2})


def test_a_postprocess_answers_json_only() -> None:
    adapter = NativeAdapter(view("wine", Hooks(postprocess=lambda outputs, records: None)))
    with pytest.raises(NotAcceptable):
        adapter.decode(dumped(WINE_RECORD), "r-1", Envelope(accept="text/csv"))


# Messages.


@pytest.mark.parametrize(
    ("model", "body", "words"),
    [
        ("wine", wine(hue="abc"), ["'hue'", "must be a number", '"abc"', "row 0", "GET /models/wine"]),
        ("wine", {"Alcohol": 1}, ["'alcohol'", "missing", '"Alcohol"']),
        ("wine", [WINE_ROW[:12]], ["row 0", "12 values", "takes 13", "proline"]),
        ("churn", {**CHURN_RECORD, "contract": "One Year"}, ["'contract'", '"month-to-month"', '"one_year"', "did"]),
    ],
)
def test_a_message_has_the_thing_the_rule_the_value_and_the_next_step(model: str, body: Any, words: list[str]) -> None:
    with pytest.raises(InvalidInput) as caught:
        NativeAdapter(view(model)).decode(dumped(body), "r-1")
    for word in words:
        assert word in caught.value.message


def test_a_long_list_of_categories_is_shortened() -> None:
    known = tuple(f"k{number}" for number in range(30))
    signature = Signature(
        fields=(Field("k", "string", categories=known),),
        outputs=(Output("predict"),),
        native_outputs=("predict",),
        layout="columns",
        named=True,
    )
    with pytest.raises(InvalidInput, match=r'"k9", … \(30 in all\), got "zzz" in row 0'):
        NativeAdapter(View(signature)).decode(b'{"k":"zzz"}', "r-1")


# Cards.


@pytest.mark.parametrize("model", SIGNATURES)
def test_the_example_works_when_posted_back(model: str) -> None:
    deployment = view(model)
    body = cards.example_body(deployment)
    request = NativeAdapter(deployment).decode(body, "r-1", Envelope(content_type="application/json"))
    assert request.n == 1


def test_the_example_is_the_models_own() -> None:
    assert orjson.loads(cards.example_body(view("wine"))) == WINE_RECORD


def test_a_model_is_listed_with_all_versions_the_live_one_first() -> None:
    infos = [
        ModelInfo("churn", "1", "sklearn", CHURN, live=False),
        ModelInfo("churn", "2", "sklearn", CHURN),
        ModelInfo("text", "1", "custom", TEXT, has_preprocess=True, warnings=("old",)),
        ModelInfo("open", "1", "custom", OPEN),
    ]
    models = orjson.loads(orjson.dumps(cards.models_list(infos, {})))
    assert [(model["name"], model["live"]) for model in models] == [("churn", "2"), ("text", "1"), ("open", "1")]
    assert [version["version"] for version in models[0]["versions"]] == ["2", "1"]
    card = models[0]["versions"][0]
    assert card["inputs"][3] == {"name": "tenure", "type": "int", "minimum": 0, "maximum": 600}
    assert card["outputs"][1] == {"name": "predict_proba", "datatype": "FP64", "shape": [2], "meaning": ""}
    assert card["classes"] == [False, True]
    assert models[1]["versions"][0]["preprocess"]
    assert models[1]["versions"][0]["warnings"] == ["old"]
    assert models[2]["versions"][0]["inputs"] is None
