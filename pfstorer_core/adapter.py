"""The identity adapter: what a restorer has learned of one person, and its file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from .checkpoint import is_finite, load_exactly, read_checkpoint, write_safetensors
from .layouts import CheckpointError, StateDict
from .models import Backend, UNet
from .models.blocks import Upsample
from .models.personalization import PersonalizationBlock
from .models.unet import Block
from .reference import text_attention_of

FORMAT = "pfstorer.identity_adapter"
HEADER_ENTRY = "adapter"
NOTICE = (
    "Biometric data: the face of the person can be told, and shown, from this file. Keep it as you would "
    "keep their photos."
)
REFERENCE_TIMESTEPS = ("zero", "same", "noised")
NULL_LQ = ("drop", "zero_latent", "gray")
BEGINNING = 2**16
"""Values of a weight that a fingerprint looks at."""
DIFFERING_BITS = 1
"""Bits of a fingerprint that rounding to another number format may change; training on changes more."""


def check_choices(null_lq: str, reference_timestep: str) -> None:
    """Raise ValueError where one of them is none of `NULL_LQ` or `REFERENCE_TIMESTEPS`."""
    if reference_timestep not in REFERENCE_TIMESTEPS:
        raise ValueError(
            f"No reference time step {reference_timestep!r}; choose one of {', '.join(REFERENCE_TIMESTEPS)}."
        )
    if null_lq not in NULL_LQ:
        raise ValueError(f"No null LQ {null_lq!r}; choose one of {', '.join(NULL_LQ)}.")


@dataclass(frozen=True)
class AdapterHeader:
    """What the tensors do not tell.

    Attributes:
        base: fingerprint of the restorer that it was trained on.
        heads: attention heads of each site, in the order of `sites`.
        person, end: positions of S* and of the end-of-text token in `prompt`.
        null_lq, reference_timestep: see `AdapterTraining`.
        run_key: of the training that made it, see `training.identity`.
        steps: of that training; fewer than its settings say where it was stopped.
        losses: of every step.
    """

    base: str
    sites: list[str]
    heads: list[int]
    prediction_type: str
    prompt: str
    person: int
    end: int
    init_word: str = "person"
    null_lq: str = "drop"
    reference_timestep: str = "zero"
    run_key: str = ""
    steps: int = 0
    losses: list[float] = field(default_factory=list)
    training: Mapping[str, Any] = field(default_factory=dict)
    notice: str = NOTICE

    def __post_init__(self) -> None:
        check_choices(self.null_lq, self.reference_timestep)


@dataclass(frozen=True, eq=False)
class IdentityAdapter:
    """An identity.

    Attributes:
        blocks: of each site.
        token: S* before the text tower [1, D].
        context: of the header's prompt, after it [1, L, D].
        references: scaled latents of the photos [R, C, h, w].
    """

    header: AdapterHeader
    blocks: dict[str, PersonalizationBlock]
    token: Tensor
    context: Tensor
    references: Tensor

    def to(self, device: torch.device | str, dtype: torch.dtype) -> IdentityAdapter:
        """A copy elsewhere, or in another number format."""
        blocks = {}
        for (site, block), heads in zip(self.blocks.items(), self.header.heads, strict=True):
            blocks[site] = PersonalizationBlock(len(block.gamma), heads, Backend(device="meta"))
            weights = {key: value.to(device, dtype) for key, value in block.state_dict().items()}
            blocks[site].load_state_dict(weights, assign=True)
            blocks[site].eval().requires_grad_(False)
        token, context, references = (
            t.to(device, dtype) for t in (self.token, self.context, self.references)
        )
        return IdentityAdapter(self.header, blocks, token, context, references)

    def check_base(self, base: str, name: str = "this restorer") -> None:
        """Raise ValueError where the adapter was trained on another base than that of the fingerprint."""
        if not same_base(self.header.base, base):
            raise ValueError(
                f"This identity adapter was trained on another base: on {self.header.base}, but {name} is "
                f"{base}. Load the restorer that it was trained with, or train it anew."
            )

    def save(self, path: Path | str) -> None:
        """Write it in fp16; see `write_safetensors` for the errors."""
        tensors = {
            "token.embedding": self.token,
            "context.main": self.context,
            "refs.latents": self.references,
        }
        for site, block in self.blocks.items():
            tensors |= {f"sites.{site}.{key}": value for key, value in block.state_dict().items()}
        metadata = {"format": FORMAT, "format_version": "1", HEADER_ENTRY: json.dumps(asdict(self.header))}
        write_safetensors(path, tensors, metadata, torch.float16)


def load_identity_adapter(path: Path | str) -> IdentityAdapter:
    """Read an adapter, in fp32 on the CPU.

    Raises:
        FileNotFoundError, PermissionError: not readable.
        CheckpointError: a file of another kind, or damaged; the message says which.
    """
    path = Path(path)
    tensors, metadata = read_checkpoint(path)
    if metadata.get("format") != FORMAT:
        raise CheckpointError(
            f"{path.name} is no identity adapter (its format is {metadata.get('format', 'not named')}): "
            "choose a file that TrainIdentityAdapter wrote."
        )
    try:
        fields = json.loads(metadata[HEADER_ENTRY])
        header = AdapterHeader(**{k: v for k, v in fields.items() if k in AdapterHeader.__dataclass_fields__})
        if len(header.heads) != len(header.sites):
            raise ValueError(f"{len(header.sites)} sites, but heads of {len(header.heads)}")
        names = ("token.embedding", "context.main", "refs.latents")
        token, context, references = (_taken(tensors, name) for name in names)
    except (KeyError, ValueError, TypeError) as error:
        raise CheckpointError(f"The identity adapter {path.name} is damaged ({error}).") from error
    blocks = {}
    for site, heads in zip(header.sites, header.heads, strict=True):
        prefix = f"sites.{site}."
        weights = {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}
        width = weights["gamma"].numel() if "gamma" in weights else 0
        if not width or width % heads:
            raise CheckpointError(f"The identity adapter {path.name} has no block for {site}: it is damaged.")
        blocks[site] = PersonalizationBlock(width, heads, Backend(device="meta"))
        load_exactly(blocks[site], weights, f"block {site}", placement={"dtype": torch.float32})
        blocks[site].eval().requires_grad_(False)
    return IdentityAdapter(header, blocks, token, context, references)


def is_adapter(path: Path | str) -> bool:
    """Whether a file says that it is one; raises as `read_checkpoint` does."""
    return read_checkpoint(path)[1].get("format") == FORMAT


def _taken(tensors: StateDict, name: str) -> Tensor:
    if not is_finite(tensors[name]):
        raise ValueError(f"{name} holds NaN or infinity")
    return tensors[name].float().clone()


def default_sites(unet: UNet) -> list[str]:
    """ViCo's choice, every second transformer of the decoder: in Stable Diffusion output_blocks.4.1, .6.1,
    .8.1 and .10.1. Where the finest level has no transformers, as in the embedded restorer, the last one and
    all residual blocks after it: a face of few pixels is drawn there (docs/personalization.md)."""
    sites = decoder_sites(unet)
    reading = [number for number, site in enumerate(sites) if text_attention_of(unet, site)]
    finest_reads = reading[-1] == len(sites) - 1
    return sites[reading[0] + 1 :: 2] if finest_reads else sites[reading[-1] :]


def decoder_sites(unet: UNet) -> list[str]:
    """Where an identity can act: each decoder block's transformer, or its residual block if it has none."""
    blocks = (cast(Block, block) for block in unet.output_blocks)
    return [
        f"{block.name}.{max(k for k, layer in enumerate(block) if not isinstance(layer, Upsample))}"
        for block in blocks
    ]


