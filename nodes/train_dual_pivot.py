"""TrainDualPivot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from comfy_api.latest import io

from ..pfstorer_core.personalization.dual_pivot.header import DATA, MODEL_WEIGHTS, PIVOTS, TEXT_WEIGHTS
from .host.conditioning import restorer_of
from .host.dual_pivot import AUTO, CLASS, DEFAULTS, dual_pivot_settings, generic_folders
from .host.folders import adapters_stamp
from .host.inputs import (
    base_inputs,
    batch_input,
    cleaner_input,
    face_input,
    faces_input,
    fine_number,
    name_input,
    photos_input,
    preview_input,
    resume_input,
    seed_input,
)
from .host.lists import single_values
from .host.photos import Autogrown
from .host.training import learn_person, learned_outputs


class TrainDualPivot(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        advanced: dict[str, Any] = {"optional": True, "advanced": True}

        def count(name: str, default: int, most: int, tooltip: str, **how: Any) -> Any:
            return io.Int.Input(name, default=default, min=1, max=most, tooltip=tooltip, **how)

        def choice(name: str, options: Sequence[str], default: str, tooltip: str) -> Any:
            return io.Combo.Input(name, options=list(options), default=default, tooltip=tooltip, **advanced)

        return io.Schema(
            node_id="TrainDualPivot",
            display_name="Train Dual-Pivot",
            category="PFStorer",
            description="Learns a person for DiffBIR in two pivots: Stable Diffusion learns them under a "
            "word, then the control network learns to guide it. A second run finds the file.",
            search_aliases=["dual pivot", "dreambooth", "diffbir", "identity", "likeness", "train face",
                            "lora person", "face lora", "pfstorer"],
            is_output_node=True,
            is_input_list=True,  # a list of photos is one person
            inputs=[
                *base_inputs(),
                photos_input(),
                name_input(),
                io.String.Input("class_word", default=DEFAULTS.class_word,
                                tooltip="What the person is: man, woman, girl, … The rest of their class is "
                                "drawn by the base first, so that it stays what it was."),
                count("text_steps", DEFAULTS.text_steps("both"), 50_000,
                      "Training steps of the text pivot; 2500 as published."),
                count("model_steps", DEFAULTS.steps - DEFAULTS.text_steps("both"), 50_000,
                      "Training steps of the model pivot; 800 as published."),
                seed_input(),
                cleaner_input("The one that cleans bad pictures when you restore (Load Upscale Model). "
                              "Unconnected: the one in the checkpoint, if there is one."),
                resume_input(),
                choice("pivots", [AUTO, *PIVOTS], AUTO, "auto: both, or the text pivot alone where the "
                       "restorer has no control network. One alone is for comparisons."),
                choice("text_weights", TEXT_WEIGHTS, DEFAULTS.text_weights, "What the text pivot trains. "
                       "full: all of the U-Net, as published; at Stable Diffusion's size that needs 25 GB "
                       "and more, and a file of 1.7 GB."),
                choice("model_weights", MODEL_WEIGHTS, DEFAULTS.model_weights, "What the model pivot trains "
                       "of the control network. first150: its first tensors, as published."),
                count("rank", DEFAULTS.rank, 1024, "Rank of what is lora: more learns more, and makes a "
                      "larger file.", **advanced),
                io.String.Input("token", default=DEFAULTS.token, **advanced,
                                tooltip="The word that comes to mean the person: one that says nothing by "
                                "itself."),
                fine_number("prior_weight", DEFAULTS.prior_weight, "Weight of the loss that keeps the class; "
                            "0 draws no pictures of it.", 10.0, 0.01),
                count("class_pictures", DEFAULTS.class_pictures, 10_000, "How many of the class are drawn, "
                      "once for each base and class word.", **advanced),
                choice("data", DATA, DEFAULTS.data, "What the model pivot sees: the photos (personal, as "
                       "published), other faces (generic), or each as often (mixed)."),
                choice("pictures", generic_folders(), CLASS, "The other faces: the pictures of the class, or "
                       "those in a folder of ComfyUI's input folder."),
                batch_input(DEFAULTS.batch),
                count("accumulate", DEFAULTS.accumulate, 64, "Batches of the text pivot that make one step.",
                      **advanced),
                fine_number("lr", 0.0, "Learning rate of the text pivot; 0 takes what suits it."),
                fine_number("lr_model", 0.0, "Learning rate of the model pivot; 0 takes what suits it."),
                preview_input(),
                faces_input(),
                face_input(),
            ],
            hidden=[io.Hidden.unique_id],
            outputs=learned_outputs(),
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
        given = single_values(inputs)
        chosen = dual_pivot_settings(given, restorer_of(given["model"], given["vae"]))
        return learn_person(cls.hidden.unique_id, given, chosen, photos, faces)
