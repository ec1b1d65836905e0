"""The noise schedule against the reference's, which is derived in float32."""

import json

import pytest
import torch

from pfstorer_core.diffusion.guidance import guide_towards
from pfstorer_core.diffusion.sampling import start_latent
from pfstorer_core.diffusion.schedule import PredictionType, Schedule, space_timesteps

from . import golden

NAME = "stablesr_schedule"
NUMBERS = golden.document(NAME)
TENSORS = golden.tensors(NAME)
GROUPS = golden.cases(NAME, "alphas_cumprod")
KINDS = [case.removeprefix("posterior.") for case in golden.cases(NAME, "model_out")]


def schedule_of(group: str, dtype: torch.dtype = torch.float64) -> Schedule:
    """`base` and `train` are the full schedule, `respaced<N>` is that of N steps."""
    base = golden.base_schedule(dtype)
    count = group.removeprefix("respaced")
    return base.respaced(space_timesteps(len(base), [int(count)])) if count.isdecimal() else base


def test_the_full_schedule_in_float64():
    base = golden.base_schedule()
    for ours, key in ((base.betas, "betas_f64"), (base.alphas_cumprod, "alphas_cumprod_f64")):
        expected = torch.tensor(NUMBERS[key], dtype=torch.float64)
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("group", GROUPS)
def test_buffers(group: str):
    expected = golden.group(NAME, group)
    ours = schedule_of(group)
    assert expected
    # Respacing in float32 costs the reference up to 7e-5.
    tolerance = 1e-6 if group == "base" else 1e-4
    for key, buffer in expected.items():
        golden.assert_ratio(getattr(ours, key), buffer, tolerance)


@pytest.mark.parametrize("group", [group for group in GROUPS if group != "base"])
def test_float32_buffers_are_the_reference_s_own(group: str):
    ours = schedule_of(group, torch.float32)
    for key, buffer in golden.group(NAME, group).items():
        golden.assert_ratio(getattr(ours, key), buffer, 1e-6)


@pytest.mark.parametrize("count", NUMBERS["respaced"])
def test_respaced(count: str):
    expected = NUMBERS["respaced"][count]
    base = golden.base_schedule()
    ours = base.respaced(space_timesteps(len(base), [int(count)]))
    assert ours.timesteps.tolist() == expected["timesteps"]
    for ours_at, key, tolerance in (
        (base.alphas_cumprod[expected["timesteps"]], "alphas_cumprod_base_f32_at_timesteps", 1e-6),
        (ours.alphas_cumprod, "alphas_cumprod_respaced_f32", 1e-6),
        (ours.betas, "betas_respaced_f32", 1e-4),
    ):
        golden.assert_ratio(ours_at, torch.tensor(expected[key]), tolerance)


@pytest.mark.parametrize("spacing", NUMBERS["space_timesteps_examples"])
def test_space_timesteps(spacing: str):
    asked = json.loads(spacing) if spacing.startswith("[") else spacing
    total = NUMBERS["num_train_timesteps"]
    assert space_timesteps(total, asked) == NUMBERS["space_timesteps_examples"][spacing]


@pytest.mark.parametrize("key", [key for key in TENSORS if key.startswith("qstart.x_T.")])
def test_start_latent(key: str):
    base, timestep = golden.base_schedule(), int(key.rpartition(".")[2])
    start = golden.group(NAME, "qstart")
    golden.assert_near(start_latent(base, start["z_lq"], start["noise"], timestep), TENSORS[key], 2e-5)
    if timestep == NUMBERS["start_timestep"]:
        golden.assert_near(start_latent(base, start["z_lq"], start["noise"]), TENSORS[key], 2e-5)


def test_forward_process_and_velocity():
    base, start, sampled = (
        golden.base_schedule(),
        *(golden.group(NAME, g) for g in ("qstart", "qsample")),
    )
    x_t = base.q_sample(start["z_lq"], sampled["t"], start["noise"])
    golden.assert_near(x_t, sampled["x_t"], 2e-5)
    golden.assert_near(base.velocity(start["z_lq"], sampled["t"], start["noise"]), sampled["v"], 2e-5)


@pytest.mark.parametrize("index", range(len(NUMBERS["posterior"]["index"])))
@pytest.mark.parametrize("kind", KINDS)
def test_one_reverse_step(kind: PredictionType, index: int):
    asked = NUMBERS["posterior"]
    index, timestep = asked["index"][index], asked["timesteps"][index]
    base = golden.base_schedule()
    schedule = base.respaced(space_timesteps(len(base), [asked["steps"]]))
    assert schedule.timesteps[index] == timestep
    given = golden.group(NAME, f"posterior.{kind}")
    expected = golden.group(NAME, f"posterior.{kind}.{index}")

    x0 = schedule.predict_x0(given["x"], index, given["model_out"], kind)
    mean, variance, log_variance = schedule.posterior(x0, given["x"], index)
    golden.assert_near(x0, expected["x0"])
    golden.assert_near(mean, expected["mean"])
    golden.assert_ratio(variance.flatten(), expected["variance"], 1e-4)
    golden.assert_ratio(log_variance.flatten(), expected["log_variance"], 1e-4)
    noise = (0.5 * log_variance).exp() * given["noise"] if index else 0
    golden.assert_near(mean + noise, expected["sample"])


@pytest.mark.parametrize("kind", [key.split(".")[1] for key in golden.cases(NAME, "ref")])
def test_guidance_towards_a_reference(kind: PredictionType):
    asked = NUMBERS["posterior"]
    guidance = asked["refguide"]
    base = golden.base_schedule()
    schedule = base.respaced(space_timesteps(len(base), [asked["steps"]]))
    given, expected = (
        golden.group(NAME, f"posterior.{kind}"),
        golden.group(NAME, f"refguide.{kind}"),
    )
    x0 = schedule.predict_x0(given["x"], guidance["index"], given["model_out"], kind)
    guided = guide_towards(x0, expected["ref"], steps=guidance["steps"], step_size=guidance["lr"])
    golden.assert_near(guided, expected["x0"])
