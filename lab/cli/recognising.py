"""convert-recognizer"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pfstorer_core.cli.app import dtype_named

from .app import app


@app.command("convert-recognizer")
def _convert_recognizer(
    source: Annotated[Path, typer.Argument(help="dlib_face_recognition_resnet_model_v1.dat.")],
    output: Annotated[Path, typer.Argument(help="What to write (.safetensors).")],
    dtype: Annotated[
        str | None, typer.Option(help="fp32, fp16 or bf16; its own where none is named.")
    ] = None,
) -> None:
    """Make a file for ComfyUI/models/face_recognizers of a recogniser of elsewhere, once."""
    from ..recognition.convert import convert_recognizer

    convert_recognizer(source, output, dtype_named(dtype) if dtype else None)
