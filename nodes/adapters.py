"""LoadIdentityAdapter and SaveIdentityAdapter."""

from __future__ import annotations

from comfy_api.latest import io

from ..pfstorer_core.adapter import IdentityAdapter, load_identity_adapter
from ..pfstorer_core.training.resume import place
from .identity import IdentityAdapterType
from .paths import adapter_file, adapter_names, adapter_path, stamp


class LoadIdentityAdapter(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoadIdentityAdapter",
            display_name="Load Identity Adapter",
            category="PFStorer",
            description="Loads a person that TrainIdentityAdapter has learned.",
            inputs=[
                io.Combo.Input("name", options=adapter_names(), tooltip="A file of models/identity_adapters.")
            ],
            outputs=[IdentityAdapterType.Output(display_name="identity_adapter")],
        )

    @classmethod
    def fingerprint_inputs(cls, name: str | None = None) -> str:
        """A file that was replaced is loaded again. What is linked from another node is not known here."""
        return stamp(adapter_path(name)) if name else ""

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
            inputs=[
                IdentityAdapterType.Input("identity_adapter", tooltip="Of TrainIdentityAdapter."),
                io.String.Input("name", default="person", tooltip="Of the file in models/identity_adapters."),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, identity_adapter: IdentityAdapter, name: str) -> io.NodeOutput:
        # Another person of that name stays: the file gets a number.
        path, _ = place(adapter_file(name), identity_adapter.header.run_key)
        identity_adapter.save(path)
        return io.NodeOutput()
