"""What is told of a checkpoint of each layout."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from torch import Tensor

from harness.stand_ins import own
from pfstorer_core import CheckpointError, Restorer
from pfstorer_core.checkpoints.header import HEADER_TENSOR
from pfstorer_core.checkpoints.layouts import BASE, CFW, CLEANER, OWN_WEIGHTS, RESTORER
from pfstorer_core.checkpoints.parts import SWINIR, UNET
from pfstorer_core.models import SwinIR, SwinIRConfig
from pfstorer_core.restorers.inspection import Inspection, inspect_checkpoint
from pfstorer_core.restorers.keys import NULL_CONTEXT

from . import small
from .small import bare, base_keys, is_autoencoder, is_fusion, select, write

Tensors = dict[str, Tensor]
NO_CFW = "CFW layers: fidelity has to stay at 0"
NO_TEXT = "text tower: prompts cannot be read"


def names(found: Inspection) -> list[str]:
    return [network.name for network in found.networks]


def assert_sound(found: Inspection) -> None:
    assert [network.faults for network in found.networks if network.faults] == []
    assert json.loads(json.dumps(asdict(found)))["kind"] == found.kind


def test_a_full_checkpoint(restorer: Restorer, tensors: Tensors, tmp_path: Path) -> None:
    path = write(tmp_path / "stablesr_768v.ckpt", tensors | {"betas": torch.zeros(3)})
    found = inspect_checkpoint(path)
    assert_sound(found)
    assert (found.kind, found.path, found.bytes) == (RESTORER.name, str(path), path.stat().st_size)
    assert names(found) == ["U-Net", "SFT layers", "LQ encoder", "autoencoder", "CFW layers", "text tower"]
    assert sum(network.parameters for network in found.networks) == sum(map(torch.numel, tensors.values()))
    by_name = {network.name: network for network in found.networks}
    assert by_name["U-Net"].sizes["channel_mult"] == small.SIZES.channel_mult
    assert by_name["U-Net"].sizes["sft_hidden"] == small.SIZES.sft_hidden
    assert by_name["LQ encoder"].sizes == asdict(restorer.unet.config)["lq_encoder"]
    assert by_name["autoencoder"].sizes == asdict(small.AUTOENCODER)
    assert by_name["text tower"].sizes == asdict(small.TEXT)
    assert by_name["autoencoder"].dtypes == {
        "float32": len(select(tensors, lambda k: is_autoencoder(k) and not is_fusion(k)))
    }
    assert found.header is not None
    assert (found.header.prediction_type, found.header.image_size) == ("v", 768)
    assert (found.header_source, found.missing, found.ignored) == ("file name", [], 1)


def test_a_restorer_with_header(restorer: Restorer, tensors: Tensors, tmp_path: Path) -> None:
    stored = select(tensors, lambda key: not key.startswith("cond_stage_model."))
    stored |= {NULL_CONTEXT: restorer.null_context}
    for path in (
        write(tmp_path / "a.safetensors", stored),
        write(tmp_path / "b.ckpt", stored | {HEADER_TENSOR: small.HEADER.to_tensor()}),
    ):
        found = inspect_checkpoint(path)
        assert_sound(found)
        assert (found.header, found.header_source) == (small.HEADER, "header")
        assert (found.missing, found.ignored) == ([NO_TEXT], 0)


def test_what_is_missing_is_listed(tensors: Tensors, tmp_path: Path) -> None:
    stored = select(tensors, lambda key: not is_fusion(key) and not key.startswith("cond_stage_model."))
    found = inspect_checkpoint(write(tmp_path / "a.safetensors", stored))
    assert_sound(found)
    assert found.missing == [
        NO_CFW,
        NO_TEXT,
        "the empty prompt's context: it cannot restore without a text tower",
    ]


def test_a_stable_diffusion_checkpoint(tensors: Tensors, tmp_path: Path) -> None:
    half = {key: value.half() for key, value in select(tensors, base_keys).items()}
    found = inspect_checkpoint(write(tmp_path / "v2-1.ckpt", half | {"model_ema.decay": torch.zeros(())}))
    assert_sound(found)
    assert (found.kind, names(found)) == (BASE.name, ["U-Net", "autoencoder", "text tower"])
    assert all(network.dtypes.keys() == {"float16"} for network in found.networks)
    needed = "StableSR's own weights or DiffBIR's control network: without them it cannot restore"
    assert found.missing == [needed, NO_CFW]
    assert found.ignored == 1


def test_own_weights(tensors: Tensors, tmp_path: Path) -> None:
    found = inspect_checkpoint(write(tmp_path / "webui_768v_139.ckpt", select(tensors, own)))
    assert_sound(found)
    assert (found.kind, names(found)) == (OWN_WEIGHTS.name, ["SFT layers", "LQ encoder"])
    assert found.header is not None
    assert found.header.prediction_type == "v"
    assert len(found.missing) == 1
    assert "Stable Diffusion 2.1" in found.missing[0]


def test_a_cfw_autoencoder(tensors: Tensors, tmp_path: Path) -> None:
    autoencoder = bare(select(tensors, is_autoencoder))
    found = inspect_checkpoint(write(tmp_path / "face_vqgan_cfw.ckpt", autoencoder | small.LOSS))
    assert_sound(found)
    assert (found.kind, names(found)) == (CFW.name, ["autoencoder", "CFW layers"])
    assert found.header is None, "an autoencoder predicts nothing"
    assert found.ignored == len(small.LOSS)
    alone = inspect_checkpoint(write(tmp_path / "fusion.ckpt", bare(select(tensors, is_fusion))))
    assert_sound(alone)
    assert (alone.kind, names(alone)) == (CFW.name, ["CFW layers"])


@pytest.mark.parametrize("prefix", ["", "module.", SWINIR.prefix])
def test_a_cleaner(tmp_path: Path, prefix: str) -> None:
    sizes = SwinIRConfig(12, (2, 1), (2, 3), 4, 2, 8)
    weights = {prefix + key: value for key, value in SwinIR(sizes).state_dict().items()}
    found = inspect_checkpoint(write(tmp_path / "face_swinir_v1.ckpt", weights))
    assert_sound(found)
    assert (found.kind, names(found), found.ignored) == (CLEANER.name, ["SwinIR cleaner"], 0)
    assert found.networks[0].sizes == asdict(sizes)
    assert found.header is None, "a cleaner predicts nothing"
    assert len(found.missing) == 1
    assert "DiffBIR" in found.missing[0]


def test_mixed_formats_are_counted(tensors: Tensors, tmp_path: Path) -> None:
    mixed = tensors | {UNET.key: tensors[UNET.key].bfloat16()}
    unet = inspect_checkpoint(write(tmp_path / "a.safetensors", mixed)).networks[0]
    assert list(unet.dtypes) == ["float32", "bfloat16"], "the most frequent first"
    assert unet.dtypes["bfloat16"] == 1


@pytest.mark.parametrize(
    ("key", "network", "fault"),
    [
        ("model.diffusion_model.out.0.bias", "U-Net", "1 missing: out.0.bias"),
        ("model.diffusion_model.out.2.weight", "U-Net", "model.diffusion_model.out.2.weight is missing"),
        ("structcond_stage_model.middle_block.0.in_layers.0.bias", "LQ encoder", "1 missing: middle_block"),
        ("first_stage_model.post_quant_conv.weight", "autoencoder", "post_quant_conv.weight is missing"),
        ("cond_stage_model.model.positional_embedding", "text tower", "positional_embedding is missing"),
    ],
)
def test_an_incomplete_network_has_a_fault(
    tensors: Tensors, tmp_path: Path, key: str, network: str, fault: str
) -> None:
    path = write(tmp_path / "a.safetensors", select(tensors, lambda other: other != key))
    faults = {each.name: each.faults for each in inspect_checkpoint(path).networks if each.faults}
    assert list(faults) == [network]
    assert fault in faults[network]


def test_a_wrong_shape_is_a_fault(tensors: Tensors, tmp_path: Path) -> None:
    key = "first_stage_model.decoder.norm_out.bias"
    path = write(tmp_path / "a.safetensors", tensors | {key: torch.zeros(3)})
    faults = [network.faults for network in inspect_checkpoint(path).networks if network.faults]
    assert len(faults) == 1
    assert "1 of another shape: decoder.norm_out.bias [3] instead of [32]" in faults[0]


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"lora\.safetensors is a LoRA"):
        inspect_checkpoint(
            write(tmp_path / "lora.safetensors", {"lora_unet_mid.lora_up.weight": torch.zeros(1)})
        )
    with pytest.raises(FileNotFoundError):
        inspect_checkpoint(tmp_path / "none.ckpt")
