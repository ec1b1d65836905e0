"""CUDA graphs: the launches of an evaluation are recorded once and replayed at once.

A network makes thousands of small launches, and on a fast GPU they, not the arithmetic, take the time. A
graph replays all of them by one call, but blindly: what Python decided while it was recorded stays so, and
what it reads has to lie where it lay. So here a function is replayed only where everything that it is given
is as when it was recorded, but for the numbers in tensors, and these are copied to where they were.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from .arguments import OpaqueError, exchanged, tensors_in

MOST = 8
"""Graphs at once: each keeps what it calculates with."""
SHAPES = 64
"""Kinds of calls that are remembered, to record those that come back."""
WARM_UP = 2
"""Runs before a recording, in which libraries prepare themselves."""

T = TypeVar("T")


class Run(Protocol):
    """Calls a function."""

    def __call__(self, function: Callable[..., T], *arguments: Any) -> T: ...


def at_once(function: Callable[..., T], *arguments: Any) -> T:
    return function(*arguments)


class Capture(Protocol):
    """A way to record what a function launches."""

    def has_room(self) -> bool:
        """Whether memory is left for one more recording."""
        ...

    def __call__(self, function: Callable[..., T], arguments: Any) -> tuple[T, Callable[[], object]]:
        """Record ``function(*arguments)``, the tensors of which stay where they are.

        Returns:
            Its result, and what launches everything once more, which writes the result's tensors anew.
        Raises:
            RuntimeError: the function does what cannot be recorded, or memory is too short.
        """
        ...

    def close(self) -> None:
        """Called when no recording is needed any more."""


class CUDACapture:
    """By `torch.cuda.CUDAGraph`; all recordings share one pool of memory, as they are replayed one after the
    other and what they give is copied at once."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        with torch.cuda.device(device):
            self._stream, self._pool = torch.cuda.Stream(), torch.cuda.graph_pool_handle()

    def has_room(self) -> bool:
        """A recording takes what the allocator has at hand after a run of the function, and as much has to
        be left for what is not recorded."""
        at_hand = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
        return torch.cuda.mem_get_info(self.device)[0] >= at_hand

    def __call__(self, function: Callable[..., T], arguments: Any) -> tuple[T, Callable[[], object]]:
        own = torch.cuda.current_stream(self.device)
        # A recording that fails would leave its stream behind.
        with torch.cuda.device(self.device), torch.cuda.stream(own):
            self._stream.wait_stream(own)
            with torch.cuda.stream(self._stream):
                for _ in range(WARM_UP):
                    function(*arguments)
            own.wait_stream(self._stream)
            graph = torch.cuda.CUDAGraph()
            # Other threads may do as they like meanwhile, such as pin the memory of the next batch.
            recording = torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local")
            with recording:
                result = function(*arguments)
        return result, graph.replay

    def close(self) -> None:
        torch.cuda.synchronize(self.device)
        torch.cuda.empty_cache()  # the pool's memory serves nothing else before


