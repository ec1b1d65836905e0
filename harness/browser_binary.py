"""Finding and installing the Chromium that the browser tests drive."""

from __future__ import annotations

import os
import shutil
import subprocess

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def find_chromium() -> str | None:
    """The browser's path: $CHROMIUM, else the first known name on PATH; None if there is none."""
    override = os.environ.get("CHROMIUM")
    if override:
        return shutil.which(override)
    return next((path for path in map(shutil.which, NAMES) if path), None)


def install_chromium(log: int) -> str:
    """Install the distribution's Chromium; returns "" or what kept it from being installed."""
    hint = "install chromium or google-chrome, or set CHROMIUM to a browser's path"
    if os.environ.get("CHROMIUM"):
        return f"CHROMIUM={os.environ['CHROMIUM']} is no program; correct or unset it"
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        return f"it can be installed here only by hand: {hint}"
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["apt-get", "update"], ["apt-get", "install", "-y", "chromium"]):
        run = subprocess.run(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
        if run.returncode != 0:
            return f"`{' '.join(command)}` failed; {hint}"
    return "" if find_chromium() else f"apt-get installed no known browser; {hint}"
