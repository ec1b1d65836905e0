"""A: does it run? Whole restorations by the core, in bf16 and fp16, with a person, a prompt, tiles."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor

import pfstorer_core as pf
from pfstorer_core import Identity, Restorer

from .networks import as_dtype, pictures
from .session import Session


def restored(
    session: Session, part: str, key: str, restorer: Restorer, side: int, steps: int, **options: Any
) -> Tensor:
    """One restoration, and a row of the report on it."""
    last: list[Any] = [None]

    def on_step(step: Any) -> None:
        last[0] = step.x

    session.sync()
    session.memory(reset=True)
    begun = time.perf_counter()
    lq = pictures(1, side, 7)
    picture = pf.restore(restorer, lq, upscale=4, steps=steps, seed=0, on_step=on_step, **options)
    session.sync()
    seconds = time.perf_counter() - begun
    session.put(part, key, {
        "s": seconds, "size": list(picture.shape[-2:]), "finite": bool(torch.isfinite(picture).all()),
        "mean": float(picture.mean()), "std": float(picture.std()),
        "latent_max": float(last[0].abs().max()), **session.memory(),
    })  # fmt: skip
    return picture


def part_a(session: Session) -> None:
    restorer, side = session.restorer, session.sizes.header.image_size // 4
    long = 50 if session.cuda else 8
    timed: dict[str, float] = {}

    def run(key: str, which: Restorer, steps: int, size: int = side, **options: Any) -> None:
        with session.attempt("A", key):
            restored(session, "A", key, which, size, steps, **options)
            timed[key] = session.report.data["A"][key]["s"]

    def per_step(key: str) -> None:
        if f"{key}_5" in timed and f"{key}_50" in timed:
            ms = 1000 * (timed[f"{key}_50"] - timed[f"{key}_5"]) / (long - 5)
            session.put("A", f"{key}_ms_a_step", ms)

    run("bf16_5_first", restorer, 5)
    run("bf16_5", restorer, 5)
    run("bf16_50", restorer, long)
    per_step("bf16")
    known: list[Identity] = []
    with session.attempt("A", "person"):
        begun = time.perf_counter()
        known = [Identity(session.person(5))]
        session.sync()
        session.put("A", "make_person_s", time.perf_counter() - begun)
        run("bf16_person_5", restorer, 5, identities=known)
        run("bf16_person_50", restorer, long, identities=known)
        per_step("bf16_person")
    for name, who in (("bf16_graphs", []), ("bf16_person_graphs", known)):
        run(f"{name}_5", restorer, 5, identities=who, graphs=True)
        run(f"{name}_50", restorer, long, identities=who, graphs=True)
        per_step(name)
        with session.attempt("A", f"{name}_same"):
            lq, options = pictures(1, side, 7), {"steps": 5, "identities": who}
            called = pf.restore(restorer, lq, **options)
            first, second = (pf.restore(restorer, lq, **options, graphs=True) for _ in range(2))
            same = {"twice": torch.equal(first, second), "off_by": float((first - called).abs().max())}
            session.put("A", f"{name}_same", same)
    half = as_dtype(restorer, torch.float16)
    run("fp16_5_first", half, 5)
    run("fp16_5", half, 5)
    run("fp16_50", half, long)
    per_step("fp16")
    run("fp16_person_5", half, 5, identities=known)
    del half
    run("bf16_prompt_5", restorer, 5, prompt="a close-up photo of a face")
    run("bf16_fidelity_5", restorer, 5, fidelity=0.5)
    run("bf16_9_tiles_5", restorer, 5, size=2 * side)
    with session.attempt("A", "area"):
        area = torch.zeros(1, 1, 8, 8)
        area[..., :4] = 1
        run("bf16_person_area_5", restorer, 5, identities=[Identity(known[0].adapter, 1.0, area)])
