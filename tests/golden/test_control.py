"""DiffBIR's control network and the U-Net that it steers, against the reference."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pfstorer_core.models import Conditioning, ControlNetwork, UNet
from pfstorer_core.models.conditioning import Residuals

from . import diffbir, golden

NAME = "diffbir_control"


def networks() -> tuple[UNet, ControlNetwork]:
    return diffbir.unet(NAME), diffbir.control(NAME)


@pytest.fixture(scope="module")
def given() -> golden.Group:
    return golden.group(NAME, "in")


@pytest.fixture(scope="module")
def out() -> golden.Group:
    return golden.group(NAME, "out")


def residuals(given: golden.Group, context: str) -> Residuals:
    return networks()[1](given["x"], given["hint"], given["timesteps"], given[context])


def all_of(residuals: Residuals) -> list[Tensor]:
    return [*residuals["output"], *residuals["middle"]]  # type: ignore[list-item]


@torch.no_grad()
def test_residuals(given: golden.Group, out: golden.Group) -> None:
    expected = [out[f"control.{i}"] for i in range(len(given["scales"]))]
    for ours, theirs in zip(all_of(residuals(given, "context_generic")), expected, strict=True):
        golden.assert_near(ours, theirs)


def scaled(residuals: Residuals, scales: list[float]) -> Residuals:
    *skips, middle = (scale * r for scale, r in zip(scales, all_of(residuals), strict=True))
    return {"output": skips, "middle": [middle]}


WIRINGS: dict[str, tuple[str, str, Callable[[Residuals, Tensor], Residuals]]] = {
    "eps": ("context_generic", "context_generic", lambda r, _: r),
    "eps_dualpivot": ("context_generic", "context_personal", lambda r, _: r),
    "eps_personal_both": ("context_personal", "context_personal", lambda r, _: r),
    "eps_dualpivot_scale0p6": (
        "context_generic", "context_personal", lambda r, s: scaled(r, [0.6] * len(s)),
    ),
    "eps_dualpivot_scales": ("context_generic", "context_personal", lambda r, s: scaled(r, s.tolist())),
    "eps_only_mid": ("context_generic", "context_personal", lambda r, _: {"middle": r["middle"]}),
}  # fmt: skip
"""What the reference calls its output -> contexts of the control network and of the U-Net, and a change."""


@torch.no_grad()
@pytest.mark.parametrize("name", WIRINGS)
def test_controlled_unet(name: str, given: golden.Group, out: golden.Group) -> None:
    generic, own, change = WIRINGS[name]
    steering = Conditioning(residuals=[change(residuals(given, generic), given["scales"])])
    eps = networks()[0](given["x"], given["timesteps"], given[own], steering)
    golden.assert_near(eps, out[name])


@torch.no_grad()
def test_plain_unet(given: golden.Group, out: golden.Group) -> None:
    eps = networks()[0](given["x"], given["timesteps"], given["context_personal"])
    golden.assert_near(eps, out["eps_plain"])


@torch.no_grad()
def test_as_a_part_of_the_unet(given: golden.Group, out: golden.Group) -> None:
    """A U-Net that has the control network reads the hint itself; one hint serves both rows of a batch."""
    plain, control = networks()
    sizes = {**plain.config.__dict__, "control": control.config}
    unet = UNet(type(plain.config)(**sizes))
    own = {f"control_model.{key}": value for key, value in control.state_dict().items()}
    unet.load_state_dict(plain.state_dict() | own)
    x, t, context = given["x"], given["timesteps"], given["context_generic"]
    golden.assert_near(unet(x, t, context, given["hint"]), out["eps"])
    one = given["hint"][:1]
    golden.assert_near(unet(x, t, context, one), unet(x, t, context, one.expand(2, -1, -1, -1)), 1e-6)


def test_gradients_of_the_second_stage(given: golden.Group) -> None:
    """Dual-Pivot's training step: the control network learns under the generic text."""
    unet, control = networks()
    train = golden.group(NAME, "train")
    contexts = given["context_generic"], given["context_personal"]
    steering = Conditioning(residuals=[control(train["z_t"], given["hint"], given["timesteps"], contexts[0])])
    eps = unet(train["z_t"], given["timesteps"], contexts[1], steering)
    loss = (eps - train["noise"]).square().mean()
    golden.assert_near(loss, train["loss"].squeeze())
    expected = golden.group(NAME, "train.grad")
    assert expected
    parameters = dict(control.named_parameters())
    found = dict(zip(parameters, torch.autograd.grad(loss, [*parameters.values()]), strict=True))
    squares = sum(value.double().square().sum().item() for value in found.values())
    assert squares == pytest.approx(train["grad_sqnorm_total"].item(), rel=1e-4)
    for key, theirs in expected.items():
        assert (found[key] - theirs).norm() <= 1e-3 * theirs.norm() + 1e-6, key
