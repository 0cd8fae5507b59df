"""The original of a version while its forms are built: the library's own object beside the runtime's predictor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lagar import runtimes
from lagar.registry.model import LoadedModel, ModelSource
from lagar.registry.signature import Signature
from lagar.runtimes.base import Opened
from lagar.runtimes.raw_booster import RawHead
from lagar.types import Outputs, Predictor, Rows


class Original:
    """A loaded original; `predictor` is the oracle of every proof, `model` and `steps` what a form is built from."""

    def __init__(self, loaded: LoadedModel, opened: Opened, training: Rows | None = None) -> None:
        self.loaded = loaded
        self.source: ModelSource = loaded.source
        self.signature: Signature = loaded.signature
        self.predictor: Predictor = loaded.predictor
        """What answers natively: one thread, the same outputs, dtypes and errors as in a worker."""
        self.model: Any = opened.model
        """Estimator, Pipeline, search, tuple of transformer and estimator, wrapper or Booster; None for code and ONNX.

        Its n_jobs is 1, and a matrix model has forgotten its column names.
        """
        self.steps: Sequence[Any] = opened.steps
        """The fitted transformers in order and the estimator last, out of pipelines, searches and tuples."""
        self.answers_raw = isinstance(getattr(opened.predictor, "head", None), RawHead)
        """A classifier's booster that answers its own numbers, not labels: one of an MLServer or MLflow folder."""
        self.libraries: dict[str, str] = loaded.libraries
        self.training = training
        """Rows of the training data, where it was given."""

    @classmethod
    def open(cls, source: ModelSource, training: Rows | None = None) -> Original:
        """The source loaded with one thread; raises what `runtimes.load` raises."""
        loaded, opened = runtimes.load_opened(source, threads=1)
        return cls(loaded, opened, training)

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of all outputs."""
        return tuple(output.name for output in self.signature.outputs)

    def predict(self, rows: Rows) -> Outputs:
        """All outputs."""
        return self.predictor.predict(rows, self.outputs)
