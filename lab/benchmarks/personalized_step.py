"""What a person costs at full size: a personalized step and a training step over the base's, and the memory
of a training.

`python -m lab benchmark personalized_step [--latent 64] [--runs 3] [--dtype bf16] [--batch 1] [--json FILE]`;
SD 2.1's sizes with random weights, batch 1, runs interleaved, medians count; a base step is LQ encoder and
U-Net. `zero_ratio`, `zero_5_ratio`: references of one and of five photos, read beforehand.
`same_9_tiles_ratio`: read anew in every step, for nine tiles. `train_over_forward`,
`train_full_over_forward`: a step of TrainIdentityAdapter over a forward pass of the base on the same batch.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from harness.stand_in_adapter import stand_in_adapter
from pfstorer_core.checkpoints.files import atomic_write
from pfstorer_core.checkpoints.header import RestorerHeader
from pfstorer_core.models import Autoencoder, AutoencoderConfig, LQEncoderConfig, TextTower, UNet, UNetConfig
from pfstorer_core.models.ops import Backend
from pfstorer_core.models.packing import pack
from pfstorer_core.models.text import TextTowerConfig
from pfstorer_core.personalization.base import BoundAdapter
from pfstorer_core.personalization.pfstorer.adapter import IdentityAdapter
from pfstorer_core.personalization.pfstorer.apply import read_references
from pfstorer_core.personalization.pfstorer.settings import AdapterTraining
from pfstorer_core.personalization.pfstorer.sites import site_factor
from pfstorer_core.personalization.pfstorer.train import IdentityLoss
from pfstorer_core.personalization.photos import Photos
from pfstorer_core.restorers.base import Restorer
from pfstorer_core.restorers.changes import sites_of

from .memory import status
from .timing import DTYPES, randomized, stopwatch

TILES = 9


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m lab benchmark personalized_step", description=__doc__)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--latent", type=int, default=64, help="side of the latent")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--dtype", choices=DTYPES, default="bf16")
    parser.add_argument("--batch", type=int, default=1, help="of the training step")
    parser.add_argument("--only", choices=["step", "train"], help="one of the two halves")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    results = measure_personalized(
        DTYPES[options.dtype], options.latent, options.runs, options.device, options.batch, options.only
    )
    sys.stdout.write("\n".join(f"{key} {value:.4g}" for key, value in results.items()) + "\n")
    if options.json:
        with atomic_write(options.json) as temporary:
            temporary.write_text(json.dumps({"personalized": results}, indent=2))


def measure_personalized(
    dtype: torch.dtype, side: int, runs: int, device: torch.device, batch: int = 1, only: str | None = None
) -> dict[str, float]:
    restorer = stand_in(dtype, device)
    results: dict[str, float] = {}
    if only != "train":
        results |= steps(restorer, side, runs)
    if only != "step":
        results |= training(restorer, side, batch, runs)
    return results


def stand_in(dtype: torch.dtype, device: torch.device) -> Restorer:
    """StableSR's sizes and random weights; an autoencoder that nobody asks."""
    backend = Backend(dtype=dtype, device=device)
    unet = randomized(UNet(UNetConfig(lq_encoder=LQEncoderConfig()), backend))
    text: Any = randomized(TextTower(TextTowerConfig(), backend))
    null_context = torch.randn(1, 77, unet.config.context_dim, dtype=dtype, device=device)
    pack(unet)
    autoencoder = Autoencoder(AutoencoderConfig(), Backend(device="meta"))
    return Restorer(unet, autoencoder, null_context, RestorerHeader(), text)


