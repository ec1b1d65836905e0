"""What the shipped workflows make of bad pictures of people who do not exist: the demo's sheets."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from PIL import Image

from .api_files import PATIENCE, read_api
from .picture import decode, middle_of_face, side_by_side
from .shipped.methods import METHODS, RESTORERS

if TYPE_CHECKING:
    from .client import ComfyClient, Event

PEOPLE = ("P007", "P008")
"""Of *Example Pictures*, whom no network here has seen."""
SIDE = 256
"""Pixels along a side of a panel."""

TRUE_FACE = "true face"
"""A node's id."""

Prompt = dict[str, Any]
Pictures = dict[str, list[Image.Image]]
OnEvent = Callable[[Prompt], Callable[["Event"], None]]
"""Makes what listens to the events of a prompt."""


def restored_photograph(client: ComfyClient, listen: OnEvent) -> Image.Image:
    """*Restore a real photograph*, beside the original."""
    prompt = read_api("restore_a_real_photograph")
    image, sampler = the_node(prompt, "ExamplePictures"), the_node(prompt, "TiledSRSampler")
    made = saved(client, prompt, {"bad": (image, 0), "restored": (sampler, 0), "truth": (image, 1)}, listen)
    captions = {"bad": "bad picture", "restored": "restored", "truth": "original"}
    return sheet({caption: made[name][0] for name, caption in captions.items()})


def restored_people(client: ComfyClient, listen: OnEvent, learn: bool = False) -> Image.Image:
    """*Restore a person* for each of `PEOPLE`: a row with the bad picture, what the restorer makes of it
    without and with the person, and the person."""
    rows = []
    for person in PEOPLE:
        adapter = learned(client, person, listen) if learn else person
        made = restored_person(client, person, adapter, listen)
        without, known = made["pictures"]
        rows += [
            ("bad picture", made["bad"][0]), ("without the person", without),
            (f"as {person}, of five photos", known), ("the person", made["truth"][0]),
        ]  # fmt: skip
    panels = [(caption, of_one_size(middle_of_face(picture))) for caption, picture in rows]
    return side_by_side(panels, len(rows) // len(PEOPLE))


def restored_person(client: ComfyClient, person: str, adapter: str, listen: OnEvent) -> Pictures:
    """The workflow's pictures at gamma 0 and 1, the face in the bad picture, and that in the true one."""
    prompt = read_api("restore_a_person")
    image, crop, gammas = (
        the_node(prompt, kind) for kind in ("ExamplePictures", "RestorationCropFace", "GammaSheet")
    )
    prompt[image]["inputs"]["example"] = f"{person}: bad picture"
    prompt[the_node(prompt, "LoadIdentityAdapter")]["inputs"]["name"] = f"{adapter}.safetensors"
    prompt[gammas]["inputs"]["gammas"] = "0, 1"
    prompt = with_true_face(prompt)
    wanted = {"bad": (crop, 0), "pictures": (gammas, 1), "truth": (TRUE_FACE, 0)}
    return saved(client, prompt, wanted, listen)


def learned(client: ComfyClient, person: str, listen: OnEvent) -> str:
    """*Learn a person*, of the five photos; the adapter's name."""
    prompt, name = read_api("learn_a_person"), f"demo_{person}"
    prompt[the_node(prompt, "ExamplePictures")]["inputs"]["example"] = f"{person}: five photos"
    prompt[the_node(prompt, "TrainIdentityAdapter")]["inputs"]["name"] = name
    client.run(prompt, listen(prompt), timeout=PATIENCE)
    return name


def compared_methods(client: ComfyClient, listen: OnEvent) -> Image.Image:
    """*Compare methods* and *CLR-Face*, which photos guide, on one bad picture, and the person."""
    prompt = read_api("compare_methods")
    crop, gammas = the_node(prompt, "RestorationCropFace"), the_node(prompt, "GammaSheet")
    made = saved(
        client, with_true_face(prompt),
        {"bad": (crop, 0), "pictures": (gammas, 1), "truth": (TRUE_FACE, 0)}, listen,
    )  # fmt: skip
    guided = read_api("restore_with_clr_face")
    by_photos = saved(client, guided, {"guided": (the_node(guided, "TiledSRSampler"), 0)}, listen)
    panels = {"bad picture": made["bad"][0]}
    for n, (method, (_, restorer)) in enumerate(METHODS.items()):
        panels[RESTORERS[restorer]] = made["pictures"][2 * n]
        panels[f"{method}, on {RESTORERS[restorer]}"] = made["pictures"][2 * n + 1]
    guidance = {"CLR-Face, photos guide": by_photos["guided"][0]}
    faces = {**panels, **guidance, "the person": made["truth"][0]}
    return sheet({caption: middle_of_face(face) for caption, face in faces.items()}, 4)


def with_true_face(prompt: Prompt) -> Prompt:
    """A prompt that cuts the face out of the true picture, too, as it does out of the bad one."""
    image, faces, crop = (
        the_node(prompt, kind) for kind in ("ExamplePictures", "RestorationFindFaces", "RestorationCropFace")
    )
    return prompt | {
        "true faces": {
            "class_type": "RestorationFindFaces",
            "inputs": {**prompt[faces]["inputs"], "image": [image, 1]},
        },
        TRUE_FACE: {
            "class_type": "RestorationCropFace",
            "inputs": {**prompt[crop]["inputs"], "image": [image, 1], "bboxes": ["true faces", 0]},
        },
    }


def the_node(prompt: Prompt, kind: str) -> str:
    """The id of the first node of a type."""
    return next(name for name, node in prompt.items() if node["class_type"] == kind)


def saved(
    client: ComfyClient, prompt: Prompt, wanted: Mapping[str, tuple[str, int]], listen: OnEvent
) -> Pictures:
    """Run a prompt that also saves what these outputs of nodes give: their pictures."""
    prompt = copy.deepcopy(prompt)
    for name, (node, output) in wanted.items():
        inputs = {"images": [node, output], "filename_prefix": f"demo_{name}"}
        prompt[f"save {name}"] = {"class_type": "SaveImage", "inputs": inputs}
    done = client.run(prompt, listen(prompt), timeout=PATIENCE)
    return {name: [decode(client.view(image)) for image in done.images(f"save {name}")] for name in wanted}


def sheet(panels: Mapping[str, Image.Image], columns: int = 0) -> Image.Image:
    return side_by_side([(caption, of_one_size(picture)) for caption, picture in panels.items()], columns)


def of_one_size(picture: Image.Image) -> Image.Image:
    return picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
