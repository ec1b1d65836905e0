"""ComfyUI's IMAGE and MASK at the border: [B, H, W, C] and [B, H, W] there, [B, C, H, W] in the core."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from comfy.model_management import intermediate_device
from torch import Tensor

_LOOK = "look at the node that it comes from"


def from_image(image: Any, name: str = "image") -> Tensor:
    """IMAGE [B, H, W, 1, 3 or 4] of any float format, on any device -> float32 [B, 3, H, W]; grey becomes
    RGB, alpha is left out. Values out of [0, 1] stay.

    Args:
        name: of the node's input, for the error.
    Raises:
        ValueError: no IMAGE, another number of channels, no picture, or values that are not numbers.
    """
    if not isinstance(image, Tensor) or image.ndim != 4 or not image.is_floating_point():
        raise ValueError(f"{_of(name)} is no IMAGE [B, H, W, 3] in 0…1 but {_seen(image)}; {_LOOK}.")
    if not image.numel():
        raise ValueError(f"{_of(name)} holds no picture: it is {_seen(image)}; {_LOOK}.")
    if image.shape[-1] not in (1, 3, 4):
        raise ValueError(
            f"{_of(name)} has {image.shape[-1]} channels. An IMAGE has 3 (RGB), 4 (with alpha, which is left "
            "out) or 1 (grey): convert it first."
        )
    pixels = image[..., :3].expand(*image.shape[:-1], 3).movedim(-1, 1)
    return finite(pixels.to(intermediate_device(), torch.float32), name)


def from_images(images: Mapping[str, Any], name: str) -> list[Tensor]:
    """The pictures [1, 3, H, W] of growing inputs, each a batch; see `from_image`."""
    return [one for key, batch in images.items() for one in from_image(batch, f"{name}.{key}").split(1)]


def from_mask(mask: Any, name: str = "mask") -> Tensor:
    """MASK [H, W] or [B, H, W] of any format, on any device -> float32 [B, 1, H, W] in [0, 1].

    Args:
        name: of the node's input, for the error.
    Raises:
        ValueError: no MASK, no pixels, or values that are not numbers.
    """
    if not isinstance(mask, Tensor) or mask.ndim < 2:
        raise ValueError(f"{_of(name)} is no MASK [B, H, W] but {_seen(mask)}; {_LOOK}.")
    if not mask.numel():
        raise ValueError(f"{_of(name)} holds no mask: it is {_seen(mask)}; {_LOOK}.")
    values = mask.reshape(-1, 1, *mask.shape[-2:]).to(intermediate_device(), torch.float32)
    return finite(values, name, "mask").clamp(0, 1)


def finite(values: Tensor, name: str, kind: str = "picture") -> Tensor:
    """What is given [B, …], after a look at each of the batch for NaN and infinity.

    Raises:
        ValueError: values that are not numbers; names the input and which of its pictures.
    """
    for number, one in enumerate(values, start=1):
        bad = one.numel() - int(torch.isfinite(one).sum())
        if bad:
            raise ValueError(
                f"{_of(name)} holds values that are not numbers (NaN or infinity): {bad} in {kind} {number} "
                f"of {len(values)}. The node that made it went wrong: mend that, or take another {kind}."
            )
    return values


def to_image(pixels: Tensor) -> Tensor:
    """[B, 3, H, W] -> IMAGE in [0, 1]."""
    return pixels.clamp(0, 1).movedim(1, -1)


def _of(name: str) -> str:
    return f"The input {name}"


def _seen(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {list(value.shape)} and format {str(value.dtype).removeprefix('torch.')}"
    return f"a {type(value).__name__}"
