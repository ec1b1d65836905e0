"""How many operations are dispatched: on a GPU each is a kernel or a few, and launching them takes the time.

`python -m lab benchmark operations [--json FILE]`; Stable Diffusion 2.1's sizes, bf16, random weights, on the
CPU; latents are small, since their size changes no count. `host`: ComfyUI's plain U-Net, to which the ratios
are; `step`: the LQ encoder and the U-Net with SFT; `person`: with a PFStorer adapter's blocks; `training`: a
step of *Train Identity Adapter*, from its losses to the average of its weights. Views and empty memory do not
count. `--list` names the operations of one of them.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pfstorer_core.checkpoints.files import atomic_write
from pfstorer_core.models import ops
from pfstorer_core.personalization.pfstorer.settings import AdapterTraining
from pfstorer_core.personalization.pfstorer.train import IdentityLoss
from pfstorer_core.personalization.photos import Photos
from pfstorer_core.restorers.base import Restorer
from pfstorer_core.restorers.changes import sites_of
from pfstorer_core.training.average import follow
from pfstorer_core.training.objective import Player
from pfstorer_core.training.processes import Processes

from .personalized_step import adapter, stand_in
from .step import host_unet
from .timing import randomized

CPU = torch.device("cpu")
FREE = ("empty", "detach", "alias", "_unsafe_view", "_reshape_alias", "lift_fresh", "_record_function")
"""Beside views: what launches nothing."""


class Operations(TorchDispatchMode):
    """Counts what is dispatched within it, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if not func.is_view and not name.startswith(FREE):
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))


def counted(call: Callable[[], object]) -> Counter[str]:
    """The operations of a call, by name; the first call, which may prepare something, does not count."""
    call()
    with Operations() as found:
        call()
    return found.counts


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m lab benchmark operations", description=__doc__)
    parser.add_argument("--latent", type=int, default=16, help="side of the latent")
    parser.add_argument("--batch", type=int, default=4, help="of the training step")
    parser.add_argument("--list", choices=["host", "step", "person", "training"])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found = measure(options.latent, options.batch)
    total = {name: counts.total() for name, counts in found.items()}
    for name, count in total.items():
        sys.stdout.write(f"{name:>9} {count:6}  {count / total['host']:.2f}\n")
    for name, count in found[options.list].most_common() if options.list else ():
        sys.stdout.write(f"{count:16}  {name}\n")
    if options.json:
        with atomic_write(options.json) as temporary:
            temporary.write_text(json.dumps(total, indent=2) + "\n")


def measure(side: int, batch: int) -> dict[str, Counter[str]]:
    """Operations by name of what is compared."""
    restorer = stand_in(torch.bfloat16, CPU)
    found = {"host": of_host(restorer.null_context, side), **of_steps(restorer, side)}
    with patch.object(ops, "SMALL_MAP", 0):  # an attention of its own for CPUs
        return {**found, "training": of_training(restorer, side, batch)}


@torch.no_grad()
def of_host(context: Tensor, side: int) -> Counter[str]:
    host: Any = randomized(host_unet(context.dtype, CPU))
    x, t = torch.randn(1, 4, side, side).to(context), torch.tensor([500])
    return counted(lambda: host(x, t, context))


@torch.no_grad()
def of_steps(restorer: Restorer, side: int) -> dict[str, Counter[str]]:
    unet, context = restorer.unet, restorer.null_context
    x, t = torch.randn(1, 4, side, side).to(context), torch.tensor([500])
    person = adapter(restorer, side, 1, "zero").bind(unet, restorer.schedule)
    return {
        "step": counted(lambda: unet(x, t, context, x)),
        "person": counted(lambda: unet(x, t, context, x, sites_of(person.prepare(500)))),
    }


def of_training(restorer: Restorer, side: int, batch: int) -> Counter[str]:
    """Of one step as `training.loop.fit` takes it."""
    latents = torch.randn(5, 4, side, side)
    samples = {
        "hq": torch.randn(batch, 4, side, side),
        "lq": torch.randn(batch, 4, side, side),
        "reference": torch.zeros(batch, dtype=torch.int64),
        "seed": torch.arange(batch),
    }
    settings = AdapterTraining(batch=batch)
    objective = IdentityLoss(restorer, Photos([], latents), settings)
    loop = objective.loop()
    player = Player(objective, loop, Processes(CPU))
    average = {name: p.detach().clone() for name, p in player.trained.items()}

    def step() -> None:
        player.learn(samples, last=True)
        player.step(loop.lr)
        follow(average, player.trained, loop.ema)

    return counted(step)


if __name__ == "__main__":
    main()
