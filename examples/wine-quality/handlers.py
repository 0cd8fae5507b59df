"""Answers in the tutorial's words: the model says 0 and 1, its users read "bom" and "ruim"."""

from __future__ import annotations

from typing import Any

WORDS = {0: "bom", 1: "ruim"}


def postprocess(outputs: dict[str, list[Any]], records: list[dict[str, Any]]) -> list[str]:
    """A bare list with one word for each wine: `["ruim"]`."""
    return [WORDS[label] for label in outputs["predict"]]
