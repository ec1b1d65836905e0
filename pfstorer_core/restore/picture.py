"""Restoring a picture without a host: from the bad picture to the good one, as StableSR and DiffBIR do it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from ..checkpoints.tensors import is_finite
from ..diffusion.guidance import PromptGuidance, with_cfg
from ..diffusion.restoration_guidance import GuidanceSettings, RestorationGuidance, posterior_target
from ..diffusion.sampling import SamplerStep, drawn, seeded
from ..imaging.canvas import Canvas, canvas_for
from ..imaging.color import check_color_fix
from ..imaging.tile_setting import TileSetting
from ..imaging.tiling import TileGrid
from ..models.graphs import Capture, graphs_for
from ..models.prepacking import prepacked
from ..personalization.face_guidance import FaceGuidance
from ..personalization.identity import Identity, each_in_its_area, personal_context
from ..restorers.base import Restorer
from ..restorers.changes import NO_CHANGES, evaluated, together
from ..restorers.condition import Condition
from ..restorers.registry import prompt_guidance

LARGEST_CFG = 100.0


@torch.no_grad()
def restore(
    restorer: Restorer,
    lq: Tensor,
    *,
    upscale: float = 4.0,
    prompt: str | None = None,
    negative_prompt: str | None = None,
    cfg: float | None = None,
    identities: Sequence[Identity] = (),
    steps: int = 50,
    seed: int | Sequence[int] = 0,
    fidelity: float = 0.0,
    color_fix: str = "wavelet",
    guidance: GuidanceSettings | None = None,
    face: FaceGuidance | None = None,
    quantize: bool = True,
    sampler: str = "ddpm",
    tile: int = 0,
    overlap: int = -1,
    tile_batch: int = 4,
    on_step: Callable[[SamplerStep], object] | None = None,
    graphs: bool | Capture = False,
) -> Tensor:
    """Restore and enlarge pictures by sampling on tiles (StableSR section 3).

    Args:
        lq: bad pictures [B, 3, H, W] in [0, 1].
        upscale: of the result, 1…20; without effect on a restorer of one size (`RestorerHeader.size_rule`).
        prompt: what the picture shows; anything but "" needs the restorer's text tower. None for what the
            restorer was made for (`prompt_guidance`): DiffBIR v2.1's words, where no identity is named; of
            others nothing.
        negative_prompt: what it does not show, where cfg is above 1. None, likewise: the words of DiffBIR v2
            and v2.1; of others nothing.
        cfg: scale of classifier-free guidance, 1…100, which v2.1 rescales. Of restorers that see the LQ
            picture as further channels (CLR-Face) it is between seeing it and not. None, likewise: 4 of
            DiffBIR v2, 6 of v2.1, where a text tower is there to read their prompts; 1 (none) of others.
        steps: evaluations from where the restorer starts, see `RestorerHeader.start_at`.
        seed: same seed, same pictures. One for each picture makes each what it is without its neighbours.
        identities: whom it shows; see `Identity`. An area covers the whole picture.
        fidelity: CFW's w, see `Autoencoder.decode`.
        color_fix: "wavelet", "adain" or "none".
        guidance: towards the picture as the cleaner made it, or, in latents, towards draws from the
            distribution of its latent, as in DiffBIR; None for none.
        face: towards a person whom a recogniser is to find; None for none.
        quantize: whether a VQ autoencoder brings the result to its codebook; without effect on others.
        sampler: "ddpm", or "ddim", which adds no noise.
        tile: side of a tile in pixels of the result, of the cleaner, diffusion and the autoencoder; 0 leaves
            each its own, see `TileSetting`.
        overlap: pixels that neighbouring tiles share; -1 leaves each its own.
        on_step: called after each step; raise in it to stop.
        graphs: replay evaluations as CUDA graphs, where there is a CUDA device, memory and nothing that
            no graph can hold, see `graphs_for`; else each is called as it is, which is logged.
    Returns:
        [B, 3, H·upscale, W·upscale] in [0, 1], fp32 on the CPU.
    Raises:
        ValueError: a setting out of range, an identity of another base, or pictures, predictions or a result
            that hold NaN or infinity; the message names it.
    """
    if not is_finite(lq):
        raise ValueError("The picture holds NaN or infinity: give numbers from 0 to 1.")
    header = restorer.header
    bound = [identity.bound(restorer) for identity in identities if identity.gamma]
    areas = [identity.area for identity in identities if identity.gamma]
    named = any("context" in identity.adapter.kinds for identity in identities if identity.gamma)
    words = words_for(restorer, prompt, negative_prompt, cfg, named)
    written = restorer.context(words.prompt) if words.prompt else None
    unwanted = restorer.context(words.negative_prompt if words.cfg > 1 else "")
    restorer.autoencoder.check_fidelity(fidelity)
    check_color_fix(color_fix)
    visited = restorer.visited(steps, sampler)
    tiles = TileSetting(tile, overlap, header.image_size, restorer.downscale)
    canvas = canvas_for(header, lq.float().cpu(), upscale, restorer.downscale)
    tiles = tiles.on(canvas.picture, header.size_rule)
    pixel_tiles = tiles.autoencoder._asdict()
    canvas, cleaned = _cleaned(restorer, canvas, tiles)
    latent = restorer.encode(canvas.picture, **pixel_tiles)
    start = None if cleaned is None else restorer.encode(cleaned, **pixel_tiles)
    condition = restorer.condition(latent, start, canvas.picture)
    grid = TileGrid.of(latent, *tiles.diffusion)
    placed = {
        k: canvas.area(area, (grid.height, grid.width)).to(latent).expand(len(latent), -1, -1, -1)
        for k, area in enumerate(areas)
        if area is not None
    }
    changes = [NO_CHANGES]

    run = graphs_for(graphs, restorer.device)
    joint = cache(together)  # once a step for all tiles: what changes weights is merged into them once

    def evaluate(negative: bool, x: Tensor, t: Tensor) -> Tensor:
        context = personal_context(restorer.null_context, changes, areas) if written is None else written
        sees = condition.spatial is not None and not (negative and header.drops_condition)

        def piece(x: Tensor, spatial: Tensor, *tiles: Tensor) -> Tensor:
            cut, rows = dict(zip(placed, tiles, strict=True)), t.repeat(len(x) // len(t))

            def predict(who: Sequence[int]) -> Tensor:
                seen = unwanted if negative else context
                given = Condition(spatial if sees else None)
                evaluate = partial(restorer.denoise, x, rows, given, seen, run=run)
                return evaluated(evaluate, [changes[k] for k in who], joint)

            return each_in_its_area(predict, [cut.get(k) for k in range(len(areas))])

        beside = latent if condition.spatial is None else condition.spatial
        given = [x.to(restorer.dtype), beside.to(restorer.dtype), *placed.values()]
        predicted = grid.map(piece, *given, tile_batch=tile_batch)
        return _checked(predicted, f"The network's prediction at time step {int(t[0])}", restorer.dtype)

    guided = with_cfg(partial(evaluate, False), partial(evaluate, True), words.cfg, rescale=words.rescale)

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        changes[:] = [adapter.prepare(int(t[0])) for adapter in bound]
        joint.cache_clear()
        return guided(x, t)

    known = canvas if cleaned is None else replace(canvas, picture=cleaned)
    towards = _towards(restorer, guidance, known.picture, seed, visited, pixel_tiles)
    latents = latent, latent if start is None else start
    recognised = face and face.of(restorer, known, *latents, visited, pixel_tiles)

    def guide(x0: Tensor, timestep: int) -> Tensor:
        for k, change in enumerate(changes):
            guided = x0
            for pull in change.guidance:
                guided = pull(guided)
            x0 = x0 + placed[k] * (guided - x0) if k in placed else guided
        for guide in (towards, recognised):
            x0 = x0 if guide is None else guide(x0, timestep)
        return x0

    generator = seeded(seed, len(latent))
    noise = drawn(latent, generator)
    with run, prepacked(restorer.unet):
        x = restorer.sample(
            condition,
            steps,
            noise,
            denoise=denoise,
            sampler=sampler,
            generator=generator,
            guide=guide,
            callback=on_step,
        )
    restored = restorer.decode(x, canvas.picture, fidelity, quantize=quantize, **pixel_tiles)
    return canvas.finish(_checked(restored, "The decoded picture", restorer.dtype), color_fix)


def _cleaned(restorer: Restorer, canvas: Canvas, tiles: TileSetting) -> tuple[Canvas, Tensor | None]:
    """The canvas that the restorer goes by, and the cleaned picture that it starts from, where that is
    another, see `RestorerHeader.sees_cleaned`."""
    header = restorer.header
    if restorer.cleaner is None or not header.cleans:
        return canvas, None
    cleaned = restorer.clean(canvas.picture, **tiles.cleaner._asdict())
    return (replace(canvas, picture=cleaned), None) if header.sees_cleaned else (canvas, cleaned)


def words_for(
    restorer: Restorer,
    prompt: str | None,
    negative_prompt: str | None,
    cfg: float | None,
    named: bool = False,
) -> PromptGuidance:
    """What was asked for, else what the restorer was made for, as far as it can read it; see `restore`.

    Args:
        named: whether an identity is named instead of the restorer's own words.
    Raises:
        ValueError: cfg out of range.
    """
    own = prompt_guidance(restorer.header)
    if restorer.text is None:
        own = PromptGuidance(rescale=own.rescale)
    if named:
        own = replace(own, prompt="")
    given = {"prompt": prompt, "negative_prompt": negative_prompt, "cfg": cfg}
    words = replace(own, **{name: value for name, value in given.items() if value is not None})
    if not 1 <= words.cfg <= LARGEST_CFG:
        raise ValueError(f"cfg must be from 1 (no guidance) to {LARGEST_CFG:g}, got {words.cfg}.")
    return words


def _towards(
    restorer: Restorer,
    settings: GuidanceSettings | None,
    picture: Tensor,
    seed: int | Sequence[int],
    visited: Sequence[int],
    tiles: dict[str, Any],
) -> RestorationGuidance | None:
    """Guidance towards a picture [B, 3, H, W] in [0, 1], or draws of its latent."""
    if settings is None:
        return None

    def shown(*_: int) -> Tensor:
        return 2 * picture - 1

    def decode(latents: Tensor) -> Tensor:
        return 2 * restorer.decode(latents, **tiles) - 1

    drawn = settings.space == "latent"
    target = posterior_target(*restorer.posterior(picture, **tiles), seed) if drawn else shown
    return RestorationGuidance(settings, restorer.schedule.respaced(visited), target, decode)


def _checked(values: Tensor, what: str, dtype: torch.dtype) -> Tensor:
    if is_finite(values):
        return values
    raise ValueError(
        f"{what} holds NaN or infinity: the weights of the restorer or of an identity are damaged, or too "
        f"large for {str(dtype).removeprefix('torch.')}. Try fp32, without identities, or another file."
    )
