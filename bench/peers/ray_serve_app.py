"""Ray Serve with one replica: `ray_serve_app.py PORT`."""

import os
import signal
import sys

import joblib
import numpy as np
import ray
from ray import serve
from starlette.requests import Request


@serve.deployment(num_replicas=1, max_ongoing_requests=100)
class Wine:
    def __init__(self, path: str):
        self.model = joblib.load(path)

    async def __call__(self, request: Request):
        body = await request.json()
        return {"Prediction": self.model.predict(np.array(body["batches"])).tolist()}


if __name__ == "__main__":
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    serve.run(Wine.bind(os.environ["BENCH_MODEL"]), route_prefix="/predict")
    signal.pause()
