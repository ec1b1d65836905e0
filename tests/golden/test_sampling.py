"""Whole sampling loops against the reference's."""

import pytest
import torch

from pfstorer_core.sampling import SamplerStep, sample_ddpm, start_latent
from pfstorer_core.schedule import space_timesteps

from . import golden, networks

NAME = "stablesr_sampling"


@pytest.mark.parametrize("case", networks.loop_cases(NAME))
def test_loop(case: str):
    loop, settings = golden.group(NAME, case), golden.metadata(NAME)[case]
    base = golden.base_schedule()
    schedule = base.respaced(space_timesteps(len(base), [settings["steps"]]))
    assert settings.get("timesteps", schedule.timesteps.tolist()) == schedule.timesteps.tolist()
    model = networks.loop_model(loop, settings.get("guidance_scale", 1.0))
    states: dict[int, torch.Tensor] = {}

    def record(step: SamplerStep) -> None:
        states[step.total - 1 - step.number] = step.x

    out = sample_ddpm(
        lambda x, t: model(x, t, loop["z_lq"]),
        loop["x_T"],
        schedule,
        settings["parameterization"],
        noises=loop["noises"],
        callback=record,
    )
    for index, state in golden.group(NAME, f"{case}.x_after_index").items():
        golden.assert_near(states[int(index)], state)
    golden.assert_near(out, loop["out"])


@pytest.mark.parametrize("case", golden.cases(NAME, "start_noise"))
def test_start(case: str):
    loop = golden.group(NAME, case)
    golden.assert_near(
        start_latent(golden.base_schedule(), loop["z_lq"], loop["start_noise"]), loop["x_T"], 2e-5
    )
