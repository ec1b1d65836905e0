"""B: a step against ComfyUI's plain U-Net: eager, as a CUDA graph, channels last, and profiled."""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch

from pfstorer_core.models import UNet
from pfstorer_core.models.encoder import TransformerEncoderConfig

from .measuring import interleaved, profiled
from .networks import lively
from .session import BATCHES, Session, flags

BF16, FP16 = torch.bfloat16, torch.float16
ALL = ("host", "encoder", "unet", "step", "plain")


class HostModules(NamedTuple):
    """ComfyUI's modules of its U-Net, of its ControlNet and of its layers."""

    openaimodel: Any
    cldm: Any
    ops: Any


def host_modules(session: Session, part: str) -> HostModules:
    """The import of ComfyUI stays in this process."""
    sys.path.append(str(session.options.site))
    sys.path.insert(0, str(session.options.comfy))
    cpu = [] if session.cuda else ["--cpu"]
    given, sys.argv = sys.argv, ["main.py", *cpu, "--use-pytorch-cross-attention"]
    before = flags()
    try:
        import comfy.options

        comfy.options.enable_args_parsing()
        import comfy.ops
        from comfy.cldm import cldm
        from comfy.ldm.modules import attention
        from comfy.ldm.modules.diffusionmodules import openaimodel
    finally:
        sys.argv = given
    session.put(part, "host_attention", attention.optimized_attention.__name__)
    session.put(part, "flags_before_and_after_import", [before, flags()])
    return HostModules(openaimodel, cldm, comfy.ops)


def in_host_words(sizes: TransformerEncoderConfig) -> dict[str, Any]:
    """What ComfyUI's networks of these sizes are made with."""
    blocks = sizes.num_res_blocks
    attends = [int(2**level in sizes.attention_resolutions) for level in range(len(sizes.channel_mult))]
    return dict(
        image_size=32, in_channels=sizes.in_channels, model_channels=sizes.model_channels,
        num_res_blocks=[blocks] * len(attends), channel_mult=sizes.channel_mult,
        num_head_channels=sizes.num_head_channels, use_spatial_transformer=True,
        transformer_depth=[a for a in attends for _ in range(blocks)],
        transformer_depth_output=[a for a in attends for _ in range(blocks + 1)],
        transformer_depth_middle=1, context_dim=sizes.context_dim, use_linear_in_transformer=True,
        legacy=False,
    )  # fmt: skip


def host_unet(session: Session, modules: HostModules, dtype: torch.dtype) -> Any:
    """ComfyUI's U-Net of the same sizes."""
    model = modules.openaimodel.UNetModel(
        **in_host_words(session.sizes.unet), out_channels=4, dtype=dtype, device=session.device,
        operations=modules.ops.disable_weight_init,
    )  # fmt: skip
    return lively(model, 1)


@torch.inference_mode()
def part_b(session: Session) -> None:
    unet = session.restorer.unet
    begun = time.perf_counter()
    host = host_unet(session, host_modules(session, "B"), BF16)
    session.sync()
    session.put("B", "host_build_s", time.perf_counter() - begun)
    with session.attempt("B", "same_function"):
        same_function(session, unet, host)
    for batch in BATCHES:
        with session.attempt("B", f"bf16_{batch}"):
            ratios(session, f"bf16_{batch}", unet, host, batch, BF16)
    profiles(session, unet, host, 1)
    half: Any
    half_host: Any
    half, half_host = (copy.deepcopy(network).to(FP16) for network in (unet, host))
    half_host.dtype = FP16
    for batch in BATCHES:
        with session.attempt("B", f"fp16_{batch}"):
            ratios(session, f"fp16_{batch}", half, half_host, batch, FP16, ("host", "encoder", "unet"))
    del half, half_host
    for batch in (1, 4):
        x, t, context = session.inputs(batch, BF16)
        calls: dict[str, Callable[[], object]] = {
            "step": lambda: unet(x, t, context, x),  # noqa: B023 - called at once
            "host": lambda: host(x, t, context),  # noqa: B023
        }
        graphs(session, "B", str(batch), calls)
    with session.attempt("B", "channels_last"):
        channels_last(session, unet, host)
    profiles(session, unet, host, 9)


