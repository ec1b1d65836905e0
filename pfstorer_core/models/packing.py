"""Layers that read the same input, as one product.

A small product takes a GPU less time than it takes to be asked for it, so several at once are better than one
by one. Their weights stay parameters of their own, under the published names: they only lie one after another
in memory, where together they are the weight of a wider layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, cast, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PLAIN = (nn.Linear.forward, nn.Conv2d.forward)
"""Of layers that calculate with nothing but their weights: a host's may cast and patch them first."""


@runtime_checkable
class Joint(Protocol):
    """A module with layers that read the same input."""

    def joint_layers(self) -> Iterable[Sequence[nn.Module]]:
        """Rows of layers of one kind, sizes of outputs apart."""
        ...


@torch.no_grad()
def pack(network: nn.Module) -> None:
    """Lay the weights of all `Joint` layers side by side, each row in memory of its own; their values, names
    and shapes stay."""
    for module in network.modules():
        for row in module.joint_layers() if isinstance(module, Joint) else ():
            for name in ("weight", "bias"):
                parts = [getattr(layer, name) for layer in row]
                if not any(part is None for part in parts):
                    whole = torch.cat([part.data for part in parts])
                    for part, place in zip(parts, whole.split([len(part) for part in parts]), strict=True):
                        part.data = place


def jointly(
    layers: Sequence[nn.Module], x: Tensor, then: Callable[[Tensor], Tensor] | None = None
) -> tuple[Tensor, ...] | None:
    """What each of the layers makes of x, by one product; None where they are not packed, or are to be
    trained, or are a host's. `then`: of each entry of the result."""
    if torch.compiler.is_compiling() or not layers or type(layers[0]).forward not in PLAIN:
        return None
    first = cast("nn.Linear | nn.Conv2d", layers[0])
    weight = side_by_side([cast(Tensor, layer.weight) for layer in layers])
    if weight is None:
        return None
    bias = None
    if first.bias is not None:
        bias = side_by_side([cast(Tensor, layer.bias) for layer in layers])
        if bias is None:
            return None
    sizes = [len(cast(Tensor, layer.weight)) for layer in layers]
    if isinstance(first, nn.Linear):
        out, channels = F.linear(x, weight, bias), -1
    else:
        out = F.conv2d(x, weight, bias, first.stride, first.padding)  # pyright: ignore[reportArgumentType]
        channels = 1
    return (out if then is None else then(out)).split(sizes, channels)


def each(layers: Sequence[nn.Module], x: Tensor) -> tuple[Tensor, ...]:
    """What each of the layers makes of x, by one product where that can be had: in training, too, where
    bringing linear weights together costs little beside their products."""
    found = jointly(layers, x)
    if found is None and _are_trained(layers):
        weights = [cast(Tensor, layer.weight) for layer in layers]
        found = F.linear(x, torch.cat(weights)).split([len(weight) for weight in weights], -1)
    return tuple(layer(x) for layer in layers) if found is None else found


def _are_trained(layers: Sequence[nn.Module]) -> bool:
    return torch.is_grad_enabled() and all(
        type(layer) is nn.Linear and layer.bias is None and layer.weight.requires_grad for layer in layers
    )


def side_by_side(parts: Sequence[Tensor]) -> Tensor | None:
    """Tensors [n, …] that lie one after another in memory as one, [sum of n, …]; None where they do not, or
    where gradients of them are wanted."""
    first, training = parts[0], torch.is_grad_enabled()
    start, memory = first.storage_offset(), first.untyped_storage().data_ptr()
    for part in parts:
        alike = part.stride() == first.stride() and part.stride(0) * len(part) == part.numel()
        lies = part.storage_offset() == start and part.untyped_storage().data_ptr() == memory
        if not (alike and lies) or (training and part.requires_grad):
            return None
        start += part.numel()
    return first.as_strided((sum(map(len, parts)), *first.shape[1:]), first.stride())
