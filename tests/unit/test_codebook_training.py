"""A codebook in training: it begins with k-means, and what nothing uses becomes what something does."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pfstorer_core.models import Autoencoder, AutoencoderConfig
from pfstorer_core.models.codebook import Codebook, nearest
from pfstorer_core.models.ops import Backend
from pfstorer_core.restorers.first_stage.codebook import EVERY, POOL, SHARE, CodebookCare, k_means
from pfstorer_core.restorers.first_stage.objective import AutoencoderTraining, ReconstructionLoss
from pfstorer_core.restorers.first_stage.train import load_autoencoder, normalize_latents, train_autoencoder
from pfstorer_core.training.loop import LoopSettings
from pfstorer_core.training.processes import Processes

from .test_base_loss import Pieces, images

CPU = Processes(torch.device("cpu"))
SIZES = AutoencoderConfig(
    ch=32, ch_mult=(1, 1, 1), num_res_blocks=1, z_channels=3, embed_dim=3, codebook=16, double_z=False,
    mid_attention=False, norm_groups=8,
)  # fmt: skip
LOOP = LoopSettings(steps=1, lr=1e-9, batch=2, warmup=0, bf16=False)


def clusters(count: int) -> torch.Tensor:
    """Cells about `count` places, far from each other: [64·count, 2]."""
    generator = torch.Generator().manual_seed(0)
    places = 10 * torch.stack([torch.arange(count).float(), torch.arange(count).float() % 3], 1)
    cells = places.repeat(64, 1)
    return cells + 0.1 * torch.randn(cells.shape, generator=generator)


def test_k_means_finds_the_middles() -> None:
    cells = clusters(4)
    means = k_means(cells, 32, torch.Generator().manual_seed(1))
    assert means.shape == (32, 2)
    error = (cells - means[nearest(cells, means)]).square().sum(1).mean()
    drawn = cells[torch.randperm(len(cells), generator=torch.Generator().manual_seed(1))[:32]]
    assert error < 0.6 * (cells - drawn[nearest(cells, drawn)]).square().sum(1).mean()
    sizes = nearest(cells, means).bincount(minlength=32)
    assert (sizes.reshape(-1) > 0).sum() > 24
    few = k_means(cells[:3], 8, torch.Generator())  # fewer cells than entries: some twice
    assert torch.isfinite(few).all()


def care(quantize_from: int = 0, renew: bool = True) -> tuple[CodebookCare, torch.Tensor]:
    torch.manual_seed(0)
    codebook = Codebook(32, 2, Backend()).requires_grad_(False)
    return CodebookCare(codebook, quantize_from, renew, seed=0), codebook.embedding.weight  # type: ignore[return-value]


def latents() -> torch.Tensor:
    cells = clusters(4)
    return cells[torch.randperm(256, generator=torch.Generator().manual_seed(2))].T.reshape(1, 2, 16, 16)


def test_entries_begin_with_latents() -> None:
    watched, entries = care(quantize_from=3, renew=False)
    before, average = entries.clone(), torch.zeros(32, 2)
    for step in (1, 2):
        watched.see(latents(), None)
        watched.change(step, average, CPU)
        assert torch.equal(entries, before)
    watched.see(latents(), None)
    watched.change(3, average, CPU)
    cells = latents().flatten(2)[0].T
    assert (cells - entries[nearest(cells, entries)]).norm(dim=1).max() < 1  # the clusters are 10 apart
    assert torch.equal(average, entries)
    now = entries.clone()
    watched.change(EVERY, average, CPU)
    assert torch.equal(entries, now)


def test_what_nothing_uses_becomes_a_latent() -> None:
    watched, entries = care()
    entries[:] = 1000.0
    entries[5], average = torch.tensor([20.0, 20.0]), torch.zeros(32, 2)
    z = latents()
    cells = z.flatten(2)[0].T
    for _ in range(3):
        watched.see(z, nearest(cells, entries).reshape(1, 16, 16))
    assert watched.figures() == {"usage": 1 / 32, "perplexity": pytest.approx(1)}
    watched.change(EVERY - 1, average, CPU)
    assert (entries[0] == 1000).all()
    watched.change(EVERY, average, CPU)
    assert torch.equal(entries[5], torch.tensor([20.0, 20.0])), "it is used"
    assert not average[5].any()
    others = [k for k in range(32) if k != 5]
    assert all((cells == entries[k]).all(1).any() for k in others)
    assert torch.equal(average[others], entries[others])
    assert watched.figures()["usage"] == 1


def test_published_trainings_leave_it_alone() -> None:
    watched, entries = care(renew=False)
    before = entries.clone()
    watched.see(latents(), torch.zeros(1, 16, 16, dtype=torch.int64))
    watched.change(EVERY, torch.zeros(32, 2), CPU)
    assert torch.equal(entries, before)
    assert not len(watched.cells)


def test_the_pool_forgets_the_oldest() -> None:
    watched, _ = care()
    z = latents()
    for value in range(SHARE + 1):
        watched.see(torch.full_like(z, float(value)), None)
    share = POOL * 32 // SHARE
    assert watched.cells[:, 0].reshape(SHARE, share)[:, 0].tolist() == [SHARE, *map(float, range(1, SHARE))]


def test_a_latent_is_quantized_from_its_step_on() -> None:
    torch.manual_seed(0)
    model = Autoencoder(SIZES)
    settings = AutoencoderTraining(SIZES, quantize_from=2, codebook_weight=3.0)
    made, picture = ReconstructionLoss(model, settings), torch.rand(2, 3, 16, 16) * 2 - 1
    z = model.encode(picture)
    assert model.quantize is not None
    for step, quantize in ((1, False), (2, True)):
        made.begin(step)
        terms, output = made.terms(picture), model.decode(z, quantize=quantize)
        torch.testing.assert_close(terms.nll, made.distance(output, picture))
        torch.testing.assert_close(terms.regular, 3.0 * model.quantize(z)[2] * quantize)


def test_a_trained_codebook_comes_back_with_unit_latents(tmp_path: Path) -> None:
    """Shifted by channel and scaled together, the nearest entries stay the nearest."""
    samples: Any = Pieces(images(4))
    made = train_autoencoder(samples, AutoencoderTraining(SIZES, loop=LOOP), tmp_path)
    loaded = load_autoencoder(tmp_path)
    assert loaded.config == made.config == SIZES
    pictures = torch.stack([sample["image"] for sample in images(4)]).float() / 255
    z = loaded.encode(2 * pictures - 1)
    torch.testing.assert_close(z.mean((0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-3)
    assert float(z.var((0, 2, 3)).mean()) == pytest.approx(1, abs=1e-3)

    torch.manual_seed(1)
    model = Autoencoder(SIZES).requires_grad_(False)
    assert model.quantize is not None
    entries = model.quantize.get_parameter("embedding.weight")
    entries.copy_(model.encode(2 * pictures - 1).transpose(0, 1).flatten(1).T[:16])
    before, picture = model.decode(model.encode(pictures)), model.encode(pictures)
    indices = model.quantize(picture)[1]
    normalize_latents(model, pictures)
    assert torch.equal(model.quantize(model.encode(pictures))[1], indices)
    torch.testing.assert_close(model.decode(model.encode(pictures)), before, rtol=0, atol=1e-4)


@pytest.mark.parametrize("z_channels", [3, 6])
@pytest.mark.parametrize("halvings", [2, 3])
def test_it_starts_at_a_low_pass(tmp_path: Path, z_channels: int, halvings: int) -> None:
    """A slope comes back in steps half as wide as a latent pixel, whatever the latent's channels."""
    config = replace(
        SIZES,
        codebook=0,
        double_z=True,
        z_channels=z_channels,
        embed_dim=z_channels,
        ch_mult=(1,) * (halvings + 1),
    )
    samples: Any = Pieces(images(2))
    settings = AutoencoderTraining(config, normalize=False, loop=LOOP)
    model = train_autoencoder(samples, settings, tmp_path)
    slope = torch.linspace(-0.8, 0.8, 96).expand(1, 3, 96, 96)
    passed = model.decode(model.encode(slope))[..., 32:-32, 32:-32]
    assert (passed - slope[..., 32:-32, 32:-32]).abs().max() < 0.1
    steps = passed.diff(dim=-1)
    assert steps.max() < 1.2 * 2 ** (halvings - 1) * steps.mean()


def test_layers_of_another_autoencoder_are_taken(tmp_path: Path) -> None:
    """All that fit, of one with as many levels; else those outside, since the middle sees something else."""
    samples: Any = Pieces(images(2))
    settings = AutoencoderTraining(SIZES, normalize=False, loop=LOOP)
    for levels in (3, 4):
        torch.manual_seed(5)
        other = Autoencoder(replace(SIZES, ch_mult=(1,) * levels, z_channels=4)).state_dict()
        model = train_autoencoder(samples, settings, tmp_path / str(levels), start=other).state_dict()
        same = {key for key in model if key in other and model[key].shape == other[key].shape
                and torch.allclose(model[key], other[key], atol=1e-6)}  # fmt: skip
        assert {
            "encoder.conv_in.weight",
            "decoder.up.1.upsample.conv.weight",
            "decoder.norm_out.bias",
        } <= same
        assert ("decoder.mid.block_1.conv2.weight" in same) == (levels == 3)
        assert "decoder.conv_in.weight" not in same
