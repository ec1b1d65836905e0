"""DiffBIR inside the host: its control network beside the host's layers, its cleaner, its nodes."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import comfy.model_management as mm
import comfy.ops
import comfy.samplers
import comfy.utils
import folder_paths
import pytest
import torch
from comfy.cldm.cldm import ControlNet
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy_extras import nodes_model_merging as merging
from inside_identity import applied, stand_in
from pfstorer.nodes import load as loading
from pfstorer.nodes.condition import RestorationConditioning
from pfstorer.nodes.host import cleaning
from pfstorer.nodes.host.model import build_model
from pfstorer.nodes.host.notes import described
from pfstorer.nodes.host.sampling import MARGIN, plan_tiles
from pfstorer.nodes.host.tiles import Tiles
from pfstorer.nodes.host.vae import build_vae
from pfstorer.nodes.host.weights import weight_patches, with_weights
from pfstorer.nodes.sample import TiledSRSampler
from pfstorer.pfstorer_core import RestorerHeader, restore
from pfstorer.pfstorer_core.checkpoints.parts import SWINIR
from pfstorer.pfstorer_core.diffusion.guidance import cfg_combine, rescaled_cfg
from pfstorer.pfstorer_core.imaging.canvas import Canvas
from pfstorer.pfstorer_core.imaging.tiling import TileGrid
from pfstorer.pfstorer_core.models import (
    Autoencoder,
    AutoencoderConfig,
    ControlConfig,
    LQEncoderConfig,
    SwinIR,
    SwinIRConfig,
    UNet,
    UNetConfig,
)
from pfstorer.pfstorer_core.personalization.weights import Full
from pfstorer.pfstorer_core.restorers.base import Restorer
from pfstorer.pfstorer_core.restorers.condition import Condition
from pfstorer.pfstorer_core.restorers.diffbir.cleaner import Cleaner
from pfstorer.pfstorer_core.restorers.diffbir.variants import VARIANTS
from pfstorer.pfstorer_core.restorers.files import RestorerFile, open_restorer, save_restorer
from pfstorer.pfstorer_core.restorers.trainable import TrainableRestorer
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode

SIDE = 64
SHARED: dict[str, Any] = {
    "model_channels": 32, "channel_mult": (1, 2, 2), "num_res_blocks": 1, "num_head_channels": 16,
    "context_dim": 24,
}  # fmt: skip
CONTROL = "control_model.input_blocks.1.0.in_layers.2.weight"


@pytest.fixture(scope="module")
def restorer() -> Restorer:
    torch.manual_seed(0)
    unet = UNet(UNetConfig(sft_channels=0, control=ControlConfig(in_channels=8, **SHARED), **SHARED))
    autoencoder = Autoencoder(AutoencoderConfig(ch=32, ch_mult=(1, 2, 2), num_res_blocks=1))
    cleaner = SwinIR(SwinIRConfig(24, (2, 1), (2, 3), 8, 2, 16)).eval().requires_grad_(False)
    header = replace(VARIANTS["v1_face"], image_size=SIDE, num_head_channels=16)
    context = torch.randn(1, 3, SHARED["context_dim"])
    return Restorer(unet.eval(), autoencoder.eval(), context, header, cleaner=Cleaner.of(cleaner))


@pytest.fixture(scope="module")
def file(restorer: Restorer, tmp_path_factory: pytest.TempPathFactory) -> RestorerFile:
    path: Path = tmp_path_factory.mktemp("diffbir") / "face_full_v1.safetensors"
    save_restorer(restorer, path, torch.float32)
    return open_restorer(path)


@pytest.fixture(scope="module")
def model(file: RestorerFile) -> Any:
    return build_model(file, torch.float32)


def bad(height: int = 48, width: int = 40) -> torch.Tensor:
    return torch.rand(1, height, width, 3, generator=torch.Generator().manual_seed(3))


def sampled(model: Any, vae: Any, **changes: Any) -> torch.Tensor:
    settings = {"upscale": 1.0, "steps": 2, "cfg": 1.0, "sampler_name": "euler", "scheduler": "normal"}
    return TiledSRSampler.execute(model, vae, bad(), **{**settings, "seed": 5, **changes}).args[0]


def test_an_evaluation_is_the_core_s(restorer: Restorer, model: Any) -> None:
    """The control network reads the empty prompt, whatever the U-Net reads; both rows see one hint."""
    generator = torch.Generator().manual_seed(1)
    x, hint = (torch.randn(n, 4, 16, 16, generator=generator) for n in (2, 1))
    context = torch.randn(2, 5, 24, generator=generator)
    t = torch.tensor([700.0, 30.0])
    sigma = model.model.model_sampling.sigma(t)
    with torch.no_grad():
        theirs = restorer.denoise(x, t.long(), Condition(hint), context)
        conds = model.model.extra_conds(
            noise=x, device="cpu", cross_attn=context, lq_latent=hint / restorer.header.scale_factor
        )
        given = {name: cond.process_cond(batch_size=2, area=None).cond for name, cond in conds.items()}
        scaled = x * (sigma[:, None, None, None] ** 2 + 1).sqrt()
        denoised = model.model.apply_model(scaled, sigma, transformer_options={}, **given)
    eps = (scaled - denoised) / sigma[:, None, None, None]
    torch.testing.assert_close(eps, theirs, rtol=0, atol=2e-3)


class Operations(TorchDispatchMode):
    """Counts what is called of PyTorch's."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def test_a_step_calls_no_more_than_the_host_s_own_under_a_controlnet(model: Any) -> None:
    words = {name: value for name, value in model.model.model_config.unet_config.items() if name != "sizes"}
    words |= {"image_size": 32, "num_head_channels": 16, "use_spatial_transformer": True, "legacy": False}
    words |= {"operations": comfy.ops.disable_weight_init, "dtype": torch.float32}
    with torch.no_grad():
        native = UNetModel(**words, out_channels=4)
        control = ControlNet(**words, hint_channels=3)
    x, context, t = torch.randn(2, 4, 16, 16), torch.randn(2, 5, 24), torch.tensor([700, 30])
    hint, ours = torch.rand(2, 3, 128, 128), model.model.diffusion_model

    def operations(call: Any) -> int:
        with torch.no_grad(), Operations() as counted:
            call()
        return counted.count

    mm.load_models_gpu([model])
    theirs = operations(lambda: native(x, t, context, control=control(x, hint, t, context)))
    theirs -= operations(lambda: control.input_hint_block(hint, None, context))
    own = operations(
        lambda: ours(x, t, context, lq_latent=x[:1], condition_context=context[:1].expand(2, -1, -1))
    )
    assert 0 < own <= 1.03 * theirs, (own, theirs)


