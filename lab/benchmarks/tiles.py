"""What tiles cost: seconds of a tile against the bare model, and memory against the size of the picture.

`python -m lab benchmark tiles [--restorer FILE] [--runs 5] [--json FILE]`; fp32 on the CPU, tile batch 1,
runs interleaved, medians count. `tile_over_bare`: a step on the grid of most tiles over as many calls of the
same U-Net on a tensor of a tile's size. `per_tile_s`: seconds of a tile by the number of tiles.
`rss_growth_mb`: highest resident memory of a process that restores a picture by 1 step, by the side of the
result in pixels, above that of one that restores a single tile.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from harness import ROOT
from pfstorer_core import load_restorer, restore
from pfstorer_core.checkpoints.files import atomic_write
from pfstorer_core.imaging.tiling import TileGrid

from .memory import status
from .timing import stopwatch

TINY = ROOT / "assets" / "pfstorer_tiny.safetensors"
TILES = (1, 4, 16, 64)
SIDES = (512, 1024, 2048)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m lab benchmark tiles", description=__doc__)
    parser.add_argument("--restorer", type=Path, default=TINY)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--side", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        sys.stdout.write(str(memory(options.restorer, options.side)))
        return
    results = speed(options.restorer, options.runs)
    least = measured(options.restorer, 0)
    results["rss_growth_mb"] = {
        str(side): round((measured(options.restorer, side) - least) / 1e6, 1) for side in SIDES
    }
    sys.stdout.write("\n".join(f"{key} {value}" for key, value in results.items()) + "\n")
    if options.json:
        with atomic_write(options.json) as temporary:
            temporary.write_text(json.dumps(results, indent=2))


@torch.inference_mode()
def speed(path: Path, runs: int) -> dict[str, Any]:
    restorer = load_restorer(path)
    unet, header = restorer.unet, restorer.header
    tile = header.image_size // restorer.autoencoder.config.downscale
    t = torch.tensor([500])

    def evaluate(x: torch.Tensor, lq: torch.Tensor) -> torch.Tensor:
        return unet(x, t, restorer.null_context, condition=lq)

    def canvas(tiles: int) -> tuple[TileGrid, torch.Tensor]:
        side = tile + (round(tiles**0.5) - 1) * (tile // 2)
        return TileGrid(side, side, tile, tile // 2), torch.randn(1, unet.config.in_channels, side, side)

    def tiled(tiles: int) -> Callable[[], object]:
        grid, x = canvas(tiles)
        assert len(grid) == tiles
        return lambda: grid.map(evaluate, x, x)

    _, alone = canvas(1)
    most = TILES[-1]

    def bare() -> None:
        for _ in range(most):
            evaluate(alone, alone)

    timed = {"bare": bare, **{str(n): tiled(n) for n in TILES}}
    seconds: dict[str, list[float]] = {name: [] for name in timed}
    for run in range(runs + 1):
        for name, call in timed.items():
            elapsed = stopwatch(call, torch.device("cpu"))
            if run:  # the first run warms up
                seconds[name].append(elapsed)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    per_tile = {str(n): medians[str(n)] / n for n in TILES}
    return {"tile_over_bare": medians[str(most)] / medians["bare"], "per_tile_s": per_tile}


def measured(path: Path, side: int) -> float:
    """Bytes that a process of its own reports; side 0 is one tile."""
    options = ["--restorer", str(path), "--side", str(side or -1)]
    command = [sys.executable, "-m", "lab.benchmarks.tiles", *options]
    return float(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)


def memory(path: Path, side: int) -> int:
    restorer = load_restorer(path)
    side = restorer.header.image_size if side < 0 else side
    overlap = restorer.header.image_size // 8
    restore(restorer, torch.rand(1, 3, side // 4, side // 4), upscale=4, steps=1, overlap=overlap)
    return status("VmHWM")


if __name__ == "__main__":
    main()
