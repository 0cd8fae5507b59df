"""The churn tutorial's service: one customer as JSON in, the decision and its probability out; it checks nothing."""

import os
import pickle

from flask import Flask, jsonify, request

with open(os.environ["BENCH_MODEL"], "rb") as file:
    vectoriser, model = pickle.load(file)
app = Flask("churn")


@app.get("/ping")
def ping():
    return "PONG"


@app.post("/predict")
def predict():
    """Will this customer leave?"""
    customer = request.get_json()
    probability = model.predict_proba(vectoriser.transform([customer]))[0, 1]
    return jsonify(churn=bool(probability >= 0.5), churn_probability=float(probability))
