"""DiffBIR's sampling: spaced DDPM of eps and v networks, guidance scales and starts."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from pfstorer_core.diffusion.guidance import rescaled_cfg, with_cfg
from pfstorer_core.diffusion.sampling import start_latent
from pfstorer_core.diffusion.schedule import Schedule

from . import diffbir, golden
from .diffbir import full, trajectory

CONTROL, V21 = "diffbir_control", "diffbir_v21"
SAMPLER = golden.metadata(V21)["sampler"]
IN, OUT = golden.group(V21, "in"), golden.group(V21, "out")


# --- v1 and v2: eps


@pytest.mark.parametrize("case", [key for key in golden.group(CONTROL, "sampler") if "traj_cfg" in key])
def test_eps(case: str) -> None:
    given, own = golden.group(CONTROL, "in"), golden.group(CONTROL, "sampler")
    schedule = full(CONTROL).respaced(len(own["noise"]))
    assert torch.equal(schedule.timesteps, own["timesteps_ascending"])
    hint, generic = given["hint"][:1], given["context_generic"][:1]
    cond, uncond = (
        diffbir.steered(CONTROL, hint, context[:1], generic)
        for context in (given["context_personal"], generic)
    )
    states = trajectory(
        with_cfg(cond, uncond, float(case.removeprefix("traj_cfg"))), own["x_T"], own["noise"], schedule
    )
    golden.assert_near(states, own[case])


def test_eps_from_the_condition() -> None:
    start = start_latent(full(V21), IN["hint"], IN["start_noise"])
    golden.assert_near(start, OUT["start_cond_v1_v2"])
    schedule = full(V21).respaced(SAMPLER["steps"])
    steered, outputs = diffbir.steered(V21, IN["hint"], IN["context"]), list[Tensor]()

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        outputs.append(steered(x, t))
        return outputs[-1]

    states = trajectory(denoise, start, IN["noise"], schedule)
    assert (OUT["spaced_eps_start_cond.cfg"] == 1).all()
    golden.assert_near(torch.stack(outputs), OUT["spaced_eps_start_cond.v"])
    golden.assert_near(states, OUT["spaced_eps_start_cond.traj"])


# --- v2.1: v, zero terminal SNR


EXACT, CLAMPED = (full(V21).zero_terminal_snr(last) for last in (0.0, SAMPLER["clamped_last_alpha_bar"]))


def test_cfg_table() -> None:
    timesteps = torch.tensor(SAMPLER["cfg_timesteps"])
    table = torch.stack([rescaled_cfg(cfg, timesteps) for cfg in SAMPLER["cfg_values"]])
    golden.assert_ratio(table, golden.tensors(V21)["cfg.table"], 1e-12)


V_CASES: Sequence[tuple[str, Schedule, float, bool]] = [
    ("spaced_cfg1", EXACT, 1.0, False),
    ("spaced_cfg1_clamped", CLAMPED, 1.0, False),
    ("spaced_cfg1_noise_aug", EXACT, 1.0, False),
    ("spaced_cfg", EXACT, SAMPLER["cfg"], False),
    ("spaced_cfg_rescaled", EXACT, SAMPLER["cfg"], True),
]


@pytest.mark.parametrize(("case", "full", "cfg", "rescale"), V_CASES, ids=[case[0] for case in V_CASES])
def test_v(case: str, full: Schedule, cfg: float, rescale: bool) -> None:
    hint = OUT["noise_aug_hint"] if "noise_aug" in case else IN["hint"]
    cond, uncond = (diffbir.steered(V21, hint, IN[context]) for context in ("context", "context_uncond"))
    schedule = full.respaced(SAMPLER["steps"])
    guided, outputs = with_cfg(cond, uncond, cfg, rescale=rescale), list[Tensor]()

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        outputs.append(guided(x, t))
        return outputs[-1]

    states = trajectory(denoise, IN["x_T"], IN["noise"], schedule, "v")
    golden.assert_near(torch.stack(outputs), OUT[f"{case}.v"])
    golden.assert_near(states, OUT[f"{case}.traj"])
    used = (
        rescaled_cfg(cfg, schedule.timesteps.flip(0)) if rescale else torch.tensor([cfg]).expand(len(states))
    )
    golden.assert_ratio(used, OUT[f"{case}.cfg"], 1e-12)


def test_a_noised_hint() -> None:
    """DiffBIR's noise augmentation is the forward process; no signal is left where the exact one ends."""
    hint = EXACT.q_sample(IN["hint"], SAMPLER["noise_aug"], IN["aug_noise"])
    golden.assert_near(hint, OUT["noise_aug_hint"], 1e-6)
    assert torch.equal(start_latent(EXACT, IN["hint"], IN["start_noise"]), OUT["start_cond_zero_snr"])


def test_the_loss_of_a_v_network() -> None:
    train = golden.group(V21, "train")
    t, noise = IN["train_t"], IN["train_noise"]
    golden.assert_near(EXACT.q_sample(IN["z0"], t, noise), train["z_t"], 1e-6)
    target = EXACT.target(IN["z0"], t, noise, "v")
    golden.assert_near(target, train["target_v"], 1e-6)
    control = diffbir.control(V21)
    denoise = diffbir.steered(V21, OUT["noise_aug_hint"], IN["context"])
    loss = (denoise(train["z_t"], t) - target).square().mean()
    golden.assert_near(loss, train["loss"].squeeze())
    parameters, expected = dict(control.named_parameters()), golden.group(V21, "train.grad")
    found = torch.autograd.grad(loss, [parameters[key] for key in expected])
    for ours, theirs in zip(found, expected.values(), strict=True):
        assert (ours - theirs).abs().max() <= 1e-4 * theirs.abs().max()