def new_blocks(unet: UNet, sites: Sequence[str], seed: int) -> dict[str, PersonalizationBlock]:
    """Blocks that do nothing yet, for these sites.

    Raises:
        ValueError: a site that the U-Net's decoder does not have.
    """
    known = decoder_sites(unet)
    strange = [site for site in sites if site not in known]
    if strange or not sites:
        raise ValueError(
            f"An identity cannot act at {', '.join(strange) or 'no site'}: choose from {', '.join(known)}."
        )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return {
            site: PersonalizationBlock(width, heads)
            for site in known
            if site in sites
            for width, heads in [_site_size(unet, site)]
        }


def _site_size(unet: UNet, site: str) -> tuple[int, int]:
    if attn := text_attention_of(unet, site):
        return attn.to_q.in_features, attn.heads
    width: Any = unet.get_submodule(site).out_channels
    return width, max(1, width // unet.config.num_head_channels)


def fingerprint(unet: Mapping[str, Tensor]) -> str:
    """64 bits that tell restorers apart, whatever number format they are stored in.

    Bit k says which half of the beginning of one of the U-Net's weights (the LQ encoder's and SFT's among
    them) has the larger sum.
    """
    keys = sorted(key for key, value in unet.items() if value.ndim > 1)
    chosen = [keys[k * len(keys) // 64] for k in range(64)]
    bits = [
        torch.stack([half.double().sum() for half in unet[key].flatten()[:BEGINNING].cpu().tensor_split(2)])
        for key in chosen
    ]
    return f"{sum(int(a > b) << k for k, (a, b) in enumerate(bits)):016x}"


def same_base(one: str, other: str) -> bool:
    return (int(one, 16) ^ int(other, 16)).bit_count() <= DIFFERING_BITS
