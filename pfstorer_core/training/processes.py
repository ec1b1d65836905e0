"""The processes that train together: one of them on plain torch, several by accelerate."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

LAUNCHED = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
"""What launchers (torchrun, accelerate launch, mpirun) tell each process: how many there are."""
PATIENCE = timedelta(days=7)
"""How long one waits for another: it may still be at work when this one has done its share, for longer than
torch would believe by itself. Launchers end all where one dies."""

T = TypeVar("T")


class Processes:
    """One process, on plain torch.

    Attributes:
        device: where it trains.
        count, index: of the processes.
        is_main: whether it is this one that writes files and speaks.
    """

    count, index, is_main = 1, 0, True

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def prepare(
        self, model: nn.Module, optimizer: torch.optim.Optimizer
    ) -> tuple[nn.Module, torch.optim.Optimizer]:
        """Both, ready to train here; the model's parameters stay the same objects."""
        return model.to(self.device), optimizer

    def no_sync(self, model: nn.Module) -> AbstractContextManager[None]:
        """Within it gradients are not added up over the processes."""
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def clip(self, parameters: Iterable[Tensor], norm: float) -> None:
        """Scale gradients down to that norm of all of them together."""
        torch.nn.utils.clip_grad_norm_(list(parameters), norm)

    def mean(self, value: Tensor) -> Tensor:
        """Over the processes."""
        return value

    def gather(self, items: list[Any]) -> list[Any]:
        """Those of all processes."""
        return items

    def same(self, value: T) -> T:
        """The main process's, whatever it is: a tensor may be of another size there."""
        return value

    def main_first(self) -> AbstractContextManager[None]:
        """For what one process is to make and the others only to read."""
        return nullcontext()


class Accelerated(Processes):
    """One of several, by accelerate."""

    def __init__(self, accelerator: Any) -> None:
        super().__init__(accelerator.device)
        self._accelerator = accelerator
        self.count, self.index = accelerator.num_processes, accelerator.process_index
        self.is_main = accelerator.is_main_process

    def prepare(
        self, model: nn.Module, optimizer: torch.optim.Optimizer
    ) -> tuple[nn.Module, torch.optim.Optimizer]:
        return self._accelerator.prepare(model, optimizer)

    def no_sync(self, model: nn.Module) -> AbstractContextManager[None]:
        return self._accelerator.no_sync(model)

    def backward(self, loss: Tensor) -> None:
        self._accelerator.backward(loss)

    def clip(self, parameters: Iterable[Tensor], norm: float) -> None:
        self._accelerator.clip_grad_norm_(parameters, norm)

    def mean(self, value: Tensor) -> Tensor:
        return self._accelerator.reduce(value, "mean")

    def gather(self, items: list[Any]) -> list[Any]:
        from accelerate.utils import gather_object

        return gather_object(items)

    def same(self, value: T) -> T:
        from accelerate.utils import broadcast_object_list

        sent: list[Any] = [value.cpu() if isinstance(value, Tensor) else value]
        broadcast_object_list(sent)
        return sent[0].to(value.device) if isinstance(value, Tensor) else sent[0]

    def main_first(self) -> AbstractContextManager[None]:
        return self._accelerator.main_process_first()


def launched_processes(some_idle: bool = False) -> Processes:
    """This process among those that were launched together; it works on a GPU where there is one.

    Args:
        some_idle: see `Objective`.
    Raises:
        ImportError: several were launched, and accelerate is not installed.
    """
    count = max(int(os.environ.get(name) or 1) for name in LAUNCHED)
    if count == 1:
        return Processes(_own_device())
    try:
        from accelerate import Accelerator
        from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs
    except ImportError as error:
        raise ImportError(
            f'Work in {count} processes needs the library "accelerate", which is missing: '
            'pip install "pfstorer[training]", or start one process.'
        ) from error
    parallel = DistributedDataParallelKwargs(find_unused_parameters=some_idle)
    patient = InitProcessGroupKwargs(timeout=PATIENCE)
    return Accelerated(Accelerator(kwargs_handlers=[parallel, patient]))


def _own_device() -> torch.device:
    if os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes"):
        return torch.device("cpu")
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
