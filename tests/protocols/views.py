"""Deployments as an adapter sees them, with real signatures and no model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from lagar.registry.signature import Field, Output, Signature
from lagar.types import Outputs, Record

WINE_NAMES = (
    "alcohol",
    "malic_acid",
    "ash",
    "alcalinity_of_ash",
    "magnesium",
    "total_phenols",
    "flavanoids",
    "nonflavanoid_phenols",
    "proanthocyanins",
    "color_intensity",
    "hue",
    "od280/od315_of_diluted_wines",
    "proline",
)
WINE_ROW = [13.2, 1.7, 2.1, 11.2, 100.0, 2.6, 2.7, 0.2, 1.2, 4.3, 1.0, 3.4, 1050.0]
WINE_RECORD = dict(zip(WINE_NAMES, WINE_ROW, strict=True))

WINE = Signature(
    fields=tuple(Field(name) for name in WINE_NAMES),
    outputs=(Output("predict", "INT64"), Output("predict_proba", "FP64", (3,))),
    native_outputs=("predict", "predict_proba"),
    named=True,
    task="classifier",
    classes=(0, 1, 2),
    example=(WINE_RECORD,),
)

CONTRACTS = ("month-to-month", "one_year", "two_year")
CHURN = Signature(
    fields=(
        Field("gender", "string", categories=("female", "male")),
        Field("contract", "string", categories=CONTRACTS),
        Field("plan", "string", categories=("a", "b"), unknown="allow"),
        Field("tenure", "int", minimum=0, maximum=600),
        Field("charges", "float"),
        Field("discount", "float", nullable=True),
        Field("paperless", "bool"),
        Field("visits", "int", has_default=True, default=3),
        Field("zone", "unknown"),
    ),
    outputs=(Output("predict", "BOOL"), Output("predict_proba", "FP64", (2,))),
    native_outputs=("predict", "predict_proba"),
    layout="columns",
    named=True,
    task="classifier",
    classes=(False, True),
)
CHURN_RECORD: dict[str, Any] = {
    "gender": "female",
    "contract": "two_year",
    "plan": "c",
    "tenure": 41,
    "charges": 79.85,
    "discount": None,
    "paperless": True,
    "visits": 2,
    "zone": "north",
}

TEXT = Signature(
    fields=(Field("text", "string"),),
    outputs=(Output("predict", "BYTES"), Output("predict_proba", "FP64", (2,))),
    native_outputs=("predict", "predict_proba"),
    layout="columns",
    task="classifier",
    classes=("game", "livro"),
)

STRICT = Signature(
    fields=(Field("a"), Field("b", "int"), Field("k", categories=(0, 1))),
    outputs=(Output("predict", "FP64"),),
    native_outputs=("predict",),
    named=True,
    task="regressor",
    extra_fields="refuse",
)

OPEN = Signature(fields=None, outputs=(Output("predict", "FP64"),), native_outputs=("predict",))

SIGNATURES: dict[str, Signature] = {"wine": WINE, "churn": CHURN, "text": TEXT, "strict": STRICT, "open": OPEN}


class Hooks:
    """Handlers made of plain functions."""

    def __init__(
        self,
        preprocess: Callable[[list[Record]], list[Record]] | None = None,
        postprocess: Callable[[Mapping[str, Any], list[Record]], Any] | None = None,
    ) -> None:
        self._preprocess = preprocess
        self._postprocess = postprocess
        self.has_preprocess = preprocess is not None
        self.has_postprocess = postprocess is not None

    def preprocess(self, records: list[Record]) -> list[Record]:
        return records if self._preprocess is None else self._preprocess(records)

    def postprocess(self, outputs: Mapping[str, Any], records: list[Record], single: bool = False) -> Any:
        return None if self._postprocess is None else self._postprocess(outputs, records)


class View:
    """A deployment without a model."""

    def __init__(self, signature: Signature, name: str = "wine", version: str = "1", handlers: Any = None) -> None:
        self.name = name
        self.version = version
        self.signature = signature
        self.handlers = handlers
        self.native_outputs = signature.native_outputs


def view(model: str, handlers: Any = None) -> View:
    return View(SIGNATURES[model], model, handlers=handlers)


def outputs_for(signature: Signature, names: tuple[str, ...], n: int) -> Outputs:
    """Made-up outputs of the right names, shapes and types."""
    arrays: Outputs = {}
    for name in names:
        output = signature.output(name)
        assert output is not None
        shape = (n, *output.shape)
        if output.datatype == "BYTES":
            arrays[name] = np.full(shape, "livro", object)
        else:
            kind = {"INT64": np.int64, "BOOL": np.bool_}.get(output.datatype, np.float64)
            arrays[name] = (np.arange(np.prod(shape)).reshape(shape) % 2).astype(kind)
    return arrays
