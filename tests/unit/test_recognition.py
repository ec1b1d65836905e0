"""Recognisers: what they see of a picture, and the files that they come from."""

import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from pfstorer_core import CheckpointError
from pfstorer_core.checkpoints.parts.iresnet import IRESNET
from pfstorer_core.models.iresnet import IRESNET18, IRESNET50, IRESNET100, IResNet, IResNetConfig
from pfstorer_core.recognition import ARCFACE, Recognizer, cosines, load_recognizer, mean_of_units

SMALL = IResNetConfig(4, (6, 6, 8, 12), (1, 2, 1, 1), 10, 112)
FIVE = torch.tensor(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
"""insightface's points in a crop of 112 pixels, as OpenCV counts them."""


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def trained(config: IResNetConfig = SMALL) -> IResNet:
    """A network whose normalizations have seen something."""
    torch.manual_seed(0)
    network = IResNet(config)
    for number, (name, value) in enumerate(network.state_dict().items()):
        if value.ndim < 2:
            value.copy_(random(*value.shape, seed=number) * 0.3 + (not name.endswith(("bias", "mean"))))
    return network.eval().requires_grad_(False)


def landmarks(scale: float, x: float, y: float) -> Tensor:
    """Of a face as in the template, so much larger, whose crop begins at (x, y); ears are unknown."""
    mouth = FIVE[3:].mean(0, keepdim=True)
    four = (torch.cat([FIVE[:3], mouth]) + 0.5) * scale + torch.tensor([x, y])
    return torch.cat([four, torch.full((2, 2), torch.nan)])[None]


def embedded(weights: Mapping[str, Tensor], x: Tensor, depths: tuple[int, ...]) -> Tensor:
    """An IResNet as Duta et al. and insightface's layout say it, by its keys alone."""

    def norm(h: Tensor, name: str) -> Tensor:
        mean, var, weight, bias = (
            weights[f"{name}.{key}"] for key in ("running_mean", "running_var", "weight", "bias")
        )
        return F.batch_norm(h, mean, var, weight, bias, eps=1e-5)

    h = F.prelu(norm(F.conv2d(x, weights["conv1.weight"], padding=1), "bn1"), weights["prelu.weight"])
    for layer, depth in enumerate(depths, 1):
        for block in range(depth):
            at, stride = f"layer{layer}.{block}", 1 if block else 2
            inner = F.conv2d(norm(h, f"{at}.bn1"), weights[f"{at}.conv1.weight"], padding=1)
            inner = F.prelu(norm(inner, f"{at}.bn2"), weights[f"{at}.prelu.weight"])
            inner = F.conv2d(inner, weights[f"{at}.conv2.weight"], stride=stride, padding=1)
            if not block:
                beside = F.conv2d(h, weights[f"{at}.downsample.0.weight"], stride=2)
                h = norm(beside, f"{at}.downsample.1")
            h = norm(inner, f"{at}.bn3") + h
    flat = norm(h, "bn2").flatten(1)
    return norm(F.linear(flat, weights["fc.weight"], weights["fc.bias"]), "features")


def test_iresnet() -> None:
    network, pictures = trained(), random(2, 3, 112, 112)
    expected = embedded(network.state_dict(), pictures, SMALL.depths)
    assert expected.std(dim=0).mean() > 1e-2
    torch.testing.assert_close(network(pictures), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("config", "megabytes"), [(IRESNET18, 96.1), (IRESNET50, 174.4), (IRESNET100, 260.7)]
)
def test_published_sizes(config: IResNetConfig, megabytes: float) -> None:
    """Those of insightface's files."""
    weights = IRESNET.expected(config)
    assert sum(value.numel() for value in weights.values()) * 4 / 1e6 == pytest.approx(megabytes, rel=1e-2)


@pytest.mark.parametrize("wrapper", ["", "state_dict", "module"])
def test_files_of_any_format_calculate_in_fp32(tmp_path: Path, wrapper: str) -> None:
    network = trained()
    weights = {**network.half().state_dict(), "bn1.num_batches_tracked": torch.tensor(7)}
    path = tmp_path / "backbone.pth"
    if wrapper == "state_dict":
        torch.save({wrapper: weights}, path)
    elif wrapper == "module":
        torch.save({f"module.{key}": value for key, value in weights.items()}, path)
    else:
        save_file(weights, path)
    recognizer = load_recognizer(path)
    pictures = random(2, 3, 40, 56)
    found = recognizer.embed(pictures)
    assert recognizer.name == "backbone"
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, network.float()(ARCFACE.of(pictures)))


