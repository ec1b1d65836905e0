"""Learning a person by PFStorer (PFStorer section 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from ...restorers.base import Restorer
from ...training.data import Batch, generators
from ..objective import PersonObjective
from ..photos import Photos
from ..prompts import MAIN
from .adapter import IdentityAdapter
from .block import PersonalizationBlock
from .header import PFStorerHeader
from .loss import PFStorerLoss
from .settings import AdapterTraining
from .start import AdapterStart


class IdentityLoss(PFStorerLoss, PersonObjective[IdentityAdapter]):
    """PFStorer's loss of one person's samples, for which everything random is drawn from their seeds."""

    def __init__(self, restorer: Restorer, photos: Photos, settings: AdapterTraining) -> None:
        super().__init__(restorer, settings)
        self.references: Tensor
        self.register_buffer("references", photos.latents, persistent=False)
        self.begun_with = ""

    def drawn(self, batch: Batch) -> tuple[Any, ...]:
        references = self.references[batch["reference"]]
        return self.draw(batch["hq"], batch["lq"], references, generators(batch))

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
            start=self.begun_with,
            run_key=run_key,
            steps=steps,
            losses=list(losses),
            training={**asdict(s), "sites": self.sites},
        )
        main = torch.zeros(1, dtype=torch.int64, device=self.token.device)
        with torch.no_grad():
            context, _ = self.called(main)
        made = IdentityAdapter(header, blocks, self.token.detach()[None], context, self.references)
        return made.to("cpu", torch.float32)

    def take_start(self, start: AdapterStart) -> None:
        """Begin with its blocks and γ; S* begins with the word, as without."""
        if fault := start.fault(self.restorer.fingerprint, self.settings) or start.misfit(self.unet):
            raise ValueError(
                f"This start for adapters does not fit: {fault}. Leave it out, or train it anew."
            )
        self._set_blocks(start.blocks)
        self.begun_with = start.fingerprint

    @torch.no_grad()
    def take(self, begun: IdentityAdapter) -> None:
        self._set_blocks(begun.blocks)
        self.token.copy_(begun.token[0])

    def _set_blocks(self, blocks: Mapping[str, PersonalizationBlock]) -> None:
        for site, block in blocks.items():
            self._block(site).load_state_dict(block.state_dict())
