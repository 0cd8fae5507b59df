"""Versions of models as the control process knows them, without a worker behind them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx

from lagar.registry.model import ModelInfo
from lagar.registry.signature import Field, Output, Signature

Control = Callable[..., httpx.Client]
"""Starts the control app: `control(*models, metrics_dir=None, **settings)`."""


def wine_info(version: str = "1", *, live: bool = True, **changes: Any) -> ModelInfo:
    """A classifier with numeric fields, a range, a default and an example."""
    fields = (
        Field("alcohol", minimum=0.0, maximum=100.0, nullable=False, example=14.2),
        Field("malic acid", seen_min=0.7, seen_max=5.8, example=1.7),
        Field("hue", nullable=True, has_default=True, default=1.0, example=1.04),
    )
    signature = Signature(
        fields=fields,
        outputs=(Output("predict", "BYTES"), Output("predict_proba", "FP64", (2,))),
        native_outputs=("predict", "predict_proba"),
        named=True,
        task="classifier",
        classes=("barolo", "barbera"),
        example=({"alcohol": 14.2, "malic acid": 1.7, "hue": 1.04},),
        origin="feature_names_in_ of Pipeline, example wine.csv",
    )
    facts: dict[str, Any] = {
        "signature": signature,
        "libraries": {"scikit-learn": "1.9.1"},
        "warnings": ("loaded wine.joblib, written by scikit-learn 1.6.1; see GET /models/wine",),
        "loaded_at": "2026-03-01T10:20:30Z",
        "sha256": "ab" * 32,
    }
    return ModelInfo("wine", version, "sklearn", live=live, **(facts | changes))


def churn_info() -> ModelInfo:
    """Mixed columns: categories closed and open, a boolean, whole numbers, text without a type."""
    example = {"contract": "monthly", "plan": "gold", "senior": False, "tenure": 12, "note": "x"}
    signature = Signature(
        fields=(
            Field("contract", "string", categories=("monthly", "yearly")),
            Field("plan", "string", categories=("gold", "silver"), unknown="allow", nullable=True),
            Field("senior", "bool", nullable=False),
            Field("tenure", "int"),
            Field("note", "unknown"),
        ),
        outputs=(Output("predict", "INT64"),),
        native_outputs=("predict",),
        layout="columns",
        named=True,
        task="regressor",
        extra_fields="refuse",
        example=(example,),
    )
    return ModelInfo("churn", "v1.0.10", "sklearn", signature)


def bare_info() -> ModelInfo:
    """A model that does not say what it takes."""
    signature = Signature(fields=None, outputs=(Output("predict"),), native_outputs=("predict",))
    return ModelInfo("bare", "1", "onnx", signature)