@torch.inference_mode()
def steps(restorer: Restorer, side: int, runs: int) -> dict[str, float]:
    """Ratios of personalized steps to the base's."""
    unet, context = restorer.unet, restorer.null_context
    x = torch.randn(1, 4, side, side).to(context)
    t = torch.tensor([500], device=x.device)
    people = {count: adapter(restorer, side, count, "zero") for count in (1, 5)}
    bound = {count: person.bind(unet, restorer.schedule) for count, person in people.items()}
    same = adapter(restorer, side, 1, "same")

    def step(person: BoundAdapter | None) -> None:
        sites = sites_of(person.prepare(500)) if person else {}
        unet(x, t, context, x, sites)

    seconds = medians(
        {
            "base": lambda: step(None),
            "one": lambda: step(bound[1]),
            "five": lambda: step(bound[5]),
            "read": lambda: read_references(unet, same, 500),
        },
        runs,
        x.device,
    )
    tokens = sum(site_tokens(unet, side, site) for site in people[1].header.sites)
    kept = {
        count: sum(r.key.shape[1] for r in read_references(unet, person).values()) / tokens
        for count, person in people.items()
    }
    return {
        "base_s": seconds["base"],
        "zero_ratio": seconds["one"] / seconds["base"],
        "zero_keys_share": kept[1],
        "zero_5_ratio": seconds["five"] / seconds["base"],
        "zero_5_keys_share": kept[5],
        "same_9_tiles_ratio": (seconds["one"] + seconds["read"] / TILES) / seconds["base"],
        "same_references": 1,
    }


def training(restorer: Restorer, side: int, batch: int, runs: int) -> dict[str, float]:
    """Ratios of training steps to a forward pass of the base, and the highest resident memory."""
    unet, context = restorer.unet, restorer.null_context
    x = torch.randn(batch, 4, side, side).to(context)
    t = torch.full((batch,), 500, device=x.device)
    photos = Photos([], torch.randn(5, 4, side, side).to(x))
    samples = {
        "hq": x.float(),
        "lq": torch.randn_like(x).float(),
        "reference": torch.zeros(batch, dtype=torch.int64, device=x.device),
        "seed": torch.arange(batch),
    }
    settings = AdapterTraining(batch=batch)

    @torch.no_grad()
    def forward() -> None:
        unet(x, t, context.expand(batch, -1, -1), condition=x)

    results: dict[str, float] = {}
    timed: dict[str, Callable[[], object]] = {"forward": forward}
    for gradients, name in (("truncated", "train_over_forward"), ("full", "train_full_over_forward")):
        objective = IdentityLoss(restorer, photos, replace(settings, gradients=gradients)).to(x.device)
        optimizer = torch.optim.AdamW(
            [p for p in objective.parameters() if p.requires_grad], lr=1e-5, fused=True
        )

        def train(objective: IdentityLoss = objective, optimizer: Any = optimizer) -> None:
            with torch.autocast(x.device.type, torch.bfloat16, enabled=x.dtype == torch.bfloat16):
                loss = objective(samples)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        timed[name] = train
        if name == "train_over_forward":
            train()
            results["train_rss_gb"] = status("VmHWM") / 1e9
    seconds = medians(timed, runs, x.device)
    results["train_batch"] = batch
    results["train_s"] = seconds["train_over_forward"]
    results |= {name: value / seconds["forward"] for name, value in seconds.items() if name != "forward"}
    return results


def medians(timed: dict[str, Callable[[], object]], runs: int, device: torch.device) -> dict[str, float]:
    """Median seconds of interleaved runs, after one that warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in timed}
    for run in range(runs + 1):
        for name, call in timed.items():
            elapsed = stopwatch(call, device)
            if run:
                seconds[name].append(elapsed)
    return {name: statistics.median(values) for name, values in seconds.items()}


def adapter(restorer: Restorer, side: int, references: int, reference_timestep: str) -> IdentityAdapter:
    context = restorer.null_context
    latents = torch.randn(references, 4, side, side)
    made = stand_in_adapter(restorer, latents, reference_timestep=reference_timestep, gamma=0.02)
    return made.to(context.device, context.dtype)


def site_tokens(unet: UNet, side: int, site: str) -> int:
    return (side // site_factor(unet, site)) ** 2


if __name__ == "__main__":
    main()
