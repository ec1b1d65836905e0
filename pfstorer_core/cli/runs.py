"""Whole trainings, from files to files: what the command line does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from ..checkpoints.header import RestorerHeader
from ..checkpoints.tensors import write_safetensors
from ..degradation import LARGE
from ..diffusion.schedule import PredictionType
from ..restorers.convert import DTYPES, check_output
from ..restorers.files import file_context, load_restorer, open_restorer
from ..restorers.first_stage.train import load_autoencoder
from ..restorers.keys import file_tensors
from ..restorers.stablesr.cfw import CFWTraining, Perceptual, restored, train_cfw
from ..restorers.stablesr.start import new_start, open_start
from ..restorers.stablesr.tiny import SMALL_RESTORERS, TINY_LOOP, SmallRestorer
from ..restorers.stablesr.train import BaseTraining, train_base
from ..restorers.trainable import TrainableRestorer
from ..training.data import Crops, hold_back
from ..training.degradation import random_degradation
from ..training.loop import LoopSettings, OnProgress
from ..training.pairs import LatentPairs, latent_pairs
from ..training.processes import launched_processes
from ..training.progress import silent
from ..training.settings import ENDLESS, finishing
from ..training.state import STATE, kept_history
from .settings import Changes, Data

TOGETHER = 8
"""Pictures that a GPU degrades at once."""
LEARNED_FROM = {"control": "diffbir", "prior": "face"}
"""What large ones saw, where that is not what StableSR did."""
WIDE = 256
"""Channels of a U-Net from which on it is trained as StableSR was."""


@dataclass(frozen=True)
class BaseRun:
    """What `run_base` is to do.

    Attributes:
        source, addons: see `open_start`; without a source a tiny restorer is made from nothing, on the
            autoencoder that `run_autoencoder` left in the folder.
        train: see `trains`; "" for "sft" on a source, "all" without.
        renew: see `open_start`.
        pairs: so many pairs of latents are encoded before the first step, and only they are trained on;
            0 encodes new ones in every step.
        crop: side of the crops of those latents; 0 for whole ones.
        dtype: of the result: fp16, bf16 or fp32.
        network: of `SMALL_RESTORERS`, what is made without a source.
        endless: the rate stays, and it goes on until it is stopped, or `loop.steps` are done.
        finish: so many steps after now the rate has fallen to nothing, and it ends; where `loop.steps` are
            given, so many before these. 0: as `network` or `endless` say.
        group, compiled: see `BaseTraining`; None for what suits the device.
    """

    source: Path | None = None
    addons: Sequence[Path] = ()
    train: str = ""
    prediction_type: PredictionType | None = None
    null_lq: float | None = None
    empty_prompt: float | None = None
    p_hq: float = 0.03
    shift: float = 1.0
    renew: Sequence[str] = ()
    pairs: int = 0
    crop: int = 0
    checkpointing: bool = False
    dtype: str = "fp16"
    network: str = "tiny"
    endless: bool = False
    finish: int = 0
    group: int | None = None
    compiled: bool | None = None
    data: Data = field(default_factory=Data)
    loop: Changes = field(default_factory=Changes)

    @property
    def frozen_dtype(self) -> torch.dtype:
        """Of the weights that are not trained."""
        return torch.float32 if self.loop.bf16 is False else torch.bfloat16


def run_base(folder: Path, output: Path, run: BaseRun, on_progress: OnProgress = silent) -> None:
    """Train a base restorer and write it to `output`, after as many steps as it takes since the last call."""
    check_output(output, run.dtype)
    train = run.train or ("sft" if run.source else "all")
    settings = BaseTraining(
        train,
        run.null_lq,
        run.empty_prompt,
        p_hq=run.p_hq,
        shift=run.shift,
        checkpointing=run.checkpointing,
    )
    if train == "control":
        raise ValueError("train-base trains sft, unet or all: a control network is trained by train-control.")
    sizes = small_restorer(run.network)
    if run.renew and not run.source:
        raise ValueError("There is nothing to renew without a restorer to start from (--from).")
    pictures, seed = run.data.pictures(), run.loop.seed or 0
    if run.source:
        start = _opened(run, settings)
        crops, held = run.data.crops(pictures, seed, start.restorer.header.image_size)
    else:
        autoencoder = load_autoencoder(folder)
        crops, held = run.data.crops(pictures, seed, sizes.size)
        start = new_start(
            autoencoder,
            crops,
            train=train,
            prediction_type=run.prediction_type or "v",
            config=sizes.unet,
            seed=seed,
        )
    header = run_stage(folder, run, start, settings, (crops, held), on_progress)
    if launched_processes().is_main:
        start.write(output, header, DTYPES[run.dtype])


def run_stage(
    folder: Path,
    run: BaseRun,
    start: TrainableRestorer,
    settings: BaseTraining,
    crops: tuple[Crops, Crops],
    on_progress: OnProgress = silent,
) -> RestorerHeader:
    """Train `start`, which then is the restorer; returns the header of its file.

    Args:
        settings: but for the loop and the degradation, which are those that suit the networks and `run` says.
        crops: to train on, and to look at.
    """
    samples, held = crops
    size = samples.size
    _check_size(size, start)
    suited = LEARNED_FROM.get(settings.train, "") if size >= LARGE else ""
    degradation = random_degradation(run.data.degradation or suited, size)
    wide = settings.train == "prior" or start.restorer.unet.config.model_channels >= WIDE
    small = TINY_LOOP if run.source or wide else small_restorer(run.network).loop
    loop = _ending(run, run.loop.to(settings.loop if wide else small), folder / settings.stage)
    on_gpu = launched_processes().device.type == "cuda"
    settings = replace(
        settings,
        degradation=degradation,
        loop=loop,
        group=run.group or (TOGETHER if on_gpu else 1),
        compiled=on_gpu if run.compiled is None else run.compiled,
    )
    pairs: Crops | LatentPairs = samples
    if run.pairs:
        path = folder / "pairs.safetensors"
        with launched_processes().main_first():
            encoded = latent_pairs(
                start.restorer.autoencoder,
                samples,
                run.pairs,
                degradation,
                run.p_hq,
                path,
                on_progress,
                start.restorer.cleaner,
            )
        hq, lq, captions, people, shown = encoded
        pairs = LatentPairs(
            hq,
            lq,
            captions,
            loop.batch,
            run.crop,
            seed=samples.seed,
            people=people,
            references=settings.references,
            pictures=shown,
        )
    header = train_base(start, pairs, settings, folder, on_progress, held=held)
    return replace(header, image_size=size)


def small_restorer(name: str) -> SmallRestorer:
    """The one of that name; raises ValueError."""
    if name not in SMALL_RESTORERS:
        raise ValueError(f"No network named {name!r}; choose one of {', '.join(SMALL_RESTORERS)}.")
    return SMALL_RESTORERS[name]


def _ending(run: BaseRun, loop: LoopSettings, stage: Path) -> LoopSettings:
    """When it ends, and how its rate does."""
    if run.endless and run.finish:
        raise ValueError("A training either goes on (--endless) or comes to its end (--finish): choose one.")
    if run.endless:
        return replace(loop, decay=False, finish=0, steps=run.loop.steps or ENDLESS)
    if run.finish and run.loop.steps:
        return replace(loop, decay=False, finish=run.finish)
    if run.finish:
        return finishing(kept_history(stage.with_name(stage.name + STATE)), loop, run.finish)
    return loop


def run_cfw(
    folder: Path,
    output: Path,
    source: Path,
    data: Data,
    changes: Changes,
    *,
    pictures: int = CFWTraining().pictures,
    sampling_steps: int = CFWTraining().sampling_steps,
    p_hq: float = CFWTraining().p_hq,
    dtype: str = "fp16",
    lpips: bool = False,
    on_progress: OnProgress = silent,
) -> None:
    """Give a restorer CFW, trained on what it makes of degraded pictures, and write it to `output`.

    Args:
        lpips: add LPIPS to the loss; ImportError where that library is not installed.
    """
    check_output(output, dtype)
    settings = CFWTraining(sampling_steps, pictures, p_hq)
    perceptual = _lpips() if lpips else None
    found = data.pictures()
    processes = launched_processes()
    file = open_restorer(source)
    restorer = load_restorer(source, device=processes.device)
    loop = changes.to(settings.loop)
    crops, _ = data.crops(found, loop.seed, restorer.header.image_size)
    settings = replace(settings, loop=loop, degradation=random_degradation(data.degradation, crops.size))
    with launched_processes().main_first():
        samples = restored(restorer, crops, settings, folder / "restored.safetensors", on_progress)
    train, held = (samples.only(rows) for rows in hold_back(len(samples)))
    result = train_cfw(restorer, train, settings, folder, on_progress, held=held, perceptual=perceptual)
    if processes.is_main:
        context = file_context(file, source.name)
        tensors = file_tensors(file.unet, result.autoencoder.state_dict(), file.text, context)
        write_safetensors(output, tensors, result.header.to_metadata(), DTYPES[dtype])


def _opened(run: BaseRun, settings: BaseTraining) -> TrainableRestorer:
    assert run.source is not None
    return open_start(
        run.source,
        run.addons,
        train=settings.train,
        captions=settings.no_prompt < 1,
        prediction_type=run.prediction_type,
        frozen_dtype=run.frozen_dtype,
        renew=run.renew,
        seed=run.loop.seed or 0,
    )


def _lpips() -> Perceptual:
    try:
        from lpips import LPIPS  # type: ignore[import-not-found]
    except ImportError as error:
        raise ImportError('The library "lpips" is not installed: pip install lpips') from error
    return LPIPS(net="vgg").requires_grad_(False)


def _check_size(size: int, start: TrainableRestorer) -> None:
    """Latents are halved at every level of the LQ encoder, whose features have to fit the U-Net's."""
    cells = start.restorer.autoencoder.config.downscale * 2 ** (
        len(start.restorer.unet.config.channel_mult) - 1
    )
    if size % cells:
        raise ValueError(f"Crops of {size} pixels do not fit the networks: choose a multiple of {cells}.")
