"""Seconds of one sampling step at full size against ComfyUI's plain SD 2.1 U-Net in the same run.

`python -m benchmarks.step [--latent 64] [--runs 3] [--dtype fp32 bf16] [--json FILE]`; a step is the LQ
encoder and the U-Net with SFT, batch 1, random weights; the runs of both are interleaved, medians count.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from harness import HOST
from pfstorer_core.files import written
from pfstorer_core.models import LQEncoderConfig, UNet, UNetConfig
from pfstorer_core.models.ops import Backend

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step", description=__doc__)
    parser.add_argument("--latent", type=int, default=64, help="side of the latent")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    results = {name: measure(DTYPES[name], options.latent, options.runs) for name in options.dtype}
    for name, row in results.items():
        sys.stdout.write(f"{name}: " + ", ".join(f"{key} {value:.2f}" for key, value in row.items()) + "\n")
    if options.json:
        with written(options.json) as temporary:
            temporary.write_text(json.dumps(results, indent=2))


@torch.inference_mode()
def measure(dtype: torch.dtype, side: int, runs: int) -> dict[str, float]:
    """Median seconds of the host's U-Net, of our LQ encoder and of our U-Net, and the ratio."""
    sizes = UNetConfig(lq_encoder=LQEncoderConfig())
    unet = randomized(UNet(sizes, Backend(dtype=dtype)))
    host = randomized(host_unet(dtype))
    x = torch.randn(1, 4, side, side, dtype=dtype)
    t = torch.tensor([500])
    context = torch.randn(1, 77, sizes.context_dim, dtype=dtype)
    features = unet.encode_lq(x, t)
    timed: dict[str, Callable[[], object]] = {
        "host_unet_s": lambda: host(x, t, context),
        "encoder_s": lambda: unet.encode_lq(x, t),
        "unet_s": lambda: unet(x, t, context, features),
    }
    seconds: dict[str, list[float]] = {name: [] for name in timed}
    for run in range(runs + 1):
        for name, call in timed.items():
            started = time.perf_counter()
            call()
            if run:  # the first run warms up
                seconds[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    medians["ratio"] = (medians["encoder_s"] + medians["unet_s"]) / medians["host_unet_s"]
    return medians


def randomized(module: torch.nn.Module) -> UNet:
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    return module.eval()  # type: ignore[return-value]


def host_unet(dtype: torch.dtype) -> torch.nn.Module:
    """ComfyUI's U-Net at SD 2.1's sizes, with PyTorch's attention."""
    if str(HOST) not in sys.path:
        sys.path.insert(0, str(HOST))
        sys.argv = [sys.argv[0], "--cpu", "--use-pytorch-cross-attention"]
        import comfy.options

        comfy.options.enable_args_parsing()
    import comfy.ops
    from comfy.ldm.modules.diffusionmodules import openaimodel

    build: Any = openaimodel.UNetModel
    depth = [1, 1, 1, 1, 1, 1, 0, 0]
    return build(
        image_size=32, in_channels=4, out_channels=4, model_channels=320, num_res_blocks=[2] * 4,
        channel_mult=(1, 2, 4, 4), num_head_channels=64, use_spatial_transformer=True,
        transformer_depth=depth, transformer_depth_output=[1] * 9 + [0] * 3, transformer_depth_middle=1,
        context_dim=1024, use_linear_in_transformer=True, legacy=False, dtype=dtype,
        operations=comfy.ops.disable_weight_init,
    )  # fmt: skip


if __name__ == "__main__":
    main()
