"""LoadIdentityAdapter and SaveIdentityAdapter."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..pfstorer_core.personalization.base import Adapter
from ..pfstorer_core.personalization.folder import find_path, saved_as
from ..pfstorer_core.personalization.portrait import portrait_of, write_beside
from ..pfstorer_core.personalization.registry import load_identity_adapter
from .host.adapters import IdentityAdapterType
from .host.folders import adapter_file, adapter_names, adapter_path, adapters_stamp, stamp
from .host.images import from_image
from .host.notes import show_notes


class LoadIdentityAdapter(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoadIdentityAdapter",
            display_name="Load Identity Adapter",
            category="PFStorer",
            description="Loads a person that was learned, by whatever method.",
            inputs=[
                io.Combo.Input(
                    "name",
                    # Not a remote one: at the first look that takes the first choice, whoever was saved.
                    options=adapter_names(),
                    tooltip="A file of models/identity_adapters. A person learned since is offered after "
                    "the key R.",
                )
            ],
            outputs=[IdentityAdapterType.Output(display_name="identity_adapter")],
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
            search_aliases=["person", "portrait", "cover", "thumbnail", "pfstorer"],
            inputs=[
                IdentityAdapterType.Input("identity_adapter", tooltip="Of a node that learned a person."),
                io.String.Input("name", default="person", tooltip="Of the file in models/identity_adapters."),
                io.Image.Input(
                    "portrait",
                    optional=True,
                    tooltip="A picture whose largest face the list of "
                    "models is to show. Unconnected: none, and nobody sees a face by looking at the "
                    "list.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def fingerprint_inputs(cls, name: str | None = None, **_: Any) -> list[str] | float:
        """Saves again what was deleted."""
        return adapters_stamp(name)

    @classmethod
    def execute(cls, identity_adapter: Adapter, name: str, portrait: Tensor | None = None) -> io.NodeOutput:
        # Another person of that name stays: the file gets a number.
        file = adapter_file(name)
        face = (
            None if portrait is None else portrait_of(from_image(portrait, "portrait")[:1].cpu().clamp(0, 1))
        )
        path, _ = find_path(file, identity_adapter.header.run_key)
        identity_adapter.save(path, face)
        notes = [saved_as(path, file), *([] if face is None else [write_beside(face, path)])]
        return io.NodeOutput(ui=show_notes(cls.hidden.unique_id, notes))
