"""What is trained: a loss and its parameters, alone or against a rival."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ..models.graphs import NO_GRAPHS, Graphs
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


class DrawnObjective(Objective):
    """One whose loss is a function of tensors alone, once everything random is drawn: what a CUDA graph can
    replay.

    Attributes:
        loss: of what was drawn, a scalar. Nothing in it is random or waits for the device, and what it reads
            besides stays where it is.
    """

    loss: Callable[..., Tensor]

    @abstractmethod
    def drawn(self, batch: Batch) -> tuple[Any, ...]:
        """What `loss` takes, on the device: of a batch, and everything random."""

    def forward(self, batch: Batch) -> Tensor:
        with torch.no_grad():
            drawn = self.drawn(batch)
        return self.loss(*drawn)


class Player:
    """An objective, with the optimizer that it has for itself.

    Args:
        prefix: of its parameters' names.
        graphs: replay forward and backward passes, where the loss is a drawn one.
    """

    def __init__(
        self,
        objective: Objective,
        settings: LoopSettings,
        processes: Processes,
        prefix: str = "",
        graphs: Graphs = NO_GRAPHS,
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
        self._settings, self._processes, self._graphs = settings, processes, graphs

    def learn(self, batch: Batch, last: bool) -> Tensor:
        """Add the gradients of a part of a step to those that are there; returns its share of the loss.

        Args:
            last: whether it is the step's last part.
        """
        objective = self.objective
        if self._graphs.is_on and isinstance(objective, DrawnObjective):
            with torch.no_grad(), self._autocast():
                drawn = objective.drawn(batch)
            loss, gradients = self._graphs(self._with_gradients, *drawn)
            for parameter, gradient in zip(self.trained.values(), gradients, strict=True):
                if gradient is not None:
                    before = parameter.grad
                    parameter.grad = gradient if before is None else before.add_(gradient)
            return loss
        with nullcontext() if last else self._processes.no_sync(self.model):
            with self._autocast():
                loss = self.model(batch) / self._settings.accumulate
            self._processes.backward(loss)
        return loss.detach().float()

    def _with_gradients(self, *drawn: Any) -> tuple[Tensor, tuple[Tensor | None, ...]]:
        """Autocast ends within, so that no copy of a weight outlives what a graph calculates with."""
        assert isinstance(self.objective, DrawnObjective)
        with self._autocast():
            loss = self.objective.loss(*drawn) / self._settings.accumulate
        gradients = torch.autograd.grad(loss, [*self.trained.values()], allow_unused=True)
        return loss.detach().float(), gradients

    def _autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self._processes.device.type, torch.bfloat16, enabled=self._settings.bf16)

    def step(self, rate: float) -> None:
        """Take the step that the gradients say, at this learning rate."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["scale"]
        clip, norm = self._clip
        if norm:
            clip(self.trained.values(), norm)
        self.stepper.step()
        self.stepper.zero_grad(set_to_none=True)
