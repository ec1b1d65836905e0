"""`make bench`: runs every benchmark of this folder, one after the other."""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent

if __name__ == "__main__":
    for path in sorted(HERE.glob("[!_]*.py")):
        subprocess.run([sys.executable, "-m", f"benchmarks.{path.stem}"], cwd=HERE.parent, check=True)
