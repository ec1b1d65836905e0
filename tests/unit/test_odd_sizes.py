"""Pictures, scales and tiles of any size, through all that lies about the networks."""

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from pfstorer_core.imaging.canvas import prepare_canvas
from pfstorer_core.imaging.tiled_autoencoder import decode_tiled, encode_tiled
from pfstorer_core.imaging.tiling import TileGrid, tile_cells


@settings(max_examples=40, deadline=None)
@given(
    width=st.integers(1, 700),
    height=st.integers(1, 700),
    upscale=st.floats(1, 4),
    tile=st.integers(64, 600),
    overlap=st.floats(0, 0.9),
    factor=st.sampled_from([4, 8]),
    pixel_tile=st.sampled_from([64, 256, 1024]),
)
def test_any_size_comes_out_right(
    width: int, height: int, upscale: float, tile: int, overlap: float, factor: int, pixel_tile: int
) -> None:
    """With an autoencoder of averages and a model that changes nothing, the picture comes back."""
    picture = torch.rand(1, 3, -(-height // 16), -(-width // 16), generator=torch.Generator().manual_seed(0))
    picture = F.interpolate(picture, (height, width), mode="bilinear")
    cells = tile_cells(tile, min(round(overlap * tile), tile - factor), 128, factor)
    canvas = prepare_canvas(picture, upscale, 128, factor)
    latent = encode_tiled(lambda piece: F.avg_pool2d(piece, factor), canvas.picture, factor, tile=pixel_tile)
    sampled = TileGrid.of(latent, *cells).map(lambda x: x, latent, tile_batch=3)
    decoded = decode_tiled(
        lambda piece, _: piece.repeat_interleave(factor, -1).repeat_interleave(factor, -2),
        sampled, canvas.picture, factor, tile=pixel_tile,
    )  # fmt: skip
    restored = canvas.finish(decoded, "wavelet")
    assert restored.shape == (1, 3, max(1, round(height * upscale)), max(1, round(width * upscale)))
    assert torch.isfinite(restored).all()
    assert (restored - canvas.enlarged()).abs().mean() < 0.1
