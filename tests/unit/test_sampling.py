"""The DDPM sampler on models whose answer is known."""

import pytest
import torch
from torch import Tensor

from pfstorer_core.diffusion.guidance import cfg_combine, guide_towards, rescaled_cfg, with_cfg
from pfstorer_core.diffusion.sampling import Denoiser, SamplerStep, sample_ddpm, start_latent
from pfstorer_core.diffusion.schedule import PredictionType, Schedule

FULL = Schedule.scaled_linear()
SHAPE = (2, 4, 6, 5)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gaussian_model(kind: PredictionType, deviation: float = 0.5) -> Denoiser:
    """The exact denoiser of data that is normal with this standard deviation."""

    def model(x: Tensor, t: Tensor) -> Tensor:
        signal = FULL.alphas_cumprod[t].reshape(-1, 1, 1, 1)
        x0 = signal.sqrt() * deviation**2 / (signal * deviation**2 + 1 - signal) * x
        eps = (x - signal.sqrt() * x0) / (1 - signal).sqrt()
        return eps if kind == "eps" else signal.sqrt() * eps - (1 - signal).sqrt() * x0

    return model


def test_eps_and_v_networks_take_the_same_path():
    x = torch.randn(SHAPE, dtype=torch.float64, generator=seeded(0))
    noises = torch.randn(20, *SHAPE, dtype=torch.float64, generator=seeded(1))
    by_eps, by_v = (
        sample_ddpm(gaussian_model(kind), x, FULL.respaced(20), kind, noises=noises) for kind in ("eps", "v")
    )
    torch.testing.assert_close(by_eps, by_v)


def test_samples_have_the_data_s_spread():
    x = torch.randn(1, 1, 128, 128, generator=seeded(0))
    model = gaussian_model("eps", deviation=0.5)
    samples = sample_ddpm(model, x, FULL.respaced(200), "eps", generator=seeded(1))
    assert samples.std().item() == pytest.approx(0.5, rel=0.05)
    assert samples.mean().item() == pytest.approx(0, abs=0.02)


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_a_model_that_knows_the_answer_gives_it(steps: int):
    answer = torch.randn(SHAPE, dtype=torch.float64, generator=seeded(0))

    def model(x: Tensor, t: Tensor) -> Tensor:
        signal = FULL.alphas_cumprod[t].reshape(-1, 1, 1, 1)
        return (x - signal.sqrt() * answer) / (1 - signal).sqrt()

    x = torch.randn(SHAPE, dtype=torch.float64, generator=seeded(1))
    result = sample_ddpm(model, x, FULL.respaced(steps), "eps", generator=seeded(2))
    torch.testing.assert_close(result, answer)


def test_callback_sees_every_step_and_the_network_the_original_time():
    schedule, steps, told = FULL.respaced(5), list[SamplerStep](), list[list[int]]()

    def model(x: Tensor, t: Tensor) -> Tensor:
        told.append(t.tolist())
        return 0.1 * x

    x = torch.randn(SHAPE, generator=seeded(0))
    result = sample_ddpm(model, x, schedule, "v", generator=seeded(1), callback=steps.append)
    assert [(step.number, step.total) for step in steps] == [(k, 5) for k in range(5)]
    expected = schedule.timesteps.flip(0).tolist()
    assert [step.timestep for step in steps] == expected
    assert told == [[t] * SHAPE[0] for t in expected]
    assert torch.equal(steps[-1].x, result)
    torch.testing.assert_close(steps[-1].x0, result)


def test_raising_in_the_callback_stops():
    calls = list[int]()

    def interrupt(step: SamplerStep) -> None:
        calls.append(step.number)
        raise InterruptedError

    with pytest.raises(InterruptedError):
        sample_ddpm(lambda x, t: x, torch.zeros(SHAPE), FULL.respaced(9), "eps", callback=interrupt)
    assert calls == [0]


def test_generators_decide_the_result():
    def run(seed: int) -> Tensor:
        x = torch.ones(SHAPE)
        model = gaussian_model("eps")
        return sample_ddpm(model, x, FULL.respaced(4), "eps", generator=seeded(seed))

    assert torch.equal(run(0), run(0))
    assert not torch.equal(run(0), run(1))


