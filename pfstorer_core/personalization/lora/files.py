"""LoRA files, ours and those of others, and what is in them.

All of them name a layer and a part of its change: kohya's "lora_unet_<layer>.lora_down.weight", which ours
have, too; diffusers' "unet.<layer>.lora_A.weight" and, before, "unet.<…>.processor.to_q_lora.down.weight".
Layers have Stable Diffusion's or diffusers' names (`layers.known_names`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NoReturn

import torch
from torch import Tensor

from ...checkpoints.errors import CheckpointError, StateDict
from ...checkpoints.layouts import first_keys
from ...checkpoints.tensors import is_finite
from ...checkpoints.words import plain
from ..weights import LowRank
from .layers import flat

KEY = re.compile(
    r"(?P<layer>.+?)(?:[._]lora(?:_linear_layer)?[._](?P<part>up|down|mid|A|B)(?:\.default)?(?:\.weight)?|\.alpha)"
)
"""A layer and the part of its change that a tensor is; no part is alpha."""
PARTS = {"A": "down", "B": "up", None: "alpha"}
PREFIX = re.compile(r"(?:base_model\.model\.|model\.|diffusion_model\.|unet\.|lora_unet_|lycoris_)*")
"""What stands before a layer of the U-Net."""
TEXT = re.compile(r"(?:base_model\.model\.)?(?:lora_te|te\d?[._]|text_encoder|text_model|clip_)")
"""What layers of text encoders begin with."""
OTHERS = {
    "a LoHa": r"\.hada_",
    "a LoKr": r"\.lokr_",
    "a DoRA": r"\.dora_scale$|\.lora_magnitude_vector",
    "an OFT or BOFT": r"\.oft_",
    "a GLoRA": r"\.[ab][12]\.weight$",
    "a LoRA with changes of biases or of whole weights": r"\.(diff|diff_b|set_weight|w_norm|b_norm)$"
    r"|\.lora_B\.bias$|\.reshape_weight$",
}
"""Relatives of LoRA that ComfyUI's own loader knows, and keys that only they have."""
BASES = ("modelspec.architecture", "ss_base_model_version")
"""Entries of a file's metadata that say what it was made for."""

UP, DOWN, ALPHA = "lora_up.weight", "lora_down.weight", "alpha"


def is_lora(keys: Iterable[str]) -> bool:
    """Whether the keys of a file are a LoRA's, whoever made it."""
    return any((found := KEY.fullmatch(key)) and found["part"] for key in keys)


def file_tensors(layers: Mapping[str, LowRank]) -> StateDict:
    """Changes by the `flat` names of their layers, as kohya's and our files hold them."""
    tensors: StateDict = {}
    for name, low in layers.items():
        parts = {UP: low.up, DOWN: low.down, ALPHA: torch.tensor(low.alpha)}
        tensors |= {f"lora_unet_{name}.{part}": value for part, value in parts.items()}
    return tensors


def read_layers(tensors: Mapping[str, Tensor], name: str) -> tuple[dict[str, LowRank], list[str]]:
    """The changes in a file, in fp32, by the `flat` names of the U-Net's layers; and what was left out, a
    sentence each.

    Args:
        name: of the file, for errors.
    Raises:
        CheckpointError: not a plain LoRA, one of a text encoder alone, or damaged.
    """
    keys = "\n".join(tensors)
    for kind, pattern in OTHERS.items():
        if re.search(pattern, keys, re.MULTILINE):
            raise CheckpointError(
                f"{plain(name)} is {kind}, and only plain LoRAs are read as identity adapters: put it on the "
                "MODEL by ComfyUI's LoRA loader instead."
            )
    layers: dict[str, dict[str, Tensor]] = {}
    text: set[str] = set()
    for key, value in tensors.items():
        found = KEY.fullmatch(key)
        if found and TEXT.match(key):
            text.add(found["layer"])
            continue
        if not found:
            _refuse(name, f"it holds {plain(key)}, which is no part of a LoRA")
        layer = flat(PREFIX.sub("", found["layer"], count=1).replace(".processor.", "."))
        part = PARTS.get(found["part"], found["part"])
        if part in layers.setdefault(layer, {}):
            _refuse(name, f"{plain(layer)} is changed twice")
        if not value.is_floating_point() or not is_finite(value):
            _refuse(name, f"{plain(key)} holds NaN, infinity or no fractions ({value.dtype})")
        layers[layer][part] = value.float()
    if text and not layers:
        raise CheckpointError(
            f"{plain(name)} changes the text encoder alone ({first_keys(sorted(text))}): there is nothing in "
            "it for a restorer's U-Net. Choose another LoRA."
        )
    notes = []
    if text:
        notes.append(f"Of {plain(name)}, {len(text)} layers are the text encoder's and were left out.")
    return {layer: _low_rank(parts, layer, name) for layer, parts in layers.items()}, notes


def made_for(metadata: Mapping[str, str]) -> str:
    """What a file that was made elsewhere says of its base; "" where it does not."""
    return next((plain(metadata[entry]) for entry in BASES if metadata.get(entry)), "")


def _low_rank(parts: Mapping[str, Tensor], layer: str, name: str) -> LowRank:
    if missing := [part for part in ("up", "down") if part not in parts]:
        _refuse(name, f"{plain(layer)} has no lora_{missing[0]}")
    up, down, alpha = parts["up"], parts["down"], parts.get("alpha")
    if "mid" in parts:
        down = _convolved(down, parts["mid"], layer, name)
    shapes = f"{list(up.shape)} and {list(down.shape)}"
    if not (up.ndim in (2, 4) and down.ndim in (2, 4) and up.numel() and down.numel()):
        _refuse(name, f"{plain(layer)} has an up and a down of {shapes}")
    if up.flatten(1).shape[1] != len(down):
        _refuse(name, f"up and down of {plain(layer)} are {shapes}, which are of two different ranks")
    if alpha is not None and alpha.numel() != 1:
        _refuse(name, f"alpha of {plain(layer)} is {list(alpha.shape)}, expected one number")
    return LowRank(up.clone(), down.clone(), float(len(down) if alpha is None else alpha))


def _convolved(down: Tensor, mid: Tensor, layer: str, name: str) -> Tensor:
    """LoCon's three factors as two: W = up · mid · down, mid [r, r, kh, kw] (LyCORIS)."""
    rank = len(down) if down.ndim else 0
    if mid.ndim != 4 or mid.shape[:2] != (rank, rank):
        _refuse(
            name,
            f"down and mid of {plain(layer)} are {list(down.shape)} and {list(mid.shape)}: no two of a LoCon",
        )
    return torch.einsum("mnhw,ni->mihw", mid, down.flatten(1))


def _refuse(name: str, why: str) -> NoReturn:
    raise CheckpointError(
        f"The LoRA {plain(name)} is damaged or of another kind: {why}. Take it from a copy, or choose "
        "another file."
    )
