"""LoadIdentityAdapter and SaveIdentityAdapter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from comfy_api.latest import io

from ..pfstorer_core.personalization.base import Adapter
from ..pfstorer_core.personalization.folder import find_path, saved_as
from ..pfstorer_core.personalization.portrait import portrait_of, write_beside
from ..pfstorer_core.personalization.registry import load_identity_adapter
from .host.adapters import IdentityAdapterType
from .host.embedding import with_face
from .host.folders import adapter_file, adapter_names, adapter_path, adapters_stamp, stamp
from .host.images import from_image
from .host.inputs import photos_input
from .host.lists import as_list, single_values
from .host.notes import show_notes
from .host.photos import Autogrown, photos_in
from .host.recognition import FaceRecognizerType


class LoadIdentityAdapter(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoadIdentityAdapter",
            display_name="Load Identity Adapter",
            category="PFStorer",
            description="Loads a person that was learned, by whatever method.",
            search_aliases=["person", "face model", "lora person", "likeness", "load face", "pfstorer"],
            inputs=[
                io.Combo.Input(
                    "name",
                    # Not a remote one: at the first look that takes the first choice, whoever was saved.
                    options=adapter_names(),
                    tooltip="A file of models/identity_adapters. A person learned since is offered after "
                    "the key R.",
                )
            ],
            outputs=[
                IdentityAdapterType.Output(
                    display_name="identity_adapter",
                    tooltip="The person: for Apply Personalization, Choose Identity or Gamma Sheet.",
                )
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, name: str | None = None) -> str:
        """A file that was replaced is loaded again. What is linked from another node is not known here."""
        return stamp(adapter_path(name)) if name else ""

    @classmethod
    def validate_inputs(cls, name: str | None = None) -> bool:
        """Any name is tried: the person may be learned while the prompt waits."""
        return True

    @classmethod
    def execute(cls, name: str) -> io.NodeOutput:
        return io.NodeOutput(load_identity_adapter(adapter_path(name)))


class SaveIdentityAdapter(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SaveIdentityAdapter",
            display_name="Save Identity Adapter",
            category="PFStorer",
            description="Saves a copy of an adapter under another name. It is biometric data: whoever has it "
            "can see the face.",
            search_aliases=[
                "person",
                "face model",
                "save face",
                "portrait",
                "cover",
                "thumbnail",
                "face embedding",
                "pfstorer",
            ],
            is_input_list=True,  # a list of photos is one person
            inputs=[
                IdentityAdapterType.Input(
                    "identity_adapter", tooltip="From Load Identity Adapter, or a node that learned a person."
                ),
                io.String.Input(
                    "name", default="person", tooltip="Name of the file in models/identity_adapters."
                ),
                io.Image.Input(
                    "portrait",
                    optional=True,
                    tooltip="A picture whose largest face the list of "
                    "models is to show. Unconnected: none, and nobody sees a face by looking at the "
                    "list.",
                ),
                photos_input(
                    0,
                    "A photo of the person: the copy gets an embedding of the face, by which Choose Identity "
                    "finds them. Unconnected: what the adapter has.",
                    optional=True,
                ),
                FaceRecognizerType.Input(
                    "recognizer",
                    optional=True,
                    tooltip="What embeds the photos. Unconnected: dlib's, which comes with the pack.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def fingerprint_inputs(cls, name: Sequence[str | None] = (), **_: Any) -> list[str] | float:
        """Saves again what was deleted."""
        return adapters_stamp(name[0] if name else None)

    @classmethod
    def execute(
        cls, identity_adapter: Any, name: Any, portrait: Any = None, photos: Autogrown | None = None,
        recognizer: Any = None,
    ) -> io.NodeOutput:  # fmt: skip
        inputs = {"identity_adapter": identity_adapter, "name": name, "portrait": portrait}
        given = single_values({key: as_list(value) for key, value in inputs.items()})
        adapter: Adapter | None = given["identity_adapter"]
        if adapter is None:
            raise ValueError("There is nobody to save: the face that this comes from is nobody's.")
        portrait, file = given["portrait"], adapter_file(given["name"])
        face = (
            None if portrait is None else portrait_of(from_image(portrait, "portrait")[:1].cpu().clamp(0, 1))
        )
        embedded = []
        if photos and (pictures := photos_in(photos)):
            adapter, embedded = with_face(adapter, pictures, as_list(recognizer)[0])
        # Another person of that name stays: the file gets a number.
        path, _ = find_path(file, adapter.header.run_key)
        adapter.save(path, face)
        notes = [saved_as(path, file), *embedded, *([] if face is None else [write_beside(face, path)])]
        return io.NodeOutput(ui=show_notes(cls.hidden.unique_id, notes))
