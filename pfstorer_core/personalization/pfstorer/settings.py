"""How PFStorer learns a person."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..objective import PersonTraining
from .adapter import IdentityAdapter
from .header import check_choices

RATES = {256: (5e-5, 1e-2), 0: (2e-3, 5e-1)}
"""Peak learning rates of (blocks, γ) by the least width of the U-Net: SD 2.1's, and the small ones', which
learn in so few steps that γ, from 0 on, would otherwise not come far."""


@dataclass(frozen=True)
class AdapterTraining(PersonTraining[IdentityAdapter]):
    """How to train an adapter; the defaults are PFStorer's where the paper names them.

    Attributes:
        lr, gamma_lr, token_lr: of the blocks, of γ and of S*; None of the first two takes `RATES`.
        lambda_gen: weight of L_Gen, the loss without the LQ picture: identity from the references alone.
        lambda_pers: weight of L_Pers, which keeps S* on the person.
        null_lq: what L_Gen sees for an LQ picture: "drop" (no SFT), "zero_latent" or "gray".
        sites: layers of the decoder that get a block; empty for `default_sites`.
        reference_timestep: at which the photos are read: "zero", "same" as the target's, or "noised" to it.
        gradients: "truncated" (S* learns from the first site on) or "full".
        gamma: whether γ is learned; else it is 1, which is ViCo.
        blocks: whether there are blocks at all; else S* alone is learned (textual inversion).
    """

    method: ClassVar[str] = "pfstorer"
    least_steps: ClassVar[int] = 0

    gamma_lr: float | None = None
    token_lr: float = 5e-3
    lambda_gen: float = 0.1
    lambda_pers: float = 5e-4
    null_lq: str = "drop"
    sites: tuple[str, ...] = ()
    reference_timestep: str = "zero"
    gradients: str = "truncated"
    gamma: bool = True
    blocks: bool = True
    init_word: str = "person"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("lambda_gen", "lambda_pers", "token_lr"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}.")
        if self.gradients not in ("truncated", "full"):
            raise ValueError(f"No gradients {self.gradients!r}; choose truncated or full.")
        check_choices(self.null_lq, self.reference_timestep)

    def rates(self, width: int) -> tuple[float, float]:
        """Learning rates of blocks and γ for a U-Net of `width` channels."""
        blocks, gamma = next(rates for least, rates in RATES.items() if width >= least)
        return self.lr or blocks, self.gamma_lr or gamma

    def rate(self, width: int) -> float:
        return self.rates(width)[0]
