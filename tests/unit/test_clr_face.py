"""The conditional prior among VQ latents: its files in all layouts, and what it makes of pictures."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pfstorer_core import CheckpointError, Restorer, load_restorer, restore, save_restorer
from pfstorer_core.checkpoints.parts import AUTOENCODER, UNET
from pfstorer_core.models import UNet
from pfstorer_core.restorers.clr_face.variants import CLR_FACE, VARIANTS
from pfstorer_core.restorers.convert import convert
from pfstorer_core.restorers.diffbir.cleaner import Cleaner
from pfstorer_core.restorers.files import RestorerFile, open_restorer
from pfstorer_core.restorers.inspection import inspect_checkpoint
from pfstorer_core.restorers.registry import note_of

from .small import PLAIN, VQ, small_prior, write

LQ = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def prior() -> Restorer:
    return small_prior()


def stored(restorer: Restorer) -> dict[str, Tensor]:
    """Under the keys of a latent diffusion checkpoint, with averages that are other weights than its own."""
    own, stage = UNET.prefixed(restorer.unet.state_dict()), restorer.autoencoder.state_dict()
    averages = {f"model_ema.{key[6:].replace('.', '')}": value for key, value in own.items()}
    copies = {f"cond_stage_model.lq_image.{key}": 2 * value for key, value in stage.items()}
    counters = {"model_ema.decay": torch.tensor(0.9), "betas": torch.ones(1000)}
    plain = {key: value + 1 for key, value in own.items()}
    return {**plain, **averages, **copies, **counters, **AUTOENCODER.prefixed(stage)}


def without_first_stage(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value for key, value in tensors.items() if not key.startswith(AUTOENCODER.prefix)}


def assert_same(file: RestorerFile, restorer: Restorer) -> None:
    """The same networks, to the bit and of the same sizes."""
    assert (file.unet_config, file.autoencoder_config) == (PLAIN, VQ)
    for ours, model in ((file.unet, restorer.unet), (file.autoencoder, restorer.autoencoder)):
        torch.testing.assert_close(ours, dict(model.state_dict()), rtol=0, atol=0)
    assert not file.text


def test_saved_and_loaded_it_is_the_same(prior: Restorer, tmp_path: Path) -> None:
    save_restorer(prior, tmp_path / "a.safetensors", torch.float32)
    loaded = load_restorer(tmp_path / "a.safetensors")
    assert (loaded.header, loaded.text, loaded.null_context.shape) == (prior.header, None, (1, 1, 0))
    assert torch.equal(restore(loaded, LQ, steps=2), restore(prior, LQ, steps=2))
    with pytest.raises(ValueError, match="reads no prompts"):
        restore(loaded, LQ, steps=1, prompt="a face")
    assert load_restorer(tmp_path / "a.safetensors", text=True).text is None  # there is none to ask for


@pytest.mark.parametrize("wrapped", [True, False])
def test_averages_are_taken_and_copies_are_not(prior: Restorer, wrapped: bool, tmp_path: Path) -> None:
    """ReF-LDM's file, with or without ``state_dict`` around it, its first stage inside or apart."""
    opened = partial(open_restorer, variant="refldm")
    tensors, path = stored(prior), tmp_path / "refldm.ckpt"
    write(path, tensors) if wrapped else torch.save(tensors, path)
    file = opened(path)
    assert_same(file, prior)
    assert file.header == VARIANTS["refldm"]
    apart = tmp_path / "apart.ckpt"
    write(apart, without_first_stage(tensors)) if wrapped else torch.save(without_first_stage(tensors), apart)
    stage = write(tmp_path / "vqgan.ckpt", {**prior.autoencoder.state_dict(), "loss.a": torch.ones(1)})
    assert_same(opened(apart, [stage]), prior)
    other = replace(prior, autoencoder=small_prior().autoencoder)
    torch.nn.init.zeros_(other.autoencoder.quant_conv.get_parameter("bias"))
    write(path, stored(other))
    assert_same(opened(path, [stage]), prior)
    with pytest.raises(CheckpointError, match=r"apart\.ckpt is .*without its first stage.*vqgan\.ckpt"):
        opened(apart)
    with pytest.raises(CheckpointError, match=r"vqgan\.ckpt holds .* alone.*Choose the latent diffusion"):
        opened(stage, [apart])


def test_half_of_the_averages_are_an_error(prior: Restorer, tmp_path: Path) -> None:
    tensors = stored(prior)
    del tensors["model_ema.diffusion_modelout2bias"]
    with pytest.raises(
        CheckpointError, match=r"averages of some .* not of model\.diffusion_model\.out\.2\.b"
    ):
        open_restorer(write(tmp_path / "a.ckpt", tensors), variant="refldm")


def test_what_a_published_file_is_its_tensors_tell(tmp_path: Path) -> None:
    for name, channels, variant in (
        ("model.ckpt", (16, 8), "refldm"),
        ("model.ckpt", (3, 3), "ffhq256"),
        ("celeba.ckpt", (3, 3), "celeba256"),
        ("model.ckpt", (6, 3), "bsr_sr"),
    ):
        sizes, width = replace(PLAIN, in_channels=channels[0], out_channels=channels[1]), channels[1]
        stage = type(small_prior().autoencoder)(replace(VQ, z_channels=width, embed_dim=width))
        restorer = replace(small_prior(), unet=UNet(sizes), autoencoder=stage)
        path = write(tmp_path / name, stored(restorer))
        file = open_restorer(path)
        assert file.header == VARIANTS[variant]
        assert ("cannot restore" in note_of(file.header)) == (channels == (3, 3))
        assert "commercial" in note_of(file.header)
        found = inspect_checkpoint(path)
        assert (found.header, found.networks[-1].faults) == (file.header, "")
    with pytest.raises(CheckpointError, match=r"model\.ckpt is a latent diffusion model that is not known"):
        open_restorer(write(tmp_path / "model.ckpt", stored(small_prior())))
    with pytest.raises(CheckpointError, match=r"U-Net and autoencoder have \(8, 4\) latent channels, which"):
        open_restorer(tmp_path / "model.ckpt", variant="ffhq256")


