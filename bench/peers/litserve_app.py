"""LitServe with one worker: `litserve_app.py PORT`."""

import os
import sys

import joblib
import litserve
import numpy as np


class Wine(litserve.LitAPI):
    def setup(self, device):
        self.model = joblib.load(os.environ["BENCH_MODEL"])

    def decode_request(self, request):
        return np.array(request["batches"])

    def predict(self, rows):
        return self.model.predict(rows)

    def encode_response(self, classes):
        return {"Prediction": classes.tolist()}


if __name__ == "__main__":
    server = litserve.LitServer(Wine(), accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), log_level="error", generate_client_file=False)
