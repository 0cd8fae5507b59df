"""The pages people read: what is served, and the API document; server-rendered, with the forms made by one script."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import jinja2

import lagar
from lagar.control import schemas
from lagar.control.assets import Assets
from lagar.control.facts import (
    TASK_WORDS,
    TYPE_WORDS,
    example_records,
    input_fields,
    null_words,
    range_words,
    token,
)
from lagar.control.openapi import native_bases
from lagar.control.state import ControlState
from lagar.registry.model import ModelInfo, without_folders
from lagar.registry.proof import calls_of
from lagar.registry.signature import Field

TABLE_ROWS = 300
"""Fields in the table of a signature; the rest is in the model's JSON."""
SHOWN_CATEGORIES = 12
LISTED_MODELS: Final = 3
"""The API page of so many models shows every operation at once."""


class Pages:
    """Renders every page; `prefix` is the path below which the reader sees the server."""

    def __init__(self, assets: Assets) -> None:
        self._assets = assets
        self._templates = jinja2.Environment(
            loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.policies["json.dumps_kwargs"] = {"sort_keys": False, "ensure_ascii": False}

    def index(self, state: ControlState, prefix: str) -> str:
        """What is served: every version with its facts, its signature and its form."""
        versions = [_version(state, info, prefix) for name in state.shown for info in state.versions(name)]
        island = {"wantsKey": state.wants_key, "versions": [version["form"] for version in versions]}
        return self._render(
            "index.html",
            state,
            prefix,
            names=state.shown,
            more=len(state.names) - len(state.shown),
            versions=versions,
            island=island,
            refused=_refused(state),
        )

    def docs(self, state: ControlState, prefix: str, document: str = "/openapi.json", model: str | None = None) -> str:
        """The API page over one of the documents; `model` where it is that of one model."""
        # Swagger UI draws the operations of a long document as they are scrolled to: its tags come first then
        expansion = "list" if model or len(state.names) <= LISTED_MODELS else "none"
        return self._render("docs.html", state, prefix, document=prefix + document, expansion=expansion, model=model)

    def _render(self, template: str, state: ControlState, prefix: str, **values: Any) -> str:
        def static(name: str) -> str:
            return self._assets.url(prefix, name)

        facts = {"prefix": prefix, "static": static, "server": state.server, "release": lagar.__version__}
        return self._templates.get_template(template).render(**facts, wants_key=state.wants_key, **values)


def _refused(state: ControlState) -> dict[str, str]:
    """What lies at the server's paths and is not served, without saying where they lie."""
    return {"/".join(Path(path).parts[-2:]): without_folders(why) for path, why in state.refused.items()}


def _version(state: ControlState, info: ModelInfo, prefix: str) -> dict[str, Any]:
    """The words about one version, and `form`: what the script needs to build its form."""
    signature = info.signature
    fields = signature.fields
    base = prefix + native_bases(state, info)[0]
    facts = [
        ("Task", TASK_WORDS[signature.task]),
        ("Made with", ", ".join(f"{name} {version}" for name, version in info.libraries.items()) or info.kind),
        ("Fields", "unknown" if fields is None else str(len(fields))),
        ("Answers", ", ".join(signature.native_outputs) or "unknown"),
    ]
    if signature.classes is not None:
        facts.append(("Classes", _shortened([_plain(label) for label in signature.classes])))
    if signature.origin:
        facts.append(("Learned from", signature.origin))
    if info.has_preprocess or info.has_postprocess:
        hooks = [
            name for name, has in (("preprocess", info.has_preprocess), ("postprocess", info.has_postprocess)) if has
        ]
        facts.append(("Own code", " and ".join(hooks)))
    if info.forms:
        facts.append(("Compiled", ", ".join(f"{form.name} {calls_of(form)}" for form in info.forms)))
    if info.loaded_at:
        facts.append(("Loaded", info.loaded_at[:16].replace("T", " ") + " UTC"))
    return {
        "key": f"{info.name}@{info.version}",
        "info": info,
        "task": TASK_WORDS[signature.task],
        "facts": facts,
        "warnings": list(info.warnings),
        "rows": [_row(field) for field in (fields or ())[:TABLE_ROWS]],
        "more_rows": max(0, len(fields or ()) - TABLE_ROWS),
        "knows_fields": fields is not None,
        "named": signature.named,
        "extra_fields": signature.extra_fields,
        "about": f"{prefix}/models/{quote(info.name, safe='')}/versions/{quote(info.version, safe='')}",
        "path": f"{base}/predict",
        "form": _form(info, f"{base}/predict"),
    }


def _row(field: Field) -> dict[str, Any]:
    categories = None if field.categories is None else [_plain(value) for value in field.categories]
    return {
        "name": field.name,
        "type": TYPE_WORDS[field.type],
        "categories": None if categories is None else categories[:SHOWN_CATEGORIES],
        "more_categories": [] if categories is None else categories[SHOWN_CATEGORIES:],
        "others": field.unknown,
        "range": range_words(field) or ("true, false" if field.type == "bool" else "unknown"),
        "null": null_words(field),
        "missing": f"becomes {_plain(field.default)}" if field.has_default else "refused",
    }


def _form(info: ModelInfo, path: str) -> dict[str, Any]:
    fields = input_fields(info)
    records = example_records(info.signature)
    first = records[0] if records else {}
    return {
        "key": f"{info.name}@{info.version}",
        "path": path,
        "fields": [_input(field, first) for field in fields],
        "json": _batch_json(schemas.example_items(info)),
        "ndjson": schemas.ndjson_example(info),
        "csv": schemas.csv_example(info),
    }


def _input(field: Field, example: dict[str, Any]) -> dict[str, Any]:
    """One field for the script; values travel as JSON text, since a browser's numbers lose digits over 2^53."""
    value = example.get(field.name, field.default if field.has_default else field.example)
    hints = [TYPE_WORDS[field.type] if field.type != "unknown" else "type unknown"]
    if range_words(field):
        hints.append(range_words(field))
    if field.nullable:
        hints.append("may be null" if field.type == "bool" or field.categories is not None else "empty is null")
    if field.has_default:
        hints.append(f"missing becomes {_plain(field.default)}")
    return {
        "name": field.name,
        "type": field.type,
        "nullable": bool(field.nullable),
        "optional": field.has_default,
        "categories": None if field.categories is None else [token(item) for item in field.categories],
        "open": field.unknown == "allow",
        "example": None if value is None and not field.nullable else token(value),
        "hint": " · ".join(hints),
    }


def _batch_json(items: list[Any]) -> str:
    return "[\n" + ",\n".join("  " + token(item) for item in items) + "\n]" if items else ""


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else token(value)


def _shortened(words: list[str]) -> str:
    more = len(words) - SHOWN_CATEGORIES
    return ", ".join(words[:SHOWN_CATEGORIES]) + (f" and {more} more" if more > 0 else "")
