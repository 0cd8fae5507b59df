"""Forms that are column programs: sources, steps and an end as data, run with NumPy alone.

`form.json` holds the program, `arrays.npy` its arrays one after the other (NumPy's own format, no pickle).
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec
import numpy as np

from lagar.errors import LoadFailed
from lagar.registry.signature import Signature
from lagar.runtimes.arrays import ARRAYS, read
from lagar.runtimes.base import refuse_if_callers
from lagar.runtimes.column_ends import Answer, AnyEnd
from lagar.runtimes.column_sources import AnySource, Context
from lagar.types import Array, Outputs, Rows


class Program(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The document of a column program."""

    sources: list[AnySource]
    """One, or several side by side for an end that adds up terms."""
    end: AnyEnd
    arrays: int
    """How many there are in the data file."""
    format: int = 1
    kind: Literal["columns"] = "columns"


_decoder = msgspec.json.Decoder(Program)
"""Built once, at import: two threads that build what msgspec knows of a class at the same time crash the process."""


def open_form(folder: Path, document: bytes, threads: int) -> ColumnsPredictor:
    """The predictor of a column program; raises LoadFailed. NumPy's own threads are the process's matter."""
    try:
        program = _decoder.decode(document)
        arrays = read(folder / ARRAYS, program.arrays)
    except (OSError, ValueError, msgspec.DecodeError) as error:
        raise LoadFailed(f"{folder.name} is no column program that this Lagar can read: {error}") from error
    return ColumnsPredictor(program, arrays)


class ColumnsPredictor:
    """A column program that is ready to answer once it is bound to its signature."""

    def __init__(self, program: Program, arrays: list[Array]) -> None:
        self.libraries: dict[str, str] = {}
        self._program = program
        self._arrays = arrays
        self._names: tuple[str, ...] | None = None
        self._answer: Answer | None = None

    def bind(self, signature: Signature) -> None:
        """Names of the fields, and whether rows come as columns or as a matrix."""
        self._names = signature.names if signature.fields is not None else None
        context = Context(self._arrays, signature.names if signature.layout == "columns" else None)
        sources = [source.open(context) for source in self._program.sources]
        self._answer = self._program.end.open(self._arrays, sources)

    def predict(self, rows: Rows, outputs: tuple[str, ...]) -> Outputs:
        """The named outputs; raises what the original raises for rows that it refuses."""
        assert self._answer is not None
        try:
            with np.errstate(all="ignore"):
                return self._answer(rows, outputs)
        except ValueError as error:
            refuse_if_callers(rows, self._names, error)
            raise

    def close(self) -> None:
        """Nothing is held besides memory."""
