"""Adapters: what a restorer has learned of one person, by whatever method; and what it may know of them
without."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

import torch
from torch import Tensor

from ..checkpoints.errors import StateDict
from ..checkpoints.tensors import write_safetensors
from ..diffusion.schedule import Schedule
from ..models import UNet, UNetConfig
from ..restorers.changes import Changes
from ..restorers.fingerprint import same_base
from .face import PersonFace
from .header import AdapterHeader
from .portrait import portrait_metadata

AdapterT = TypeVar("AdapterT", bound="Adapter")
"""The kind of adapter that a method learns."""


class BoundAdapter(Protocol):
    """What is known of a person, at work in one restorer, at one strength."""

    def prepare(self, timestep: int) -> Changes:
        """What it changes of an evaluation at this original time step. Called once a step, before all tiles:
        what is costly is done here, and kept for as long as the next steps need nothing new."""
        ...


class Knowledge(ABC):
    """What is known of a person. It never changes the networks of a restorer: what it does to one evaluation,
    it says in `Changes`.

    Attributes:
        kinds: which fields of `Changes` it uses. The host needs to know beforehand, since it has another way
            for each of them.
    """

    kinds: ClassVar[frozenset[str]]

    @abstractmethod
    def to(self, device: torch.device | str, dtype: torch.dtype) -> Knowledge:
        """A copy elsewhere, or in another number format."""

    @abstractmethod
    def check_base(self, base: str, name: str = "this restorer") -> None:
        """Raise ValueError where it is of another base than that of the fingerprint.

        Args:
            name: of the restorer in the error.
        """

    @abstractmethod
    def check_fit(self, unet: UNet, image_size: int, name: str = "this restorer") -> None:
        """Raise ValueError, before any work, where its parts do not fit the U-Net.

        Args:
            image_size: of the restorer's header.
            name: of the restorer in the error.
        """

    def kept(self, sizes: UNetConfig) -> int:
        """How many numbers stay on the device while it is at work in a U-Net, besides its own tensors: what a
        host has to leave room for."""
        return 0

    @abstractmethod
    def bind(
        self, unet: UNet, schedule: Schedule, gamma: float = 1.0, factors: Mapping[int, float] | None = None
    ) -> BoundAdapter:
        """Put it to work.

        Args:
            unet: on the device and in the number format of this adapter.
            gamma: strength above 0: 1 is what was learned.
            factors: further factors on gamma by how much smaller than the latent the features are (1, 2, 4).
        """


class Adapter(Knowledge):
    """What a method has learned of a person, and what its file holds."""

    header: AdapterHeader

    @abstractmethod
    def tensors(self) -> StateDict:
        """What its file holds."""

    @abstractmethod
    def to(self, device: torch.device | str, dtype: torch.dtype) -> Adapter: ...

    def check_base(self, base: str, name: str = "this restorer") -> None:
        """Raise ValueError where it was trained on another base than that of the fingerprint."""
        if self.header.base and not same_base(self.header.base, base):
            raise ValueError(
                f"This identity adapter was trained on another base: on {self.header.base}, but {name} is "
                f"{base}. Load the restorer that it was trained with, or train it anew."
            )

    def with_face(self: AdapterT, face: PersonFace | None) -> AdapterT:
        """The same, with this face of its person."""
        own: Any = self  # every method's is a dataclass
        return replace(own, header=replace(self.header, face=face))

    def save(self, path: Path | str, portrait: Tensor | None = None) -> None:
        """Write it in fp16; see `write_safetensors` for the errors.

        Args:
            portrait: [1, 3, S, S] in [0, 1], see `portrait_of`: shown by whoever lists the file.
        """
        shown = {} if portrait is None else portrait_metadata(portrait)
        write_safetensors(path, self.tensors(), {**self.header.to_metadata(), **shown}, torch.float16)


def context_faults(context: Tensor, unet: UNet, name: str) -> list[str]:
    """What is wrong with a text context [B, L, D] for a U-Net, which errors call by that name."""
    width = unet.config.context_dim
    found = context.shape[-1]
    return [] if found == width else [f"its context is {found} wide, but {width} in {name}"]
