"""A CLR-Face prior inside the host: channels beside the latent, its start, its VQ decoder."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import comfy.sample
import folder_paths
import pytest
import torch
from comfy_extras import nodes_model_merging as merging
from pfstorer.nodes import load as loading
from pfstorer.nodes.condition import RestorationConditioning
from pfstorer.nodes.host import cleaning
from pfstorer.nodes.host.conditioning import prompts_for, with_lq
from pfstorer.nodes.host.model import build_model
from pfstorer.nodes.host.notes import described
from pfstorer.nodes.host.vae import build_vae
from pfstorer.nodes.sample import TiledSRSampler
from pfstorer.pfstorer_core.diffusion.guidance import cfg_combine
from pfstorer.pfstorer_core.models import (
    Autoencoder,
    AutoencoderConfig,
    SwinIR,
    SwinIRConfig,
    UNet,
    UNetConfig,
)
from pfstorer.pfstorer_core.restorers.base import Restorer
from pfstorer.pfstorer_core.restorers.clr_face.variants import CLR_FACE
from pfstorer.pfstorer_core.restorers.condition import Condition
from pfstorer.pfstorer_core.restorers.diffbir.cleaner import Cleaner
from pfstorer.pfstorer_core.restorers.files import RestorerFile, open_restorer, save_restorer

from nodes import VAEDecode

SIDE = 64


@pytest.fixture(scope="module")
def restorer() -> Restorer:
    """Of 8 latent channels, of which the host knows nothing."""
    torch.manual_seed(0)
    sizes = UNetConfig(
        in_channels=16, out_channels=8, model_channels=32, channel_mult=(1, 2, 2), num_res_blocks=1,
        attention_resolutions=(4, 2), num_head_channels=32, context_dim=0, sft_channels=0,
    )  # fmt: skip
    vq = AutoencoderConfig(
        ch=32, ch_mult=(1, 2, 2), num_res_blocks=1, z_channels=8, embed_dim=8, codebook=16, double_z=False
    )
    cleaner = SwinIR(SwinIRConfig(24, (2, 1), (2, 3), 8, 2, 16)).eval().requires_grad_(False)
    header = replace(CLR_FACE, image_size=SIDE)
    autoencoder = Autoencoder(vq).eval()
    assert autoencoder.quantize is not None
    torch.nn.init.normal_(autoencoder.quantize.get_parameter("embedding.weight"), std=0.3)
    return Restorer(UNet(sizes).eval(), autoencoder, torch.zeros(1, 1, 0), header, None, Cleaner.of(cleaner))


@pytest.fixture(scope="module")
def file(restorer: Restorer, tmp_path_factory: pytest.TempPathFactory) -> RestorerFile:
    path: Path = tmp_path_factory.mktemp("clr_face") / "prior.safetensors"
    save_restorer(restorer, path, torch.float32)
    return open_restorer(path)


@pytest.fixture(scope="module")
def model(file: RestorerFile) -> Any:
    return build_model(file, torch.float32, torch.zeros(1, 1, 0))


@pytest.fixture(scope="module")
def vae(file: RestorerFile) -> Any:
    return build_vae(file)


def bad() -> torch.Tensor:
    return torch.rand(1, SIDE, SIDE, 3, generator=torch.Generator().manual_seed(3))


def latents(restorer: Restorer) -> list[torch.Tensor]:
    """Of the bad picture, and of the cleaned one."""
    picture = bad().movedim(-1, 1)
    with torch.no_grad():
        return [restorer.encode(each) for each in (picture, restorer.clean(picture))]


def watched(model: Any) -> tuple[Any, list[dict[str, Any]]]:
    """A clone that notes what it is asked."""
    model, asked = model.clone(), list[dict[str, Any]]()

    def note(apply: Any, given: dict[str, Any]) -> torch.Tensor:
        asked.append(given)
        return apply(given["input"], given["timestep"], **given["c"])

    model.set_model_unet_function_wrapper(note)
    return model, asked


def sampled(model: Any, vae: Any, **changes: Any) -> tuple[torch.Tensor, torch.Tensor]:
    settings = {"upscale": 1.0, "steps": 20, "cfg": 1.0, "sampler_name": "euler", "scheduler": "normal"}
    image, latent, _ = TiledSRSampler.execute(model, vae, bad(), **{**settings, "seed": 5, **changes}).args
    return image, latent["samples"]


@pytest.mark.parametrize("cfg", [1.0, 1.5])
def test_an_evaluation_is_the_core_s(restorer: Restorer, model: Any, vae: Any, cfg: float) -> None:
    """Guidance is between the bad picture's latent and zeros in its place."""
    generator = torch.Generator().manual_seed(1)
    x, (lq, _) = torch.randn(1, 8, 16, 16, generator=generator), latents(restorer)
    sigma = model.model.model_sampling.sigma(torch.tensor([499.0]))
    positive, negative = with_lq(prompts_for(model.model, None, None), lq)
    scaled = x * (sigma**2 + 1).sqrt()
    found: list[torch.Tensor] = []
    comfy.sample.sample(
        model, scaled / sigma, 1, cfg, "euler", "normal", positive, negative, torch.zeros_like(x),
        sigmas=torch.cat([sigma, sigma / 2]), callback=lambda step, x0, x, total: found.append(x0),
        disable_pbar=True,
    )  # fmt: skip
    t = torch.tensor([499])
    with torch.no_grad():
        eps = [restorer.denoise(x, t, Condition(seen)) for seen in (lq, None)]
    expected = restorer.schedule.predict_x0(x, 499, cfg_combine(*eps, cfg), "eps")
    assert not torch.allclose(*eps)
    torch.testing.assert_close(found[0], expected, rtol=0, atol=2e-2)