def same_function(session: Session, unet: UNet, host: Any) -> None:
    """Plain Stable Diffusion of both, with the same weights."""
    ours = {k: v for k, v in unet.state_dict().items() if not k.startswith("lq_encoder.")}
    theirs = {k: v for k, v in ours.items() if ".spade." not in k}
    known = host.state_dict()
    host.load_state_dict({**known, **{k: v for k, v in theirs.items() if k in known}})
    x, t, context = session.inputs(1, BF16)
    a, b = unet(x, t, context).float(), host(x, t, context).float()
    session.put("B", "plain_difference_of_norm", float((a - b).norm() / b.norm()))
    shared = len(set(theirs) & set(known))
    session.put("B", "keys", {"ours": len(theirs), "host": len(known), "shared": shared})


def profiles(session: Session, unet: UNet, host: Any, batch: int) -> None:
    x, t, context = session.inputs(batch, BF16)
    calls = {"ours": lambda: unet(x, t, context, x), "host": lambda: host(x, t, context)}
    for name, call in calls.items():
        with session.attempt("B", f"profile_{name}_{batch}"):
            session.put("B", f"profile_{name}_{batch}", profiled(session, call, 2))


def ratios(
    session: Session,
    key: str,
    unet: UNet,
    host: Any,
    batch: int,
    dtype: torch.dtype,
    which: tuple[str, ...] = ALL,
) -> None:
    x, t, context = session.inputs(batch, dtype)
    features = unet.conditioning(x, x, t, context)
    calls: dict[str, Callable[[], object]] = {
        "host": lambda: host(x, t, context),
        "encoder": lambda: unet.conditioning(x, x, t, context),
        "unet": lambda: unet(x, t, context, features),
        "step": lambda: unet(x, t, context, x),
        "plain": lambda: unet(x, t, context),
    }
    session.memory(reset=True)
    ms = interleaved(session, {name: calls[name] for name in which}, 10)
    row: dict[str, Any] = {f"{name}_ms": value for name, value in ms.items()}
    row["ratio"] = (ms["encoder"] + ms["unet"]) / ms["host"]
    row |= {f"{name}_ratio": ms[name] / ms["host"] for name in ("step", "plain") if name in ms}
    row["finite"] = bool(torch.isfinite(unet(x, t, context, features)).all())
    session.put("B", key, row | session.memory())


def channels_last(session: Session, unet: UNet, host: Any) -> None:
    turn(unet, host, torch.channels_last)
    try:
        for batch in BATCHES:
            x, t, context = session.inputs(batch, BF16)
            x = x.contiguous(memory_format=torch.channels_last)
            calls: dict[str, Callable[[], object]] = {
                "host": lambda: host(x, t, context),  # noqa: B023 - called at once
                "step": lambda: unet(x, t, context, x),  # noqa: B023
            }
            ms = interleaved(session, calls, 8)
            session.put("B", f"channels_last_{batch}", {f"{name}_ms": value for name, value in ms.items()})
            if batch < BATCHES[-1]:
                graphs(session, "B", f"channels_last_{batch}", calls)
    finally:
        turn(unet, host, torch.contiguous_format)


@torch.inference_mode(False)
@torch.no_grad()
def turn(unet: UNet, host: Any, memory_format: torch.memory_format) -> None:
    for network in (unet, host):
        network.to(memory_format=memory_format)  # type: ignore[call-overload]


def graphs(session: Session, part: str, key: str, calls: Mapping[str, Callable[[], object]]) -> None:
    """The same without what starting each kernel costs the CPU."""
    replays: dict[str, Callable[[], object]] = {}
    for name, call in calls.items() if session.cuda else ():
        with session.attempt(part, f"graph_{name}_{key}"):
            beside = torch.cuda.Stream()
            beside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(beside):
                call()
            torch.cuda.current_stream().wait_stream(beside)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                call()
            replays[name] = graph.replay
    if replays:
        with session.attempt(part, f"graph_{key}"):
            ms = interleaved(session, replays, 12)
            session.put(part, f"graph_{key}", {f"{name}_ms": value for name, value in ms.items()})
