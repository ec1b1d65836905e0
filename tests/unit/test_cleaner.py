"""Cleaners at work: padding, tiles, sizes; and files that are none."""

import builtins
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pfstorer_core import CheckpointError
from pfstorer_core.imaging.tiling import TileGrid
from pfstorer_core.models import SwinIR, SwinIRConfig
from pfstorer_core.restorers.diffbir.cleaner import Cleaner, load_cleaner

from .small import write

SIZES = SwinIRConfig(12, (2, 1), (2, 3), 4, 2, 8)


CONTROL_KEYS = ("zero_convs.0.0.weight", "input_blocks.0.0.weight")


@pytest.fixture(scope="module")
def network() -> SwinIR:
    torch.manual_seed(0)
    return SwinIR(SIZES).eval().requires_grad_(False)


def counting(seen: list[Tensor], scale: int = 1) -> Cleaner:
    """Darkens, by different amounts from call to call."""

    def run(pictures: Tensor) -> Tensor:
        seen.append(pictures)
        return 0.5 * pictures.repeat_interleave(scale, -1).repeat_interleave(scale, -2) + len(seen) / 100

    return Cleaner(run, 64, torch.device("cpu"), torch.float32)


def test_pictures_are_padded_with_black_and_cut_off() -> None:
    seen: list[Tensor] = []
    pictures = torch.rand(2, 3, 70, 64)
    cleaned = counting(seen).clean(pictures)
    assert [tuple(each.shape) for each in seen] == [(1, 3, 128, 64)] * 2
    assert torch.equal(torch.cat(seen)[..., :70, :], pictures)
    assert not torch.cat(seen)[..., 70:, :].any()
    torch.testing.assert_close(cleaned, torch.cat([0.5 * pictures[:1] + 0.01, 0.5 * pictures[1:] + 0.02]))


def test_what_is_enlarged_comes_back_at_its_size() -> None:
    flat = torch.full((1, 3, 40, 50), 0.6)
    cleaned = counting([], scale=4).clean(flat)
    assert cleaned.shape == flat.shape
    torch.testing.assert_close(cleaned[..., :36, :46], torch.full((1, 3, 36, 46), 0.31))


@pytest.mark.parametrize(
    ("tile", "overlap", "sides"),
    [(128, 64, (128, 64)), (128, 20, (128, 20)), (250, -1, (192, 96)), (64, 0, (64, 0))],
)
def test_tiles_are_blended_with_gaussian_weights(tile: int, overlap: int, sides: tuple[int, int]) -> None:
    seen: list[Tensor] = []
    ticks: list[int] = []
    pictures = torch.rand(1, 3, 250, 320)
    cleaned = counting(seen).clean(pictures, tile, overlap, lambda: ticks.append(1))
    grid = TileGrid(256, 320, *sides)
    assert counting([]).grid(250, 320, tile, overlap) == grid
    assert len(seen) == len(ticks) == len(grid) > 1
    made = (0.5 * piece + (number + 1) / 100 for number, piece in enumerate(seen))
    torch.testing.assert_close(cleaned, grid.merge(made)[..., :250, :])


def test_what_is_no_larger_than_a_tile_is_not_cut_up() -> None:
    seen: list[Tensor] = []
    counting(seen).clean(torch.rand(1, 3, 70, 128), 128)
    assert [tuple(each.shape) for each in seen] == [(1, 3, 128, 128)]


def test_tiles_of_a_network_agree_far_from_the_seams(network: SwinIR) -> None:
    pictures = torch.nn.functional.interpolate(torch.rand(1, 3, 4, 8), (128, 256), mode="bicubic")
    whole, tiled = (Cleaner.of(network).clean(pictures, tile) for tile in (0, 128))
    assert not torch.equal(whole, tiled)
    assert (whole - tiled).abs().max() < 0.1 * whole.std()


def test_numbers_and_places_are_the_caller_s(network: SwinIR, tmp_path: Path) -> None:
    path = write(tmp_path / "swinir.safetensors", network.state_dict(), None)
    cleaner = load_cleaner(path, dtype=torch.bfloat16)
    pictures = torch.rand(1, 3, 64, 64)
    cleaned = cleaner.clean(pictures)
    assert cleaned.dtype is torch.float32
    torch.testing.assert_close(cleaned, network(pictures), rtol=0, atol=0.02)
    assert torch.equal(load_cleaner(path).clean(pictures), network(pictures))


