"""Who is measured: Lagar and its peers, each with the command that starts it and the body it takes.

A peer runs in an environment of its own, `.venvs/NAME`, installed from `bench/peers/NAME.lock`.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import DEVNULL

from models import Workload

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
PEERS = HERE / "peers"
ENVIRONMENTS = ROOT / ".venvs"


@dataclass(frozen=True)
class Start:
    """What a contender's command may use."""

    bin: Path
    port: int
    workload: Workload
    folder: Path
    """An empty folder of its own."""
    options: tuple[str, ...] = ()
    """More for `lagar serve`."""


@dataclass(frozen=True)
class Contender:
    name: str
    kind: str
    """Form of body and answer: v2, batches, mlflow, or customer and tutorial for the churn model."""
    path: str
    command: Callable[[Start], list[str]]
    environment: dict[str, str] = field(default_factory=dict)
    home: str = ""
    """Whose environment it runs in, when that is not the one of its own name."""

    @property
    def place(self) -> str:
        """The name of its environment and its lock."""
        return self.home or self.name

    @property
    def bin(self) -> Path:
        """The folder with its executables."""
        return Path(sys.executable).parent if self.place == "lagar" else ENVIRONMENTS / self.place / "bin"

    @property
    def lock(self) -> Path:
        """The file that pins what it runs on."""
        return ROOT / "requirements.lock" if self.place == "lagar" else PEERS / f"{self.place}.lock"

    def version_of(self, package: str) -> str | None:
        """The version of a package in its lock; None when it does not have it."""
        found = re.search(rf"^{re.escape(package)}==(\S+)", self.lock.read_text(), re.MULTILINE)
        return found[1] if found else None

    def install(self) -> None:
        """Make its environment from its lock, unless that lock is already installed."""
        if self.place == "lagar":
            return
        made = [sys.executable, str(ROOT / "scripts" / "locked.py"), str(self.lock)]
        subprocess.run(made, check=True, stdout=DEVNULL)


def _lagar(start: Start) -> list[str]:
    served = [str(start.workload.served), "--name", "churn" if start.workload.customer else "wine"]
    return [str(start.bin / "lagar"), "serve", *served, "--workers", "1", "--port", str(start.port), *start.options]


def _mlserver(start: Start) -> list[str]:
    return _mlserver_folder(start, {})


def _mlserver_batched(start: Start) -> list[str]:
    return _mlserver_folder(start, {"max_batch_size": 32, "max_batch_time": 0.005})


def _mlserver_folder(start: Start, batching: dict[str, float]) -> list[str]:
    model = {
        "name": "wine",
        "implementation": "mlserver_sklearn.SKLearnModel",
        "parameters": {"uri": str(start.workload.pickled), "version": "v1"},
        **batching,
    }
    server = {
        "http_port": start.port,
        "grpc_port": start.port + 1,
        "metrics_port": start.port + 2,
        "parallel_workers": 0,
        "gzip_enabled": False,
    }
    (start.folder / "wine").mkdir()
    (start.folder / "wine" / "model-settings.json").write_text(json.dumps(model))
    (start.folder / "settings.json").write_text(json.dumps(server))
    return [str(start.bin / "mlserver"), "start", str(start.folder)]


def _mlflow(start: Start) -> list[str]:
    saved = start.folder / "model"
    code = (
        "import sys, joblib, mlflow.sklearn; mlflow.sklearn.save_model(joblib.load(sys.argv[1]), sys.argv[2], "
        "pip_requirements=['scikit-learn'], serialization_format='cloudpickle')"
    )
    python = str(start.bin / "python")
    subprocess.run([python, "-c", code, str(start.workload.pickled), str(saved)], check=True, capture_output=True)
    serve = [*[str(start.bin / "mlflow"), "models", "serve", "-m", str(saved), "-p", str(start.port)]]
    return [*serve, "--env-manager", "local", "--workers", "1"]


def _fastapi(start: Start) -> list[str]:
    options = ["--port", str(start.port), "--log-level", "error", "--no-access-log"]
    return [str(start.bin / "uvicorn"), "--app-dir", str(PEERS), "fastapi_app:app", *options]


def _flask(start: Start) -> list[str]:
    return [
        *[str(start.bin / "gunicorn"), "--chdir", str(PEERS), "-w", "1"],
        *["-b", f"127.0.0.1:{start.port}", "flask_app:app"],
    ]


def _flask_churn(start: Start) -> list[str]:
    return [str(start.bin / "gunicorn"), "--chdir", str(PEERS), "-b", f"127.0.0.1:{start.port}", "flask_churn:app"]


def _litserve(start: Start) -> list[str]:
    return [str(start.bin / "python"), str(PEERS / "litserve_app.py"), str(start.port)]


def _bentoml(start: Start) -> list[str]:
    return [
        *[str(start.bin / "bentoml"), "serve", "bentoml_app:Wine", "--working-dir", str(PEERS)],
        *["--port", str(start.port)],
    ]


def _ray(start: Start) -> list[str]:
    return [str(start.bin / "python"), str(PEERS / "ray_serve_app.py"), str(start.port)]


_ALL = (
    Contender("lagar", "v2", "/v2/models/wine/infer", _lagar),
    Contender("lagar-native", "customer", "/models/churn/predict", _lagar, home="lagar"),
    Contender("flask-churn", "tutorial", "/predict", _flask_churn, home="flask"),
    Contender("fastapi", "batches", "/predict", _fastapi),
    Contender("flask", "batches", "/predict", _flask),
    Contender("mlserver", "v2", "/v2/models/wine/infer", _mlserver),
    Contender("mlserver-batched", "v2", "/v2/models/wine/infer", _mlserver_batched, home="mlserver"),
    Contender("litserve", "batches", "/predict", _litserve),
    Contender("bentoml", "batches", "/predict", _bentoml, {"BENTOML_DO_NOT_TRACK": "1"}),
    Contender("mlflow", "mlflow", "/invocations", _mlflow),
    Contender("ray-serve", "batches", "/predict", _ray, {"RAY_SERVE_LOG_TO_STDERR": "0"}),
)
CONTENDERS = {contender.name: contender for contender in _ALL}
