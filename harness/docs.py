"""The pictures of the documentation, made anew with the embedded restorer: `python -m harness.docs`.

The scoreboard's come from `evaluate`, see docs/scoreboard.md.
"""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio as psnr

from lab.evaluation import CaseSettings, draw_case
from lab.people import draw_person
from lab.people.captions import caption
from pfstorer_core.diffusion.sampling import sample_ddpm
from pfstorer_core.diffusion.schedule import Schedule
from pfstorer_core.restorers.files import load_restorer
from pfstorer_core.training.logs import rows_of

from . import ROOT, demo, person
from .client import ComfyClient
from .console import run_main, say
from .host import ComfyServer
from .person import API, BAD_SIDE, SIDE, drawn_image, of_type
from .picture import decode, encode, side_by_side, write_png

DOCS = ROOT / "docs"
GROUP_SEED, GROUP = 41, (0, 3, 5)
"""Of the drawing: three people who stand side by side."""
DRAWN = ("restore_and_edit_a_person",)
"""Workflows that are shown with the drawn person."""
AS_THEY_ARE = ("restore_with_clr_face", "restore_with_diffbir", "identity_without_training")
"""Workflows that bring their own pictures."""
ROWS, COLUMNS, STEPS = 2, 8, 40
"""Of the samples without an LQ picture."""


def main() -> None:
    with ComfyServer(cpu=not demo.has_gpu()) as server, server.client() as client:
        write("restore_and_upscale", restored_pictures(client))
        write("restore_a_group", restored_group(client))
        write("restore_a_person", restored_person(client))
        for name in DRAWN:
            write(name, drawn_person_by(client, name))
        write("compare_methods", compared_methods(client))
        for name in AS_THEY_ARE:
            write(name, saved_by(client, read_api(name)))
    write("learn_a_person", learned_person())
    write("null_lq", samples_without_lq())


def write(name: str, picture: Image.Image) -> None:
    write_png(picture, DOCS / f"{name}.png")
    say(f"  {DOCS / name}.png")


def restored_pictures(client: ComfyClient) -> Image.Image:
    """The demo's own pictures, one below the other; says the figures that README gives for them."""
    workflow, sheets = demo.read_workflow(), []
    with TemporaryDirectory() as folder:
        for task in demo.own_pictures():
            demo.run_task(client, workflow, task, Path(folder))
            sheets.append(np.asarray(Image.open(Path(folder) / f"{task.name}_comparison.png")))
            restored = np.asarray(Image.open(Path(folder) / f"{task.name}_restored.png"))
            assert task.truth is not None
            truth, enlarged = (np.asarray(p) for p in (task.truth, task.image.resize(task.truth.size, 3)))
            sharper = gradient(restored) / gradient(enlarged) - 1
            say(f"  {task.name}: mean gradient {sharper:+.0%} of the enlargement's, "
                f"PSNR {psnr(truth, restored):.1f} against {psnr(truth, enlarged):.1f} dB")  # fmt: skip
    return Image.fromarray(np.concatenate([*(sheet[:-8] for sheet in sheets[:-1]), sheets[-1]]))


def restored_group(client: ComfyClient) -> Image.Image:
    """The shipped workflow `Restore a group` on three drawn people whose places are known."""
    settings = CaseSettings(photos=1, size=SIDE, seed=GROUP_SEED)
    cases = [draw_case(settings, number, "moderate") for number in GROUP]
    bad = drawn_image(torch.cat([case.lq[0] for case in cases], -1)).resize(
        (BAD_SIDE * len(GROUP), BAD_SIDE), 3
    )
    prompt = json.loads((API / "restore_a_group.json").read_text(encoding="utf-8"))
    of_type(prompt, "LoadImage")[0]["inputs"]["image"] = client.upload_image(encode(bad), "group.png")
    for number, (case, node) in enumerate(zip(cases, of_type(prompt, "PrimitiveBoundingBox"), strict=True)):
        points = case.landmarks[0] * BAD_SIDE / case.lq.shape[-1]
        (left, top), (right, bottom) = points.amin(0).clamp_min(0).int(), points.amax(0).int()
        box = {"x": left + BAD_SIDE * number, "y": top, "width": right - left, "height": bottom - top}
        node["inputs"].update({name: int(value) for name, value in box.items()})
    for node in of_type(prompt, "ApplyPersonalization"):
        node["inputs"]["gamma"] = 0.0  # the workflow's adapter is of none of these people
    restored = decode(client.view(client.run(prompt, timeout=demo.PATIENCE).images()[0]))
    return side_by_side(
        [
            (f"the group, {bad.width} x {bad.height}, enlarged", bad.resize(restored.size, 3)),
            ("each face restored and put back", restored),
        ]
    )


