"""One network of a checkpoint, and how sizes are told from tensors that nobody vouches for."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from torch import Tensor, nn

from ...models import Backend
from ..errors import CheckpointError, StateDict
from ..header import RestorerHeader
from ..words import first_keys

GROUPS = 32
"""Of Stable Diffusion's group normalization: what all widths are multiples of."""

META = Backend(device="meta")

Config = TypeVar("Config")
Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class Part(Generic[Config, Network]):
    """One network of a checkpoint.

    Attributes:
        title: what errors and `inspect` call it. full_title: where it is incomplete or of another kind.
        prefix: where a checkpoint of Stable Diffusion, StableSR or DiffBIR keeps it.
        sign: a key that all networks of its kind have.
        sizes: tells its configuration from `Tensors` and, where they cannot, from the header.
        build: the network, without weights.
        addition: what an add-on brings, by its title and what its keys have in them; ("", "") without any.
        unused: endings of keys that checkpoints keep beside the network's own.
    """

    title: str
    prefix: str
    sign: str
    sizes: Callable[[Tensors, RestorerHeader], Config]
    build: Callable[[Config, Backend], Network]
    full_title: str = ""
    addition: tuple[str, str] = ("", "")
    unused: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """The one of a file that tells it is there."""
        return self.prefix + self.sign

    def config_from(self, tensors: Mapping[str, Tensor], header: RestorerHeader | None = None) -> Config:
        """Sizes of the network of a state dict without prefix. What tensors cannot tell, heads and groups of
        normalization, are the header's, or else Stable Diffusion's.

        Raises:
            CheckpointError: a tensor that tells a size is missing or cannot be.
        """
        name = self.full_title or self.title
        return self.sizes(Tensors(name, self.prefix, tensors), header or RestorerHeader())

    def of(self, tensors: Mapping[str, Tensor]) -> StateDict:
        """Its state dict in a file's tensors, without the prefix."""
        prefix = self.prefix
        return {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}

    def prefixed(self, weights: Mapping[str, Tensor]) -> StateDict:
        """A state dict under the keys of a file."""
        return {self.prefix + key: value for key, value in weights.items()}

    def weights(self, weights: Mapping[str, Tensor]) -> StateDict:
        """A state dict less what the network has no use for."""
        return {key: value for key, value in weights.items() if not key.endswith(self.unused)}

    def expected(self, config: Config) -> StateDict:
        """The keys and shapes that such a network has."""
        return self.build(config, META).state_dict()

    def check_fit(self, weights: Mapping[str, Tensor], config: Config) -> None:
        """Raise CheckpointError, with the keys, where weights are not those of such a network."""
        check_fit(self.expected(config), self.weights(weights), self.title)


def check_fit(expected: Mapping[str, Any], tensors: Mapping[str, Tensor], what: str) -> None:
    """Raise CheckpointError, with the first missing, unexpected and mis-shaped keys, unless `tensors`
    has exactly the keys and shapes of `expected`; `what` names the network in it."""
    faults = {
        "missing": [key for key in expected if key not in tensors],
        "unexpected": [key for key in tensors if key not in expected],
        "of another shape": [
            f"{key} {list(tensors[key].shape)} instead of {list(value.shape)}"
            for key, value in expected.items()
            if key in tensors and tensors[key].shape != value.shape
        ],
    }
    listed = "; ".join(f"{len(keys)} {fault}: {first_keys(keys)}" for fault, keys in faults.items() if keys)
    if listed:
        raise CheckpointError(f"The {what} of this checkpoint does not fit the architecture: {listed}.")


class Tensors:
    """The state dict of one network, asked for its sizes: each answer is plausible, or a CheckpointError."""

    def __init__(self, title: str, prefix: str, tensors: Mapping[str, Tensor]) -> None:
        self.title, self.prefix, self.tensors = title, prefix, tensors

    def __contains__(self, key: str) -> bool:
        return key in self.tensors

    def any(self, prefix: str) -> bool:
        return any(key.startswith(prefix) for key in self.tensors)

    def child(self, name: str) -> StateDict:
        """The state dict of a network inside of this one."""
        return {key[len(name) :]: value for key, value in self.tensors.items() if key.startswith(name)}

    def size(self, key: str, rank: int) -> tuple[int, ...]:
        """The shape of a tensor that has to be there, with `rank` sizes above 0."""
        if key not in self.tensors:
            raise self.incomplete(key)
        shape = tuple(self.tensors[key].shape)
        if len(shape) != rank or 0 in shape:
            raise self.strange(
                f"{self.prefix}{key} has the shape {list(shape)}, expected {rank} sizes above 0"
            )
        return shape

    def count(self, prefix: str) -> int:
        """How many parts are numbered after the prefix, which have to be 0, 1, 2, … without a gap: what a
        single key claims is not built."""
        numbered = re.compile(re.escape(prefix) + r"([0-9]+)\.")
        found = {match[1] for key in self.tensors if (match := numbered.match(key))}
        if not found:
            raise self.incomplete(f"{prefix}0")
        if found != {str(number) for number in range(len(found))}:
            raise self.strange(f"the parts {self.prefix}{prefix}* are not numbered without a gap from 0")
        return len(found)

    def multiples(self, base: int, widths: list[int]) -> tuple[int, ...]:
        """Widths in units of the base."""
        if base % GROUPS or any(width % base for width in widths):
            raise self.strange(
                f"it has layers of {', '.join(map(str, widths))} channels, expected multiples of {base}"
                + (f", itself a multiple of {GROUPS}" if base % GROUPS else "")
            )
        return tuple(width // base for width in widths)

    def check_affordable(self, blocks: int) -> None:
        """Raise CheckpointError where there are less than a few tensors for each block to be built."""
        if 4 * blocks > len(self.tensors):
            raise self.strange(f"its keys claim {blocks:,} blocks, but it has {len(self.tensors):,} tensors")

    def check_divisor(self, what: str, number: int, widths: Iterable[int]) -> None:
        """Raise CheckpointError unless all widths are multiples of what the header says."""
        if any(width % number for width in widths):
            raise self.strange(
                f"{what} of {number} do not divide its widths {', '.join(map(str, sorted({*widths})))}"
            )

    def incomplete(self, key: str) -> CheckpointError:
        return CheckpointError(
            f"This checkpoint has no complete {self.title}: {self.prefix}{key} is missing."
        )

    def strange(self, why: str) -> CheckpointError:
        return CheckpointError(
            f"The {self.title} of this checkpoint is damaged or of another architecture: {why}."
        )
