"""Restoration guidance by hand, in every mode of torch, and what it refuses."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pfstorer_core.diffusion.restoration_guidance import (
    GuidanceSettings,
    RestorationGuidance,
    Target,
    flatness,
    posterior_target,
)
from pfstorer_core.diffusion.schedule import Schedule

SCHEDULE = Schedule.scaled_linear().respaced(5)
LATENT = GuidanceSettings(0.01, "latent", "mse")
SHAPE = (2, 4, 6, 8)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def always(target: Tensor) -> Target:
    return lambda timestep, repeat: target


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"space": "latent"}, "w_mse weights the pixels .* take the space rgb, or the loss mse"),
        ({"space": "pixels"}, "knows latent and rgb, not 'pixels'"),
        ({"loss": "l1"}, "knows mse and w_mse, not 'l1'"),
        ({"rule": "v3"}, "knows v1 and v2, not 'v3'"),
        ({"scale": -1.0}, "scale of 0 or more"),
        ({"scale": float("nan")}, "scale of 0 or more"),
        ({"repeats": 0}, "one repeat or more"),
        ({"t_start": 0}, "would never act.*Raise t_start"),
        ({"t_start": 1}, "would never act"),
        ({"t_start": 101, "t_stop": 100}, "would never act"),
    ],
)
def test_what_cannot_be_is_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        replace(GuidanceSettings(), **change)


def test_pictures_need_a_decoder() -> None:
    with pytest.raises(ValueError, match="needs a decoder"):
        RestorationGuidance(GuidanceSettings(), SCHEDULE, always(torch.zeros(1, 3, 6, 8)))


def test_the_window_is_open_at_both_ends() -> None:
    settings = replace(LATENT, t_start=501, t_stop=251)
    assert [t for t in range(1000) if settings.acts(t)] == list(range(251, 500))
    assert all(replace(LATENT).acts(t) for t in range(1000))
    assert [t for t in range(1000) if replace(LATENT, t_start=2).acts(t)] == [0]


@pytest.mark.parametrize("change", [{"scale": 0.0}, {"t_start": 500}])
def test_where_it_does_not_act_x0_is_left_as_it_is(change: dict[str, Any]) -> None:
    x0 = randn(*SHAPE)
    guide = RestorationGuidance(replace(LATENT, **change), SCHEDULE, always(torch.ones(SHAPE)))
    assert guide(x0, 999) is x0


def by_hand(x0: Tensor, target: Tensor, scale: float, repeats: int, factor: float) -> tuple[Tensor, Tensor]:
    """Steps of gradient descent on the mean squared error of each row: where they lead, and their sum."""
    moved = x0
    for _ in range(repeats):
        moved = moved - scale / factor * 2 * (moved - target) / moved[0].numel()
    return moved, (moved - x0) * factor


@pytest.mark.parametrize("index", range(5))
@pytest.mark.parametrize("repeats", [1, 3])
def test_both_rules_move_the_posterior_s_mean(index: int, repeats: int) -> None:
    """v1 by half of the steps, each of the scale's length; v2 by the steps, 3000 times as long, which move x0
    by as much as moves the mean by them."""
    x0, x, target = (randn(*SHAPE, seed=seed).double() for seed in range(3))
    timestep, coefficient = int(SCHEDULE.timesteps[index]), float(SCHEDULE.posterior_mean_coef1[index])
    for rule, scale, length, factor, share in (
        ("v1", 40.0, 40.0, 1.0, 0.5),
        ("v2", 0.01, 30.0, coefficient, 1.0),
    ):
        settings = replace(LATENT, rule=rule, scale=scale, repeats=repeats)
        guided = RestorationGuidance(settings, SCHEDULE, always(target))(x0, timestep)
        moved, steps = by_hand(x0, target, length, repeats, factor)
        shift = SCHEDULE.posterior(guided, x, index).mean - SCHEDULE.posterior(x0, x, index).mean
        torch.testing.assert_close(shift, share * steps, rtol=1e-5, atol=1e-7)
        if rule == "v2":
            torch.testing.assert_close(guided, moved, rtol=1e-5, atol=1e-6)


def test_every_repeat_has_its_own_target() -> None:
    told = list[tuple[int, int]]()

    def target(timestep: int, repeat: int) -> Tensor:
        told.append((timestep, repeat))
        return torch.zeros(SHAPE)

    RestorationGuidance(replace(LATENT, repeats=3), SCHEDULE, target)(randn(*SHAPE), 250)
    assert told == [(250, 0), (250, 1), (250, 2)]


class Decoder(nn.Module):
    """A nonlinear decoder of twice the size."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(4, 12, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        return nn.functional.pixel_shuffle(self.conv(z.to(self.conv.weight)).tanh(), 2)


