"""What PFStorer minimises (PFStorer section 3): of one person's samples, or of many people's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...models import BlockHooks
from ...models.layers import NO_HOOKS, LayerInputs
from ...restorers.base import Restorer
from ...restorers.changes import Addition, Changes
from ...restorers.condition import UNCONDITIONAL, Condition
from ...training.data import normal
from ...training.formats import as_stored, autocast_as_here
from ...training.loop import LoopSettings
from ...training.objective import DrawnObjective
from ..errors import denoising_errors
from ..prompts import PROMPTS, person_prompts, word_id
from ..references import as_seen
from .block import Influence, PersonalizationBlock
from .reference import attention_loss, otsu_mask, reference_features, token_maps
from .settings import AdapterTraining
from .sites import block_number, default_sites, new_blocks


class PFStorerLoss(DrawnObjective):
    """L_Diff + λ_Gen·L_Gen + λ_Pers·L_Pers (PFStorer eq. 5), and what is trained by it: blocks, γ and S*."""

    def __init__(self, restorer: Restorer, settings: AdapterTraining) -> None:
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

    def groups(self, settings: LoopSettings) -> list[dict[str, Any]]:
        gammas = [block.gamma for block in self.blocks.values() if block.gamma.requires_grad]
        weights = [
            p for name, p in self.blocks.named_parameters() if p.requires_grad and not name.endswith(".gamma")
        ]
        tokens = [self.token] if self.token.requires_grad and self.token.numel() else []
        rate, gamma_rate = self.settings.rates(self.unet.config.model_channels)
        groups = [
            {"params": weights, "scale": 1.0, "weight_decay": settings.weight_decay},
            {"params": gammas, "scale": gamma_rate / rate, "weight_decay": 0.0},
            {"params": tokens, "scale": self.settings.token_lr / rate, "weight_decay": 0.0},
        ]
        return [group for group in groups if group["params"]]

    def draw(
        self, hq: Tensor, lq: Tensor, reference: Tensor, rngs: Sequence[np.random.Generator]
    ) -> tuple[Any, ...]:
        """What `loss` takes, of scaled latents [B, C, h, w]: of pictures, their bad copies and photos of the
        same people; everything random is drawn from the generators."""
        t = torch.tensor([self.time_step(rng) for rng in rngs], device=hq.device)
        rows = torch.tensor([int(rng.integers(len(PROMPTS))) for rng in rngs], device=hq.device)
        noise = normal(hq, rngs)
        self.prompts = self.prompts and self.prompts.to(hq.device)
        null = self._null(lq) if self.settings.lambda_gen else UNCONDITIONAL
        return hq, t, noise, rows, self.seen(reference, t), self.restorer.condition(lq), null

    def loss(
        self,
        hq: Tensor,
        t: Tensor,
        noise: Tensor,
        rows: Tensor,
        seen: tuple[Tensor, Tensor],
        condition: Condition,
        null: Condition,
    ) -> Tensor:
        """
        Args:
            hq, noise: [B, C, h, w]. t: time steps, and rows: numbers of prompts [B].
            seen: see `seen`. condition: of the bad copies. null: what L_Gen sees in their place.
        """
        s = self.settings
        context, words = self.called(rows)
        sites, loss_pers = self.personalized(*seen, context, words)
        conditions = [condition, *([null] if s.lambda_gen else [])]
        read = context = context.repeat(len(conditions), 1, 1)
        hooks = NO_HOOKS
        if s.gradients == "truncated":
            read = context.detach()
            first = min(map(block_number, self.sites))
            hooks = BlockHooks(start=partial(with_context_from, first, context))

        errors = denoising_errors(self.restorer, hq, t, noise, conditions, read, Changes(sites), hooks)
        return errors[0] + s.lambda_gen * errors[1:].sum() + s.lambda_pers * loss_pers

    def time_step(self, rng: np.random.Generator) -> int:
        return int(rng.integers(len(self.restorer.schedule)))

    def seen(self, reference: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Photos [B, C, h, w] as they are read for these time steps of the target, and the time steps [B] at
        which they are."""
        timestep = self.settings.reference_timestep
        at = torch.zeros_like(t) if timestep == "zero" else t
        return as_seen(reference, at, timestep, self.restorer.schedule), at

    def personalized(
        self, latents: Tensor, at: Tensor, context: Tensor, words: tuple[Tensor, Tensor]
    ) -> tuple[dict[str, list[Addition]], Tensor]:
        """Of each row its own reference, as `seen`, at every site; and L_Pers."""
        s = self.settings
        own = as_stored(self.restorer.dtype, latents.device)
        with torch.set_grad_enabled(torch.is_grad_enabled() and s.gradients == "full"), own:
            features = reference_features(self.unet, latents.to(self.restorer.dtype), at, context, self.sites)
        sites: dict[str, list[Addition]] = {}
        loss = context.new_zeros((), dtype=torch.float32)
        for site in self.sites:
            person, end = token_maps(self.unet, site, features[site], context, *words)
            loss = loss + attention_loss(person, end)
            block = self._block(site)
            mask = None if features[site].queries is None else otsu_mask(person)  # a full one takes time
            read = block.read(features[site].tokens, mask)
            sites[site] = [autocast_as_here(Influence(block, read), latents.device)]
        return sites if s.blocks else {}, loss

    def called(self, rows: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
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


def with_context_from(first: int, context: Tensor, block: str, inputs: LayerInputs) -> LayerInputs:
    """A hook: from this block of the decoder on the text is read in `context`, which gets gradients there."""
    decoding = block.startswith("output_blocks.")
    return replace(inputs, context=context) if decoding and block_number(block) >= first else inputs


def _key(site: str) -> str:
    return site.replace(".", "-")
