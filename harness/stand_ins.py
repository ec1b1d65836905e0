"""Stand-ins for the published files: their keys, shapes and layouts, with weights by formula.

The files themselves can't be part of a repository, nor of a test. The formula is that of the golden data.
"""

from __future__ import annotations

import json
import math
import tempfile
import zlib
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from pfstorer_core.checkpoints.files import atomic_write
from pfstorer_core.models import SwinIR, SwinIRConfig
from pfstorer_core.models.iresnet import IRESNET50, IResNet

from . import CACHE, ROOT

MANIFESTS = ROOT / "tests" / "golden" / "data" / "manifests"
FOLDER = CACHE / "stand_ins"
SEED = 4242
CLEANER = "preprocess_model."


def formula(name: str, shape: tuple[int, ...], seed: int = SEED) -> Tensor:
    """The fp32 value of the parameter of that full key name: uniform, of the size that lets activations
    live (golden README)."""
    start = np.uint32((zlib.crc32(name.encode()) ^ seed) & 0xFFFFFFFF)
    h = np.arange(math.prod(shape), dtype=np.uint32)
    h *= np.uint32(0x9E3779B1)
    h += start
    h ^= h >> np.uint32(16)
    h *= np.uint32(0x85EBCA6B)
    h ^= h >> np.uint32(13)
    h *= np.uint32(0xC2B2AE35)
    h ^= h >> np.uint32(16)
    h >>= np.uint32(8)
    u = h.astype(np.float32)
    u *= np.float32(2.0**-23)
    u -= np.float32(1)
    if len(shape) >= 2:
        u *= np.float32(math.sqrt(3.0 / math.prod(shape[1:])))
    elif name.endswith(".weight"):
        u *= np.float32(0.25)
        u += np.float32(1)
    else:
        u *= np.float32(0.125)
    return torch.from_numpy(u.reshape(shape))


def listed(name: str) -> dict[str, Tensor]:
    """The keys and shapes of a published state dict, without values."""
    return {key: torch.empty(shape, device="meta") for key, shape in manifest(name).items()}


@cache
def manifest(name: str) -> dict[str, tuple[int, ...]]:
    """Key -> shape of a published state dict."""
    listed = json.loads((MANIFESTS / f"{name}.json").read_text(encoding="utf-8"))
    return {key: tuple(shape) for key, (shape, _) in listed.items()}


def state_dict(
    name: str, dtype: torch.dtype, wanted: Callable[[str], bool] = lambda key: True
) -> dict[str, Tensor]:
    """The wanted keys of a published state dict, in `dtype`."""
    return {key: formula(key, shape).to(dtype) for key, shape in manifest(name).items() if wanted(key)}


def own(key: str) -> bool:
    """Whether a key of the full checkpoint is StableSR's and not Stable Diffusion's."""
    return ".spade." in key or key.startswith("structcond_stage_model.")


def stablesr(path: Path) -> None:
    """As stablesr_000117.ckpt: everything, pickled under ``state_dict``; in fp16."""
    torch.save({"state_dict": state_dict("stablesr_full", torch.float16), "global_step": 117}, path)


