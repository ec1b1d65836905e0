"""DiffBIR's whole pipeline through `restore`, against the release's: what it makes of a picture, and in which
order."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from einops import rearrange
from torch import Tensor, nn

from pfstorer_core import restore
from pfstorer_core.checkpoints.header import RestorerHeader
from pfstorer_core.checkpoints.parts import CONTROL
from pfstorer_core.diffusion.restoration_guidance import GuidanceSettings
from pfstorer_core.diffusion.sampling import SamplerStep
from pfstorer_core.imaging.color import color_fix
from pfstorer_core.models import TextTowerConfig, UNet
from pfstorer_core.restorers.base import Restorer
from pfstorer_core.restorers.diffbir.cleaner import Cleaner

from . import diffbir, golden

NAME, CONTROLLED, V21 = "diffbir_end_to_end", "diffbir_control", "diffbir_v21"
PIPELINE = golden.metadata(NAME)["pipeline"]
OUTSIDE = 0.02
"""Share of the values that may be a level off, which is all they may be."""


class Words(nn.Module):
    """A text tower that knows three prompts by their lengths."""

    def __init__(self, personal: Tensor, other: Tensor) -> None:
        super().__init__()
        self.personal, self.other = personal, other
        self.config = TextTowerConfig()

    def forward(self, tokens: Tensor) -> Tensor:
        return self.personal if (tokens > 0).sum() > 3 else self.other


PERSONAL, OTHER = "a photo of a sks man", "low"


def controlled(name: str, strength: float = 1.0) -> UNet:
    """With the control network inside, whose residuals are all multiplied."""
    plain, control = diffbir.unet(name), diffbir.control(name)
    unet = UNet(type(plain.config)(**{**plain.config.__dict__, "control": control.config}))
    own = {
        CONTROL.prefix + key: value * (strength if key.startswith(("zero_convs", "middle_block_out")) else 1)
        for key, value in control.state_dict().items()
    }
    unet.load_state_dict(plain.state_dict() | own)
    return unet.requires_grad_(False)


def whole(strength: float = 1.0) -> Restorer:
    given = golden.group(NAME, "in")
    header = RestorerHeader(
        condition="control", start="noise", size_rule="fixed", control_prompt="empty",
        image_size=PIPELINE["image_size"], scale_factor=diffbir.scale_factor(NAME),
    )  # fmt: skip
    text: Any = Words(given["context_personal"], given["context_null"])
    cleaner = Cleaner.of(diffbir.swinir(NAME))
    autoencoder = diffbir.autoencoder(NAME)
    return Restorer(controlled(NAME, strength), autoencoder, given["context_null"], header, text, cleaner)


@contextmanager
def drawn(*noises: Tensor) -> Iterator[None]:
    """The draws of the reference, one after the other, in place of a generator's."""
    left = list(noises)

    def draw(*_: Any, **__: Any) -> Tensor:
        return left.pop(0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "randn", draw)
        yield


def run(restorer: Restorer, name: str, picture: Tensor, **settings: Any) -> tuple[Tensor, Tensor]:
    """The result, and the states after each step. Guidance in latents draws its targets in between."""
    given, states = golden.group(name, "in"), list[Tensor]()
    guidance: GuidanceSettings | None = settings.get("guidance")
    noises = [given["x_T"]]

    def keep(step: SamplerStep) -> None:
        states.append(step.x)

    for step, noise in enumerate(given["noise"]):
        if guidance and guidance.space == "latent" and guidance.acts(PIPELINE["timesteps"][-1 - step]):
            noises += given["target_noise"][step, : guidance.repeats]
        noises.append(noise)
    with drawn(*noises):
        restored = restore(
            restorer, picture, steps=len(given["noise"]), upscale=1.0, on_step=keep, **settings
        )
    return restored, torch.stack(states)


def pictures(key: str) -> Tensor:
    return rearrange(golden.tensors(NAME)[key], "h w c -> 1 c h w")


