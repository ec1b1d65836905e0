"""Published files as one restorer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from ..checkpoints.files import check_output as check_writable
from ..checkpoints.tensors import write_safetensors
from ..diffusion.schedule import PredictionType
from ..training.progress import Progress, silent
from .files import file_context, open_restorer
from .keys import file_tensors

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


def convert(
    output: Path | str,
    path: Path | str,
    addons: Sequence[Path | str] = (),
    *,
    dtype: str = "fp16",
    prediction_type: PredictionType | None = None,
    variant: str | None = None,
    text: bool = True,
    on_step: Callable[[Progress], object] = silent,
) -> None:
    """Write one .safetensors restorer, with a header and the empty prompt's context, from the files that
    `open_restorer` reads. Takes little more memory than the largest tensor.

    Args:
        dtype: "fp16", "bf16" or "fp32".
        text: keep the text tower (0.7 GB in fp16), which prompts and learning a person need.
        on_step: called after each tensor; raise in it to stop.
    Raises:
        ValueError: another ending than .safetensors, a dtype that is none of these, or an output that is
            one of the files.
        FileNotFoundError, PermissionError, CheckpointError: see `open_restorer`; also where a network
            is not complete, or a value is not finite or does not fit the dtype.
        OSError: the file cannot be written, such as for no room on the disk. Nothing is left of a file
            that could not be finished.
    """
    output = Path(output)
    check_output(output, dtype)
    file = open_restorer(path, addons, prediction_type, variant)
    if output.exists() and any(output.samefile(source) for source in (path, *addons)):
        raise ValueError(f"{output} is one of the files to convert: choose another name for the result.")
    # The causal mask, which some versions stored, is infinite by nature and made anew by all.
    kept = {key: value for key, value in file.text.items() if text and not key.endswith("attn_mask")}
    replace(file, text=kept).check_fit()
    context = file_context(file, Path(path).name)
    sources = [Path(source).name for source in (path, *addons)]
    header = replace(file.header, training={**file.header.training, "converted_from": sources})
    tensors = file_tensors(file.unet, file.autoencoder, kept, context, file.cleaner)

    def written(number: int, of: int) -> None:
        on_step(Progress("convert", number, of))

    write_safetensors(output, tensors, header.to_metadata(), DTYPES[dtype], written)


def check_output(output: Path, dtype: str) -> None:
    """Raise ValueError or OSError, before any long work, where no restorer can be written to `output` as
    `dtype`."""
    if output.suffix != ".safetensors":
        raise ValueError(f"{output} has to end in .safetensors.")
    if dtype not in DTYPES:
        raise ValueError(f"No dtype named {dtype!r}; choose one of {', '.join(DTYPES)}.")
    check_writable(output)
