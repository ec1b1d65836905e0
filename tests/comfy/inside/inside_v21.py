"""DiffBIR v2.1's own samplers are the host's dpmpp_3m_sde and ddim, without new noise: the same numbers."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import comfy.k_diffusion.sampling
import comfy.model_sampling
import pytest
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[3]
sys.path += [str(ROOT), str(ROOT / "tests")]  # after the host's own modules

from golden import diffbir, golden  # noqa: E402

from pfstorer_core.checkpoints.header import RestorerHeader  # noqa: E402
from pfstorer_core.diffusion.guidance import with_cfg  # noqa: E402

NAME = "diffbir_v21"
CASES = golden.cases(NAME, "z") if golden.has(NAME) else []


class Levels(comfy.model_sampling.ModelSamplingDiscrete, comfy.model_sampling.V_PREDICTION):
    """The host's noise levels of a v network with zero terminal SNR."""


def levels() -> Levels:
    return Levels(SimpleNamespace(sampling_settings={"zsnr": True}))


class Model:
    """What the host's samplers call, of the golden networks.

    Args:
        sigmas, timesteps: noise levels of the steps, and what the networks are told there.
    """

    def __init__(self, sigmas: Tensor, timesteps: Tensor, case: str) -> None:
        self.sigmas, self.timesteps, self.levels = sigmas, timesteps, levels()
        self.inner_model = SimpleNamespace(model_patcher=self)
        given, sampler = golden.group(NAME, "in"), golden.metadata(NAME)["sampler"]
        cond, uncond = (
            diffbir.steered(NAME, given["hint"], given[context]) for context in ("context", "context_uncond")
        )
        cfg = sampler["cfg"] if "cfg_rescaled" in case else 1.0
        self.predict = with_cfg(cond, uncond, cfg, rescale="rescaled" in case)

    def get_model_object(self, _: str) -> Levels:
        return self.levels

    def __call__(self, x: Tensor, sigma: Tensor, **_: Any) -> Tensor:
        t = self.timesteps[(self.sigmas - sigma[0]).abs().argmin()].expand(len(x))
        v = self.predict(self.levels.calculate_input(sigma, x), t)
        return self.levels.calculate_denoised(sigma, v, x)


def test_noise_levels() -> None:
    """The core's schedule of such a header is the host's."""
    header = RestorerHeader(prediction_type="v", rescale_betas_zero_snr=True)
    signal = header.schedule.alphas_cumprod
    torch.testing.assert_close(levels().sigmas.double(), ((1 - signal) / signal).sqrt(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("case", [case for case in CASES if "edm_3m" in case])
def test_solver(case: str) -> None:
    steps = golden.group(NAME, f"edm.{golden.metadata(NAME)['sampler']['steps']}")
    model, sigmas = Model(steps["sigmas"], steps["timesteps"], case), steps["sigmas"]
    start = golden.tensors(NAME)["in.x_T"] * (1 + sigmas[0] ** 2).sqrt()
    found = comfy.k_diffusion.sampling.sample_dpmpp_3m_sde(model, start, sigmas, eta=0.0, disable=True)
    golden.assert_near(found, golden.tensors(NAME)[f"{case}.z"])


@pytest.mark.parametrize("case", [case for case in CASES if "ddim" in case])
def test_ddim(case: str) -> None:
    """Euler's steps; DDIM stops at the first noise level, not at none."""
    timesteps = torch.cat([golden.tensors(NAME)["ddim.timesteps"].flip(0), torch.tensor([0])])
    signal = golden.tensors(NAME)["schedule.alphas_cumprod"][timesteps]
    sigmas = ((1 - signal) / signal).sqrt().float()
    start = golden.tensors(NAME)["in.x_T"] / signal[0].sqrt().float()
    model = Model(sigmas, timesteps, case)
    found = comfy.k_diffusion.sampling.sample_euler(model, start, sigmas, disable=True)
    golden.assert_near(found * signal[-1].sqrt().float(), golden.tensors(NAME)[f"{case}.z"])
