"""The answer as this service always gave it: `{"Prediction": …}`."""

from __future__ import annotations

from typing import Any


def postprocess(outputs: dict[str, list[Any]], records: list[dict[str, Any]]) -> dict[str, Any]:
    """The class of one wine, or the list of classes of several."""
    classes = outputs["predict"]
    return {"Prediction": classes[0] if len(classes) == 1 else classes}
