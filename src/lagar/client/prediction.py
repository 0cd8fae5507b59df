"""What a model answered."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import pandas as pd

_OWN: Final = ("model", "version", "id", "ids", "predictions", "probabilities", "classes")


class Prediction:
    """The answer to one `predict`: one prediction per row, in the order of the rows.

    Where the model has a `postprocess`, `answer` is what that returned and the rest is empty.
    """

    __slots__ = ("answer", "classes", "id", "ids", "model", "outputs", "predictions", "probabilities", "version")

    def __init__(self, answer: Any) -> None:
        ours = answer if isinstance(answer, dict) and {"model", "version", "ids"} <= answer.keys() else {}
        self.answer: Any = answer
        """The whole answer, as JSON reads."""
        self.model: str = ours.get("model", "")
        self.version: str = ours.get("version", "")
        """The version that answered."""
        self.id: str = ours.get("id", "")
        """The request's id, which finds it in the server's log."""
        self.ids: list[str] = ours.get("ids", [])
        """One per row."""
        self.predictions: list[Any] = ours.get("predictions", [])
        self.probabilities: list[Any] | None = ours.get("probabilities")
        """For classifiers: one list per row, in the order of `classes`."""
        self.classes: list[Any] | dict[str, list[Any]] | None = ours.get("classes")
        """Class names; by output where there are several targets."""
        self.outputs: dict[str, list[Any]] = {name: value for name, value in ours.items() if name not in _OWN}
        """Further outputs, by name."""

    def __len__(self) -> int:
        return len(self.predictions)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.predictions)

    def __getitem__(self, row: int) -> Any:
        return self.predictions[row]

    def __repr__(self) -> str:
        shown = repr(self.predictions[:5])[:-1] + (", …]" if len(self) > 5 else "]")
        return f"Prediction({self.model}@{self.version}: {shown})"

    def to_frame(self) -> pd.DataFrame:
        """A pandas DataFrame with a row per id: `prediction`, `probability_CLASS` and the further outputs."""
        import pandas as pd

        columns: dict[str, list[Any]] = {}
        if self.predictions:
            _spread(columns, "prediction", self.predictions, None)
        several = self.classes if isinstance(self.classes, dict) else {}
        if self.probabilities is not None:
            _spread(
                columns, "probability", self.probabilities, self.classes if isinstance(self.classes, list) else None
            )
        for name, values in self.outputs.items():
            _spread(columns, name, values, several.get(name))
        return pd.DataFrame(columns, index=pd.Index(self.ids, name="id"))


def _spread(columns: dict[str, list[Any]], name: str, values: list[Any], labels: list[Any] | None) -> None:
    """One column, or one for each place of values that are lists."""
    if not values or not isinstance(values[0], list):
        columns[name] = values
        return
    width = len(values[0])
    marks = labels if labels is not None and len(labels) == width else range(width)
    for place, mark in enumerate(marks):
        columns[f"{name}_{mark}"] = [value[place] for value in values]
