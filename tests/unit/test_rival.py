"""Two networks that are trained against each other: one loop, two optimizers, resumed exactly."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pfstorer_core.models import Autoencoder, AutoencoderConfig
from pfstorer_core.models.discriminator import DiscriminatorConfig
from pfstorer_core.restorers.first_stage.adversarial import Adversary, adaptive_weight
from pfstorer_core.restorers.first_stage.objective import (
    AutoencoderTraining,
    ReconstructionLoss,
    reconstruction_loss,
)
from pfstorer_core.restorers.first_stage.train import train_autoencoder
from pfstorer_core.training.data import Batch
from pfstorer_core.training.loop import LoopSettings, Objective, fit
from pfstorer_core.training.processes import Processes
from pfstorer_core.training.progress import Progress

from .test_base_loss import Pieces, images
from .test_training import Points, Stopped

LOOP = LoopSettings(steps=6, lr=1e-2, batch=4, warmup=0, decay=False, save_every=100, bf16=False, ema=0.5)


class Pursuer(Objective):
    """Wants its number to be what it follows; counts its calls."""

    starts = 2

    def __init__(self, followed: "Pursued") -> None:
        super().__init__()
        self.own, self._followed = nn.Parameter(torch.zeros(())), (followed,)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, batch: Batch) -> Tensor:
        self.calls += 1
        return (self.own - self._followed[0].own.detach()).square()

    def kept(self) -> Mapping[str, Tensor]:
        return dict(self.named_buffers())


class Pursued(Objective):
    def __init__(self) -> None:
        super().__init__()
        self.own, self._pursuer = nn.Parameter(torch.ones(())), (Pursuer(self),)
        self.begun, self.ended = list[int](), list[int]()
        self.breaks = False

    def rival(self) -> Objective:
        return self._pursuer[0]

    def begin(self, step: int) -> None:
        self.begun.append(step)

    def end(self, step: int, average: Mapping[str, Tensor], processes: Processes) -> None:
        self.ended.append(step)

    def forward(self, batch: Batch) -> Tensor:
        with torch.no_grad():
            toward = self._pursuer[0].own.clone()
        return -(self.own - toward).square() + batch["x"].mean()

    def sheet(self, batch: Batch) -> Tensor:
        return torch.zeros(1, 3, 4, 4)


def pursued(folder: Path, stop_after: int | None = None) -> tuple[list[float], Pursued]:
    losses = []

    def note(progress: Progress) -> None:
        losses.append(progress.loss)
        if progress.step == stop_after:
            raise Stopped

    made = Pursued()
    fit("chase", made, Points(), LOOP, folder, note)
    return losses, made


def test_a_rival_is_trained_from_its_step_on_by_its_own_optimizer(tmp_path: Path) -> None:
    _, made = pursued(tmp_path)
    assert made.begun[-6:] == made.ended == [0, 1, 2, 3, 4, 5]
    rival = made.rival()
    assert int(rival.get_buffer("calls")) == 4
    # Each flees or follows by Adam's steps of the rate's size, and what comes back is their averages.
    assert 1 < float(made.own.detach()) < 1 + 6 * LOOP.lr
    assert 0 < float(rival.get_parameter("own").detach()) < 4 * LOOP.lr


@pytest.mark.parametrize("stop_after", [1, 2, 3, 5])
def test_both_resume_exactly(tmp_path: Path, stop_after: int) -> None:
    expected, whole = pursued(tmp_path / "whole")
    with pytest.raises(Stopped):
        pursued(tmp_path / "parts", stop_after)
    losses, resumed = pursued(tmp_path / "parts")
    assert losses == expected[stop_after:]
    for one, other in ((whole, resumed), (whole.rival(), resumed.rival())):
        torch.testing.assert_close(dict(other.state_dict()), dict(one.state_dict()), rtol=0, atol=0)


SIZES = AutoencoderConfig(
    ch=32, ch_mult=(1, 1, 1), num_res_blocks=1, z_channels=3, embed_dim=3, codebook=16, double_z=False,
    mid_attention=False, norm_groups=8,
)  # fmt: skip
TRAINING = AutoencoderTraining(
    SIZES,
    quantize_from=2,
    renew_entries=True,
    adversary=Adversary(start=3, discriminator=DiscriminatorConfig(ndf=4, n_layers=2)),
    loop=LoopSettings(steps=5, lr=1e-3, batch=2, warmup=0, bf16=False, save_every=100),
)


class Once(Pieces):
    """Stops the second part of step 4, as an interrupted machine would."""

    stops = False

    def __getitem__(self, k: int) -> dict[str, Any]:
        if self.stops and k == 9:
            raise KeyboardInterrupt
        return super().__getitem__(k)


def test_an_adversarial_training_stopped_within_a_step_resumes_exactly(tmp_path: Path) -> None:
    """Weights, averages, both optimizers' moments, the batch normalization's statistics and what the codebook
    was used for: the state's file is the same."""
    settings = replace(TRAINING, loop=replace(TRAINING.loop, accumulate=2))
    samples: Any = Once(images(2))
    train_autoencoder(samples, settings, tmp_path / "whole")
    samples.stops = True
    with pytest.raises(KeyboardInterrupt):
        train_autoencoder(samples, settings, tmp_path / "parts")
    samples.stops = False
    train_autoencoder(samples, settings, tmp_path / "parts")
    name = "autoencoder.state.safetensors"
    assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_the_adversarial_weight_is_bounded() -> None:
    weight = nn.Parameter(torch.ones(2))
    for slope, expected in ((0.5, 5000.0), (3.0, 1e4)):
        nll, nothing = slope * weight[0], (0 * weight).sum()
        assert float(adaptive_weight(nll, nothing, weight)) == pytest.approx(expected)
    found = adaptive_weight(3 * weight[0], 4 * weight[1], weight)
    assert float(found) == pytest.approx(3 / 4.0001)
    assert not found.requires_grad


def test_a_perceptual_distance_is_added() -> None:
    torch.manual_seed(0)
    settings = replace(TRAINING, adversary=None)
    a, b = torch.rand(2, 2, 3, 16, 16)
    made = ReconstructionLoss(Autoencoder(SIZES), settings, lambda x, y: (x - y).square().mean((1, 2, 3)))
    torch.testing.assert_close(made.distance(a, b), reconstruction_loss(a, b) + (a - b).square().mean())
