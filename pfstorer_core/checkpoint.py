"""Checkpoint files: reading them safely, and telling the sizes of networks from their tensors."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from .models import AutoencoderConfig, LQEncoderConfig, UNetConfig

StateDict = dict[str, Tensor]

PREFIXES = {
    "unet": "model.diffusion_model.",
    "lq_encoder": "structcond_stage_model.",
    "autoencoder": "first_stage_model.",
    "text": "cond_stage_model.",
}
"""Where a Stable Diffusion or StableSR checkpoint keeps each network."""

WRAPPERS = ("state_dict", "model", "params_ema", "params")
"""Entries under which training frameworks store the state dict itself."""


class CheckpointError(ValueError):
    """A file that is not what it has to be; the message says what was expected and found."""


def read_checkpoint(path: Path | str) -> tuple[StateDict, dict[str, str]]:
    """Tensors and header of a .safetensors or .ckpt/.pt/.pth file.

    Pickled files are read with `weights_only=True`: they cannot execute code.

    Raises:
        FileNotFoundError: no such file.
        CheckpointError: damaged, of another kind, or holding more than weights.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"No checkpoint at {path}.")
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt") as file:
                return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
        except SafetensorError as error:
            raise CheckpointError(
                f"{path.name} is not a readable safetensors file ({error}): download it again."
            ) from error
    try:
        loaded = torch.load(path, weights_only=True, map_location="cpu", mmap=zipfile.is_zipfile(path))
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise CheckpointError(
            f"{path.name} could not be read as a file of weights alone ({type(error).__name__}). "
            "It is damaged or holds code, which is never executed: get a .safetensors version."
        ) from error
    return _unwrapped(loaded, path.name), {}


def _unwrapped(loaded: object, name: str) -> StateDict:
    for wrapper in WRAPPERS:
        if isinstance(loaded, dict) and isinstance(loaded.get(wrapper), dict):
            loaded = loaded[wrapper]
    tensors = (
        {key: value for key, value in loaded.items() if isinstance(value, Tensor)}
        if isinstance(loaded, dict)
        else {}
    )
    if not tensors:
        raise CheckpointError(
            f"{name} holds no tensors: expected a state dict, plain or under {', '.join(WRAPPERS)}."
        )
    return tensors


def part(tensors: Mapping[str, Tensor], name: str) -> StateDict:
    """The state dict of one network ("unet", "lq_encoder", "autoencoder", "text"), without its prefix."""
    prefix = PREFIXES[name]
    return {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}


def load_exactly(module: nn.Module, tensors: Mapping[str, Tensor], what: str, assign: bool = False) -> None:
    """Load a state dict that has to fit.

    Args:
        what: the module's name in the error.
        assign: let the module keep these very tensors (in its own dtype) instead of copying them.
    Raises:
        CheckpointError: lists the first missing, unexpected and mis-shaped keys.
    """
    expected = module.state_dict()
    missing = [key for key in expected if key not in tensors]
    unexpected = [key for key in tensors if key not in expected]
    misshaped = [
        f"{key} {list(tensors[key].shape)} instead of {list(value.shape)}"
        for key, value in expected.items()
        if key in tensors and tensors[key].shape != value.shape
    ]
    if missing or unexpected or misshaped:
        faults = {"missing": missing, "unexpected": unexpected, "of another shape": misshaped}
        listed = "; ".join(f"{len(keys)} {fault}: {_first(keys)}" for fault, keys in faults.items() if keys)
        raise CheckpointError(f"The {what} of this checkpoint does not fit the architecture: {listed}.")
    if assign:
        tensors = {key: value.to(expected[key].dtype) for key, value in tensors.items()}
    module.load_state_dict(dict(tensors), assign=assign)


def _first(keys: list[str], count: int = 4) -> str:
    return ", ".join(keys[:count]) + (", …" if len(keys) > count else "")


