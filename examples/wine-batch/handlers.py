"""Answers like the tutorial's service: the classes under the name "Prediction"."""

from __future__ import annotations

from typing import Any


def postprocess(outputs: dict[str, list[Any]], records: list[dict[str, Any]], single: bool) -> dict[str, Any]:
    """`{"Prediction": 1}` for one named wine, `{"Prediction": [1, 0, …]}` for a batch of wines."""
    classes = outputs["predict"]
    return {"Prediction": classes[0] if single else classes}
