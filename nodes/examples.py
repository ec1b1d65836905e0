"""ExamplePictures."""

from __future__ import annotations

import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ..pfstorer_core.imaging.pictures import read_picture
from ..pfstorer_core.imaging.resizing import resize
from .host.folders import ASSETS
from .host.images import to_image

FOLDER = ASSETS / "examples"
BAD, PHOTOS, PAIR = "bad picture", "five photos", "before and after"
PEOPLE, GROUP = ("P007", "P008", "P004"), "group"
EXAMPLES = [
    *(f"{person}: {what}" for person in PEOPLE for what in (BAD, PHOTOS, PAIR)),
    *(f"{GROUP}: {what}" for what in (BAD, PAIR)),
]


class ExamplePictures(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExamplePictures",
            display_name="Example Pictures",
            category="PFStorer",
            description="Pictures to try a workflow with: a bad one, good photos of the same person, a "
            "group. The people do not exist.",
            search_aliases=["example", "sample", "demo", "test image", "portrait", "photo", "pfstorer"],
            inputs=[
                io.Combo.Input(
                    "example",
                    options=EXAMPLES,
                    tooltip="bad picture: to restore. five photos: to learn the same person from; the bad "
                    "picture is of another one. before and after: the bad picture, enlarged, and the true "
                    "one. group: all three people in one picture.",
                )
            ],
            has_intermediate_output=True,  # shown also where the host has it from an earlier run
            outputs=[
                io.Image.Output(
                    tooltip="What was chosen; five photos and before and after are a batch of one size."
                ),
                io.Image.Output(
                    display_name="truth",
                    tooltip="What the bad picture was made of, twice its size: to judge a result by. Of good "
                    "photos, themselves.",
                ),
            ],
        )

    @classmethod
    def execute(cls, example: str) -> io.NodeOutput:
        if example not in EXAMPLES:
            raise ValueError(f"There is no example {example}: choose one of {', '.join(EXAMPLES)}.")
        who, _, what = example.partition(": ")
        if what == PHOTOS:
            shown = truth = torch.cat([_picture(f"{who}_photo_{n}.jpg") for n in range(1, 6)])
        else:
            shown, truth = _picture(f"{who}_bad.png"), _picture(f"{who}_true.jpg")
        if what == PAIR:
            enlarged = resize(shown, (truth.shape[-2], truth.shape[-1]))
            shown = torch.cat([enlarged, truth])
        image = to_image(shown)
        return io.NodeOutput(image, to_image(truth), ui=ui.PreviewImage(image))


def _picture(name: str) -> Tensor:
    return read_picture(FOLDER / name)
