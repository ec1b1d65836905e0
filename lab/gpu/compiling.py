"""G: a step under torch.compile; on a CPU the text tower, since to trace a U-Net takes half a minute."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from .measuring import interleaved
from .session import Session


@torch.inference_mode()
def part_g(session: Session) -> None:
    unet, tower = session.restorer.unet, session.restorer.text
    assert tower is not None
    x, t, context = session.inputs(1, torch.bfloat16)

    def step() -> Tensor:
        return unet(x, t, context, x)

    tokens = torch.ones(1, session.sizes.text.context_length, dtype=torch.int64, device=session.device)

    def text() -> Tensor:
        return tower(tokens)

    call: Callable[[], Tensor] = step if session.cuda else text
    # The default makes kernels, for which a CPU needs a C++ compiler.
    backend = "inductor" if session.cuda else "eager"
    compiled = torch.compile(call, backend=backend)
    begun = time.perf_counter()
    output = compiled()
    session.sync()
    session.put("G", "compiled", {"what": call.__name__, "backend": backend})
    session.put("G", "compile_s", time.perf_counter() - begun)
    eager = call()
    difference = (output.float() - eager.float()).norm() / eager.float().norm()
    session.put("G", "difference_of_norm", float(difference))
    ms = interleaved(session, {"eager": call, "compiled": compiled}, 12)
    session.put("G", "batch_1", {f"{name}_ms": value for name, value in ms.items()})
