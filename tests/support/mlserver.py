"""MLServer's folders for tests: settings files, small models and custom runtimes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from sklearn.linear_model import LogisticRegression

SKLEARN = "mlserver_sklearn.SKLearnModel"

SUM = """
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.errors import InferenceError
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput


class SumModel(MLModel):
    async def load(self) -> bool:
        self.name_of_output = self.settings.parameters.extra.get("output_name", "total")
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        if len(payload.inputs) != 1:
            raise InferenceError(f"one input is summed ({len(payload.inputs)} were received)")
        total = self.decode(payload.inputs[0], default_codec=NumpyCodec).sum(axis=1)
        output = NumpyCodec.encode_output(self.name_of_output, total)
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=[output])
"""
"""A custom runtime as people write them: MLServer's own tests have one like it."""


def write(folder: Path, **said: Any) -> Path:
    """A model-settings.json in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model-settings.json").write_text(json.dumps(said))
    return folder


def logistic(folder: Path, *, file: str = "model.joblib", shift: float = 0.0) -> LogisticRegression:
    """A model of two columns in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = np.arange(20, dtype=float).reshape(10, 2)
    model = LogisticRegression().fit(rows, (rows[:, 0] > 9 + shift).astype(int))
    joblib.dump(model, folder / file)
    return model


def sklearn_model(folder: Path, *, name: str = "", version: str = "", shift: float = 0.0, **parameters: Any) -> Path:
    """A folder with a logistic model and its settings."""
    logistic(folder, shift=shift)
    said = {"name": name} if name else {}
    given = parameters | ({"version": version} if version else {})
    return write(folder, **said, implementation=SKLEARN, parameters=given)


def custom(folder: Path, code: str = SUM, *, cls: str = "SumModel", **said: Any) -> Path:
    """A folder with a custom runtime in runtime.py."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "runtime.py").write_text(code)
    return write(folder, implementation=f"runtime.{cls}", **said)


def tensor(
    data: Any, *, name: str = "x", datatype: str = "FP64", shape: list[int] | None = None, **parameters: Any
) -> Any:
    """An input of a request."""
    known = shape if shape is not None else list(np.shape(data))
    more = {"parameters": parameters} if parameters else {}
    return {"name": name, "shape": known, "datatype": datatype, "data": data, **more}