def through(decoder: Decoder, loss: str = "w_mse", target: Tensor | None = None) -> RestorationGuidance:
    picture = randn(2, 3, 12, 16, seed=5).clamp(-1, 1) if target is None else target
    return RestorationGuidance(
        GuidanceSettings(0.1, "rgb", loss, repeats=2), SCHEDULE, always(picture), decoder
    )


@pytest.mark.parametrize("loss", ["mse", "w_mse"])
def test_through_a_decoder_the_picture_comes_nearer(loss: str) -> None:
    x0, guide = randn(*SHAPE), through(Decoder(), loss)
    before, after = (guide.loss(z, guide.target(0, 0)) for z in (x0, guide(x0, 999)))
    assert before.shape == (2,)
    assert (after < before).all()


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_in_inference_mode_the_gradient_is_the_same(mode: Any) -> None:
    """Of tensors made in it, too. The decoder's own weights get no gradients."""
    decoder = Decoder()
    expected = through(decoder)(randn(*SHAPE), 500)
    with mode():
        target = randn(2, 3, 12, 16, seed=5).clamp(-1, 1)
        found = through(decoder, target=target)(randn(*SHAPE), 500)
    assert torch.equal(found, expected)
    assert not found.requires_grad
    assert all(p.grad is None for p in decoder.parameters())


def test_weights_made_in_inference_mode_have_no_gradients() -> None:
    with torch.inference_mode():
        decoder = Decoder()
    with pytest.raises(RuntimeError, match="Inference tensors cannot be saved for backward"):
        through(decoder)(randn(*SHAPE), 500)


def test_rows_are_guided_apart() -> None:
    x0, guide, target = randn(*SHAPE), through(Decoder()), randn(2, 3, 12, 16, seed=5).clamp(-1, 1)
    for row, alone in enumerate(target.split(1)):
        own = through(Decoder(), target=alone)
        torch.testing.assert_close(own(x0[row : row + 1], 500)[0], guide(x0, 500)[row])
        torch.testing.assert_close(own(x0, 500)[row], guide(x0, 500)[row])  # one target for all rows


def test_a_half_precision_decoder_leaves_x0_in_float32() -> None:
    x0 = randn(*SHAPE)
    found, expected = (through(d)(x0, 500) for d in (Decoder().bfloat16(), Decoder()))
    assert found.dtype == torch.float32
    torch.testing.assert_close(
        found - x0, expected - x0, rtol=0.1, atol=0.05 * float((expected - x0).abs().max())
    )


def test_between_time_steps_the_nearer_one_s_coefficient_counts() -> None:
    x0, guide = randn(*SHAPE), through(Decoder())
    assert torch.equal(guide(x0, 748.4), guide(x0, 749))
    assert not torch.equal(guide(x0, 749), guide(x0, 500))


def test_draws_depend_on_nothing_but_seed_step_and_repeat() -> None:
    mean, std = randn(1, 4, 64, 64), torch.full((1, 4, 64, 64), 0.5)
    first, again, other = (posterior_target(mean, std, seed) for seed in (7, 7, 8))
    drawn = first(999, 0)
    assert ((drawn - mean) / std).std().item() == pytest.approx(1, rel=0.03)
    for different in (first(999, 1), first(749, 0), other(999, 0)):
        assert (
            abs(torch.corrcoef(torch.stack([(d - mean).flatten() for d in (drawn, different)]))[0, 1]) < 0.05
        )
    assert torch.equal(again(999, 0), drawn)
    assert torch.equal(first(999, 0), drawn)


def test_flat_areas_count_most() -> None:
    picture = torch.full((1, 3, 8, 12), 0.5)
    torch.testing.assert_close(flatness(picture), torch.ones(1, 1, 8, 12))
    picture[..., 6:] = 1
    weights = flatness(picture)[0, 0]
    assert (weights[:, 4:8] < 0.01).all()
    torch.testing.assert_close(weights[:, :4], torch.ones(8, 4))
    with pytest.raises(ValueError, match="even sides"):
        flatness(picture[..., 1:])
