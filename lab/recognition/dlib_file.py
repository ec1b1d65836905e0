"""dlib's own file of its face recogniser, dlib_face_recognition_resnet_model_v1.dat.

It is what dlib's `serialize` writes of the network: layer by layer from the picture to the descriptor, each
convolution and each fully connected layer by its name, its numbers, and then its parameters as they are.
Integers are packed: a byte that tells the sign and how many bytes follow.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pfstorer_core.checkpoints.errors import CheckpointError, StateDict
from pfstorer_core.models.dlib_resnet import DlibResNetConfig

NAMES = re.compile(rb"\x01\x05con_4|\x01\x07affine_|\x01\x04fc_2")
TENSOR_VERSION = 2
PUBLISHED = DlibResNetConfig()


@dataclass
class Reader:
    """What dlib's `serialize` wrote, from a place on."""

    data: bytes
    place: int

    def integer(self) -> int:
        head = self.data[self.place]
        end = self.place + 1 + (head & 0x0F)
        value = int.from_bytes(self.data[self.place + 1 : end], "little")
        self.place = end
        return -value if head & 0x80 else value

    def tensor(self) -> Tensor:
        """Its values in a row, fp32."""
        version = self.integer()
        samples, channels, rows, columns = (self.integer() for _ in range(4))
        end = self.place + 4 * samples * channels * rows * columns
        if version != TENSOR_VERSION or not self.place < end <= len(self.data):
            raise CheckpointError("The file is damaged, or of another version of dlib.")
        values = torch.frombuffer(bytearray(self.data[self.place : end]), dtype=torch.float32)
        self.place = end
        return values


def read_dlib(path: Path | str, config: DlibResNetConfig = PUBLISHED) -> StateDict:
    """The weights of a `DlibResNet`, fp32: each affine layer is multiplied into its convolution.

    Raises:
        FileNotFoundError: no such file.
        CheckpointError: it holds another network, or is damaged.
    """
    path, names = Path(path), layer_names(config)
    data = path.read_bytes()
    readers = [Reader(data, match.end()) for match in NAMES.finditer(data)]
    expected = 2 * len(names) - 1  # an affine layer behind each but the last
    if len(readers) != expected:
        raise CheckpointError(
            f"{path.name} holds {len(readers)} layers with weights, and dlib's face recogniser has "
            f"{expected}: take dlib_face_recognition_resnet_model_v1.dat."
        )
    weights, channels = StateDict(), 3
    for name, convolution, affine in zip(names, readers[::2], readers[1::2], strict=False):
        kernel, bias = _convolution(convolution, channels)
        factor, addend = affine.tensor().chunk(2)
        weights[f"{name}.weight"] = kernel * factor[:, None, None, None]
        weights[f"{name}.bias"] = bias * factor + addend
        channels = len(kernel)
    last = readers[-1]
    outputs, inputs = last.integer(), last.integer()
    weights[f"{names[-1]}.weight"] = last.tensor().reshape(inputs, outputs).T.contiguous()
    return weights


def layer_names(config: DlibResNetConfig) -> list[str]:
    """Of what has weights, from the picture to the descriptor."""
    return ["conv1"] + [
        f"layer{number}.{block}.conv{conv}"
        for number, depth in enumerate(config.depths, 1)
        for block in range(depth)
        for conv in (1, 2)
    ] + ["fc"]  # fmt: skip


def _convolution(reader: Reader, inputs: int) -> tuple[Tensor, Tensor]:
    """Its kernel [outputs, inputs, rows, columns] and bias [outputs]."""
    values = reader.tensor()
    outputs, rows, columns = (reader.integer() for _ in range(3))
    kernel, bias = values.split([outputs * inputs * rows * columns, outputs])
    return kernel.reshape(outputs, inputs, rows, columns), bias
