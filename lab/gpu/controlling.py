"""H: DiffBIR: a step against ComfyUI's U-Net under its own ControlNet, and steps of both pivots."""

from __future__ import annotations

import math
import shutil
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from pfstorer_core.models import UNet
from pfstorer_core.personalization.dual_pivot.model_pivot import ModelPivot
from pfstorer_core.personalization.dual_pivot.pivot import Pivot
from pfstorer_core.personalization.dual_pivot.settings import DualPivotTraining
from pfstorer_core.personalization.dual_pivot.text_pivot import TextPivot
from pfstorer_core.personalization.photos import Photos
from pfstorer_core.training.loop import fit
from pfstorer_core.training.processes import Processes

from .measuring import interleaved, profiled
from .networks import lively
from .session import Session
from .steps import BF16, HostModules, graphs, host_modules, host_unet, in_host_words

BATCHES = (1, 4)
WARM = 2
"""Steps of a training that are not counted; nor is the last one, after which its state is written."""


class Latents:
    """`Samples` that are there already: latents of photos and of bad pictures, of `side` cells."""

    def __init__(self, side: int) -> None:
        self.side = side

    def __len__(self) -> int:
        return 1

    def __getitem__(self, k: int) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(k)
        moments = torch.randn(8, self.side, self.side, generator=generator)
        return {
            "moments": moments, "lq": moments[:4], "photo": torch.tensor(0), "seed": torch.tensor(k),
            "broken": [],
        }  # fmt: skip


def part_h(session: Session) -> None:
    unet = session.diffbir.unet
    with session.attempt("H", "steps"):
        against_host(session, unet)
    session.tidy()
    learned: Any = {}
    with session.attempt("H", "text_pivot"):
        settings = DualPivotTraining(steps=7 if session.cuda else 5, pivots="text")
        pivot = TextPivot(session.diffbir, Photos([], torch.empty(0)), settings)
        pivot.instance = pivot.prior = Latents(session.diffbir_sizes.side)[1]["moments"][None]
        learned = trained(session, "text_pivot", pivot)[0]
    session.tidy()
    with session.attempt("H", "model_pivot"):
        settings = DualPivotTraining(steps=7 if session.cuda else 5, pivots="model")
        pivot = ModelPivot(session.diffbir, Photos([], torch.empty(0)), settings, learned)
        trained(session, "model_pivot", pivot)


@torch.inference_mode()
def against_host(session: Session, unet: UNet) -> None:
    """ComfyUI's ControlNet gets DiffBIR's weights. What it has beside them is the network that reads the hint
    as a picture, which is timed with it, as it runs in every step."""
    modules = host_modules(session, "H")
    host, control = host_unet(session, modules, BF16), host_control(session, modules, unet)
    with session.attempt("H", "same_function"):
        same_function(session, unet, host, control)
    for batch in BATCHES:
        with session.attempt("H", f"bf16_{batch}"):
            calls = calls_of(session, unet, host, control, batch)
            session.memory(reset=True)
            row: dict[str, Any] = {f"{name}_ms": ms for name, ms in interleaved(session, calls, 15).items()}
            row["ratio"] = row["step_ms"] / row["native_ms"]
            row["ratio_without_hint"] = row["step_ms"] / (row["native_ms"] - row["hint_ms"])
            session.put("H", f"bf16_{batch}", row | session.memory())
            graphs(session, "H", str(batch), {name: calls[name] for name in ("step", "native")})
    calls = calls_of(session, unet, host, control, 1)
    for name in ("step", "native"):
        with session.attempt("H", f"profile_{name}"):
            session.put("H", f"profile_{name}", profiled(session, calls[name], 2))


def calls_of(
    session: Session, unet: UNet, host: Any, control: Any, batch: int
) -> dict[str, Callable[[], object]]:
    x, t, context = session.inputs(batch, BF16, session.diffbir_sizes.side)
    seen, hint = torch.cat([x, x], dim=1), hint_of(x)
    return {
        "native": lambda: host(x, t, context, control=control(seen, hint, t, context)),
        "step": lambda: unet(x, t, context, x),
        "host": lambda: host(x, t, context),
        "control": lambda: unet.conditioning(x, x, t, context),
        "hint": lambda: control.input_hint_block(hint, None, context),
    }


def host_control(session: Session, modules: HostModules, unet: UNet) -> Any:
    """ComfyUI's ControlNet of DiffBIR's sizes, whose hint adds nothing."""
    assert unet.control_model is not None
    control = lively(
        modules.cldm.ControlNet(
            **in_host_words(unet.control_model.config), hint_channels=3, dtype=BF16, device=session.device,
            operations=modules.ops.disable_weight_init,
        ),
        2,
    )  # fmt: skip
    for parameter in control.input_hint_block[-1].parameters():
        parameter.zero_()
    return control


def hint_of(x: Tensor) -> Tensor:
    """A picture for the host's ControlNet, of eight pixels a cell."""
    return x[:, :3].repeat_interleave(8, -1).repeat_interleave(8, -2)


def same_function(session: Session, unet: UNet, host: Any, control: Any) -> None:
    """With the same weights both give the same."""
    assert unet.control_model is not None
    missing, extra = control.load_state_dict(unet.control_model.state_dict(), strict=False)
    ours = {k: v for k, v in unet.state_dict().items() if not k.startswith("control_model.")}
    host.load_state_dict(ours)
    strange = [*extra, *(key for key in missing if not key.startswith("input_hint_block."))]
    calls = calls_of(session, unet, host, control, 1)
    answers: list[Any] = [calls[name]() for name in ("step", "native")]
    a, b = (answer.float() for answer in answers)
    session.put("H", "difference_of_norm", float((a - b).norm() / b.norm()))
    session.put("H", "keys_that_differ", strange)


def trained(session: Session, key: str, pivot: Pivot) -> Any:
    """Steps of one pivot by the loop of all trainings; what was learned of both."""
    folder, marks = session.options.work / "pivots" / key, list[float]()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    loop = replace(pivot.to(session.device).loop(), save_every=1000, save_seconds=1000, validate_every=0)
    session.sync()
    session.memory(reset=True)
    losses = fit(
        pivot.stage, pivot, Latents(session.diffbir_sizes.side), loop, folder,
        lambda progress: marks.append(time.perf_counter()), processes=Processes(session.device),
        pictures=False,
    )  # fmt: skip
    session.sync()
    spans = [b - a for a, b in pairwise(marks)][WARM:-1]
    session.put("H", key, {
        "step_s": statistics.median(spans), "steps_measured": len(spans), "batch": loop.batch,
        "million_trained": sum(p.numel() for p in pivot.parameters() if p.requires_grad) / 1e6,
        "losses": losses, "finite": all(map(math.isfinite, losses)), **session.memory(),
    })  # fmt: skip
    shutil.rmtree(folder)
    session.diffbir.unet.checkpoint_gradients(False)
    return pivot.deltas()
