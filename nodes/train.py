"""TrainIdentityAdapter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from comfy_api.latest import io

from ..pfstorer_core.personalization.pfstorer.header import NULL_LQ
from ..pfstorer_core.personalization.references import REFERENCE_TIMESTEPS
from .host.folders import adapters_stamp
from .host.inputs import (
    base_inputs,
    batch_input,
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
from .host.training import (
    DEFAULTS,
    RANK,
    learn_person,
    learned_outputs,
    settings,
    trained_methods,
)


class TrainIdentityAdapter(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TrainIdentityAdapter",
            display_name="Train Identity Adapter",
            category="PFStorer",
            description="Learns a person from a few good photos, once: a second run finds the file.",
            search_aliases=["identity", "train face", "personalization", "likeness", "lora person",
                            "face lora", "train lora", "dreambooth", "pfstorer"],
            is_output_node=True,
            is_input_list=True,  # a list of photos is one person
            inputs=[
                *base_inputs(),
                photos_input(),
                name_input(),
                io.Int.Input("steps", default=DEFAULTS.steps, min=0, max=100_000,
                             tooltip="Training steps; the paper takes 500. 0: photos are only looked at, "
                             "where the restorer has a start for adapters beside it."),
                seed_input(),
                resume_input(),
                batch_input(DEFAULTS.batch),
                preview_input(),
                fine_number("lr", 0.0, "Learning rate of the blocks; 0 takes what suits the restorer."),
                fine_number("gamma_lr", 0.0, "Learning rate of gamma; 0 takes what suits the restorer."),
                fine_number("token_lr", DEFAULTS.token_lr, "Learning rate of the person's word."),
                fine_number("lambda_gen", DEFAULTS.lambda_gen, "Weight of the loss without the bad picture: "
                            "more helps very bad pictures and harms good ones.", 10.0, 0.01),
                fine_number("lambda_pers", DEFAULTS.lambda_pers, "Weight of the loss that ties the word to "
                            "the person."),
                fine_number("p_hq", DEFAULTS.p_hq, "Share of samples whose picture is good already."),
                io.Combo.Input("null_lq", options=list(NULL_LQ), default="drop", optional=True, advanced=True,
                               tooltip="What stands for no bad picture: no SFT, a zero latent, or gray."),
                io.Combo.Input("reference_timestep", options=list(REFERENCE_TIMESTEPS), default="zero",
                               optional=True, advanced=True,
                               tooltip="How photos are read: once (zero), or anew in every step."),
                io.String.Input("sites", default="", optional=True, advanced=True,
                                tooltip="Where the person is learned, such as output_blocks.4.1, with commas "
                                "between; empty: what suits the restorer."),
                faces_input(),
                io.Combo.Input("method", options=trained_methods(), default=DEFAULTS.method, optional=True,
                               tooltip="What is learned: PFStorer's blocks, or a LoRA to compare them with. "
                               "Dual-Pivot has a node of its own, Train Dual-Pivot (TrainDualPivot)."),
                io.Int.Input("rank", default=RANK, min=1, max=1024, optional=True, advanced=True,
                             tooltip="Rank of a LoRA: more learns more, and makes a larger file."),
                face_input(),
                io.Boolean.Input("graphs", default=False, optional=True, advanced=True,
                                 tooltip="On NVIDIA: replay what a step launches as CUDA graphs, which waits "
                                 "less for Python. Nobody has run this on a GPU yet; where it cannot be, it "
                                 "learns without."),
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
        return learn_person(cls.hidden.unique_id, given, settings(given), photos, faces)