def test_an_aligned_face_lies_on_the_template_and_fine_pixels_are_their_mean() -> None:
    scale, x, y = 3.0, 21.0, 40.0
    picture = torch.zeros(1, 3, 400, 420)
    for column, row in (FIVE[:3] + 0.5) * scale + torch.tensor([x, y]):
        picture[..., int(row) - 1 : int(row) + 2, int(column) - 1 : int(column) + 2] = 1.0
    view = ARCFACE.of(picture, landmarks(scale, x, y))[0, 0]
    for column, row in FIVE[:3]:
        near = view[int(row) - 2 : int(row) + 4, int(column) - 2 : int(column) + 4]
        assert near.sum() == pytest.approx(1.0, abs=0.1), "a dot of 9 pixels is one of the view"
    checkers = (torch.arange(400)[:, None] + torch.arange(420)) % 2 * 2.0 - 1
    inside = ARCFACE.of(checkers.expand(1, 3, -1, -1), landmarks(scale, x, y))
    assert inside.abs().max() < 0.2


def test_beyond_a_picture_is_black_and_the_batch_changes_nothing() -> None:
    pictures = random(2, 3, 60, 60)
    places = torch.cat([landmarks(1, -50, 0), landmarks(0.4, 5, 5)])
    both = ARCFACE.of(pictures, places)
    assert (both[0, :, :, :40] == -1).all()
    torch.testing.assert_close(both[1:], ARCFACE.of(pictures[1:], places[1:]))


@pytest.mark.parametrize("placed", [True, False])
def test_gradients_reach_every_pixel_of_the_view(placed: bool) -> None:
    pictures = random(1, 3, 300, 300).requires_grad_()
    recognizer = Recognizer(trained())
    places = landmarks(2.4, 10, 10) if placed else None
    person = mean_of_units(recognizer.embed(random(3, 3, 112, 112, seed=5)))
    (gradient,) = torch.autograd.grad(cosines(recognizer.embed(pictures, places), person).sum(), pictures)
    assert (gradient[..., 40:260, 40:260] != 0).double().mean() > 0.99
    assert (gradient[..., :5, :] == 0).all()


@pytest.mark.parametrize(
    ("pictures", "places", "words"),
    [
        (torch.zeros(3, 8, 8), None, "pictures"),
        (torch.zeros(1, 3, 1, 8), None, "1 pixels is too small"),
        (torch.zeros(1, 3, 8, 8), torch.zeros(2, 6, 2), "landmarks"),
        (torch.zeros(1, 3, 8, 8), torch.zeros(1, 6, 2), "Eyes and mouth"),
    ],
)
def test_what_cannot_be_recognised_is_refused(pictures: Tensor, places: Tensor | None, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Recognizer(nn.Flatten()).embed(pictures, places)


def test_programs_are_refused_with_the_converter_s_name(tmp_path: Path) -> None:
    (tmp_path / "w600k_r50.onnx").write_bytes(b"\x08\x07")
    with zipfile.ZipFile(tmp_path / "jit.pt", "w") as archive:
        archive.writestr("jit/constants.pkl", b"")
        archive.writestr("jit/data.pkl", b"")
    for name, what in (("w600k_r50.onnx", "an ONNX file"), ("jit.pt", "a TorchScript file")):
        with pytest.raises(CheckpointError, match=rf"^{name} is {what}, a program, .*convert-recognizer"):
            load_recognizer(tmp_path / name)


def test_other_and_damaged_files_are_named(tmp_path: Path) -> None:
    weights = trained().state_dict()
    for changed, words in (
        ({"lora_unet_mid.lora_up.weight": torch.zeros(1)}, "x.safetensors is a LoRA, and no face recogniser"),
        ({"head.weight": torch.zeros(1)}, r"of a kind that is not known here \(head.weight\)"),
        (weights | {"more": torch.zeros(1)}, "1 unexpected: more"),
        (weights | {"fc.bias": torch.full((10,), torch.nan)}, "fc.bias of the face recogniser holds NaN"),
        (weights | {"fc.weight": torch.zeros(10, 12 * 48)}, "its last layer sees 576 values, expected a squ"),
        ({**weights, "layer1.7.bn1.weight": torch.ones(6)}, "not numbered without a gap"),
    ):
        save_file(changed, tmp_path / "x.safetensors")
        with pytest.raises(CheckpointError, match=words):
            load_recognizer(tmp_path / "x.safetensors")
