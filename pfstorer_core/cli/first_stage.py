"""train-autoencoder"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..checkpoints.errors import CheckpointError
from ..checkpoints.layouts import with_prefixes
from ..checkpoints.parts import AUTOENCODER
from ..checkpoints.tensors import read_checkpoint
from ..restorers.first_stage.perceptual import load_lpips
from ..restorers.first_stage.train import train_autoencoder
from ..restorers.first_stage.variants import FIRST_STAGES, FirstStage, FirstStageChanges
from ..restorers.stablesr.tiny import SMALL_RESTORERS
from ..training.loop import OnProgress
from ..training.progress import silent
from .app import Folder, app, bars, kept_in
from .options import DataPaths, gathers, loop_options
from .settings import Changes, Data

UNCHANGED = FirstStageChanges()


def whole_numbers(text: str) -> list[int]:
    """Of a text such as "1,2,4"; raises ValueError where it is another."""
    try:
        return [int(number) for number in text.split(",")] if text else []
    except ValueError as error:
        raise ValueError(f"Expected whole numbers, such as 1,2,4, got {text!r}.") from error


@app.command("train-autoencoder")
@gathers(loop=loop_options)
def _train_autoencoder(
    folder: Folder,
    data: DataPaths = None,
    size: Annotated[
        int, typer.Option(help="Side of the random crops in pixels; 0: what suits the network.")
    ] = 0,
    network: Annotated[
        str,
        typer.Option(
            help="tiny or f8_z16: a small restorer's. tiny_vq_f4 or tiny_vq_f8: small ones with a codebook. "
            "vq_f4 or ref_ldm: as latent diffusion's and ReF-LDM's were trained."
        ),
    ] = "tiny",
    codebook: Annotated[int | None, typer.Option(help="Entries of the codebook; 0: none (KL).")] = None,
    z_channels: Annotated[int | None, typer.Option(help="Channels of the latent.")] = None,
    ch_mult: Annotated[
        str, typer.Option(help="Widths of the levels, such as 1,2,4: three levels are f4, four are f8.")
    ] = "",
    disc_start: Annotated[
        int | None, typer.Option(help="Step from which on a discriminator is trained against it.")
    ] = None,
    disc_weight: Annotated[float | None, typer.Option(help="Weight of the adversarial term.")] = None,
    source: Annotated[
        Path | None,
        typer.Option(
            "--from", help="A restorer or autoencoder to take layers of the same names and sizes of."
        ),
    ] = None,
    lpips: Annotated[
        Path | None,
        typer.Option(
            help="File with the weights of LPIPS, to add it to the loss, as the published trainings did: the "
            "library lpips's state dict, or a checkpoint of a first stage that has them."
        ),
    ] = None,
    loop: Any = None,
) -> None:
    """Train an autoencoder, the first stage of a latent restorer, into FOLDER."""
    mults = tuple(whole_numbers(ch_mult)) or None
    sizes = FirstStageChanges(codebook, z_channels, mults, disc_start, disc_weight)
    with bars(stopped=kept_in(folder)) as show:
        run_autoencoder(folder, Data(data or (), size), loop, show, network, sizes, source, lpips)


def run_autoencoder(
    folder: Path,
    data: Data,
    changes: Changes,
    on_progress: OnProgress = silent,
    network: str = "tiny",
    changed: FirstStageChanges = UNCHANGED,
    source: Path | None = None,
    lpips: Path | None = None,
) -> None:
    """Train an autoencoder into `folder`.

    Args:
        network: of `SMALL_RESTORERS` or `FIRST_STAGES`; `changed`: what is to be different.
        source: a restorer or an autoencoder whose layers it begins with, where it has the same.
        lpips: see `load_lpips`; None for a training without.
    Raises:
        ValueError: no network of that name, sizes that do not go together, or no pictures.
        FileNotFoundError, CheckpointError: of the source or LPIPS's file.
    """
    stage = first_stage(network)
    stage = stage.changed(changed, changes.to(stage.training.loop))
    settings = stage.training
    start = AUTOENCODER.of(with_prefixes(read_checkpoint(source)[0])) if source else {}
    if source and not start:
        raise CheckpointError(f"{source.name} holds no autoencoder to begin with.")
    crops, held = data.crops(data.pictures(), settings.loop.seed, stage.crop)
    perceptual = load_lpips(lpips) if lpips else None
    train_autoencoder(crops, settings, folder, on_progress, held=held, perceptual=perceptual, start=start)


def first_stage(name: str) -> FirstStage:
    """The autoencoder's training of that name; raises ValueError."""
    own = {key: FirstStage(one.autoencoder, one.autoencoder_crop) for key, one in SMALL_RESTORERS.items()}
    known = own | FIRST_STAGES
    if name not in known:
        raise ValueError(f"No network named {name!r}; choose one of {', '.join(known)}.")
    return known[name]