def unet_config(tensors: Mapping[str, Tensor], num_head_channels: int = 64) -> UNetConfig:
    """Sizes of the U-Net of a state dict without prefix; the head width is not in the tensors."""
    if "input_blocks.0.0.weight" not in tensors:
        raise CheckpointError(_absent("U-Net", PREFIXES["unet"] + "input_blocks.0.0.weight"))
    first = tensors["input_blocks.0.0.weight"]
    model_channels = first.shape[0]
    mult, resolutions, blocks = _levels(tensors)
    shared = tensors.get("input_blocks.1.0.spade.mlp_shared.0.weight")
    transformer = next(
        (key for key in tensors if key.endswith("transformer_blocks.0.attn2.to_k.weight")), None
    )
    if transformer is None:
        raise CheckpointError(_absent("U-Net", "…transformer_blocks.0.attn2.to_k.weight"))
    depths = [int(m[1]) for key in tensors if (m := re.search(r"transformer_blocks\.(\d+)\.", key))]
    return UNetConfig(
        in_channels=first.shape[1],
        out_channels=tensors["out.2.weight"].shape[0],
        model_channels=model_channels,
        channel_mult=tuple(width // model_channels for width in mult),
        num_res_blocks=blocks,
        attention_resolutions=resolutions,
        num_head_channels=num_head_channels,
        context_dim=tensors[transformer].shape[1],
        transformer_depth=max(depths) + 1,
        sft_channels=0 if shared is None else shared.shape[1],
        sft_hidden=0 if shared is None else shared.shape[0],
    )


def lq_encoder_config(tensors: Mapping[str, Tensor], num_heads: int = 4) -> LQEncoderConfig:
    """Sizes of StableSR's LQ encoder; the number of heads is not in the tensors."""
    first = tensors["input_blocks.0.0.weight"]
    widths, resolutions, blocks = _levels(tensors)
    return LQEncoderConfig(
        in_channels=first.shape[1],
        model_channels=first.shape[0],
        out_channels=tensors["fea_tran.0.out_layers.3.weight"].shape[0],
        channel_mult=tuple(width // first.shape[0] for width in widths),
        num_res_blocks=blocks,
        attention_resolutions=resolutions,
        num_heads=num_heads,
    )


def _levels(tensors: Mapping[str, Tensor]) -> tuple[list[int], tuple[int, ...], int]:
    """Width of each level, factors with attention, and residual blocks a level of an LDM encoder."""
    widths: list[list[int]] = [[]]
    resolutions: list[int] = []
    for index in range(1, 1 + max(_numbers(tensors, r"^input_blocks\.(\d+)\."))):
        if f"input_blocks.{index}.0.op.weight" in tensors:
            widths.append([])
            continue
        widths[-1].append(tensors[f"input_blocks.{index}.0.out_layers.3.weight"].shape[0])
        if f"input_blocks.{index}.1.norm.weight" in tensors:
            resolutions.append(2 ** (len(widths) - 1))
    return (
        [level[0] for level in widths],
        tuple(sorted(set(resolutions), reverse=True)),
        len(widths[0]),
    )


def autoencoder_config(tensors: Mapping[str, Tensor]) -> AutoencoderConfig:
    """Sizes of a KL autoencoder with or without CFW."""
    if "encoder.conv_in.weight" not in tensors:
        raise CheckpointError(_absent("autoencoder", PREFIXES["autoencoder"] + "encoder.conv_in.weight"))
    ch = tensors["encoder.conv_in.weight"].shape[0]
    levels = sorted(set(_numbers(tensors, r"^encoder\.down\.(\d+)\.")))
    return AutoencoderConfig(
        in_channels=tensors["encoder.conv_in.weight"].shape[1],
        out_ch=tensors["decoder.conv_out.weight"].shape[0],
        ch=ch,
        ch_mult=tuple(
            tensors[f"encoder.down.{level}.block.0.conv2.weight"].shape[0] // ch for level in levels
        ),
        num_res_blocks=1 + max(_numbers(tensors, r"^encoder\.down\.0\.block\.(\d+)\.")),
        z_channels=tensors["decoder.conv_in.weight"].shape[1],
        embed_dim=tensors["post_quant_conv.weight"].shape[1],
        cfw=any(key.startswith("decoder.fusion_layer_") for key in tensors),
    )


def _numbers(keys: Iterable[str], pattern: str) -> list[int]:
    return [int(match[1]) for key in keys if (match := re.search(pattern, key))]


def _absent(what: str, key: str) -> str:
    return (
        f"This checkpoint has no {what}: expected keys such as {key}. Is it a StableSR or PFStorer restorer?"
    )
