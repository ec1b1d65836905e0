"""What autoencoders are trained by, KL or VQ, with or without an adversary."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ...models import Autoencoder, AutoencoderConfig
from ...training.data import Batch, generators, normal
from ...training.logs import rows_of
from ...training.loop import LoopSettings, Objective
from ...training.processes import Processes
from .adversarial import Adversary, Critic, adaptive_weight
from .codebook import CodebookCare

Perceptual = Callable[[Tensor, Tensor], Tensor]
"""(output, target), [B, 3, H, W] in [-1, 1] each -> distances, of which the mean counts; LPIPS is one."""
ENTRIES = "model.quantize.embedding.weight"


@dataclass(frozen=True)
class AutoencoderTraining:
    """Settings; the defaults are those of the tiny restorer's.

    Attributes:
        multiscale: whether the pictures' distance is `reconstruction_loss`; else the mean absolute error.
        edge_weight: of the L1 distance between gradients, which keeps edges sharp without the
            pretrained network that a perceptual loss would have to download.
        colour_weight: of the L1 distance between the colours proper, luminance left out.
        kl_weight: of the mean KL divergence of a latent element from the unit Gaussian.
        codebook_weight: of the codebook's loss.
        quantize_from: step from which on latents are quantized, whose k-means the entries are then; 0: from
            the first one on, by entries as they were drawn.
        renew_entries: whether entries that nothing uses are replaced by latents.
        low_pass: whether it starts at `start_as_low_pass`.
        normalize: whether the latents are brought to unit variance in the end.
    """

    config: AutoencoderConfig = field(
        default_factory=lambda: AutoencoderConfig(
            ch=32, ch_mult=(1, 2, 4), num_res_blocks=1, z_channels=8, embed_dim=8, norm_groups=8
        )
    )
    multiscale: bool = True
    edge_weight: float = 1.0
    colour_weight: float = 2.0
    kl_weight: float = 2e-4
    codebook_weight: float = 1.0
    quantize_from: int = 0
    renew_entries: bool = False
    adversary: Adversary | None = None
    low_pass: bool = True
    normalize: bool = True
    loop: LoopSettings = field(default_factory=lambda: LoopSettings(steps=900, lr=1.2e-4))


def reconstruction_loss(
    output: Tensor, target: Tensor, edge_weight: float = 1.0, colour_weight: float = 2.0
) -> Tensor:
    """L1 of the pictures and of their gradients, and of their colours, which are learned last otherwise.

    Gradients count at full and at half size; pictures and colours down to an eighth.
    """
    loss = output.new_zeros(())
    for halvings in range(4):
        loss = loss + F.l1_loss(output, target)
        loss = loss + colour_weight * F.l1_loss(_colours(output), _colours(target))
        if halvings < 2:
            for dim in (-1, -2):
                edges = F.l1_loss(output.diff(dim=dim), target.diff(dim=dim))
                loss = loss + edge_weight * edges
        output, target = F.avg_pool2d(output, 2), F.avg_pool2d(target, 2)
    return loss


def _colours(image: Tensor) -> Tensor:
    """The two axes of colour: red against blue, and green against both."""
    red, green, blue = image.unbind(dim=1)
    return torch.stack([red - blue, 2 * green - red - blue], dim=1)


class Terms(NamedTuple):
    """What a loss is made of: scalars.

    Attributes:
        nll: distance of the pictures.
        regular: the KL divergence or the codebook's loss, weighted.
        g: the generator's loss, and its weight; None before there is one.
    """

    nll: Tensor
    regular: Tensor
    g: Tensor | None = None
    weight: Tensor | None = None

    @property
    def total(self) -> Tensor:
        loss = self.nll + self.regular
        return loss if self.g is None or self.weight is None else loss + self.weight * self.g


class ReconstructionLoss(Objective):
    """How far what the autoencoder makes of pictures is from them, what keeps its latents in place (the KL
    divergence, or the codebook's loss), and from its step on the adversarial term.

    Args:
        perceptual: a further distance of pictures.
    """

    def __init__(
        self, model: Autoencoder, settings: AutoencoderTraining, perceptual: Perceptual | None = None
    ) -> None:
        super().__init__()
        self.model, self.settings, self.perceptual = model, settings, perceptual
        quantize, s = model.quantize, settings
        self.care = quantize and CodebookCare(quantize, s.quantize_from, s.renew_entries, s.loop.seed)
        # In a tuple, and so no child: its parameters have an optimizer of their own.
        self._critic = (Critic(settings.adversary),) if settings.adversary else ()
        self.some_idle = s.quantize_from > 0
        self.step = 0

    def rival(self) -> Objective | None:
        return self._critic[0] if self._critic else None

    def begin(self, step: int) -> None:
        self.step = step

    def end(self, step: int, average: Mapping[str, Tensor], processes: Processes) -> None:
        if self.care is not None:
            self.care.change(step + 1, average[ENTRIES], processes)

    def kept(self) -> Mapping[str, Tensor]:
        return dict(self.care.named_buffers(prefix="care")) if self.care is not None else {}

    def forward(self, batch: Batch) -> Tensor:
        noise = None
        image = batch["image"].float() / 127.5 - 1
        if self.model.config.double_z:
            size, f = image.shape[-2:], self.model.config.downscale
            like = image.new_empty(len(image), self.model.config.embed_dim, size[0] // f, size[1] // f)
            noise = normal(like, generators(batch))
        return self.terms(image, noise).total

    def terms(self, image: Tensor, noise: Tensor | None = None) -> Terms:
        """Of pictures [B, 3, H, W] in [-1, 1]; `noise`: standard normal numbers of the latents' shape, where
        these are drawn from a distribution."""
        z, regular = self._latent(image, noise)
        output = self.model.decode(z, quantize=False).float()
        nll = self.distance(output, image)
        critic = self._critic[0] if self._critic else None
        if critic is None or self.step < critic.starts or not torch.is_grad_enabled():
            return Terms(nll, regular)
        assert self.settings.adversary is not None
        g = critic.judge(output)
        last = self.model.decoder.conv_out.get_parameter("weight")
        critic.reconstruction = output.detach()
        return Terms(nll, regular, g, self.settings.adversary.weight * adaptive_weight(nll, g, last))

    def _latent(self, image: Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor]:
        """What is decoded, and the weighted loss that keeps it in place."""
        if self.model.quantize is None:
            mean, logvar = self.model.moments(image)
            kl = 0.5 * (mean.float() ** 2 + logvar.float().exp() - 1 - logvar.float()).mean()
            z = mean if noise is None else mean + (0.5 * logvar).exp() * noise
            return z, self.settings.kl_weight * kl
        latent = self.model.encode(image).float()
        z, indices, loss = latent, None, latent.new_zeros(())
        if self.step >= self.settings.quantize_from:
            z, indices, loss = self.model.quantize(latent)
        if self.care is not None and torch.is_grad_enabled():
            self.care.see(latent.detach(), indices)
        return z, self.settings.codebook_weight * loss

    def distance(self, output: Tensor, image: Tensor) -> Tensor:
        """Of pictures [B, 3, H, W] in [-1, 1]: a scalar."""
        s = self.settings
        loss = (
            reconstruction_loss(output, image, s.edge_weight, s.colour_weight)
            if s.multiscale
            else F.l1_loss(output, image)
        )
        return loss if self.perceptual is None else loss + self.perceptual(output, image).mean()

    @torch.no_grad()
    def figures(self, batch: Batch) -> dict[str, float]:
        """PSNR in dB, and how much of the codebook is used."""
        image = batch["image"].float() / 255
        error = (self._passed(image) - image).square().mean((1, 2, 3))
        found = {"psnr": float((-10 * error.clamp_min(1e-10).log10()).mean())}
        return found | (dict(self.care.figures()) if self.care is not None else {})

    @torch.no_grad()
    def sheet(self, batch: Batch) -> Tensor:
        """What comes out, and what went in."""
        image = batch["image"].float() / 255
        return rows_of(self._passed(image), image)

    def _passed(self, image: Tensor) -> Tensor:
        """Pictures in [0, 1], encoded and decoded."""
        quantize = self.step >= self.settings.quantize_from
        return (self.model.decode(self.model.encode(2 * image - 1), quantize=quantize).float() + 1) / 2
