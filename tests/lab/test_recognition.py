"""Recognisers of elsewhere become files that can be loaded."""

import struct
import warnings
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.onnx import TrainingMode

from lab.recognition.convert import convert_recognizer
from lab.recognition.dlib_file import layer_names, read_dlib
from pfstorer_core import CheckpointError
from pfstorer_core.models.dlib_resnet import DlibResNet, DlibResNetConfig
from pfstorer_core.models.iresnet import IResNet, IResNetConfig
from pfstorer_core.recognition import load_recognizer

TINY = DlibResNetConfig(4, (4, 6), (1, 2), 5)


def packed(value: int) -> bytes:
    body = value.to_bytes((value.bit_length() + 7) // 8, "little")
    return bytes([len(body)]) + body


def named(name: str) -> bytes:
    return packed(len(name)) + name.encode()


def stored(values: Tensor) -> bytes:
    """As dlib's `serialize` writes a tensor."""
    sizes = b"".join(map(packed, (2, len(values), 1, 1, 1)))
    return sizes + struct.pack(f"<{len(values)}f", *values.tolist())


def test_dlib_s_file_is_read_and_its_affine_layers_are_multiplied_in(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = DlibResNet(TINY)
    data, expected = b"\x01\x02begin", {}
    for name in layer_names(TINY)[:-1]:
        kernel, bias = (network.state_dict()[f"{name}.{part}"] for part in ("weight", "bias"))
        factor, addend = torch.rand(2, len(kernel)) + 0.5
        data += named("con_4") + stored(torch.cat([kernel.flatten(), bias]))
        data += b"".join(map(packed, (len(kernel), *kernel.shape[2:]))) + b"\x01\x07"
        data += named("affine_") + stored(torch.cat([factor, addend])) + b"\x01\x03"
        picture = torch.rand(1, kernel.shape[1], 9, 9)
        plain = F.conv2d(picture, kernel, bias)
        expected[name] = picture, plain * factor[:, None, None] + addend[:, None, None]
    last = network.state_dict()["fc.weight"]
    data += named("fc_2") + packed(len(last)) + packed(last.shape[1]) + stored(last.T.flatten()) + b"\x01\x01"
    source = tmp_path / "network.dat"
    source.write_bytes(data)
    weights = read_dlib(source, TINY)
    assert weights.keys() == network.state_dict().keys()
    for name, (picture, result) in expected.items():
        torch.testing.assert_close(
            F.conv2d(picture, weights[f"{name}.weight"], weights[f"{name}.bias"]), result
        )
    assert torch.equal(weights["fc.weight"], last)
    source.write_bytes(data[:-40])
    with pytest.raises(CheckpointError, match="damaged"):
        read_dlib(source, TINY)
    with pytest.raises(CheckpointError, match=r"network\.dat holds 15 layers .* has 59"):
        convert_recognizer(source, tmp_path / "out.safetensors")


def exported(network: nn.Module, path: Path, folded: bool = True) -> None:
    """As PyTorch's exporter writes it for insightface; without a word of its own age."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network, (torch.randn(1, 3, 112, 112),), str(path), dynamo=False, do_constant_folding=folded,
            dynamic_axes={"input.1": {0: "None"}}, input_names=["input.1"],
            training=TrainingMode.EVAL if folded else TrainingMode.PRESERVE,
        )  # fmt: skip


@pytest.mark.parametrize("folded", [True, False])
def test_insightface_s_onnx_files_are_read(tmp_path: Path, folded: bool) -> None:
    torch.manual_seed(0)
    network = IResNet(IResNetConfig(4, (6, 6, 8, 12), (1, 2, 1, 2), 10)).eval().requires_grad_(False)
    for name, value in network.state_dict().items():
        if value.ndim < 2:
            value.copy_(torch.rand_like(value) * 0.3 + (not name.endswith(("bias", "mean"))))
    path = tmp_path / "w600k.onnx"
    exported(network, path, folded)
    assert any(node.op_type == "BatchNormalization" for node in onnx.load(str(path)).graph.node)
    convert_recognizer(path, tmp_path / "own.safetensors")
    recognizer = load_recognizer(tmp_path / "own.safetensors")
    pictures = torch.rand(3, 3, 112, 112) * 2 - 1
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"input.1": pictures.numpy()})
    assert network(pictures).std(dim=0).min() > 0.01
    torch.testing.assert_close(recognizer.network(pictures), torch.from_numpy(expected), rtol=0, atol=1e-4)
    torch.testing.assert_close(network(pictures), torch.from_numpy(expected), rtol=0, atol=1e-4)
    assert "non-commercial" in recognizer.license


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), "Relu where PRelu"),
        (nn.Sequential(nn.Flatten(), nn.Linear(3 * 112 * 112, 2)), "Gemm where Conv"),
    ],
)
def test_other_onnx_files_are_named(tmp_path: Path, network: nn.Module, words: str) -> None:
    path = tmp_path / "other.onnx"
    exported(network.eval(), path)
    with pytest.raises(CheckpointError, match=rf"^other\.onnx is no IResNet .*{words}"):
        convert_recognizer(path, tmp_path / "own.safetensors")
    path.write_bytes(b"\x08\x99nothing")
    with pytest.raises(CheckpointError, match=r"^other\.onnx cannot be read"):
        convert_recognizer(path, tmp_path / "own.safetensors")
