"""Training of the autoencoder; its CFW fusion layers are a stage of their own, see `cfw`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from ...checkpoints.header import HEADER_ENTRY, RestorerHeader
from ...checkpoints.layouts import with_prefixes
from ...checkpoints.parts import AUTOENCODER
from ...checkpoints.tensors import load_exactly, read_checkpoint, write_safetensors
from ...models import Autoencoder
from ...training.data import Samples
from ...training.loop import fit
from ...training.progress import Progress, silent
from ...training.state import NOTHING
from .low_pass import start_as_low_pass
from .objective import AutoencoderTraining, Perceptual, ReconstructionLoss

FINISHED = "autoencoder.safetensors"
GROUPS = "norm_groups"
FORMAT, VERSION = "pfstorer.autoencoder", "1"
NORMALIZING_PICTURES = 200


def train_autoencoder(
    samples: Samples,
    settings: AutoencoderTraining,
    folder: Path,
    on_progress: Callable[[Progress], None] = silent,
    *,
    held: Samples | None = None,
    perceptual: Perceptual | None = None,
    start: Mapping[str, Tensor] = NOTHING,
) -> Autoencoder:
    """Train on crops and write `FINISHED` into `folder`; see `fit` for resuming and for errors.

    Args:
        perceptual: see `ReconstructionLoss`.
        start: weights of another autoencoder: what has the same name and shape is taken, of one with more or
            fewer levels only what it has at the levels that both have.
    """
    with torch.random.fork_rng():
        torch.manual_seed(settings.loop.seed)
        model = Autoencoder(settings.config)
        objective = ReconstructionLoss(model, settings, perceptual)
    if settings.low_pass:
        start_as_low_pass(model, outer=_levels(start) > len(settings.config.ch_mult))
    model.load_state_dict(model.state_dict() | _taken(start, model))
    model.decoder.fusion_layers().requires_grad_(False)
    made = asdict(settings)
    del made["loop"]
    fit("autoencoder", objective, samples, settings.loop, folder, on_progress, held=held, record=made)
    if settings.normalize:
        count = min(NORMALIZING_PICTURES, len(samples))
        normalize_latents(model, torch.stack([samples[k]["image"] for k in range(count)]).float() / 255)
    record = {**made, **asdict(settings.loop)}
    metadata = {
        "format": FORMAT,
        "format_version": VERSION,
        GROUPS: str(settings.config.norm_groups),
        "training": json.dumps(record),
    }
    write_safetensors(folder / FINISHED, model.state_dict(), metadata)
    return model.eval().requires_grad_(False)


def _levels(weights: Mapping[str, Tensor]) -> int:
    return len({key.split(".")[2] for key in weights if key.startswith("encoder.down.")})


def _taken(start: Mapping[str, Tensor], model: Autoencoder) -> dict[str, Tensor]:
    own = model.state_dict()
    fits = {key: value for key, value in start.items() if key in own and value.shape == own[key].shape}
    if _levels(start) == len(model.config.ch_mult):
        return fits
    outside = ("encoder.conv_in.", "encoder.down.", "decoder.up.", "decoder.norm_out.", "decoder.conv_out.")
    return {key: value for key, value in fits.items() if key.startswith(outside)}


@torch.no_grad()
def normalize_latents(model: Autoencoder, images: Tensor) -> None:
    """Give each latent channel mean 0 and deviation 1 over `images` [N, 3, H, W] in [0, 1]; those of a VQ
    autoencoder a common one, since a codebook's nearest entries are others where channels are stretched.

    Diffusion sees all channels through one noise level: a channel of a tenth of the deviation would
    drown in it. The change is in the codebook and the 1×1 convolutions around the latent, so decoding is not
    changed.
    """
    latents = torch.cat([model.encode(2 * image[None] - 1) for image in images])
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    weights = model.state_dict()  # the very tensors, to be changed in place
    if model.quantize is not None:
        std = std.square().mean().sqrt().expand(len(std))
        weights["quantize.embedding.weight"].sub_(mean).div_(std)
    mean_rows, logvar_rows = slice(len(mean)), slice(len(mean), None)
    weights["quant_conv.weight"][mean_rows] /= std[:, None, None, None]
    weights["quant_conv.bias"][mean_rows] -= mean
    weights["quant_conv.bias"][mean_rows] /= std
    if model.config.double_z:
        weights["quant_conv.bias"][logvar_rows] -= 2 * std.log()
    weights["post_quant_conv.bias"] += weights["post_quant_conv.weight"][:, :, 0, 0] @ mean
    weights["post_quant_conv.weight"] *= std[None, :, None, None]


def load_autoencoder(path: Path) -> Autoencoder:
    """The autoencoder in a file, alone or in a restorer, or the finished one of a folder in which
    `train_autoencoder` ran.

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
    if HEADER_ENTRY in metadata:
        header = RestorerHeader.from_file(metadata, tensors, path.name)
    else:
        header = RestorerHeader(norm_groups=int(metadata.get(GROUPS, 32)))
    weights = AUTOENCODER.of(with_prefixes(tensors))
    config = AUTOENCODER.config_from(weights, header)
    AUTOENCODER.check_fit(weights, config)  # before there is memory for what it claims
    model = Autoencoder(config)
    load_exactly(model, weights, "autoencoder")
    return model.eval().requires_grad_(False)
