"""Recognisers of elsewhere become files that can be loaded."""

import struct
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lab.recognition.convert import convert_recognizer
from lab.recognition.dlib_file import layer_names, read_dlib
from pfstorer_core import CheckpointError
from pfstorer_core.models.dlib_resnet import DlibResNet, DlibResNetConfig

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
