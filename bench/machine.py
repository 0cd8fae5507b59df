"""The machine that figures were measured on."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path


def facts() -> dict[str, object]:
    """What a reader must know to judge the figures."""
    cpu = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return {
        "cpu": cpu[1] if cpu else platform.processor(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 2),
    }
