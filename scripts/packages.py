"""Install the Debian packages that some tests and the benchmark use, where that is possible without asking anyone.

Only as root, only with apt, only what is missing; a failure is said and is no error, since the tests that need such a
program are then skipped with the reason.
"""

from __future__ import annotations

import os
import shutil
import subprocess

PACKAGES = {
    "chromium": "chromium",
    "chromedriver": "chromium-driver",
    "wrk": "wrk",
    "h2load": "nghttp2-client",
    "curl": "curl",
    "pg_lsclusters": "postgresql",  # whose own programs are kept off the path
}
"""Program → the package that has it."""


def main() -> None:
    """Install what is missing, or say what is."""
    missing = [package for program, package in PACKAGES.items() if shutil.which(program) is None]
    if not missing:
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        print(f"not installed: {', '.join(missing)}; the tests that need them are skipped", flush=True)
        return
    print(f"installing {', '.join(missing)}", flush=True)
    quiet = {"stdout": subprocess.DEVNULL, "env": os.environ | {"DEBIAN_FRONTEND": "noninteractive"}}
    subprocess.run(["apt-get", "update", "-qq"], check=False, **quiet)
    install = ["apt-get", "install", "-qq", "-y", "--no-install-recommends", *missing]
    if subprocess.run(install, check=False, **quiet).returncode:
        print(f"could not install {', '.join(missing)}; the tests that need them are skipped", flush=True)


if __name__ == "__main__":
    main()
