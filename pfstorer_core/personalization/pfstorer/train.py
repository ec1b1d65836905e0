"""What PFStorer minimises to learn a person (PFStorer section 3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ...models import BlockHooks
from ...models.layers import NO_HOOKS, LayerInputs
from ...restorers.base import Restorer
from ...restorers.changes import Addition, Changes
from ...restorers.condition import UNCONDITIONAL, Condition
from ...training.data import Batch, generators, normal
from ...training.loop import LoopSettings
from ..objective import PersonObjective, PersonTraining
from ..photos import Photos
from ..prompts import MAIN, PROMPTS, person_prompts, word_id
from ..references import as_seen
from .adapter import IdentityAdapter
from .block import Influence, PersonalizationBlock
from .header import PFStorerHeader, check_choices
from .reference import attention_loss, otsu_mask, reference_features, token_maps
from .sites import block_number, default_sites, new_blocks

RATES = {256: (5e-5, 1e-2), 0: (2e-3, 2e-2)}
"""Peak learning rates of (blocks, γ) by the least width of the U-Net: SD 2.1's, and the tiny restorer's."""


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


class IdentityLoss(PersonObjective[IdentityAdapter]):
    """L_Diff + λ_Gen·L_Gen + λ_Pers·L_Pers of samples, for which everything random is drawn from their
    seeds (PFStorer eq. 5)."""

    def __init__(self, restorer: Restorer, photos: Photos, settings: AdapterTraining) -> None:
        super().__init__()
        if restorer.text is None and restorer.null_context.numel():
            raise ValueError("Training an identity needs the restorer's text tower: load it with text=True.")
        self.restorer, self.settings = restorer, settings
        self.unet = restorer.unet.requires_grad_(False)
        self.tower = restorer.text.requires_grad_(False) if restorer.text else None
        self.sites = list(settings.sites) or default_sites(self.unet)
        blocks = new_blocks(self.unet, self.sites, settings.seed)
        self.blocks = nn.ModuleDict({_key(site): block for site, block in blocks.items()})
        if not settings.gamma or not settings.blocks:
            for block in blocks.values():
                block.gamma.requires_grad_(False).fill_(float(settings.blocks))
        if not settings.blocks:
            self.blocks.requires_grad_(False)
        if self.tower:
            word = self.tower.model.token_embedding.weight[word_id(settings.init_word)].detach()
            self.prompts = person_prompts(PROMPTS, self.tower.config.context_length)
        else:  # nobody is called by a name where no text is read
            word, self.prompts = torch.zeros(0), None
        self.token = nn.Parameter(word.float().clone())
        self.references: Tensor
        self.register_buffer("references", photos.latents, persistent=False)

    def groups(self, settings: LoopSettings) -> list[dict[str, Any]]:
        gammas = [block.gamma for block in self.blocks.values() if block.gamma.requires_grad]
        weights = [
            p for name, p in self.blocks.named_parameters() if p.requires_grad and not name.endswith(".gamma")
        ]
        rate, gamma_rate = self.settings.rates(self.unet.config.model_channels)
        groups = [
            {"params": weights, "scale": 1.0, "weight_decay": settings.weight_decay},
            {"params": gammas, "scale": gamma_rate / rate, "weight_decay": 0.0},
            {
                "params": [self.token] if self.token.numel() else [],
                "scale": self.settings.token_lr / rate,
                "weight_decay": 0.0,
            },
        ]
        return [group for group in groups if group["params"]]

    def forward(self, batch: Batch) -> Tensor:
        rngs = generators(batch)
        hq, lq = batch["hq"], batch["lq"]
        t = torch.tensor([int(rng.integers(len(self.restorer.schedule))) for rng in rngs], device=hq.device)
        rows = torch.tensor([int(rng.integers(len(PROMPTS))) for rng in rngs], device=hq.device)
        noise, s = normal(hq, rngs), self.settings

        context, words = self._called(rows)
        sites, loss_pers = self._personalization(batch["reference"], t, context, words)
        seen, hooks = context, NO_HOOKS
        if s.gradients == "truncated":
            seen = context.detach()
            first = min(map(block_number, self.sites))
            hooks = BlockHooks(start=partial(with_context_from, first, context))

        def error(condition: Condition) -> Tensor:
            return self.restorer.denoising_error(hq, t, noise, condition, seen, Changes(sites), hooks)

        loss = error(self.restorer.condition(lq))
        if s.lambda_gen:
            loss = loss + s.lambda_gen * error(self._null(lq))
        return loss + s.lambda_pers * loss_pers

    def _personalization(
        self, chosen: Tensor, t: Tensor, context: Tensor, words: tuple[Tensor, Tensor]
    ) -> tuple[dict[str, list[Addition]], Tensor]:
        """Of each row its own reference, at every site; and L_Pers."""
        s = self.settings
        at = torch.zeros_like(t) if s.reference_timestep == "zero" else t
        latents = as_seen(self.references[chosen], at, s.reference_timestep, self.restorer.schedule)
        with torch.set_grad_enabled(torch.is_grad_enabled() and s.gradients == "full"):
            features = reference_features(self.unet, latents, at, context, self.sites)
        sites: dict[str, list[Addition]] = {}
        loss = context.new_zeros((), dtype=torch.float32)
        for site in self.sites:
            person, end = token_maps(self.unet, site, features[site], context, *words)
            loss = loss + attention_loss(person, end)
            block = self._block(site)
            mask = None if features[site].queries is None else otsu_mask(person)  # a full one takes time
            reference = block.read(features[site].tokens, mask)
            sites[site] = [Influence(block, reference)]
        return sites if s.blocks else {}, loss

    def _called(self, rows: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Contexts [B, L, D] of the prompts `rows` [B], and where in them S* and the end-of-text token are,
        which nobody asks for where no text is read."""
        if self.tower is None or self.prompts is None:
            return self.restorer.null_context.expand(len(rows), -1, -1), (rows, rows)
        prompts = self.prompts.to(rows.device)
        return prompts.context(self.tower, self.token, rows), (prompts.person[rows], prompts.end[rows])

    def _null(self, lq: Tensor) -> Condition:
        """Of L_Gen, which has no LQ picture."""
        if self.settings.null_lq == "drop":
            return UNCONDITIONAL
        if self.settings.null_lq == "zero_latent":
            return self.restorer.condition(torch.zeros_like(lq))
        return self.restorer.condition(self._gray(lq))

    def _gray(self, lq: Tensor) -> Tensor:
        factor = self.restorer.downscale
        picture = lq.new_full((1, 3, *(side * factor for side in lq.shape[-2:])), 0.5)
        return self.restorer.encode(picture).to(lq).expand(len(lq), -1, -1, -1)

    def _block(self, site: str) -> PersonalizationBlock:
        return self.blocks[_key(site)]  # type: ignore[return-value]

    def adapter(self, run_key: str, steps: int, losses: Sequence[float]) -> IdentityAdapter:
        """What has been learned so far."""
        s = self.settings
        blocks = {site: self._block(site) for site in self.sites}
        header = PFStorerHeader(
            base=self.restorer.fingerprint,
            sites=self.sites,
            heads=[block.attn1.heads for block in blocks.values()],
            prediction_type=self.restorer.header.prediction_type,
            prompt=MAIN if self.prompts else "",
            person=int(self.prompts.person[0]) if self.prompts else 0,
            end=int(self.prompts.end[0]) if self.prompts else 1,
            init_word=s.init_word,
            null_lq=s.null_lq,
            reference_timestep=s.reference_timestep,
            run_key=run_key,
            steps=steps,
            losses=list(losses),
            training={**asdict(s), "sites": self.sites},
        )
        main = torch.zeros(1, dtype=torch.int64, device=self.token.device)
        with torch.no_grad():
            context, _ = self._called(main)
        made = IdentityAdapter(header, blocks, self.token.detach()[None], context, self.references)
        return made.to("cpu", torch.float32)

    @torch.no_grad()
    def take(self, begun: IdentityAdapter) -> None:
        for site, block in begun.blocks.items():
            self._block(site).load_state_dict(block.state_dict())
        self.token.copy_(begun.token[0])


def with_context_from(first: int, context: Tensor, block: str, inputs: LayerInputs) -> LayerInputs:
    """A hook: from this block of the decoder on the text is read in `context`, which gets gradients there."""
    decoding = block.startswith("output_blocks.")
    return replace(inputs, context=context) if decoding and block_number(block) >= first else inputs


def _key(site: str) -> str:
    return site.replace(".", "-")
