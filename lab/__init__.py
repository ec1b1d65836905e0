"""Where the project is tried out: drawn people, the scoreboard and its judges, benchmarks, the GPU check.

Imports the core, which never imports it; neither the node pack's archive nor the library's wheel has it.
"""

from pathlib import Path

ASSETS = Path(__file__).resolve().parents[1] / "assets"
"""Of the repository, which the lab is never without: the embedded restorer and the judges."""
