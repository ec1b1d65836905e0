"""TrainIdentityAdapter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import comfy.model_management as mm
import torch
from comfy.utils import ProgressBar
from comfy_api.latest import io

from ..pfstorer_core.personalization.learn import learn
from ..pfstorer_core.personalization.pfstorer.header import NULL_LQ, REFERENCE_TIMESTEPS
from ..pfstorer_core.personalization.photos import MAX_PHOTOS
from ..pfstorer_core.training.progress import Progress
from .host.adapters import IdentityAdapterType
from .host.conditioning import restorer_of
from .host.folders import adapter_file, adapters_stamp
from .host.images import to_image
from .host.notes import show_notes, show_text
from .host.photos import Autogrown, gather_photos, single_value
from .host.training import (
    DEFAULTS,
    RANK,
    loss_map,
    settings,
    thumbnail,
    time_left,
    trained_methods,
    training_copy,
)

PREVIEW_SIDE = 512


class TrainIdentityAdapter(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        def growing(name: str, of: Any, least: int) -> Any:
            template = io.Autogrow.TemplatePrefix(of, prefix=f"{name[:-1]}_", min=least, max=MAX_PHOTOS)
            return io.Autogrow.Input(name, template=template, tooltip=of.tooltip)

        def number(name: str, default: float, tooltip: str, most: float = 1.0, step: float = 0.0001) -> Any:
            return io.Float.Input(name, default=default, min=0.0, max=most, step=step, round=False,
                                  optional=True, advanced=True, tooltip=tooltip)  # fmt: skip

        photo = io.Image.Input("photo", tooltip="A good photo of the person, of any size; 3 to 5 are best.")
        mask = io.Mask.Input(
            "face", optional=True, tooltip="The face in the photo of this number, where it is small."
        )
        return io.Schema(
            node_id="TrainIdentityAdapter",
            display_name="Train Identity Adapter",
            category="PFStorer",
            description="Learns a person from a few good photos, once: a second run finds the file.",
            search_aliases=["identity", "train face", "personalization", "pfstorer"],
            is_output_node=True,
            is_input_list=True,  # a list of photos is one person
            inputs=[
                io.Model.Input("model", tooltip="Of LoadBaseRestorer."),
                io.Clip.Input("clip", tooltip="Of the same LoadBaseRestorer."),
                io.Vae.Input("vae", tooltip="Of the same LoadBaseRestorer."),
                growing("photos", photo, 1),
                io.String.Input("name", default="person", tooltip="Of the file in models/identity_adapters."),
                io.Int.Input("steps", default=DEFAULTS.steps, min=1, max=100_000,
                             tooltip="Training steps; the paper takes 500."),
                io.Int.Input("seed", default=0, min=0, max=2**63 - 1, control_after_generate=False,
                             tooltip="Same photos, settings and seed: the same adapter."),
                io.Combo.Input("resume", options=["auto", "restart"], default="auto", optional=True,
                               tooltip="auto: go on with what was stopped, and take what is finished."),
                io.Int.Input("batch", default=DEFAULTS.batch, min=1, max=64, optional=True, advanced=True,
                             tooltip="Samples a step: less takes less memory."),
                io.Int.Input("preview_every", default=0, min=0, max=100_000, optional=True, advanced=True,
                             tooltip="Steps between previews, which take time; 0 shows them after 0, 10, 25, "
                             "50 and 100 steps, then every 100."),
                number("lr", 0.0, "Learning rate of the blocks; 0 takes what suits the restorer."),
                number("gamma_lr", 0.0, "Learning rate of gamma; 0 takes what suits the restorer."),
                number("token_lr", DEFAULTS.token_lr, "Learning rate of the person's word."),
                number("lambda_gen", DEFAULTS.lambda_gen, "Weight of the loss without the bad picture: more "
                       "helps very bad pictures and harms good ones.", 10.0, 0.01),
                number("lambda_pers", DEFAULTS.lambda_pers, "Weight of the loss that ties the word to them."),
                number("p_hq", DEFAULTS.p_hq, "Share of samples whose picture is good already."),
                io.Combo.Input("null_lq", options=list(NULL_LQ), default="drop", optional=True, advanced=True,
                               tooltip="What stands for no bad picture: no SFT, a zero latent, or gray."),
                io.Combo.Input("reference_timestep", options=list(REFERENCE_TIMESTEPS), default="zero",
                               optional=True, advanced=True,
                               tooltip="How photos are read: once (zero), or anew in every step."),
                io.String.Input("sites", default="", optional=True, advanced=True,
                                tooltip="Where the person is learned, such as output_blocks.4.1, with commas "
                                "between; empty: what suits the restorer."),
                growing("faces", mask, 0),
                io.Combo.Input("method", options=trained_methods(), default=DEFAULTS.method, optional=True,
                               tooltip="What is learned: PFStorer's blocks, or a LoRA to compare them with."),
                io.Int.Input("rank", default=RANK, min=1, max=1024, optional=True, advanced=True,
                             tooltip="Of a LoRA: more learns more, and makes a larger file."),
            ],
            hidden=[io.Hidden.unique_id],
            outputs=[
                IdentityAdapterType.Output(display_name="identity_adapter"),
                io.Custom("LOSS_MAP").Output(display_name="loss"),
                io.Image.Output(
                    display_name="preview",
                    tooltip="The crops that are learned from (framed in orange where no face was found), and "
                    "below them a bad picture, base, personalized, photo.",
                ),
            ],
        )  # fmt: skip

    @classmethod
    def fingerprint_inputs(cls, name: Sequence[str | None] = (), **_: Any) -> list[str] | float:
        """Runs again where an adapter of that name was deleted, or one was added to them: what is there
        already is found at once. A name that is linked from another node is not known here."""
        return adapters_stamp(name[0] if name else None)

    @classmethod
    def execute(
        cls, photos: Autogrown, faces: Autogrown | None = None, **inputs: Sequence[Any]
    ) -> io.NodeOutput:
        given = {name: single_value(name, values) for name, values in inputs.items()}
        model, vae, name, resume = given["model"], given["vae"], given["name"], given.get("resume", "auto")
        base = restorer_of(model, vae).fingerprint
        chosen, file = settings(given), adapter_file(name)
        person = gather_photos(photos, faces or {})
        bar = ProgressBar(chosen.steps)

        def show(progress: Progress) -> None:
            show_text(cls.hidden.unique_id, time_left(progress))
            preview = (
                None if progress.picture is None else ("JPEG", thumbnail(progress.picture), PREVIEW_SIDE)
            )
            bar.update_absolute(progress.step, progress.steps, preview)
            mm.throw_exception_if_processing_interrupted()

        with torch.inference_mode(False), torch.enable_grad():
            pictures = [picture.clone() for picture in person.photos]
            learned = learn(
                lambda: training_copy(model), base, pictures, chosen, person.boxes, file,
                resume == "restart", show, mm.throw_exception_if_processing_interrupted,
            )  # fmt: skip
        notes = show_notes(cls.hidden.unique_id, [*learned.notes, *person.notes])
        return io.NodeOutput(learned.adapter, loss_map(learned.adapter), to_image(learned.sheet), ui=notes)
