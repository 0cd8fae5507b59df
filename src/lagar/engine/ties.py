"""Rows near a tie: a form that computes in single precision may not know their label, so the original answers them;
and those whose numbers it cannot hold, which it makes NaN of.

The original lives in a host process, started by the first such row and ended when it is idle. Asking it takes longer
than the event loop may be held: a call that runs there and has such a row is run again in the version's thread.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from lagar.engine.host import HostFailed
from lagar.errors import InvalidInput, LoadFailed, NotReady
from lagar.metrics import Registry
from lagar.registry.model import LoadedModel, ModelSource
from lagar.runtimes.comparison import SHARES, unsure
from lagar.runtimes.sized import Sized
from lagar.types import Array, Outputs, Predictor, Rows

LABEL = "predict"
_NO_TIE = -1.0
"""A margin within which only NaN is: of shares alone nothing can turn."""


class MustWait(Exception):
    """The call has a row for the original and runs where nobody may wait; never seen by a caller."""


class Ties:
    """What a deployment asks in place of its form, where one leans on the original."""

    def __init__(
        self, form: Sized, model: LoadedModel, open_original: Callable[[ModelSource], Predictor], metrics: Registry
    ) -> None:
        self._form = form
        self._source = model.source
        self._open = open_original
        self._original: Predictor | None = None
        self.leant = 0
        """Rows that the original was asked for."""
        self._counter = metrics.counter("lagar_shadow_rows", model.source.name, model.source.version, "tie")

    def predict(self, rows: Rows, outputs: tuple[str, ...], *, may_wait: bool) -> Outputs:
        """The form's answer, with the original's for each row near a tie.

        Raises MustWait where there is such a row and `may_wait` is False; NotReady when the original cannot be asked.
        """
        margin = self._form.margin(rows.n)
        if not margin:
            return self._form.predict(rows, outputs)
        answer = self._form.predict(rows, outputs if SHARES in outputs else (*outputs, SHARES))
        near = np.flatnonzero(unsure(answer[SHARES], margin if LABEL in outputs else _NO_TIE))
        if len(near):
            if not may_wait:
                raise MustWait
            self.leant += len(near)
            self._counter.add(len(near))
            wanted = self._asked(rows, near, outputs)
            answer = {name: _put(answer[name], near, wanted[name]) for name in outputs}
        return {name: answer[name] for name in outputs}

    def _asked(self, rows: Rows, near: Array, outputs: tuple[str, ...]) -> Outputs:
        try:
            if self._original is None:
                self._original = self._open(self._source)
            return self._original.predict(rows.take(near), outputs)
        except InvalidInput as error:
            row = None if error.row is None else int(near[error.row])
            raise InvalidInput(error.message, field=error.field, row=row) from error
        except (HostFailed, LoadFailed) as error:
            if isinstance(error, HostFailed) and error.__cause__ is not None:  # the model itself has raised, there
                raise
            label = f"{self._source.name}@{self._source.version}"
            raise NotReady(
                f"{label}: a row lies so near a tie, or has so large a number, that the original has to answer it, and "
                "that cannot be asked now; try again",
                retry_after_s=1,
            ) from error

    def close(self) -> None:
        """Let go of the original; its process ends when nobody else asks it."""
        if self._original is not None:
            self._original.close()


def _put(values: Array, places: Array, others: Array) -> Array:
    """A copy with other values at these places; texts may be longer."""
    found: Array = values.astype(np.result_type(values, others)) if values.dtype.kind == "U" else values.copy()
    found[places] = others
    return found
