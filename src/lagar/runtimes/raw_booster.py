"""A booster's own answers: MLServer and MLflow give what its `predict` gives where it was saved without its wrapper."""

from __future__ import annotations

from typing import Any

import numpy as np

from lagar.registry.model import Kind
from lagar.runtimes.base import Chain, Head, Opened, one_per_row
from lagar.types import Outputs


class RawHead(Head):
    """What a booster's own `predict` gives: probabilities of a classifier that was saved without its wrapper."""

    task = "unknown"
    meanings = {"predict": "what the booster's own predict gives"}  # noqa: RUF012 - never changed

    def __init__(self, values: Any, *, single: bool = False) -> None:
        self._values = values
        self.single = single

    def outputs(self, x: Any, names: tuple[str, ...]) -> Outputs:
        return {"predict": np.ascontiguousarray(one_per_row(self._values(x)))}


def answer_raw(kind: Kind, opened: Opened) -> None:
    """Let a bare booster that is a classifier answer its numbers instead of labels; any other model stays as it is."""
    predictor, draft = opened.predictor, opened.draft
    if isinstance(predictor, Chain) and (head := _raw_head(kind, predictor.head)) is not None:
        predictor.head = head
        draft.outputs, draft.native, draft.classes = head.names, head.native, None
        draft.task, draft.meanings = head.task, head.meanings


def _raw_head(kind: Kind, head: Head) -> RawHead | None:
    if kind == "lightgbm":
        from lagar.runtimes.lightgbm import LightgbmHead

        return RawHead(head.raw) if isinstance(head, LightgbmHead) and head.task == "classifier" else None
    if kind == "xgboost":
        from lagar.runtimes.xgboost import XgboostHead

        if isinstance(head, XgboostHead) and head.is_bare and head.task == "classifier" and not head.answers_labels:
            return RawHead(head.raw, single=True)
    return None
