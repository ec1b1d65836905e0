"""DiffBIR's schedules: v1's and v2's, and v2.1's with zero terminal SNR, against the reference's."""

import pytest
import torch

from pfstorer_core.checkpoints.header import RestorerHeader
from pfstorer_core.diffusion.schedule import Schedule

from . import golden

NAME, PLAIN = "diffbir_v21", "diffbir_misc"
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
    buffers = golden.group(name, f"schedule.{steps}")
    assert torch.equal(schedule.timesteps, buffers.pop("timesteps"))
    assert buffers
    for key, buffer in buffers.items():
        golden.assert_ratio(getattr(schedule, key), buffer, 1e-6 if buffer.dtype == torch.float32 else 1e-10)
