"""Training of an identity adapter on a few photos of one person (PFStorer section 3)."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...diffusion.sampling import sample_ddpm, start_latent
from ...diffusion.schedule import Schedule
from ...imaging.faces import Box
from ...imaging.tiled_autoencoder import decode_tiled
from ...models import BlockHooks
from ...models.layers import NO_HOOKS, LayerInputs
from ...restorers.base import Restorer
from ...training.data import Batch, collate, generators, normal
from ...training.degradation import check_shares, random_degradation
from ...training.interrupts import asking
from ...training.logs import rows_of
from ...training.loop import LoopSettings, Objective, fit, learning_rate, to_device
from ...training.processes import Processes
from ...training.progress import OnTick, Progress, never, silent
from ...training.state import kept_losses
from ..photos import Pairs, Photos, encode, paired
from ..prompts import MAIN, PROMPTS, person_prompts, word_id
from .adapter import AdapterHeader, IdentityAdapter, default_sites, new_blocks
from .apply import Identity, References, as_seen, personalization
from .block import Influence, Personalization, PersonalizationBlock
from .header import check_choices
from .reference import attention_loss, block_number, otsu_mask, reference_features, token_maps

STAGE = "identity"
PREVIEW_STEPS = 10
PREVIEWS = (0, 10, 25, 50)
"""Steps after which there is a preview early on, when most changes."""
PREVIEW_TILE = 32
"""Side in latent cells of the tiles that previews are decoded in."""
STEP_OVER_FORWARD = 3.0
"""About how many forward passes of the losses a training step takes."""

RATES = {256: (5e-5, 1e-2), 0: (2e-3, 2e-2)}
"""Peak learning rates of (blocks, γ) by the least width of the U-Net: SD 2.1's, and the tiny restorer's."""


MOST_STEPS = 100_000
"""Of a training, whose losses go into the adapter's header."""


@dataclass(frozen=True)
class AdapterTraining:
    """How to train an adapter; the defaults are PFStorer's where the paper names them.

    Attributes:
        lr, gamma_lr, token_lr: of the blocks, of γ and of S*; None of the first two takes `RATES`.
        lambda_gen: weight of L_Gen, the loss without the LQ picture: identity from the references alone.
        lambda_pers: weight of L_Pers, which keeps S* on the person.
        p_hq: share of samples whose LQ picture is HQ as it is.
        null_lq: what L_Gen sees for an LQ picture: "drop" (no SFT), "zero_latent" or "gray".
        sites: layers of the decoder that get a block; empty for `default_sites`.
        reference_timestep: at which the photos are read: "zero", "same" as the target's, or "noised" to it.
        gradients: "truncated" (S* learns from the first site on) or "full".
        gamma: whether γ is learned; else it is 1, which is ViCo.
        blocks: whether there are blocks at all; else S* alone is learned (textual inversion).
        degradation: a preset's name; "" for what suits the restorer's size.
        pool: pairs of latents that are at hand; one is exchanged in every step.
        preview_every: steps between previews; 0 for none, None for `PREVIEWS` and then every 100.
    """

    steps: int = 500
    batch: int = 4
    lr: float | None = None
    gamma_lr: float | None = None
    token_lr: float = 5e-3
    weight_decay: float = 0.01
    lambda_gen: float = 0.1
    lambda_pers: float = 5e-4
    p_hq: float = 0.03
    null_lq: str = "drop"
    sites: tuple[str, ...] = ()
    reference_timestep: str = "zero"
    gradients: str = "truncated"
    gamma: bool = True
    blocks: bool = True
    init_word: str = "person"
    degradation: str = ""
    pool: int = 128
    seed: int = 0
    bf16: bool = True
    save_every: int = 100
    preview_every: int | None = None

    def __post_init__(self) -> None:
        for name in ("lambda_gen", "lambda_pers", "weight_decay", "token_lr"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}.")
        check_shares(p_hq=self.p_hq)
        if self.gradients not in ("truncated", "full"):
            raise ValueError(f"No gradients {self.gradients!r}; choose truncated or full.")
        check_choices(self.null_lq, self.reference_timestep)
        random_degradation(self.degradation, 0)
        if not 1 <= self.steps <= MOST_STEPS:
            raise ValueError(f"steps must be from 1 to {MOST_STEPS:,}, got {self.steps}.")
        if self.pool < 1:
            raise ValueError(f"pool must be 1 or more, got {self.pool}.")

    def rates(self, width: int) -> tuple[float, float]:
        """Learning rates of blocks and γ for a U-Net of `width` channels."""
        blocks, gamma = next(rates for least, rates in RATES.items() if width >= least)
        return self.lr or blocks, self.gamma_lr or gamma

    def loop(self, width: int) -> LoopSettings:
        return LoopSettings(
            steps=self.steps,
            lr=self.rates(width)[0],
            batch=self.batch,
            warmup=0,
            weight_decay=self.weight_decay,
            betas=(0.9, 0.999),
            ema=0.0,
            seed=self.seed,
            bf16=self.bf16,
            save_every=self.save_every,
            validate_every=100 if self.preview_every is None else self.preview_every,
            validate_at=PREVIEWS if self.preview_every is None else (),
        )