def restored_person(client: ComfyClient) -> Image.Image:
    """The demo's gamma sheet."""
    with TemporaryDirectory() as folder:
        demo.run_person(client, Path(folder), learn=False)
        return Image.open(Path(folder) / person.GAMMA_SHEET).copy()


def drawn_person_by(client: ComfyClient, workflow: str) -> Image.Image:
    """What a shipped workflow saves of the demo's bad picture."""
    prompt = read_api(workflow)
    bad = encode(person.bad_picture(person.case()))
    of_type(prompt, "LoadImage")[0]["inputs"]["image"] = client.upload_image(bad, "bad.png")
    for node in of_type(prompt, "TiledSRSampler"):
        node["inputs"]["upscale"] = demo.UPSCALE
    of_type(prompt, "ImageScaleBy")[0]["inputs"]["scale_by"] = demo.UPSCALE
    return saved_by(client, prompt)


def compared_methods(client: ComfyClient) -> Image.Image:
    """`Compare methods` of the drawn person, whose adapters it has; the face is found in this picture."""
    settings = CaseSettings(person.PHOTOS, references=person.REFERENCES, size=SIDE, seed=person.SEED)
    case = draw_case(settings, person.PERSON, "moderate").only(person.BAD)
    prompt = read_api("compare_methods")
    shown = (person.bad_picture(case), drawn_image(case.references[0]))
    for number, (node, image) in enumerate(zip(of_type(prompt, "ExamplePictures"), shown, strict=True)):
        name = client.upload_image(encode(image), f"compared{number}.png")
        node.update({"class_type": "LoadImage", "inputs": {"image": name}})
    return saved_by(client, prompt)


def read_api(workflow: str) -> dict[str, Any]:
    """A shipped workflow in the API format."""
    return json.loads((API / f"{workflow}.json").read_text(encoding="utf-8"))


def saved_by(client: ComfyClient, prompt: dict[str, Any]) -> Image.Image:
    """The picture that it saves."""
    saved = client.run(prompt, timeout=demo.PATIENCE).images()
    return decode(client.view(next(image for image in saved if image["type"] == "output")))


def learned_person() -> Image.Image:
    """The demo's person: a bad picture, the true one, and the photos to learn from."""
    case = person.case()
    bad, truth, *photos = (
        drawn_image(p).resize((SIDE, SIDE), 1) for p in (case.lq[0], case.hq[0], *case.references)
    )
    return side_by_side(
        [("bad", bad), ("truth", truth), *((f"photo {n}", photo) for n, photo in enumerate(photos))]
    )


@torch.no_grad()
def samples_without_lq() -> Image.Image:
    """What the embedded restorer draws from captions alone: what of a generator is in it."""
    restorer = load_restorer(ROOT / "assets" / "pfstorer_tiny.safetensors", text=True)
    rngs = [np.random.default_rng([1, number, 0]) for number in range(ROWS * COLUMNS)]
    context = torch.cat([restorer.context(caption(draw_person(rng), rng)) for rng in rngs])
    config, size = restorer.autoencoder.config, restorer.header.image_size
    cells = size // config.downscale
    generator = torch.Generator().manual_seed(0)
    latents = sample_ddpm(
        lambda x, t: restorer.unet(x, t, context),
        torch.randn(len(rngs), config.embed_dim, cells, cells, generator=generator),
        Schedule.scaled_linear().respaced(STEPS),
        restorer.header.prediction_type,
        generator=generator,
    )
    pictures = (restorer.autoencoder.decode(latents / restorer.header.scale_factor) + 1) / 2
    return drawn_image(rows_of(*pictures.unflatten(0, (ROWS, COLUMNS)).unbind(1))[0])


def gradient(image: np.ndarray) -> float:
    return float(sum(np.abs(np.diff(image.astype(float), axis=axis)).mean() for axis in (0, 1)))


if __name__ == "__main__":
    run_main(main)
