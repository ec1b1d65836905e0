"""Seconds of one sampling step at full size against ComfyUI's plain SD 2.1 U-Net in the same run.

`python -m lab benchmark step [--device cuda] [--latent 64] [--runs 5] [--dtype fp32 bf16] [--json FILE]`; a
step is the LQ encoder and the U-Net with SFT, batch 1, random weights; the runs of both are interleaved,
medians count. On CUDA both are also measured under torch.compile, as `<dtype>_compiled`. `--control` measures
DiffBIR in its place: the control network and the U-Net under it against ComfyUI's U-Net under a ControlNet of
its own, of the same size and weights, in pairs that follow each other at once; `ratio` is the median of the
pairs'. On the CPU one thread calculates, and its own seconds count.
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
from torch import Tensor

from harness import HOST
from pfstorer_core.checkpoints.files import atomic_write
from pfstorer_core.models import Backend, ControlConfig, LQEncoderConfig, UNet, UNetConfig
from pfstorer_core.models.packing import pack
from pfstorer_core.models.prepacking import prepacked

from ..gpu.steps import in_host_words
from .timing import DTYPES, busy, randomized, stopwatch


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m lab benchmark step", description=__doc__)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--latent", type=int, default=64, help="side of the latent")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--control", action="store_true", help="DiffBIR's control network")
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
            given = (DTYPES[name], options.latent, options.runs, options.device, compiled)
            row = (measure_control if options.control else measure)(*given)
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
    pack(unet)
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
    with prepacked(unet):  # as a restoration does
        for run in range(runs + 1):
            for name, evaluate in timed.items():
                elapsed = stopwatch(evaluate, device)
                if run:  # the first run warms up
                    seconds[name].append(elapsed)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    medians["ratio"] = (medians["encoder_s"] + medians["unet_s"]) / medians["host_unet_s"]
    return medians


@torch.inference_mode()
def measure_control(
    dtype: torch.dtype, side: int, runs: int, device: torch.device, compiled: bool = False
) -> dict[str, float]:
    """Median seconds of our step, of the host's and of what in it reads the hint's pixels; the median of the
    pairs' ratios, and the ratio of the fastest runs."""
    sizes = UNetConfig(sft_channels=0, control=ControlConfig())
    placement: dict[str, Any] = {"dtype": dtype, "device": device}
    unet = randomized(UNet(sizes, Backend(**placement)))
    pack(unet)
    host, control = host_networks(unet, **placement)
    x = torch.randn(1, 4, side, side, **placement)
    t = torch.tensor([500], device=device)
    context = torch.randn(1, 77, sizes.context_dim, **placement)
    seen, hint = torch.cat([x, x], dim=1), torch.rand(1, 3, 8 * side, 8 * side, **placement)

    def native() -> Tensor:
        return host(x, t, context, control=control(seen, hint, t, context))

    def step() -> Tensor:
        return unet(x, t, context, x)

    torch.testing.assert_close(step(), native(), rtol=0.02, atol=0.02)
    timed: dict[str, Callable[[], object]] = {
        "native_s": torch.compile(native) if compiled else native,
        "step_s": torch.compile(step) if compiled else step,
        "hint_s": lambda: control.input_hint_block(hint, None, context),
    }
    seconds: dict[str, list[float]] = {name: [] for name in timed}
    if device.type == "cpu":
        torch.set_num_threads(1)
    with prepacked(unet):
        for run in range(runs + 1):
            for name in sorted(timed, reverse=bool(run % 2)):  # neither of a pair always comes first
                elapsed = busy(timed[name]) if device.type == "cpu" else stopwatch(timed[name], device)
                if run:
                    seconds[name].append(elapsed)
    found = {name: statistics.median(values) for name, values in seconds.items()}
    pairs = zip(seconds["step_s"], seconds["native_s"], strict=True)
    found["ratio"] = statistics.median(own / theirs for own, theirs in pairs)
    found["ratio_of_fastest"] = min(seconds["step_s"]) / min(seconds["native_s"])
    return found


def host_unet(dtype: torch.dtype, device: torch.device) -> torch.nn.Module:
    """ComfyUI's U-Net at SD 2.1's sizes, with PyTorch's attention."""
    import_host(device)
    import comfy.ops
    from comfy.ldm.modules.diffusionmodules import openaimodel

    build: Any = openaimodel.UNetModel
    given = {**in_host_words(UNetConfig()), "operations": comfy.ops.disable_weight_init}
    return build(**given, out_channels=4, dtype=dtype, device=device)


def host_networks(unet: UNet, dtype: torch.dtype, device: torch.device) -> tuple[Any, Any]:
    """ComfyUI's U-Net and ControlNet with the weights of ours, which they share. What the latter has besides,
    the network that reads the hint's pixels, adds nothing."""
    import_host(device)
    host = host_unet(dtype, torch.device("meta"))
    import comfy.ops
    from comfy.cldm import cldm

    assert unet.control_model is not None
    given = {**in_host_words(unet.control_model.config), "operations": comfy.ops.disable_weight_init}
    control: Any = cldm.ControlNet(**given, hint_channels=3, dtype=dtype, device="meta")
    weights, own = unet.state_dict(), "control_model."
    host.load_state_dict({k: v for k, v in weights.items() if not k.startswith(own)}, assign=True)
    control.load_state_dict(unet.control_model.state_dict(), strict=False, assign=True)
    randomized(control.input_hint_block.to_empty(device=device))
    for parameter in control.input_hint_block[-1].parameters():
        parameter.zero_()
    return host.eval(), control.eval()


def import_host(device: torch.device) -> None:
    if str(HOST) not in sys.path:
        sys.path.insert(0, str(HOST))
        cpu = ["--cpu"] if device.type == "cpu" else []
        sys.argv = [sys.argv[0], *cpu, "--use-pytorch-cross-attention"]
        import comfy.options

        comfy.options.enable_args_parsing()


if __name__ == "__main__":
    main()