def stable_diffusion(path: Path) -> None:
    """As an SD 2.1 checkpoint: the same less StableSR's own; in bf16 and with two keys of its EMA."""
    tensors = state_dict("stablesr_full", torch.bfloat16, lambda key: not own(key))
    ema = {"model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(1)}
    save_file({**tensors, **ema}, path)


def own_weights(path: Path) -> None:
    """As webui_768v_139.ckpt: StableSR's own weights alone, bare and in fp32."""
    torch.save(state_dict("stablesr_full", torch.float32, own), path)


def cfw_autoencoder(path: Path) -> None:
    """As vqgan_cfw_00011.ckpt: the autoencoder alone, with what only its training needs; in fp32."""
    tensors = state_dict("stablesr_cfw_full", torch.float32)
    tensors |= state_dict("stablesr_cfw_loss_keys", torch.float32)
    torch.save({"state_dict": tensors}, path)


def swinir(path: Path) -> None:
    """As face_swinir_v1.ckpt: DiffBIR's cleaner alone, with its buffers, pickled under ``state_dict``."""
    torch.save({"state_dict": _swinir()}, path)


def control_network(path: Path) -> None:
    """As v1_face.pth: DiffBIR's control network alone, bare and in fp32."""
    torch.save(state_dict("diffbir_controlnet", torch.float32), path)


def diffbir(path: Path, wrapped: bool = True) -> None:
    """As face_full_v1.ckpt: everything, pickled under ``state_dict``, in fp32 (6.9 GB). The tensors lie in a
    file until they are written, and need no memory."""
    shapes, parts = (
        diffbir_shapes(),
        {"cond_encoder.": "first_stage_model.", "control_model.": "", CLEANER: ""},
    )
    cleaner = {CLEANER + key: value for key, value in _swinir().items()}
    with tempfile.TemporaryFile(dir=path.parent) as scratch:
        scratch.truncate(4 * sum(map(math.prod, shapes.values())))
        room, tensors, start = np.memmap(scratch, np.float32, "r+"), dict[str, Tensor](), 0
        for key, shape in shapes.items():
            if (value := cleaner.get(key)) is None:
                prefix = next((prefix for prefix in parts if key.startswith(prefix)), "")
                value = formula(parts.get(prefix, "") + key.removeprefix(prefix), shape)
            if value.dtype == torch.float32:
                end = start + value.numel()
                piece, start = torch.from_numpy(room[start:end]), end
                value = piece.copy_(value.flatten()).view(shape)
            tensors[key] = value
        torch.save({"state_dict": tensors} if wrapped else tensors, path)


def diffbir_shapes() -> dict[str, tuple[int, ...]]:
    """Key -> shape of DiffBIR's full checkpoints: Stable Diffusion with its buffers, the encoder of its
    autoencoder once more, control network, cleaner."""
    base = {key: shape for key, shape in manifest("stablesr_full").items() if not own(key)}
    stage = "first_stage_model."
    encoder = {
        f"cond_encoder.{key.removeprefix(stage)}": shape
        for key, shape in base.items()
        if key.startswith((f"{stage}encoder.", f"{stage}quant_conv."))
    }
    control = {f"control_model.{key}": shape for key, shape in manifest("diffbir_controlnet").items()}
    cleaner = {CLEANER + key: shape for key, shape in manifest("diffbir_swinir").items()}
    return base | {"logvar": (1000,)} | encoder | control | cleaner


def latent_diffusion(name: str, path: Path, wrapped: bool = True) -> None:
    """As a latent diffusion model without a text, in fp32: averages and copies of its parts included, where
    the manifest has them. The averages are what they are averages of."""
    shapes = manifest(name)
    named = {f"model_ema.{key[6:].replace('.', '')}": key for key in shapes if key.startswith("model.")}
    copied = "cond_stage_model.lq_image.", "cond_stage_model.ref_image."
    tensors = dict[str, Tensor]()
    for key, shape in shapes.items():
        copy = next((prefix for prefix in copied if key.startswith(prefix)), "")
        own = f"first_stage_model.{key.removeprefix(copy)}" if copy else named.get(key, key)
        tensors[key] = tensors[own].clone() if own in tensors else formula(own, shape)
    torch.save({"state_dict": tensors} if wrapped else tensors, path)


def recognizer(path: Path) -> None:
    """As insightface's IResNet-50 in arcface_torch's backbone.pth: bare and in fp32, drawn as a new one."""
    torch.manual_seed(SEED)
    torch.save(IResNet(IRESNET50).state_dict(), path)


def upscaler(name: str, path: Path) -> None:
    """As the cleaners of DiffBIR v2: an upscale model, bare and in fp32."""
    torch.save(state_dict(name, torch.float32), path)


def _swinir() -> dict[str, Tensor]:
    """Random weights, and buffers that are what they have to be."""
    made = SwinIR(SwinIRConfig()).state_dict()
    shapes = manifest("diffbir_swinir")
    assert {key: tuple(value.shape) for key, value in made.items()} == shapes
    buffers = ("attn_mask", "relative_position_index")
    return {key: made[key] if key.endswith(buffers) else formula(key, shapes[key]) for key in shapes}


FILES: dict[str, Callable[[Path], None]] = {
    "stablesr_000117.ckpt": stablesr,
    "v2-1_512-ema-pruned.safetensors": stable_diffusion,
    "webui_768v_139.ckpt": own_weights,
    "vqgan_cfw_00011.ckpt": cfw_autoencoder,
    "face_full_v1.ckpt": diffbir,
    "dual_pivot.ckpt": partial(diffbir, wrapped=False),
    "v1_face.pth": control_network,
    "refldm.ckpt": partial(latent_diffusion, "refldm_refldm", wrapped=False),
    "vqgan.ckpt": partial(latent_diffusion, "refldm_vqgan"),
    "ffhq256.ckpt": partial(latent_diffusion, "vqgan_ldm_ffhq256"),
    "bsr_sr.ckpt": partial(latent_diffusion, "vqgan_ldm_bsr_sr"),
    "backbone.pth": recognizer,
    "face_swinir_v1.ckpt": swinir,
    "BSRNet.pth": partial(upscaler, "diffbir_cleaner_bsrnet"),
    "scunet_color_real_psnr.pth": partial(upscaler, "diffbir_cleaner_scunet"),
}
"""Published names of the layouts, and what writes their stand-ins; latent diffusion's are all called
model.ckpt, and here by what they are. dual_pivot.ckpt is what the release of
Dual-Pivot Tuning writes of a person, under the name of DiffBIR's file: without ``state_dict`` around it."""


def stand_in(name: str) -> Path:
    """The file of that published name (see `FILES`), written into the cache if it is not there."""
    path = FOLDER / name
    if not path.exists():
        with atomic_write(path) as temporary:
            FILES[name](temporary)
    return path
