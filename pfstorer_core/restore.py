"""Restoring a picture without a host: StableSR's flow from the bad picture to the good one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache

import torch
from torch import Tensor

from .checkpoints.tensors import is_finite
from .diffusion.sampling import SamplerStep
from .imaging.canvas import prepare_canvas
from .imaging.color import COLOR_FIXES
from .imaging.resizing import resize
from .imaging.tiling import TileGrid, tile_cells
from .personalization.identity import Identity, each_in_its_area, personal_context
from .restorers.base import Condition, Restorer
from .restorers.changes import NO_CHANGES, Changes, together


@torch.no_grad()
def restore(
    restorer: Restorer,
    lq: Tensor,
    *,
    upscale: float = 4.0,
    prompt: str = "",
    identities: Sequence[Identity] = (),
    steps: int = 50,
    seed: int = 0,
    fidelity: float = 0.0,
    color_fix: str = "wavelet",
    tile: int = 0,
    overlap: int = -1,
    tile_batch: int = 4,
    on_step: Callable[[SamplerStep], object] | None = None,
) -> Tensor:
    """Restore and enlarge pictures by ancestral DDPM sampling on tiles (StableSR section 3).

    Args:
        lq: bad pictures [B, 3, H, W] in [0, 1].
        upscale: of the result, 1…20; without effect on a restorer of one size (`RestorerHeader.size_rule`).
        prompt: what the picture shows; anything but "" needs the restorer's text tower.
        identities: whom it shows; see `Identity`. An area covers the whole picture.
        fidelity: CFW's w, see `Autoencoder.decode`.
        color_fix: "wavelet", "adain" or "none".
        tile: side of a tile in pixels of the result; 0 takes the size that the restorer was trained on.
        overlap: pixels that neighbouring tiles share; -1 for half a tile.
        on_step: called after each step; raise in it to stop.
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
    written = restorer.context(prompt) if prompt else None
    restorer.autoencoder.check_fidelity(fidelity)
    if color_fix not in (*COLOR_FIXES, "none"):
        raise ValueError(
            f"No colour fix named {color_fix!r}; choose one of {', '.join(COLOR_FIXES)} or none."
        )
    canvas = prepare_canvas(
        lq.float().cpu(), upscale, header.image_size, restorer.downscale, size_rule=header.size_rule
    )
    if restorer.cleaner is not None:
        canvas = replace(canvas, picture=restorer.cleaner(canvas.picture))
    latent = restorer.encode(canvas.picture)
    condition = restorer.condition(latent)
    grid = TileGrid.of(latent, *tile_cells(tile, overlap, header.image_size, restorer.downscale))
    placed = {
        k: resize(area.float(), (grid.height, grid.width)).to(latent).expand(len(latent), -1, -1, -1)
        for k, area in enumerate(areas)
        if area is not None
    }
    changes = [NO_CHANGES]

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        changes[:] = [adapter.prepare(int(t[0])) for adapter in bound]
        context = personal_context(restorer.null_context, changes, areas) if written is None else written

        @cache
        def joint(*who: int) -> Changes:
            """Once a step for all tiles: what changes weights is merged into them once."""
            return together([changes[k] for k in who])

        def evaluate(x: Tensor, spatial: Tensor, *tiles: Tensor) -> Tensor:
            cut, rows = dict(zip(placed, tiles, strict=True)), t.repeat(len(x) // len(t))

            def predict(who: Sequence[int]) -> Tensor:
                return restorer.denoise(x, rows, Condition(spatial), context, joint(*who))

            return each_in_its_area(predict, [cut.get(k) for k in range(len(areas))])

        given = [x.to(restorer.dtype), latent.to(restorer.dtype), *placed.values()]
        predicted = grid.map(evaluate, *given, tile_batch=tile_batch)
        return _checked(predicted, f"The network's prediction at time step {int(t[0])}", restorer.dtype)

    def guide(x0: Tensor, _: int) -> Tensor:
        for k, change in enumerate(changes):
            guided = x0
            for guidance in change.guidance:
                guided = guidance(guided)
            x0 = x0 + placed[k] * (guided - x0) if k in placed else guided
        return x0

    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(latent.shape, generator=generator).to(latent)
    x = restorer.sample(
        condition, steps, noise, denoise=denoise, generator=generator, guide=guide, callback=on_step
    )
    restored = restorer.decode(x, canvas.picture, fidelity)
    return canvas.finish(_checked(restored, "The decoded picture", restorer.dtype), color_fix)


def _checked(values: Tensor, what: str, dtype: torch.dtype) -> Tensor:
    if is_finite(values):
        return values
    raise ValueError(
        f"{what} holds NaN or infinity: the weights of the restorer or of an identity are damaged, or too "
        f"large for {str(dtype).removeprefix('torch.')}. Try fp32, without identities, or another file."
    )
