"""The web server of the control process: Uvicorn over the app, on a socket that is there already."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import uvicorn

from lagar.control.app import create_app
from lagar.control.state import ControlState

GRACE_S = 3


class ControlServer(uvicorn.Server):
    """Uvicorn that leaves signals to the supervisor."""

    def __init__(self, state: ControlState) -> None:
        super().__init__(
            uvicorn.Config(
                create_app(state),
                log_config=None,
                access_log=False,
                lifespan="off",
                ws="none",
                server_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=GRACE_S,
            )
        )

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
