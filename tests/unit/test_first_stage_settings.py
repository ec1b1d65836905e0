"""Which autoencoder `train-autoencoder` trains, and how."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pfstorer_core.checkpoints.errors import CheckpointError
from pfstorer_core.checkpoints.tensors import write_safetensors
from pfstorer_core.cli.first_stage import first_stage, run_autoencoder, whole_numbers
from pfstorer_core.cli.settings import Changes, Data
from pfstorer_core.models import Autoencoder
from pfstorer_core.models.discriminator import DiscriminatorConfig
from pfstorer_core.models.ops import Backend
from pfstorer_core.restorers.first_stage.adversarial import Adversary
from pfstorer_core.restorers.first_stage.train import load_autoencoder
from pfstorer_core.restorers.first_stage.variants import FIRST_STAGES, TINY_VQ, FirstStageChanges

from .test_cleaner_training import pictures  # noqa: F401 - a fixture


@pytest.mark.parametrize(
    ("name", "f", "entries", "parameters", "start", "weight", "rate"),
    [
        ("vq_f4", 4, (8192, 3), 55.32e6, 0, 0.75, 3.6e-5),
        ("ref_ldm", 8, (8192, 8), 57.18e6, 30_001, 0.8, 1e-4),
    ],
)
def test_the_published_settings(
    name: str, f: int, entries: tuple[int, int], parameters: float, start: int, weight: float, rate: float
) -> None:
    """latent-diffusion's and ReF-LDM's: mean absolute error, hinge loss, Adam, and nothing of our own."""
    training = first_stage(name).training
    model = Autoencoder(training.config, Backend(device="meta"))
    assert model.quantize is not None
    assert training.config.downscale == f
    assert tuple(model.quantize.get_parameter("embedding.weight").shape) == entries
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(parameters, rel=1e-4)
    assert training.adversary == Adversary(start, weight, "hinge", DiscriminatorConfig(3, 64, 3))
    loop = training.loop
    assert (loop.lr, loop.betas, loop.ema, loop.clip, loop.warmup) == (
        pytest.approx(rate),
        (0.5, 0.9),
        0,
        0,
        0,
    )
    own = (training.multiscale, training.low_pass, training.normalize, training.renew_entries)
    assert not any(own)
    assert (training.quantize_from, training.codebook_weight) == (0, 1)


def test_sizes_are_chosen() -> None:
    stage = first_stage("tiny")
    loop = replace(stage.training.loop, steps=100)
    made = stage.changed(FirstStageChanges(64, 4, (1, 2, 2, 4), 50, 0.3), loop).training
    assert (made.config.codebook, made.config.double_z, made.config.downscale) == (64, False, 8)
    assert (made.config.z_channels, made.config.embed_dim) == (4, 4)
    assert (made.quantize_from, made.renew_entries) == (25, True)
    assert made.adversary is not None
    assert (made.adversary.start, made.adversary.weight) == (50, 0.3)
    kl = FIRST_STAGES["tiny_vq_f4"].changed(FirstStageChanges(codebook=0), TINY_VQ.loop).training
    assert kl.config.double_z
    assert kl.adversary is None
    same = FIRST_STAGES["tiny_vq_f4"].changed(FirstStageChanges(), TINY_VQ.loop).training
    assert same == TINY_VQ
    with pytest.raises(ValueError, match="above 0"):
        stage.changed(FirstStageChanges(ch_mult=(1, 0)), loop)
    with pytest.raises(ValueError, match="such as 1,2,4"):
        whole_numbers("1,x")


def test_kl_and_vq_by_the_same_command(tmp_path: Path, pictures: Path) -> None:  # noqa: F811
    for codebook in (0, 8):
        changes = FirstStageChanges(codebook, 3, (1, 1, 1), disc_start=1)
        folder, loop = tmp_path / str(codebook), Changes(steps=2, batch=1)
        run_autoencoder(folder, Data([pictures], 32), loop, network="tiny", changed=changes)
        assert load_autoencoder(folder).config.codebook == codebook


def test_a_start_needs_an_autoencoder(tmp_path: Path, pictures: Path) -> None:  # noqa: F811
    write_safetensors(path := tmp_path / "other.safetensors", {"x": torch.zeros(2)}, {})
    with pytest.raises(CheckpointError, match="holds no autoencoder"):
        run_autoencoder(tmp_path, Data([pictures], 32), Changes(), source=path)
