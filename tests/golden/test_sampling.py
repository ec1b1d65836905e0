"""Whole sampling loops against the reference's."""

import pytest

from pfstorer_core.diffusion.sampling import start_latent
from pfstorer_core.diffusion.schedule import space_timesteps

from . import golden, networks

NAME = "stablesr_sampling"


@pytest.mark.parametrize("case", networks.loop_cases(NAME))
def test_loop(case: str):
    loop, settings = golden.group(NAME, case), golden.metadata(NAME)[case]
    base = golden.base_schedule()
    schedule = base.respaced(space_timesteps(len(base), [settings["steps"]]))
    assert settings.get("timesteps", schedule.timesteps.tolist()) == schedule.timesteps.tolist()
    model = networks.loop_model(loop, settings.get("guidance_scale", 1.0))
    networks.assert_loop(
        NAME, case, lambda x, t: model(x, t, loop["z_lq"]), schedule, settings["parameterization"]
    )


@pytest.mark.parametrize("case", golden.cases(NAME, "start_noise"))
def test_start(case: str):
    loop = golden.group(NAME, case)
    golden.assert_near(
        start_latent(golden.base_schedule(), loop["z_lq"], loop["start_noise"]), loop["x_T"], 2e-5
    )
