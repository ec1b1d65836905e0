"""What photos that are looked at cost at full size: a step with them over one without, and their memory.

`python -m lab benchmark reference_step [--network refldm,stablesr] [--latent 64] [--photos 1,5] [--runs 3]
[--dtype fp32] [--json FILE]`; the published sizes with random weights, batch 1, one thread, runs interleaved,
medians of the seconds that the CPU calculates. `step_R`: with R photos, read beforehand, over `base_s`;
`read_R`: reading them, once a sampling, over it, too. `keys_mb_R`: megabytes of their keys and values.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

from pfstorer_core.checkpoints.files import atomic_write
from pfstorer_core.checkpoints.header import RestorerHeader
from pfstorer_core.models import BlockHooks, LQEncoderConfig, UNet, UNetConfig
from pfstorer_core.models.ops import Backend
from pfstorer_core.personalization.reference_attention.references import References, ReferenceSettings
from pfstorer_core.restorers.changes import NO_CHANGES, Changes, attention_of

from .timing import DTYPES, busy, randomized

NETWORKS = {
    "refldm": UNetConfig(
        in_channels=16, out_channels=8, model_channels=160, channel_mult=(1, 2, 2, 4),
        attention_resolutions=(2, 4, 8), num_head_channels=32, context_dim=0, sft_channels=0,
    ),
    "stablesr": UNetConfig(lq_encoder=LQEncoderConfig()),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m lab benchmark reference_step", description=__doc__)
    parser.add_argument("--network", default=",".join(NETWORKS))
    parser.add_argument("--latent", type=int, default=64, help="side of the latent")
    parser.add_argument("--photos", default="1,5")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--dtype", choices=DTYPES, default="fp32")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    counts = [int(count) for count in options.photos.split(",")]
    torch.set_num_threads(1)
    results = {
        name: measured(NETWORKS[name], DTYPES[options.dtype], options.latent, counts, options.runs)
        for name in options.network.split(",")
    }
    for name, found in results.items():
        sys.stdout.write("".join(f"{name} {key} {value:.4g}\n" for key, value in found.items()))
    if options.json:
        with atomic_write(options.json) as temporary:
            temporary.write_text(json.dumps({"reference_step": results}, indent=2))


@torch.inference_mode()
def measured(
    sizes: UNetConfig, dtype: torch.dtype, side: int, counts: Sequence[int], runs: int
) -> dict[str, float]:
    unet: UNet = randomized(UNet(sizes, Backend(dtype=dtype)))
    channels, schedule = sizes.out_channels, RestorerHeader().schedule
    context = torch.randn(1, 77, sizes.context_dim, dtype=dtype) if sizes.context_dim else None
    x, t = torch.randn(1, channels, side, side, dtype=dtype), torch.tensor([500])
    settings = ReferenceSettings().suited(sizes.context_dim)
    bound = {
        count: References(torch.randn(count, *x.shape[1:], dtype=dtype), context, "", settings)
        for count in counts
    }

    def step(changes: Changes) -> None:
        unet(x, t, context, condition=x, hooks=BlockHooks(self_attention=attention_of(changes)))

    def read(count: int) -> Changes:
        return bound[count].bind(unet, schedule).prepare(0)

    found = {count: read(count) for count in counts}
    calls: dict[str, Callable[[], object]] = {"base_s": partial(step, NO_CHANGES)}
    for count in counts:
        calls |= {f"step_{count}": partial(step, found[count]), f"read_{count}": partial(read, count)}
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(runs):
        for name, call in calls.items():
            times[name].append(busy(call))
    seconds = {name: statistics.median(values) for name, values in times.items()}
    base = seconds.pop("base_s")
    ratios = {name: value / base for name, value in seconds.items()}
    return {"base_s": base, **ratios, **{f"keys_mb_{count}": megabytes(found[count]) for count in counts}}


def megabytes(changes: Changes) -> float:
    """Of keys and values."""
    kept = [part for shared in changes.attention.values() for one in shared for part in (one.key, one.value)]
    return sum(part.numel() * part.element_size() for part in kept) / 1e6


if __name__ == "__main__":
    main()
