"""The noise schedule's own laws."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pfstorer_core.diffusion.schedule import PredictionType, Schedule, space_timesteps

FULL = Schedule.scaled_linear()
BUFFERS = (
    "betas",
    "alphas_cumprod",
    "alphas_cumprod_prev",
    "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod",
    "sqrt_recip_alphas_cumprod",
    "sqrt_recipm1_alphas_cumprod",
    "posterior_variance",
    "posterior_log_variance_clipped",
    "posterior_mean_coef1",
    "posterior_mean_coef2",
)


def test_defaults_are_stable_diffusion_s():
    assert len(FULL) == 1000
    assert FULL.betas[0].item() == pytest.approx(0.00085)
    assert FULL.betas[-1].item() == pytest.approx(0.012)
    assert FULL.timesteps.tolist() == list(range(1000))
    # What is left of the latent where sampling starts.
    assert FULL.sqrt_alphas_cumprod[-1].item() == pytest.approx(0.06826, abs=1e-5)
    assert FULL.sqrt_one_minus_alphas_cumprod[-1].item() == pytest.approx(0.99767, abs=1e-5)


def test_noise_only_grows():
    assert (FULL.betas.diff() > 0).all()
    assert (FULL.alphas_cumprod.diff() < 0).all()
    assert (FULL.posterior_variance[1:] < FULL.betas[1:]).all()
    assert FULL.posterior_variance[0] == 0


def test_all_buffers_are_float64_and_finite():
    for name in BUFFERS:
        buffer = getattr(FULL, name)
        assert buffer.dtype == torch.float64, name
        assert buffer.shape == (1000,)
        assert buffer.isfinite().all(), name


@given(st.integers(2, 1000))
def test_respaced_keeps_both_ends_and_the_signal(steps: int):
    schedule = FULL.respaced(steps)
    assert len(schedule) == steps
    assert schedule.timesteps[[0, -1]].tolist() == [0, 999]
    assert torch.equal(schedule.alphas_cumprod, FULL.alphas_cumprod[schedule.timesteps])
    even = torch.linspace(0, 999, steps, dtype=torch.float64)
    assert (schedule.timesteps - even).abs().max() <= 0.5 + 1e-6


def test_one_step_starts_at_full_noise():
    assert FULL.respaced(1).timesteps.tolist() == [999]


def test_respacing_twice_keeps_original_time_steps():
    assert FULL.respaced(10).respaced([0, 9]).timesteps.tolist() == [0, 999]


def test_sections():
    assert space_timesteps(10, [2, 3]) == [0, 4, 5, 7, 9]
    assert space_timesteps(11, [6, 1]) == [0, 1, 2, 3, 4, 5, 6]
    assert space_timesteps(1000, "ddim250") == list(range(0, 1000, 4))


@pytest.mark.parametrize(
    ("spacing", "message"),
    [
        ([0], "cannot take 0 steps"),
        ([1001], "cannot take 1001 steps from 1000"),
        ([5, 501], "cannot take 501 steps from 500"),
        ([], "names no section"),
        ("ddim999", "no integer stride"),
        ("plms50", "ddimN"),
        ("ddim", "ddimN"),
    ],
)
def test_impossible_spacings(spacing: str | list[int], message: str):
    with pytest.raises(ValueError, match=message):
        space_timesteps(1000, spacing)


def test_bad_schedules_are_refused():
    times = torch.arange(3)
    with pytest.raises(ValueError, match="decrease strictly"):
        Schedule(torch.tensor([0.5, 0.6, 0.1]), times)
    with pytest.raises(ValueError, match="decrease strictly"):
        Schedule(torch.tensor([0.5, 0.3, -0.1]), times)
    with pytest.raises(ValueError, match="vectors of one length"):
        Schedule(torch.tensor([0.5, 0.2]), times)
    with pytest.raises(ValueError, match="increase strictly"):
        FULL.respaced([3, 1])
    with pytest.raises(ValueError, match="from 0 to 999"):
        FULL.respaced([0, 1000])
    with pytest.raises(ValueError, match="beta_start"):
        Schedule.scaled_linear(0.02, 0.01)


def test_zero_terminal_snr() -> None:
    """sqrt(alpha_bar) becomes a linear function of what it was, from the same first value to 0."""
    exact = FULL.zero_terminal_snr(0)
    before, after = FULL.sqrt_alphas_cumprod, exact.sqrt_alphas_cumprod
    assert after[-1] == 0
    torch.testing.assert_close(after[0], before[0])
    slope = after[0] / (before[0] - before[-1])
    torch.testing.assert_close(after, slope * (before - before[-1]), rtol=0, atol=1e-12)
    assert torch.equal(exact.timesteps, FULL.timesteps)
    host = FULL.zero_terminal_snr()
    assert 4e-8 < host.alphas_cumprod[-1] < 5e-8
    assert torch.equal(host.alphas_cumprod[:-1], exact.alphas_cumprod[:-1])
    assert exact.betas[-1] == 1


def test_from_pure_noise_only_a_v_network_tells_x0() -> None:
    exact = FULL.zero_terminal_snr(0).respaced(4)
    x0, noise = torch.randn(2, 1, 4, 3, 2, dtype=torch.float64).unbind()
    assert torch.equal(exact.q_sample(x0, 3, noise), noise)
    torch.testing.assert_close(exact.predict_x0(noise, 3, exact.velocity(x0, 3, noise), "v"), x0)
    with pytest.raises(ValueError, match="eps network cannot tell x0 from pure noise"):
        exact.predict_x0(noise, 3, noise, "eps")


@pytest.mark.parametrize("kind", ["eps", "v"])
def test_the_target_gives_x0_back(kind: PredictionType):
    x0, noise = torch.randn(2, 5, 4, 3, 2, dtype=torch.float64).unbind()
    index = torch.tensor([0, 10, 500, 998, 999])
    x = FULL.q_sample(x0, index, noise)
    target = FULL.target(x0, index, noise, kind)
    torch.testing.assert_close(FULL.predict_x0(x, index, target, kind), x0)


def test_one_index_is_the_same_as_one_each():
    x0, noise = torch.randn(2, 3, 4, 2, 2).unbind()
    one = FULL.q_sample(x0, 7, noise)
    assert torch.equal(one, FULL.q_sample(x0, torch.tensor([7, 7, 7]), noise))


def test_posterior_is_bayes_rule():
    """q(x_{i-1} | x_i, x_0) from the product of two Gaussians, not from DDPM's closed form."""
    schedule, index = FULL.respaced(20), 11
    x0, x = torch.randn(2, 1, 1, 2, 2, dtype=torch.float64).unbind()
    prior = schedule.alphas_cumprod[index - 1]
    alpha = schedule.alphas_cumprod[index] / prior
    precision = 1 / (1 - prior) + alpha / (1 - alpha)
    mean = (prior.sqrt() * x0 / (1 - prior) + alpha.sqrt() * x / (1 - alpha)) / precision

    posterior = schedule.posterior(x0, x, index)
    torch.testing.assert_close(posterior.mean, mean)
    torch.testing.assert_close(posterior.variance.squeeze(), 1 / precision)
    torch.testing.assert_close(posterior.log_variance.squeeze(), -precision.log())


def test_half_precision_samples_are_computed_in_float32():
    x0 = torch.randn(1, 4, 8, 8, dtype=torch.float16)
    noised = FULL.q_sample(x0, 999, torch.zeros_like(x0))
    assert noised.dtype == torch.float32


def test_an_unknown_prediction_type_is_named():
    x = torch.zeros(1, 1, 1, 1)
    with pytest.raises(ValueError, match="'epsilon'"):
        FULL.predict_x0(x, 0, x, "epsilon")  # type: ignore[arg-type]
