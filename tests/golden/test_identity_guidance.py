"""Identity guidance against the reference calculation: each term, each mask, and whole trajectories."""

from typing import Any

import pytest
import torch
from torch import Tensor

from pfstorer_core.diffusion.ddim import sample_ddim
from pfstorer_core.diffusion.identity_guidance import IdentityGuidance, IdentitySettings
from pfstorer_core.diffusion.sampling import SamplerStep
from pfstorer_core.diffusion.schedule import Schedule
from pfstorer_core.recognition import cosines
from pfstorer_core.restorers.clr_face.train_mask import mask_terms

from . import golden
from .networks import decoder, recogniser, schedule_of

FILE = "clr_guidance"
ALL = IdentitySettings(1.0, clip=1e9, t_start=1001)


def given(key: str) -> Tensor:
    return golden.tensors(FILE)[key]


def settings(**others: Any) -> IdentitySettings:
    header = golden.metadata(FILE)
    return IdentitySettings(**{"strength": header["strength"], "clip": 1e9, "t_start": 1001, **others})


def guidance(
    how: IdentitySettings,
    schedule: Schedule,
    person: Tensor | None = None,
    mask: Tensor | None = None,
    rows: slice = slice(None),
    **others: Any,
) -> IdentityGuidance:
    """Of some rows of the batch, each towards the picture of its number, or all towards one person."""
    towards = given("target.embeddings")[rows] if person is None else person

    def likeness(x0: Tensor, number: int) -> Tensor:
        own = towards[number] if towards.ndim > 1 else towards
        return cosines(recogniser(FILE).embed(decoder(FILE).decode(x0)), own)

    return IdentityGuidance(how, schedule, likeness, 1.0, mask, **others)


def of_each_row(how: IdentitySettings, mask: Tensor | None, person: Tensor | None = None) -> Tensor:
    """x0 after a step at its own time step, in a schedule of all of them."""
    guided = list[Tensor]()
    for row, timestep in enumerate(given("in.timesteps").tolist()):
        rows = slice(row, row + 1)
        own = mask[rows] if mask is not None and mask.ndim == 4 else mask
        guide = guidance(how, schedule_of(FILE), person, own, rows)
        guided.append(guide(given("out.pred_x0")[rows], timestep))
    return torch.cat(guided)


def test_the_gradient() -> None:
    noted = list[tuple[Tensor, Tensor]]()
    guide = guidance(ALL, schedule_of(FILE), on_step=lambda _, likeness, rms: noted.append((likeness, rms)))
    x0 = given("out.pred_x0")
    likeness, gradient = guide.gradient(x0)
    golden.assert_near(1 - likeness, given("out.loss"))
    golden.assert_ratio(gradient.norm(), given("out.grad").norm(), 1e-4)
    scale = given("out.grad").abs().max().item()
    torch.testing.assert_close(gradient, given("out.grad"), rtol=0, atol=1e-4 * scale)
    unit = guide.step(gradient, gradient.square().mean((1, 2, 3)).sqrt())
    golden.assert_near(unit, given("out.grad_unit"))
    guide(x0, 0)
    golden.assert_near(1 - noted[0][0], given("out.loss"))
    golden.assert_ratio(noted[0][1], given("out.grad_rms"), 1e-4)
    slope = (gradient.double() * given("check.direction").double()).sum((1, 2, 3))
    golden.assert_ratio(slope, given("check.directional_derivative"), 1e-3)


def test_what_is_decoded() -> None:
    decoded = decoder(FILE).decode(given("out.pred_x0"))
    golden.assert_near(decoded, given("out.decoded"))
    golden.assert_near(recogniser(FILE).embed(decoded), given("out.embedding"))
    x0 = torch.cat(
        [
            schedule_of(FILE).predict_x0(x, int(t), eps, "eps")
            for x, t, eps in zip(
                given("in.z_t").split(1), given("in.timesteps"), given("in.eps").split(1), strict=True
            )
        ]
    )
    golden.assert_near(x0, given("out.pred_x0"))
    signal = schedule_of(FILE).sqrt_alphas_cumprod[given("in.timesteps")]
    golden.assert_near(signal, given("out.sqrt_alpha_bar"))
    golden.assert_near(schedule_of(FILE).alphas_cumprod, given("schedule.alphas_cumprod"), 1e-6)


