"""Waiting for something to become true, with a deadline instead of a guess."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def eventually(check: Callable[[], T], timeout_s: float = 60.0, what: str = "the condition") -> T:
    """The first true value of check(); an exception or a false value is asked again until the deadline."""
    deadline = time.monotonic() + timeout_s
    pause = threading.Event()
    last: BaseException | None = None
    while True:
        try:
            value = check()
            if value:
                return value
            last = None
        except Exception as error:
            last = error
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come true within {timeout_s:g} s") from last
        pause.wait(0.02)
