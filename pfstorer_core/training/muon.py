"""Muon (Jordan et al. 2024) for matrices, beside AdamW for everything else.

torch's own Muon (from 2.9 on) takes matrices alone; here a convolution's kernel [out, in, h, w] is one of
out × in·h·w, and matrices of one shape are stepped together, since small networks have many small ones.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

MUON = "muon"
"""Of a parameter group: whether its parameters are stepped by Muon."""
MOMENTUM = "momentum"
"""What Muon keeps of a parameter, from its first gradient on."""
DECAY = 0.95
"""Of the momentum, which is Nesterov's."""
STEPS = 5
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the Newton-Schulz iteration: they bring singular values near 1 in few steps, not exactly to 1."""


class MuonAdamW(torch.optim.AdamW):
    """AdamW whose groups may say `MUON`. Arguments as AdamW's."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:  # type: ignore[override]
        groups = self.param_groups
        self.param_groups = [group for group in groups if not group.get(MUON)]
        try:
            loss = super().step(closure) if self.param_groups else None
        finally:
            self.param_groups = groups
        for group in groups:
            if group.get(MUON):
                self._step_matrices(group)
        return loss

    def _step_matrices(self, group: dict[str, Any]) -> None:
        shapes: dict[tuple[int, int], list[Tensor]] = {}
        for parameter in group["params"]:
            if parameter.grad is not None:
                shapes.setdefault((len(parameter), parameter[0].numel()), []).append(parameter)
        for (rows, columns), parameters in shapes.items():
            steps = []
            for parameter in parameters:
                state = self.state[parameter]
                if not state:
                    state["step"] = torch.zeros((), device=parameter.device)  # AdamW asks all for theirs
                    state[MOMENTUM] = torch.zeros_like(parameter)
                state["step"] += 1
                momentum = state[MOMENTUM]
                momentum.mul_(DECAY).add_(parameter.grad)
                steps.append((parameter.grad + DECAY * momentum).reshape(rows, columns))
            scale = max(1.0, rows / columns) ** 0.5
            for parameter, step in zip(parameters, orthogonal(torch.stack(steps)), strict=True):
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(step.reshape(parameter.shape).to(parameter), alpha=-group["lr"] * scale)


def orthogonal(matrices: Tensor) -> Tensor:
    """Matrices [B, r, c] with all singular values near 1, and their singular vectors: U·Vᵀ."""
    # bf16 is enough, and what GPUs are fast in; CPUs are not.
    x = matrices.to(torch.bfloat16 if matrices.is_cuda else torch.float32)
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    a, b, c = COEFFICIENTS
    for _ in range(STEPS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return (x.mT if tall else x).float()
