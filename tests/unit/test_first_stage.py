"""What an autoencoder is trained by, in numbers."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pfstorer_core.models import Autoencoder, AutoencoderConfig
from pfstorer_core.restorers.first_stage.objective import (
    AutoencoderTraining,
    ReconstructionLoss,
    reconstruction_loss,
)
from pfstorer_core.restorers.first_stage.train import (
    load_autoencoder,
    normalize_latents,
    train_autoencoder,
)
from pfstorer_core.training.data import collate
from pfstorer_core.training.loop import LoopSettings

from .test_base_loss import Pieces, images, inputs

CONFIG = AutoencoderConfig(ch=32, ch_mult=(1, 1, 1), num_res_blocks=1, norm_groups=16)
ONCE = LoopSettings(steps=1, lr=1e-9, batch=2, warmup=0, bf16=False)


def checkers(side: int, size: int = 32) -> Tensor:
    """Grey squares of that side, 0.1 lighter and darker."""
    row = torch.arange(size) // side
    return (0.2 * ((row[:, None] + row) % 2) - 0.1).expand(1, 3, size, size)


@pytest.mark.parametrize(("edge", "colour"), [(1.0, 2.0), (0.5, 3.0), (0.0, 0.0)])
def test_a_reconstruction_is_judged_at_every_scale(edge: float, colour: float) -> None:
    """By pictures and colours down to an eighth, by edges at full and at half size: L1 each."""

    def loss(error: Tensor) -> float:
        flat = torch.full_like(error, 0.3)
        return float(reconstruction_loss(flat + error, flat, edge, colour))

    red = torch.tensor([0.1, 0, 0]).reshape(1, 3, 1, 1).expand(1, 3, 32, 32)
    assert loss(red) == pytest.approx(4 * (0.1 / 3 + colour * 0.1), rel=1e-4)
    green = torch.tensor([0, 0.1, 0]).reshape(1, 3, 1, 1).expand(1, 3, 32, 32)
    assert loss(green) == pytest.approx(4 * (0.1 / 3 + colour * 0.1), rel=1e-4)
    grey = torch.full((1, 3, 32, 32), 0.1)
    assert loss(grey) == pytest.approx(4 * 0.1, rel=1e-4)
    assert loss(checkers(1)) == pytest.approx(0.1 + edge * 2 * 0.2, rel=1e-4)
    between = 15 / 31  # of the neighbours are of two squares
    assert loss(checkers(2)) == pytest.approx(0.2 + edge * 2 * 0.2 * (between + 1), rel=1e-4)
    rough = 7 / 31 + 7 / 15
    assert loss(checkers(4)) == pytest.approx(0.3 + edge * 2 * 0.2 * rough, rel=1e-4)


def test_a_latent_is_drawn_and_kept_near_the_unit_gaussian() -> None:
    torch.manual_seed(0)
    model = Autoencoder(CONFIG)
    batch = collate(images(2))
    with torch.no_grad(), inputs(model.encoder) as seen, inputs(model.post_quant_conv) as decoded:
        losses = [
            ReconstructionLoss(model, AutoencoderTraining(CONFIG, kl_weight=weight))(batch)
            for weight in (0.0, 0.5)
        ]
        picture = batch["image"].float() / 255 * 2 - 1
        torch.testing.assert_close(seen[0], picture, rtol=0, atol=1e-5)
        mean, logvar = model.moments(picture)
        normal = (decoded[0] - mean) / (logvar / 2).exp()
        assert normal.std() == pytest.approx(1, abs=0.1)
        assert not torch.allclose(normal[0], normal[1]) or batch["seed"][0] == batch["seed"][1]
        torch.testing.assert_close(decoded[1], decoded[0])
        variance = logvar.exp()
        kl = ((mean.square() + variance - 1 - variance.log()) / 2).mean()
        torch.testing.assert_close(losses[1] - losses[0], 0.5 * kl, rtol=1e-3, atol=1e-4)
        output = model.decode(decoded[0])
        torch.testing.assert_close(losses[0], reconstruction_loss(output, picture, 1.0, 2.0))
        weighted = AutoencoderTraining(CONFIG, edge_weight=3.0, colour_weight=0.5, kl_weight=0.0)
        expected = reconstruction_loss(output, picture, 3.0, 0.5)
        torch.testing.assert_close(ReconstructionLoss(model, weighted)(batch), expected)


def test_a_trained_autoencoder_comes_back_normalized(tmp_path: Path) -> None:
    """From its file, with all its sizes; its latents have mean 0 and deviation 1; its fusion layers wait."""
    samples: Any = Pieces(images(4))
    settings = AutoencoderTraining(replace(CONFIG, cfw=True), loop=ONCE)
    made = train_autoencoder(samples, settings, tmp_path)
    loaded = load_autoencoder(tmp_path)
    assert loaded.config == made.config == settings.config
    pictures = torch.stack([sample["image"] for sample in images(4)]).float() / 255
    latents = loaded.encode(2 * pictures - 1)
    torch.testing.assert_close(latents.mean((0, 2, 3)), torch.zeros(4), rtol=0, atol=1e-3)
    torch.testing.assert_close(latents.std((0, 2, 3)), torch.ones(4), rtol=0, atol=1e-3)
    torch.manual_seed(settings.loop.seed)
    drawn = Autoencoder(settings.config).state_dict()
    assert any(".fusion_layer_" in key for key in drawn)
    for key, value in made.state_dict().items():
        if ".fusion_layer_" in key:
            assert torch.equal(value, drawn[key])


def test_normalizing_keeps_the_distribution() -> None:
    """A latent's deviation is divided by what its mean is."""
    torch.manual_seed(0)
    model = Autoencoder(CONFIG).eval().requires_grad_(False)
    pictures = torch.rand(3, 3, 16, 16)
    mean, logvar = model.moments(2 * pictures - 1)
    normalize_latents(model, pictures)
    now, spread = model.moments(2 * pictures - 1)
    ratio = (mean - mean.mean((0, 2, 3), keepdim=True)) / now
    assert (ratio.std((0, 2, 3)) < 1e-2 * ratio.mean((0, 2, 3))).all()
    expected = logvar - 2 * ratio.mean((0, 2, 3), keepdim=True).log()
    torch.testing.assert_close(spread, expected, rtol=1e-3, atol=1e-3)


def test_training_starts_at_a_low_pass(tmp_path: Path) -> None:
    """Where there is room for it, a flat picture comes back before anything was learned."""
    samples: Any = Pieces(images(2))
    model = train_autoencoder(samples, AutoencoderTraining(loop=ONCE), tmp_path)
    flat = torch.tensor([0.4, -0.3, 0.1]).reshape(1, 3, 1, 1).expand(1, 3, 32, 32)
    passed = model.decode(model.encode(flat))[..., 8:-8, 8:-8]
    assert (passed - flat[..., 8:-8, 8:-8]).abs().max() < 0.1
