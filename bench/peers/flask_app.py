"""The Flask file that most services start as; it checks nothing."""

import os

import joblib
import numpy as np
from flask import Flask, jsonify, request

model = joblib.load(os.environ["BENCH_MODEL"])
app = Flask(__name__)


@app.post("/predict")
def predict():
    """Classes of the rows, in order."""
    rows = np.array(request.get_json()["batches"])
    return jsonify(Prediction=model.predict(rows).tolist())
