"""The two trainings of Dual-Pivot Tuning against the reference, through the loop that trains."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pfstorer_core.checkpoints.header import RestorerHeader
from pfstorer_core.checkpoints.parts import CONTROL
from pfstorer_core.models import TextTowerConfig, UNet
from pfstorer_core.models.tokenizer import tokenize
from pfstorer_core.personalization.dual_pivot.data import PivotPairs
from pfstorer_core.personalization.dual_pivot.learning import FullWeights
from pfstorer_core.personalization.dual_pivot.model_pivot import ModelPivot
from pfstorer_core.personalization.dual_pivot.parameters import FIRST_150, guide_names
from pfstorer_core.personalization.dual_pivot.pivot import Pivot
from pfstorer_core.personalization.dual_pivot.settings import DualPivotTraining
from pfstorer_core.personalization.dual_pivot.text_pivot import TextPivot
from pfstorer_core.restorers.base import Restorer
from pfstorer_core.restorers.diffbir.cleaner import Cleaner
from pfstorer_core.training.data import Batch
from pfstorer_core.training.degradation import random_degradation
from pfstorer_core.training.loop import LoopSettings, fit

from . import diffbir, golden

TEXT, MODEL, WHOLE, CONTROLLED = (
    "diffbir_text_pivot", "diffbir_model_pivot_step", "diffbir_end_to_end", "diffbir_control",
)  # fmt: skip
PHOTOS: Any = None
"""No test here takes samples of them."""
MANIFEST = Path(golden.HERE) / "data" / "manifests" / "diffbir_controlnet.json"


class Prompts(nn.Module):
    """A text tower that knows two prompts: one that names a person, and any other."""

    def __init__(self, personal: Tensor, other: Tensor) -> None:
        super().__init__()
        self.personal, self.other = personal, other
        self.config = TextTowerConfig()

    def forward(self, tokens: Tensor) -> Tensor:
        return self.personal if (tokens == SKS).any() else self.other


SKS = int(tokenize(["sks"])[0, 1])


def restorer(name: str, personal: Tensor, other: Tensor, control: bool) -> Restorer:
    """`other` is of the class's prompt and of the empty one."""
    unet = diffbir.unet(name)
    if control:
        guide = diffbir.control(name)
        plain, sizes = unet, {**unet.config.__dict__, "control": guide.config}
        unet = UNet(type(plain.config)(**sizes))
        own = {CONTROL.prefix + key: value for key, value in guide.state_dict().items()}
        unet.load_state_dict(plain.state_dict() | own)
    header = RestorerHeader("eps", condition="control", start="noise", control_prompt="empty")
    text: Any = Prompts(personal, other)
    nothing: Any = None
    return Restorer(unet, nothing, other, header, text)


