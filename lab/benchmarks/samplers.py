"""What few steps cost: the host's samplers on the scoreboard's cases, in a real server.

`python -m lab benchmark samplers [--people 10] [--photos 1] [--preset heavy] [--seed 0] [--json FILE]`: every
preset of `SAMPLERS` restores the same pictures with the embedded restorer. The JSON has the rows of
`evaluate`, methods named by preset, and `seconds`: seconds a picture, by preset.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from harness import ROOT
from harness.client import ComfyClient
from harness.host import ComfyServer
from harness.picture import decode, encode, image_of
from pfstorer_core.checkpoints.files import atomic_write

from ..evaluation import Case, CaseSettings, EvaluationSettings, Judges, Method, evaluate, load_judges
from ..evaluation.commands import JUDGES

WORKFLOW = ROOT / "workflows" / "api" / "restore_and_upscale.json"


@dataclass(frozen=True)
class Preset:
    """Widgets of TiledSRSampler."""

    sampler_name: str
    scheduler: str
    steps: int


SAMPLERS = {
    "turbo 1": Preset("ddpm", "normal", 1),
    "turbo 4": Preset("ddpm", "normal", 4),
    "euler 4": Preset("euler", "normal", 4),
    "dpmpp_2m 20": Preset("dpmpp_2m", "karras", 20),
    "ddpm 50": Preset("ddpm", "normal", 50),
    "ddpm 200": Preset("ddpm", "normal", 200),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m lab benchmark samplers", description=__doc__)
    parser.add_argument("--people", type=int, default=10)
    parser.add_argument("--photos", type=int, default=1)
    parser.add_argument("--preset", default="heavy")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    cases = CaseSettings(options.photos, seed=options.seed)
    results = measure(load_judges(JUDGES), EvaluationSettings(options.people, (options.preset,), cases))
    for row in results["rows"]:
        name, seconds = row["method"], results["seconds"].get(row["method"], 0)
        sys.stdout.write(f"{name:12} PSNR {row['psnr']:.2f} ID {row['id']:.1f} {seconds:.2f} s a picture\n")
    if options.json:
        with atomic_write(options.json) as temporary:
            temporary.write_text(json.dumps(results, indent=1))


def measure(judges: Judges, settings: EvaluationSettings) -> dict:
    seconds = dict.fromkeys(SAMPLERS, 0.0)
    with ComfyServer() as server, server.client() as client:
        restored(client, SAMPLERS["turbo 1"], torch.zeros(3, 64, 64), 0)  # loads the networks

        def method(name: str) -> Method:
            def run(case: Case) -> torch.Tensor:
                began = time.monotonic()
                images = [restored(client, SAMPLERS[name], lq, case.seed) for lq in case.lq]
                seconds[name] += (time.monotonic() - began) / len(images) / settings.people
                return torch.stack(images)

            return run

        methods: dict[str, Method] = {"input": lambda case: case.lq}
        methods |= {name: method(name) for name in SAMPLERS}
        with tempfile.TemporaryDirectory() as folder:
            board = evaluate(methods, judges, settings, path=Path(folder) / "board.json")
    return {**board.to_json(), "seconds": seconds}


def restored(client: ComfyClient, preset: Preset, lq: torch.Tensor, seed: int) -> torch.Tensor:
    """A bad picture [3, S, S] in [0, 1] by the shipped workflow, without enlargement."""
    prompt = json.loads(WORKFLOW.read_text(encoding="utf-8"))
    name = client.upload_image(encode(image_of(lq.permute(1, 2, 0).numpy())))
    for node in prompt.values():
        if node["class_type"] == "LoadImage":
            node["inputs"]["image"] = name
        if node["class_type"] == "TiledSRSampler":
            node["inputs"].update(vars(preset), upscale=1.0, seed=seed)
    [saved] = client.run(prompt).images()
    pixels = np.asarray(decode(client.view(saved)), np.float32) / 255
    return torch.from_numpy(pixels).permute(2, 0, 1)


if __name__ == "__main__":
    main()
