"""The runtimes of MLServer that a custom class may derive from: load a file, answer with its own methods.

A model that names one of them in its settings is served by Lagar's own runtimes; these are for classes derived from
them.
"""

from __future__ import annotations

from typing import Any

from lagar.mlserver.codecs import NumpyCodec, NumpyRequestCodec
from lagar.mlserver.errors import InferenceError
from lagar.mlserver.model import MLModel
from lagar.mlserver.settings import get_model_uri
from lagar.mlserver.types import InferenceRequest, InferenceResponse, RequestOutput, ResponseOutput

PREDICT_OUTPUT = "predict"
PREDICT_PROBA_OUTPUT = "predict_proba"
PREDICT_TRANSFORM = "transform"
PREDICT_FN_KEY = "predict_fn"
VALID_OUTPUTS = [PREDICT_OUTPUT, PREDICT_PROBA_OUTPUT, PREDICT_TRANSFORM]
WELLKNOWN_MODEL_FILENAMES = ["model.joblib", "model.pickle", "model.pkl"]


class _FileModel(MLModel):
    """A model of one file; `_model` is the library's object."""

    _model: Any
    _files: tuple[str, ...] = ()

    async def load(self) -> bool:
        uri = await get_model_uri(self._settings, wellknown_filenames=list(self._files))
        self._model = self._opened(uri)
        return True

    def _opened(self, uri: str) -> Any:
        raise NotImplementedError

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        payload = self._check_request(payload)
        return InferenceResponse(
            model_name=self.name, model_version=self.version, outputs=self._get_model_outputs(payload)
        )

    def _check_request(self, payload: InferenceRequest) -> InferenceRequest:
        if not payload.outputs:
            chosen = self._settings.parameters.extra.get(PREDICT_FN_KEY, PREDICT_OUTPUT)
            payload.outputs = [RequestOutput(name=chosen)]
            return payload
        for output in payload.outputs:
            if output.name not in VALID_OUTPUTS or not hasattr(self._model, output.name):
                known = [name for name in VALID_OUTPUTS if hasattr(self._model, name)]
                raise InferenceError(
                    f"{type(self).__name__} only supports {', '.join(known)} as outputs ({output.name} was received)"
                )
        return payload

    def _get_model_outputs(self, payload: InferenceRequest) -> list[ResponseOutput]:
        decoded = self.decode_request(payload, default_codec=NumpyRequestCodec)
        return [
            self.encode(getattr(self._model, output.name)(decoded), output, default_codec=NumpyCodec)
            for output in payload.outputs or ()
        ]


class SKLearnModel(_FileModel):
    _files = tuple(WELLKNOWN_MODEL_FILENAMES)

    def _opened(self, uri: str) -> Any:
        import joblib

        return joblib.load(uri)


class XGBoostModel(_FileModel):
    _files = ("model.bst", "model.json", "model.ubj")

    def _opened(self, uri: str) -> Any:
        import xgboost

        try:
            model: Any = xgboost.XGBRegressor()
            model.load_model(uri)
        except TypeError:  # it was saved by a classifier
            model = xgboost.XGBClassifier()
            model.load_model(uri)
        return model


class LightGBMModel(_FileModel):
    _files = ("model.bst",)

    def _opened(self, uri: str) -> Any:
        import lightgbm

        return lightgbm.Booster(model_file=uri)


class CatboostModel(_FileModel):
    _files = ("model.cbm", "model.bin")

    def _opened(self, uri: str) -> Any:
        import catboost

        model = catboost.CatBoostClassifier()
        model.load_model(uri)
        return model