def test_given_noises_replace_the_generator_s():
    schedule, x = FULL.respaced(4), torch.ones(SHAPE)
    model = gaussian_model("v")
    # The last step takes no noise.
    generator = seeded(3)
    noises = [torch.randn(SHAPE, generator=generator) for _ in range(3)]
    drawn = sample_ddpm(model, x, schedule, "v", generator=seeded(3))
    assert torch.equal(drawn, sample_ddpm(model, x, schedule, "v", noises=noises))
    with pytest.raises(ValueError, match="4 steps need 3 noises or more, got 2"):
        sample_ddpm(model, x, schedule, "v", noises=noises[:2])


def test_a_half_precision_network_does_not_degrade_the_state():
    states = list[Tensor]()

    def model(x: Tensor, t: Tensor) -> Tensor:
        states.append(x)
        return x.half()

    x = torch.ones(SHAPE, dtype=torch.float16)
    result = sample_ddpm(model, x, FULL.respaced(3), "eps", generator=seeded(0))
    assert {state.dtype for state in [*states, result]} == {torch.float32}


def test_start_latent_mixes_the_latent_with_full_noise():
    lq, noise = torch.randn(2, *SHAPE, generator=seeded(0)).unbind()
    expected = 0.06826 * lq + 0.99767 * noise
    torch.testing.assert_close(start_latent(FULL, lq, noise), expected, rtol=0, atol=1e-4)


def test_guidance_scale():
    cond, uncond = torch.randn(2, *SHAPE).unbind()
    torch.testing.assert_close(cfg_combine(cond, uncond, 1.0), cond)
    torch.testing.assert_close(cfg_combine(cond, uncond, 0.0), uncond)
    torch.testing.assert_close(cfg_combine(cond, uncond, 3.0), 3 * cond - 2 * uncond)
    each = cfg_combine(cond, uncond, torch.tensor([3.0, 0.0], dtype=torch.float64))
    assert each.dtype == cond.dtype
    torch.testing.assert_close(each, torch.stack([3 * cond[0] - 2 * uncond[0], uncond[1]]))


def test_the_rescaled_scale_grows_from_1_to_cfg_and_1() -> None:
    scale = rescaled_cfg(6.0, torch.arange(1000))
    assert scale[999] == 1
    assert scale[0] == 7
    assert (scale.diff() <= 0).all()
    assert scale[500].item() == pytest.approx(1.0144, abs=1e-4)
    assert torch.equal(rescaled_cfg(0.5, torch.tensor([0, 999])), torch.tensor([0.5, 0.5]).double())


@pytest.mark.parametrize("rescale", [False, True])
def test_a_guided_denoiser_asks_for_the_unconditional_only_where_it_counts(rescale: bool) -> None:
    x, asked = torch.ones(SHAPE), list[int]()

    def uncond(x: Tensor, t: Tensor) -> Tensor:
        asked.append(int(t[0]))
        return 0 * x

    def told(cfg: float, t: int) -> float:
        guided = with_cfg(lambda x, t: 2 * x, uncond, cfg, rescale=rescale)
        return guided(x, torch.full((2,), t)).unique().item()

    assert (told(1.0, 0), told(1.0, 999), asked) == (2, 2, [])
    assert (told(4.0, 0), asked) == (10 if rescale else 8, [0])
    assert (told(4.0, 999), asked) == ((2, [0]) if rescale else (8, [0, 999]))


def test_reference_guidance_takes_gradient_steps():
    x0, reference = torch.randn(2, *SHAPE, generator=seeded(0)).unbind()
    guided = x0.clone()
    for _ in range(4):
        guided.requires_grad_()
        (gradient,) = torch.autograd.grad(((guided - reference) ** 2).sum(), guided)
        guided = (guided - 0.1 * gradient).detach()
    torch.testing.assert_close(guide_towards(x0, reference, steps=4, step_size=0.1), guided)


def test_the_guide_acts_on_every_prediction():
    target = torch.full(SHAPE, 0.25)
    x = torch.randn(SHAPE, generator=seeded(0))
    told = list[int]()

    def guide(x0: Tensor, timestep: int) -> Tensor:
        told.append(timestep)
        return target

    result = sample_ddpm(lambda x, t: x, x, FULL.respaced(3), "eps", generator=seeded(1), guide=guide)
    torch.testing.assert_close(result, target)
    assert told == FULL.respaced(3).timesteps.tolist()[::-1]
