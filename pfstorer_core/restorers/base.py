"""A restorer: the networks of a file, what has to be known to use them, and what one does with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from ..checkpoints.header import RestorerHeader
from ..diffusion.ddim import ddim_timesteps, sample_ddim
from ..diffusion.sampling import Denoiser, Generators, Guide, SamplerStep, sample_ddpm, start_latent
from ..diffusion.schedule import Schedule, space_timesteps
from ..imaging.tile_setting import CLEANED
from ..imaging.tiled_autoencoder import TILE, decode_tiled, encode_tiled
from ..models import Autoencoder, BlockHooks, TextTower, UNet
from ..models.graphs import Run, at_once
from ..models.layers import NO_HOOKS
from ..models.tokenizer import tokenize
from .changes import NO_CHANGES, Changes, attention_of, sites_of
from .condition import Condition, pixel_hint
from .diffbir.cleaner import Cleaner
from .fingerprint import fingerprint

SAMPLERS = ("ddpm", "ddim")


@dataclass(frozen=True)
class Restorer:
    """The networks of a base restorer. Latents are those that the U-Net sees: the autoencoder's, scaled.

    Attributes:
        null_context: text context of the empty prompt [1, M, context_dim]; of width 0 where no text is read.
        text: reads prompts; None where it was not asked for.
        cleaner: DiffBIR's first stage: takes noise, blur and compression off pictures [B, 3, H, W] in [0, 1]
            before they are encoded; None where there is none.
    """

    unet: UNet
    autoencoder: Autoencoder
    null_context: Tensor
    header: RestorerHeader
    text: TextTower | None = None
    cleaner: Cleaner | None = None

    @property
    def device(self) -> torch.device:
        return self.null_context.device

    @property
    def dtype(self) -> torch.dtype:
        return self.null_context.dtype

    @property
    def downscale(self) -> int:
        """Pixels of a picture along one side of a latent cell."""
        return self.autoencoder.config.downscale

    @cached_property
    def fingerprint(self) -> str:
        """Tells it from other restorers, see `fingerprint.fingerprint`."""
        return fingerprint(self.unet.state_dict())

    @cached_property
    def schedule(self) -> Schedule:
        """The one that it was trained with."""
        return self.header.schedule

    def context(self, prompt: str = "") -> Tensor:
        """Text context [1, M, context_dim] of a prompt.

        Raises:
            ValueError: a prompt that is not empty, and no text tower.
        """
        if not prompt:
            return self.null_context
        if self.text is None:
            if not self.null_context.numel():
                raise ValueError("This restorer reads no prompts: leave them out.")
            raise ValueError("Prompts need the text tower: load the restorer with text=True.")
        tokens = tokenize([prompt], self.text.config.context_length)
        return self.text(tokens.to(self.null_context.device))

    # --- first stage

    def clean(self, pictures: Tensor, *, tile: int = CLEANED, overlap: int = -1) -> Tensor:
        """Pictures [B, 3, H, W] in [0, 1] without their damage, about [0, 1]; as they are without a cleaner.
        Large ones in tiles of so many pixels, see `Cleaner.clean`."""
        return pictures if self.cleaner is None else self.cleaner.clean(pictures, tile, overlap)

    def encode(
        self,
        pictures: Tensor,
        *,
        tile: int = TILE,
        overlap: int = -1,
        on_tile: Callable[[], object] = lambda: None,
    ) -> Tensor:
        """Pictures [B, 3, H, W] in [0, 1], sides multiples of `downscale` -> the modes of their latents
        [B, C, h, w], fp32. Large ones in tiles of so many latent cells, see `pixel_grid`."""

        def encode(piece: Tensor) -> Tensor:
            return self.autoencoder.encode((2 * piece - 1).to(self.null_context)).float()

        latents = encode_tiled(encode, pictures, self.downscale, tile=tile, overlap=overlap, on_tile=on_tile)
        return self.header.scale_factor * latents

    def posterior(self, pictures: Tensor, *, tile: int = TILE, overlap: int = -1) -> tuple[Tensor, Tensor]:
        """Mean, which is `encode`'s mode, and standard deviation of the latents of pictures, as there. Of an
        autoencoder that tells no distribution the deviation is 0."""
        if not self.autoencoder.config.double_z:
            mean = self.encode(pictures, tile=tile, overlap=overlap)
            return mean, torch.zeros_like(mean)

        def encode(piece: Tensor) -> Tensor:
            mean, logvar = self.autoencoder.moments((2 * piece - 1).to(self.null_context))
            return torch.cat([mean.float(), (0.5 * logvar.float()).exp()], 1)

        found = encode_tiled(encode, pictures, self.downscale, tile=tile, overlap=overlap)
        mean, std = (self.header.scale_factor * found).chunk(2, 1)
        return mean, std

    def draw_latent(self, moments: Tensor, noise: Tensor) -> Tensor:
        """A draw from the distribution of a latent, which is what trainings see.

        Args:
            moments: mean and log-variance [B, 2·C, h, w], see `Autoencoder.moments`.
            noise: standard normal [B, C, h, w].
        """
        mean, logvar = moments.float().chunk(2, dim=1)
        return (mean + (0.5 * logvar).exp() * noise) * self.header.scale_factor

    def decode(
        self,
        latents: Tensor,
        lq: Tensor | None = None,
        fidelity: float = 0.0,
        *,
        quantize: bool = True,
        tile: int = TILE,
        overlap: int = -1,
        on_tile: Callable[[], object] = lambda: None,
    ) -> Tensor:
        """Latents [B, C, h, w] -> pictures [B, 3, H, W], about [0, 1], fp32 on the CPU; one picture and one
        tile at a time.

        Args:
            lq: LQ pictures [B, 3, H, W] in [0, 1], which CFW fuses; `fidelity`: CFW's w, `quantize`: whether
                a VQ autoencoder's latents are brought to its codebook first; see `Autoencoder.decode`.
        """
        size = [self.downscale * side for side in latents.shape[-2:]]
        pictures = latents.new_zeros(1, 3, 1, 1).expand(len(latents), 3, *size) if lq is None else lq

        def decode(piece: Tensor, picture: Tensor) -> Tensor:
            seen = (2 * picture - 1).to(self.null_context) if fidelity else None
            decoded = self.autoencoder.decode(piece.to(self.null_context), seen, fidelity, quantize)
            return ((decoded.float() + 1) / 2).cpu()

        unscaled = latents / self.header.scale_factor
        return decode_tiled(
            decode, unscaled, pictures, self.downscale, tile=tile, overlap=overlap, on_tile=on_tile
        )

    # --- diffusion

    def condition(
        self, lq: Tensor, cleaned: Tensor | None = None, pictures: Tensor | None = None
    ) -> Condition:
        """What the restorer goes by.

        Args:
            lq: latents of the LQ pictures [B, C, h, w] (`encode`).
            cleaned: latents of what a cleaner made of them, where there is one.
            pictures: the LQ pictures [B, 3, H, W] in [0, 1], for a restorer that sees their pixels.
        """
        starts = {"lq": lq, "cleaned": lq if cleaned is None else cleaned, "noise": None}
        spatial = None if self.header.condition == "none" else lq
        if self.header.condition == "pixels":
            if pictures is None:
                raise ValueError("This restorer sees pictures in pixels, not their latents.")
            spatial = pixel_hint(pictures, lq)
        return Condition(spatial, starts[self.header.start])

    def denoise(
        self,
        x: Tensor,
        timesteps: Tensor,
        condition: Condition,
        context: Tensor | None = None,
        changes: Changes = NO_CHANGES,
        hooks: BlockHooks = NO_HOOKS,
        run: Run = at_once,
    ) -> Tensor:
        """One evaluation of the U-Net: eps or v, as the header says, [B, C, H, W].

        Args:
            x: noisy latents [B, C, H, W].
            timesteps: original ones [B].
            context: [b, M, context_dim], b is B or 1; None for the empty prompt's.
            run: calls the U-Net, such as `Graphs`.
        """
        read = self.null_context if self.header.control_prompt == "empty" else None
        contexts = (self.null_context if context is None else context, read)
        weights = changes.changed_weights(self.unet)
        inside = Changes(changes.sites, attention=changes.attention)
        seen = (condition.spatial, condition.rows)
        return run(self._evaluated, x, timesteps, contexts, seen, inside, weights, hooks)

    def _evaluated(
        self, x: Tensor, t: Tensor, contexts: Any, seen: tuple[Tensor | None, int], changes: Changes,
        weights: dict[str, Tensor], hooks: BlockHooks,
    ) -> Tensor:  # fmt: skip
        if attention := attention_of(changes):
            hooks = replace(hooks, self_attention=attention)
        rows, read = (each if each is None else each.expand(len(x), -1, -1) for each in contexts)
        arguments = (x, t, rows, seen[0], sites_of(changes), hooks, read, seen[1])
        return functional_call(self.unet, weights, arguments) if weights else self.unet(*arguments)

    def noised(self, x0: Tensor, timesteps: Tensor, noise: Tensor) -> Tensor:
        """x_t of clean latents x0 [B, C, h, w] (DDPM eq. 4)."""
        return self.schedule.q_sample(x0, timesteps, noise)

    def target(self, x0: Tensor, timesteps: Tensor, noise: Tensor) -> Tensor:
        """What `denoise` should answer for `noised(x0, timesteps, noise)`."""
        return self.schedule.target(x0, timesteps, noise, self.header.prediction_type)

    def denoising_error(
        self,
        x0: Tensor,
        timesteps: Tensor,
        noise: Tensor,
        condition: Condition,
        context: Tensor | None = None,
        changes: Changes = NO_CHANGES,
        hooks: BlockHooks = NO_HOOKS,
    ) -> Tensor:
        """L_Diff: the mean squared error of `denoise` against its target, a scalar in fp32 (DDPM eq. 14)."""
        x = self.noised(x0, timesteps, noise)
        output = self.denoise(x, timesteps, condition, context, changes, hooks)
        return F.mse_loss(output.float(), self.target(x0, timesteps, noise))

    def visited(self, steps: int, sampler: str = "ddpm") -> list[int]:
        """Indices of `schedule` at which a sampler of `SAMPLERS` evaluates the U-Net, from where sampling
        starts (`RestorerHeader.start_at`) down.

        Raises:
            ValueError: an unknown sampler, or more steps than there are time steps.
        """
        if sampler not in SAMPLERS:
            raise ValueError(f"No sampler named {sampler!r}; choose one of {', '.join(SAMPLERS)}.")
        count = max(1, round(self.header.start_at * len(self.schedule)))
        if sampler == "ddim":
            return ddim_timesteps(steps, "trailing", count)
        return [count - 1] if steps == 1 else space_timesteps(count, [steps])

    @torch.no_grad()
    def sample(
        self,
        condition: Condition,
        steps: int,
        noise: Tensor,
        *,
        context: Tensor | None = None,
        denoise: Denoiser | None = None,
        sampler: str = "ddpm",
        generator: Generators = None,
        guide: Guide | None = None,
        callback: Callable[[SamplerStep], object] | None = None,
    ) -> Tensor:
        """Ancestral DDPM sampling, or DDIM without noise -> clean latents [B, C, h, w].

        Args:
            noise: of the start, standard normal [B, C, h, w].
            denoise: instead of `denoise` under this condition and context.
            generator, guide, callback: see `sample_ddpm`.
        """

        def evaluate(x: Tensor, timesteps: Tensor) -> Tensor:
            return self.denoise(x.to(self.null_context), timesteps, condition, context)

        visited, schedule, start = self.visited(steps, sampler), self.schedule, condition.start
        x = noise if start is None else start_latent(schedule, start, noise, visited[-1])
        model, kind = denoise or evaluate, self.header.prediction_type
        if sampler == "ddim":
            return sample_ddim(model, x, schedule, visited, kind, guide=guide, callback=callback)
        return sample_ddpm(
            model,
            x,
            schedule.respaced(visited),
            kind,
            generator=generator,
            guide=guide,
            callback=callback,
        )
