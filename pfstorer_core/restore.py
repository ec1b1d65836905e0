"""Restoring a picture without a host: StableSR's flow from the bad picture to the good one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from .checkpoints.tensors import is_finite
from .diffusion.sampling import SamplerStep, sample_ddpm, start_latent
from .diffusion.schedule import Schedule
from .imaging.canvas import prepare_canvas, resize
from .imaging.color import COLOR_FIXES
from .imaging.tiled_autoencoder import decode_tiled, encode_tiled
from .imaging.tiling import TileGrid, tile_cells
from .personalization.pfstorer.apply import Identity, References, each_in_its_area, named, personalization
from .restorers.base import Restorer


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
        upscale: of the result, 1…20.
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
    unet, autoencoder, header = restorer.unet, restorer.autoencoder, restorer.header
    factor = autoencoder.config.downscale
    acting = [identity for identity in identities if identity.gamma]
    for identity in acting:
        identity.adapter.check_base(restorer.fingerprint)
        identity.adapter.check_fit(unet, header.image_size)
    acting = [replace(i, adapter=i.adapter.to(restorer.device, restorer.dtype)) for i in acting]
    context = restorer.context(prompt) if prompt else named(restorer.null_context, acting)
    references = [References(unet, identity.adapter) for identity in acting]
    autoencoder.check_fidelity(fidelity)
    if color_fix not in (*COLOR_FIXES, "none"):
        raise ValueError(
            f"No colour fix named {color_fix!r}; choose one of {', '.join(COLOR_FIXES)} or none."
        )
    canvas = prepare_canvas(lq.float().cpu(), upscale, header.image_size, factor)
    latent = header.scale_factor * encode_tiled(
        lambda piece: autoencoder.encode(2 * piece.to(context) - 1).float(), canvas.picture, factor
    )
    grid = TileGrid.of(latent, *tile_cells(tile, overlap, header.image_size, factor))

    size = latent.shape[-2], latent.shape[-1]
    areas = [None if i.area is None else resize(i.area.float(), size).to(latent) for i in acting]
    given = [area.expand(len(latent), -1, -1, -1) for area in areas if area is not None]

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        found = [reference.at(int(t[0])) for reference in references]

        def evaluate(x: Tensor, lq_latent: Tensor, *tile_areas: Tensor) -> Tensor:
            rows, of_tile = t.repeat(len(x) // len(t)), iter(tile_areas)
            condition = unet.conditioning(lq_latent, x, rows, context)

            def predict(who: Sequence[int]) -> Tensor:
                sites = personalization(unet, [acting[k] for k in who], [found[k] for k in who])
                return unet(x, rows, context.expand(len(x), -1, -1), condition, sites)

            return each_in_its_area(predict, [None if area is None else next(of_tile) for area in areas])

        predicted = grid.map(evaluate, x.to(context), latent.to(context), *given, tile_batch=tile_batch)
        return _checked(predicted, f"The network's prediction at time step {int(t[0])}", context.dtype)

    schedule = Schedule.scaled_linear()
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(latent.shape, generator=generator).to(latent)
    x = sample_ddpm(
        denoise,
        start_latent(schedule, latent, noise),
        schedule.respaced(steps),
        header.prediction_type,
        generator=generator,
        callback=on_step,
    )

    def decode(piece: Tensor, picture: Tensor) -> Tensor:
        pixels = autoencoder.decode(piece.to(context), 2 * picture.to(context) - 1, fidelity)
        return ((pixels.float() + 1) / 2).cpu()

    restored = decode_tiled(decode, x / header.scale_factor, canvas.picture, factor)
    return canvas.finish(_checked(restored, "The decoded picture", context.dtype), color_fix)


def _checked(values: Tensor, what: str, dtype: torch.dtype) -> Tensor:
    if is_finite(values):
        return values
    raise ValueError(
        f"{what} holds NaN or infinity: the weights of the restorer or of an identity are damaged, or too "
        f"large for {str(dtype).removeprefix('torch.')}. Try fp32, without identities, or another file."
    )
