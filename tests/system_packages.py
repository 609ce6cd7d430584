"""Install what the tests need beside Python packages: Chromium, where it is missing and we may install it.

Run as ``python -m tests.system_packages`` before the tests; it prints what is missing and how to get it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys


def main() -> None:
    """Install Chromium by apt when we are root and it is missing; else say what tests will be skipped."""
    if shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome"):
        return
    if os.geteuid() == 0 and shutil.which("apt-get"):
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(["apt-get", "-qq", "update"], env=environment, check=True)
        subprocess.run(
            ["apt-get", "-qq", "install", "-y", "--no-install-recommends", "chromium"],
            env=environment,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        return
    print(
        "Chromium is missing: the browser tests will be skipped. Install it with your package manager.",
        file=sys.stderr,
    )


if __name__ == "__main__":
    main()
