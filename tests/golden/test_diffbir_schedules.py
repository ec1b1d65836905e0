"""DiffBIR's schedules: v1's and v2's, and v2.1's with zero terminal SNR, against the reference's."""

from itertools import pairwise

import pytest
import torch

from pfstorer_core.checkpoints.header import RestorerHeader
from pfstorer_core.diffusion.schedule import Schedule

from . import golden

NAME, PLAIN, GUIDED = "diffbir_v21", "diffbir_misc", "diffbir_guidance_v2"
SAMPLER = golden.metadata(NAME)["sampler"]
FULL = Schedule.scaled_linear(SAMPLER["linear_start"], SAMPLER["linear_end"])
EXACT = FULL.zero_terminal_snr(0)


def test_zero_terminal_snr() -> None:
    stored = golden.group(NAME, "schedule")
    golden.assert_ratio(FULL.betas, stored["betas_before"], 1e-11)
    golden.assert_ratio(EXACT.betas, stored["betas"], 1e-11)
    golden.assert_ratio(EXACT.alphas_cumprod, stored["alphas_cumprod"], 1e-9)
    assert stored["alphas_cumprod"][-1] == EXACT.alphas_cumprod[-1] == 0


def test_a_header_s_own_ends_where_hosts_clamp() -> None:
    header = RestorerHeader(
        prediction_type=SAMPLER["parameterization"],
        beta_start=SAMPLER["linear_start"],
        beta_end=SAMPLER["linear_end"],
        rescale_betas_zero_snr=SAMPLER["zero_snr"],
    )
    expected = golden.tensors(NAME)["schedule.alphas_cumprod"].clone()
    expected[-1] = SAMPLER["clamped_last_alpha_bar"]
    golden.assert_ratio(header.schedule.alphas_cumprod, expected, 1e-9)


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        (name, int(case.split(".")[1]))
        for name in (NAME, PLAIN)
        if golden.has(name)
        for case in golden.cases(name, "posterior_variance")
    ],
)
def test_of_a_sampler(name: str, steps: int) -> None:
    schedule = (EXACT if name == NAME else FULL).respaced(steps)
    assert_buffers(schedule, golden.group(name, f"schedule.{steps}"))


def test_of_a_guided_sampler() -> None:
    sampler = golden.metadata(GUIDED)["sampler"]
    schedule = Schedule.scaled_linear(sampler["linear_start"], sampler["linear_end"])
    assert_buffers(schedule.respaced(sampler["steps"]), golden.group(GUIDED, "schedule"))


@pytest.mark.parametrize("case", golden.cases(NAME, "sigmas"))
def test_of_the_solver_of_v21(case: str) -> None:
    """Evenly spaced from the last step on; at the first the published code has a noise of its own."""
    given = golden.group(NAME, case)
    *timesteps, last = given["timesteps"].tolist()
    assert len(timesteps) == int(case.split(".")[1])
    assert (timesteps[0], last, given["sigmas"][-1]) == (len(EXACT) - 1, 0, 0)
    assert {a - b for a, b in pairwise(timesteps)} == {len(EXACT) // len(timesteps)}
    signal = EXACT.alphas_cumprod[timesteps]
    golden.assert_ratio(((1 - signal) / signal).sqrt()[1:], given["sigmas"][1:-1], 1e-6)
    assert given["sigmas"][0].item() == pytest.approx(1e4)


def assert_buffers(schedule: Schedule, buffers: golden.Group) -> None:
    assert len(buffers) > 1
    for key, buffer in buffers.items():
        if key == "timesteps":
            assert torch.equal(schedule.timesteps, buffer)
        else:
            tolerance = 1e-6 if buffer.dtype == torch.float32 else 1e-10
            golden.assert_ratio(getattr(schedule, key), buffer, tolerance)
