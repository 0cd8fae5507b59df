"""What docs/ says of settings, metrics, routes and lagar.toml is what the code has, no more and no less."""

from __future__ import annotations

import inspect
import re
import typing
from pathlib import Path

import msgspec
import pytest

from lagar.cli import serve
from lagar.control.metrics import ServerCollector
from lagar.control.state import ControlState
from lagar.intake import folder as lagar_toml
from lagar.server.auth import ROUTES
from lagar.settings import OTHER_VARIABLES, ServerSettings

DOCS = Path(__file__).resolve().parent.parent / "docs"
SETTINGS = ServerSettings.__struct_fields__


def section(page: str, heading: str) -> str:
    """The text below a heading, up to the next one of its level or above."""
    text = (DOCS / page).read_text()
    level = re.search(rf"^(#+) {re.escape(heading)}$", text, re.MULTILINE)
    assert level, f"docs/{page} has no heading {heading!r}"
    return re.split(rf"^#{{1,{len(level[1])}}} ", text[level.end() :], maxsplit=1, flags=re.MULTILINE)[0]


def table(page: str, heading: str) -> dict[str, list[str]]:
    """The rows of the first table below a heading, by the code in their first cell."""
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in section(page, heading).splitlines()
        if line.startswith("|")
    ]
    return {cells[0].strip("`"): cells for cells in rows[2:]}


def test_every_setting_is_documented_in_its_order() -> None:
    assert list(table("settings.md", "Every setting")) == list(SETTINGS)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_settings_row_has_its_flag_variable_and_default(name: str) -> None:
    _, flag, variable, default, meaning = table("settings.md", "Every setting")[name]
    assert variable == f"`LAGAR_{name.upper()}`"
    assert flag in (f"`--{name.replace('_', '-')}`", f"`--no-{name.replace('_', '-')}`")
    value = getattr(ServerSettings(), name)
    shown = "empty" if value == "" else "none" if value in (None, ()) else f"`{value:g}`" if _is_float(value) else value
    assert default.strip("`") == str(shown).strip("`").lower()
    assert meaning


def _is_float(value: object) -> bool:
    return isinstance(value, float)


def test_every_setting_has_a_flag_and_every_flag_of_serve_is_documented() -> None:
    flags = set(inspect.signature(serve.serve).parameters) - {"paths"}
    others = set(re.findall(r"\| `--([a-z-]+)", section("serve.md", "Flags")))
    assert flags == set(SETTINGS) | {flag.replace("-", "_") for flag in others}


def test_variables_that_are_no_settings_are_documented() -> None:
    named = re.findall(r"`(LAGAR_[A-Z_]+)`", section("settings.md", "Variables that are no settings"))
    assert sorted(named) == sorted(OTHER_VARIABLES)


def test_limits_of_the_operating_page_are_settings() -> None:
    assert set(table("operate.md", "Limits and time-outs")) <= set(SETTINGS)


def test_every_metric_is_documented_with_its_labels(tmp_path: Path) -> None:
    from lagar.metrics import FAMILIES

    documented = table("operate.md", "Metrics")
    collected = {
        metric.name + {"counter": "_total", "info": "_info"}.get(metric.type, ""): metric
        for metric in ServerCollector(ControlState(settings=ServerSettings(), metrics_dir=tmp_path)).collect()
    }
    assert set(documented) == set(collected)
    for name, (_, kind, labels, meaning) in documented.items():
        metric = collected[name]
        assert kind == metric.type.replace("info", "gauge")
        if metric.name in FAMILIES:
            assert labels == ", ".join(FAMILIES[metric.name].labels)
        assert meaning


def test_every_route_of_the_gate_is_documented_with_its_scope() -> None:
    text = section("security.md", "Routes").replace("NAME", "{}").replace("VERSION", "{}")
    text = text.replace("ALIAS", "{}").replace("NUMBER", "{}")
    documented: dict[tuple[str, str], str] = {}
    for line in text.splitlines():
        if re.match(r"\| .*`([A-Z]+ )*/", line):
            paths, scope = [cell.strip() for cell in line.strip("|").split("|")[:2]]
            methods = ""
            for named, path in re.findall(r"`((?:[A-Z]+ )*)(/[^`]*)`", paths):
                methods = named or methods
                for variant in _variants(path):
                    for method in methods.split() or ["*"]:
                        documented[method, variant] = scope.split(";")[0].strip("`")
    for methods, pattern, scope in ROUTES:
        path = pattern.replace("{**}", "…").replace("/docs/…", "/docs").replace("/v2/health/{}", "/v2/health/…")
        for method in methods - {"HEAD"}:
            assert documented.get((method, path)) == (scope or "none"), (method, path)


def _variants(path: str) -> list[str]:
    """`/a[/b]/c` is `/a/c` and `/a/b/c`."""
    found = re.search(r"\[([^\]]*)\]", path)
    if found is None:
        return [path]
    return [path[: found.start()] + middle + path[found.end() :] for middle in ("", found[1])]


@pytest.mark.parametrize(("heading", "struct"), [("Keys", lagar_toml.LagarToml), ("Fields", lagar_toml.FieldRule)])
def test_every_key_of_lagar_toml_is_documented(heading: str, struct: type[msgspec.Struct]) -> None:
    assert set(table("lagar-toml.md", heading)) == {field.encode_name for field in msgspec.structs.fields(struct)}


def test_every_type_of_a_field_rule_is_documented() -> None:
    (types, _) = typing.get_args(typing.get_type_hints(lagar_toml.FieldRule)["type"])
    cell = table("lagar-toml.md", "Fields")["type"][1]
    assert re.findall(r'`"(\w+)"`', cell) == list(typing.get_args(types))


def test_every_page_is_in_the_index() -> None:
    listed = set(re.findall(r"\]\(([\w-]+\.md)\)", (DOCS / "index.md").read_text()))
    assert listed == {path.name for path in DOCS.glob("*.md")} - {"index.md"}