class Given:
    """`Samples` of which only the number counts."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, k: int) -> dict[str, Any]:
        return {"number": k, "broken": []}


def trained(pivot: Pivot, folder: Path, **changed: Any) -> list[float]:
    """Losses of its own loop over `Given`."""
    how = {"warmup": 0, "ema": 0.0, "bf16": False, "save_every": 1000, "validate_every": 0, **changed}
    loop: LoopSettings = replace(pivot.loop(), **how)
    return fit("stage", pivot, Given(), loop, folder, pictures=False)


def weight_of(pivot: Pivot, name: str) -> Tensor:
    assert isinstance(pivot.learning, FullWeights)
    return pivot.learning.weights[name.replace(".", "-")]


def assert_adamw(actual: Tensor, expected: Tensor, gradient: Tensor, rate: float, steps: int = 1) -> None:
    """Near where the gradient is more than rounding, whose sign is what AdamW's first steps go by; in later
    steps a few values of ten thousand have another gradient that is not, by the CPU that computes it."""
    sure = gradient.abs() > 1e-4 * gradient.abs().max()
    assert torch.isfinite(actual).all()
    far = (actual[sure] - expected[sure]).abs() > 2e-3 * rate * steps
    assert far.sum() <= 5e-4 * len(far) * (steps > 1)


# --- text pivot


class GivenText(TextPivot):
    def forward(self, batch: Batch) -> Tensor:
        given, (k,) = golden.group(TEXT, "in"), batch["number"]
        return self.loss(given["moments"][k], given["posterior_noise"][k], given["t"][k], given["noise"][k])


def text_pivot(prior_weight: float) -> GivenText:
    given = golden.group(TEXT, "in")
    base = restorer(TEXT, given["context_instance"], given["context_class"], False)
    s = DualPivotTraining(text_weights="full", prior_weight=prior_weight, bf16=False)
    return GivenText(base, PHOTOS, s)


@pytest.mark.parametrize("row", range(len(golden.tensors(TEXT)["in.t"])))
def test_noised_rows(row: int) -> None:
    given, out = golden.group(TEXT, "in"), golden.group(TEXT, f"out.{row}")
    base = text_pivot(1.0).restorer
    z0 = base.draw_latent(given["moments"][row], given["posterior_noise"][row])
    golden.assert_near(z0, out["z0"])
    golden.assert_near(base.noised(z0, given["t"][row], given["noise"][row]), out["z_t"])
    if not row:
        contexts = torch.cat([given["context_instance"], given["context_class"]])
        eps = base.unet(out["z_t"], given["t"][row], contexts)
        golden.assert_near(eps, golden.tensors(TEXT)["out.eps"])


@pytest.mark.parametrize("suffix", ["", "_other_weight"])
def test_dreambooth(suffix: str) -> None:
    """The loss of both rows, and its gradients, under two weights of the prior."""
    out, header = golden.group(TEXT, "out"), golden.metadata(TEXT)
    weight = header["other_prior_weight" if suffix else "prior_weight"]
    pivot = text_pivot(weight)
    loss = pivot({"number": [0]})
    golden.assert_near(loss, out[f"loss{suffix}"].squeeze())
    golden.assert_near(loss, (out["loss_instance"] + weight * out["loss_prior"]).squeeze())
    loss.backward()
    for name in header["gradients"]:
        found = weight_of(pivot, name).grad
        assert found is not None
        golden.assert_near(found, out[f"grad{suffix}.{name}"])
    norm = torch.nn.utils.get_total_norm([p.grad for p in pivot.parameters() if p.grad is not None])
    torch.testing.assert_close(norm.double(), out[f"grad_norm{suffix}"].squeeze(), rtol=1e-4, atol=0)


def test_without_a_prior_there_is_no_row_of_the_class() -> None:
    given, out, pivot = golden.group(TEXT, "in"), golden.group(TEXT, "out"), text_pivot(0.0)
    rows = [given[name][0, :1] for name in ("moments", "posterior_noise", "t", "noise")]
    golden.assert_near(pivot.loss(*rows), out["loss_instance"].squeeze())


def test_a_step_of_dreambooth(tmp_path: Path) -> None:
    """Two batches, gradients scaled down to the limit, and AdamW with decay of the weights themselves."""
    out, how = golden.group(TEXT, "out.accumulated"), golden.metadata(TEXT)["optimizer"]
    pivot = text_pivot(golden.metadata(TEXT)["prior_weight"])
    loop = pivot.loop()
    assert (loop.accumulate, loop.clip, list(loop.betas)) == (how["accumulation"], how["clip"], how["betas"])
    assert (loop.weight_decay, loop.decay) == (how["weight_decay"], False)
    for row in range(how["accumulation"]):
        (pivot({"number": [row]}) / how["accumulation"]).backward()
    norm = torch.nn.utils.get_total_norm([p.grad for p in pivot.parameters() if p.grad is not None])
    torch.testing.assert_close(norm, out["grad_norm_before_clip"].squeeze(), rtol=1e-4, atol=0)
    pivot.zero_grad()
    losses = trained(pivot, tmp_path, steps=1, lr=how["lr"])
    torch.testing.assert_close(losses[0], float(out["losses"].mean()), rtol=1e-5, atol=0)
    expected = golden.group(TEXT, "out.accumulated.param")
    assert expected
    for name, theirs in expected.items():
        gradient = golden.group(TEXT, "out.accumulated.clipped_grad")[name]
        assert_adamw(weight_of(pivot, name), theirs, gradient, how["lr"])


# --- model pivot


class GivenModel(ModelPivot):
    def forward(self, batch: Batch) -> Tensor:
        given, (k,) = golden.group(MODEL, "in"), batch["number"]
        z0, hint, t, noise = (given[name][k] for name in ("z0", "hint", "t", "noise"))
        return self.loss(z0, hint, t, noise, torch.zeros_like(t))


def model_pivot(weights: str = "first150") -> GivenModel:
    given = golden.group(MODEL, "in")
    base = restorer(MODEL, given["context_personal"], given["context_null"], True)
    return GivenModel(base, PHOTOS, DualPivotTraining(pivots="model", model_weights=weights, bf16=False), {})


def test_the_first_150_are_those_of_the_manifest() -> None:
    names, header = list(json.loads(MANIFEST.read_text())), golden.metadata(MODEL)
    first, full = header["first150"], header["full_size"]
    assert (len(first), len(names)) == (150, full["tensors"])
    assert names[: len(first)] == first
    assert {name for name in names if FIRST_150.fullmatch(name)} == set(first)
    shapes = {name: torch.Size(shape) for name, (shape, _) in json.loads(MANIFEST.read_text()).items()}
    assert sum(shapes[name].numel() for name in first) == full["numbers_first150"]
    assert sum(shape.numel() for shape in shapes.values()) == full["numbers_all"]
    unet = model_pivot().restorer.unet
    assert set(guide_names(unet, "first150")) == {CONTROL.prefix + name for name in first}
    rest = set(guide_names(unet, "full")) - set(guide_names(unet, "first150"))
    assert rest == {CONTROL.prefix + name for name in header["frozen_tiny"]}


def test_gradients_of_the_whole_control_network() -> None:
    pivot = model_pivot("full")
    pivot({"number": [0]}).backward()
    found = [p.grad.double().square().sum().item() for p in pivot.parameters() if p.grad is not None]
    expected = golden.tensors(MODEL)["out.grad_sqnorm_all_control"]
    assert sum(found) == pytest.approx(expected.item(), rel=1e-4)


def test_gradients_of_the_model_pivot() -> None:
    out, pivot = golden.group(MODEL, "out"), model_pivot()
    pivot({"number": [0]}).backward()
    for name in golden.metadata(MODEL)["selected"]:
        found = weight_of(pivot, CONTROL.prefix + name).grad
        assert found is not None
        golden.assert_near(found, out[f"grad.{name}"])
    for name, stats in zip(golden.metadata(MODEL)["first150"], out["grad_stats"], strict=True):
        found = weight_of(pivot, CONTROL.prefix + name).grad
        squares = 0.0 if found is None else found.double().square().sum().item()
        assert squares == pytest.approx(stats[1].item(), rel=1e-3, abs=1e-9), name


@pytest.mark.parametrize(("part", "steps"), [("published", 1), ("three_steps", 3)])
def test_steps_of_the_model_pivot(part: str, steps: int, tmp_path: Path) -> None:
    """By the rates of the file; all that is trained, and nothing else, is another one afterwards."""
    out, header = golden.group(MODEL, f"out.{part}"), golden.metadata(MODEL)
    how, pivot = header["optimizer"], model_pivot()
    loop = pivot.loop()
    assert (loop.clip, loop.accumulate, loop.decay) == (0.0, 1, False)
    assert (list(loop.betas), loop.weight_decay) == (how["betas"], how["weight_decay"])
    assert DualPivotTraining().rate(320, "model") == how["lr"]
    before = {name: value.clone() for name, value in pivot.restorer.unet.state_dict().items()}
    rate = how["lr"] if steps == 1 else how[f"lr_{part}"]
    losses = trained(pivot, tmp_path, steps=steps, lr=rate)
    torch.testing.assert_close(torch.tensor(losses), out["loss"], rtol=1e-4, atol=0)
    for name in header["selected"]:
        gradient = golden.group(MODEL, "out.grad")[name]
        own = weight_of(pivot, CONTROL.prefix + name)
        assert_adamw(own, out[f"param.{name}"], gradient, rate, steps)
    for name, stats in zip(header["first150"], out["stats"], strict=True):
        moved = (weight_of(pivot, CONTROL.prefix + name) - before[CONTROL.prefix + name]).abs().double().sum()
        assert moved.item() == pytest.approx(stats[1].item(), rel=2e-2), name
    now = pivot.restorer.unet.state_dict()
    assert all(torch.equal(now[name], value) for name, value in before.items())
    _, model = pivot.deltas()
    assert set(model) == {CONTROL.prefix + name for name in header["first150"]}


def test_a_loss_through_the_whole_control_network() -> None:
    """Of the first golden file: two rows, the class's prompt in the control network."""
    given, train = golden.group(CONTROLLED, "in"), golden.group(CONTROLLED, "train")
    generic, personal = given["context_generic"], given["context_personal"]
    base = restorer(CONTROLLED, personal[:1], generic[:1], True)
    pivot = ModelPivot(base, PHOTOS, DualPivotTraining(model_weights="full", bf16=False), {})
    losses = []
    for row in range(len(given["hint"])):
        base = replace(base, null_context=generic[row : row + 1])
        pivot.restorer, pivot.contexts = base, personal[row : row + 1]
        z0, hint, t, noise = (
            value[row : row + 1] for value in (train["z0"], given["hint"], given["timesteps"], train["noise"])
        )
        losses.append(pivot.loss(z0, hint, t, noise, torch.zeros_like(t)))
    loss = torch.stack(losses).mean()
    golden.assert_near(loss, train["loss"].squeeze())
    loss.backward()
    expected = golden.group(CONTROLLED, "train.grad")
    assert expected
    for name, theirs in expected.items():
        found = weight_of(pivot, CONTROL.prefix + name).grad
        assert found is not None
        assert (found - theirs).norm() <= 1e-3 * theirs.norm() + 1e-6, name


