"""Our U-Net as the host's MODEL: the same numbers as the host's own, its patches, its file format."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import comfy.model_management as mm
import comfy.ops
import comfy.samplers
import comfy.sd
import pytest
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.patcher_extension import WrappersMP
from pfstorer.nodes.condition import RestorationConditioning
from pfstorer.nodes.host import pixels
from pfstorer.nodes.host.conditioning import prompts_for, restorer_of, with_lq
from pfstorer.nodes.host.model import build_model, load_model
from pfstorer.nodes.host.tiles import Tiles, with_tiles
from pfstorer.nodes.host.unet import HostUNet
from pfstorer.nodes.host.vae import build_vae
from pfstorer.pfstorer_core.checkpoints.errors import CheckpointError
from pfstorer.pfstorer_core.imaging.tile_setting import TileSize
from pfstorer.pfstorer_core.models import (
    Autoencoder,
    AutoencoderConfig,
    ControlConfig,
    LQEncoderConfig,
    UNet,
    UNetConfig,
)
from pfstorer.pfstorer_core.restorers.base import Restorer
from pfstorer.pfstorer_core.restorers.files import RestorerHeader, load_restorer, open_restorer, save_restorer

SIZES = UNetConfig(
    model_channels=32,
    channel_mult=(1, 2, 2),
    num_res_blocks=1,
    num_head_channels=16,
    context_dim=24,
    sft_channels=32,
    sft_hidden=16,
    lq_encoder=LQEncoderConfig(
        model_channels=32, out_channels=32, channel_mult=(1, 1, 2), num_res_blocks=1, num_heads=2
    ),
)
HEADER = RestorerHeader(
    prediction_type="v", scale_factor=0.4, image_size=64, num_head_channels=16, lq_num_heads=2
)
LATENTS = [(16, 16), (33, 27), (64, 25), (8, 1)]


@pytest.fixture(scope="module")
def restorer() -> Restorer:
    torch.manual_seed(0)
    autoencoder = Autoencoder(AutoencoderConfig(ch=32, ch_mult=(1, 2, 2), num_res_blocks=1, cfw=True))
    context = torch.randn(1, 3, SIZES.context_dim)
    return Restorer(UNet(SIZES).eval(), autoencoder.eval(), context, HEADER)


@pytest.fixture(scope="module")
def path(restorer: Restorer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("restorer") / "small.safetensors"
    save_restorer(restorer, file, torch.float32)
    return file


@pytest.fixture
def model(path: Path) -> Any:
    return build_model(open_restorer(path), torch.float32)


def inputs(size: tuple[int, int], batch: int = 2) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, 4, *size, generator=generator)
    context = torch.randn(batch, 5, SIZES.context_dim, generator=generator)
    return x, torch.tensor([3, 977][:batch]), context, torch.randn(batch, 4, *size, generator=generator)


def host_unet(state: dict[str, torch.Tensor]) -> UNetModel:
    depth = [1] * len(SIZES.channel_mult) * SIZES.num_res_blocks
    unet = UNetModel(
        image_size=32, in_channels=4, out_channels=4, model_channels=SIZES.model_channels,
        num_res_blocks=[SIZES.num_res_blocks] * 3, channel_mult=SIZES.channel_mult,
        num_head_channels=SIZES.num_head_channels, use_spatial_transformer=True, transformer_depth=depth,
        transformer_depth_output=depth * 2, transformer_depth_middle=1, context_dim=SIZES.context_dim,
        use_linear_in_transformer=True, legacy=False, operations=comfy.ops.disable_weight_init,
    )  # fmt: skip
    unet.load_state_dict({k: v for k, v in state.items() if ".spade." not in k and "lq_encoder." not in k})
    return unet.eval()


@torch.no_grad()
@pytest.mark.parametrize("size", LATENTS)
def test_without_sft_it_is_the_host_s_unet(restorer: Restorer, model: Any, size: tuple[int, int]) -> None:
    x, t, context, _ = inputs(size)
    expected = host_unet(restorer.unet.state_dict())(x, t, context)
    torch.testing.assert_close(restorer.unet(x, t, context), expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(model.model.diffusion_model(x, t, context), expected, rtol=0, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("size", LATENTS)
def test_in_the_host_it_is_the_core_s_unet(restorer: Restorer, model: Any, size: tuple[int, int]) -> None:
    x, t, context, lq = inputs(size)
    expected = restorer.unet(x, t, context, lq)
    assert (expected - restorer.unet(x, t, context)).abs().max() > 1e-2, (
        "SFT changes nothing: the test is blind"
    )
    torch.testing.assert_close(
        model.model.diffusion_model(x, t, context, lq_latent=lq), expected, rtol=0, atol=1e-4
    )


@torch.no_grad()
@pytest.mark.parametrize("width", [SIZES.context_dim, 0])
def test_other_conditioners_work_in_the_host(width: int) -> None:
    """A control network, which reads the text, and further channels of a U-Net that reads none."""
    few: dict[str, Any] = {
        "model_channels": 32,
        "channel_mult": (1, 2),
        "num_res_blocks": 1,
        "num_head_channels": 16,
    }
    control = ControlConfig(**few, context_dim=width) if width else None
    channels = 4 if width else 8
    sizes = UNetConfig(**few, in_channels=channels, context_dim=width, sft_channels=0, control=control)
    torch.manual_seed(0)
    core = UNet(sizes).eval()
    placement: dict[str, Any] = {"dtype": torch.float32, "device": torch.device("cpu")}
    unet = HostUNet(sizes=sizes, attn_precision=None, operations=comfy.ops.disable_weight_init, **placement)
    unet.load_state_dict(core.state_dict())
    x, t, context, lq = inputs((16, 9))
    text = context if width else None
    torch.testing.assert_close(unet(x, t, text, lq_latent=lq), core(x, t, text, lq), rtol=0, atol=1e-4)
    assert (core(x, t, text, lq) - core(x, t, text, 2 * lq)).abs().max() > 1e-3


@torch.no_grad()
def test_true_bf16(restorer: Restorer, path: Path) -> None:
    unet = build_model(open_restorer(path), torch.bfloat16).model.diffusion_model
    assert {p.dtype for p in unet.parameters()} == {torch.bfloat16}
    x, t, context, lq = inputs((16, 16))
    expected = restorer.unet(x, t, context, lq)
    out = unet(x.bfloat16(), t, context.bfloat16(), lq_latent=lq.bfloat16())
    assert out.dtype == torch.bfloat16
    assert (out.float() - expected).norm() < 0.1 * expected.norm()


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "patch"),
    [
        ("emb_patch", lambda emb, channels, options: emb + channels),
        ("input_block_patch", lambda h, options: h + (options["block"] == ("input", 1))),
        ("input_block_patch_after_skip", lambda h, options: h + (options["block"] == ("input", 2))),
        ("middle_block_after_patch", lambda args: {"h": args["h"] + args["x"].mean()}),
        ("output_block_patch", lambda h, skip, options: (h, skip * (options["block"][1] != 3))),
        ("attn1_patch", lambda n, context, value, options: (n, context * 0, value)),
        ("attn2_output_patch", lambda n, options: n * options["block_index"]),
    ],
)
def test_the_host_s_patches_act_as_on_its_own(restorer: Restorer, model: Any, name: str, patch: Any) -> None:
    x, t, context, _ = inputs((16, 16))
    own = host_unet(restorer.unet.state_dict())
    options = [{"patches": {name: [patch]}} for _ in range(2)]
    expected = own(x, t, context, transformer_options=options[0])
    assert (expected - own(x, t, context)).abs().max() > 1e-3, "the patch changes nothing: the test is blind"
    ours = model.model.diffusion_model(x, t, context, transformer_options=options[1])
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_control_residuals_and_model_wrappers(restorer: Restorer, model: Any) -> None:
    x, t, context, _ = inputs((16, 16))

    def control() -> dict[str, list[torch.Tensor | None]]:
        return {"middle": [torch.ones(1, 64, 4, 4)], "output": [torch.ones(1, 64, 4, 4), None]}

    expected = host_unet(restorer.unet.state_dict())(x, t, context, control=control())
    given = control()
    unet: HostUNet = model.model.diffusion_model
    torch.testing.assert_close(unet(x, t, context, control=given), expected, rtol=0, atol=1e-4)
    assert len(given["middle"]) == 1, "the caller's residuals are used up: a second tile would have none"

    def double(executor: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        return 2 * executor(*args, **kwargs)

    options = {"wrappers": {WrappersMP.DIFFUSION_MODEL: {"test": [double]}}}
    doubled = unet(x, t, context, control=control(), transformer_options=options)
    torch.testing.assert_close(doubled, 2 * expected, rtol=0, atol=2e-4)


@torch.no_grad()
@pytest.mark.parametrize("batch", [1, 2])
def test_tiles_do_not_depend_on_their_batch(model: Any, batch: int) -> None:
    x, _, _, lq = inputs((26, 21), batch)
    context = torch.randn(2 * batch, 5, SIZES.context_dim)
    doubled = {"c_crossattn": context, "lq_latent": torch.cat([lq, lq])}
    t = torch.full((2 * batch,), 5.0)

    def run(tile: int, tile_batch: int) -> torch.Tensor:
        patched = with_tiles(model, Tiles(tile, tile // 2, tile_batch))
        options = {"wrappers": patched.wrappers, "cond_or_uncond": [0, 1]}
        return patched.model.apply_model(torch.cat([x, x]), t, transformer_options=options, **doubled)

    one = run(12, 1)
    torch.testing.assert_close(run(12, 4), one, rtol=0, atol=1e-4)
    options = {"cond_or_uncond": [0, 1]}
    whole = model.model.apply_model(torch.cat([x, x]), t, transformer_options=options, **doubled)
    assert torch.equal(run(64, 1), whole)
    assert (one - run(64, 1)).abs().max() > 1e-4, "tiles were not used"


def test_lq_latent_is_on_both_conditions_and_fits_the_noise(model: Any) -> None:
    lq = torch.randn(1, 4, 10, 12)
    positive, negative = with_lq(prompts_for(model.model, None, None), lq)
    assert all(torch.equal(entry[1]["lq_latent"], lq) for entry in (*positive, *negative))
    conds = model.model.extra_conds(lq_latent=lq, noise=torch.zeros(2, 4, 20, 24), device="cpu")
    assert conds["lq_latent"].cond.shape == (1, 4, 20, 24)
    same = model.model.extra_conds(lq_latent=lq, noise=torch.zeros(2, 4, 10, 12), device="cpu")
    assert torch.equal(same["lq_latent"].cond, lq * HEADER.scale_factor)


def test_saved_by_the_host_it_has_the_published_keys(restorer: Restorer, model: Any) -> None:
    saved = model.model.state_dict_for_saving(model.model.diffusion_model.state_dict())
    assert "structcond_stage_model.time_embed.0.weight" in saved
    assert "model.diffusion_model.input_blocks.1.0.spade.mlp_gamma.weight" in saved
    assert not any("lq_encoder" in key for key in saved)


def test_what_the_host_saves_loads_again(restorer: Restorer, model: Any, path: Path, tmp_path: Path) -> None:
    comfy.sd.save_checkpoint(str(tmp_path / "saved.safetensors"), model, None, build_vae(open_restorer(path)))
    saved = load_restorer(tmp_path / "saved.safetensors")
    assert saved.header == HEADER
    assert torch.equal(saved.null_context, restorer.null_context)
    torch.testing.assert_close(
        dict(saved.unet.state_dict()), dict(restorer.unet.state_dict()), rtol=0, atol=0
    )


def test_a_deep_copy_has_weights_and_a_null_context_of_its_own(path: Path) -> None:
    context = torch.randn(1, 2, SIZES.context_dim)
    options = (str(path), (), "eps", None, torch.float32, context)
    model = build_model(open_restorer(path, prediction_type="eps"), torch.float32, context)
    model.cached_patcher_init = (load_model, options)
    copy = model.clone(force_deepcopy=True)
    assert copy.model is not model.model
    assert torch.equal(copy.model.null_context, context)
    assert copy.model.model_type == model.model.model_type
    ours, theirs = (m.model.diffusion_model.state_dict() for m in (model, copy))
    torch.testing.assert_close(dict(ours), dict(theirs), rtol=0, atol=0)


def test_misfits_are_named(model: Any, path: Path) -> None:
    vae = build_vae(open_restorer(path))
    assert restorer_of(model, vae) is model.model
    vae.downscale_ratio = 8
    with pytest.raises(ValueError, match="VAE does not belong"):
        restorer_of(model, vae)
    with pytest.raises(ValueError, match="768 channels"):
        prompts_for(model.model, [[torch.zeros(1, 77, 768), {}]])


def test_small_images_and_off_sizes_in_restoration_conditioning(model: Any, path: Path) -> None:
    vae = build_vae(open_restorer(path))
    with pytest.raises(ValueError, match="2 x 90"):
        RestorationConditioning.execute(model, vae, torch.rand(1, 90, 2, 3))
    _, _, latent = RestorationConditioning.execute(model, vae, torch.rand(1, 33, 41, 3)).args
    assert latent["samples"].shape == (1, 4, 8, 10)


def test_vae(restorer: Restorer, path: Path) -> None:
    vae = build_vae(open_restorer(path))
    picture = torch.rand(1, 32, 40, 3)
    latent = vae.encode(picture)
    assert latent.shape == (1, 4, 8, 10)
    lq = 2 * picture.movedim(-1, 1) - 1
    with torch.no_grad():
        plain = restorer.autoencoder.decode(latent)
        fused = restorer.autoencoder.decode(latent, lq, 0.5)
    for expected, options in ((plain, {}), (fused, {"lq": lq, "fidelity": 0.5})):
        expected = ((expected + 1) / 2).clamp(0, 1).movedim(1, -1)
        torch.testing.assert_close(vae.decode(latent, vae_options=options), expected, rtol=0, atol=1e-5)


def test_the_host_s_vae_does_not_forget_the_fidelity_where_memory_is_short(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vae = build_vae(open_restorer(path))
    latent, lq = torch.randn(1, 4, 8, 10), torch.zeros(1, 3, 32, 40)
    own = vae.first_stage_model.decode

    def short(z: torch.Tensor, *rest: Any, **options: Any) -> torch.Tensor:
        if options or z.shape[-1] > 9:
            raise mm.OOM_EXCEPTION("no room")
        return own(z)

    monkeypatch.setattr(vae.first_stage_model, "decode", short)
    assert vae.decode(latent[..., :9]).shape == (1, 32, 36, 3)
    with pytest.raises(mm.OOM_EXCEPTION, match="no room for this tile"):
        vae.decode(latent, vae_options={"lq": lq, "fidelity": 0.5})
    assert vae.decode_tiled(latent[..., :9], tile_x=8, tile_y=8).shape == (1, 32, 36, 3), (
        "asked for by itself"
    )


def test_lora_keys_of_every_attention_map(model: Any) -> None:
    import comfy.lora

    key_map = comfy.lora.model_lora_keys_unet(model.model, {})
    key = "input_blocks.1.1.transformer_blocks.0.attn2.to_k"
    assert key_map[f"lora_unet_{key.replace('.', '_')}"] == f"diffusion_model.{key}.weight"
    diffusers = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    assert key_map[diffusers] == f"diffusion_model.{key}.weight"


def test_a_diffusion_model_that_cannot_restore_is_refused(restorer: Restorer, tmp_path: Path) -> None:
    plain = replace(restorer, unet=UNet(replace(SIZES, sft_channels=0, lq_encoder=None)))
    save_restorer(plain, tmp_path / "plain.safetensors")
    with pytest.raises(CheckpointError, match="structcond_stage_model"):
        open_restorer(tmp_path / "plain.safetensors")


class StubVAE:
    """An autoencoder whose tiles are exactly the whole's: averages one way, repeats the other."""

    downscale_ratio = 4
    room = 10_000
    device = "cpu"
    vae_dtype = torch.float32

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(image.movedim(-1, 1), 4)

    def decode(self, latent: torch.Tensor, vae_options: dict[str, Any] | None = None) -> torch.Tensor:
        options = vae_options or {}
        if latent.shape[-1] > self.room:
            raise mm.OOM_EXCEPTION("no room")
        picture = latent.repeat_interleave(4, -1).repeat_interleave(4, -2)
        return (picture + options.get("fidelity", 0) * options.get("lq", 0)).movedim(1, -1)


