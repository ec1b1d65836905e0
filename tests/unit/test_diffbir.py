"""DiffBIR as a restorer: its files, which of the published ones they are, and what is done with them."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from harness.stand_ins import listed
from pfstorer_core import CheckpointError, Restorer, restore
from pfstorer_core.checkpoints.header import STARTS, RestorerHeader
from pfstorer_core.checkpoints.layouts import CONTROL_NETWORK, DIFFBIR, identify, with_prefixes
from pfstorer_core.checkpoints.parts import AUTOENCODER, CONTROL, SWINIR, TEXT, UNET
from pfstorer_core.diffusion.guidance import PromptGuidance
from pfstorer_core.models import SwinIR, SwinIRConfig
from pfstorer_core.restorers.condition import Condition
from pfstorer_core.restorers.diffbir.cleaner import Cleaner, load_cleaner
from pfstorer_core.restorers.diffbir.variants import GUIDANCE, VARIANTS, published
from pfstorer_core.restorers.files import load_restorer, open_restorer, save_restorer
from pfstorer_core.restorers.inspection import inspect_checkpoint
from pfstorer_core.restorers.registry import prompt_guidance

from . import small

CONTROLLED = "v1_face"


@pytest.fixture(scope="module")
def restorer() -> Restorer:
    return small.small_diffbir()


@pytest.fixture(scope="module")
def full(restorer: Restorer) -> dict[str, Tensor]:
    """As face_full_v1.ckpt has them."""
    torch.manual_seed(2)
    cleaner = SwinIR(SwinIRConfig(12, (2, 1), (2, 3), 4, 2, 8))
    return small.published(restorer) | SWINIR.prefixed(cleaner.state_dict())


def write(path: Path, tensors: Mapping[str, Tensor]) -> Path:
    save_file({key: value.contiguous() for key, value in tensors.items()}, path)
    return path


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        ("face_full_v1.ckpt", "v1_face"),
        ("general_full_v1.ckpt", "v1_general"),
        ("v1_face.pth", "v1_face"),
        ("v1_general.pth", "v1_general"),
        ("v2.pth", "v2"),
        ("DiffBIR_v2.pth", "v2"),
        ("DiffBIR_v2.1.pt", "v2.1"),
        ("diffbir_v2-1.safetensors", "v2.1"),
    ],
)
def test_published_names_tell_the_variant(name: str, variant: str) -> None:
    assert published(name, {}, None) == VARIANTS[variant]
    for other in VARIANTS:
        assert published(name, {}, other).variant == other


def test_what_the_variants_are() -> None:
    facts = {
        name: (h.prediction_type, h.rescale_betas_zero_snr, h.size_rule, h.control_prompt, h.aligned, h.start)
        for name, h in VARIANTS.items()
    }
    assert facts == {
        "v1_face": ("eps", False, "fixed", "empty", "FFHQ", "noise"),
        "v1_general": ("eps", False, "tiled", "empty", "", "noise"),
        "v2": ("eps", False, "tiled", "shared", "", "noise"),
        "v2.1": ("v", True, "tiled", "shared", "", "noise"),
    }


def test_a_name_that_tells_nothing_is_asked_about(full: dict[str, Tensor], tmp_path: Path) -> None:
    path = write(tmp_path / "mine.safetensors", full)
    with pytest.raises(CheckpointError, match=r"mine\.safetensors is of DiffBIR.*choose the variant"):
        open_restorer(path)
    assert open_restorer(path, variant="v2").header == VARIANTS["v2"]
    with pytest.raises(ValueError, match=r"diffbir has no variant 'v3' \(known: v1_face"):
        open_restorer(path, variant="v3")
    assert "v1_face" in " ".join(inspect_checkpoint(path).missing)


def test_stablesr_has_no_variants(tmp_path: Path) -> None:
    path = write(tmp_path / "stablesr.safetensors", small.published(small.small_restorer()))
    with pytest.raises(ValueError, match=r"stablesr has no variant 'v2' \(known: none\)"):
        open_restorer(path, variant="v2")


@pytest.mark.parametrize("prefix", ["", "module.", "control_model."])
def test_a_control_network_goes_on_top_of_stable_diffusion(
    prefix: str, restorer: Restorer, full: dict[str, Tensor], tmp_path: Path
) -> None:
    base = write(tmp_path / "v2-1_512-ema-pruned.safetensors", small.select(full, small.base_keys))
    control = {prefix + key: value for key, value in CONTROL.of(full).items()}
    assert identify(with_prefixes(control), "x") is CONTROL_NETWORK
    addon = write(tmp_path / "v1_face.safetensors", control)
    file = open_restorer(base, [addon])
    assert file.header == VARIANTS["v1_face"]
    torch.testing.assert_close(file.unet, dict(restorer.unet.state_dict()), rtol=0, atol=0)
    with pytest.raises(CheckpointError, match=r"goes on top of a checkpoint\. Choose an SD 2.1 checkpoint"):
        open_restorer(addon)


CLEANER = r"which cannot restore: cleaners come in by Load Upscale Model"
STRANGE: dict[str, tuple[dict[str, Tensor], str]] = {
    "BSRNet.pth": (listed("diffbir_cleaner_bsrnet"), CLEANER),
    "scunet.pth": (listed("diffbir_cleaner_scunet"), CLEANER),
    "face_swinir_v1.ckpt": (listed("diffbir_swinir"), CLEANER),
    "control_v11p.pth": (
        listed("diffbir_controlnet") | {"input_hint_block.0.weight": torch.empty(16, 3, 3, 3)},
        r"a ControlNet, which cannot restore: DiffBIR's control networks are v1_face\.pth",
    ),
    "v1-5-pruned.ckpt": (
        dict.fromkeys((UNET.key, AUTOENCODER.key, "cond_stage_model.transformer.text"), torch.empty(2, 2)),
        r"a Stable Diffusion 1\.x checkpoint, .* go on top of Stable Diffusion 2\.1, such as v2-1_512-ema",
    ),
}
"""Files that people take for others -> what is said of them."""


@pytest.mark.parametrize("name", STRANGE)
def test_what_to_do_with_a_file_of_another_kind_is_said_first(name: str) -> None:
    tensors, told = STRANGE[name]
    with pytest.raises(CheckpointError, match=rf"^{name} is .*{told}.*\. Expected StableSR's or DiffBIR's"):
        identify(with_prefixes(tensors), name)


def test_a_cleaner_is_used_or_refused(full: dict[str, Tensor], tmp_path: Path) -> None:
    """A StableSR restorer has nothing that reads cleaned pictures, so that one in its files would rest; one
    that is chosen for it cleans."""
    cleaner = write(tmp_path / "face_swinir_v1.safetensors", SWINIR.of(full))
    stablesr, control = tmp_path / "stablesr.safetensors", tmp_path / "v1_face.safetensors"
    save_restorer(small.small_restorer(), stablesr)
    write(control, CONTROL.of(full))
    assert load_restorer(stablesr, control, cleaner).cleaner is not None
    assert load_restorer(stablesr, cleaner, control).cleaner is not None
    with pytest.raises(CheckpointError, match=r"^stablesr.*face_swinir_v1.*: there is a cleaner, but not D"):
        load_restorer(stablesr, cleaner)
    model, lq = load_restorer(stablesr), torch.rand(1, 3, 24, 32)
    plain, cleaned = (
        restore(each, lq, upscale=1.0, steps=1)
        for each in (model, replace(model, cleaner=load_cleaner(cleaner)))
    )
    assert (plain - cleaned).abs().max() > 0.01


def test_a_full_file_loads_and_what_is_written_loads_again(
    restorer: Restorer, full: dict[str, Tensor], tmp_path: Path
) -> None:
    assert identify(with_prefixes(full), "x") is DIFFBIR
    loaded = load_restorer(write(tmp_path / "face_full_v1.safetensors", full), text=True)
    assert loaded.header == VARIANTS["v1_face"]
    save_restorer(loaded, tmp_path / "saved.safetensors", torch.float32)
    again = load_restorer(tmp_path / "saved.safetensors", variant="v2", text=True)
    assert again.header == loaded.header, "the file's own header counts"
    for key, value in restorer.unet.state_dict().items():
        assert torch.equal(again.unet.state_dict()[key], value)
    found = inspect_checkpoint(tmp_path / "saved.safetensors")
    assert {"U-Net", "control network", "SwinIR cleaner"} <= {network.name for network in found.networks}
    picture = torch.rand(1, 3, 40, 24, generator=torch.Generator().manual_seed(0))
    assert loaded.cleaner is not None
    assert again.cleaner is not None
    assert torch.equal(loaded.cleaner(picture), again.cleaner(picture))
    assert found.fingerprint == restorer.fingerprint


def test_a_header_of_another_architecture_is_damage(full: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({k: v.contiguous() for k, v in full.items()}, path, RestorerHeader().to_metadata())
    with pytest.raises(CheckpointError, match="but its header says stablesr"):
        open_restorer(path)


def test_networks_that_do_not_belong_together_are_refused(full: dict[str, Tensor], tmp_path: Path) -> None:
    sft = small.published(small.small_restorer())
    both = {**sft, **{key: value for key, value in full.items() if key.startswith(CONTROL.prefix)}}
    with pytest.raises(CheckpointError, match="has both StableSR's LQ encoder and DiffBIR's control network"):
        open_restorer(write(tmp_path / "v1_face_both.safetensors", both))
    wider = {**full, CONTROL.key: torch.zeros(32, 9, 3, 3)}
    with pytest.raises(CheckpointError, match=r"U-Net, control network and autoencoder have \(4, 5, 4\)"):
        open_restorer(write(tmp_path / "v1_face_wide.safetensors", wider))
    comfy = {**full, f"{CONTROL.prefix}input_hint_block.0.weight": torch.zeros(16, 3, 3, 3)}
    with pytest.raises(CheckpointError, match="is a ControlNet"):
        open_restorer(write(tmp_path / "v1_face_control.safetensors", comfy))


@pytest.mark.parametrize("read", ["empty", "shared"])
def test_what_the_control_network_reads(restorer: Restorer, read: str) -> None:
    """Dual-Pivot's wiring: the empty prompt for the control network, the person's for the U-Net."""
    model = replace(restorer, header=replace(restorer.header, control_prompt=read))
    generator = torch.Generator().manual_seed(0)
    x, hint = (torch.randn(2, 4, 8, 8, generator=generator) for _ in range(2))
    context, t = torch.randn(1, 3, small.SIZES.context_dim, generator=generator), torch.tensor([500, 20])
    control = model.unet.control_model
    assert control is not None
    with torch.no_grad():
        ours = model.denoise(x, t, Condition(hint), context)
        seen = model.null_context if read == "empty" else context
        given = control.conditioning(hint, x, t, seen.expand(2, -1, -1))
        assert torch.equal(ours, model.unet(x, t, context.expand(2, -1, -1), given))


@pytest.mark.parametrize(
    ("size", "result"), [((48, 40), (39, 32)), ((20, 16), (40, 32)), ((32, 70), (32, 70))]
)
def test_faces_are_brought_to_their_size_both_ways(
    restorer: Restorer, size: tuple[int, int], result: tuple[int, int]
) -> None:
    seen = []

    def cleaner(pictures: Tensor) -> Tensor:
        seen.append(pictures)
        return pictures.flip(1)

    cleaned = Cleaner(cleaner, 1, torch.device("cpu"), torch.float32)
    model = replace(restorer, cleaner=cleaned)
    colours = torch.tensor([0.8, 0.5, 0.2])[None, :, None, None].expand(1, 3, *size)
    lq = colours + 0.05 * torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(1))
    restored = restore(model, lq, steps=2)
    assert restored.shape[-2:] == result
    (picture,) = seen
    padding = [padded - side for padded, side in zip(picture.shape[-2:], result, strict=True)]
    assert all(0 <= side < 64 for side in padding)
    assert all(side % 64 == 0 for side in picture.shape[-2:])
    assert not picture[..., result[0] :, :].any()
    assert not picture[..., result[1] :].any()
    red, green, blue = restored.mean((0, 2, 3)).tolist()
    assert red < green < blue, "colours of what the cleaner made, not those of the bad picture"


@pytest.mark.parametrize("start", STARTS)
def test_it_sees_the_cleaned_picture_wherever_it_starts(restorer: Restorer, start: str) -> None:
    header = replace(restorer.header, start=start)
    cleaner = Cleaner(lambda picture: picture / 2, 1, torch.device("cpu"), torch.float32)
    bad, without = torch.rand(1, 3, 32, 32), replace(restorer, header=header)
    restored = restore(replace(without, cleaner=cleaner), bad, steps=1)
    torch.testing.assert_close(restored, restore(without, bad / 2, steps=1))


def test_parts_are_told_by_their_prefixes(full: dict[str, Tensor]) -> None:
    counts = [len(part.of(full)) for part in (UNET, CONTROL, AUTOENCODER, TEXT, SWINIR)]
    assert sum(counts) == len(full)
    assert all(counts)


def made(variant: str, **settings: Any) -> Tensor:
    lq = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(4))
    return restore(small.small_diffbir(variant), lq, upscale=1.0, steps=2, **settings)


def test_prompts_and_their_scale_are_what_a_variant_was_made_for() -> None:
    """Where nobody says anything else: v1 was made for no prompt at all."""
    expected = {
        "v1_face": PromptGuidance(),
        "v1_general": PromptGuidance(),
        "v2": PromptGuidance("", "low quality, blurry, low-resolution, noisy, unsharp, weird textures", 4.0),
        "v2.1": replace(GUIDANCE["v2.1"], cfg=6.0, rescale=True),
    }
    assert {name: prompt_guidance(header) for name, header in VARIANTS.items()} == expected
    assert GUIDANCE["v2.1"].prompt.startswith("Cinematic, ")
    assert "over-smooth" in GUIDANCE["v2.1"].negative_prompt
    assert prompt_guidance(RestorerHeader()) == PromptGuidance()


@pytest.mark.parametrize("variant", ["v1_general", "v2", "v2.1"])
def test_restoring_takes_the_variant_s_own(variant: str) -> None:
    own, result = prompt_guidance(VARIANTS[variant]), made(variant)
    given = {"prompt": own.prompt, "negative_prompt": own.negative_prompt, "cfg": own.cfg}
    assert torch.equal(result, made(variant, **given))
    if own.cfg > 1:
        for name, other in (("negative_prompt", ""), ("cfg", 1.5), ("prompt", "a cat")):
            assert not torch.equal(result, made(variant, **{name: other})), name


def test_without_a_text_tower_nothing_is_said() -> None:
    lq = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(4))
    mute = replace(small.small_diffbir("v2"), text=None)
    assert torch.equal(restore(mute, lq, upscale=1.0, steps=2), made("v2", cfg=1.0))
    with pytest.raises(ValueError, match="need the text tower"):
        restore(mute, lq, upscale=1.0, steps=1, negative_prompt="blurry", cfg=4.0)


@pytest.mark.parametrize("cfg", [0.5, 1000.0, float("nan")])
def test_a_scale_out_of_range_is_refused(cfg: float) -> None:
    with pytest.raises(ValueError, match=r"cfg must be from 1 \(no guidance\) to 100, got"):
        made("v2", cfg=cfg)
