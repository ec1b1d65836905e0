"""Latent diffusion's DDIM around a conditioned U-Net, against the reference."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pfstorer_core.diffusion.ddim import ddim_timesteps, sample_ddim
from pfstorer_core.diffusion.guidance import with_cfg
from pfstorer_core.diffusion.sampling import Denoiser, SamplerStep
from pfstorer_core.diffusion.schedule import PredictionType
from pfstorer_core.models import Backend
from pfstorer_core.models.codebook import Codebook

from . import golden
from .networks import plain_unet, schedule_of

NAME = "ldm_ddim"
HEADER = golden.metadata(NAME)
IN, OUT = golden.group(NAME, "in"), golden.group(NAME, "out")
STEPS, K = HEADER["steps"], HEADER["start_steps"]
FULL = schedule_of(NAME)


def quantize(x0: Tensor) -> tuple[Tensor, Tensor]:
    entries = golden.tensors(NAME)["codebook"].float()
    codebook = Codebook(len(entries), entries.shape[1], Backend())
    codebook.load_state_dict({"embedding.weight": entries})
    q, indices, _ = codebook.requires_grad_(False)(x0)
    return q, indices


def model(cfg: float = 1.0) -> Denoiser:
    unet = plain_unet(NAME)

    def given(condition: Tensor) -> Denoiser:
        return lambda x, t: unet(x, t, condition=condition)

    return with_cfg(given(IN["cond"]), given(torch.zeros_like(IN["cond"])), cfg)


def test_timesteps_and_noise_levels() -> None:
    schedule = golden.group(NAME, "schedule")
    for name in schedule:
        if name.startswith("uniform."):
            assert ddim_timesteps(int(name.split(".")[1])) == schedule[name].tolist()
    assert ddim_timesteps(STEPS) == schedule["timesteps"].tolist()
    golden.assert_near(FULL.alphas_cumprod, schedule["alphas_cumprod"].double(), 1e-6)
    golden.assert_near(FULL.betas, schedule["betas"].double(), 1e-6)
    visited = FULL.alphas_cumprod[schedule["timesteps"]]
    golden.assert_near(visited, schedule["alphas"], 1e-6)
    for impossible in (3, 9, 27, 36, 37, 101, 111):
        with pytest.raises(ValueError, match="end at time step 1000, and 999 is the last"):
            ddim_timesteps(impossible)


def test_quantize() -> None:
    q, indices = quantize(IN["quantize_z"])
    golden.assert_near(q, OUT["quantized"])
    assert torch.equal(indices, OUT["quantize_indices"])


@pytest.mark.parametrize("eta", [0.0, HEADER["eta1"]])
def test_what_a_step_makes_of_x0_and_noise(eta: float) -> None:
    """sqrt(alpha_prev) of an x0 where eps is 0, and a noise's standard deviation where x0 is, too."""
    schedule, ones = golden.group(NAME, "schedule"), torch.ones(STEPS, 1, 1, 1, 1)
    for x0, noises, expected in (
        (1.0, 0 * ones, schedule["alphas_prev"].sqrt()),
        (0.0, ones, schedule["sigmas_eta1"] * bool(eta)),
    ):
        states = list[SamplerStep]()
        sample_ddim(
            lambda x, _: torch.zeros_like(x), ones[0], FULL, ddim_timesteps(STEPS), "eps", eta=eta,
            noises=noises, guide=lambda x, _, x0=x0: torch.full_like(x, x0), callback=states.append,
        )  # fmt: skip
        golden.assert_near(torch.stack([state.x.squeeze() for state in states]).flip(0), expected, 1e-6)


STARTS: dict[str, Callable[[], Tensor]] = {
    "from_aligned": lambda: OUT["encode.aligned"],
    "from_script": lambda: OUT["encode.script"],
}


@pytest.mark.parametrize("case", [key.removesuffix(".x") for key in OUT if key.endswith(".x")])
def test_trajectory(case: str) -> None:
    """The last x is not the last x0, and eta adds noise there, too: the end is alpha_bar[0]."""
    *start, kind = case.split(".")
    timesteps, states = ddim_timesteps(STEPS)[: K if start else None], list[SamplerStep]()
    sample_ddim(
        model(HEADER["cfg_scale"] if kind.endswith("cfg") else 1.0),
        STARTS[start[0]]() if start else IN["x_T"],
        FULL,
        timesteps,
        "eps",
        eta=HEADER["eta1"] if "eta1" in kind else 0.0,
        noises=IN["noise"],
        guide=(lambda x0, _: quantize(x0)[0]) if kind.endswith("_q") else None,
        callback=states.append,
    )
    assert [state.timestep for state in states] == timesteps[::-1]
    for state, x, x0 in zip(states, OUT[f"{case}.x"], OUT[f"{case}.pred_x0"], strict=True):
        golden.assert_near(state.x, x)
        golden.assert_near(state.x0, x0)


def test_starts() -> None:
    """`aligned` is the level of the first step that is run; the published script's is one above."""
    timesteps, schedule, noise = ddim_timesteps(STEPS), FULL, IN["encode_noise"]
    for name, t in (
        ("aligned", timesteps[K - 1]),
        ("script", timesteps[K]),
        ("raw_timestep", int(IN["raw_timestep"])),
    ):
        golden.assert_near(schedule.q_sample(IN["x0"], t, noise), OUT[f"encode.{name}"], 1e-6)


def test_v_and_eps_networks_that_say_the_same_sample_the_same() -> None:
    """Also with a direction that is derived again from a guided x0."""
    schedule, eps_model = FULL, model()

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        x0 = schedule.predict_x0(x, t, eps := eps_model(x, t), "eps")
        return schedule.velocity(x0, t, eps)

    def sample(network: Denoiser, kind: PredictionType, rederive: bool) -> Tensor:
        timesteps = ddim_timesteps(3, "trailing")
        return sample_ddim(
            network, IN["x_T"], schedule, timesteps, kind, rederive=rederive, guide=lambda x0, _: 0.9 * x0
        )

    for rederive in (False, True):
        golden.assert_near(sample(velocity, "v", rederive), sample(eps_model, "eps", rederive))
    assert not torch.allclose(sample(eps_model, "eps", True), sample(eps_model, "eps", False))