@pytest.mark.parametrize(("fidelity", "tiles", "number"), [(0.0, (8, -1), 9), (0.5, (8, 4), 12)])
def test_large_pictures_go_through_the_vae_in_tiles(
    fidelity: float, tiles: tuple[int, int], number: int
) -> None:
    vae, picture = StubVAE(), torch.rand(2, 3, 76, 60)
    whole_latent = pixels.encode(vae, picture)
    whole = pixels.decode(vae, whole_latent, picture, fidelity)
    heard: list[int] = []
    size = TileSize(*tiles)
    torch.testing.assert_close(pixels.encode(vae, picture, size, lambda: heard.append(1)), whole_latent)
    torch.testing.assert_close(
        pixels.decode(vae, whole_latent, picture, fidelity, size, lambda: heard.append(2)), whole
    )
    assert (heard.count(1), heard.count(2)) == (number, 2 * number)
    assert whole.shape == picture.shape


def test_the_vae_takes_smaller_tiles_where_memory_is_short_and_keeps_the_fidelity(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    vae, picture = StubVAE(), torch.rand(1, 3, 76, 60)
    latent = pixels.encode(vae, picture)
    whole = pixels.decode(vae, latent, picture, 0.5)
    monkeypatch.setattr(pixels, "LEAST_TILE", 4)
    vae.room = 8
    torch.testing.assert_close(pixels.decode(vae, latent, picture, 0.5, TileSize(16, 12)), whole)
    assert "tiles of 8 x 8 latent cells" in caplog.text
    vae.room = 2
    with pytest.raises(mm.OOM_EXCEPTION, match=r"memory is too small for the VAE.*4 x 4 .*--lowvram"):
        pixels.decode(vae, latent, picture, 0.5, TileSize(16, -1))


def test_a_vae_of_the_host_s_own_has_no_fidelity() -> None:
    vae = SimpleNamespace(first_stage_model=object())
    pixels.check_fidelity(vae, 0.0)
    with pytest.raises(ValueError, match=r"Fidelity 0.5 needs a VAE with CFW.*VAE of Load Base Restorer"):
        pixels.check_fidelity(vae, 0.5)


@torch.no_grad()
@pytest.mark.parametrize(
    ("lq_rows", "timesteps", "encoded"),
    [
        ([0, 0, 0, 0], [5.0, 5.0, 5.0, 5.0], 1),  # variations of one picture, with CFG
        ([0, 1, 0, 1], [5.0, 5.0, 5.0, 5.0], 2),  # two pictures, with CFG
        ([0, 1, 1, 0], [5.0, 5.0, 5.0, 5.0], 4),
        ([0, 0, 0, 0], [5.0, 2.0, 1.0, 9.0], 4),  # a training batch
    ],
)
def test_shared_lq_rows_are_encoded_once(
    model: Any, lq_rows: list[int], timesteps: list[float], encoded: int
) -> None:
    x, _, context, lq = inputs((16, 16))
    x, context = torch.cat([x, x + 1]), torch.cat([context, context - 1])
    lq, sigma = lq[lq_rows], torch.tensor(timesteps)
    seen: list[int] = []
    encoder = model.model.diffusion_model.lq_encoder
    handle = encoder.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    options = {"cond_or_uncond": [0, 1]}
    together = model.model.apply_model(x, sigma, None, context, None, options, lq_latent=lq)
    assert seen == [encoded]
    handle.remove()
    for row in range(4):
        of = slice(row, row + 1)
        alone = model.model.apply_model(x[of], sigma[of], None, context[of], None, {}, lq_latent=lq[of])
        torch.testing.assert_close(together[of], alone, rtol=0, atol=1e-4)


def test_the_host_s_ddpm_takes_stablesr_turbo_s_steps(model: Any) -> None:
    sampling = model.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, "normal", 4)
    assert sampling.timestep(sigmas[:-1]).round().int().tolist() == [999, 666, 333, 0]
    assert sigmas[-1] == 0