class IdentityLoss(Objective):
    """L_Diff + λ_Gen·L_Gen + λ_Pers·L_Pers of samples, for which everything random is drawn from their
    seeds (PFStorer eq. 5)."""

    def __init__(self, restorer: Restorer, photos: Photos, settings: AdapterTraining) -> None:
        super().__init__()
        if restorer.text is None:
            raise ValueError("Training an identity needs the restorer's text tower: load it with text=True.")
        self.restorer, self.settings = restorer, settings
        self.unet = restorer.unet.requires_grad_(False)
        self.tower = restorer.text.requires_grad_(False)
        self.sites = list(settings.sites) or default_sites(self.unet)
        blocks = new_blocks(self.unet, self.sites, settings.seed)
        self.blocks = nn.ModuleDict({_key(site): block for site, block in blocks.items()})
        if not settings.gamma or not settings.blocks:
            for block in blocks.values():
                block.gamma.requires_grad_(False).fill_(float(settings.blocks))
        if not settings.blocks:
            self.blocks.requires_grad_(False)
        word = self.tower.model.token_embedding.weight[word_id(settings.init_word)]
        self.token = nn.Parameter(word.detach().float().clone())
        self.prompts = person_prompts(PROMPTS, self.tower.config.context_length)
        self.references: Tensor
        self.register_buffer("references", photos.latents, persistent=False)
        self.schedule = Schedule.scaled_linear(dtype=torch.float32)

    def groups(self, settings: LoopSettings) -> list[dict[str, Any]]:
        gammas = [block.gamma for block in self.blocks.values() if block.gamma.requires_grad]
        weights = [
            p for name, p in self.blocks.named_parameters() if p.requires_grad and not name.endswith(".gamma")
        ]
        rate, gamma_rate = self.settings.rates(self.unet.config.model_channels)
        groups = [
            {"params": weights, "scale": 1.0, "weight_decay": settings.weight_decay},
            {"params": gammas, "scale": gamma_rate / rate, "weight_decay": 0.0},
            {"params": [self.token], "scale": self.settings.token_lr / rate, "weight_decay": 0.0},
        ]
        return [group for group in groups if group["params"]]

    def forward(self, batch: Batch) -> Tensor:
        rngs = generators(batch)
        hq, lq = batch["hq"], batch["lq"]
        t = torch.tensor([int(rng.integers(len(self.schedule))) for rng in rngs], device=hq.device)
        rows = torch.tensor([int(rng.integers(len(PROMPTS))) for rng in rngs], device=hq.device)
        noise = normal(hq, rngs)
        s, prediction = self.settings, self.restorer.header.prediction_type
        x, target = self.schedule.q_sample(hq, t, noise), self.schedule.target(hq, t, noise, prediction)

        prompts = self.prompts.to(hq.device)
        context = prompts.context(self.tower, self.token, rows)
        words = prompts.person[rows], prompts.end[rows]
        sites, loss_pers = self._personalization(batch["reference"], t, context, words)
        seen, hooks = context, NO_HOOKS
        if s.gradients == "truncated":
            seen = context.detach()
            first = min(map(block_number, self.sites))
            hooks = BlockHooks(start=partial(with_context_from, first, context))

        def error(lq_latent: Tensor | None) -> Tensor:
            output = self.unet(x, t, seen, lq_latent, sites, hooks)
            return F.mse_loss(output.float(), target)

        loss = error(lq)
        if s.lambda_gen:
            loss = loss + s.lambda_gen * error(self._null(lq))
        return loss + s.lambda_pers * loss_pers

    def _personalization(
        self, chosen: Tensor, t: Tensor, context: Tensor, words: tuple[Tensor, Tensor]
    ) -> tuple[dict[str, Personalization], Tensor]:
        """Of each row its own reference, at every site; and L_Pers."""
        s = self.settings
        at = torch.zeros_like(t) if s.reference_timestep == "zero" else t
        latents = as_seen(self.references[chosen], at, s.reference_timestep)
        with torch.set_grad_enabled(torch.is_grad_enabled() and s.gradients == "full"):
            features = reference_features(self.unet, latents, at, context, self.sites)
        sites: dict[str, Personalization] = {}
        loss = context.new_zeros((), dtype=torch.float32)
        for site in self.sites:
            person, end = token_maps(self.unet, site, features[site], context, *words)
            loss = loss + attention_loss(person, end)
            block = self._block(site)
            mask = None if features[site].queries is None else otsu_mask(person)  # a full one takes time
            reference = block.read(features[site].tokens, mask)
            sites[site] = Personalization([Influence(block, reference)])
        return sites if s.blocks else {}, loss

    def _null(self, lq: Tensor) -> Tensor | None:
        if self.settings.null_lq == "drop":
            return None
        if self.settings.null_lq == "zero_latent":
            return torch.zeros_like(lq)
        return self._gray(lq)

    def _gray(self, lq: Tensor) -> Tensor:
        factor = self.restorer.autoencoder.config.downscale
        picture = lq.new_full((1, 3, *(side * factor for side in lq.shape[-2:])), 0.5)
        return encode(self.restorer, picture).to(lq).expand(len(lq), -1, -1, -1)

    def _block(self, site: str) -> PersonalizationBlock:
        return self.blocks[_key(site)]  # type: ignore[return-value]

    def adapter(self, run_key: str, steps: int, losses: Sequence[float]) -> IdentityAdapter:
        """What has been learned so far."""
        s = self.settings
        blocks = {site: self._block(site) for site in self.sites}
        header = AdapterHeader(
            base=self.restorer.fingerprint,
            sites=self.sites,
            heads=[block.attn1.heads for block in blocks.values()],
            prediction_type=self.restorer.header.prediction_type,
            prompt=MAIN,
            person=int(self.prompts.person[0]),
            end=int(self.prompts.end[0]),
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
            context = self.prompts.to(main.device).context(self.tower, self.token, main)
        made = IdentityAdapter(header, blocks, self.token.detach()[None], context, self.references)
        return made.to("cpu", torch.float32)

    @torch.no_grad()
    def take(self, begun: IdentityAdapter, loop: LoopSettings) -> list[tuple[float, float]]:
        """Go on from what an adapter of fewer steps has learned; loss and rate of its steps."""
        for site, block in begun.blocks.items():
            self._block(site).load_state_dict(block.state_dict())
        self.token.copy_(begun.token[0])
        earlier = replace(loop, steps=begun.header.steps)
        return [(loss, learning_rate(earlier, step)) for step, loss in enumerate(begun.header.losses)]

    @torch.no_grad()
    def sheet(self, batch: Batch) -> Tensor:
        """A bad picture, what the base makes of it, what the person's restorer makes of it so far, the
        photo."""
        restorer, scale = self.restorer, self.restorer.header.scale_factor
        lq, hq = batch["lq"].float(), batch["hq"].float()
        adapter = self.adapter("", 0, []).to(lq.device, self.token.dtype)
        identity = Identity(adapter)
        references = References(self.unet, adapter)
        noise = torch.randn(lq.shape, generator=torch.Generator().manual_seed(0)).to(lq)

        def restored(personal: bool) -> Tensor:
            context = adapter.context if personal else restorer.null_context

            def denoise(x: Tensor, t: Tensor) -> Tensor:
                sites: dict[str, Personalization] = {}
                if personal and self.settings.blocks:
                    sites = personalization(self.unet, [identity], [references.at(int(t[0]))])
                rows = context.expand(len(x), -1, -1).to(x)
                return self.unet(x, t, rows, lq, sites).float()

            start = start_latent(self.schedule, lq, noise)
            steps = self.schedule.respaced(PREVIEW_STEPS)
            seeded = torch.Generator().manual_seed(0)
            return sample_ddpm(denoise, start, steps, restorer.header.prediction_type, generator=seeded)

        factor, weights = restorer.autoencoder.config.downscale, restorer.null_context

        def decoded(latent: Tensor) -> Tensor:
            """In tiles: beside a training, a whole picture's decoder is more than there is room for."""
            size = [factor * side for side in latent.shape[-2:]]
            pictures = decode_tiled(
                lambda z, _: (restorer.autoencoder.decode(z.to(weights)).float() + 1) / 2,
                latent / scale,
                latent.new_zeros(1, 3, *size).expand(len(latent), -1, -1, -1),
                factor,
                tile=PREVIEW_TILE,
            )
            return pictures.clamp(0, 1)

        return rows_of(*map(decoded, (lq, restored(False), restored(True), hq)))


def with_context_from(first: int, context: Tensor, block: str, inputs: LayerInputs) -> LayerInputs:
    """A hook: from this block of the decoder on the text is read in `context`, which gets gradients there."""
    decoding = block.startswith("output_blocks.")
    return replace(inputs, context=context) if decoding and block_number(block) >= first else inputs


def train_identity_adapter(
    restorer: Restorer,
    photos: Sequence[Tensor],
    settings: AdapterTraining | None = None,
    *,
    boxes: Sequence[Box | None] | None = None,
    folder: Path | str | None = None,
    on_progress: Callable[[Progress], None] = silent,
    key: str = "",
    on_tick: OnTick = never,
    begun: IdentityAdapter | None = None,
) -> IdentityAdapter:
    """Learn a person.

    Args:
        restorer: with its text tower.
        photos: 1…10 good photos of the person [3, H, W] or [1, 3, H, W] in [0, 1], of any sizes.
        boxes: of the face in each photo (left, top, right, bottom) in pixels, where it is small.
        folder: for what a stopped training goes on from; None forgets it.
        on_progress: called before the first step, with a guess of how long it will take, and after each;
            raise in it to stop.
        key: what `run_key` gave, where that is known already.
        on_tick: called in between, a few times a second; raise in it to stop, as in `on_progress`.
        begun: what the same training has come to in fewer steps, to go on from where `folder` has no state.
    Raises:
        ValueError: no photo, too many, one that shows nothing; a setting out of range; or a restorer without
            a text tower.
    """
    settings = settings or AdapterTraining()
    if folder is None:
        with TemporaryDirectory() as temporary:
            return train_identity_adapter(
                restorer, photos, settings, boxes=boxes, folder=temporary, on_progress=on_progress, key=key,
                on_tick=on_tick, begun=begun,
            )  # fmt: skip
    networks = (restorer.unet, restorer.autoencoder, *([restorer.text] if restorer.text else []))
    key = key or run_key(restorer.fingerprint, photos, settings, boxes)
    photos, boxes = in_order(photos, boxes)
    with asking(on_tick, *networks):
        return _train(restorer, photos, boxes, settings, Path(folder), on_progress, key, on_tick, begun)


def _train(
    restorer: Restorer,
    photos: Sequence[Tensor],
    boxes: Sequence[Box | None],
    settings: AdapterTraining,
    folder: Path,
    on_progress: Callable[[Progress], None],
    key: str,
    on_tick: OnTick,
    begun: IdentityAdapter | None,
) -> IdentityAdapter:
    seen = Photos.of(restorer, photos, boxes, on_tick)
    objective = IdentityLoss(restorer, seen, settings).to(restorer.device)
    loop = settings.loop(restorer.unet.config.model_channels)
    history = objective.take(begun, loop) if begun else []
    degradation = random_degradation(settings.degradation, restorer.header.image_size)
    pairs = Pairs(
        restorer, seen, degradation, settings.p_hq, settings.pool, settings.batch, settings.seed, on_tick
    )
    held = Pairs(restorer, seen, degradation, 0.0, 1, 1, settings.seed + 1, on_tick)
    try:
        done = len(written_losses(folder)) or len(history)
        on_progress(_forecast(objective, pairs, settings, done))
        losses = fit(
            STAGE, objective, pairs, loop, folder, on_progress, held=held, record={"run_key": key},
            processes=Processes(restorer.device), begun=history, pictures=False,
        )  # fmt: skip
        return objective.adapter(key, settings.steps, losses)
    finally:
        for drawn in (pairs, held):
            drawn.close()
        objective.to(restorer.device)


def _forecast(objective: IdentityLoss, pairs: Pairs, settings: AdapterTraining, done: int) -> Progress:
    """How long the training will take, from one forward pass of its first step."""
    batch = collate([pairs[k] for k in range(settings.batch)])
    device = objective.token.device
    begun = time.monotonic()
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=settings.bf16):
        objective(to_device(batch, device)).item()
    seconds = (time.monotonic() - begun) * STEP_OVER_FORWARD
    return Progress(STAGE, done, settings.steps, seconds_left=seconds * (settings.steps - done))


