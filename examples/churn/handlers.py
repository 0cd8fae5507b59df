"""Answers like the tutorial's service: the decision, and the probability that it rests on."""

from __future__ import annotations

from typing import Any

THRESHOLD = 0.5


def postprocess(outputs: dict[str, list[Any]], records: list[dict[str, Any]], single: bool) -> Any:
    """`{"churn": false, "churn_probability": 0.06}` for one customer; a list of these for a list of customers."""
    answers = [
        {"churn": probability >= THRESHOLD, "churn_probability": probability}
        for _, probability in outputs["predict_proba"]
    ]
    return answers[0] if single else answers
