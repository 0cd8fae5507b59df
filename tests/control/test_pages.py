"""The first page: what is served, said in words; the forms are tested in a browser."""

from __future__ import annotations

import html
import json
import re
from typing import Any

import msgspec

from lagar.registry.model import ModelInfo
from lagar.registry.signature import Field, Output, Signature
from support.infos import Control, bare_info, churn_info, wine_info


def island(page: str) -> dict[str, Any]:
    """What the page hands to its script."""
    found = re.search(r'<script type="application/json" id="models">(.*?)</script>', page, re.DOTALL)
    assert found
    return dict(json.loads(found[1]))


def words(page: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", page.split('<script type="application/json"')[0])).split())


def test_each_version_is_told_with_what_is_known_of_it(control: Control) -> None:
    text = words(control(wine_info("2"), wine_info("1", live=False), churn_info()).get("/").text)
    assert "wine 2 live sklearn ready" in text
    assert "wine 1 not live sklearn ready" in text
    assert "churn v1.0.10 live" in text
    assert "Made with scikit-learn 1.9.1" in text
    assert "Classes barolo, barbera" in text
    assert "2 of 2 workers" in text


def test_the_signature_says_ranges_nulls_defaults_and_what_is_unknown(control: Control) -> None:
    text = words(control(wine_info(), churn_info()).get("/").text)
    assert "alcohol number 0 to 100, enforced refused refused" in text
    assert "malic acid number 0.7 to 5.8 in the example data unknown, so refused refused" in text
    assert "hue number unknown allowed becomes 1.0" in text
    assert "contract text monthly yearly others refused unknown, so refused refused" in text
    assert "plan text gold silver others pass allowed refused" in text
    assert "note unknown unknown" in text
    assert "Other keys of a record are refused" in text


def test_an_open_end_of_a_range_is_no_bound_and_one_seen_value_is_no_range(control: Control) -> None:
    fields = (Field("open", minimum=0.0, maximum=float("inf")), Field("once", seen_min=7.5, seen_max=7.5))
    signature = Signature(fields=fields, outputs=(Output("predict"),), native_outputs=("predict",))
    client = control(ModelInfo("m", "1", "sklearn", signature))
    text = words(client.get("/").text)
    assert "open number at least 0, enforced" in text
    assert "once number unknown" in text
    record = client.get("/openapi.json").json()["components"]["schemas"]["m.1.Record"]
    assert record["properties"]["open"]["minimum"] == 0
    assert "maximum" not in record["properties"]["open"]


def test_without_a_model_the_page_says_how_to_start(control: Control) -> None:
    text = words(control().get("/").text)
    assert "Nothing is served yet" in text
    assert "lagar push NAME model.joblib" in text


def test_a_model_that_does_not_know_its_fields_says_so(control: Control) -> None:
    page = control(bare_info()).get("/").text
    assert "The fields are unknown" in words(page)
    assert island(page)["versions"][0]["fields"] == []
    info = bare_info()
    example = msgspec.structs.replace(info.signature, example=({"x0": 1.5, "x1": 2.0},))
    form = island(control(msgspec.structs.replace(info, signature=example)).get("/").text)["versions"][0]
    assert json.loads(form["json"]) == [[1.5, 2.0]]
    assert form["csv"] == ""


def test_readiness_is_told_with_its_reason(control: Control) -> None:
    client = control(wine_info())
    state = client.state  # type: ignore[attr-defined]
    state.server = msgspec.structs.replace(state.server, ready=False, reason="worker 1 is loading", workers_ready=1)
    assert "not ready: worker 1 is loading 1 of 2 workers" in words(client.get("/").text)


def test_names_from_a_model_cannot_become_markup(control: Control) -> None:
    nasty = "</script><img src=x onerror=alert(1)>"
    signature = Signature(
        fields=(Field(nasty, "string", categories=(nasty,)),),
        outputs=(Output("predict"),),
        native_outputs=("predict",),
        example=({nasty: nasty},),
    )
    page = control(ModelInfo("evil", "1", "custom", signature, warnings=(nasty,))).get("/").text
    assert "<img" not in page
    assert island(page)["versions"][0]["fields"][0]["name"] == nasty


def test_the_form_posts_to_the_shortest_path_of_its_version_below_the_prefix(control: Control) -> None:
    one = island(control(wine_info(), root_path="/mlapi").get("/").text)
    assert [form["path"] for form in one["versions"]] == ["/mlapi/predict"]
    two = island(control(wine_info("2"), wine_info("1", live=False), churn_info()).get("/").text)
    assert [form["path"] for form in two["versions"]] == [
        "/models/wine/predict",
        "/models/wine/versions/1/predict",
        "/models/churn/predict",
    ]


def test_the_form_is_filled_with_the_example_digit_by_digit(control: Control) -> None:
    big = 12345678901234567890
    signature = Signature(
        fields=(Field("n", "int"), Field("x", nullable=True), Field("s", "string")),
        outputs=(Output("predict"),),
        native_outputs=("predict",),
        layout="columns",
        example=({"n": big, "x": float("nan"), "s": 'né "q"'},),
    )
    form = island(control(ModelInfo("m", "1", "sklearn", signature)).get("/").text)["versions"][0]
    assert [field["example"] for field in form["fields"]] == [str(big), "null", '"né \\"q\\""']
    assert form["csv"] == 'n,x,s\n12345678901234567890,,"né ""q"""\n'
    assert json.loads(form["json"]) == [{"n": big, "x": None, "s": 'né "q"'}]


def test_with_a_preprocess_the_form_has_the_callers_fields_not_the_models(control: Control) -> None:
    info = msgspec.structs.replace(wine_info(), has_preprocess=True)
    signature = msgspec.structs.replace(info.signature, example=({"raw text": "13,2", "tags": ["a"]},))
    form = island(control(msgspec.structs.replace(info, signature=signature)).get("/").text)["versions"][0]
    assert [(field["name"], field["example"]) for field in form["fields"]] == [
        ("raw text", '"13,2"'),
        ("tags", '["a"]'),
    ]


def test_the_key_box_is_there_when_the_server_wants_keys(control: Control) -> None:
    client = control(wine_info())
    assert re.search(r'<form class="card key" id="key"\s+hidden>', client.get("/").text)
    client.state.has_keys = True  # type: ignore[attr-defined]
    page = client.get("/").text
    assert re.search(r'<form class="card key" id="key">', page)
    assert island(page)["wantsKey"] is True


def test_a_signature_of_thousands_of_fields_stays_a_page(control: Control) -> None:
    names = [f"x{i}" for i in range(5000)]
    signature = Signature(
        fields=tuple(Field(name) for name in names),
        outputs=(Output("predict"),),
        native_outputs=("predict",),
        example=(dict.fromkeys(names, 0.5),),
    )
    page = control(ModelInfo("wide", "1", "sklearn", signature)).get("/").text
    assert page.count("<tr>") == 301
    assert "4700 more fields" in words(page)
    assert len(island(page)["versions"][0]["fields"]) == 5000


def test_of_a_thousand_models_a_hundred_are_shown_and_the_others_counted(control: Control) -> None:
    infos = [msgspec.structs.replace(churn_info(), name=f"churn-{number}") for number in range(103)]
    client = control(*infos)
    page = client.get("/").text
    assert len(island(page)["versions"]) == 100
    assert "and 3 more: all models" in words(page)
    document = client.get("/openapi.json").json()
    assert "/models/churn-99/predict" in document["paths"]
    assert "/models/churn-100/predict" not in document["paths"]
    assert "3 more models" in document["info"]["description"]
