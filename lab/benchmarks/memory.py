"""Memory of loading and of restoring at full size, on the CPU.

`python -m lab benchmark memory [--json FILE]`: a stand-in of StableSR's checkpoint (512 model, fp16) is
loaded as bf16, and a picture is restored to 512 x 512 by 2 steps, each in a process of its own.
`load_peak_over_file`: highest anonymous memory (RssAnon) above that of the idle process, over the file's
size. `restore_512_bf16_rss_gb`: highest resident memory (VmHWM, file-backed pages included), in 10^9 bytes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

from harness import ROOT
from harness.stand_ins import stand_in
from pfstorer_core.checkpoints.files import atomic_write

CHECKPOINT = "stablesr_000117.ckpt"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m lab benchmark memory", description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", choices=["load", "restore"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        sys.stdout.write(str({"load": load, "restore": restore}[options.only]()))
        return
    size = stand_in(CHECKPOINT).stat().st_size
    results = {
        "load_peak_over_file": measured("load") / size,
        "restore_512_bf16_rss_gb": measured("restore") / 1e9,
    }
    sys.stdout.write(", ".join(f"{key} {value:.2f}" for key, value in results.items()) + "\n")
    if options.json:
        with atomic_write(options.json) as temporary:
            temporary.write_text(json.dumps(results, indent=2))


def measured(what: str) -> float:
    """The number of bytes that one measurement in a fresh process reports."""
    command = [sys.executable, "-m", "lab.benchmarks.memory", "--only", what]
    return float(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)


def load() -> int:
    """Highest anonymous memory while loading, above that of the process before."""
    import torch

    import pfstorer_core as pf

    idle = status("RssAnon")
    peak, done = idle, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.is_set():
            peak = max(peak, status("RssAnon"))
            time.sleep(0.005)

    watcher = threading.Thread(target=watch)
    watcher.start()
    restorer = pf.load_restorer(stand_in(CHECKPOINT), dtype=torch.bfloat16, text=True)
    done.set()
    watcher.join()
    del restorer
    return peak - idle


def restore() -> int:
    """Highest resident memory of a process that restores one picture."""
    import torch

    import pfstorer_core as pf

    restorer = pf.load_restorer(stand_in(CHECKPOINT), dtype=torch.bfloat16)
    pf.restore(restorer, torch.rand(1, 3, 128, 128), upscale=4, steps=2)
    return status("VmHWM")


def status(entry: str, process: int | str = "self") -> int:
    """An entry of /proc/PROCESS/status in bytes."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{entry}:"))


if __name__ == "__main__":
    main()
