"""What a careful person writes by hand: FastAPI and pydantic around scikit-learn."""

import os
from typing import Annotated

import joblib
import numpy as np
from fastapi import FastAPI
from pydantic import BaseModel, Field

model = joblib.load(os.environ["BENCH_MODEL"])
app = FastAPI()
Row = Annotated[list[float], Field(min_length=13, max_length=13)]


class Wines(BaseModel):
    batches: list[Row]


@app.post("/predict")
def predict(wines: Wines) -> dict[str, list[int]]:
    """Classes of the rows, in order."""
    return {"Prediction": model.predict(np.array(wines.batches)).tolist()}
