"""What is trained: a loss and its parameters, alone or against a rival."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from .data import Batch
from .muon import MUON, MuonAdamW
from .processes import Processes
from .settings import LoopSettings


class Objective(nn.Module):
    """What a stage trains: calling it with a batch gives the loss, a scalar; the parameters that require
    gradients are trained.

    Attributes:
        some_idle: whether a batch may leave some of them without a gradient.
        starts: step from which on it is trained, where it is another's rival.
    """

    some_idle = False
    starts = 0

    def rival(self) -> Objective | None:
        """What is trained against it: after each of its steps, on the same batch, by an optimizer of its own
        with the same settings. Its parameters are not this one's."""
        return None

    def begin(self, step: int) -> None:
        """Called before each step."""

    def end(self, step: int, average: Mapping[str, Tensor], processes: Processes) -> None:
        """Called after each step: the place for what changes parameters other than by gradients, which has
        to change their `average`, by name, as well, and to be the same in all processes."""

    def kept(self) -> Mapping[str, Tensor]:
        """Tensors beside the parameters that a resumed training needs as they were, by name."""
        return {}

    def groups(self, settings: LoopSettings) -> list[dict[str, Any]]:
        """The optimizer's parameter groups, each with its "scale", a factor on the learning rate."""
        matrices = {id(p) for p in self.matrices()} if settings.muon else set()
        trained = [p for p in self.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in trained if id(p) not in matrices], "scale": 1.0, MUON: False},
            {
                "params": [p for p in trained if id(p) in matrices],
                "scale": settings.muon / settings.lr,
                MUON: True,
            },
        ]
        return [{**group, "weight_decay": settings.weight_decay} for group in groups if group["params"]]

    def matrices(self) -> Iterable[nn.Parameter]:
        """The weights between hidden features, which Muon is for."""
        return ()

    def figures(self, batch: Batch) -> dict[str, float]:
        """How well it does in numbers, by name."""
        return {}

    def sheet(self, batch: Batch) -> Tensor:
        """A picture [1, 3, H, W] in [0, 1] that shows how well it does: a row a sample."""
        raise NotImplementedError


class Player:
    """An objective, with the optimizer that it has for itself; `prefix`: of its parameters' names."""

    def __init__(
        self, objective: Objective, settings: LoopSettings, processes: Processes, prefix: str = ""
    ) -> None:
        named = objective.named_parameters()
        self.objective = objective
        self.trained = {prefix + name: p for name, p in named if p.requires_grad}
        self.optimizer = MuonAdamW(
            objective.groups(settings), lr=settings.lr, betas=settings.betas, fused=True
        )
        self.model, self.stepper = processes.prepare(objective, self.optimizer)
        self.kept = {prefix + name: value for name, value in objective.kept().items()}  # on its device now
        self._clip = (processes.clip, settings.clip)

    def step(self, rate: float) -> None:
        """Take the step that the gradients say, at this learning rate."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["scale"]
        clip, norm = self._clip
        if norm:
            clip(self.trained.values(), norm)
        self.stepper.step()
        self.stepper.zero_grad(set_to_none=True)