@pytest.mark.parametrize(
    ("pictures", "tile", "words"),
    [
        (torch.rand(3, 8, 8), 0, "pictures"),
        (torch.rand(1, 1, 8, 8), 0, "pictures"),
        (torch.rand(0, 3, 8, 8), 0, "pictures"),
        (torch.rand(1, 3, 8, 8), 32, "64 pixels or more"),
    ],
)
def test_what_cannot_be_cleaned_is_refused(pictures: Tensor, tile: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        counting([]).clean(pictures, tile)


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        (dict.fromkeys(CONTROL_KEYS, torch.zeros(1)), "DiffBIR's control network alone, and no cleaner"),
        ({"lora_unet_mid.lora_up.weight": torch.zeros(1)}, "a LoRA, and no cleaner"),
        ({"encoder.conv_in.weight": torch.zeros(1)}, "a plain VAE, and no cleaner"),
    ],
)
def test_other_files_are_named(tmp_path: Path, tensors: dict[str, Tensor], words: str) -> None:
    torch.save(tensors, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=rf"^x\.pth is .*{words}"):
        load_cleaner(tmp_path / "x.pth")


def test_a_damaged_swinir_is_named(network: SwinIR, tmp_path: Path) -> None:
    weights = network.state_dict()
    path = tmp_path / "swinir.safetensors"
    for changed, words in (
        ({"conv_hr.bias": torch.full((64,), torch.nan)}, "conv_hr.bias of the SwinIR cleaner holds NaN"),
        ({"conv_hr.bias": torch.zeros(3)}, r"conv_hr.bias \[3\] instead of \[64\]"),
        ({"more": torch.zeros(3)}, "1 unexpected: more"),
    ):
        with pytest.raises(CheckpointError, match=words):
            load_cleaner(write(path, weights | changed, None))


def test_buffers_of_a_file_change_nothing(network: SwinIR, tmp_path: Path) -> None:
    """An index out of range would crash a GPU's whole process."""
    weights = network.state_dict()
    wild = {key: torch.full_like(weights[key], 10**6) for key in weights if key.endswith(("index", "mask"))}
    assert len(wild) == 4
    picture = torch.rand(1, 3, 64, 64)
    cleaned = load_cleaner(write(tmp_path / "a.safetensors", weights | wild, None)).clean(picture)
    assert torch.equal(cleaned, network(picture))


@pytest.mark.parametrize("error", [ImportError("gone"), RuntimeError("torchvision::nms does not exist")])
def test_other_cleaners_need_spandrel(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save({"m_head.0.weight": torch.zeros(1)}, tmp_path / "scunet.pth")
    real = builtins.__import__

    def without(name: str, *arguments: Any, **options: Any) -> Any:
        if name == "spandrel":
            raise error
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"scunet\.pth .*spandrel.*pip install spandrel"):
        load_cleaner(tmp_path / "scunet.pth")


@pytest.mark.parametrize("size", [(1, 1), (20, 70), (65, 33)])
def test_the_network_itself_takes_any_size(network: SwinIR, size: tuple[int, int]) -> None:
    """Mirroring what is missing, and repeating what there is not enough of to mirror."""
    picture = torch.rand(1, 3, *size)
    height, width = (-(-side // SIZES.multiple) * SIZES.multiple for side in size)
    rows, columns = (
        torch.tensor(
            [n if n < side else max(0, 2 * side - 2 - n) if n < 2 * side - 1 else 0 for n in range(long)]
        )
        for side, long in zip(size, (height, width), strict=True)
    )
    whole = picture[..., rows[:, None], columns]
    expected = network(whole)[..., : size[0], : size[1]]
    torch.testing.assert_close(network(picture), expected)


def test_windows_of_a_network_that_was_made_for_one_are_never_shifted() -> None:
    """What is in one reaches the others by the convolutions alone, which see one token further each: the
    first into the next window, all of which sees it then, and the last two out of that."""
    network = SwinIR(SwinIRConfig(12, (2,), (2,), 8, 2, 8)).eval().requires_grad_(False)
    assert not any(key.endswith("attn_mask") for key in network.state_dict())
    picture = torch.rand(1, 3, 64, 192)
    other = picture.clone()
    other[..., :64] = 0
    differs = (network.features(picture) != network.features(other)).any(1)[0].any(0)
    assert differs[:18].all()
    assert not differs[18:].any()
