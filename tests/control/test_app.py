"""What every answer of the control app keeps to: its prefix, its headers, its errors, its files."""

from __future__ import annotations

import hashlib
import re

import pytest

from lagar.control import assets
from support.infos import Control, churn_info, wine_info

PAGES = ["/", "/docs", "/openapi.json", "/metrics"]


@pytest.mark.parametrize("path", [*PAGES, "/static/lagar.js", "/nowhere"])
def test_no_answer_may_be_framed_sniffed_or_reach_another_origin(control: Control, path: str) -> None:
    answer = control(wine_info()).get(path)
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert "frame-ancestors 'none'" in policy
    assert "http" not in policy
    assert "unsafe" not in policy or path == "/docs"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["x-frame-options"] == "DENY"
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_pages_have_no_inline_script_style_or_handler_and_name_no_other_origin(control: Control, path: str) -> None:
    page = control(wine_info(), churn_info()).get(path).text
    assert not re.search(r"\son\w+=", page)
    assert not re.search(r"\sstyle=|<style", page)
    scripts = re.findall(r"<script([^>]*)>(.*?)</script>", page, re.DOTALL)
    assert all("src=" in attributes or 'type="application/json"' in attributes for attributes, _ in scripts)
    assert not re.search(r"(?:src|href|action)=\"(?:https?:)?//", page)


@pytest.mark.parametrize("path", [*PAGES, "/static/press.svg", "/nowhere"])
def test_a_request_id_comes_back_and_one_is_made_when_it_is_missing_or_unfit(control: Control, path: str) -> None:
    client = control(wine_info())
    assert client.get(path, headers={"X-Request-Id": "caller-7"}).headers.get_list("x-request-id") == ["caller-7"]
    made = {client.get(path, headers=headers).headers["x-request-id"] for headers in ({}, {"X-Request-Id": "a b"})}
    assert len(made) == 2
    assert "a b" not in made


def test_an_unknown_path_is_404_in_the_native_shape(control: Control) -> None:
    answer = control(wine_info()).get("/nowhere", headers={"X-Request-Id": "r1"})
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/json"
    error = answer.json()["error"]
    assert error == {
        "code": "not_found",
        "message": "no such path '/nowhere'; GET /docs lists every path of this server",
        "field": None,
        "row": None,
        "request_id": "r1",
    }


def test_a_wrong_method_is_405_and_names_those_that_work(control: Control) -> None:
    answer = control(wine_info()).delete("/metrics")
    assert answer.status_code == 405
    assert {method.strip() for method in answer.headers["allow"].split(",")} == {"GET", "HEAD"}
    assert answer.json()["error"]["code"] == "method_not_allowed"
    assert "DELETE" in answer.json()["error"]["message"]


def test_an_unknown_path_below_v2_is_told_in_the_shape_of_v2(control: Control) -> None:
    answer = control(wine_info()).get("/v2/nowhere")
    assert answer.status_code == 404
    assert list(answer.json()) == ["error"]
    assert isinstance(answer.json()["error"], str)


def test_a_failure_is_500_without_its_reason(control: Control) -> None:
    client = control(wine_info())
    client.state.models = (None,)  # type: ignore[attr-defined]
    answer = client.get("/", headers={"X-Request-Id": "r2"})
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "internal"
    assert answer.json()["error"]["request_id"] == "r2"
    assert "Traceback" not in answer.text
    assert "NoneType" not in answer.text
    assert answer.headers["x-frame-options"] == "DENY"


@pytest.mark.parametrize("path", PAGES)
def test_head_is_get_without_a_body(control: Control, path: str) -> None:
    client = control(wine_info())
    head = client.head(path)
    assert head.status_code == 200
    assert head.content == b""
    assert head.headers["content-type"] == client.get(path).headers["content-type"]


def links(page: str) -> set[str]:
    """Every address of the page itself that a browser would fetch."""
    found = re.findall(r"(?:src|href|data-document)=\"([^\"#]+)", page)
    assert found
    return set(found)


@pytest.mark.parametrize("root_path", ["", "/mlapi", "/a/b"])
@pytest.mark.parametrize("page", ["/", "/docs"])
def test_every_link_of_a_page_is_below_the_root_path(control: Control, page: str, root_path: str) -> None:
    client = control(wine_info(), root_path=root_path)
    answer = client.get(page)
    assert answer.status_code == 200
    for link in links(answer.text):
        assert link.startswith(root_path + "/"), link
        assert client.get(link.removeprefix(root_path)).status_code == 200, link


def test_a_prefix_is_never_taken_from_a_path_that_the_worker_has_checked(control: Control) -> None:
    client = control(wine_info(), root_path="/mlapi")
    assert client.get("/mlapi/metrics").status_code == 404
    assert client.get("/v2/health/metrics", headers={"X-Forwarded-Prefix": "/v2/health"}).status_code == 404


def test_a_vetted_forwarded_prefix_goes_before_the_root_path(control: Control) -> None:
    client = control(wine_info(), root_path="/mlapi")
    page = client.get("/", headers={"X-Forwarded-Prefix": "/outer/"}).text
    assert 'href="/outer/docs"' in page
    assert client.get("/openapi.json", headers={"X-Forwarded-Prefix": "/outer"}).json()["servers"] == [
        {"url": "/outer"}
    ]


@pytest.mark.parametrize("prefix", ['/"><script>', "//evil.example", "/a/../b", "https://evil.example"])
def test_a_prefix_that_is_no_plain_path_is_not_written_anywhere(control: Control, prefix: str) -> None:
    page = control(wine_info()).get("/", headers={"X-Forwarded-Prefix": prefix}).text
    assert "evil" not in page
    assert "<script>" not in page
    assert 'href="/docs"' in page


def test_an_asset_with_its_digest_is_kept_for_ever_and_without_it_is_asked_for_again(control: Control) -> None:
    client = control()
    address = next(link for link in links(client.get("/").text) if "lagar.css" in link)
    kept = client.get(address)
    assert kept.headers["content-type"] == "text/css; charset=utf-8"
    assert "immutable" in kept.headers["cache-control"]
    assert client.get("/static/lagar.css").headers["cache-control"] == "no-cache"
    assert client.get("/static/lagar.css?v=old").headers["cache-control"] == "no-cache"
    again = client.get(address, headers={"If-None-Match": kept.headers["etag"]})
    assert again.status_code == 304
    assert again.content == b""


def test_assets_travel_packed_to_those_who_take_it(control: Control) -> None:
    client = control()
    packed = client.get("/static/vendor/swagger-ui-bundle.js")
    plain = client.get("/static/vendor/swagger-ui-bundle.js", headers={"Accept-Encoding": "identity"})
    assert packed.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in plain.headers
    assert packed.headers["etag"] != plain.headers["etag"]
    assert packed.content == plain.content
    assert packed.headers["vary"] == "accept-encoding"


@pytest.mark.parametrize(
    "name",
    ["../app.py", "%2e%2e/app.py", "..%2fapp.py", "vendor/README.md", "vendor/", "", "/etc/passwd", "nothing.js"],
)
def test_only_known_files_are_served(control: Control, name: str) -> None:
    assert control().get(f"/static/{name}").status_code == 404


def test_the_vendored_files_are_those_that_the_note_beside_them_names() -> None:
    folder = assets.STATIC / "vendor"
    sums = re.findall(r"^ {4}([0-9a-f]{64})  (\S+)$", (folder / "README.md").read_text(), re.MULTILINE)
    assert {name for _, name in sums} == {path.name for path in folder.iterdir() if path.suffix in (".css", ".js")}
    for digest, name in sums:
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
