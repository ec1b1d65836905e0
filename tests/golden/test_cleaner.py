"""The cleaner at work in DiffBIR's pipeline, against the reference."""

from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor

from pfstorer_core.restorers.diffbir.cleaner import Cleaner, load_cleaner

from . import diffbir, golden

NAME = "diffbir_end_to_end"


def picture(key: str) -> Tensor:
    return rearrange(golden.tensors(NAME)[key], "h w c -> 1 c h w").float() / 255


def test_padding_comes_before_the_cleaner() -> None:
    """A picture is padded with black to multiples of 64 and cut off again; a padded one stays whole."""
    cleaner, expected = Cleaner.of(diffbir.swinir(NAME)), golden.tensors(NAME)["out.clean"]
    golden.assert_near(cleaner.clean(picture("out.padded")), expected, 1e-5)
    resized = picture("out.resized")
    height, width = resized.shape[-2:]
    golden.assert_near(cleaner.clean(resized), expected[..., :height, :width], 1e-5)


def test_a_cleaner_comes_from_its_file(tmp_path: Path) -> None:
    """With a framework's wrapper, or inside of a full checkpoint."""
    weights = diffbir.swinir(NAME).state_dict()
    torch.save(
        {"state_dict": {f"module.{key}": value for key, value in weights.items()}}, tmp_path / "a.ckpt"
    )
    inside = {f"preprocess_model.{key}": value for key, value in weights.items()}
    torch.save(inside | {"control_model.zero_convs.0.0.weight": torch.zeros(1)}, tmp_path / "b.ckpt")
    for name in ("a.ckpt", "b.ckpt"):
        cleaned = load_cleaner(tmp_path / name).clean(picture("out.padded"))
        golden.assert_near(cleaned, golden.tensors(NAME)["out.clean"], 1e-5)
