"""The metrics of pictures, by well-kept libraries."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import kornia.metrics
import torch
from einops import reduce
from torch import Tensor

Metric = Callable[[Tensor, Tensor], Tensor]
"""Pictures and their true ones, [B, 3, H, W] in [0, 1] -> [B]."""

IDENTICAL = 100.0
"""PSNR of identical pictures in dB, where infinity would leave no mean."""

WINDOW = 11
"""Side of SSIM's window in pixels."""

HIGHER_IS_BETTER: Mapping[str, bool] = {
    "psnr": True, "ssim": True, "lpips": False, "musiq": True, "lmse": False, "id": True, "id_gray": True,
    "colour": True, "geometry": True, "marks": True, "spots": True,
}  # fmt: skip
"""All metrics of a scoreboard, in the order of their columns."""


class NotAvailable(Exception):
    """A metric lacks its library or its weights; the message says what to put where."""

    __module__ = "builtins"  # see layouts.CheckpointError


def psnr(images: Tensor, target: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB, at most `IDENTICAL`."""
    pairs = zip(images.double(), target.double(), strict=True)
    return torch.stack([kornia.metrics.psnr(image, true, 1.0) for image, true in pairs]).clamp(max=IDENTICAL)


def ssim(images: Tensor, target: Tensor) -> Tensor:
    """Structural similarity as in Wang et al. 2004: Gaussian window of 1.5 pixels, mean of the channels."""
    # In float64: where pictures are flat, float32 is off by up to 6e-5.
    similar = kornia.metrics.ssim(images.double(), target.double(), WINDOW, padding="valid")
    return reduce(similar, "b c h w -> b", "mean")


def load_lpips() -> Metric:
    """LPIPS on AlexNet (Zhang et al. 2018).

    Raises:
        NotAvailable: no torchmetrics or torchvision, or AlexNet's weights are not there. Nothing is
            downloaded.
    """
    try:
        import torchvision  # noqa: F401
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity
    except (
        ImportError,
        OSError,
        RuntimeError,
    ) as error:  # compiled for another torch, it raises any of these
        raise NotAvailable(f"needs torchmetrics and a torchvision that fits torch ({error})") from error
    file = "alexnet-owt-7be5be79.pth"
    _require(Path(torch.hub.get_dir(), "checkpoints", file), f"https://download.pytorch.org/models/{file}")
    network = LearnedPerceptualImagePatchSimilarity("alex", reduction="none", normalize=True)

    def lpips(images: Tensor, target: Tensor) -> Tensor:
        # One at a time: the metric's own state is a running one.
        return torch.stack(
            [network(a[None], b[None]).reshape(()) for a, b in zip(images, target, strict=True)]
        )

    return lpips


def load_musiq() -> Metric:
    """MUSIQ trained on KonIQ-10k (Ke et al. 2021): the quality of a picture, without a true one.

    Raises:
        NotAvailable: no pyiqa, or its weights are not there. Nothing is downloaded.
    """
    if find_spec("pyiqa") is None:
        raise NotAvailable("needs pyiqa: pip install pyiqa")
    file = "musiq_koniq_ckpt-e95806b9.pth"
    address = f"https://huggingface.co/chaofengc/IQA-PyTorch-Weights/resolve/main/{file}"
    path = Path(torch.hub.get_dir(), "pyiqa", file)
    _require(path, address)
    torch.load(path, map_location="cpu", weights_only=True)  # pyiqa itself would execute code in the file
    try:
        network = import_module("pyiqa").create_metric("musiq", device="cpu")
    except (ImportError, OSError, RuntimeError) as error:
        raise NotAvailable(f"needs a pyiqa that can be imported ({error})") from error
    return lambda images, target: network(images).reshape(len(images))


def picture_metrics() -> tuple[dict[str, Metric], dict[str, str]]:
    """The metrics that can be had here, and for each of the others what it needs."""
    metrics: dict[str, Metric] = {"psnr": psnr, "ssim": ssim}
    needs: dict[str, str] = {}
    for name, load in {"lpips": load_lpips, "musiq": load_musiq}.items():
        try:
            metrics[name] = load()
        except NotAvailable as error:
            needs[name] = str(error)
    return metrics, needs


def _require(path: Path, address: str) -> None:
    if not path.is_file():
        raise NotAvailable(f"needs weights: put {path.name} ({address}) into {path.parent}")
