"""Forms: a folder with `form.json`, which says how its data files are run; no pickle and no scikit-learn.

Each kind is a module `form_<kind>` beside this one with `open_form(folder, document, threads)`. It takes the same Rows
and gives the same Outputs, bit for bit in type and shape, as the original's predictor; the signature is bound later.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Final, Literal, Protocol

import msgspec

from lagar.errors import LoadFailed
from lagar.registry.model import ModelSource
from lagar.runtimes.base import BoundPredictor, Draft, Opened

DOCUMENT: Final = "form.json"
FORMAT: Final = 1
FormKind = Literal["trees", "columns", "graph", "booster"]


class Header(msgspec.Struct, frozen=True):
    """What every `form.json` begins with; each kind's own struct has these two beside its own members."""

    format: int
    kind: FormKind


_decoder = msgspec.json.Decoder(Header)
"""Built once, at import: two threads that build what msgspec knows of a class at the same time crash the process."""


class FormPredictor(BoundPredictor, Protocol):
    """A form that is ready to answer."""

    libraries: dict[str, str]
    """Distribution → version of what runs it, numpy left out: {} or {"onnxruntime": "1.31.1"}."""


def open_source(source: ModelSource, threads: int) -> Opened:
    """The form in the folder `source.path`; raises LoadFailed."""
    predictor = open_folder(Path(source.path), threads)
    draft = Draft(fields=None, layout="matrix", task="unknown", outputs=(), native=())
    return Opened(predictor, draft, dict(predictor.libraries))


def open_folder(folder: Path, threads: int) -> FormPredictor:
    """The predictor of a form's folder, not yet bound to a signature; raises LoadFailed."""
    try:
        document = (folder / DOCUMENT).read_bytes()
        header = _decoder.decode(document)
    except (OSError, msgspec.DecodeError) as error:
        raise LoadFailed(f"{folder.name} is no form that this Lagar can read: {error}; compile it again") from error
    if header.format != FORMAT:
        raise LoadFailed(
            f"{folder.name} has form format {header.format}, and this Lagar reads {FORMAT}; compile it again"
        )
    runtime = importlib.import_module(f"lagar.runtimes.form_{header.kind}")
    opened: FormPredictor = runtime.open_form(folder, document, threads)
    return opened
