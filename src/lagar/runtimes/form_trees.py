"""Forms that are trees: where the numbers come from, then the trees of `tree_end`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec
import numpy as np

from lagar.errors import LoadFailed
from lagar.registry.signature import Signature
from lagar.runtimes.arrays import ARRAYS, read
from lagar.runtimes.base import refuse_if_callers
from lagar.runtimes.column_sources import AnySource, Context, Source, Whole
from lagar.runtimes.tree_end import End, TreeEnd
from lagar.types import Array, Outputs, Rows


class TreesForm(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The document of trees."""

    end: End
    source: AnySource
    """What makes the trees' matrix of the caller's rows."""
    arrays: int = 0
    """How many arrays of the source are in the data file."""
    format: int = 1
    kind: Literal["trees"] = "trees"


_decoder = msgspec.json.Decoder(TreesForm)
"""Built once, at import: two threads that build what msgspec knows of a class at the same time crash the process."""


def open_form(folder: Path, document: bytes, threads: int) -> TreesPredictor:
    """The predictor of a form of trees; raises LoadFailed."""
    try:
        form = _decoder.decode(document)
        arrays = read(folder / ARRAYS, form.arrays)
    except (OSError, ValueError, msgspec.DecodeError) as error:
        raise LoadFailed(f"{folder.name} is no form of trees that this Lagar can read: {error}") from error
    return TreesPredictor(form, arrays, TreeEnd(folder, form.end, threads))


class TreesPredictor:
    """Trees that are ready to answer once they are bound to their signature."""

    def __init__(self, form: TreesForm, arrays: list[Array], end: TreeEnd) -> None:
        self.libraries = end.libraries
        self._form = form
        self._arrays = arrays
        self._end = end
        self._names: tuple[str, ...] | None = None
        self._source: Source | None = None

    def bind(self, signature: Signature) -> None:
        """Names of the fields, and whether rows come as columns or as a matrix."""
        self._names = signature.names if signature.fields is not None else None
        if not isinstance(self._form.source, Whole):
            context = Context(self._arrays, signature.names if signature.layout == "columns" else None)
            self._source = self._form.source.open(context)

    def predict(self, rows: Rows, outputs: tuple[str, ...]) -> Outputs:
        """The named outputs; raises what the original raises for rows that it refuses."""
        try:
            if self._source is None:
                assert rows.matrix is not None
                return self._end.outputs(rows.matrix, outputs)
            with np.errstate(all="ignore"):
                x = self._source.matrix(rows)
            return self._end.outputs(x, outputs)
        except ValueError as error:
            refuse_if_callers(rows, self._names, error)
            raise

    def close(self) -> None:
        """Nothing is held besides memory."""
