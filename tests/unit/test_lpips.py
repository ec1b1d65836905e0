"""LPIPS with drawn weights, against the formula of its paper (arXiv:1801.03924, equation 1)."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pfstorer_core.checkpoints.errors import CheckpointError
from pfstorer_core.checkpoints.tensors import write_safetensors
from pfstorer_core.models.lpips import LPIPS
from pfstorer_core.restorers.first_stage.perceptual import BESIDE, load_lpips

LEVELS = {1: (0, 2), 2: (5, 7), 3: (10, 12, 14), 4: (17, 19, 21), 5: (24, 26, 28)}
"""Convolutions of torchvision's `vgg16().features` up to relu5_3, which the library lpips names them by."""


def expected(weights: dict[str, Tensor], a: Tensor, b: Tensor) -> Tensor:
    total = torch.zeros(len(a))
    shift, scale = (weights[f"scaling_layer.{name}"] for name in ("shift", "scale"))
    features = torch.cat([(a - shift) / scale, (b - shift) / scale])
    for level, numbers in LEVELS.items():
        features = F.max_pool2d(features, 2) if level > 1 else features
        for number in numbers:
            name = f"net.slice{level}.{number}"
            features = F.conv2d(
                features, weights[f"{name}.weight"], weights[f"{name}.bias"], padding=1
            ).relu()
        units = features / features.square().sum(1, keepdim=True).sqrt()
        of_a, of_b = units.nan_to_num().chunk(2)
        each = (of_a - of_b).square() * weights[f"lin{level - 1}.model.1.weight"]
        total += each.sum(1).mean((1, 2))
    return total[:, None, None, None]


@pytest.mark.parametrize("prefix", ["", BESIDE])
def test_it_is_lpips(tmp_path: Path, prefix: str) -> None:
    torch.manual_seed(0)
    weights = {key: value.abs() if "lin" in key else value for key, value in LPIPS().state_dict().items()}
    weights["scaling_layer.shift"] += 0.1  # read, not known
    more = {"encoder.conv_in.weight": torch.zeros(2)} if prefix else {"lins.0.model.1.weight": torch.zeros(1)}
    write_safetensors(tmp_path / "lpips.safetensors", more | {prefix + k: v for k, v in weights.items()}, {})
    ours, (a, b) = load_lpips(tmp_path / "lpips.safetensors"), torch.rand(2, 3, 3, 40, 32) * 2 - 1
    ours.train()
    with torch.no_grad():
        torch.testing.assert_close(ours(a, b), expected(weights, a, b), rtol=1e-4, atol=1e-7)
    assert not any(p.requires_grad for p in ours.parameters())


def test_another_file_is_refused(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "other.safetensors", {"x": torch.zeros(2)}, {})
    with pytest.raises(CheckpointError, match="LPIPS network"):
        load_lpips(tmp_path / "other.safetensors")
