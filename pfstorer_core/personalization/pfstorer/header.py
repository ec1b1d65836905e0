"""What an identity adapter's file says of itself, and what its tensors have to be."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NoReturn

from ...checkpoints.fields import anything, check_version, listed, number, one_of, read_header, text, whole
from ...checkpoints.layouts import CheckpointError, StateDict, first
from ...checkpoints.tensors import is_finite
from ...checkpoints.words import plain

FORMAT = "pfstorer.identity_adapter"
FORMAT_VERSION = "1"
HEADER_ENTRY = "adapter"
NOTICE = (
    "Biometric data: the face of the person can be told, and shown, from this file. Keep it as you would "
    "keep their photos."
)
REFERENCE_TIMESTEPS = ("zero", "same", "noised")
NULL_LQ = ("drop", "zero_latent", "gray")

MOST_REFERENCES = 10
"""Photos of a person."""
LONGEST_SIDE = 512
"""Of a reference's latent."""
LONGEST_CONTEXT = 512
"""Tokens."""

RULES = {
    "base": text(16, "[0-9a-f]{16}"),
    "sites": listed(text(40, r"output_blocks\.[0-9]{1,2}\.[0-9]"), 1, 64),
    "heads": listed(whole(1, 256), 1, 64),
    "prediction_type": one_of("eps", "v"),
    "prompt": text(1000),
    "person": whole(0, LONGEST_CONTEXT),
    "end": whole(1, LONGEST_CONTEXT),
    "init_word": text(100),
    "null_lq": one_of(*NULL_LQ),
    "reference_timestep": one_of(*REFERENCE_TIMESTEPS),
    "run_key": text(64),
    "steps": whole(0, 10**7),
    "losses": listed(number(-1e30, 1e30), 0, 200_000),
    "training": anything(dict, "fields by their names"),
    "notice": text(2000),
}
"""What the fields of a header may be."""
REQUIRED = ("base", "sites", "heads", "prediction_type", "prompt", "person", "end")


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

    def to_metadata(self) -> dict[str, str]:
        return {"format": FORMAT, "format_version": FORMAT_VERSION, HEADER_ENTRY: json.dumps(asdict(self))}

    @classmethod
    def from_file(cls, metadata: Mapping[str, str], name: str) -> AdapterHeader:
        """Of a file's metadata; raises CheckpointError, which names file and field."""
        if metadata.get("format") != FORMAT:
            raise CheckpointError(
                f"{plain(name)} is no identity adapter (its format is "
                f"{plain(metadata.get('format', 'not named'))}): choose a file that TrainIdentityAdapter "
                "wrote."
            )
        check_version(metadata.get("format_version"), FORMAT_VERSION, name, "identity adapter")
        return cls(**read_header(metadata, HEADER_ENTRY, RULES, f"The header of {name}", REQUIRED))


LATENTS = {
    "token.embedding": ("[1, D]", (1, 0)),
    "context.main": ("[1, L, D]", (1, LONGEST_CONTEXT, 0)),
    "refs.latents": ("[R, C, h, w]", (MOST_REFERENCES, 64, LONGEST_SIDE, LONGEST_SIDE)),
}
"""An adapter's tensors beside its blocks: shape in words, and its largest sizes, of which 0 is any."""


def check_tensors(header: AdapterHeader, tensors: StateDict, what: str) -> None:
    """Raise CheckpointError unless the tensors are those that the header speaks of, as shapes go."""

    def refuse(why: str) -> NoReturn:
        raise CheckpointError(f"{what} is damaged: {why}.")

    prefixes = tuple(f"sites.{site}." for site in header.sites)
    if len(set(prefixes)) != len(header.heads) or len(prefixes) != len(header.heads):
        refuse(
            f"it names {len(prefixes)} sites, {len(set(prefixes))} different ones, and heads of "
            f"{len(header.heads)}"
        )
    if strange := [key for key in tensors if key not in LATENTS and not key.startswith(prefixes)]:
        refuse(f"it holds {first(strange)}, which its header does not speak of")
    for name, (shape, largest) in LATENTS.items():
        found = tuple(tensors[name].shape) if name in tensors else ()
        fits = len(found) == len(largest) and all(
            n <= most or not most for n, most in zip(found, largest, strict=True)
        )
        if not fits or not all(found[1:]):
            refuse(
                f"{name} has the shape {list(found)}, expected {shape}, {list(largest)} at the most (0: any)"
            )
    for name, value in tensors.items():
        if not value.is_floating_point() or not is_finite(value):
            refuse(f"{plain(name)} holds NaN, infinity or no fractions ({value.dtype})")
    tokens, width = tensors["context.main"].shape[1:]
    if tensors["token.embedding"].shape[0] != 1 or tensors["token.embedding"].shape[1] != width:
        refuse(f"its token is {tensors['token.embedding'].shape[1]} wide, its context {width}")
    if len(tensors["context.main"]) != 1 or not header.person < header.end < tokens:
        refuse(f"its prompt has {tokens} tokens, but person and end are at {header.person} and {header.end}")
    for prefix, heads in zip(prefixes, header.heads, strict=True):
        gamma = tensors.get(f"{prefix}gamma")
        if gamma is None or gamma.ndim != 1 or not gamma.numel() or gamma.numel() % heads:
            refuse(f"there is no block for {prefix[6:-1]} with {heads} heads")