MASKS = {
    "mask0": lambda: torch.zeros(()),
    "mask1": lambda: None,
    "random": lambda: given("in.mask_random"),
    "per_sample": lambda: given("in.mask_per_sample"),
    "logits": lambda: given("in.mask_logits").sigmoid(),
    "binary": lambda: given("in.mask_binary"),
}


@pytest.mark.parametrize("name", MASKS)
def test_masks(name: str) -> None:
    """Each acts after the gradient was made one of unit size; one of zeros changes nothing, bit for bit."""
    guided = of_each_row(settings(), MASKS[name]())
    golden.assert_near(guided, given(f"out.{name}.x0"))
    if name == "mask0":
        assert torch.equal(guided, given("out.pred_x0"))
    after = cosines(recogniser(FILE).embed(decoder(FILE).decode(guided)), given("target.embeddings"))
    golden.assert_near(1 - after, given(f"out.{name}.loss_after"))
    if f"out.{name}.posterior_mean" in golden.tensors(FILE):
        mean = schedule_of(FILE).posterior(guided, given("in.z_t"), given("in.timesteps")).mean
        golden.assert_near(mean, given(f"out.{name}.posterior_mean"))


def test_one_person_for_all() -> None:
    person = given("target.mean_of_units")[0]
    golden.assert_near(of_each_row(settings(), None, person), given("out.one_target.x0"))


def test_a_value_that_would_move_too_far() -> None:
    clipped = of_each_row(settings(clip=golden.metadata(FILE)["clip"]), None)
    golden.assert_near(clipped, given("out.clipped.x0"))


@pytest.mark.parametrize("rederived", [False, True], ids=["eps kept", "eps of x0"])
@pytest.mark.parametrize(("name", "every"), [("every1", 1), ("every2", 2), ("none", 1)])
def test_trajectories(name: str, every: int, rederived: bool) -> None:
    """DDIM with an eps that is a formula: in which steps guidance acts, and what becomes of it."""
    traj = golden.group(FILE, "traj")
    strength = 0.0 if name == "none" else golden.metadata(FILE)["strength"]
    how = settings(strength=strength, every=every, t_start=golden.metadata(FILE)["window"])
    schedule = schedule_of(FILE).respaced(traj["timesteps"].tolist())
    guide, steps = guidance(how, schedule, mask=given("in.mask_random")), list[SamplerStep]()
    acts = [guide.acts(int(t)) for t in schedule.timesteps.flip(0)]
    assert acts == traj[f"{name}.guided"].bool().tolist()

    def eps_of(x: Tensor, t: Tensor) -> Tensor:
        return traj["eps"][len(steps)] + 0.6 * x

    sample_ddim(
        eps_of, traj["x_T"], schedule_of(FILE), schedule.timesteps.tolist(), "eps",
        rederive=rederived, guide=guide, callback=steps.append,
    )  # fmt: skip
    key = f"{name}.rederived" if rederived and name != "none" else name
    golden.assert_near(torch.stack([step.x for step in steps]), traj[f"{key}.x"])
    golden.assert_near(steps[-1].x0, traj[f"{key}.x0_last"])


def test_a_sampler_that_asks_twice_a_step() -> None:
    """What is asked between two steps is a part of the noisier one."""
    schedule = schedule_of(FILE).respaced([50, 250, 450, 650, 850])
    guide = guidance(settings(t_start=700, every=2), schedule)
    asked = (850, 700, 650, 520, 450, 449, 300, 250, 100, 50, 10)
    assert [t for t in asked if guide.acts(t)] == [650, 520, 250, 100]


@pytest.mark.parametrize("term", ["identity", "picture", "mean", "variation"])
def test_what_a_mask_is_trained_by(term: str) -> None:
    """Each term, and its gradient at the mask's logits, where a step's direction is fixed."""
    key = {"picture": "l1", "variation": "tv"}.get(term, term)
    logits = given("in.mask_logits").clone().requires_grad_()
    mask = logits.sigmoid()[None]
    step = guidance(settings(), schedule_of(FILE), mask=mask).step(given("out.grad"), given("out.grad_rms"))
    moved = given("out.pred_x0") - given("out.sqrt_alpha_bar")[:, None, None, None] * step
    terms = mask_terms(recogniser(FILE), decoder(FILE).decode(moved), given("train.image"), mask)
    found = getattr(terms, term)
    golden.assert_ratio(found.detach()[None], given(f"train.{key}.value"), 1e-4)
    (gradient,) = torch.autograd.grad(found, logits)
    expected = given(f"train.{key}.grad_logits")
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-4 * expected.abs().max().item())
