"""One step of each pivot at the published size: Stable Diffusion 2.1 and DiffBIR's control network at 512
pixels, frozen weights in bf16."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harness.stand_ins import formula
from pfstorer_core import Restorer, RestorerHeader
from pfstorer_core.models import ControlConfig, TextTowerConfig, UNet, UNetConfig
from pfstorer_core.models.ops import Backend
from pfstorer_core.personalization.dual_pivot.learning import LowRankWeights
from pfstorer_core.personalization.dual_pivot.model_pivot import ModelPivot
from pfstorer_core.personalization.dual_pivot.parameters import generator_names
from pfstorer_core.personalization.dual_pivot.pivot import Pivot
from pfstorer_core.personalization.dual_pivot.settings import DualPivotTraining
from pfstorer_core.personalization.dual_pivot.text_pivot import TextPivot
from pfstorer_core.personalization.photos import Photos
from pfstorer_core.training.loop import fit

LATENT = (1, 8, 64, 64)
"""Moments of a picture of 512 pixels."""
GPU = 24 * 2**30


class Tower(nn.Module):
    """Stands for the text tower, which both pivots ask but once."""

    config = TextTowerConfig()

    def forward(self, tokens: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(int(tokens.sum()))
        return torch.randn(len(tokens), 77, UNetConfig().context_dim, generator=generator).bfloat16()


class Prepared:
    """`Samples` that are there already: of the text pivot seeds, of the model pivot latents."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, k: int) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(k)
        latents = {"moments": torch.randn(LATENT[1:], generator=generator), "lq": torch.randn(4, 64, 64)}
        return {**latents, "photo": torch.tensor(0), "seed": torch.tensor(k), "broken": []}


@pytest.fixture(scope="module")
def restorer() -> Restorer:
    """Its zero convolutions are not zero, so that gradients flow."""
    unet = UNet(UNetConfig(sft_channels=0, control=ControlConfig()), Backend(device="meta"))
    weights = {
        name: formula(name, tuple(value.shape)).bfloat16() for name, value in unet.state_dict().items()
    }
    unet.load_state_dict(weights, assign=True)
    header = RestorerHeader("eps", condition="control", start="noise", control_prompt="empty")
    nothing: Any = None
    null = torch.zeros(1, 77, UNetConfig().context_dim, dtype=torch.bfloat16)
    return Restorer(unet.eval(), nothing, null, header, Tower())  # type: ignore[arg-type]


def step(pivot: Pivot, folder: Path) -> float:
    (loss,) = fit("stage", pivot, Prepared(), replace(pivot.loop(), steps=1), folder, pictures=False)
    return loss


@pytest.mark.full
@pytest.mark.parametrize("kind", [TextPivot, ModelPivot])
def test_a_step_at_the_published_size(kind: type[Any], restorer: Restorer, tmp_path: Path) -> None:
    """LoRA of rank 32, then the first 150 parameters. What is trained changes in nearly all tensors, and the
    trained ones with AdamW's state, next to all weights in bf16, leave room for activations in 24 GB."""
    photos: Any = Photos([], torch.empty(0))
    settings = DualPivotTraining(steps=1, pivots="text" if kind is TextPivot else "model")
    learned = LowRankWeights(restorer.unet, generator_names(restorer.unet), settings.rank, 0).learned()
    pivot: Pivot = kind(restorer, photos, settings, *([] if kind is TextPivot else [learned]))
    for name in ("instance", "prior"):
        setattr(pivot, name, torch.randn(LATENT, generator=torch.Generator().manual_seed(3)))
    before = {name: value.clone() for name, value in pivot.learning.named_parameters()}
    loss = step(pivot, tmp_path)
    assert torch.isfinite(torch.tensor(loss))
    moved = [not torch.equal(value, before[name]) for name, value in pivot.learning.named_parameters()]
    # `down` waits for `up`, which begins at 0.
    assert sum(moved) >= (len(moved) // 2 if kind is TextPivot else len(moved) - 4)
    trained = sum(value.numel() for value in pivot.learning.parameters())
    frozen = sum(value.numel() for value in restorer.unet.parameters())
    assert trained == (34_125_056 if kind is TextPivot else 46_301_440)
    assert 20 * trained + 6 * frozen < GPU / 2
