"""The demo's person, who is nobody: photos to learn the face from, a bad picture, and what is made of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image
from torch import Tensor

from lab.evaluation import CaseSettings, draw_case
from lab.evaluation.cases import Case

from . import ROOT
from .picture import decode, encode, image_of, side_by_side, write_png
from .shipped.person import DRAWN_PERSON

if TYPE_CHECKING:  # unit tests draw the person, too, without a server
    from .client import ComfyClient, Execution

API = ROOT / "workflows" / "api"
SEED, PERSON, PHOTOS, REFERENCES = 100, 1, 6, 5
"""Of the drawing; the seed is none of `evaluate`'s, and no training draws these people."""
BAD = 4
"""Which of the photos is restored: one of which enough is left that a face comes back, glasses and all."""
SIDE, BAD_SIDE = 256, 128
"""Pixels along a side of the true picture, as of all on the gamma sheet, and of the bad one."""
GAMMA_SHEET = "person_gamma_sheet.png"


def case() -> Case:
    settings = CaseSettings(photos=PHOTOS, references=REFERENCES, size=SIDE, seed=SEED)
    return draw_case(settings, PERSON, "heavy").only(BAD)


def drawn_image(picture: Tensor) -> Image.Image:
    """A picture [3, H, W] in [0, 1]."""
    return image_of(picture.permute(1, 2, 0).numpy())


def photos(drawn: Case) -> list[Image.Image]:
    """To learn the person from."""
    return [drawn_image(photo) for photo in drawn.references]


def bad_picture(drawn: Case) -> Image.Image:
    return drawn_image(drawn.lq[0]).resize((BAD_SIDE, BAD_SIDE), 3)


def prompt_to_restore(client: ComfyClient, bad: Image.Image) -> dict[str, Any]:
    """The shipped workflow `Restore a person`, which also saves each of its pictures."""
    prompt = json.loads((API / "restore_a_person.json").read_text(encoding="utf-8"))
    of_type(prompt, "LoadImage")[0]["inputs"]["image"] = client.upload_image(encode(bad), "demo_bad.png")
    samplers = [name for name, node in prompt.items() if node["class_type"] == "TiledSRSampler"]
    for name in samplers:
        inputs = {"images": [name, 0], "filename_prefix": "demo_person"}
        prompt[f"save {name}"] = {"class_type": "SaveImage", "inputs": inputs}
    return prompt


def with_learning(client: ComfyClient, prompt: dict[str, Any], good: list[Image.Image]) -> dict[str, Any]:
    """The same with the person learned anew by the shipped workflow `Learn a person`."""
    learning = json.loads((API / "learn_a_person.json").read_text(encoding="utf-8"))
    (train,) = (name for name, node in learning.items() if node["class_type"] == "TrainIdentityAdapter")
    inputs = {name: value for name, value in learning[train]["inputs"].items() if "photo" not in name}
    for number, photo in enumerate(good):
        name = client.upload_image(encode(photo), f"demo_photo_{number}.png")
        prompt[f"photo {number}"] = {"class_type": "LoadImage", "inputs": {"image": name}}
        inputs[f"photos.photo_{number}"] = [f"photo {number}", 0]
    (restorer,) = (name for name, node in prompt.items() if node["class_type"] == "LoadBaseRestorer")
    inputs |= {name: [restorer, output] for output, name in enumerate(("model", "clip", "vae"))}
    prompt["learn"] = {
        "class_type": "TrainIdentityAdapter",
        "inputs": {**inputs, "name": DRAWN_PERSON},
    }
    prompt["learned"] = {
        "class_type": "SaveImage",
        "inputs": {"images": ["learn", 2], "filename_prefix": "demo_learned"},
    }
    for node in of_type(prompt, "ApplyPersonalization"):
        node["inputs"]["identity_adapter"] = ["learn", 0]
    return prompt


def of_type(prompt: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [node for node in prompt.values() if node["class_type"] == kind]


def sheets(
    client: ComfyClient, prompt: dict[str, Any], done: Execution, drawn: Case, out: Path
) -> list[Path]:
    """Write the gamma sheet, and, where the person was learned, the photos and what came of them."""
    bad = bad_picture(drawn)
    restored = sorted((gamma(prompt, name), name) for name in prompt if name.startswith("save "))
    pictures = [
        (f"gamma {g:g}" if g else "base (gamma 0)", picture(client, done, name)) for g, name in restored
    ]
    panels = [(f"bad picture, {bad.width} x {bad.height}", bad), *pictures]
    panels.append(("the person", drawn_image(drawn.hq[0])))
    size = (SIDE, SIDE)
    made = {GAMMA_SHEET: side_by_side([(label, p.resize(size, 3)) for label, p in panels])}
    made["person_photos.png"] = side_by_side(
        [(f"photo {n + 1}", photo) for n, photo in enumerate(photos(drawn))]
    )
    if "learned" in prompt:
        made["person_learned.png"] = picture(client, done, "learned")
    for name, sheet in made.items():
        write_png(sheet, out / name)
    return [out / name for name in made]


def gamma(prompt: dict[str, Any], save: str) -> float:
    """Of the picture that a node saves; 0 where no identity was applied."""
    sampler = prompt[save]["inputs"]["images"][0]
    return prompt[prompt[sampler]["inputs"]["model"][0]]["inputs"].get("gamma", 0.0)


def picture(client: ComfyClient, done: Execution, node: str) -> Image.Image:
    return decode(client.view(done.images(node)[0]))