def assert_levels(found: Tensor, key: str) -> None:
    """Of a picture in [0, 1], cut to 8 bits as the release does it."""
    off = ((255 * found).int() - pictures(key).int()).abs()
    assert off.max() <= 1
    assert (off > 0).float().mean() <= OUTSIDE


def first_generation(entry: str) -> GuidanceSettings:
    given = PIPELINE[entry]
    return GuidanceSettings(
        given["scale"], given["space"], "mse", "v1", given["repeat"], given["t_start"], given["t_stop"]
    )


VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "the release": ("out", {}),
    "weaker control": ("strength", {}),
    "no cleaner": ("no_cleaner", {}),
    "guided in pixels": ("guided_v1_rgb", {"guidance": first_generation("guidance_rgb")}),
    "guided in latents": ("guided_v1", {"guidance": first_generation("guidance")}),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_picture_of_its_size(variant: str) -> None:
    """From the enlarged picture to 8 bits: black below and on the right stays until the end."""
    part, settings = VARIANTS[variant]
    restorer = whole(PIPELINE["other_strength"] if part == "strength" else 1.0)
    if part == "no_cleaner":
        restorer = replace(restorer, cleaner=None)
    restored, states = run(restorer, NAME, pictures("out.resized") / 255, prompt=PERSONAL, **settings)
    assert restored.shape == pictures(f"{part}.uint8").shape
    golden.assert_near(states, golden.tensors(NAME)[f"{part}.traj"])
    assert_levels(restored, f"{part}.uint8")
    if part == "out":
        rounded = (255 * restored).round().int() - pictures("out.uint8_rounded").int()
        assert rounded.abs().max() <= 1
        assert (rounded != 0).float().mean() <= OUTSIDE


def test_the_colours_are_the_cleaned_picture_s() -> None:
    """Those of the bad picture would be another result, which is given as the one that must not come out."""
    restored, states = run(whole(), NAME, pictures("out.resized") / 255, prompt=PERSONAL)
    wrong = pictures("wrong.uint8_fixed_towards_lq")
    off = ((255 * restored).int() - wrong.int()).abs()
    assert (off > 1).float().mean() > 10 * OUTSIDE
    decoded = (diffbir.decode(NAME, states[-1]) + 1) / 2
    towards_lq = color_fix(decoded, pictures("out.padded") / 255, "wavelet").clamp(0, 1)
    height, width = wrong.shape[-2:]
    assert_levels(towards_lq[..., :height, :width], "wrong.uint8_fixed_towards_lq")


def test_a_smaller_picture_is_enlarged_first() -> None:
    """The release's enlarging rounds to 8 bits in between, which the networks multiply."""
    restored, _ = run(whole(), NAME, pictures("in.lq") / 255, prompt=PERSONAL)
    expected = pictures("out.uint8") / 255
    assert restored.shape == expected.shape
    assert (restored - expected).abs().mean() < 0.02


@torch.no_grad()
def test_stages() -> None:
    """Each from what the reference had before it."""
    out, given = golden.group(NAME, "out"), golden.group(NAME, "in")
    restorer = whole()
    cleaned = restorer.clean(pictures("out.padded") / 255)
    golden.assert_near(cleaned, out["clean"])
    assert ((255 * cleaned.clamp(0, 1)).int() - pictures("out.clean_uint8").int()).abs().max() <= 1
    golden.assert_near(restorer.encode(out["clean"]), out["hint"])
    golden.assert_near(restorer.encode(pictures("out.padded") / 255), golden.tensors(NAME)["no_cleaner.hint"])
    condition = restorer.condition(out["hint"])
    states = [given["x_T"], *out["traj"][:-1]]
    for x, t, eps in zip(states, reversed(PIPELINE["timesteps"]), out["eps"], strict=True):
        found = restorer.denoise(x, torch.tensor([t]), condition, given["context_personal"])
        golden.assert_near(found, eps)
    decoded = restorer.decode(out["traj"][-1])
    golden.assert_near(2 * decoded - 1, out["decoded"])
    golden.assert_near(color_fix(decoded, out["clean"], "wavelet"), out["fixed"])


# --- guidance by prompts