def test_it_sees_the_bad_picture_and_starts_from_the_cleaned_one(
    restorer: Restorer, model: Any, vae: Any
) -> None:
    lq, cleaned = latents(restorer)
    seen, asked = watched(model)
    _, natively = sampled(seen, vae)
    timesteps = [float(model.model.model_sampling.timestep(given["timestep"])[0]) for given in asked]
    assert len(timesteps) == 20
    assert timesteps[0] == pytest.approx(499, abs=15)  # as near as the host's scheduler comes
    torch.testing.assert_close(asked[0]["c"]["lq_latent"], lq, rtol=0, atol=1e-4)
    noise = (asked[0]["input"] - cleaned) / asked[0]["timestep"]
    torch.testing.assert_close(noise, comfy.sample.prepare_noise(cleaned, 5), rtol=0, atol=1e-3)
    positive, negative, latent = RestorationConditioning.execute(model, vae, bad()).args
    torch.testing.assert_close(latent["samples"], cleaned, rtol=0, atol=5e-3)
    by_hand = comfy.sample.sample(
        model, comfy.sample.prepare_noise(cleaned, 5), 20, 1.0, "euler", "normal", positive, negative,
        latent["samples"], denoise=0.5, seed=5, disable_pbar=True,
    )  # fmt: skip
    torch.testing.assert_close(by_hand, natively, rtol=0, atol=1e-4)


def test_a_part_of_the_latent_is_found_on_the_cleaned_picture(
    restorer: Restorer, model: Any, vae: Any
) -> None:
    lq, _ = latents(restorer)
    seen, asked = watched(model)
    positive, negative, latent = RestorationConditioning.execute(model, vae, bad()).args
    part = latent["samples"][..., 4:12, 6:14]
    noise = comfy.sample.prepare_noise(part, 5)
    comfy.sample.sample(seen, noise, 1, 1.5, "euler", "normal", positive, negative, part, disable_pbar=True)
    (given,) = asked
    expected = torch.cat([lq[..., 4:12, 6:14]] * 2)
    torch.testing.assert_close(given["c"]["lq_latent"], expected, rtol=0, atol=1e-4)
    assert sorted(given["c"]["sees_lq"].flatten().tolist()) == [0.0, 1.0]


def test_another_start_and_no_cleaner(restorer: Restorer, model: Any, vae: Any) -> None:
    lq, cleaned = latents(restorer)
    bare = model.clone()
    bare.remove_attachments(cleaning.KEY)
    for given, denoise, start, share in ((model, 1.0, cleaned, 1.0), (bare, 0.25, lq, 0.25)):
        seen, asked = watched(given)
        sampled(seen, vae, denoise=denoise)
        timestep = float(model.model.model_sampling.timestep(asked[0]["timestep"])[0])
        assert timestep == pytest.approx(1000 * share - 1, abs=15)
        noise = comfy.sample.prepare_noise(start, 5)
        expected = start + asked[0]["timestep"] * noise
        torch.testing.assert_close(asked[0]["input"], expected, rtol=1e-3, atol=1e-2)


def test_a_vq_decoder_quantizes_unless_told_otherwise(restorer: Restorer, model: Any, vae: Any) -> None:
    z = torch.randn(1, 8, 16, 16, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        decoded = [restorer.decode(z, quantize=quantize).clamp(0, 1) for quantize in (True, False)]
    (natively,) = VAEDecode().decode(vae, {"samples": z})
    unquantized = vae.decode(z, vae_options={"quantize": False})
    for ours, theirs in zip(decoded, (natively, unquantized), strict=True):
        torch.testing.assert_close(theirs.movedim(-1, 1).float(), ours, rtol=0, atol=2e-2)
    pictures = [sampled(model, vae, quantize=quantize)[0] for quantize in (True, False)]
    assert (pictures[0] - pictures[1]).abs().max() > 0.05


def test_the_nodes_load_it_and_say_what_it_is(
    file: RestorerFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert file.source is not None
    path = str(file.source.path)
    monkeypatch.setattr(loading, "restorer_path", lambda _: path)
    monkeypatch.setattr(loading, "addon_paths", lambda *_: [])
    model, clip, vae = loading.LoadBaseRestorer.execute("prior.safetensors", dtype="fp32").args
    assert sampled(model, vae)[0].shape == (1, SIDE, SIDE, 3)
    with pytest.raises(ValueError, match="has no text tower, so it cannot read prompts"):
        clip.tokenize("a face")
    with pytest.raises(ValueError, match="reads no prompts: leave positive and negative"):
        RestorationConditioning.execute(model, vae, bad(), positive=[[torch.zeros(1, 77, 1024), {}]])
    assert described(file) == f"Taken for clr_face: eps, faces brought to {SIDE} pixels, own cleaner."
    generator = replace(file.header, variant="ffhq256", condition="none")
    assert "it does not see the bad picture and so cannot restore it" in described(
        replace(file, header=generator, cleaner={})
    )
    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path))
    merging.ModelSave().save(model, "saved")
    (saved,) = tmp_path.rglob("saved*.safetensors")
    again = open_restorer(file.source.path, [saved])
    assert again.header == file.header
    assert again.cleaner.keys() == file.cleaner.keys()
    assert all(torch.equal(value, file.unet[key]) for key, value in again.unet.items())


def test_of_a_latent_that_nobody_knows_colours_there_is_no_preview(model: Any, file: RestorerFile) -> None:
    assert model.model.latent_format.latent_rgb_factors is None
    known = replace(file, header=replace(file.header, preview=[[0.1, 0.2, 0.3]] * 9))
    factors = build_model(known, torch.float32).model.latent_format.latent_rgb_factors
    assert factors == [[0.1, 0.2, 0.3]] * 8
