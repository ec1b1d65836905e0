"""What a file is, told from its keys; and the same networks from every layout of them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from harness.stand_ins import listed, own
from pfstorer_core import CheckpointError, Restorer, RestorerHeader
from pfstorer_core.checkpoints import layouts
from pfstorer_core.checkpoints.header import HEADER_TENSOR
from pfstorer_core.checkpoints.layouts import (
    BASE,
    CFW,
    CLEANER,
    CONTROL_NETWORK,
    FIRST_STAGE,
    LAYOUTS,
    MODEL,
    OWN_WEIGHTS,
    PRIOR,
    PRIOR_MODEL,
    RESTORER,
    Layout,
    identify,
    with_prefixes,
)
from pfstorer_core.checkpoints.parts import AUTOENCODER, LQ_ENCODER, PARTS, SWINIR, UNET, Part
from pfstorer_core.models import SwinIRConfig
from pfstorer_core.restorers.files import RestorerFile, open_restorer
from pfstorer_core.restorers.keys import NULL_CONTEXT

from . import small
from .small import bare, base_keys, is_autoencoder, is_fusion, select, write

Tensors = dict[str, Tensor]


def keys(*names: str, shape: tuple[int, ...] = (4, 4)) -> Tensors:
    return dict.fromkeys(names, torch.empty(shape, device="meta"))


FULL, WITH_CFW = listed("stablesr_full"), listed("stablesr_cfw_full")
PREFIXED_CFW = with_prefixes(WITH_CFW)
FFHQ = listed("vqgan_ldm_ffhq256")
PREFIXED_VQ = AUTOENCODER.prefixed(listed("vqgan_f4"))


def is_unet(key: str) -> bool:
    return key.startswith(UNET.prefix)


EMA = keys("model_ema.decay", "model_ema.num_updates", "model_ema.diffusion_modelinput_blocks00weight")
PUBLISHED: dict[str, tuple[Tensors, Layout]] = {
    "stablesr_000117.ckpt": (FULL, RESTORER),
    "with CFW inside": (FULL | PREFIXED_CFW, RESTORER),
    "converted": (FULL | keys(NULL_CONTEXT, HEADER_TENSOR), RESTORER),
    "v2-1_512-ema-pruned": (select(FULL, lambda key: not own(key)), BASE),
    "v2-1_512-nonema": (select(FULL, lambda key: not own(key)) | EMA, BASE),
    "webui_768v_139.ckpt": (select(FULL, own), OWN_WEIGHTS),
    "ModelSave": (select(FULL, lambda key: not key.startswith(("first_stage", "cond_stage"))), MODEL),
    "ffhq256": (FFHQ, PRIOR),
    "refldm.ckpt": (listed("refldm_refldm"), PRIOR),
    "refldm.ckpt, bare": (select(listed("refldm_refldm"), is_unet), PRIOR_MODEL),
    "bsr_sr": (listed("vqgan_ldm_bsr_sr"), PRIOR),
    "vq-f4": (listed("vqgan_f4"), FIRST_STAGE),
    "vq-f4-noattn": (listed("vqgan_f4_noattn"), FIRST_STAGE),
    "vqgan.ckpt": (listed("refldm_vqgan"), FIRST_STAGE),
    "vqgan.ckpt, prefixed": (PREFIXED_VQ, FIRST_STAGE),
    "vqgan_cfw_00011.ckpt": (WITH_CFW | listed("stablesr_cfw_loss_keys"), CFW),
    "without loss keys": (WITH_CFW, CFW),
    "under a full checkpoint's keys": (PREFIXED_CFW, CFW),
    "fusion layers alone": (select(WITH_CFW, is_fusion), CFW),
    "fusion layers alone, prefixed": (select(PREFIXED_CFW, is_fusion), CFW),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_files_are_told_apart(name: str) -> None:
    tensors, layout = PUBLISHED[name]
    assert identify(with_prefixes(tensors), name) is layout


def test_every_published_autoencoder_gets_the_same_keys() -> None:
    whole = {key for key in PREFIXED_CFW if is_autoencoder(key)}
    assert whole == set(PREFIXED_CFW)
    with_loss = with_prefixes(WITH_CFW | listed("stablesr_cfw_loss_keys"))
    assert {key for key in with_loss if is_autoencoder(key)} == whole
    assert with_prefixes(PREFIXED_CFW).keys() == whole
    assert with_prefixes(FULL).keys() == FULL.keys()


ATTENTION = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
CLEANERS = [listed("diffbir_swinir"), SWINIR.prefixed(listed("diffbir_swinir"))]
DIFFBIR = {f"control_model.{key}": value for key, value in listed("diffbir_controlnet").items()} | {
    f"preprocess_model.{key}": value for key, value in listed("diffbir_swinir").items()
}
FOREIGN = {
    "LoRA": [
        keys("lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight"),
        keys("lora_te_text_model_encoder_layers_0_mlp_fc1.alpha"),
        keys("unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_k.lora_A.weight"),
        keys("base_model.model.mid_block.attentions.0.proj_in.lora_B.weight"),
        keys("down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora.down.weight"),
        keys("unet.up_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q.lora.up.weight"),
        keys("lycoris_blocks_0_attn.hada_w1_a"),
        keys("diffusion_model.double_blocks.0.img_attn.proj.lora_A.weight"),
    ],
    "SDXL": [
        select(FULL, base_keys)
        | keys(
            "conditioner.embedders.0.transformer.text_model.embeddings.token_embedding.weight",
            "conditioner.embedders.1.model.ln_final.weight",
            "model.diffusion_model.label_emb.0.0.weight",
        ),
        keys(UNET.key) | keys(f"model.{ATTENTION}", shape=(640, 2048)),
    ],
    "unCLIP": [
        select(FULL, base_keys)
        | keys("noise_augmentor.data_mean", "model.diffusion_model.label_emb.0.0.weight")
    ],
    "Stable Diffusion 1.x": [
        keys(
            UNET.key, AUTOENCODER.key, "cond_stage_model.transformer.text_model.embeddings.position_ids",
        ),
        keys(UNET.key, AUTOENCODER.key, "cond_stage_model.transformer.embeddings.position_ids"),
        keys(UNET.key, AUTOENCODER.key) | keys(f"model.{ATTENTION}", shape=(320, 768)),
    ],
    "plain VAE": [
        keys("encoder.conv_in.weight", "decoder.conv_out.bias", "quant_conv.weight"),
        select(FULL, is_autoencoder),
        bare(select(FULL, is_autoencoder)),
    ],
    "ControlNet": [
        keys("control_model.zero_convs.0.0.weight", "control_model.input_hint_block.0.weight"),
        keys("input_blocks.0.0.weight", "input_hint_block.0.weight"),
        keys("controlnet_cond_embedding.conv_in.weight", "controlnet_down_blocks.0.weight", "conv_in.weight"),
    ],
    "layout of diffusers": [
        keys("conv_in.weight", "down_blocks.0.resnets.0.conv1.weight", "mid_block.resnets.0.conv1.weight"),
        keys("encoder.conv_in.weight", "encoder.down_blocks.0.resnets.0.conv1.weight", "quant_conv.weight"),
    ],
    "Flux": [
        keys("double_blocks.0.img_attn.norm.key_norm.scale", "img_in.weight"),
        keys("model.diffusion_model.joint_blocks.0.context_block.attn.qkv.weight", AUTOENCODER.key),
        keys("x_embedder.weight", "single_transformer_blocks.0.attn.to_q.weight"),
    ],
    "face recogniser": [
        keys("conv1.weight", "layer1.0.prelu.weight", "features.weight"),
        keys("conv1.bias", "layer1.0.conv1.bias", "fc.weight"),
    ],
    "textual inversion": [keys("emb_params"), keys("clip_g", "clip_l")],
    "text or image encoder": [
        keys("text_model.embeddings.token_embedding.weight"),
        keys("visual.conv1.weight", "transformer.resblocks.0.ln_1.weight"),
        keys("shared.weight", "encoder.block.0.layer.0.SelfAttention.q.weight"),
    ],
    "SwinIR, such as DiffBIR's cleaner": [listed("diffbir_swinir")],
    "upscaler or restorer": [
        keys("conv_first.weight", "body.0.rdb1.conv1.weight"),  # ESRGAN
        keys("model.0.weight", "model.1.sub.0.RDB1.conv1.0.weight"),  # ESRGAN, old
        keys("body.0.weight", "body.1.weight"),  # Real-ESRGAN, compact
        keys("conv_first.weight", "layers.0.residual_group.blocks.0.norm1.weight"),  # SwinIR
        keys("conv_body_first.weight", "stylegan_decoder.style_mlp.1.weight"),  # GFPGAN
        keys("encoder.blocks.0.weight", "quantize.embedding.weight", "fuse_convs_dict.32.scale.0.weight"),
        keys("vqvae.encoder.conv_in.weight", "vqvae.quantize.embedding.weight"),  # RestoreFormer
    ],
}  # fmt: skip
"""What the error says -> keys of such files, as their programs write them."""


@pytest.mark.parametrize("tensors", CLEANERS)
def test_a_cleaner_is_told_where_it_is_asked_for(tensors: Tensors) -> None:
    assert identify(with_prefixes(tensors), "swinir.ckpt", (CLEANER,)) is CLEANER
    assert with_prefixes(tensors).keys() == CLEANERS[1].keys()
    for other, layout in ((DIFFBIR, CONTROL_NETWORK), (FULL | DIFFBIR, layouts.DIFFBIR)):
        whole = with_prefixes(select(other, lambda key: not own(key)))
        assert identify(whole, "whole.ckpt", (CLEANER,)) is layout


@pytest.mark.parametrize(("name", "tensors"), [(name, each) for name in FOREIGN for each in FOREIGN[name]])
def test_well_known_models_are_named(name: str, tensors: Tensors) -> None:
    with pytest.raises(
        CheckpointError, match=rf"^other\.ckpt is an? .*{name}.*, which cannot restore"
    ) as error:
        identify(with_prefixes(tensors), "other.ckpt")
    assert all(layout.name in str(error.value) for layout in LAYOUTS)


@pytest.mark.parametrize("shape", [(), (7,), (3, 2, 1)])
def test_weights_of_any_shape_can_be_looked_at(shape: tuple[int, ...]) -> None:
    with pytest.raises(CheckpointError, match=r"other\.ckpt is none of the files"):
        identify(keys(f"model.{ATTENTION}", shape=shape), "other.ckpt")


def test_an_unknown_file_gets_what_was_tried_and_its_own_keys() -> None:
    with pytest.raises(CheckpointError) as error:
        identify(keys("a.weight", "b.weight", "c", "d", "e"), "other.ckpt")
    message = str(error.value)
    for layout in LAYOUTS:
        assert f"{layout.name} (no {layout.has[0]})" in message
    assert "a.weight, b.weight, c, d, …" in message
    with pytest.raises(CheckpointError, match="Its own keys: none"):
        identify({}, "empty.safetensors")


@pytest.mark.parametrize("missing", [LQ_ENCODER.key, AUTOENCODER.key])
def test_the_deciding_key_is_named(missing: str) -> None:
    with pytest.raises(CheckpointError) as error:
        identify(select(FULL, lambda key: key != missing), "cut.ckpt")
    assert f"{RESTORER.name} (no {missing})" in str(error.value)


def test_what_is_too_much_is_named() -> None:
    with pytest.raises(CheckpointError) as error:
        identify(select(FULL, lambda key: key != AUTOENCODER.key), "cut.ckpt")
    assert f"{OWN_WEIGHTS.name} (but has {UNET.key})" in str(error.value)


@pytest.mark.parametrize(
    ("name", "prediction_type", "image_size"),
    [
        ("stablesr_000117.ckpt", "eps", 512),
        ("stablesr_turbo.ckpt", "eps", 512),
        ("stablesr_768v_000139.ckpt", "v", 768),
        ("webui_768v_139.ckpt", "v", 768),
        ("stablesr_webui_sd-v2-1-512-ema-000117.ckpt", "eps", 512),
        ("StableSR_Face.safetensors", "v", 512),
        ("v2-1_512-ema-pruned.safetensors", "eps", 512),
        ("v2-1_768-ema-pruned.ckpt", "v", 768),
        ("my_vpred.safetensors", "v", 512),
        ("anything.safetensors", "eps", 512),
    ],
)
def test_published_names_tell_the_kind(name: str, prediction_type: str, image_size: int) -> None:
    header = RestorerHeader.from_name(name)
    assert (header.prediction_type, header.image_size) == (prediction_type, image_size)


@pytest.fixture
def base(tensors: Tensors, tmp_path: Path) -> Path:
    return write(tmp_path / "v2-1_512.safetensors", select(tensors, base_keys), None)


@pytest.fixture
def own_weights(tensors: Tensors, tmp_path: Path) -> Path:
    return write(tmp_path / "webui_768v_139.ckpt", select(tensors, own))


def autoencoder(tensors: Tensors) -> Tensors:
    return bare(select(tensors, is_autoencoder)) | small.LOSS


def fusion(tensors: Tensors) -> Tensors:
    return bare(select(tensors, is_fusion))


def prefixed_fusion(tensors: Tensors) -> Tensors:
    return select(tensors, is_fusion)


def assert_same(file: RestorerFile, restorer: Restorer) -> None:
    """The same networks, to the bit and of the same sizes."""
    assert (file.unet_config, file.autoencoder_config) == (small.SIZES, small.AUTOENCODER)
    assert restorer.text is not None
    for ours, model in (
        (file.unet, restorer.unet),
        (file.autoencoder, restorer.autoencoder),
        (file.text, restorer.text),
    ):
        torch.testing.assert_close(ours, dict(model.state_dict()), rtol=0, atol=0)


@pytest.mark.parametrize("ending", ["ckpt", "safetensors"])
def test_a_full_checkpoint_opens(ending: str, restorer: Restorer, tensors: Tensors, tmp_path: Path) -> None:
    file = open_restorer(write(tmp_path / f"stablesr_000117.{ending}", tensors, None))
    assert_same(file, restorer)
    assert file.header == RestorerHeader()
    assert file.null_context is None


@pytest.mark.parametrize("cfw", [autoencoder, fusion, prefixed_fusion])
@pytest.mark.parametrize("reverse", [False, True])
def test_addons_make_the_same_networks(
    cfw: Callable[[Tensors], Tensors], reverse: bool, restorer: Restorer, tensors: Tensors, base: Path,
    own_weights: Path,
) -> None:  # fmt: skip
    addons = [own_weights, write(base.parent / "vqgan_cfw_00011.ckpt", cfw(tensors))]
    file = open_restorer(base, addons[::-1] if reverse else addons)
    assert_same(file, restorer)
    assert (file.header.prediction_type, file.header.image_size) == ("v", 768)


def test_a_header_wins_over_the_name(tensors: Tensors, tmp_path: Path) -> None:
    header = replace(small.HEADER, prediction_type="eps", num_head_channels=32, lq_num_heads=2)
    path = write(tmp_path / "stablesr_768v.safetensors", tensors, header)
    file = open_restorer(path)
    assert file.header == header
    assert file.unet_config.num_head_channels == 32
    assert file.unet_config.lq_encoder is not None
    assert file.unet_config.lq_encoder.num_heads == 2
    assert open_restorer(path, prediction_type="v").header == replace(header, prediction_type="v")


def test_a_header_may_be_a_tensor(tensors: Tensors, tmp_path: Path) -> None:
    stored = tensors | {HEADER_TENSOR: small.HEADER.to_tensor()}
    assert open_restorer(write(tmp_path / "saved.safetensors", stored, None)).header == small.HEADER


def test_own_weights_bring_their_header(tensors: Tensors, base: Path) -> None:
    path = write(base.parent / "webui_768v_139.safetensors", select(tensors, own))
    assert open_restorer(base, [path]).header == small.HEADER


def test_entries_of_later_versions_are_ignored(tensors: Tensors, tmp_path: Path) -> None:
    text = small.HEADER.to_metadata()["restorer"].replace("{", '{"later": 1, ', 1)
    stored = tensors | {HEADER_TENSOR: torch.tensor(list(text.encode()), dtype=torch.uint8)}
    assert open_restorer(write(tmp_path / "later.safetensors", stored, None)).header == small.HEADER


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("{", "Expecting"),
        ("[1]", "header of bad"),
        ('{"prediction_type": "x0"}', "prediction_type must be eps or v, got 'x0'"),
        ('{"scale_factor": 0}', "scale_factor must be"),
        ('{"num_head_channels": "64"}', "num_head_channels must be"),
        ('{"image_size": 51.2}', "image_size must be"),
    ],
)
def test_a_damaged_header_is_named(tensors: Tensors, tmp_path: Path, text: str, named: str) -> None:
    stored = tensors | {HEADER_TENSOR: torch.tensor(list(text.encode()), dtype=torch.uint8)}
    path = write(tmp_path / "bad.safetensors", stored, None)
    with pytest.raises(CheckpointError, match=rf"header of bad\.safetensors.*|{named}") as error:
        open_restorer(path)
    assert named in str(error.value)


def test_files_in_the_wrong_place_are_told_theirs(tensors: Tensors, base: Path, own_weights: Path) -> None:
    cfw = write(base.parent / "cfw.ckpt", autoencoder(tensors))
    with pytest.raises(CheckpointError, match=r"webui_768v_139\.ckpt holds .*Choose an SD 2\.1 checkpoint"):
        open_restorer(own_weights)
    with pytest.raises(CheckpointError, match=r"cfw\.ckpt holds .*Choose a StableSR checkpoint"):
        open_restorer(cfw)
    with pytest.raises(CheckpointError, match=r"v2-1_512\.safetensors is .*not an add-on"):
        open_restorer(base, [base])
    for addons in ([], [cfw]):
        with pytest.raises(CheckpointError, match=r"v2-1_512\.safetensors is .*webui_768v_139\.ckpt"):
            open_restorer(base, addons)
    vae = write(
        base.parent / "vae.safetensors", select(tensors, lambda key: base_keys(key) and is_autoencoder(key))
    )
    with pytest.raises(CheckpointError, match=r"vae\.safetensors is a plain VAE"):
        open_restorer(base, [own_weights, vae])


def test_parts_of_different_models_are_refused(tensors: Tensors, tmp_path: Path) -> None:
    wider = tensors | {UNET.key: torch.zeros(32, 9, 3, 3)}
    with pytest.raises(
        CheckpointError, match=r"^inpainting\.safetensors: .*\(9, 4, 4\) latent channels.*inpainting"
    ):
        open_restorer(write(tmp_path / "inpainting.safetensors", wider))


def test_another_prediction_type_is_refused(tensors: Tensors, tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors", tensors)
    with pytest.raises(ValueError, match="eps or v, got 'x0'"):
        open_restorer(path, prediction_type="x0")  # type: ignore[arg-type]


@pytest.mark.parametrize("part", [part for part in PARTS if part.title != "control network"])
def test_a_damaged_tensor_gives_sizes_or_a_clear_error(part: Part, tensors: Tensors) -> None:
    """Each tensor in turn missing, flat, empty or narrow."""
    network = part.of(tensors) or part.expected(SwinIRConfig(12, (2, 1), (2, 3), 4, 2, 8))
    damaged: list[Callable[[Tensor], Tensor]] = [
        lambda value: value.flatten(),
        lambda value: value[:0],
        lambda value: value[: len(value) // 2 + 1],
    ]
    messages = []
    for key, value in network.items():
        for changed in (
            select(network, lambda other, key=key: other != key),
            *(network | {key: damage(value)} for damage in damaged),
        ):
            try:
                part.config_from(changed)
            except CheckpointError as error:
                messages.append(str(error))
    assert len(messages) > 5
    clear = (part.prefix, "channels, expected multiples", "wide, expected a multiple", "do not divide")
    assert [message for message in messages if not any(words in message for words in clear)] == []


def test_what_is_missing_of_a_network_is_named() -> None:
    with pytest.raises(
        CheckpointError, match=r"no complete U-Net: model\.diffusion_model\.input_blocks\.1\."
    ):
        UNET.config_from({"input_blocks.0.0.weight": torch.zeros(32, 4, 3, 3)})
    with pytest.raises(CheckpointError, match=r"no complete autoencoder: .*encoder\.down\.0\.block\.0"):
        AUTOENCODER.config_from({"encoder.conv_in.weight": torch.zeros(32, 3, 3, 3)})


def test_a_u_net_that_reads_no_text_is_no_stable_diffusion() -> None:
    with pytest.raises(
        CheckpointError, match=r"none of the files.*Stable Diffusion 2\.1 checkpoint \(no .*attn2"
    ):
        identify(keys(UNET.key, AUTOENCODER.key), "other.ckpt")
