"""The load on a server under measurement: wrk on a core of its own, and what it saw."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

SERVER_CORE, LOAD_CORE = 0, 1
JSON = {"Content-Type": "application/json"}
_UNITS_MS = {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4}


@dataclass(frozen=True)
class Figure:
    """What wrk saw in one case of one round."""

    rps: float
    p50_ms: float
    p99_ms: float


def wrk_script(work: Path, body: bytes, headers: Mapping[str, str] = JSON) -> Path:
    """A script that has wrk post one body again and again."""
    payload, script = work / "body", work / "post.lua"
    payload.write_bytes(body)
    script.write_text(
        f'local file = io.open("{payload}", "rb")\n'
        'wrk.method = "POST"\nwrk.body = file:read("*a")\nfile:close()\n'
        + "".join(f'wrk.headers["{name}"] = "{value}"\n' for name, value in headers.items())
    )
    return script


def wrk(url: str, script: Path, connections: int, seconds: int) -> Figure:
    """Load the url; any answer that is not 2xx ends the program."""
    command = ["taskset", "-c", str(LOAD_CORE), "wrk", "--threads", "1", "--connections", str(connections)]
    command += ["--duration", f"{seconds}s", "--timeout", "30s", "--latency", "--script", str(script), url]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in said or "Socket errors" in said:
        sys.exit(f"{url} failed under load:\n{said}")
    rps = re.search(r"Requests/sec:\s+([\d.]+)", said)
    assert rps is not None, said
    return Figure(float(rps[1]), _quantile_ms(said, 50), _quantile_ms(said, 99))


def _quantile_ms(said: str, percent: int) -> float:
    found = re.search(rf"^\s+{percent}%\s+([\d.]+)(us|ms|s|m)\s*$", said, re.MULTILINE)
    assert found is not None, said
    return float(found[1]) * _UNITS_MS[found[2]]
