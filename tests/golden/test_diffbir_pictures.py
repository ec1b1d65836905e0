"""DiffBIR's pictures before the sampling: sizes, latents and starts, against the reference."""

import torch
from einops import rearrange

from pfstorer_core.diffusion.sampling import start_latent
from pfstorer_core.diffusion.schedule import Schedule
from pfstorer_core.imaging.color import wavelet_split
from pfstorer_core.imaging.resizing import resize_short_side

from . import diffbir, golden

MISC, WHOLE = "diffbir_misc", "diffbir_end_to_end"


def test_a_picture_resized_to_a_short_side() -> None:
    stored = golden.tensors(MISC)
    expected = stored["resize.short_edge"]
    resized = resize_short_side(stored["color.content"], min(expected.shape[-2:]))
    golden.assert_near(resized, expected, 1e-6)


def test_a_small_picture_is_enlarged() -> None:
    """As Pillow does it, which rounds to 8 bits after each of the two axes."""
    picture = rearrange(golden.tensors(WHOLE)["in.lq"], "h w c -> 1 c h w") / 255
    expected = rearrange(golden.tensors(WHOLE)["out.resized"], "h w c -> 1 c h w")
    resized = resize_short_side(picture, golden.metadata(WHOLE)["pipeline"]["image_size"])
    off = 255 * resized.clamp(0, 1) - expected
    assert off.abs().max() < 1.5
    assert off.square().mean().sqrt() < 0.5
    assert off.mean().abs() < 0.02


@torch.no_grad()
def test_the_condition_is_the_mode_of_the_latent() -> None:
    given, out = golden.group(MISC, "vae_in"), golden.group(MISC, "vae_out")
    mean, logvar = diffbir.autoencoder(MISC).moments(given["x"])
    golden.assert_near(mean, out["mean"])
    golden.assert_near(logvar, out["logvar"])
    golden.assert_near(diffbir.encode(MISC, (given["x"] + 1) / 2), out["condition_latent"])
    golden.assert_near(diffbir.decode(MISC, given["z"]), out["decode_scaled"])


@torch.no_grad()
def test_a_start_from_the_condition_s_low_frequencies() -> None:
    """v2's better start: a draw from their latent, noised to the end. The release hands the autoencoder the
    picture in [0, 1]; the right range is [-1, 1], and both are given."""
    given, clean = golden.group(WHOLE, "in"), golden.tensors(WHOLE)["out.clean"]
    _, low = wavelet_split(clean)
    for case, picture in (("range_corrected", 2 * low - 1), ("as_published", low)):
        mean, logvar = diffbir.autoencoder(WHOLE).moments(picture)
        draw = mean + (0.5 * logvar).exp() * given["gt_posterior_noise"]
        latent = diffbir.scale_factor(WHOLE) * draw
        golden.assert_near(latent, golden.tensors(WHOLE)[f"start_v2.z0_{case}"])
        start = start_latent(Schedule.scaled_linear(), latent, given["x_T"])
        golden.assert_near(start, golden.tensors(WHOLE)[f"start_v2.x_T_{case}"])
