"""train-mask"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from ..checkpoints.files import check_output
from ..diffusion.identity_guidance import IdentitySettings
from ..recognition import load_recognizer
from ..restorers.clr_face.mask import load_mask, save_mask
from ..restorers.clr_face.train_mask import RATES, MaskTraining, new_mask, train_mask
from ..restorers.files import load_restorer
from ..training.degradation import random_degradation
from ..training.loop import OnProgress
from ..training.processes import launched_processes
from ..training.progress import silent
from .app import Addons, Folder, Variant, app, bars, kept_in
from .options import data_options, gathers, loop_options
from .settings import Changes, Data


def run_mask(
    folder: Path,
    output: Path,
    restorer: Path,
    recognizer: Path,
    data: Data,
    changes: Changes,
    *,
    addons: Sequence[Path] = (),
    variant: str | None = None,
    source: Path | None = None,
    kind: str = "predicted",
    strength: float = IdentitySettings().strength,
    references: int = 0,
    on_progress: OnProgress = silent,
) -> None:
    """Train a mask of identity guidance and write it to `output`.

    Args:
        source: a mask to go on with; None for a new one of this kind.
        strength: of the guidance that it is for.
        references: so many other photos of the person guide; pictures lie in a folder for each person. 0: the
            cleaned picture guides.
    """
    check_output(output)
    judge = load_recognizer(recognizer)
    pictures, seed = data.pictures(), changes.seed or 0
    model = load_restorer(restorer, *addons, variant=variant, device=launched_processes().device)
    size = data.size or model.header.image_size
    crops, held = data.crops(pictures, seed, size, references)
    settings = MaskTraining(kind, degradation=random_degradation(data.degradation, size))
    loop = replace(settings.loop, lr=RATES[settings.kind])
    guidance = replace(settings.guidance, strength=strength)
    settings = replace(settings, guidance=guidance, references=references, loop=changes.to(loop))
    mask = load_mask(source).requires_grad_() if source else new_mask(model, kind, size)
    record = train_mask(mask, model, judge, crops, settings, folder, on_progress, held=held)
    if launched_processes().is_main:
        save_mask(mask, output, record)


@app.command("train-mask")
@gathers(data=data_options, loop=loop_options)
def _train_mask(
    folder: Folder,
    output: Annotated[Path, typer.Argument(help="The mask to write (.safetensors).")],
    restorer: Annotated[Path, typer.Option(help="The restorer that is to be guided; it stays as it is.")],
    recognizer: Annotated[
        Path,
        typer.Option(help="The face recogniser that is to guide. The pictures have to be faces as in FFHQ."),
    ],
    source: Annotated[Path | None, typer.Option("--from", help="A mask to go on with.")] = None,
    kind: Annotated[
        str, typer.Option(help="predicted: for each picture. global: one for all aligned faces.")
    ] = "predicted",
    strength: Annotated[
        float, typer.Option(help="Of the guidance that it is for.")
    ] = IdentitySettings().strength,
    references: Annotated[
        int,
        typer.Option(
            help="So many photos of the person guide, as in ReferenceAttention's training: pictures lie in a "
            "folder for each person. 0: the cleaned picture guides.",
            min=0,
        ),
    ] = 0,
    addon: Addons = None,
    variant: Variant = None,
    data: Any = None,
    loop: Any = None,
) -> None:
    """Train where identity guidance may act (CLR-Face's learnable mask); all networks stay as they are."""
    with bars(stopped=kept_in(folder)) as show:
        run_mask(
            folder, output, restorer, recognizer, data, loop, addons=addon or (), variant=variant,
            source=source, kind=kind, strength=strength, references=references, on_progress=show,
        )  # fmt: skip
