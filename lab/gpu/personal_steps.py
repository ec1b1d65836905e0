"""D: what a person costs in a step."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from pfstorer_core.models.graphs import Graphs, graphs_for
from pfstorer_core.personalization.pfstorer.apply import read_references
from pfstorer_core.restorers.changes import NO_CHANGES, Changes, sites_of

from .measuring import interleaved
from .session import Session


@torch.inference_mode()
def part_d(session: Session) -> None:
    restorer = session.restorer
    unet, dtype = restorer.unet, restorer.dtype
    people = {count: session.person(count).to(session.device, dtype) for count in (1, 5)}
    same = session.person(1, "same").to(session.device, dtype)
    found = {count: read_references(unet, who) for count, who in people.items()}
    bound = {count: who.bind(unet, restorer.schedule) for count, who in people.items()}
    keys = {str(c): {site: r.key.shape[1] for site, r in read.items()} for c, read in found.items()}
    session.put("D", "keys", keys)
    for batch in (1, 9):
        with session.attempt("D", f"batch_{batch}"):
            x, t, context = session.inputs(batch, dtype)

            def step(count: int = 0, x: Tensor = x, t: Tensor = t, context: Tensor = context) -> None:
                sites: dict[str, Any] = {}
                if count:
                    sites = sites_of(bound[count].prepare(500))
                unet(x, t, context, x, sites)

            calls = {
                "base": step,
                "one": lambda step=step: step(1),
                "five": lambda step=step: step(5),
                "read": lambda: read_references(unet, same, 500),
            }
            ms = interleaved(session, calls, 12)
            session.put("D", f"batch_{batch}", {
                **{f"{name}_ms": value for name, value in ms.items()},
                "one_ratio": ms["one"] / ms["base"], "five_ratio": ms["five"] / ms["base"],
                "read_anew_ratio": (ms["one"] + ms["read"]) / ms["base"],
            })  # fmt: skip
        with session.attempt("D", f"batch_{batch}_graphs"), graphs_for(True, session.device) as run:
            condition = restorer.condition(x)
            changes = {"base": NO_CHANGES} | {str(count): bound[count].prepare(500) for count in people}

            def replay(change: Changes, run: Graphs = run) -> None:
                restorer.denoise(x, t, condition, context, change, run=run)  # noqa: B023 - called at once

            ms = interleaved(session, {name: partial(replay, each) for name, each in changes.items()}, 12)
            session.put("D", f"batch_{batch}_graphs", {f"{name}_ms": value for name, value in ms.items()})
