"""A network with YuNet's input and outputs, for OpenCV's own detector; it takes what is red for a face."""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

STRIDES = (8, 16, 32)
FACE = 32
"""Side of what it finds, in pixels: red cells of the coarsest stride."""
HEADS = {"cls": 1, "obj": 1, "bbox": 4, "kps": 10}
BIASES = {"cls": 0.0, "obj": 0.0, "bbox": [0.5, 0.5, math.log(FACE / 32), math.log(FACE / 32)], "kps": 0.0}


def write_yunet(path: Path, side: int | str = 640) -> None:
    """Write the ONNX file, with a fixed side as in the release of 2023, or a free one as in that of 2026."""
    constants: dict[str, np.ndarray] = {
        "redness": np.array([-1 / 510, -1 / 510, 1 / 255], np.float32).reshape(1, 3, 1, 1)  # blue first
    }
    nodes = [helper.make_node("Conv", ["input", "redness"], ["red"])]
    for stride in STRIDES:
        nodes += _heads(stride, constants)
    image = helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, side, side])
    answers = [
        helper.make_tensor_value_info(f"{head}_{stride}", TensorProto.FLOAT, [1, None, channels])
        for head, channels in HEADS.items()
        for stride in STRIDES
    ]
    weights = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "yunet", [image], answers, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, str(path))


def _heads(stride: int, constants: dict[str, np.ndarray]) -> Iterator[NodeProto]:
    cells = f"cells_{stride}"
    yield helper.make_node("AveragePool", ["red"], [cells], kernel_shape=2 * [stride], strides=2 * [stride])
    for head, channels in HEADS.items():
        answer = f"{head}_{stride}"
        sees = head in ("cls", "obj") and stride == FACE
        constants[f"{answer} w"] = np.full((channels, 1, 1, 1), float(sees), np.float32)
        constants[f"{answer} b"] = np.broadcast_to(np.float32(BIASES[head]), channels).copy()
        constants[f"{answer} shape"] = np.array([1, -1, channels])
        yield helper.make_node("Conv", [cells, f"{answer} w", f"{answer} b"], [f"{answer} map"])
        yield helper.make_node("Transpose", [f"{answer} map"], [f"{answer} rows"], perm=[0, 2, 3, 1])
        yield helper.make_node("Reshape", [f"{answer} rows", f"{answer} shape"], [answer])