def test_the_chain_of_the_second_stage() -> None:
    """From a photo and its bad copy to the loss: cleaner, modes and draws of latents, both prompts."""
    given, out, train = (golden.group(WHOLE, part) for part in ("in", "out", "train"))
    base = restorer(WHOLE, given["context_personal"], given["context_null"], True)
    base = replace(
        base,
        autoencoder=diffbir.autoencoder(WHOLE),
        header=replace(base.header, scale_factor=diffbir.scale_factor(WHOLE)),
        cleaner=Cleaner.of(diffbir.swinir(WHOLE)),
    )
    gt, lq = (picture.movedim(-1, 0)[None].float() / 255 for picture in (given["gt"], out["padded"]))
    pairs = PivotPairs(base, PHOTOS, random_degradation("diffbir", 512), 0.0, 1, 1, 0)
    made = pairs.latents(gt, lq)
    golden.assert_near(made["lq"][None], out["hint"])
    z0 = base.draw_latent(made["moments"][None], given["gt_posterior_noise"])
    golden.assert_near(z0, train["z0"])
    pivot = ModelPivot(base, PHOTOS, DualPivotTraining(bf16=False), {})
    rows = z0, made["lq"][None], given["train_t"], given["train_noise"]
    golden.assert_near(pivot.loss(*rows, torch.zeros(1, dtype=torch.long)), train["loss"].squeeze())


def test_no_gradient_flows_through_the_encoder() -> None:
    """Of the U-Net: the residuals come in behind it, and the decoder's own weights get no gradients."""
    pivot, seen = model_pivot(), dict[str, bool]()
    unet = pivot.restorer.unet
    blocks: list[Any] = [*unet.input_blocks, unet.middle_block, *unet.output_blocks]
    for block in blocks:
        block.register_forward_hook(lambda m, _, h: seen.__setitem__(m.name, h.requires_grad))
    pivot({"number": [0]}).backward()
    decoder = {name for name in seen if name.startswith("output_blocks.")}
    assert {name for name, has in seen.items() if has} == decoder
    assert decoder
    assert all(parameter.grad is None for parameter in unet.parameters())
