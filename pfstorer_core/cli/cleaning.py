"""clean, train-cleaner"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from ..checkpoints.files import check_output as check_writable
from ..imaging.pictures import check_picture_name, read_picture, write_picture
from ..models import SwinIRConfig
from ..recognition import load_recognizer
from ..restorers.convert import DTYPES, check_output
from ..restorers.diffbir.cleaner import load_cleaner
from ..restorers.diffbir.train_cleaner import (
    IRN_IDENTITY,
    TINY_SWINIR,
    CleanerTraining,
    new_swinir,
    open_swinir,
    save_cleaner,
    train_cleaner,
)
from ..training.loop import OnProgress
from ..training.processes import launched_processes
from ..training.progress import silent
from .app import Device, Folder, app, bars, device_named, dtype_named, kept_in
from .options import DataPaths, DegradationName, Dtype, gathers, loop_options
from .settings import Changes, Data


@app.command("clean")
def _clean(
    cleaner: Annotated[
        Path, typer.Argument(help="A SwinIR, alone or in a full DiffBIR checkpoint, or BSRNet, SCUNet, ….")
    ],
    picture: Annotated[Path, typer.Argument(help="The bad picture; the first of several in a file.")],
    output: Annotated[
        Path, typer.Argument(help="Where the clean picture goes (.png, .jpg, .webp, .tif, .bmp).")
    ],
    tile: Annotated[int, typer.Option(help="Side of a tile in pixels; 0: the whole picture at once.")] = 0,
    overlap: Annotated[int, typer.Option(help="Pixels that tiles share; -1: half a tile.")] = -1,
    device: Device = "cpu",
    dtype: Annotated[str, typer.Option(help="Of weights and arithmetic: fp32, bf16 or fp16.")] = "fp32",
) -> None:
    """Take the damage out of a picture at its size, as DiffBIR does first; it stays smooth."""
    check_picture_name(output)
    check_writable(output)
    placed, number_format = device_named(device), dtype_named(dtype)
    bad = read_picture(picture)
    cleaned = load_cleaner(cleaner, placed, number_format).clean(bad, tile, overlap)
    write_picture(cleaned.clamp(0, 1), output)


def run_cleaner(
    folder: Path,
    output: Path,
    data: Data,
    changes: Changes,
    *,
    source: Path | None = None,
    sizes: SwinIRConfig = TINY_SWINIR,
    objective: str = "l1",
    p_hq: float = 0.0,
    recognizer: Path | None = None,
    identity: float = 0.0,
    edges: float = 0.0,
    dtype: str = "fp16",
    on_progress: OnProgress = silent,
) -> None:
    """Train a cleaner and write it to `output`.

    Args:
        source: a SwinIR to go on with; None for a new one of these sizes, made for the size of the crops.
        recognizer, identity, edges: see `CleanerTraining`.
    """
    check_output(output, dtype)
    judge = load_recognizer(recognizer) if recognizer else None
    pictures, seed = data.pictures(), changes.seed or 0
    given = open_swinir(source) if source else None
    config = given.config if given else sizes
    size = data.size or config.img_size * config.unshuffle_scale
    if size % config.multiple:
        raise ValueError(
            f"Crops of {size} pixels do not fit the network: choose a multiple of {config.multiple}."
        )
    crops, held = data.crops(pictures, seed, size)
    settings = CleanerTraining.suited(config, size, objective, data.degradation)
    settings = replace(settings, p_hq=p_hq, identity=identity, edges=edges, loop=changes.to(settings.loop))
    model = given or new_swinir(replace(sizes, img_size=size // sizes.unshuffle_scale), seed)
    record = train_cleaner(model, crops, settings, folder, on_progress, held=held, recognizer=judge)
    if launched_processes().is_main:
        save_cleaner(model, output, record, DTYPES[dtype])


@app.command("train-cleaner")
@gathers(loop=loop_options)
def _train_cleaner(
    folder: Folder,
    output: Annotated[Path, typer.Argument(help="The cleaner to write (.safetensors).")],
    source: Annotated[
        Path | None,
        typer.Option("--from", help="A SwinIR to go on with, alone or in a full DiffBIR checkpoint."),
    ] = None,
    data: DataPaths = None,
    size: Annotated[
        int, typer.Option(help="Side of the random crops in pixels; 0: that of --from, or 128.")
    ] = 0,
    degradation: DegradationName = "",
    objective: Annotated[
        str,
        typer.Option(
            help="l1: mean distance, as DiffBIR's for faces. sse: sum of squares, as its other one."
        ),
    ] = "l1",
    p_hq: Annotated[float, typer.Option(help="Share of samples whose LQ picture is HQ as it is.")] = 0.0,
    recognizer: Annotated[
        Path | None,
        typer.Option(
            help="A face recogniser, which makes it an Identity Recovery Network (CLR-Face). The pictures "
            "have to be faces as in FFHQ, in whole: --size is theirs."
        ),
    ] = None,
    identity: Annotated[
        float | None, typer.Option(help="Weight of its likeness. Default: 0.5 with --recognizer.")
    ] = None,
    edges: Annotated[float, typer.Option(help="Weight of the distance between edges; 0.1 keeps them.")] = 0.0,
    embed_dim: Annotated[
        int, typer.Option(help="Of a new network: width. DiffBIR has 180.")
    ] = TINY_SWINIR.embed_dim,
    groups: Annotated[int, typer.Option(help="Of a new network: groups of blocks. DiffBIR has 8.")] = len(
        TINY_SWINIR.depths
    ),
    depth: Annotated[
        int, typer.Option(help="Of a new network: blocks a group. DiffBIR has 6.")
    ] = TINY_SWINIR.depths[0],
    heads: Annotated[
        int, typer.Option(help="Of a new network: attention heads. DiffBIR has 6.")
    ] = TINY_SWINIR.num_heads[0],
    loop: Any = None,
    dtype: Dtype = "fp16",
) -> None:
    """Train the cleaner of a DiffBIR restorer, which is an upscale model of ComfyUI's as well."""
    with bars(stopped=kept_in(folder)) as show:
        run_cleaner(
            folder,
            output,
            Data(data or (), size, degradation),
            loop,
            source=source,
            sizes=replace(
                TINY_SWINIR, embed_dim=embed_dim, depths=(depth,) * groups, num_heads=(heads,) * groups
            ),
            objective=objective,
            p_hq=p_hq,
            recognizer=recognizer,
            identity=(IRN_IDENTITY if recognizer else 0.0) if identity is None else identity,
            edges=edges,
            dtype=dtype,
            on_progress=show,
        )
