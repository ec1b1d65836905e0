"""Pictures of the person's class, drawn by the base before anything is learned (prior preservation)."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...diffusion.guidance import cfg_combine
from ...imaging.pictures import write_picture
from ...restorers.base import Restorer
from ...restorers.condition import UNCONDITIONAL
from ...training.progress import Progress, silent
from ..identity import of_one_length

FOLDER = "class_pictures"
STEPS = 50
GUIDANCE = 7.5
"""Of classifier-free guidance: with which diffusers' script draws them."""


def folder_of(restorer: Restorer, prompt: str, seed: int, root: Path) -> Path:
    """Where the pictures of a base and a prompt lie. Its name says what made them: other bases, prompts,
    sizes and seeds have other folders. Picture k is the same however many there are."""
    made_by = {
        "base": restorer.fingerprint,
        "prompt": prompt,
        "size": restorer.header.image_size,
        "seed": seed,
        "steps": STEPS,
        "guidance": GUIDANCE,
    }
    digest = hashlib.sha256(json.dumps(made_by, sort_keys=True).encode()).hexdigest()[:8]
    words = re.sub(r"[^a-z0-9]+", "_", prompt.lower())[:60].strip("_")
    return root / FOLDER / f"{words}-{made_by['size']}-{made_by['base']}-{digest}"


def draw_class(
    restorer: Restorer,
    prompt: str,
    count: int,
    seed: int,
    root: Path,
    on_progress: Callable[[Progress], None] = silent,
) -> list[Path]:
    """The files of so many pictures. Those that are there are kept, and never written again: what was
    stopped goes on.

    Args:
        root: of all folders of class pictures.
        on_progress: called after each that was drawn; raise in it to stop.
    Raises:
        ValueError: a restorer without a text tower.
        OSError: a picture cannot be written.
    """
    folder = folder_of(restorer, prompt, seed, root)
    files = [folder / f"{number:04d}.png" for number in range(count)]
    if all(file.exists() for file in files):
        return files
    own = restorer.context(prompt).to(restorer.null_context)
    contexts = torch.cat(of_one_length(restorer.context(), own))
    for number, file in enumerate(files):
        if not file.exists():
            picture = draw(restorer, contexts, seed, number)
            if not file.exists():  # another training may have drawn it meanwhile, and it is the same
                write_picture(picture, file)
            on_progress(Progress(FOLDER, number + 1, count, picture=picture))
    return files


def draw(restorer: Restorer, contexts: Tensor, seed: int, number: int) -> Tensor:
    """One picture [1, 3, S, S] in [0, 1], by contexts [2, L, D] of the empty prompt and of another."""
    side = restorer.header.image_size // restorer.downscale
    generator = torch.Generator().manual_seed(int(np.random.default_rng([seed, number, 7]).integers(2**62)))
    noise = torch.randn(1, restorer.unet.config.out_channels, side, side, generator=generator)

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        twice = x.to(restorer.null_context).repeat(2, 1, 1, 1)
        null, own = restorer.denoise(twice, t.repeat(2), UNCONDITIONAL, contexts).float().chunk(2)
        return cfg_combine(own, null, GUIDANCE)

    latent = restorer.sample(
        UNCONDITIONAL, STEPS, noise.to(restorer.device), denoise=denoise, generator=generator
    )
    return restorer.decode(latent).clamp(0, 1)