def test_converted_it_is_one_file(prior: Restorer, tmp_path: Path) -> None:
    source = write(tmp_path / "refldm.ckpt", without_first_stage(stored(prior)))
    stage = write(tmp_path / "vqgan.ckpt", prior.autoencoder.state_dict())
    convert(tmp_path / "one.safetensors", source, [stage], dtype="fp32", variant="refldm")
    file = open_restorer(tmp_path / "one.safetensors")
    assert_same(file, prior)
    assert (file.header.variant, file.header.start) == ("refldm", "noise")
    found = inspect_checkpoint(tmp_path / "one.safetensors")
    assert (found.missing, found.note) == ([], note_of(file.header))
    assert found.fingerprint


def seen(restorer: Restorer, **given: object) -> list[tuple[Tensor, Tensor, Tensor | None]]:
    """Noisy latent, time step and condition of each evaluation."""
    found: list[tuple[Tensor, Tensor, Tensor | None]] = []
    handle = restorer.unet.register_forward_pre_hook(
        lambda _, args: found.append((args[0], args[1], args[3]))
    )
    restore(restorer, LQ, upscale=1, **given)  # type: ignore[arg-type]
    handle.remove()
    return found


def half(pictures: Tensor) -> Tensor:
    return pictures / 2


@pytest.mark.parametrize(("start", "at"), [("cleaned", 0.5), ("lq", 0.25), ("noise", 1.0)])
def test_it_sees_the_bad_picture_and_starts_from_the_cleaned_one(start: str, at: float) -> None:
    """q_sample(E(cleaned), t0) with t0 = at * T (clr-face.md, 4.4)."""
    prior = small_prior(start=start, start_at=at)
    prior = replace(prior, cleaner=Cleaner(half, 1, torch.device("cpu"), torch.float32))
    found, last = seen(prior, steps=3, seed=5), round(at * 1000) - 1
    assert [int(t) for _, t, _ in found] == [last, round(last / 2), 0]
    with torch.no_grad():
        bad, cleaned = (prior.autoencoder.encode(2 * picture - 1) for picture in (LQ, LQ / 2))
    for _, _, condition in found:
        assert condition is not None
        torch.testing.assert_close(condition, bad)
    noise = torch.randn(bad.shape, generator=torch.Generator().manual_seed(5))
    expected = {"cleaned": cleaned, "lq": bad}.get(start)
    x = noise if expected is None else prior.schedule.q_sample(expected, last, noise)
    torch.testing.assert_close(found[0][0], x)
    assert len(seen(prior, steps=3, sampler="ddim")) == 3
    with pytest.raises(ValueError, match="No sampler named 'euler'; choose one of ddpm, ddim"):
        seen(prior, steps=3, sampler="euler")


def test_without_a_cleaner_it_starts_from_the_bad_picture(prior: Restorer) -> None:
    as_lq = replace(prior, header=replace(prior.header, start="lq"))
    assert torch.equal(restore(prior, LQ, steps=2), restore(as_lq, LQ, steps=2))


def test_guidance_is_between_seeing_the_picture_and_not(prior: Restorer) -> None:
    found = seen(prior, steps=1, cfg=1.5)
    assert [condition is None for _, _, condition in found] == [False, True]
    x, t, condition = found[0]
    assert condition is not None
    with torch.no_grad():
        zeros = prior.unet(x, t, condition=torch.zeros_like(condition))
        assert torch.equal(prior.unet(x, t), zeros)
        assert not torch.equal(prior.unet(x, t, condition=condition), zeros)


def test_a_result_is_brought_to_the_codebook_or_not(prior: Restorer) -> None:
    latents: list[Tensor] = []
    decoder = prior.autoencoder.post_quant_conv
    handle = decoder.register_forward_pre_hook(lambda _, args: latents.append(args[0]))
    for quantize in (True, False):
        restore(prior, LQ, upscale=1, steps=1, quantize=quantize)
    handle.remove()
    assert prior.autoencoder.quantize is not None
    entries = prior.autoencoder.quantize.get_parameter("embedding.weight")
    distances = [torch.cdist(z.movedim(1, -1).flatten(0, -2), entries).min(1)[0].max() for z in latents]
    assert distances[0] < 1e-3 < 0.01 < distances[1]


def test_pixels_at_the_size_of_the_latent_are_a_condition(prior: Restorer) -> None:
    sizes = replace(PLAIN, in_channels=7)
    pixels = replace(small_prior(condition="pixels"), unet=UNet(sizes))
    ((_, _, condition),) = seen(pixels, steps=1)
    assert condition is not None
    torch.testing.assert_close(condition, 2 * torch.nn.functional.avg_pool2d(LQ, 4) - 1)


def test_unconditional_it_goes_by_its_start_alone() -> None:
    alone = replace(small_prior(condition="none"), unet=UNet(replace(PLAIN, in_channels=4)))
    assert [condition for _, _, condition in seen(alone, steps=2)] == [None, None]
    pictures = [restore(alone, picture, upscale=1, steps=2, color_fix="none") for picture in (LQ, 1 - LQ)]
    assert not torch.equal(*pictures)


def test_pure_noise_is_at_the_end_of_the_schedule() -> None:
    with pytest.raises(CheckpointError, match=r"pure noise is where a schedule starts, not at 0\.5"):
        replace(CLR_FACE, start="noise")
