"""What a restorer's file has to say besides its tensors."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from .layouts import CheckpointError
from .schedule import PredictionType

FORMAT = "pfstorer.restorer"
HEADER_ENTRY = "restorer"
"""Entry of a .safetensors file's metadata that is the header, as JSON."""
HEADER_TENSOR = "pfstorer.header"
"""The header as a tensor of bytes, in files that another program wrote and gave metadata of its own."""


@dataclass(frozen=True)
class RestorerHeader:
    """What the tensors do not tell. The defaults are those of StableSR on SD 2.1, whose files have no header.

    Attributes:
        prediction_type: "eps" or "v".
        scale_factor: unscaled latent × this is what the U-Net sees.
        image_size: side in pixels of the pictures that it was trained on: the tile size to use.
        num_head_channels, lq_num_heads: attention heads of the U-Net and of the LQ encoder.
        norm_groups: of every network's group normalization.
        preview: rough colours of a latent: a row [r, g, b] (−1…1) for every channel and one for the
            bias, to be multiplied with the scaled latent; empty where unknown.
        training: record of how it was made.
    """

    prediction_type: PredictionType = "eps"
    scale_factor: float = 0.18215
    image_size: int = 512
    num_head_channels: int = 64
    lq_num_heads: int = 4
    norm_groups: int = 32
    preview: list[list[float]] = field(default_factory=list)
    training: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.prediction_type not in ("eps", "v"):
            raise ValueError(f"prediction_type must be eps or v, got {self.prediction_type!r}")
        for name in ("scale_factor", "image_size", "num_head_channels", "lq_num_heads", "norm_groups"):
            value = getattr(self, name)
            if not isinstance(value, int if name != "scale_factor" else int | float) or not value > 0:
                raise ValueError(f"{name} must be a number above 0, got {value!r}")

    def to_metadata(self) -> dict[str, str]:
        return {
            "format": FORMAT,
            "format_version": "1",
            HEADER_ENTRY: json.dumps(asdict(self), sort_keys=True),
        }

    def to_tensor(self) -> Tensor:
        """As UTF-8 bytes, see `HEADER_TENSOR`."""
        return torch.tensor(list(self.to_metadata()[HEADER_ENTRY].encode()), dtype=torch.uint8)

    @classmethod
    def from_file(
        cls, metadata: Mapping[str, str], tensors: Mapping[str, Tensor], name: str
    ) -> RestorerHeader:
        """The header of a file, or what its name says; ignores what a later version added.

        Raises:
            CheckpointError: a header that cannot be read, or with values that cannot be.
        """
        try:
            text = metadata.get(HEADER_ENTRY)
            if text is None and HEADER_TENSOR in tensors:
                text = bytes(tensors[HEADER_TENSOR].tolist()).decode()
            if text is None:
                return cls.from_name(name)
            fields = dict(json.loads(text))
            return cls(**{key: value for key, value in fields.items() if key in cls.__dataclass_fields__})
        except (ValueError, TypeError) as error:
            raise CheckpointError(f"The header of {name} is damaged ({error}).") from error

    @classmethod
    def from_name(cls, name: str) -> RestorerHeader:
        """The header of a published file, whose name is all that tells the kinds apart: StableSR's models
        for 768 pixels and for faces predict v, the others eps."""
        name = name.lower()
        large = "768" in name
        v = large or re.search(r"face|v[-_]?pred|[-_]v[-_.]", name)
        return cls(prediction_type="v" if v else "eps", image_size=768 if large else 512)
