"""ReF-LDM's references as cached keys and values (CacheKV), against the reference."""

import pytest
import torch
from einops import rearrange
from torch import Tensor

from pfstorer_core.diffusion.ddim import ddim_timesteps, sample_ddim
from pfstorer_core.diffusion.sampling import SamplerStep
from pfstorer_core.models import BlockHooks, UNet
from pfstorer_core.personalization.reference_attention.references import References, ReferenceSettings
from pfstorer_core.restorers.changes import Changes, attention_of, evaluated
from pfstorer_core.restorers.reading import read_photos

from . import golden
from .networks import plain_unet, schedule_of

NAME = "refldm_cachekv"
CFG = ReferenceSettings(cfg=golden.metadata(NAME)["cfg_scale"]).suited(0)
CASES = {
    "eps_ref1": (1, ""), "eps_ref1_later": (1, "_later"), "eps_ref3": (3, ""),
    "eps_ref3_later": (3, "_later"), "eps_ref3_reversed": (-3, ""), "eps_null1": (1, "null"),
    "eps_null3": (3, "null"), "eps_plain": (0, ""),
    "eps_nolq_ref1": (1, "nolq"), "eps_cfg_ref1": (1, "cfg"), "eps_cfg_ref3": (3, "cfg"),
}  # fmt: skip
"""How many references, from the end where negative, and what is done otherwise."""


SCHEDULE = schedule_of(NAME)


@pytest.fixture(scope="module")
def unet() -> UNet:
    return plain_unet(NAME)


def changes_of(unet: UNet, latents: Tensor, settings: ReferenceSettings | None = None) -> Changes:
    """By reference latents [R, C, h, w]."""
    references = References(latents, None, "", settings or ReferenceSettings().suited(0))
    return references.bind(unet, SCHEDULE).prepare(500)


def predict(unet: UNet, x: Tensor, t: Tensor, lq: Tensor, changes: list[Changes]) -> Tensor:
    def evaluate(now: Changes) -> Tensor:
        return unet(x, t, condition=lq, hooks=BlockHooks(self_attention=attention_of(now)))

    return evaluated(evaluate, changes)


def test_keys_and_values_are_those_of_the_stored_attentions(unet: UNet) -> None:
    refs, out = golden.tensors(NAME)["in.refs"], golden.group(NAME, "out")
    read = read_photos(unet, refs, 0, None)
    assert len(read) == golden.metadata(NAME)["n_attentions"]
    for module in golden.metadata(NAME)["kv_attentions"]:
        layer = module.removesuffix(".attention")
        for part, kind in ((1, "k"), (2, "v")):
            stored = out[f"{kind}.{module}"]
            expected = rearrange(stored, "r (b head) d n -> b (r n) (head d)", b=refs.shape[1])
            golden.assert_near(read[layer][part], expected)


@pytest.mark.parametrize("name", CASES)
def test_predictions(unet: UNet, name: str) -> None:
    given, (count, how) = golden.group(NAME, "in"), CASES[name]
    refs = given["refs"].flip(0)[:-count] if count < 0 else given["refs"][:count]
    later = how if how == "_later" else ""
    x, t = given[f"x{later}"], given[f"timesteps{later}"]
    lq = given["lq"] * (how != "nolq")
    refs = refs * (how != "null")
    for row in range(len(x)):
        mine = [changes_of(unet, refs[:, row], CFG if how == "cfg" else None)] if count else []
        eps = predict(unet, x[[row]], t[[row]], lq[[row]], mine)
        golden.assert_near(eps, golden.group(NAME, "out")[name][[row]])


@pytest.mark.parametrize(("name", "count"), [("cfg_ref2", 2), ("nocfg_ref1", 1), ("odd_cfg_ref3", 3)])
def test_trajectories(unet: UNet, name: str, count: int) -> None:
    given, out = golden.group(NAME, "in"), golden.group(NAME, f"out.{name}")
    changes = [changes_of(unet, given["refs"][:count, 0], None if "nocfg" in name else CFG)]

    def eps_of(x: Tensor, t: Tensor) -> Tensor:
        return predict(unet, x, t, given["lq"][:1], changes)

    steps, visited = list[SamplerStep](), out["timesteps"].tolist()
    sample_ddim(eps_of, given["x_T"], SCHEDULE, visited, "eps", callback=steps.append)
    golden.assert_near(torch.stack([step.x for step in steps]), out["x"])
    golden.assert_near(torch.stack([step.x0 for step in steps]), out["pred_x0"])


def test_schedule() -> None:
    stored = golden.group(NAME, "schedule")
    golden.assert_near(SCHEDULE.alphas_cumprod, stored["alphas_cumprod"].double(), 1e-6)
    for name in stored:
        spacing, _, steps = name.partition(".")
        if steps and stored[name][-1] < len(SCHEDULE):
            assert ddim_timesteps(int(steps), spacing) == stored[name].tolist()
        elif steps:
            with pytest.raises(ValueError, match=f"end at time step {stored[name][-1]}"):
                ddim_timesteps(int(steps), spacing)
    visited = ddim_timesteps(golden.metadata(NAME)["steps"], "uniform_trailing")
    golden.assert_near(SCHEDULE.respaced(visited).alphas_cumprod, stored["alphas"], 1e-6)
    golden.assert_near(SCHEDULE.alphas_cumprod[[0, *visited[:-1]]], stored["alphas_prev"], 1e-6)
