"""Seconds of one sampling step at full size against ComfyUI's plain SD 2.1 U-Net in the same run.

`python -m lab benchmark step [--device cuda] [--latent 64] [--runs 5] [--dtype fp32 bf16] [--json FILE]`; a
step is the LQ encoder and the U-Net with SFT, batch 1, random weights; the runs of both are interleaved,
medians count. On CUDA both are also measured under torch.compile, as `<dtype>_compiled`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from harness import HOST
from pfstorer_core.checkpoints.files import atomic_write
from pfstorer_core.models import LQEncoderConfig, UNet, UNetConfig
from pfstorer_core.models.ops import Backend

from .timing import DTYPES, randomized, stopwatch


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m lab benchmark step", description=__doc__)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--latent", type=int, default=64, help="side of the latent")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--personalized", action="store_true", help="also the benchmark personalized_step")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    results: dict[str, dict[str, float]] = {}
    if options.personalized:
        from .personalized_step import measure_personalized

        dtype = DTYPES[options.dtype[-1]]
        results["personalized"] = measure_personalized(dtype, options.latent, options.runs, options.device)
    for name in options.dtype:
        for compiled in [False, True] if options.device.type == "cuda" else [False]:
            row = measure(DTYPES[name], options.latent, options.runs, options.device, compiled)
            results[f"{name}_compiled" if compiled else name] = row
            listed = ", ".join(f"{key} {value:.4g}" for key, value in row.items())
            sys.stdout.write(f"{name}{' compiled' if compiled else ''}: {listed}\n")
    if options.json:
        with atomic_write(options.json) as temporary:
            temporary.write_text(json.dumps(results, indent=2))


@torch.inference_mode()
def measure(
    dtype: torch.dtype, side: int, runs: int, device: torch.device, compiled: bool = False
) -> dict[str, float]:
    """Median seconds of the host's U-Net, of our LQ encoder and of our U-Net, and the ratio."""
    sizes = UNetConfig(lq_encoder=LQEncoderConfig())
    unet = randomized(UNet(sizes, Backend(dtype=dtype, device=device)))
    host = randomized(host_unet(dtype, device))
    placement = {"dtype": dtype, "device": device}
    x = torch.randn(1, 4, side, side, **placement)
    t = torch.tensor([500], device=device)
    context = torch.randn(1, 77, sizes.context_dim, **placement)
    condition = unet.conditioning(x, x, t, context)
    networks: list[Any] = [host, unet.conditioning, unet]
    host_call, encode, call = (torch.compile(f) for f in networks) if compiled else networks
    timed: dict[str, Callable[[], object]] = {
        "host_unet_s": lambda: host_call(x, t, context),
        "encoder_s": lambda: encode(x, x, t, context),
        "unet_s": lambda: call(x, t, context, condition),
    }
    seconds: dict[str, list[float]] = {name: [] for name in timed}
    for run in range(runs + 1):
        for name, evaluate in timed.items():
            elapsed = stopwatch(evaluate, device)
            if run:  # the first run warms up
                seconds[name].append(elapsed)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    medians["ratio"] = (medians["encoder_s"] + medians["unet_s"]) / medians["host_unet_s"]
    return medians


def host_unet(dtype: torch.dtype, device: torch.device) -> torch.nn.Module:
    """ComfyUI's U-Net at SD 2.1's sizes, with PyTorch's attention."""
    if str(HOST) not in sys.path:
        sys.path.insert(0, str(HOST))
        cpu = ["--cpu"] if device.type == "cpu" else []
        sys.argv = [sys.argv[0], *cpu, "--use-pytorch-cross-attention"]
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
        context_dim=1024, use_linear_in_transformer=True, legacy=False, dtype=dtype, device=device,
        operations=comfy.ops.disable_weight_init,
    )  # fmt: skip


if __name__ == "__main__":
    main()
