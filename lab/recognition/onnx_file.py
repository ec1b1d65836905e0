"""insightface's recognisers in ONNX files, as PyTorch exports an IResNet.

Names are numbers there, and the exporter multiplies normalizations behind convolutions into these: the graph
is walked in the order in which it calculates. In place of such a normalization comes one that adds the bias
alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pfstorer_core.checkpoints.errors import CheckpointError, StateDict
from pfstorer_core.checkpoints.parts.iresnet import IRESNET
from pfstorer_core.models.iresnet import EPS

SILENT = frozenset({"Identity", "Constant", "Dropout", "Flatten", "Reshape", "Shape", "Gather", "Unsqueeze",
                    "Concat", "Slice"})  # fmt: skip
"""Layers without weights, which only say what is put where."""
BATCH_NORM = "BatchNormalization"


@dataclass(frozen=True)
class Graph:
    """A network as a graph.

    Attributes:
        nodes: its layers with weights and its sums, in the order in which they calculate.
        constants: weights by name.
        consumers: the nodes that take each value.
    """

    nodes: list[Any]
    constants: Mapping[str, np.ndarray]
    consumers: Mapping[str, list[Any]]

    def weight(self, node: Any, number: int) -> Tensor:
        return torch.from_numpy(self.constants[node.input[number]].astype(np.float32))

    def norm_behind(self, node: Any) -> Any | None:
        """The normalization that alone takes what a node gives."""
        following = self.consumers.get(node.output[0], [])
        return following[0] if [one.op_type for one in following] == [BATCH_NORM] else None


def read_onnx(path: Path | str) -> StateDict:
    """The weights of an IResNet, fp32, in arcface_torch's layout.

    Raises:
        ImportError: the package onnx is missing.
        CheckpointError: it is another network, or no ONNX file.
    """
    path = Path(path)
    graph = _graph(path)
    weights = StateDict()
    try:
        for name, value in _weights(graph):
            weights[name] = value
        IRESNET.check_fit(weights, IRESNET.config_from(weights))
    except (_AnotherError, KeyError, IndexError, CheckpointError) as error:
        raise CheckpointError(
            f"{path.name} is no IResNet as arcface_torch exports it ({error}): take insightface's "
            "w600k_r50.onnx or glintr100.onnx."
        ) from error
    return weights


class _AnotherError(Exception):
    """The graph is not that of an IResNet."""


def _weights(graph: Graph) -> Iterator[tuple[str, Tensor]]:
    nodes = iter(graph.nodes)
    yield from _convolution(graph, _next(nodes), nodes, "conv1", "bn1")
    yield "prelu.weight", _slope(graph, _next(nodes))
    layer, block, node = 0, 0, _next(nodes)
    while node.op_type == BATCH_NORM and graph.consumers[node.output[0]][0].op_type == "Conv":
        inner = [node, *_until_sum(nodes)]
        stride = max(_attribute(one, "strides", [1])[0] for one in inner if one.op_type == "Conv")
        layer, block = (layer + 1, 0) if stride > 1 else (layer, block + 1)
        yield from _block(graph, inner, f"layer{layer}.{block}")
        node = _next(nodes)
    yield from _norm(graph, node, "bn2")
    last = _expect(_next(nodes), "Gemm")
    matrix, bias = graph.weight(last, 1), graph.weight(last, 2)
    yield "fc.weight", (matrix if _attribute(last, "transB", 0) else matrix.T).contiguous()
    yield "fc.bias", bias
    for behind in nodes:
        yield from _norm(graph, behind, "features")
        return
    yield from _plain_norm("features", torch.zeros_like(bias))  # multiplied into the matrix


def _block(graph: Graph, inner: list[Any], name: str) -> Iterator[tuple[str, Tensor]]:
    """A block from its first normalization to its sum."""
    nodes = iter(inner)
    yield from _norm(graph, _next(nodes), f"{name}.bn1")
    convolutions = 0
    for node in nodes:
        if node.op_type == "PRelu":
            yield f"{name}.prelu.weight", _slope(graph, node)
        elif graph.weight(_expect(node, "Conv"), 1).shape[-1] == 1:
            yield from _convolution(graph, node, nodes, f"{name}.downsample.0", f"{name}.downsample.1")
        else:
            convolutions += 1
            own = f"{name}.conv{convolutions}", f"{name}.bn{convolutions + 1}"
            yield from _convolution(graph, node, nodes, *own)


def _convolution(
    graph: Graph, node: Any, nodes: Iterator[Any], name: str, norm: str
) -> Iterator[tuple[str, Tensor]]:
    """A convolution and its normalization, which is its bias, or the node behind it."""
    kernel = graph.weight(_expect(node, "Conv"), 1)
    yield f"{name}.weight", kernel
    if (behind := graph.norm_behind(node)) is None:
        bias = graph.weight(node, 2) if len(node.input) > 2 else torch.zeros(len(kernel))
        yield from _plain_norm(norm, bias)
    else:
        if _next(nodes) is not behind:
            raise _AnotherError("a normalization is not behind its convolution")
        yield from _norm(graph, behind, norm)


def _norm(graph: Graph, node: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    _expect(node, BATCH_NORM)
    parts = ("weight", "bias", "running_mean", "running_var")
    weight, bias, mean, var = (graph.weight(node, number) for number in range(1, 5))
    var = var + (_attribute(node, "epsilon", EPS) - EPS)
    yield from zip((f"{name}.{part}" for part in parts), (weight, bias, mean, var), strict=True)


def _plain_norm(name: str, bias: Tensor) -> Iterator[tuple[str, Tensor]]:
    """One that adds the bias alone."""
    one, zero = torch.ones_like(bias), torch.zeros_like(bias)
    yield f"{name}.weight", one
    yield f"{name}.bias", bias
    yield f"{name}.running_mean", zero
    yield f"{name}.running_var", one - EPS


def _slope(graph: Graph, node: Any) -> Tensor:
    return graph.weight(_expect(node, "PRelu"), 1).flatten()


def _next(nodes: Iterator[Any]) -> Any:
    for node in nodes:
        return node
    raise _AnotherError("it ends too early")


def _until_sum(nodes: Iterator[Any]) -> Iterator[Any]:
    for node in nodes:
        if node.op_type == "Add":
            return
        yield node


def _expect(node: Any, kind: str) -> Any:
    if node.op_type != kind:
        raise _AnotherError(f"it has {node.op_type} where {kind} is expected")
    return node


def _attribute(node: Any, name: str, default: Any) -> Any:
    from onnx import helper

    return next((helper.get_attribute_value(one) for one in node.attribute if one.name == name), default)


def _graph(path: Path) -> Graph:
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError as error:
        raise ImportError(f"{path.name} is read by the package onnx: pip install onnx") from error
    try:
        graph = onnx.load(str(path), load_external_data=False).graph
    except Exception as error:  # protobuf's own classes have no public base
        raise CheckpointError(f"{path.name} cannot be read as an ONNX file ({error}).") from error
    constants = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    consumers = dict[str, list[Any]]()
    for node in graph.node:
        # What is shared, and what only gets another shape.
        if node.op_type in ("Identity", "Unsqueeze") and node.input[0] in constants:
            constants[node.output[0]] = constants[node.input[0]]
        for name in node.input:
            consumers.setdefault(name, []).append(node)
    return Graph([node for node in graph.node if node.op_type not in SILENT], constants, consumers)
