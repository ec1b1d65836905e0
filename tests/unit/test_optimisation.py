"""How trainings optimise, by number: rates, clipping, decay of weights, their average, recomputation."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pfstorer_core.models import UNet
from pfstorer_core.training.data import Batch
from pfstorer_core.training.loop import LoopSettings, Objective, fit
from pfstorer_core.training.processes import Processes
from pfstorer_core.training.progress import Progress

from .small import SIZES

PLAIN = LoopSettings(
    steps=6, lr=0.1, batch=1, warmup=0, decay=False, ema=0.0, clip=1e9, betas=(0.9, 0.99), bf16=False
)


class Slopes(Objective):
    """Its loss is a sum of weights, each times a number of the sample: those are the gradients."""

    def __init__(self, weights: int = 2) -> None:
        super().__init__()
        self.weights = nn.ParameterList(nn.Parameter(torch.ones(1)) for _ in range(weights))
        self.seen: list[list[float]] = []

    def forward(self, batch: Batch) -> Tensor:
        self.seen.append([float(weight.detach()) for weight in self.weights])
        slopes = batch["slope"].mean(0)
        return torch.stack([weight * slope for weight, slope in zip(self.weights, slopes, strict=True)]).sum()

    def sheet(self, batch: Batch) -> Tensor:
        self.shown = [float(weight.detach()) for weight in self.weights]
        return torch.zeros(1, 3, 4, 4)


class Given:
    """Sample k has the k-th of these slopes."""

    def __init__(self, slopes: Sequence[Sequence[float]]) -> None:
        self.slopes = slopes

    def __len__(self) -> int:
        return 1

    def __getitem__(self, k: int) -> dict[str, Any]:
        return {"slope": torch.tensor(self.slopes[k]), "broken": []}


def adamw(
    slopes: Sequence[float],
    rates: Sequence[float],
    decay: float = 0.0,
    betas: tuple[float, float] = (0.9, 0.99),
) -> list[float]:
    """A weight that is 1 at first, after each step (Loshchilov & Hutter 2019, algorithm 2)."""
    weight, mean, square, found = 1.0, 0.0, 0.0, []
    for step, (slope, rate) in enumerate(zip(slopes, rates, strict=True), 1):
        mean = betas[0] * mean + (1 - betas[0]) * slope
        square = betas[1] * square + (1 - betas[1]) * slope**2
        towards = (mean / (1 - betas[0] ** step)) / (math.sqrt(square / (1 - betas[1] ** step)) + 1e-8)
        weight = weight - rate * decay * weight - rate * towards
        found.append(weight)
    return found


def fitted(
    folder: Path, settings: LoopSettings, slopes: Sequence[Sequence[float]], objective: Slopes | None = None
) -> tuple[list[list[float]], list[float]]:
    """The weights before each step, and those in the end."""
    objective = objective or Slopes(len(slopes[0]))
    fit("slopes", objective, Given(slopes), settings, folder)
    return objective.seen, [float(weight.detach()) for weight in objective.weights]


def test_a_weight_follows_adamw(tmp_path: Path) -> None:
    slopes = [1.0, -0.5, 2.0, 0.1, -3.0, 0.7]
    seen, last = fitted(tmp_path, PLAIN, [[slope] for slope in slopes])
    expected = adamw(slopes, [0.1] * 6)
    assert [weight for (weight,) in [*seen[1:], last]] == pytest.approx(expected, rel=1e-5)
    other = replace(PLAIN, betas=(0.5, 0.9), weight_decay=0.2)
    _, last = fitted(tmp_path / "other", other, [[slope] for slope in slopes])
    assert last == pytest.approx([adamw(slopes, [0.1] * 6, 0.2, (0.5, 0.9))[-1]], rel=1e-5)


def test_the_rate_warms_up_and_falls_in_the_weights(tmp_path: Path) -> None:
    """By a constant slope AdamW moves a weight by the rate, whatever the slope."""
    settings = replace(PLAIN, steps=8, warmup=4, decay=True)
    seen, last = fitted(tmp_path, settings, [[3.0]] * 8)
    weights = torch.tensor([*seen, last])[:, 0]
    warm = [0.25, 0.5, 0.75, 1, 1, 1, 1, 1]
    falling = [0.05 + 0.95 * (1 + math.cos(math.pi * step / 8)) / 2 for step in range(8)]
    expected = torch.tensor([-0.1 * one * two for one, two in zip(warm, falling, strict=True)])
    torch.testing.assert_close(weights.diff(), expected, rtol=1e-3, atol=1e-6)


def test_groups_have_rates_and_decays_of_their_own(tmp_path: Path) -> None:
    class Grouped(Slopes):
        def groups(self, settings: LoopSettings) -> list[dict[str, Any]]:
            return [
                {"params": [self.weights[0]], "scale": 1.0, "weight_decay": settings.weight_decay},
                {"params": [self.weights[1]], "scale": 0.1, "weight_decay": 0.0},
            ]

    settings = replace(PLAIN, weight_decay=0.5)
    _, last = fitted(tmp_path, settings, [[1.0, 1.0]] * 6, Grouped())
    assert last == pytest.approx([adamw([1.0] * 6, [0.1] * 6, 0.5)[-1], 1 - 6 * 0.01], rel=1e-4)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_gradients_are_clipped_together(tmp_path: Path, accumulate: int) -> None:
    """All of them by their common norm, where that is above the limit, once they are added up."""
    steep, flat = (30.0, 40.0), (0.3, 0.4)
    settings = replace(PLAIN, steps=3, clip=2.0, batch=2, accumulate=accumulate)
    pairs = [steep, steep, flat, flat, (50.0, -10.0), (-50.0, 10.0 + 2.0)]
    _, last = fitted(tmp_path, settings, pairs)
    expected = adamw([1.2, 0.3, 0.0], [0.1] * 3)[-1], adamw([1.6, 0.4, 1.0], [0.1] * 3)[-1]
    assert last == pytest.approx(expected, rel=1e-4)
    assert LoopSettings(steps=1, lr=1.0).clip == 1.0


def test_what_is_returned_is_the_average(tmp_path: Path) -> None:
    """Of the weights after each step; early on over fewer: by (step + 1) / (step + 10) at the most."""
    settings = replace(PLAIN, ema=0.3)
    seen, last = fitted(tmp_path, settings, [[1.0]] * 6)
    average = 1.0
    for step in range(6):
        decay = min(0.3, (step + 1) / (step + 10))
        average = decay * average + (1 - decay) * (1 - 0.1 * (step + 1))
    assert seen[-1] == pytest.approx([0.5], rel=1e-4), "trained are the weights themselves"
    assert last == pytest.approx([average], rel=1e-4)


def test_what_is_looked_at_is_the_average(tmp_path: Path) -> None:
    objective, shown = Slopes(1), list[float]()

    def look(progress: Progress) -> None:
        if progress.picture is not None:
            shown.extend(objective.shown)

    settings = replace(PLAIN, steps=2, ema=1.0, validate_every=1)
    given = Given([[1.0]] * 2)
    fit("slopes", objective, given, settings, tmp_path, look, held=given, pictures=False)
    first = 0.1 * 1 + 0.9 * 0.9
    assert shown == pytest.approx([first, 2 / 11 * first + 9 / 11 * 0.8], rel=1e-4)
    assert objective.seen[1] == pytest.approx([0.9], rel=1e-4), "the trained weights are back"


def test_a_resumed_training_keeps_average_and_moments(tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop(progress: Progress) -> None:
        if progress.step == 3:
            raise Stop

    slopes = [[1.0], [-0.5], [2.0], [0.1], [-3.0], [0.7]]
    settings = replace(PLAIN, ema=0.5, save_every=100)
    with pytest.raises(Stop):
        fit("slopes", Slopes(1), Given(slopes), settings, tmp_path / "parts", stop)
    seen, last = fitted(tmp_path / "parts", settings, slopes)
    expected, whole = fitted(tmp_path / "whole", settings, slopes)
    assert (seen, last) == (expected[3:], whole)


def test_the_last_step_is_saved(tmp_path: Path) -> None:
    """Whatever the steps between two states: what is finished is not trained again."""
    settings = replace(PLAIN, steps=5, save_every=3)
    fitted(tmp_path, settings, [[1.0]] * 5)
    seen, last = fitted(tmp_path, settings, [[1.0]] * 5)
    assert not seen
    assert last == pytest.approx([0.5], rel=1e-4)


def test_a_step_takes_its_own_samples(tmp_path: Path) -> None:
    """Step s has samples s·batch …, whatever the parts, and its loss is their mean."""
    slopes = [[float(k)] for k in range(12)]
    losses = fit("slopes", Slopes(1), Given(slopes), replace(PLAIN, batch=4, steps=3, lr=1e-9), tmp_path)
    assert losses == pytest.approx([1.5, 5.5, 9.5], rel=1e-5)
    parts = replace(PLAIN, batch=4, steps=3, lr=1e-9, accumulate=2)
    found = fit("slopes", Slopes(1), Given(slopes), parts, tmp_path / "parts")
    assert found == pytest.approx(losses, rel=1e-5)


@pytest.mark.parametrize("bf16", [True, False])
def test_bf16_is_for_the_arithmetic(tmp_path: Path, bf16: bool) -> None:
    """Trained weights stay as they are; the samples that are looked at are calculated likewise."""
    asked: list[bool] = []

    class Watched(Slopes):
        def forward(self, batch: Batch) -> Tensor:
            asked.append(torch.is_autocast_enabled("cpu"))
            return super().forward(batch)

    objective, given = Watched(), Given([[1.0, 1.0]] * 6)
    settings = replace(PLAIN, steps=1, bf16=bf16, validate_every=1)
    fit("slopes", objective, given, settings, tmp_path, held=given)
    assert asked == [bf16, bf16], "in the step, and at the sample that was held back"
    assert all(weight.dtype == torch.float32 for weight in objective.weights)


@pytest.mark.parametrize("index", [0, 1])
def test_processes_share_a_batch(tmp_path: Path, index: int) -> None:
    """Each takes every second sample of it, in as many parts as it accumulates."""

    class OneOfTwo(Processes):
        count = 2

    one = OneOfTwo(torch.device("cpu"))
    one.index = index
    batches: list[list[float]] = []

    class Watched(Slopes):
        def forward(self, batch: Batch) -> Tensor:
            batches.append(batch["slope"][:, 0].tolist())
            return super().forward(batch)

    settings = replace(PLAIN, steps=2, batch=8, accumulate=2)
    given = Given([[float(k)] for k in range(16)])
    fit("slopes", Watched(1), given, settings, tmp_path, processes=one)
    expected = [[0, 2], [4, 6], [8, 10], [12, 14]]
    assert batches == [[k + index for k in part] for part in expected]


@pytest.mark.parametrize("on", [True, False])
def test_checkpointed_blocks_are_computed_twice(on: bool) -> None:
    """In training: once for the loss, and once more, block by block, for the gradients."""
    torch.manual_seed(0)
    unet = UNet(SIZES)
    unet.checkpoint_gradients(on)
    counts: dict[str, int] = {}
    every: list[Any] = [*unet.input_blocks, unet.middle_block, *unet.output_blocks]
    blocks: dict[str, nn.Module] = {block.name: block[0] for block in every}
    for name, layer in blocks.items():
        layer.register_forward_pre_hook(
            lambda *_, name=name: counts.__setitem__(name, counts.get(name, 0) + 1)
        )
    x, t, context = torch.randn(1, 4, 8, 8), torch.tensor([500]), torch.randn(1, 3, SIZES.context_dim)
    unet(x, t, context, condition=x).square().mean().backward()
    assert set(counts.values()) == {2 if on else 1}
    counts.clear()
    with torch.no_grad():
        unet(x, t, context, condition=x)
    assert set(counts.values()) == {1}, "without gradients nothing is computed twice"
    unet.checkpoint_gradients(False)
    counts.clear()
    unet(x, t, context, condition=x).square().mean().backward()
    assert set(counts.values()) == {1}