def test_a_face_is_brought_to_its_size_cleaned_and_restored(
    restorer: Restorer, file: RestorerFile, model: Any
) -> None:
    vae = build_vae(file)
    restored = sampled(model, vae, upscale=4.0)
    assert restored.shape[1:3] == (77, SIDE)
    assert torch.isfinite(restored).all()
    assert torch.equal(restored, sampled(model, vae)), "upscale has no effect on a restorer of one size"
    ours = restore(restorer, bad().movedim(-1, 1), steps=1)
    assert ours.shape[-2:] == restored.shape[1:3]
    bare = model.clone()
    bare.remove_attachments(cleaning.KEY)
    assert not torch.equal(restored, sampled(bare, vae)), "the cleaner of the file had no effect"
    assert torch.equal(restored, sampled(bare, vae, cleaner=model.get_attachment(cleaning.KEY)))


def test_a_control_network_goes_on_top_of_a_stablesr_restorer(
    restorer: Restorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `train-control --alone` makes it: the node takes it, and the restorer's own SFT rests."""
    torch.manual_seed(3)
    lq_encoder = LQEncoderConfig(model_channels=32, out_channels=32, channel_mult=(1, 1, 1))
    steered = UNet(UNetConfig(sft_channels=32, sft_hidden=16, lq_encoder=lq_encoder, **SHARED)).eval()
    header = RestorerHeader(image_size=SIDE, num_head_channels=16)
    base = Restorer(steered, restorer.autoencoder, restorer.null_context, header)
    save_restorer(base, tmp_path / "base.safetensors", torch.float32)
    made = replace(VARIANTS["v1_general"], variant="", image_size=SIDE, num_head_channels=16)
    TrainableRestorer(restorer, {}, {}, {}).write_control(tmp_path / "own.safetensors", made, torch.float32)
    monkeypatch.setattr(loading, "restorer_path", lambda name: str(tmp_path / name))
    monkeypatch.setattr(
        loading, "addon_paths", lambda *names: [str(tmp_path / n) for n in names if n != "none"]
    )
    model, _, vae = loading.LoadBaseRestorer.execute("base.safetensors", "own.safetensors", dtype="fp32").args
    assert model.model.header == made
    kept = model.model.diffusion_model.state_dict()
    assert not [key for key in kept if ".spade." in key or key.startswith("lq_encoder.")]
    control = restorer.unet.get_parameter(CONTROL)
    assert torch.equal(kept[CONTROL], control)
    assert torch.equal(kept["out.2.weight"], steered.state_dict()["out.2.weight"])
    assert torch.isfinite(sampled(model, vae)).all()
    assert model.get_attachment(cleaning.KEY) is not None


def test_sampling_starts_from_noise_alone(file: RestorerFile, model: Any) -> None:
    vae, picture = build_vae(file), bad(SIDE, SIDE)
    _, _, latent = RestorationConditioning.execute(model, vae, picture).args
    assert not latent["samples"].any()
    with pytest.raises(ValueError, match=f"shorter side has {SIDE} pixels, and this one has 128"):
        RestorationConditioning.execute(model, vae, bad(128, 160))


def test_what_it_was_taken_for_is_said(file: RestorerFile) -> None:
    assert described(file) == f"Taken for diffbir v1_face: eps, faces brought to {SIDE} pixels, own cleaner."
    apart = described(replace(file, cleaner={}))
    assert f" {SIDE} pixels. Its cleaner is a file of its own: connect Load Upscale Model " in apart
    stablesr = replace(file, header=RestorerHeader(), cleaner={})
    assert described(stablesr) == "Taken for stablesr: eps, tiles of 512 pixels."


def test_that_there_is_no_cleaner_is_said(
    file: RestorerFile, model: Any, caplog: pytest.LogCaptureFixture
) -> None:
    assert cleaning.cleaner_of(model, None) is not None
    assert not caplog.records
    bare = model.clone()
    bare.remove_attachments(cleaning.KEY)
    assert cleaning.cleaner_of(bare, None) is None
    (record,) = caplog.records
    assert record.getMessage().startswith("No cleaner: ")
    assert "connect a SwinIR by Load Upscale Model" in record.getMessage()


def test_weights_of_the_control_network_are_changed_and_given_back(restorer: Restorer, model: Any) -> None:
    before = restorer.unet.get_parameter(CONTROL).detach()
    change = torch.randn(before.shape, generator=torch.Generator().manual_seed(2))
    changed = with_weights(model, weight_patches({CONTROL: [Full(change, 2.0)]}), 0.5)
    mm.load_models_gpu([changed])
    weight = changed.model.diffusion_model.get_parameter(CONTROL)
    torch.testing.assert_close(weight.detach(), before + change, rtol=0, atol=1e-5)
    changed.detach()
    assert torch.equal(model.model.diffusion_model.get_parameter(CONTROL), before)
    with pytest.raises(ValueError, match="changed by a SimpleNamespace"):
        weight_patches({CONTROL: [SimpleNamespace()]})  # type: ignore[list-item]


def test_black_below_and_on_the_right_stays_until_the_end(
    file: RestorerFile, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in the core, and in DiffBIR: the networks see sides of multiples of 64."""
    vae, seen = build_vae(file), list[torch.Tensor]()
    encode = vae.encode
    monkeypatch.setattr(vae, "encode", lambda pixels: seen.append(pixels) or encode(pixels))
    bare = model.clone()
    bare.remove_attachments(cleaning.KEY)
    settings = {
        "upscale": 1.0,
        "steps": 1,
        "cfg": 1.0,
        "sampler_name": "euler",
        "scheduler": "normal",
        "seed": 5,
    }
    image, latent, _ = TiledSRSampler.execute(bare, vae, bad(), **settings).args
    (pixels,) = seen
    assert pixels.shape == (1, 128, SIDE, 3)
    assert pixels[:, :77].any()
    assert not pixels[:, 77:].any()
    assert latent["samples"].shape[-2:] == (32, 16)
    assert image.shape[1:3] == (77, SIDE)


class Bar:
    """What the host shows of a run's progress; cancels it at a value."""

    def __init__(self, cancel_at: int | None = None) -> None:
        self.values: list[int] = []
        self.total, self.cancel_at = 0, cancel_at

    def __call__(self, value: int, total: int, *_: Any, **__: Any) -> None:
        self.values.append(value)
        self.total = total
        mm.interrupt_current_processing(value == self.cancel_at)

    def __enter__(self) -> "Bar":
        comfy.utils.set_progress_bar_global_hook(self)
        return self

    def __exit__(self, *_: object) -> None:
        mm.interrupt_current_processing(False)
        comfy.utils.set_progress_bar_global_hook(None)


@pytest.mark.parametrize("sampler", ["euler", "heun", "dpm_2", "dpmpp_2s_ancestral"])
def test_progress_counts_tiles_of_all_stages_by_steps_not_by_calls(
    file: RestorerFile, model: Any, sampler: str
) -> None:
    """One setting rules the tiles of cleaner, sampling and VAE."""
    vae, steps = build_vae(file), 3
    tiles = {"tile": 64, "overlap": 32, "tile_batch": 1}
    with Bar() as bar:
        TiledSRSampler.execute(
            model, vae, bad(64, 160), upscale=1.0, steps=steps, cfg=1.0, sampler_name=sampler,
            scheduler="normal", seed=1, **tiles,
        )  # fmt: skip
    count = len(TileGrid(64, 192, 64, 32))
    assert count == 5
    assert bar.total == count * (3 + steps), "cleaned, encoded, sampled, decoded"
    assert bar.values == list(range(1, bar.total + 1))


@pytest.mark.parametrize("at", [2, 7])
def test_cancelling_stops_at_the_next_tile_of_the_cleaner_too(
    file: RestorerFile, model: Any, at: int
) -> None:
    vae = build_vae(file)
    with Bar(cancel_at=at) as bar, pytest.raises(mm.InterruptProcessingException):
        TiledSRSampler.execute(
            model, vae, bad(64, 160), upscale=1.0, steps=3, cfg=1.0, sampler_name="euler",
            scheduler="normal", seed=1, tile=64, overlap=32, tile_batch=1,
        )  # fmt: skip
    assert bar.values == list(range(1, at + 1))


@pytest.mark.parametrize("save", ["CheckpointSave", "ModelSave"])
def test_what_the_host_saves_has_the_cleaner(
    restorer: Restorer,
    model: Any,
    file: RestorerFile,
    save: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path))
    vae = build_vae(file)
    if save == "CheckpointSave":
        merging.CheckpointSave().save(model, None, vae, "saved")
    else:
        merging.ModelSave().save(model, "saved")
    (path,) = tmp_path.rglob("saved*.safetensors")
    assert file.source is not None
    again = open_restorer(path) if save == "CheckpointSave" else open_restorer(file.source.path, [path])
    assert again.header == file.header
    assert again.cleaner.keys() == file.cleaner.keys()
    assert all(torch.equal(value, file.cleaner[key]) for key, value in again.cleaner.items())
    assert SWINIR.key in load_file(path)
    assert build_model(again, torch.float32).get_attachment(cleaning.KEY) is not None


@pytest.mark.parametrize("variant", ["v1_general", "v2", "v2.1"])
def test_v21_rescales_cfg_in_every_sampler(file: RestorerFile, variant: str) -> None:
    header = replace(VARIANTS[variant], num_head_channels=16)
    model = build_model(replace(file, header=header, cleaner={}), torch.float32)
    sampling = model.model.model_sampling
    x, cond, uncond = (torch.randn(1, 4, 8, 8) for _ in range(3))
    for t in (0.0, 500.0, 999.0):
        sigma = sampling.sigma(torch.tensor([t]))
        found = comfy.samplers.cfg_function(model.model, cond, uncond, 6.0, x, sigma, model.model_options)
        scale = rescaled_cfg(6.0, torch.tensor([t])) if variant == "v2.1" else torch.tensor([6.0])
        expected = cfg_combine(cond, uncond, scale)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    assert scale == (1 if variant == "v2.1" else 6), "at the noisiest step"
    alone = comfy.samplers.cfg_function(model.model, cond, 0 * cond, 1.0, x, sigma, model.model_options)
    torch.testing.assert_close(alone, cond, rtol=0, atol=1e-5)


def test_a_mask_lies_on_the_picture_and_not_on_the_black_beside_it() -> None:
    canvas = Canvas(torch.zeros(1, 3, 256, 64), (77, 64), (77, 64))
    mask = torch.zeros(1, 1, 77, 64)
    mask[..., 68:72, :] = 1  # row 17 of the latent cells
    ((tiles, _),) = plan_tiles(canvas, mask, 4, 1, Tiles(16, 0, 1))
    assert tiles.wanted is not None
    rows = tiles.wanted.any(1).nonzero()[:, 0].tolist()
    assert rows == list(range(17 - MARGIN, 18 + MARGIN + 1)), "the cell, and one that it reaches into"


def test_a_person_s_mask_lies_on_the_picture_and_not_on_the_black_beside_it(
    restorer: Restorer, file: RestorerFile, model: Any
) -> None:
    """Enlarged to 77 x 64 pixels, which are padded to 128 x 64: 19 of 32 rows of cells."""
    mask = torch.zeros(1, 48, 40)
    mask[:, 24:36] = 1
    vae, settings = build_vae(file), {"upscale": 1.0, "steps": 1, "cfg": 1.0, "seed": 5}
    settings |= {"sampler_name": "euler", "scheduler": "normal"}

    def latents(model: Any) -> torch.Tensor:
        return TiledSRSampler.execute(model, vae, bad(), **settings).args[1]["samples"]

    masked = applied(model, stand_in(restorer), mask=mask)
    change = (latents(masked) - latents(model)).abs().amax((0, 1, 3))
    assert (change > 1e-6).nonzero()[:, 0].tolist() == list(range(9, 15))
