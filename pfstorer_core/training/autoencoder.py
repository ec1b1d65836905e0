"""Training of the autoencoder, and then of its CFW fusion layers on frozen weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..degradation import Preset, degrade, draw, first_order, ground_truth
from ..files import written
from ..models import Autoencoder, AutoencoderConfig
from ..progress import Progress, silent
from .loop import LoopSettings, fit
from .pictures import as_float

FINISHED = "autoencoder.safetensors"
NORMALIZING_PICTURES = 200


@dataclass(frozen=True)
class AutoencoderTraining:
    """Settings of both stages.

    Attributes:
        crop, batch: side of the random crops in pixels, and how many a step.
        edge_weight: of the L1 distance between gradients, which keeps edges sharp without the
            pretrained network that a perceptual loss would have to download.
        colour_weight: of the L1 distance between the colours proper, luminance left out.
        kl_weight: of the mean KL divergence of a latent element from the unit Gaussian.
        degradation: what makes the LQ pictures of the CFW stage.
    """

    config: AutoencoderConfig = field(
        default_factory=lambda: AutoencoderConfig(
            ch=32, ch_mult=(1, 2, 4), num_res_blocks=1, z_channels=6, embed_dim=6, cfw=True
        )
    )
    crop: int = 64
    batch: int = 16
    edge_weight: float = 1.0
    colour_weight: float = 2.0
    kl_weight: float = 2e-4
    degradation: Preset = field(
        default_factory=lambda: first_order(
            sigma=(0.2, 2), downsample=(1.5, 3), noise=(0, 12), jpeg=(40, 100), modes=("area", "bicubic")
        )
    )
    loop: LoopSettings = field(default_factory=lambda: LoopSettings(steps=3000, lr=1e-3))
    cfw_loop: LoopSettings = field(default_factory=lambda: LoopSettings(steps=250, lr=5e-4, save_every=100))


def random_crops(pictures: Tensor, rng: np.random.Generator, batch: int, crop: int) -> Tensor:
    """`batch` random crops [batch, 3, crop, crop] in [0, 1] of random pictures, half of them mirrored."""
    out = []
    for index in rng.integers(0, len(pictures), batch):
        top, left = (
            rng.integers(0, pictures.shape[-2] - crop + 1),
            rng.integers(0, pictures.shape[-1] - crop + 1),
        )
        piece = pictures[index, :, top : top + crop, left : left + crop]
        out.append(piece.flip(-1) if rng.random() < 0.5 else piece)
    return as_float(torch.stack(out))


def reconstruction_loss(output: Tensor, target: Tensor, settings: AutoencoderTraining) -> Tensor:
    """L1 of the pictures and of their gradients, and of their colours, which are learned last otherwise.

    Gradients count at full and at half size; pictures and colours down to an eighth.
    """
    loss = output.new_zeros(())
    for halvings in range(4):
        loss = loss + F.l1_loss(output, target)
        loss = loss + settings.colour_weight * F.l1_loss(_colours(output), _colours(target))
        if halvings < 2:
            for dim in (-1, -2):
                edges = F.l1_loss(output.diff(dim=dim), target.diff(dim=dim))
                loss = loss + settings.edge_weight * edges
        output, target = F.avg_pool2d(output, 2), F.avg_pool2d(target, 2)
    return loss


def _colours(image: Tensor) -> Tensor:
    """The two axes of colour: red against blue, and green against both."""
    red, green, blue = image.unbind(dim=1)
    return torch.stack([red - blue, 2 * green - red - blue], dim=1)


def train_autoencoder(
    pictures: Tensor,
    settings: AutoencoderTraining,
    folder: Path,
    on_progress: Callable[[Progress], None] = silent,
) -> Autoencoder:
    """Train on uint8 pictures [N, 3, H, W]; checkpoints in `folder`, resumes from there."""
    with torch.random.fork_rng():
        torch.manual_seed(settings.loop.seed)
        model = Autoencoder(settings.config)
    fusion = model.decoder.fusion_layers()
    fusion.requires_grad_(False)

    def loss(rng: np.random.Generator) -> Tensor:
        image = 2 * random_crops(pictures, rng, settings.batch, settings.crop) - 1
        mean, logvar = model.moments(image)
        noise = torch.randn(mean.shape, generator=_torch_generator(rng))
        output = model.decode(mean + (0.5 * logvar).exp() * noise)
        kl = 0.5 * (mean.float() ** 2 + logvar.float().exp() - 1 - logvar.float()).mean()
        return reconstruction_loss(output.float(), image, settings) + settings.kl_weight * kl

    model = fit("autoencoder", model, loss, settings.loop, folder / "autoencoder.pt", on_progress)
    normalize_latents(model, as_float(pictures[:: max(1, len(pictures) // NORMALIZING_PICTURES)]))
    if settings.config.cfw:
        model = _train_cfw(model, pictures, settings, folder, on_progress)
    with written(folder / FINISHED) as temporary:
        save_file(model.state_dict(), temporary)
    return model.eval().requires_grad_(False)


@torch.no_grad()
def normalize_latents(model: Autoencoder, images: Tensor) -> None:
    """Give each latent channel mean 0 and deviation 1 over `images` [N, 3, H, W] in [0, 1].

    Diffusion sees all channels through one noise level: a channel of a tenth of the deviation would
    drown in it. The change is in the 1×1 convolutions around the latent, so decoding is not changed.
    """
    latents = torch.cat([model.encode(2 * image[None] - 1) for image in images])
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    weights = model.state_dict()  # the very tensors, to be changed in place
    mean_rows, logvar_rows = slice(len(mean)), slice(len(mean), None)
    weights["quant_conv.weight"][mean_rows] /= std[:, None, None, None]
    weights["quant_conv.bias"][mean_rows] -= mean
    weights["quant_conv.bias"][mean_rows] /= std
    weights["quant_conv.bias"][logvar_rows] -= 2 * std.log()
    weights["post_quant_conv.bias"] += weights["post_quant_conv.weight"][:, :, 0, 0] @ mean
    weights["post_quant_conv.weight"] *= std[None, :, None, None]


def _train_cfw(
    model: Autoencoder,
    pictures: Tensor,
    settings: AutoencoderTraining,
    folder: Path,
    on_progress: Callable[[Progress], None],
) -> Autoencoder:
    """The latent is one between LQ and HQ, which stands for what a restorer leaves undone."""
    model.requires_grad_(False)
    model.decoder.fusion_layers().requires_grad_(True)

    def loss(rng: np.random.Generator) -> Tensor:
        hq = random_crops(pictures, rng, settings.batch, settings.crop)
        degradations = draw(settings.degradation, len(hq), _torch_generator(rng))
        hq = ground_truth(hq, degradations)
        lq = degrade(hq, degradations)
        hq, lq = 2 * hq - 1, 2 * lq - 1
        with torch.no_grad():
            share = torch.from_numpy(rng.uniform(0.4, 1, (len(hq), 1, 1, 1))).float()
            z = torch.lerp(model.encode(lq).float(), model.encode(hq).float(), share)
        return reconstruction_loss(model.decode(z, lq, fidelity=1.0).float(), hq, settings)

    return fit("cfw", model, loss, settings.cfw_loop, folder / "cfw.pt", on_progress)


def load_autoencoder(settings: AutoencoderTraining, folder: Path) -> Autoencoder:
    """The finished autoencoder of a folder in which `train_autoencoder` ran.

    Raises:
        FileNotFoundError: it did not, or has not finished.
    """
    path = folder / FINISHED
    if not path.exists():
        raise FileNotFoundError(
            f"No trained autoencoder at {path}: run train-autoencoder on this folder first."
        )
    model = Autoencoder(settings.config)
    model.load_state_dict(load_file(path))
    return model.eval().requires_grad_(False)


def _torch_generator(rng: np.random.Generator) -> torch.Generator:
    return torch.Generator().manual_seed(int(rng.integers(2**31)))
