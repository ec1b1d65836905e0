"""E: the same seed gives the same numbers, the CPU about the same ones, and a stopped training goes on."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pfstorer_core import Identity

from .networks import pictures
from .options import PROJECT
from .restoring import restored
from .session import Session, last_json_line

SMALL = 16
"""Side of the latents that are also evaluated on the CPU."""


def part_e(session: Session) -> None:
    restorer = session.restorer
    with session.attempt("E", "twice"):
        twice(session)
    with session.attempt("E", "cpu"):
        unet_against_cpu(session)
    with session.attempt("E", "text"):
        text = session.sizes.text
        tokens = torch.randint(1, text.vocab - 2, (2, text.context_length), device=session.device)
        both(session, "text_tower", restorer.text, lambda net, x: net(x), tokens)
    with session.attempt("E", "autoencoder"):
        pixels = 2 * pictures(1, SMALL * session.sizes.autoencoder.downscale, 10).to(session.device) - 1
        both(session, "encode", restorer.autoencoder, lambda net, x: net.encode(x), pixels)
        latent = torch.randn(1, 4, SMALL, SMALL, generator=torch.Generator().manual_seed(11))
        given = (latent.to(session.device), pixels)
        both(session, "decode", restorer.autoencoder, lambda net, x, lq: net.decode(x, lq, 0.5), *given)


def twice(session: Session) -> None:
    restorer, side = session.restorer, session.sizes.header.image_size // 4
    known = [Identity(session.person(5))]
    first, second = (restored(session, "E", f"plain_{n}", restorer, side, 5) for n in range(2))
    session.put("E", "twice_the_same", bool((first == second).all()))
    first, second = (
        restored(session, "E", f"person_{n}", restorer, side, 5, identities=known) for n in range(2)
    )
    session.put("E", "twice_the_same_with_person", bool((first == second).all()))
    if not (first == second).all():
        session.put("E", "twice_max_difference", float((first - second).abs().max()))


@torch.no_grad()
def unet_against_cpu(session: Session) -> None:
    def evaluate(unet: Any, dtype: torch.dtype) -> Tensor:
        device = next(unet.parameters()).device
        x, t, context = session.inputs(1, dtype, SMALL)
        x, t, context = x.to(device), t.to(device), context.to(device)
        return unet(x, t, context, x).float().cpu()

    unet = session.restorer.unet
    exact = copy.deepcopy(unet).float()
    tf32 = torch.backends.cudnn.allow_tf32
    found = {"default": evaluate(exact, torch.float32)}
    torch.backends.cudnn.allow_tf32 = False
    found["no_tf32"] = evaluate(exact, torch.float32)
    torch.backends.cudnn.allow_tf32 = tf32
    found["bf16"] = evaluate(unet, torch.bfloat16)
    found["fp16"] = evaluate(copy.deepcopy(exact).half(), torch.float16)
    on_cpu = evaluate(exact.cpu(), torch.float32)
    for name, value in found.items():
        compared(session, f"unet_{name}", value, on_cpu)


@torch.no_grad()
def both(session: Session, name: str, module: Any, call: Callable[..., Tensor], *given: Tensor) -> None:
    """In fp32 on the device and on the CPU."""
    if session.left_of_part() < 3:
        session.put("E", f"{name}_against_cpu_fp32", "skipped")
        return
    exact = copy.deepcopy(module).float()
    found = call(exact, *given).cpu()
    compared(session, name, found, call(exact.cpu(), *(value.cpu() for value in given)))


def compared(session: Session, name: str, found: Tensor, exact: Tensor) -> None:
    difference = found - exact
    session.put("E", f"{name}_against_cpu_fp32", {
        "max": float(difference.abs().max()), "rms": float(difference.pow(2).mean().sqrt()),
        "relative": float(difference.norm() / exact.norm()),
        "output_rms": float(exact.pow(2).mean().sqrt()),
    })  # fmt: skip


class Resuming:
    """`lab.gpu.resume` in a process of its own, which a wrong device may end; its result comes at the end."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.log = session.options.work / "resume.log"
        with self.log.open("wb") as log:
            command = [sys.executable, "-m", "lab.gpu.resume", session.device.type]
            self.process = subprocess.Popen(
                command,
                cwd=PROJECT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        session.children.append(self.process)

    def end(self) -> None:
        session = self.session
        with session.attempt("E", "resume_training"):
            patience = 10 if session.cuda else 60
            self.process.wait(max(0.1, min(patience, session.left() - 1)))
            text = self.log.read_text(errors="replace")
            try:
                found = last_json_line(text)
            except ValueError:
                found = {"ended_with": self.process.returncode, "log": text[-2000:]}
            session.put("E", "resume_training", found)
