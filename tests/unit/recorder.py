"""A stand-in for CUDA graphs on a CPU: it replays operations, not Python."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pfstorer_core.models.arguments import exchanged, tensors_in

T = TypeVar("T")

SYNCHRONISES = ("_local_scalar_dense", "is_nonzero", "nonzero", "masked_select", "unique", "equal")
"""Operations that wait for the device, which a recording cannot."""
RANDOM = ("rand", "randn", "normal_", "uniform_", "bernoulli", "bernoulli_", "multinomial", "native_dropout")
"""Operations whose numbers a replay would not draw anew, or not as a CPU generator draws them."""
FROM_PYTHON = ("lift_fresh",)
"""Makes a tensor on the CPU."""


class Recorder:
    """Records every operation that runs, and replays it on the tensors that it ran on: as on a GPU, memory
    stays where it was, no line of Python runs again, and what no graph can hold raises RuntimeError.

    Args:
        networks: whose weights are read besides what a function is given.
        constants: gives whatever else may be read. All other tensors, such as a table that has to be brought
            to the device, raise RuntimeError, too.
    Attributes:
        recorded, replayed: how often.
        room: what `has_room` says.
        closed: whether the owner has said that it needs none any more.
    """

    def __init__(
        self,
        *networks: nn.Module,
        constants: Callable[[], Sequence[Tensor]] = tuple,
        room: bool = True,
    ) -> None:
        self.networks, self.constants = networks, constants
        self.recorded = self.replayed = 0
        self.room, self.closed = room, False

    def has_room(self) -> bool:
        return self.room

    def __call__(self, function: Callable[..., T], arguments: Any) -> tuple[T, Callable[[], object]]:
        with _Recording(arguments, self.networks, self.constants()) as recording, _no_random_state():
            result = function(*arguments)
        self.recorded += 1

        def replay() -> None:
            self.replayed += 1
            recording.replay()

        return result, replay

    def close(self) -> None:
        assert not self.closed
        self.closed = True


class _Recording(TorchDispatchMode):
    def __init__(
        self, arguments: Any, networks: Sequence[nn.Module], constants: Sequence[Tensor] = ()
    ) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, list[Tensor]]] = []
        _, same = exchanged(arguments, lambda tensor: tensor)
        networks = [*networks, *(part for part in tree_leaves(same) if isinstance(part, nn.Module))]
        weights = [w for network in networks for w in (*network.parameters(), *network.buffers())]
        self.known = {_memory(tensor) for tensor in (*tensors_in(arguments), *weights, *constants)}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        if name in SYNCHRONISES + RANDOM + FROM_PYTHON:
            raise RuntimeError(f"operation not permitted when stream is capturing: {name}")
        read = _tensors((args, kwargs))
        if strange := [each for each in read if _memory(each) not in self.known]:
            raise RuntimeError(f"{name} reads {list(strange[0].shape)}, which nobody gave")
        out = func(*args, **kwargs)
        made = _tensors(out)
        self.known.update(map(_memory, made))
        self.calls.append((func, args, kwargs, made))
        return out

    def replay(self) -> None:
        with torch.no_grad():
            for func, args, kwargs, made in self.calls:
                again = _tensors(func(*args, **kwargs))
                for there, new in zip(made, again, strict=True):
                    if _memory(there) != _memory(new):
                        there.copy_(new)


def _tensors(of: Any) -> list[Tensor]:
    """Those that a GPU would have, too: none in the layout in which oneDNN keeps weights on a CPU."""
    return [each for each in tree_leaves(of) if isinstance(each, Tensor) and not each.is_mkldnn]


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


@contextmanager
def _no_random_state() -> Iterator[None]:
    """A device's state cannot be read while it records."""

    def refuse(*_: Any) -> None:
        raise RuntimeError("operation not permitted when stream is capturing: the state of a generator")

    with patch.object(torch, "get_rng_state", refuse):
        yield


class Elsewhere(TorchDispatchMode):
    """For what runs on another device than the CPU, such as "meta": raises AssertionError where it waits for
    the device or brings something there."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves((args, kwargs, out)):
            assert not isinstance(tensor, Tensor) or tensor.device.type != "cpu", f"{func} on the CPU"
        return out
