"""The adversarial term of an autoencoder's training, as taming-transformers has it (arXiv:2012.09841)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...models.discriminator import Discriminator, DiscriminatorConfig
from ...training.data import Batch
from ...training.objective import Objective

LARGEST_WEIGHT = 1e4
"""Of the adversarial term, before `Adversary.weight`."""


def hinge_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Of a discriminator, from its logits for real and for reconstructed pictures."""
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())


def vanilla_loss(real: Tensor, fake: Tensor) -> Tensor:
    """The logistic one of the first GANs."""
    return 0.5 * (F.softplus(-real).mean() + F.softplus(fake).mean())


LOSSES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {"hinge": hinge_loss, "vanilla": vanilla_loss}


@dataclass(frozen=True)
class Adversary:
    """Settings of the adversarial term.

    Attributes:
        start: step from which on there is one; the discriminator is trained from there on, too.
        weight: of the term, on top of `adaptive_weight`.
        loss: the discriminator's, of `LOSSES`.
    """

    start: int = 0
    weight: float = 0.75
    loss: str = "hinge"
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise ValueError(
                f"No loss of a discriminator named {self.loss!r}; choose one of {', '.join(LOSSES)}."
            )


def adaptive_weight(nll: Tensor, g: Tensor, weight: Tensor) -> Tensor:
    """How much larger the gradient of the reconstruction loss `nll` is at the decoder's last `weight` than
    that of the generator's loss `g`: a scalar, without a gradient, of at most `LARGEST_WEIGHT`."""
    norms = [torch.autograd.grad(loss, weight, retain_graph=True)[0].norm() for loss in (nll, g)]
    return (norms[0] / (norms[1] + 1e-4)).clamp(0, LARGEST_WEIGHT).detach()


@contextmanager
def _frozen(network: nn.Module) -> Iterator[None]:
    network.requires_grad_(False)
    try:
        yield
    finally:
        network.requires_grad_(True)


class Critic(Objective):
    """What a discriminator is trained by: to tell pictures from their reconstructions.

    Attributes:
        reconstruction: [B, 3, H, W] of the batch that comes next, left by whom it is trained against.
    """

    reconstruction: Tensor

    def __init__(self, settings: Adversary) -> None:
        super().__init__()
        self.discriminator = Discriminator(settings.discriminator)
        self.loss, self.starts = LOSSES[settings.loss], settings.start

    def forward(self, batch: Batch) -> Tensor:
        image = batch["image"].float() / 127.5 - 1
        real, fake = self.discriminator(image), self.discriminator(self.reconstruction)
        return self.loss(real.float(), fake.float())

    def judge(self, output: Tensor) -> Tensor:
        """The generator's loss of reconstructions, which is theirs alone: the discriminator gets no
        gradients."""
        with _frozen(self.discriminator):
            return -self.discriminator(output).float().mean()

    def kept(self) -> Mapping[str, Tensor]:
        """The statistics of its batch normalization."""
        return dict(self.named_buffers())
