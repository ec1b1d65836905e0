"""Training of the autoencoder; its CFW fusion layers are a stage of their own, see `cfw`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ...checkpoints.header import RestorerHeader
from ...checkpoints.parts import AUTOENCODER
from ...checkpoints.tensors import load_exactly, read_checkpoint, write_safetensors
from ...models import Autoencoder, AutoencoderConfig
from ...training.data import Batch, Samples, generators, normal
from ...training.logs import rows_of
from ...training.loop import LoopSettings, Objective, fit
from ...training.progress import Progress, silent
from .low_pass import start_as_low_pass

FINISHED = "autoencoder.safetensors"
GROUPS = "norm_groups"
NORMALIZING_PICTURES = 200


@dataclass(frozen=True)
class AutoencoderTraining:
    """Settings; the defaults are those of the tiny restorer's.

    Attributes:
        edge_weight: of the L1 distance between gradients, which keeps edges sharp without the
            pretrained network that a perceptual loss would have to download.
        colour_weight: of the L1 distance between the colours proper, luminance left out.
        kl_weight: of the mean KL divergence of a latent element from the unit Gaussian.
    """

    config: AutoencoderConfig = field(
        default_factory=lambda: AutoencoderConfig(
            ch=32, ch_mult=(1, 2, 4), num_res_blocks=1, z_channels=8, embed_dim=8, norm_groups=8
        )
    )
    edge_weight: float = 1.0
    colour_weight: float = 2.0
    kl_weight: float = 2e-4
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


class ReconstructionLoss(Objective):
    """`reconstruction_loss` of what the autoencoder makes of pictures, and the KL divergence."""

    def __init__(self, model: Autoencoder, settings: AutoencoderTraining) -> None:
        super().__init__()
        self.model, self.settings = model, settings

    def forward(self, batch: Batch) -> Tensor:
        image = batch["image"].float() / 127.5 - 1
        mean, logvar = self.model.moments(image)
        noise = normal(mean, generators(batch))
        output = self.model.decode(mean + (0.5 * logvar).exp() * noise)
        kl = 0.5 * (mean.float() ** 2 + logvar.float().exp() - 1 - logvar.float()).mean()
        s = self.settings
        return reconstruction_loss(output.float(), image, s.edge_weight, s.colour_weight) + s.kl_weight * kl

    @torch.no_grad()
    def sheet(self, batch: Batch) -> Tensor:
        """What comes out, and what went in."""
        image = batch["image"].float() / 255
        return rows_of((self.model.decode(self.model.encode(2 * image - 1)) + 1) / 2, image)


def train_autoencoder(
    samples: Samples,
    settings: AutoencoderTraining,
    folder: Path,
    on_progress: Callable[[Progress], None] = silent,
    *,
    held: Samples | None = None,
) -> Autoencoder:
    """Train on crops and write `FINISHED` into `folder`; see `fit` for resuming and for errors."""
    with torch.random.fork_rng():
        torch.manual_seed(settings.loop.seed)
        model = Autoencoder(settings.config)
    start_as_low_pass(model)
    model.decoder.fusion_layers().requires_grad_(False)
    objective = ReconstructionLoss(model, settings)
    made = asdict(settings)
    del made["loop"]
    fit("autoencoder", objective, samples, settings.loop, folder, on_progress, held=held, record=made)
    count = min(NORMALIZING_PICTURES, len(samples))
    normalize_latents(model, torch.stack([samples[k]["image"] for k in range(count)]).float() / 255)
    write_safetensors(folder / FINISHED, model.state_dict(), {GROUPS: str(settings.config.norm_groups)})
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


def load_autoencoder(path: Path) -> Autoencoder:
    """The autoencoder in a file, or the finished one of a folder in which `train_autoencoder` ran.

    Raises:
        FileNotFoundError: there is none.
        CheckpointError: the file is of another kind, or damaged.
    """
    path = path / FINISHED if path.is_dir() or not path.suffix else path
    if not path.exists():
        raise FileNotFoundError(
            f"No trained autoencoder at {path}: run train-autoencoder on this folder first, or start from a "
            "restorer."
        )
    tensors, metadata = read_checkpoint(path)
    header = RestorerHeader(norm_groups=int(metadata.get(GROUPS, 32)))
    model = Autoencoder(AUTOENCODER.config_from(tensors, header))
    load_exactly(model, tensors, "autoencoder")
    return model.eval().requires_grad_(False)
