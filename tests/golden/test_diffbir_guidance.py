"""DiffBIR's restoration guidance, the rules of both generations, against the reference."""

from functools import partial
from typing import Any

import pytest
import torch
from einops import rearrange
from torch import Tensor

from pfstorer_core.diffusion.guidance import with_cfg
from pfstorer_core.diffusion.restoration_guidance import (
    RULES,
    GuidanceSettings,
    RestorationGuidance,
    Target,
    flatness,
)
from pfstorer_core.diffusion.sampling import Guide
from pfstorer_core.diffusion.schedule import Schedule
from pfstorer_core.imaging.color import color_fix

from . import diffbir, golden
from .diffbir import full, trajectory

V2, CONTROL, WHOLE, MISC = "diffbir_guidance_v2", "diffbir_control", "diffbir_end_to_end", "diffbir_misc"
CASES: list[dict[str, Any]] = golden.metadata(V2)["cases"]


class Recording(RestorationGuidance):
    """Keeps the losses of every step that it acted in."""

    def loss(self, x0: Tensor, target: Tensor) -> Tensor:
        found = super().loss(x0, target)
        self.__dict__.setdefault("losses", []).append(found.mean().item())
        return found


def always(target: Tensor) -> Target:
    return lambda timestep, repeat: target


def drawn(name: str, picture: Tensor, noises: Tensor, schedule: Schedule) -> Target:
    """Posterior samples of a picture [1, 3, H, W] in [-1, 1], by the reference's draws."""
    mean, logvar = diffbir.autoencoder(name).moments(picture)
    place = {int(t): step for step, t in enumerate(schedule.timesteps.flip(0))}

    def draw(timestep: int, repeat: int) -> Tensor:
        return diffbir.scale_factor(name) * (mean + (0.5 * logvar).exp() * noises[place[timestep], repeat])

    return draw


def test_the_target_s_distribution() -> None:
    mean, logvar = diffbir.autoencoder(V2).moments(golden.tensors(V2)["in.target"])
    golden.assert_near(mean, golden.tensors(V2)["out.target_mean"])
    golden.assert_near((0.5 * logvar).exp(), golden.tensors(V2)["out.target_std"])


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_second_generation(case: dict[str, Any]) -> None:
    given, expected = golden.group(V2, "in"), golden.group(V2, f"out.{case['name']}")
    sampler = golden.metadata(V2)["sampler"]
    schedule = full(V2).respaced(sampler["steps"])
    cond, uncond = (diffbir.steered(V2, given["hint"], given[c]) for c in ("context", "context_uncond"))
    assert RULES["v2"].factor == sampler["factor"]
    before, after = list[Tensor](), list[Tensor]()
    guidance: Recording | None = None
    if case["window"]:
        space, (start, stop) = case["space"], case["window"]
        settings = GuidanceSettings(
            sampler[f"scale_{space}"], space, case["loss"], "v2", case["repeat"], start, stop
        )
        if space == "rgb":
            target = always(given["target"])
        elif case["name"].endswith("_mode"):
            target = always(diffbir.scale_factor(V2) * golden.tensors(V2)["out.target_mean"])
        else:
            target = drawn(V2, given["target"], given["target_noise"], schedule)
        guidance = Recording(settings, schedule, target, partial(diffbir.decode, V2))

    def guide(x0: Tensor, timestep: int) -> Tensor:
        before.append(x0)
        after.append(guidance(x0, timestep) if guidance else x0)
        return after[-1]

    denoise = with_cfg(cond, uncond, case["cfg"])
    states = trajectory(denoise, given["x_T"], given["noise"], schedule, guide=guide)
    golden.assert_near(states, expected["traj"])
    if guidance:
        golden.assert_near(torch.stack(before), expected["x0_before"])
        golden.assert_near(torch.stack(after), expected["x0_after"])
        acted = torch.tensor(guidance.__dict__["losses"]).reshape(-1, case["repeat"]).mean(1)
        golden.assert_ratio(acted, expected["loss"][expected["loss"].isfinite()], 1e-4)


def test_first_generation() -> None:
    given, own = golden.group(CONTROL, "in"), golden.group(CONTROL, "sampler")
    schedule = full(CONTROL).respaced(len(own["noise"]))
    entry = golden.metadata(CONTROL)["sampler"]["guidance"]
    guide = first_guide(CONTROL, entry, schedule, always(own["guidance_target"]))
    contexts = given["context_personal"][:1], given["context_generic"][:1]
    denoise = diffbir.steered(CONTROL, given["hint"][:1], *contexts)
    states = trajectory(denoise, own["x_T"], own["noise"], schedule, guide=guide)
    golden.assert_near(states, own["traj_guided"])


@pytest.mark.parametrize(("entry", "case"), [("guidance", "guided_v1"), ("guidance_rgb", "guided_v1_rgb")])
def test_first_generation_towards_the_cleaned_picture(entry: str, case: str) -> None:
    pipeline, given = golden.metadata(WHOLE)["pipeline"], golden.group(WHOLE, "in")
    schedule = Schedule.scaled_linear().respaced(pipeline["timesteps"])
    clean = 2 * golden.tensors(WHOLE)["out.clean"] - 1
    latent = pipeline[entry]["space"] == "latent"
    target = drawn(WHOLE, clean, given["target_noise"], schedule) if latent else always(clean)
    guide = first_guide(WHOLE, pipeline[entry], schedule, target)
    contexts = given["context_personal"], given["context_null"]
    denoise = diffbir.steered(WHOLE, golden.tensors(WHOLE)["out.hint"], *contexts)
    states = trajectory(denoise, given["x_T"], given["noise"], schedule, guide=guide)
    golden.assert_near(states, golden.tensors(WHOLE)[f"{case}.traj"])
    picture = color_fix((diffbir.decode(WHOLE, states[-1]) + 1) / 2, (clean + 1) / 2, "wavelet")
    expected = rearrange(golden.tensors(WHOLE)[f"{case}.uint8"], "h w c -> 1 c h w").int()
    levels = (255 * picture.clamp(0, 1)).int()[..., : expected.shape[-2], : expected.shape[-1]]
    off = (levels - expected).abs()
    assert off.max() <= 1
    assert (off > 0).float().mean() <= 0.02


def first_guide(name: str, entry: dict[str, Any], schedule: Schedule, target: Target) -> Guide:
    settings = GuidanceSettings(
        entry["scale"], entry["space"], "mse", "v1", entry["repeat"], entry["t_start"], entry["t_stop"]
    )
    return RestorationGuidance(settings, schedule, target, partial(diffbir.decode, name))


def test_flatness() -> None:
    pictures = golden.group(MISC, "color")
    golden.assert_near(flatness(pictures["style"]), golden.tensors(MISC)["guidance.weight_map"], 1e-5)
    picture = (golden.tensors(V2)["in.target"] + 1) / 2
    golden.assert_near(flatness(picture), golden.tensors(V2)["out.weight_map"], 1e-5)


def test_a_weighted_step() -> None:
    """On a picture itself, at the last step, where x0 is the mean."""
    content, style = (2 * golden.group(MISC, "color")[key] - 1 for key in ("content", "style"))
    key = next(key for key in golden.tensors(MISC) if "weighted_delta_scale" in key)
    scale = float(key.partition("weighted_delta_scale")[2].replace("p", "."))
    guidance = RestorationGuidance(
        GuidanceSettings(scale), Schedule.scaled_linear().respaced(5), always(style), lambda x0: x0
    )
    golden.assert_near(guidance(content, 0) - content, golden.tensors(MISC)[key], 1e-5)
