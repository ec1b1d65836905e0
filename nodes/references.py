"""ReferenceAttention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from comfy_api.latest import io

from ..pfstorer_core.personalization.identity import MAX_GAMMA, Identity
from ..pfstorer_core.personalization.reference_attention.references import LARGEST_CFG, ReferenceSettings
from ..pfstorer_core.personalization.references import REFERENCE_TIMESTEPS
from .host.adapters import area_of, personalized
from .host.conditioning import restorer_of
from .host.images import to_image
from .host.inputs import faces_input, percent, photos_input
from .host.lists import single_values
from .host.notes import show_notes
from .host.photos import Autogrown, gather_photos
from .host.references import CHOICES, ENCODINGS, read_person


class ReferenceAttention(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        def chosen(name: str, options: Sequence[str], tooltip: str) -> Any:
            return io.Combo.Input(name, options=list(options), default=options[0], optional=True,
                                  advanced=True, tooltip=tooltip)  # fmt: skip

        return io.Schema(
            node_id="ReferenceAttention",
            display_name="Reference Attention",
            category="PFStorer",
            description="Lets a restorer look at photos of a person, without training.",
            search_aliases=["reference", "reference only", "identity", "likeness", "same person", "zero shot",
                            "ip-adapter", "instantid", "cachekv", "ref-ldm", "stylealigned", "pfstorer"],
            is_input_list=True,  # a list of photos is one person
            inputs=[
                io.Model.Input("model", tooltip="From Load Base Restorer, also after Apply Personalization."),
                io.Vae.Input("vae", tooltip="From the same Load Base Restorer."),
                photos_input(),
                io.Float.Input("strength", default=1.0, min=0.0, max=MAX_GAMMA, step=0.05,
                               tooltip="How often the photos count: 0 is the MODEL as it is, bit for bit, 1 "
                               "as published, 2 as if each was given twice."),
                io.Float.Input("cfg", default=1.0, min=1.0, max=LARGEST_CFG, step=0.1, optional=True,
                               tooltip="Above 1 leads away from what is drawn without these photos, at the "
                               "cost of a second evaluation. ReF-LDM takes 1.5."),
                faces_input(),
                io.Mask.Input("mask", optional=True,
                              tooltip="Where this person is, over the whole picture; for group photos."),
                chosen("encoding", list(ENCODINGS), "How photos are encoded: all as one wide picture, which "
                       "ReF-LDM was trained with, or each for itself. auto: by what the restorer is."),
                chosen("adain", list(CHOICES), "Brings queries and keys to the photos' mean and deviation. "
                       "auto: where the network reads a prompt."),
                chosen("reference_timestep", REFERENCE_TIMESTEPS,
                       "How photos are read: once (zero), or anew in every step."),
                percent("start_percent", 0.0, "begins"),
                percent("end_percent", 1.0, "ends"),
            ],
            hidden=[io.Hidden.unique_id],
            outputs=[
                io.Model.Output(tooltip="The MODEL that looks at the photos: for a sampler."),
                io.Image.Output(display_name="references", tooltip="The faces that it looks at."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, photos: Autogrown, faces: Autogrown | None = None, **inputs: Sequence[Any]
    ) -> io.NodeOutput:
        given = single_values(inputs)
        restorer, strength = restorer_of(given["model"], given["vae"]), given["strength"]
        settings = ReferenceSettings(
            ENCODINGS[given.get("encoding", "auto")], CHOICES[given.get("adain", "auto")],
            given.get("reference_timestep", "zero"), given.get("cfg", 1.0),
        )  # fmt: skip
        area, person = area_of(given.get("mask")), gather_photos(photos, faces or {})
        references, squares, notes = read_person(restorer, given["vae"], person, settings)
        shown = show_notes(cls.hidden.unique_id, notes)
        model = given["model"].clone()
        if strength:
            identity = Identity(references, strength, area)
            span = given.get("start_percent", 0.0), given.get("end_percent", 1.0)
            model = personalized(given["model"], identity, *span)
        return io.NodeOutput(model, to_image(squares), ui=shown)
