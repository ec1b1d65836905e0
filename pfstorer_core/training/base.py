"""Training of the base restorer: the U-Net and its LQ encoder on pairs of latents."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..degradation import Preset, degrade, draw, first_order, ground_truth
from ..files import written
from ..models import Autoencoder, LQEncoderConfig, UNet, UNetConfig
from ..progress import Progress, silent
from ..restorer import Restorer, RestorerHeader
from ..schedule import PredictionType, Schedule
from .loop import LoopSettings, fit
from .pictures import as_float

PREVIEW_PICTURES = 200
"""Pictures that the preview colours are fitted to."""


@dataclass(frozen=True)
class BaseTraining:
    """Settings of the embedded tiny restorer; a full-size one differs in `config` and `loop` only.

    Attributes:
        pairs: (HQ, LQ) pairs of latents that are encoded before the first step.
        crop, batch: side of the latent crops and how many a step. Every `whole_every`-th step sees
            whole pictures instead, as many as have the same area, for the sake of the attention.
        null_lq: share of steps without SFT, so that the U-Net alone is a generator too.
        degradation: what makes the LQ pictures.
    """

    config: UNetConfig = field(
        default_factory=lambda: UNetConfig(
            in_channels=6,
            out_channels=6,
            model_channels=64,
            channel_mult=(1, 2, 2),
            num_head_channels=32,
            context_dim=64,
            sft_channels=64,
            sft_hidden=32,
            lq_encoder=LQEncoderConfig(
                in_channels=6,
                model_channels=64,
                out_channels=64,
                channel_mult=(1, 1, 2),
                num_res_blocks=1,
                num_heads=2,
            ),
        )
    )
    prediction_type: PredictionType = "v"
    pairs: int = 4500
    crop: int = 16
    batch: int = 16
    whole_every: int = 4
    null_lq: float = 0.1
    degradation: Preset = field(
        default_factory=lambda: first_order(
            sigma=(0.2, 2), downsample=(1.5, 5), noise=(0, 12), jpeg=(40, 100), modes=("area", "bicubic")
        )
    )
    loop: LoopSettings = field(default_factory=lambda: LoopSettings(steps=3000, lr=8e-4))


def encode_pairs(
    autoencoder: Autoencoder,
    pictures: Tensor,
    settings: BaseTraining,
    path: Path,
    on_progress: Callable[[Progress], None] = silent,
) -> tuple[Tensor, Tensor]:
    """Latents of good pictures and of their degraded copies, unscaled fp16 [pairs, C, h, w] each.

    Made on the first call, then read from `path` as long as autoencoder, pictures and settings are
    the same. Pair k degrades picture k (modulo their number)
    with parameters from seed (seed, k).
    """
    key = _pairs_key(autoencoder, pictures, settings)
    if not (path.exists() and _metadata(path).get("key") == key):
        found: dict[str, list[Tensor]] = {"hq": [], "lq": []}
        for index in range(settings.pairs):
            rng = np.random.default_rng([settings.loop.seed, index])
            hq = as_float(pictures[index % len(pictures)][None])
            hq = hq.flip(-1) if rng.random() < 0.5 else hq
            generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
            drawn = draw(settings.degradation, 1, generator)
            hq = ground_truth(hq, drawn)
            lq = degrade(hq, drawn)
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=settings.loop.bf16):
                latents = autoencoder.encode(2 * torch.cat([hq, lq]) - 1)
            for name, latent in zip(found, latents, strict=True):
                found[name].append(latent.half())
            on_progress(Progress("latents", index + 1, settings.pairs))
        with written(path) as temporary:
            save_file(
                {name: torch.stack(latents) for name, latents in found.items()}, temporary, {"key": key}
            )
    pairs = load_file(path)
    return pairs["hq"], pairs["lq"]


def _pairs_key(autoencoder: Autoencoder, pictures: Tensor, settings: BaseTraining) -> str:
    """Names what latents depend on; a few sums tell one training's weights from another's."""
    weights = [round(p.double().sum().item(), 6) for p in autoencoder.parameters()]
    drawn = [list(pictures.shape), int(pictures[:: max(1, len(pictures) // 16)].long().sum())]
    made = [settings.pairs, asdict(settings.degradation), settings.loop.seed, settings.loop.bf16]
    return json.dumps([*made, weights[::8], drawn])


def _metadata(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return file.metadata() or {}


def train_base(
    autoencoder: Autoencoder,
    pictures: Tensor,
    settings: BaseTraining,
    folder: Path,
    on_progress: Callable[[Progress], None] = silent,
) -> Restorer:
    """Train on uint8 pictures [N, 3, H, W]; checkpoints in `folder`, resumes from there.

    The loss is the mean squared error against the prediction type's target at a uniform time step
    (StableSR section 3.1).
    """
    hq, lq = encode_pairs(autoencoder, pictures, settings, folder / "pairs.safetensors", on_progress)
    scale = 1 / hq.float().std().item()
    schedule = Schedule.scaled_linear(dtype=torch.float32)
    generator = torch.Generator().manual_seed(settings.loop.seed)
    context = torch.randn(1, 1, settings.config.context_dim, generator=generator)
    with torch.random.fork_rng():
        torch.manual_seed(settings.loop.seed)
        unet = UNet(settings.config)
    whole = hq.shape[-1]

    def loss(rng: np.random.Generator) -> Tensor:
        side = whole if rng.random() * settings.whole_every < 1 else settings.crop
        batch = max(1, settings.batch * settings.crop**2 // side**2)
        x0, condition = latent_crops(hq, lq, rng, batch, side)
        x0, condition = x0 * scale, condition * scale
        noise = torch.from_numpy(rng.standard_normal(x0.shape, np.float32))
        t = torch.from_numpy(rng.integers(0, len(schedule), batch))
        output = unet(
            schedule.q_sample(x0, t, noise),
            t,
            context.expand(batch, -1, -1),
            lq_latent=None if rng.random() < settings.null_lq else condition,
        )
        return F.mse_loss(output.float(), schedule.target(x0, t, noise, settings.prediction_type))

    unet = fit("unet", unet, loss, settings.loop, folder / "unet.pt", on_progress)
    assert settings.config.lq_encoder is not None
    header = RestorerHeader(
        prediction_type=settings.prediction_type,
        scale_factor=scale,
        image_size=whole * autoencoder.config.downscale,
        num_head_channels=settings.config.num_head_channels,
        lq_num_heads=settings.config.lq_encoder.num_heads,
        preview=preview_colours(autoencoder, pictures[:PREVIEW_PICTURES], scale),
        training={"data": "drawn pictures", **asdict(settings.loop)},
    )
    return Restorer(unet.eval(), autoencoder, context, header)


@torch.no_grad()
def preview_colours(autoencoder: Autoencoder, pictures: Tensor, scale: float) -> list[list[float]]:
    """`RestorerHeader.preview`: the linear map from latents to small pictures that fits best here."""
    small, latents = [], []
    for picture in pictures:
        image = 2 * as_float(picture[None]) - 1
        latent = autoencoder.encode(image) * scale
        latents.append(latent.flatten(2).squeeze(0).T)
        small.append(F.avg_pool2d(image, autoencoder.config.downscale).flatten(2).squeeze(0).T)
    points = F.pad(torch.cat(latents), (0, 1), value=1.0)
    return torch.linalg.lstsq(points, torch.cat(small)).solution.tolist()


def latent_crops(
    hq: Tensor, lq: Tensor, rng: np.random.Generator, batch: int, side: int
) -> tuple[Tensor, Tensor]:
    """The same random crops [batch, C, side, side] of random pairs, in fp32."""
    crops: list[tuple[Tensor, Tensor]] = []
    for index in rng.integers(0, len(hq), batch):
        top, left = (
            rng.integers(0, hq.shape[-2] - side + 1),
            rng.integers(0, hq.shape[-1] - side + 1),
        )
        window = (slice(None), slice(top, top + side), slice(left, left + side))
        crops.append((hq[index][window].float(), lq[index][window].float()))
    good, bad = zip(*crops, strict=True)
    return torch.stack(good), torch.stack(bad)
