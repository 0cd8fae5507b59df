"""The control app as it runs: a real uvicorn on a Unix socket, over a state that the test may change."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from lagar.control.app import create_app
from lagar.control.state import ControlState
from lagar.registry.model import ModelInfo
from lagar.server.channel import ServerState
from lagar.settings import ServerSettings
from support.infos import Control
from support.wait import eventually


@pytest.fixture
def control(tmp_path: Path) -> Iterator[Control]:
    """Start the app over models and settings; gives a client on its socket, `client.state` beside it."""
    stops: list[Callable[[], None]] = []

    def start(*models: ModelInfo, metrics_dir: Path | None = None, **settings: Any) -> httpx.Client:
        state = ControlState(
            ServerSettings(**settings), models, ServerState(ready=True, workers_ready=2, workers=2), metrics_dir
        )
        path = str(tmp_path / f"control{len(stops)}.sock")
        config = uvicorn.Config(create_app(state), uds=path, log_config=None, lifespan="off", proxy_headers=False)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run)
        thread.start()
        client = httpx.Client(transport=httpx.HTTPTransport(uds=path), base_url="http://wine.example")
        client.state = state  # type: ignore[attr-defined]

        def stop() -> None:
            client.close()
            server.should_exit = True
            thread.join(20)

        stops.append(stop)
        eventually(lambda: server.started, 90, "the control app on its socket")
        return client

    yield start
    for stop in stops:
        stop()
