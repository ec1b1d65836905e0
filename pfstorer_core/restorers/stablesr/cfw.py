"""Training of CFW: the fusion layers that let the LQ picture's features correct the decoder's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...checkpoints.header import RestorerHeader
from ...checkpoints.tensors import check_fit, load_exactly, read_checkpoint, write_safetensors
from ...models import Autoencoder
from ...training.data import Batch, Crops, Samples
from ...training.degradation import RandomDegradation, check_shares, random_degradation
from ...training.logs import rows_of
from ...training.loop import LoopSettings, Objective, fit
from ...training.progress import Progress, silent
from ..base import Restorer
from ..first_stage.objective import Perceptual, reconstruction_loss


@dataclass(frozen=True)
class CFWTraining:
    """Settings of the CFW stage.

    Attributes:
        sampling_steps: of the restored latents that it learns on; StableSR takes 200.
        pictures: how many are restored, before the first step.
        p_hq: share of them whose LQ picture is HQ as it is, which teaches CFW to keep good pictures.
    """

    sampling_steps: int = 20
    pictures: int = 500
    p_hq: float = 0.03
    degradation: RandomDegradation = field(default_factory=lambda: random_degradation("", 0))
    loop: LoopSettings = field(default_factory=lambda: LoopSettings(steps=1000, lr=5e-4, batch=8))

    def __post_init__(self) -> None:
        check_shares(p_hq=self.p_hq)

    def of_pictures(self) -> dict[str, Any]:
        """All but the loop's: what the restored pictures depend on."""
        made = asdict(self)
        del made["loop"]
        return made


@dataclass(frozen=True, eq=False)
class Restored:
    """`Samples` of restored pictures: "latent" [C, h, w], unscaled, "lq" and "hq", uint8 [3, H, W]."""

    tensors: dict[str, Tensor]
    seed: int = 0

    def __len__(self) -> int:
        return len(self.tensors["hq"])

    def only(self, rows: list[int]) -> Restored:
        return Restored({key: value[rows] for key, value in self.tensors.items()}, self.seed)

    def __getitem__(self, k: int) -> dict[str, Any]:
        rng = np.random.default_rng([self.seed, k, 3])
        index = int(rng.integers(len(self)))
        row = {key: value[index] for key, value in self.tensors.items()}
        return {**row, "seed": torch.tensor(k), "caption": "", "broken": []}


@torch.no_grad()
def restored(
    restorer: Restorer,
    crops: Crops,
    settings: CFWTraining,
    path: Path,
    on_progress: Callable[[Progress], None] = silent,
) -> Restored:
    """Degrade crops 0 … pictures - 1 and restore them, up to the latent.

    Made on the first call, then read from `path` as long as the settings and the restorer are the same.
    """
    weights = [round(p.double().sum().item(), 5) for p in restorer.unet.parameters()][::16]
    key = repr([settings.of_pictures(), crops.size, crops.seed, len(crops), weights])
    metadata = read_checkpoint(path)[1] if path.exists() else {}
    if metadata.get("key") != key:
        found: dict[str, list[Tensor]] = {"hq": [], "lq": [], "latent": []}
        for k in range(settings.pictures):
            sample = crops[k]
            rng = np.random.default_rng(int(sample["seed"]))
            image = sample["image"][None].float() / 255
            hq, lq = settings.degradation(image, [rng], settings.p_hq)
            latent = _restored_latent(restorer, lq, settings.sampling_steps, rng)
            for name, value in (("hq", (hq * 255).round().byte()), ("lq", (lq * 255).round().byte())):
                found[name].append(value[0])
            found["latent"].append(latent[0].half())
            on_progress(Progress("restored", k + 1, settings.pictures))
        stacked = {name: torch.stack(values) for name, values in found.items()}
        write_safetensors(path, stacked, {"key": key})
    return Restored(read_checkpoint(path)[0], settings.loop.seed)


def _restored_latent(restorer: Restorer, lq: Tensor, steps: int, rng: np.random.Generator) -> Tensor:
    """Unscaled latent [1, C, h, w] of a picture [1, 3, H, W] in [0, 1], restored as a whole."""
    condition = restorer.condition(restorer.encode(lq))
    assert condition.start is not None
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    noise = torch.randn(condition.start.shape, generator=generator).to(condition.start)
    x = restorer.sample(condition, steps, noise, generator=generator)
    return (x / restorer.header.scale_factor).cpu()


class FusionLoss(Objective):
    """Distance of decoded restored latents, with w = 1, from HQ.

    StableSR adds LPIPS and a hinge GAN. Both start from, or need, more than this project brings: LPIPS a
    network to download, which `perceptual` takes; the GAN a second optimizer, which is left out. The L1
    distance between gradients stands in for them.
    """

    def __init__(self, autoencoder: Autoencoder, perceptual: Perceptual | None = None) -> None:
        super().__init__()
        self.autoencoder, self.perceptual = autoencoder.requires_grad_(False), perceptual
        autoencoder.decoder.fusion_layers().requires_grad_(True)

    def forward(self, batch: Batch) -> Tensor:
        hq, lq = (batch[key].float() / 127.5 - 1 for key in ("hq", "lq"))
        output = self.autoencoder.decode(batch["latent"].float(), lq, fidelity=1.0).float()
        loss = reconstruction_loss(output, hq)
        return loss if self.perceptual is None else loss + self.perceptual(output, hq).mean()

    @torch.no_grad()
    def sheet(self, batch: Batch) -> Tensor:
        """LQ, decoded with w = 0 and with w = 1, HQ."""
        lq, latent = batch["lq"].float() / 255, batch["latent"].float()
        decoded = [(self.autoencoder.decode(latent, 2 * lq - 1, w) + 1) / 2 for w in (0.0, 1.0)]
        return rows_of(lq, *decoded, batch["hq"].float() / 255)


def with_fusion(autoencoder: Autoencoder, seed: int = 0) -> Autoencoder:
    """The same autoencoder with fusion layers: its own, or else new ones."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Autoencoder(replace(autoencoder.config, cfw=True))
    own = autoencoder.state_dict()
    fresh = {key: value for key, value in model.state_dict().items() if ".fusion_layer_" in key}
    expected = model.state_dict()
    check_fit(expected, {**fresh, **own}, "autoencoder")
    load_exactly(model, {**fresh, **own}, "autoencoder")
    return model


def train_cfw(
    restorer: Restorer,
    samples: Samples,
    settings: CFWTraining,
    folder: Path,
    on_progress: Callable[[Progress], None] = silent,
    *,
    held: Samples | None = None,
    perceptual: Perceptual | None = None,
) -> Restorer:
    """A restorer whose autoencoder has trained fusion layers (StableSR section 3.2); everything else stays.

    Args:
        samples: see `restored`.
        perceptual: see `FusionLoss`.
    See `fit` for the files in `folder` (stage "cfw"), for resuming and for errors.
    """
    autoencoder = with_fusion(restorer.autoencoder, settings.loop.seed)
    made = settings.of_pictures()
    objective = FusionLoss(autoencoder, perceptual)
    fit("cfw", objective, samples, settings.loop, folder, on_progress, held=held, record=made)
    header: RestorerHeader = restorer.header
    header = replace(header, training={**header.training, "cfw": {**made, **asdict(settings.loop)}})
    return replace(restorer, autoencoder=autoencoder.eval().requires_grad_(False), header=header)
