"""What the file of a PFStorer adapter says of itself, and what its tensors have to be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NoReturn

from torch import Tensor

from ...checkpoints.errors import CheckpointError, StateDict
from ...checkpoints.fields import Rules, listed, one_of, text, whole
from ...checkpoints.layouts import first_keys
from ...checkpoints.tensors import is_finite
from ...checkpoints.words import plain
from ..header import RULES as SHARED
from ..header import AdapterHeader
from ..references import REFERENCE_TIMESTEPS, check_reference_timestep

NULL_LQ = ("drop", "zero_latent", "gray")

MOST_REFERENCES = 10
"""Photos of a person."""
LONGEST_SIDE = 512
"""Of a reference's latent."""
LONGEST_CONTEXT = 512
"""Tokens."""

SITES = listed(text(40, r"output_blocks\.[0-9]{1,2}\.[0-9]"), 1, 64)
HEADS = listed(whole(1, 256), 1, 64)
RULES = {
    **SHARED,
    "sites": SITES,
    "heads": HEADS,
    "prompt": text(1000),
    "person": whole(0, LONGEST_CONTEXT),
    "end": whole(1, LONGEST_CONTEXT),
    "init_word": text(100),
    "null_lq": one_of(*NULL_LQ),
    "reference_timestep": one_of(*REFERENCE_TIMESTEPS),
    "start": text(16, "([0-9a-f]{16})?"),
}
"""What the fields of a header may be."""


def check_choices(null_lq: str, reference_timestep: str) -> None:
    """Raise ValueError where one of them is none of `NULL_LQ` or `REFERENCE_TIMESTEPS`."""
    check_reference_timestep(reference_timestep)
    if null_lq not in NULL_LQ:
        raise ValueError(f"No null LQ {null_lq!r}; choose one of {', '.join(NULL_LQ)}.")


@dataclass(frozen=True, kw_only=True)
class PFStorerHeader(AdapterHeader):
    """What the tensors do not tell.

    Attributes:
        sites: layers of the decoder with a block.
        heads: attention heads of each, in their order.
        person, end: positions of S* and of the end-of-text token in `prompt`, which is empty where the
            restorer reads no text.
        null_lq, reference_timestep: see `AdapterTraining`.
        start: fingerprint of the start that its blocks began with, see `start.AdapterStart`; "" where they
            began with random weights.
    """

    rules: ClassVar[Rules] = RULES
    required: ClassVar[tuple[str, ...]] = (
        *AdapterHeader.required, "sites", "heads", "prompt", "person", "end"
    )  # fmt: skip

    sites: list[str]
    heads: list[int]
    prompt: str
    person: int
    end: int
    init_word: str = "person"
    null_lq: str = "drop"
    reference_timestep: str = "zero"
    start: str = ""

    def __post_init__(self) -> None:
        check_choices(self.null_lq, self.reference_timestep)

    def details(self) -> list[str]:
        return [
            f"sites {', '.join(self.sites)}",
            f"reference time step {self.reference_timestep}, prompt {self.prompt!r}",
            *([f"began from the start {self.start}"] if self.start else []),
        ]


REFERENCES = "refs.latents"
LATENTS = {
    "token.embedding": ("[1, D]", (1, 0)),
    "context.main": ("[1, L, D]", (1, LONGEST_CONTEXT, 0)),
    REFERENCES: ("[R, C, h, w]", (MOST_REFERENCES, 64, LONGEST_SIDE, LONGEST_SIDE)),
}
"""An adapter's tensors beside its blocks: shape in words, and its largest sizes, of which 0 is any. D is 0
where the restorer reads no text."""


def prefix_of(site: str) -> str:
    """Of the tensors of a site's block in a file."""
    return f"sites.{site}."


def check_tensors(header: PFStorerHeader, tensors: StateDict, what: str) -> None:
    """Raise CheckpointError unless the tensors are those that the header speaks of, as shapes go."""
    check_blocks(header.sites, header.heads, {k: v for k, v in tensors.items() if k not in LATENTS}, what)
    for name, (shape, largest) in LATENTS.items():
        found = tuple(tensors[name].shape) if name in tensors else ()
        fits = len(found) == len(largest) and all(
            n <= most or not most for n, most in zip(found, largest, strict=True)
        )
        if not fits or not all(found[1:] if name == REFERENCES else found[1:-1]):
            _refuse(
                what,
                f"{name} has the shape {list(found)}, expected {shape}, {list(largest)} at the most (0: any)",
            )
        _check_numbers(name, tensors[name], what)
    tokens, width = tensors["context.main"].shape[1:]
    if tensors["token.embedding"].shape[0] != 1 or tensors["token.embedding"].shape[1] != width:
        _refuse(what, f"its token is {tensors['token.embedding'].shape[1]} wide, its context {width}")
    names = not width or header.person < header.end < tokens
    if len(tensors["context.main"]) != 1 or not names:
        _refuse(
            what,
            f"its prompt has {tokens} tokens, but person and end are at {header.person} and {header.end}",
        )


def check_blocks(sites: Sequence[str], heads: Sequence[int], tensors: StateDict, what: str) -> None:
    """Raise CheckpointError unless the tensors are of blocks at these sites, as far as one can say before any
    is built."""
    prefixes = tuple(map(prefix_of, sites))
    if len(set(prefixes)) != len(heads) or len(prefixes) != len(heads):
        _refuse(
            what,
            f"it names {len(prefixes)} sites, {len(set(prefixes))} different ones, and heads of {len(heads)}",
        )
    if strange := [key for key in tensors if not key.startswith(prefixes)]:
        _refuse(what, f"it holds {first_keys(strange)}, which its header does not speak of")
    for name, value in tensors.items():
        _check_numbers(name, value, what)
    for prefix, count in zip(prefixes, heads, strict=True):
        gamma = tensors.get(f"{prefix}gamma")
        if gamma is None or gamma.ndim != 1 or not gamma.numel() or gamma.numel() % count:
            _refuse(what, f"there is no block for {prefix[6:-1]} with {count} heads")


def _check_numbers(name: str, value: Tensor, what: str) -> None:
    if not value.is_floating_point() or not is_finite(value):
        _refuse(what, f"{plain(name)} holds NaN, infinity or no fractions ({value.dtype})")


def _refuse(what: str, why: str) -> NoReturn:
    raise CheckpointError(f"{what} is damaged: {why}.")
