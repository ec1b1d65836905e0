"""The discriminator of patches that autoencoders are trained against (PatchGAN, arXiv:1611.07004)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class DiscriminatorConfig:
    """Sizes of a discriminator; the defaults are those of taming-transformers' trainings.

    Attributes:
        ndf: width of the first layer; it doubles with each further halving, up to eight times.
        n_layers: halvings.
    """

    in_channels: int = 3
    ndf: int = 64
    n_layers: int = 3


class Discriminator(nn.Module):
    """Picture -> how real each patch of it looks: convolutions with batch normalization. Drawn as in
    taming-transformers."""

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        width = config.ndf
        layers: list[nn.Module] = [nn.Conv2d(config.in_channels, width, 4, 2, 1), nn.LeakyReLU(0.2, True)]
        for n in range(1, config.n_layers + 1):
            channels, width = width, config.ndf * min(2**n, 8)
            stride = 2 if n < config.n_layers else 1
            layers += [
                nn.Conv2d(channels, width, 4, stride, 1, bias=False),
                nn.BatchNorm2d(width),
                nn.LeakyReLU(0.2, True),
            ]
        layers.append(nn.Conv2d(width, 1, 4, 1, 1))
        self.main = nn.Sequential(*layers)
        for layer in self.main:
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, 0.0, 0.02)
            elif isinstance(layer, nn.BatchNorm2d):
                nn.init.normal_(layer.weight, 1.0, 0.02)

    def forward(self, image: Tensor) -> Tensor:
        """image [B, 3, H, W] in [-1, 1] -> logits [B, 1, h, w]."""
        return self.main(image)