class Graphs:
    """Calls functions, and replays them from the second call on. A context: in the end all is forgotten.

    A function has to be one of what it is given and of networks whose weights stay where they are, without
    anything random. Whatever cannot be recorded is called as it is, and the reason logged once.

    Args:
        capture: None calls everything as it is.
        most: graphs that may be kept.
    """

    def __init__(self, capture: Capture | None, most: int = MOST) -> None:
        self._capture, self._most = capture, most
        self._graphs: dict[Hashable, _Graph] = {}
        self._seen: dict[Hashable, object] = {}
        self._told: set[str] = set()

    @property
    def is_on(self) -> bool:
        """Whether anything is recorded at all."""
        return self._capture is not None

    def __enter__(self) -> Graphs:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __call__(self, function: Callable[..., T], *arguments: Any) -> T:
        if self._capture is None:
            return function(*arguments)
        tensors: list[Tensor] = []
        try:
            _, same = exchanged(arguments, lambda tensor: tensors.append(tensor) or tensor)
        except OpaqueError as error:
            self._tell(str(error))
            return function(*arguments)
        owner = getattr(function, "__self__", None)
        key = (getattr(function, "__func__", function), id(owner), torch.is_grad_enabled(), same)
        if key not in self._graphs and not (key in self._seen and self._record(key, function, arguments)):
            if len(self._seen) < SHAPES:
                self._seen[key] = owner  # alive, so that no other object gets its id
            elif key not in self._seen:
                self._tell("shapes differ from call to call")
            return function(*arguments)
        return self._graphs[key](tensors)

    def _record(self, key: Hashable, function: Callable[..., Any], arguments: Any) -> bool:
        """Whether it could be done."""
        if self._capture is None:
            return False
        if len(self._graphs) >= self._most:
            self._tell(f"{self._most} shapes are recorded already")
            return False
        if not self._capture.has_room():
            self._tell("memory is short")
            return False
        try:
            self._graphs[key] = _Graph(self._capture, function, arguments)
        except (RuntimeError, OpaqueError) as error:  # out of memory, or what no graph can hold
            self.close()
            self._tell(f"the recording failed: {str(error).strip().splitlines()[0]}")
            return False
        return True

    def _tell(self, reason: str) -> None:
        if reason not in self._told:
            self._told.add(reason)
            _warn(reason)

    def close(self) -> None:
        """Forget everything; what is called from now on is called as it is."""
        capture, self._capture = self._capture, None
        self._graphs.clear()
        self._seen.clear()
        if capture is not None:
            capture.close()


NO_GRAPHS = Graphs(None)


class _Graph:
    """One function, recorded for one kind of arguments."""

    def __init__(self, capture: Capture, function: Callable[..., Any], arguments: Any) -> None:
        self._inputs: list[Tensor] = []
        # What they hold now is kept alive: an address that was free again would look like the same tensor.
        self._last: list[tuple[Tensor, int]] = []
        given, _ = exchanged(arguments, self._own)
        self._result, self._replay = capture(function, given)
        self._outputs = tensors_in(self._result)

    def _own(self, tensor: Tensor) -> Tensor:
        self._inputs.append(tensor.detach().clone())
        self._last.append((tensor, _version(tensor)))
        return self._inputs[-1]

    def __call__(self, tensors: Sequence[Tensor]) -> Any:
        """The result for tensors like those that it was recorded with."""
        changed = [
            number
            for number, (tensor, (last, version)) in enumerate(zip(tensors, self._last, strict=True))
            if tensor is not last or version < 0 or tensor._version != version
        ]
        with torch.no_grad():
            _copy([self._inputs[n] for n in changed], [tensors[n] for n in changed])
        for number in changed:
            self._last[number] = tensors[number], _version(tensors[number])
        self._replay()
        copies = [torch.empty_like(tensor) for tensor in self._outputs]
        _copy(copies, self._outputs)
        following = iter(copies)
        return exchanged(self._result, lambda _: next(following))[0]


def _copy(to: list[Tensor], given: list[Tensor]) -> None:
    if to:
        torch._foreach_copy_(to, given)  # pyright: ignore[reportPrivateImportUsage] - as all of them


def _version(tensor: Tensor) -> int:
    """Grows with every change in place; -1 where nobody counts."""
    return -1 if tensor.is_inference() else tensor._version


def graphs_for(asked: bool | Capture, device: torch.device, against: str = "") -> Graphs:
    """What calls functions, as graphs where this was asked for.

    Args:
        asked: True for CUDA's graphs, which need a CUDA device; or by which way to record.
        against: why there cannot be any, where that is known.
    """
    if asked is True and device.type != "cuda":
        against = against or f"they need an NVIDIA device, and this is {device.type}"
    if asked and against:
        _warn(against)
    if not asked or against:
        return Graphs(None)
    return Graphs(CUDACapture(device) if asked is True else asked)


def _warn(reason: str) -> None:
    logging.getLogger(__name__).warning("Without a CUDA graph: %s.", reason)