def written_losses(folder: Path) -> list[float]:
    """Of every step of the training in `folder` so far."""
    return kept_losses(folder / f"{STAGE}.state.safetensors")


def run_key(
    base: str,
    photos: Sequence[Tensor],
    settings: AdapterTraining,
    boxes: Sequence[Box | None] | None = None,
) -> str:
    """Names a training: the same photos, in any order, base (its fingerprint) and settings have the same
    key."""
    photos, boxes = in_order(photos, boxes)
    what: Mapping[str, Any] = {
        **{key: value for key, value in asdict(settings).items() if key not in FREE},
        "base": base,
        "boxes": [list(box) if box else None for box in boxes],
    }
    digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode())
    for photo in photos:
        digest.update(_digest(photo))
    return digest.hexdigest()[:32]


def in_order(
    photos: Sequence[Tensor], boxes: Sequence[Box | None] | None
) -> tuple[list[Tensor], list[Box | None]]:
    """Photos and their boxes in an order that only what they show decides on."""
    pairs = sorted(paired(photos, boxes), key=lambda pair: (_digest(pair[0]), pair[1] or ()))
    return [photo for photo, _ in pairs], [box for _, box in pairs]


def _digest(photo: Tensor) -> bytes:
    digest = hashlib.sha256(str(tuple(photo.shape[-3:])).encode())
    digest.update(photo.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.digest()


FREE = ("save_every", "preview_every")
"""Settings that change nothing of what is learned."""


def _key(site: str) -> str:
    return site.replace(".", "-")
