"""Set-up, a real ComfyUI server, a real browser and the demo: how the project tries itself out."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
"""The repository, which is also the node pack."""

CACHE = ROOT / ".cache"
"""Downloads and logs, ignored by git."""

HOST = CACHE / "ComfyUI"
"""A link to the ComfyUI in use; `make setup` points it at its download or at $COMFYUI_PATH."""
