"""examples/products: two versions side by side behind V2; only the second knows the word without its accent."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import httpx
import joblib
import pandas as pd
import pytest

from support.examples import KINDS, Examples, answer, post, real_data
from support.server import LagarServer

pytestmark = pytest.mark.slow  # trains the tutorial's model and serves it, on generated data and on the real

NAME = "classificador-produtos"
V1, V2 = "v1.0.0", "v1.0.1"
CLASSES = ["brinquedo", "game", "livro", "maquiagem"]
TEXTS = ["Minecraft", "Senhor dos aneis", "Senhor dos anéis"]

real_only = pytest.mark.parametrize("products", ["real"], indirect=True, scope="module")
"""The recorded answers belong to the model of the real data."""


class Served(NamedTuple):
    kind: str
    url: str
    models: dict[str, Any]
    printed: str

    def infer(self, version: str | None, texts: list[str], *outputs: str) -> dict[str, Any]:
        at = f"/versions/{version}" if version else ""
        body: dict[str, Any] = {"inputs": [bytes_input(texts)]}
        if outputs:
            body["outputs"] = [{"name": output} for output in outputs]
        return dict(answer(f"{self.url}/v2/models/{NAME}{at}/infer", body))

    def labels(self, version: str | None, texts: list[str]) -> list[str]:
        return list(self.infer(version, texts)["outputs"][0]["data"])


def bytes_input(texts: list[str]) -> dict[str, Any]:
    return {"name": "predict", "shape": [len(texts)], "datatype": "BYTES", "data": texts}


@pytest.fixture(scope="module", params=KINDS)
def products(
    request: pytest.FixtureRequest, examples: Examples, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    printed = examples.train("products", request.param)
    folder = examples.folder("products", request.param) / "models"
    models = {version: joblib.load(folder / NAME / version / f"{NAME}.joblib") for version in (V1, V2)}
    with LagarServer(folder, home=tmp_path_factory.mktemp("home")) as server:
        yield Served(request.param, server.url, models, printed)


def test_training_prints_the_book_s_figures(products: Served) -> None:
    if products.kind == "generated":
        assert f"{V2}: accuracy on the" in products.printed
        return
    for version, words in ((V1, 32125), (V2, 31529)):
        assert f"{version}: trained on 2332 texts, {words} words known\n" in products.printed
        assert f"{version}: accuracy on the 584 held-out texts: 0.9828767123287672\n" in products.printed


@pytest.mark.parametrize(
    ("version", "labels"), [(V1, ["game", "brinquedo", "livro"]), (V2, ["game", "livro", "livro"])]
)
def test_only_the_second_version_knows_the_word_without_its_accent(
    products: Served, version: str, labels: list[str]
) -> None:
    assert products.infer(version, TEXTS)["outputs"] == [
        {"name": "predict", "shape": [3, 1], "datatype": "BYTES", "data": labels}
    ]


def test_without_a_version_the_greatest_answers(products: Served) -> None:
    reply = products.infer(None, TEXTS)
    assert (reply["model_name"], reply["model_version"]) == (NAME, V2)
    assert reply["outputs"][0]["data"] == ["game", "livro", "livro"]


def test_each_of_the_four_categories_is_found_by_both_versions(products: Served) -> None:
    texts = ["soldadinhos de plástico", "batom vermelho", "dark souls", "O senhor dos anéis"]
    for version in (V1, V2):
        assert products.labels(version, texts) == ["brinquedo", "maquiagem", "game", "livro"]


def test_labels_and_probabilities_are_the_model_s_own_to_the_last_digit(products: Served) -> None:
    texts = [*TEXTS, "Soldados de plástico", "boneca", "carrinho", "minecraft", "", "Coração ♥"]
    for version, model in products.models.items():
        predict, proba = products.infer(version, texts, "predict", "predict_proba")["outputs"]
        assert predict["data"] == model.predict(texts).tolist()
        assert proba["shape"] == [len(texts), 4]
        assert proba["data"] == model.predict_proba(texts).ravel().tolist()
        assert model.classes_.tolist() == CLASSES


@pytest.mark.parametrize("version", [V1, V2])
def test_a_request_s_id_is_given_back(products: Served, version: str) -> None:
    url = f"{products.url}/v2/models/{NAME}/versions/{version}/infer"
    assert answer(url, {"id": "abc-1", "inputs": [bytes_input(["boneca"])]})["id"] == "abc-1"


@real_only
@pytest.mark.parametrize(
    ("file", "version", "labels"),
    [
        ("seed-8.4-infer", V1, ["game", "brinquedo", "livro"]),
        ("seed-8.4-infer", V2, ["game", "livro", "livro"]),
        ("book-8.2.1-infer", V1, ["brinquedo", "brinquedo", "livro"]),
        ("book-8.3-infer", V1, ["brinquedo", "game", "game"]),
        ("book-8.3-infer", V2, ["brinquedo", "game", "game"]),
    ],
)
def test_the_tutorial_s_requests_get_the_tutorial_s_labels(
    products: Served, file: str, version: str, labels: list[str]
) -> None:
    body = (real_data() / "products" / "requests" / f"{file}.json").read_bytes()
    assert answer(f"{products.url}/v2/models/{NAME}/versions/{version}/infer", body)["outputs"][0]["data"] == labels


@real_only
@pytest.mark.parametrize(("version", "recorded"), [(V1, "1.0"), (V2, "1.1")])
def test_every_recorded_text_gets_its_recorded_label(products: Served, version: str, recorded: str) -> None:
    """Probabilities were recorded from the shipped file, which had another list of stop words: they agree to 0.001."""
    expected = json.loads((real_data() / "expected" / "3-produtos.json").read_text())["predictions"][recorded]
    predict, proba = products.infer(version, list(expected), "predict", "predict_proba")["outputs"]
    assert predict["data"] == [one["label"] for one in expected.values()]
    assert proba["data"] == pytest.approx([p for one in expected.values() for p in one["proba"]], abs=1e-3)


@real_only
def test_all_raw_descriptions_are_counted_as_recorded(products: Served) -> None:
    data = real_data()
    texts = pd.read_csv(data / "products" / "produtos.csv", sep=";")["descricao"].dropna().tolist()
    expected = json.loads((data / "expected" / "3-produtos.json").read_text())
    counts = pd.Series(products.labels(V1, texts)).value_counts().to_dict()
    assert counts == expected["batch over the 2,916 non-null raw descricao values, retrained v1.0"]


@pytest.mark.parametrize(
    "body",
    [
        {"inputs": [{"name": "predict", "shape": [2], "datatype": "BYTES", "data": TEXTS}]},  # was 500
        {"inputs": [{"name": "predict", "shape": [1], "datatype": "STRING", "data": ["x"]}]},  # was 500
        {"inputs": [{"name": "predict", "shape": [0], "datatype": "BYTES", "data": []}]},  # was 500
        {"inputs": [{"name": "predict", "shape": [1], "data": ["x"]}]},  # was 422 in another shape
        {"inputs": []},
        {},
        {"inputs": [bytes_input(["boneca"])], "outputs": [{"name": "foo"}]},
        {"inputs": [{"name": "predict", "shape": [1], "datatype": "FP64", "data": [1.5]}]},
        {"inputs": [{"name": "predict", "shape": [1], "datatype": "BYTES", "data": [None]}]},
    ],
)
def test_a_request_that_cannot_be_answered_is_a_400_in_the_protocol_s_shape(products: Served, body: Any) -> None:
    response = post(f"{products.url}/v2/models/{NAME}/versions/{V2}/infer", body)
    assert response.status_code == 400, response.text
    assert list(response.json()) == ["error"]


def test_a_text_in_a_column_of_its_own_which_was_a_500_is_answered(products: Served) -> None:
    body = {"inputs": [{"name": "predict", "shape": [3, 1], "datatype": "BYTES", "data": TEXTS}]}
    reply = answer(f"{products.url}/v2/models/{NAME}/versions/{V2}/infer", body)
    assert reply["outputs"][0]["data"] == ["game", "livro", "livro"]


@pytest.mark.parametrize(
    ("path", "error"),
    [
        (f"/v2/models/{NAME}/versions/v0/infer", f"Model {NAME} with version v0 not found"),
        ("/v2/models/my-model/infer", "Model my-model not found"),
    ],
)
def test_an_unknown_model_or_version_is_a_404(products: Served, path: str, error: str) -> None:
    response = post(products.url + path, {"inputs": [bytes_input(["x"])]})
    assert response.status_code == 404
    assert response.json() == {"error": error}


@pytest.mark.parametrize("version", [V1, V2])
def test_each_version_says_that_it_is_ready(products: Served, version: str) -> None:
    assert httpx.get(f"{products.url}/v2/models/{NAME}/versions/{version}/ready").status_code == 200
    assert httpx.get(f"{products.url}/v2/health/ready").status_code == 200


def test_the_native_protocol_takes_the_text_by_name(products: Served) -> None:
    reply = answer(f"{products.url}/models/{NAME}/predict", {"text": "batom vermelho"})
    assert reply["predictions"] == ["maquiagem"]
    assert reply["classes"] == CLASSES