class Given(nn.Module):
    """An autoencoder that makes one latent of every picture, and black of every latent."""

    FACTOR = 64
    """Of which all sides are multiples that DiffBIR's canvases have."""

    def __init__(self, latent: Tensor) -> None:
        super().__init__()
        self.latent = latent
        self.config = type("Sizes", (), {"downscale": self.FACTOR})

    def encode(self, picture: Tensor) -> Tensor:
        height, width = picture.shape[-2:]
        assert self.latent.shape[-2:] == (height // self.FACTOR, width // self.FACTOR)
        return self.latent

    def decode(self, latent: Tensor, *_: Any) -> Tensor:
        return latent.new_zeros(1, 3, *(self.FACTOR * side for side in latent.shape[-2:]))

    def check_fidelity(self, _: float) -> None:
        pass


def with_hint(name: str, hint: Tensor, text: Words, null: Tensor, **header: Any) -> tuple[Restorer, Tensor]:
    """A restorer that sees a hint in any picture, and pictures of its size."""
    sides = [Given.FACTOR * side for side in hint.shape[-2:]]
    sampler = golden.metadata(name)["sampler"]
    own = RestorerHeader(
        condition="control", start="noise", scale_factor=1.0, image_size=16, architecture="diffbir",
        beta_start=sampler["linear_start"], beta_end=sampler["linear_end"], **header,
    )  # fmt: skip
    autoencoder: Any = Given(hint)
    tower: Any = text
    return Restorer(controlled(name), autoencoder, null, own, tower), torch.zeros(len(hint), 3, *sides)


def states_of(restorer: Restorer, picture: Tensor, noises: list[Tensor], **settings: Any) -> Tensor:
    states = list[Tensor]()
    with drawn(*noises):
        restore(
            restorer, picture, steps=len(noises) - 1, upscale=1.0, color_fix="none", tile=max(picture.shape),
            on_step=lambda step: states.append(step.x), **settings,
        )  # fmt: skip
    return torch.stack(states)


@pytest.mark.parametrize("case", [key for key in golden.group(CONTROLLED, "sampler") if "traj_cfg" in key])
def test_cfg(case: str) -> None:
    """The person's prompt against the empty one; the control network reads the empty one both times."""
    given, own = golden.group(CONTROLLED, "in"), golden.group(CONTROLLED, "sampler")
    personal, generic = given["context_personal"][:1], given["context_generic"][:1]
    text, hint = Words(personal, generic), given["hint"][:1]
    restorer, picture = with_hint(CONTROLLED, hint, text, generic, control_prompt="empty")
    for negative in ("", OTHER):
        states = states_of(
            restorer, picture, [own["x_T"], *own["noise"]], prompt=PERSONAL, negative_prompt=negative,
            cfg=float(case.removeprefix("traj_cfg")),
        )  # fmt: skip
        golden.assert_near(states, own[case])


def test_rescaled_cfg() -> None:
    """v2.1's scale grows as the noise falls. The host's end of the schedule and ours is not quite the
    published one, which makes a difference of its own."""
    given, out, sampler = golden.group(V21, "in"), golden.group(V21, "out"), golden.metadata(V21)["sampler"]
    text = Words(given["context"], given["context_uncond"])
    restorer, picture = with_hint(
        V21, given["hint"], text, given["context_uncond"], variant="v2.1", prediction_type="v",
        rescale_betas_zero_snr=True,
    )  # fmt: skip
    noises = [given["x_T"], *given["noise"]]
    settings = {"prompt": PERSONAL, "negative_prompt": OTHER}
    plain = states_of(restorer, picture, noises, cfg=1.0, **settings)
    golden.assert_near(plain, out["spaced_cfg1_clamped.traj"])
    rescaled = states_of(restorer, picture, noises, cfg=sampler["cfg"], **settings)
    golden.assert_near(rescaled, out["spaced_cfg_rescaled.traj"], 5e-3)
    with pytest.raises(AssertionError):
        golden.assert_near(rescaled, out["spaced_cfg.traj"], 5e-3)
