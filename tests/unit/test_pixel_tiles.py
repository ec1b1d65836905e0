"""The autoencoder in tiles: nothing but the size of its pieces differs from the whole."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pfstorer_core.imaging.tiled_autoencoder import decode_tiled, encode_tiled

FACTOR, TILE = 4, 8


class Shapes:
    """An autoencoder whose tiles are exactly the whole's: averages one way, repeats the other."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, ...]] = []

    def encode(self, picture: Tensor) -> Tensor:
        self.seen.append(tuple(picture.shape))
        return F.avg_pool2d(picture, FACTOR)

    def decode(self, latent: Tensor, picture: Tensor) -> Tensor:
        self.seen.append(tuple(picture.shape))
        return latent.repeat_interleave(FACTOR, -1).repeat_interleave(FACTOR, -2) + 0.5 * picture


@pytest.mark.parametrize(
    ("size", "tiles"), [((32, 32), 1), ((32, 36), 2), ((76, 60), 9), ((8, 132), 6), ((4, 4), 1)]
)
def test_tiles_are_the_whole(size: tuple[int, int], tiles: int) -> None:
    pictures = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    plain, tiled, told = Shapes(), Shapes(), []
    latents = encode_tiled(
        tiled.encode, pictures, FACTOR, tile=TILE, on_tile=lambda: told.append(len(tiled.seen))
    )
    torch.testing.assert_close(latents, plain.encode(pictures))
    assert told == list(range(1, tiles + 1)), "each tile is told when it is done"
    decoded = decode_tiled(
        tiled.decode, latents, pictures, FACTOR, tile=TILE, on_tile=lambda: told.append(len(tiled.seen))
    )
    torch.testing.assert_close(decoded, plain.decode(latents, pictures))
    assert told == list(range(1, 3 * tiles + 1)), "pictures are decoded one by one"
    assert all(max(shape[-2:]) <= FACTOR * TILE for shape in tiled.seen)
