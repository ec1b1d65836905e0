"""What a restorer's file has to say besides its tensors."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..diffusion.schedule import PredictionType, Schedule
from .errors import CheckpointError
from .fields import (
    LONGEST_HEADER,
    anything,
    check_version,
    checked,
    listed,
    number,
    one_of,
    parsed,
    read_header,
    text,
    whole,
)

FORMAT = "pfstorer.restorer"
CONTROL_FORMAT = "pfstorer.control_network"
"""Of a control network with its cleaner, which goes on top of a restorer."""
FORMAT_VERSION = "1"
HEADER_ENTRY = "restorer"
"""Entry of a .safetensors file's metadata that is the header, as JSON."""
HEADER_TENSOR = "pfstorer.header"
"""The header as a tensor of bytes, in files that another program wrote and gave metadata of its own."""

CONDITIONS = ("sft", "control", "concat", "pixels", "none")
"""How the LQ picture enters the U-Net: by SFT (StableSR), by a control network's residuals (DiffBIR), or as
further channels beside the noisy latent: its latent (ReF-LDM), or its pixels at the latent's size (latent
diffusion's super-resolution); or not at all."""

STARTS = ("lq", "cleaned", "noise")
"""What sampling starts from: the latent of the LQ picture or of what a cleaner made of it, noised; noise."""

RULES = {
    "architecture": text(40, "[a-z][a-z0-9_]*"),
    "prediction_type": one_of("eps", "v"),
    "beta_schedule": one_of("scaled_linear"),
    "beta_start": number(1e-8, 0.5),
    "beta_end": number(1e-8, 0.5),
    "num_train_timesteps": whole(1, 100_000),
    "rescale_betas_zero_snr": anything(bool, "true or false"),
    "condition": one_of(*CONDITIONS),
    "start": one_of(*STARTS),
    "start_at": number(1e-3, 1.0),
    "size_rule": one_of("tiled", "fixed"),
    "aligned": one_of("", "FFHQ"),
    "control_prompt": one_of("empty", "shared"),
    "variant": text(40, "[a-z0-9_.]*"),
    "scale_factor": number(1e-4, 1e4),
    "image_size": whole(16, 2048),
    "num_head_channels": whole(1, 1024),
    "lq_num_heads": whole(1, 256),
    "norm_groups": whole(1, 256),
    "preview": listed(listed(number(-1e3, 1e3), 3, 3), 0, 65),
    "training": anything(dict, "fields by their names"),
}
"""What the fields of a header may be."""


