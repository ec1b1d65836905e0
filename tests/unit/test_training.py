"""Training: what was stopped resumes exactly, and what is trained learns."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pfstorer_core.models import Autoencoder, AutoencoderConfig, LQEncoderConfig, UNetConfig
from pfstorer_core.progress import Progress
from pfstorer_core.training.autoencoder import (
    AutoencoderTraining,
    load_autoencoder,
    normalize_latents,
    train_autoencoder,
)
from pfstorer_core.training.base import BaseTraining, train_base
from pfstorer_core.training.loop import LoopSettings, fit, learning_rate
from pfstorer_core.training.pictures import DrawnPictures, draw_picture, drawn_pictures

LOOP = LoopSettings(steps=6, lr=1e-2, warmup=2, save_every=2, bf16=False)


class Stopped(Exception):
    pass


def regression(folder: Path, stop_after: int | None = None) -> tuple[list[float], torch.nn.Module]:
    """Losses of fitting a line, and the averaged module."""
    torch.manual_seed(0)
    module = torch.nn.Linear(3, 1)
    losses: list[float] = []

    def loss(rng: np.random.Generator) -> torch.Tensor:
        x = torch.from_numpy(rng.standard_normal((8, 3), np.float32))
        return ((module(x) - x.sum(1, keepdim=True)) ** 2).mean()

    def note(progress: Progress) -> None:
        losses.append(progress.loss or 0.0)
        if progress.step == stop_after:
            raise Stopped

    return losses, fit("line", module, loss, LOOP, folder / "line.pt", note)


@pytest.mark.parametrize("stop_after", [1, 2, 3, 5])
def test_a_stopped_training_resumes_with_the_same_losses(tmp_path: Path, stop_after: int) -> None:
    expected, whole = regression(tmp_path / "whole")
    with pytest.raises(Stopped):
        regression(tmp_path / "parts", stop_after)
    losses, resumed = regression(tmp_path / "parts")
    done = stop_after - stop_after % LOOP.save_every
    assert losses == expected[done:]
    torch.testing.assert_close(dict(resumed.state_dict()), dict(whole.state_dict()), rtol=0, atol=0)


def test_a_finished_training_is_not_repeated(tmp_path: Path) -> None:
    regression(tmp_path)
    assert regression(tmp_path)[0] == []


def test_the_rate_warms_up_and_falls() -> None:
    settings = LoopSettings(steps=100, lr=1.0, warmup=10)
    rates = [learning_rate(settings, step) for step in range(100)]
    assert max(rates) == max(rates[8:12])
    assert rates[0] == pytest.approx(0.1)
    assert rates[-1] == pytest.approx(0.05, abs=0.01)


SMALL_PICTURES = DrawnPictures(people=2, photos=1, leaves=2, size=32, seed=3)
SMALL_AUTOENCODER = AutoencoderTraining(
    config=AutoencoderConfig(ch=32, ch_mult=(1, 1, 1), num_res_blocks=1, cfw=True),
    crop=16,
    batch=2,
    loop=replace(LOOP, lr=2e-3, steps=12, bf16=True),
    cfw_loop=replace(LOOP, lr=1e-3, steps=2, bf16=True),
)
SMALL_BASE = BaseTraining(
    config=UNetConfig(
        model_channels=32,
        channel_mult=(1, 1, 1),
        num_res_blocks=1,
        num_head_channels=16,
        context_dim=8,
        sft_channels=32,
        sft_hidden=8,
        lq_encoder=LQEncoderConfig(
            model_channels=32, out_channels=32, channel_mult=(1, 1, 1), num_res_blocks=1, num_heads=2
        ),
    ),
    pairs=6,
    crop=4,
    batch=2,
    loop=replace(LOOP, steps=3, bf16=True),
)


def test_pictures_are_drawn_once_and_are_what_their_seed_says(tmp_path: Path) -> None:
    pictures = drawn_pictures(SMALL_PICTURES, tmp_path)
    assert pictures.shape == (4, 3, 32, 32)
    for index in (0, 3):
        drawn = torch.from_numpy(draw_picture(SMALL_PICTURES, index)).permute(2, 0, 1)
        assert torch.equal(pictures[index], drawn)
    [file] = tmp_path.iterdir()
    written = file.stat().st_mtime_ns
    assert torch.equal(drawn_pictures(SMALL_PICTURES, tmp_path), pictures)
    assert file.stat().st_mtime_ns == written


def test_from_pictures_to_a_restorer(tmp_path: Path) -> None:
    pictures = (torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 255).byte()
    losses: dict[str, list[float]] = {}

    def note(progress: Progress) -> None:
        losses.setdefault(progress.stage, []).append(progress.loss or 0.0)

    autoencoder = train_autoencoder(pictures, SMALL_AUTOENCODER, tmp_path, note)
    assert sum(losses["autoencoder"][-3:]) < sum(losses["autoencoder"][:3])
    kept = load_autoencoder(SMALL_AUTOENCODER, tmp_path)
    torch.testing.assert_close(dict(kept.state_dict()), dict(autoencoder.state_dict()), rtol=0, atol=0)

    restorer = train_base(autoencoder, pictures, SMALL_BASE, tmp_path, note)
    assert len(losses["unet"]) == 3
    assert restorer.header.image_size == 32
    assert len(restorer.header.preview) == 5
    latent = autoencoder.encode(torch.rand(1, 3, 32, 32)) * restorer.header.scale_factor
    assert (
        restorer.unet(latent, torch.tensor([5]), restorer.null_context, lq_latent=latent).shape
        == latent.shape
    )


def test_normalizing_the_latents_does_not_change_the_pictures() -> None:
    torch.manual_seed(0)
    model = Autoencoder(SMALL_AUTOENCODER.config).eval().requires_grad_(False)
    model.state_dict()["quant_conv.weight"][1] *= 30
    images = torch.rand(5, 3, 16, 16)
    before = model.decode(model.encode(2 * images - 1))
    normalize_latents(model, images)
    latents = model.encode(2 * images - 1)
    torch.testing.assert_close(latents.mean((0, 2, 3)), torch.zeros(4), rtol=0, atol=1e-4)
    torch.testing.assert_close(latents.std((0, 2, 3)), torch.ones(4), rtol=0, atol=1e-4)
    torch.testing.assert_close(model.decode(latents), before, rtol=0, atol=1e-4)


def test_the_default_networks_fit_together() -> None:
    autoencoder, unet = AutoencoderTraining().config, BaseTraining().config
    assert unet.lq_encoder is not None
    assert {unet.in_channels, unet.out_channels, unet.lq_encoder.in_channels} == {autoencoder.embed_dim}
    assert unet.sft_channels == unet.lq_encoder.out_channels


def test_an_untrained_autoencoder_is_not_loaded(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="train-autoencoder"):
        load_autoencoder(SMALL_AUTOENCODER, tmp_path)
