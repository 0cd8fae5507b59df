"""BentoML with one worker."""

import os

import bentoml
import joblib
import numpy as np


@bentoml.service(workers=1)
class Wine:
    def __init__(self):
        self.model = joblib.load(os.environ["BENCH_MODEL"])

    @bentoml.api(route="/predict")
    def predict(self, batches: list[list[float]]) -> dict:
        return {"Prediction": self.model.predict(np.array(batches)).tolist()}
