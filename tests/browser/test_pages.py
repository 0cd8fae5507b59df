"""The pages in a real browser, over a real server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import joblib
import pandas as pd
import pytest
from selenium.webdriver.common.keys import Keys
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from support.browser import Browser
from support.front import Front
from support.server import LagarServer, lagar

REFUSED = "400 (Bad Request)"


@pytest.fixture(scope="session")
def houses(models_dir: Path) -> Path:
    """A regressor over a number and a category whose encoder ignores values it does not know."""
    rows = pd.DataFrame({"area": range(30, 90), "quarter": ["Alfama", "Baixa", "Chiado"] * 20})
    encoder = ColumnTransformer([("q", OneHotEncoder(handle_unknown="ignore"), ["quarter"])], remainder="passthrough")
    path = models_dir / "houses.joblib"
    joblib.dump(make_pipeline(encoder, LinearRegression()).fit(rows, rows.area * 2.0), path)
    return path


@pytest.fixture(scope="session")
def wide(models_dir: Path) -> Path:
    """A regressor over 150 named numbers."""
    rows = pd.DataFrame({f"sensor_{i:03d}": [float(i), float(i + 1), float(-i)] for i in range(150)})
    path = models_dir / "wide.joblib"
    joblib.dump(LinearRegression().fit(rows, [1.0, 2.0, 3.0]), path)
    return path


@pytest.fixture(scope="session")
def gaps(models_dir: Path, wine: Any) -> Path:
    """A model that was made for missing values: `gaps.joblib`."""
    path = models_dir / "gaps.joblib"
    joblib.dump(HistGradientBoostingClassifier(max_iter=3).fit(wine.rows, wine.model.predict(wine.rows)), path)
    return path


@pytest.fixture(scope="session")
def served(
    tmp_path_factory: pytest.TempPathFactory, wine: Any, churn: Any, text: Any, houses: Path, wide: Path, gaps: Path
) -> Iterator[LagarServer]:
    """One server over all models, for the tests that change nothing."""
    home = tmp_path_factory.mktemp("home")
    with LagarServer(wine.path, churn.path, text.path, houses, wide, gaps, home=home) as server:
        yield server


def test_the_form_holds_the_example_and_the_answer_is_the_models(browser: Browser, served: Any, wine: Any) -> None:
    browser.open(served.url, "wine@" + served.version("wine"))
    example = httpx.get(served.url + "/models/wine/example").json()
    record = example[0] if isinstance(example, list) else example
    for name, value in record.items():
        assert float(browser.value(name)) == value
    browser.type("alcohol", "13.2")
    browser.send()
    row = [[13.2 if name == "alcohol" else record[name] for name in wine.rows.columns]]
    frame = wine.rows.iloc[:1].copy()
    frame.iloc[0] = row[0]
    assert browser.text(".prediction") == str(wine.model.predict(frame)[0])
    shares = sorted(wine.model.predict_proba(frame)[0], reverse=True)
    shown = [element.text for element in browser.all(".chance .share")]
    assert [float(text.removesuffix(" %")) for text in shown] == pytest.approx(
        [100 * share for share in shares], abs=0.06
    )
    assert browser.text(".answer .status").startswith("200 in ")


def test_a_wrong_value_is_told_beside_its_field_and_mended(browser: Browser, served: Any) -> None:
    browser.expected.append(REFUSED)
    browser.open(served.url, "wine@" + served.version("wine"))
    browser.type("hue", "abc")
    browser.send()
    assert "hue" in browser.wrong("hue")
    assert "abc" in browser.wrong("hue")
    assert browser.field("hue").get_attribute("aria-invalid") == "true"
    assert browser.run("return document.activeElement.id") == browser.field("hue").get_attribute("id")
    assert browser.wrong("alcohol") == ""
    assert "hue" in browser.text(".answer .failure")
    browser.type("hue", "1.04")
    assert browser.wrong("hue") == ""
    browser.send()
    assert browser.text(".prediction")


def test_an_empty_field_is_left_out_and_told_as_missing(browser: Browser, served: Any) -> None:
    browser.expected.append(REFUSED)
    browser.open(served.url, "churn@" + served.version("churn"))
    browser.type("tenure", "")
    assert "tenure" not in browser.text(".curl")
    browser.send()
    assert "tenure" in browser.wrong("tenure")


def test_an_empty_field_that_may_be_null_is_null(browser: Browser, served: Any) -> None:
    browser.open(served.url, "gaps@" + served.version("gaps"))
    browser.type("proline", "")
    assert '"proline": null' in browser.text(".curl")
    browser.send()
    assert browser.text(".prediction")


def test_the_request_is_shown_as_a_command_that_works(browser: Browser, served: Any, tmp_path: Path) -> None:
    browser.open(served.url, "products@" + served.version("products"))
    browser.type("text", 'Livro d\'água "azul"')
    command = browser.text(".curl")
    assert command.startswith(f"curl {served.url}/models/products/predict")
    body = command.split("--data-binary ", 1)[1].strip("'").replace("'\\''", "'")
    assert json.loads(body) == {"text": 'Livro d\'água "azul"'}


def test_a_text_model_has_a_box_for_text(browser: Browser, served: Any, text: Any) -> None:
    browser.open(served.url, "products@" + served.version("products"))
    control = browser.field("text")
    assert control.tag_name == "textarea"
    browser.type("text", "Boneca de pano")
    browser.send()
    assert browser.text(".prediction") == text.model.predict(["Boneca de pano"])[0]


def test_categories_are_a_choice(browser: Browser, served: Any, churn: Any) -> None:
    browser.open(served.url, "churn@" + served.version("churn"))
    assert browser.field("contract").tag_name == "select"
    browser.pick("contract", "month-to-month")
    browser.type("tenure", "1")
    browser.send()
    assert browser.text(".prediction")
    assert '"contract": "month-to-month"' in browser.text(".curl")


def test_another_category_may_be_typed_where_the_model_takes_it(browser: Browser, served: Any) -> None:
    browser.open(served.url, "houses@" + served.version("houses"))
    browser.pick("quarter", "other…")
    browser.find("article input[aria-label='quarter, another value']").send_keys("Belém")
    assert '"quarter": "Belém"' in browser.text(".curl")
    browser.send()
    assert browser.text(".prediction")


def test_many_fields_are_found_by_name_and_all_are_sent(browser: Browser, served: Any) -> None:
    browser.expected.append(REFUSED)
    browser.open(served.url, "wide@" + served.version("wide"))
    assert len(browser.all("article .field")) < 150
    browser.find("article .filter input").send_keys("sensor_149")
    assert browser.text("article .filter .count") == "1 of 150 fields"
    browser.type("sensor_149", "abc")
    browser.find("article .filter input").send_keys(Keys.BACKSPACE * 20 + "sensor_007")
    browser.send()
    assert "sensor_149" in browser.wrong("sensor_149")
    browser.type("sensor_149", "2.5")
    browser.send()
    assert browser.text(".prediction")


@pytest.mark.parametrize("kind", ["json", "csv", "ndjson"])
def test_a_batch_is_pasted_and_answered_row_by_row(browser: Browser, served: Any, wine: Any, kind: str) -> None:
    rows = wine.rows.iloc[[0, 60, 177]]
    pasted = {
        "json": json.dumps(rows.to_dict(orient="records")),
        "csv": rows.to_csv(index=False),
        "ndjson": "".join(json.dumps(record) + "\n" for record in rows.to_dict(orient="records")),
    }[kind]
    browser.open(served.url, "wine@" + served.version("wine"))
    browser.press("article [data-tab=batch]")
    browser.run(
        "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('change'))",
        browser.find(".kind"),
        kind,
    )
    box = browser.find("textarea.body")
    browser.run("arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'))", box, pasted)
    browser.send()
    assert [cell.text for cell in browser.all(".answer tbody td:nth-of-type(1)")] == [
        str(label) for label in wine.model.predict(rows)
    ]


def test_the_wrong_line_of_a_pasted_csv_is_selected(browser: Browser, served: Any, wine: Any) -> None:
    browser.expected.append(REFUSED)
    lines = wine.rows.iloc[:3].to_csv(index=False).splitlines()
    lines[2] = lines[2].replace(",", ",abc,", 1).rsplit(",", 1)[0]
    browser.open(served.url, "wine@" + served.version("wine"))
    browser.press("article [data-tab=batch]")
    browser.run("arguments[0].value = 'csv'; arguments[0].dispatchEvent(new Event('change'))", browser.find(".kind"))
    box = browser.find("textarea.body")
    browser.run(
        "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'))", box, "\n".join(lines)
    )
    browser.send()
    assert "row 1" in browser.text(".answer .failure")
    script = "const box = arguments[0]; return box.value.slice(box.selectionStart, box.selectionEnd)"
    selected = browser.run(script, browser.find("textarea.body"))
    assert selected == lines[2]


def test_tabs_work_by_keyboard(browser: Browser, served: Any) -> None:
    browser.open(served.url, "wine@" + served.version("wine"))
    browser.find("article [data-tab=form]").send_keys(Keys.ARROW_RIGHT)
    assert browser.find("article form.batch")
    assert browser.run("return document.activeElement.dataset.tab") == "batch"
    browser.find("article [data-tab=batch]").send_keys(Keys.ARROW_RIGHT)
    assert browser.find("article form.form")


@pytest.fixture(scope="session")
def below(tmp_path_factory: pytest.TempPathFactory, wine: Any) -> Iterator[LagarServer]:
    """A server that is published below /mlapi."""
    home = tmp_path_factory.mktemp("below")
    with LagarServer(wine.path, home=home, args=["--root-path", "/mlapi"]) as server:
        yield server


@pytest.mark.parametrize("strip", [True, False])
def test_everything_works_below_a_root_path_behind_a_proxy(browser: Browser, below: Any, strip: bool) -> None:
    with Front(below.port, "/mlapi", strip=strip) as front:
        browser.open(front.url + "/")
        assert browser.text(".curl").startswith(f"curl {front.url}/predict")
        browser.send()
        assert browser.text(".prediction")
        browser.press(".links a[href='/mlapi/docs']")
        browser.find(".swagger-ui .opblock")
        addresses = browser.run("return performance.getEntriesByType('resource').map(e => e.name)")
        assert addresses
        assert all(address.startswith(front.url + "/") for address in addresses)


def test_the_api_page_tries_a_prediction_without_another_origin(browser: Browser, served: Any) -> None:
    browser.open(served.url + "/docs")
    browser.press("#operations-tag-wine")
    browser.press("[id='operations-wine-predict_models_wine'] .opblock-summary-control")
    browser.press("[id='operations-wine-predict_models_wine'] .execute")
    status = browser.text("[id='operations-wine-predict_models_wine'] .live-responses-table tbody .response-col_status")
    assert status.startswith("200")
    addresses = browser.run("return performance.getEntriesByType('resource').map(e => e.name)")
    assert all(address.startswith((served.url, "data:")) for address in addresses)


def test_a_key_is_asked_for_kept_in_the_tab_and_sent(browser: Browser, serve: Any, wine: Any, tmp_path: Path) -> None:
    browser.expected.append("401 (Unauthorized)")
    home = tmp_path / "keys"
    keys = {}
    for scope in ("read", "infer"):
        made = lagar("keys", "create", "--name", scope, "--scope", scope, "--json", home=home)
        assert made.returncode == 0, made.stderr
        keys[scope] = json.loads(made.stdout)["key"]
    server = serve(wine.path, home=home)
    browser.open(server.url.replace("//", f"//reader:{keys['read']}@"))
    browser.send()
    assert "infer" in browser.text("#key-note")
    browser.find("#key-value").send_keys(keys["infer"])
    browser.press("#key button")
    browser.send()
    assert browser.text(".prediction")
    assert keys["infer"] not in browser.text(".curl")
    assert browser.run("return [localStorage.length, document.cookie, sessionStorage.getItem('lagar-key')]") == [
        0,
        "",
        keys["infer"],
    ]


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_no_width_makes_the_page_scroll_sideways(browser: Browser, served: Any, width: int) -> None:
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    browser.chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        for model in (f"{name}@{served.version(name)}" for name in ("wine", "churn", "products")):
            browser.open(served.url, model)
            browser.send()
            assert browser.run("return document.documentElement.scrollWidth") <= width
    finally:
        browser.chrome.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_every_control_has_a_name_for_those_who_hear_the_page(browser: Browser, served: Any) -> None:
    browser.open(served.url, "churn@" + served.version("churn"))
    nameless = browser.run(
        """return [...document.querySelectorAll('input, select, textarea, button')].filter((control) =>
             !control.labels?.length && !control.getAttribute('aria-label') && !control.textContent.trim()
           ).map((control) => control.outerHTML)"""
    )
    assert nameless == []
    assert browser.find(".answer").get_attribute("aria-live") == "polite"
