"""`python -m harness.convert_blazeface FILE.tflite`: the built-in face detector's weights.

MediaPipe's short-range BlazeFace (Apache 2.0): face_detection_short_range.tflite, which the PyPI package
`mediapipe` 0.10.14 carries in mediapipe/modules/face_detection. It is a flatbuffer (schema.fbs of TFLite);
only what it holds is read: weights in fp16, named by their layers. They stay fp16: nothing is lost.
"""

from __future__ import annotations

import struct
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from pfstorer_core.imaging.faces.blazeface import WEIGHTS
from pfstorer_core.models.blazeface import BlazeFace

from .console import run_main, say

FLOAT16 = 1
"""TFLite's TensorType."""
SUBGRAPHS, BUFFERS = 2, 4
TENSORS = 0
SHAPE, TYPE, BUFFER, NAME = 0, 1, 2, 3
DATA = 0
"""Fields of the schema's tables, by number."""


METADATA = {
    "format": "pfstorer.face_detector",
    "source": "MediaPipe 0.10.14, face_detection_short_range.tflite",
    "license": "Apache-2.0",
}


@dataclass(frozen=True)
class Table:
    """A flatbuffer's table: fields by number, each at an offset that its vtable tells."""

    data: bytes
    place: int

    def field(self, number: int) -> int:
        """Where a field is; 0 where it has its default."""
        vtable = self.place - _number(self.data, self.place, "i")
        if 4 + 2 * number >= _number(self.data, vtable, "H"):
            return 0
        offset = _number(self.data, vtable + 4 + 2 * number, "H")
        return self.place + offset if offset else 0

    def value(self, number: int, kind: str) -> int:
        return _number(self.data, place, kind) if (place := self.field(number)) else 0

    def array(self, number: int, kind: str) -> np.ndarray:
        length, start = self._vector(number)
        return np.frombuffer(self.data, kind, length, start)

    def tables(self, number: int) -> list[Table]:
        length, start = self._vector(number)
        return [Table(self.data, _follow(self.data, start + 4 * n)) for n in range(length)]

    def _vector(self, number: int) -> tuple[int, int]:
        place = self.field(number)
        if not place:
            return 0, 0
        start = _follow(self.data, place)
        return _number(self.data, start, "I"), start + 4


def _number(data: bytes, place: int, kind: str) -> int:
    return struct.unpack_from("<" + kind, data, place)[0]


def _follow(data: bytes, place: int) -> int:
    return place + _number(data, place, "I")


def read_weights(data: bytes) -> dict[str, np.ndarray]:
    """Every fp16 tensor of a .tflite by its name."""
    model = Table(data, _follow(data, 0))
    buffers = model.tables(BUFFERS)
    weights = {}
    for tensor in model.tables(SUBGRAPHS)[0].tables(TENSORS):
        if tensor.value(TYPE, "b") == FLOAT16:
            name = tensor.array(NAME, "u1").tobytes().decode()
            values = buffers[tensor.value(BUFFER, "I")].array(DATA, "u1").view("<f2")
            weights[name] = values.reshape(tensor.array(SHAPE, "<i4"))
    return weights


def layer(weights: dict[str, np.ndarray], source: str, target: str) -> dict[str, torch.Tensor]:
    """A convolution's weight and bias by our names. TFLite has [out, h, w, in], or [1, h, w, out]."""
    kernel = weights[f"{source}/Kernel"]
    order = (3, 0, 1, 2) if source.startswith("depthwise") else (0, 3, 1, 2)
    return {
        f"{target}.weight": torch.from_numpy(kernel.transpose(order).copy()),
        f"{target}.bias": torch.from_numpy(weights[f"{source}/Bias"].copy()),
    }


def convert(data: bytes) -> dict[str, torch.Tensor]:
    """The state dict of `BlazeFace`, in fp16."""
    weights = read_weights(data)
    state = layer(weights, "conv2d", "stem")
    for n in range(16):
        state |= layer(weights, "depthwise_conv2d" + (f"_{n}" if n else ""), f"blocks.{n}.depthwise")
        state |= layer(weights, f"conv2d_{n + 1}", f"blocks.{n}.pointwise")
    for scale, stride in (("fine", 8), ("coarse", 16)):
        state |= layer(weights, f"classificator_{stride}", f"scores_{scale}")
        state |= layer(weights, f"regressor_{stride}", f"places_{scale}")
    return state


def main() -> None:
    state = convert(Path(sys.argv[1]).read_bytes())
    BlazeFace().load_state_dict(state)
    save_file(state, WEIGHTS, METADATA)
    say(f"{WEIGHTS}: {WEIGHTS.stat().st_size} bytes")


if __name__ == "__main__":
    run_main(main)