@dataclass(frozen=True)
class RestorerHeader:
    """What the tensors do not tell. The defaults are those of StableSR on SD 2.1, whose files have no header.

    Attributes:
        architecture: name of the folder in `restorers` that knows the networks.
        prediction_type: "eps" or "v".
        beta_schedule, beta_start, beta_end, num_train_timesteps: of the noise, in diffusers' words; see
            `Schedule.scaled_linear`.
        rescale_betas_zero_snr: diffusers' word; whether the betas were rescaled so that no signal is left at
            the last time step (DiffBIR v2.1), see `Schedule.zero_terminal_snr`.
        condition: see `CONDITIONS`.
        start: see `STARTS`. Without a cleaner "cleaned" is "lq".
        start_at: share of the noise schedule at which sampling starts; below 1 only with a latent.
        size_rule: "tiled": pictures of any size, in tiles of `image_size`. "fixed": whole ones, whose shorter
            side is brought to `image_size`.
        aligned: how the faces lay that it was trained on: "FFHQ" for those of `imaging.alignment`, empty for
            any other way.
        control_prompt: what a control network reads: "empty": the empty prompt's context, whatever the U-Net
            reads; "shared": the U-Net's.
        variant: which of the published weights of its architecture these are; empty where there is but one.
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
    architecture: str = "stablesr"
    beta_schedule: str = "scaled_linear"
    beta_start: float = 0.00085
    beta_end: float = 0.012
    num_train_timesteps: int = 1000
    condition: str = "sft"
    start: str = "lq"
    size_rule: str = "tiled"
    aligned: str = ""
    rescale_betas_zero_snr: bool = False
    control_prompt: str = "shared"
    variant: str = ""
    start_at: float = 1.0

    def __post_init__(self) -> None:
        """Raises CheckpointError where a value is not what `RULES` say, or the betas make no schedule."""
        values = {name: getattr(self, name) for name in RULES}
        checked(values, RULES, "The header of a restorer")
        if self.start == "noise" and self.start_at < 1:
            raise CheckpointError(
                f"The header of a restorer is damaged: pure noise is where a schedule starts, not at "
                f"{self.start_at:g} of it."
            )
        try:
            _ = self.schedule
        except ValueError as error:
            raise CheckpointError(
                f"The header of a restorer is damaged: its betas make no noise schedule ({error})."
            ) from error

    @property
    def drops_condition(self) -> bool:
        """Whether classifier-free guidance is between a condition and zeros in its place, which is how such a
        U-Net learned to do without it, rather than between prompts."""
        return self.condition in ("concat", "pixels")

    @property
    def sees_cleaned(self) -> bool:
        """Whether it sees what a cleaner made, as DiffBIR does. A CLR-Face prior sees the bad picture and at
        most starts from the cleaned one."""
        return self.condition in ("sft", "control")

    @property
    def cleans(self) -> bool:
        """Whether a cleaner has a part: a prior that starts from anything else has no use for it."""
        return self.sees_cleaned or self.start == "cleaned"

    @property
    def schedule(self) -> Schedule:
        """The noise schedule of its training; a rescaled one ends just above 0, as in ComfyUI."""
        schedule = Schedule.scaled_linear(self.beta_start, self.beta_end, self.num_train_timesteps)
        return schedule.zero_terminal_snr() if self.rescale_betas_zero_snr else schedule

    def to_metadata(self, format: str = FORMAT) -> dict[str, str]:
        return {
            "format": format,
            "format_version": FORMAT_VERSION,
            HEADER_ENTRY: json.dumps(asdict(self), sort_keys=True),
        }

    def to_tensor(self) -> Tensor:
        """As UTF-8 bytes, see `HEADER_TENSOR`."""
        return torch.tensor(list(self.to_metadata()[HEADER_ENTRY].encode()), dtype=torch.uint8)

    @classmethod
    def from_file(
        cls,
        metadata: Mapping[str, str],
        tensors: Mapping[str, Tensor],
        name: str,
        published: Callable[[str], RestorerHeader] | None = None,
    ) -> RestorerHeader:
        """The header of a file, or what its name says; ignores fields that a later version added.

        Args:
            published: tells the header of a file without one by its name; None: `from_name`.
        Raises:
            CheckpointError: a header that cannot be read, or is of another version, or with values that
                cannot be; names file and field.
        """
        what = f"The header of {name}"
        if HEADER_ENTRY in metadata or metadata.get("format") in (FORMAT, CONTROL_FORMAT):
            check_version(metadata.get("format_version"), FORMAT_VERSION, name, "restorer")
            return cls(**read_header(metadata, HEADER_ENTRY, RULES, what))
        if HEADER_TENSOR in tensors:
            return cls(**checked(parsed(_text(tensors[HEADER_TENSOR], what), what), RULES, what))
        return (published or cls.from_name)(name)

    @classmethod
    def from_name(cls, name: str) -> RestorerHeader:
        """The header of StableSR's published files, whose names are all that tells the kinds apart: models
        for 768 pixels and for faces predict v, the others eps."""
        name = name.lower()
        large = "768" in name
        v = large or re.search(r"face|v[-_]?pred|[-_]v[-_.]", name)
        return cls(prediction_type="v" if v else "eps", image_size=768 if large else 512)


def _text(stored: Tensor, what: str) -> str:
    if stored.dtype is not torch.uint8 or stored.ndim != 1 or len(stored) > LONGEST_HEADER:
        raise CheckpointError(
            f"{what} is damaged: {HEADER_TENSOR} is {list(stored.shape)} of {stored.dtype}, expected bytes."
        )
    try:
        return bytes(stored.tolist()).decode()
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{what} is damaged: {HEADER_TENSOR} is no text.") from error
