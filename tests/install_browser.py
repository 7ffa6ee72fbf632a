"""Bring the browser that the tests of reports need: ``python -m tests.install_browser``."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

from tests.report.browser import find_chromium

APT = (
    ["apt-get", "-qq", "update"],
    ["apt-get", "-qq", "install", "-y", "--no-install-recommends", "chromium"],
)


def main() -> None:
    """Install Chromium by playwright, or as root by apt; else say what to install."""
    if find_chromium() is not None:
        return
    print("Installing Chromium for the tests of reports: 1 to 3 minutes.", flush=True)
    run([sys.executable, "-m", "playwright", "install", "--with-deps", "chromium"])
    if find_chromium() is None and os.geteuid() == 0 and shutil.which("apt-get"):
        for command in APT:
            run(command)
    if find_chromium() is None:
        print(
            "No browser: the tests that need one are left out. Install Chromium (apt-get install "
            "chromium, brew install chromium) or set CKPTLAB_CHROMIUM to a Chrome or Chromium."
        )


def run(command: list[str]) -> None:
    """Run an installer; whether it worked shows in what it leaves."""
    try:
        subprocess.run(command, capture_output=True, timeout=600, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        print(f"{command[0]}: {error}", file=sys.stderr)


if __name__ == "__main__":
    main()
