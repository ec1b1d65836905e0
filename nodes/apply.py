"""ApplyPersonalization."""

from __future__ import annotations

from typing import Any, cast

from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io
from torch import Tensor

from ..pfstorer_core.models import UNet
from ..pfstorer_core.personalization.base import Adapter
from ..pfstorer_core.personalization.identity import MAX_GAMMA, Identity
from .host.adapters import IdentityAdapterType, area_of, personalized
from .host.inputs import percent
from .host.model import RestorerModel
from .host.weights import check_no_mask


class ApplyPersonalization(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        def factor(name: str, where: str) -> Any:
            return io.Float.Input(name, default=1.0, min=0.0, max=2.0, step=0.05, optional=True,
                                  advanced=True, tooltip=f"Further factor on gamma for {where}.")  # fmt: skip

        return io.Schema(
            node_id="ApplyPersonalization",
            display_name="Apply Personalization",
            category="PFStorer",
            description="Lets a restorer know a person. Several in a row add up.",
            search_aliases=["identity", "face", "adapter", "likeness", "lora person", "same person",
                            "consistent face", "ip-adapter", "faceid", "instantid", "pfstorer"],
            inputs=[
                io.Model.Input("model",
                               tooltip="From Load Base Restorer: the base that the adapter learned on."),
                IdentityAdapterType.Input("identity_adapter",
                                          tooltip="From Load Identity Adapter, the node that learned it, or "
                                          "Choose Identity, whose nobody leaves the MODEL alone."),
                io.Float.Input("gamma", default=1.0, min=0.0, max=MAX_GAMMA, step=0.05,
                               tooltip="Strength. 0 is the base restorer, bit for bit; above 1 exaggerates."),
                io.Mask.Input("mask", optional=True,
                              tooltip="Where this person is, over the whole picture; for group photos. One "
                              "for all pictures, or one for each; of any size, not empty. Not for a LoRA "
                              "or a Dual-Pivot adapter."),
                factor("coarse", "the coarsest features (the shape of the head)"),
                factor("middle", "the features in between"),
                factor("fine", "the finest features (skin, hair)"),
                percent("start_percent", 0.0, "begins"),
                percent("end_percent", 1.0, "ends"),
            ],
            outputs=[io.Model.Output(tooltip="The MODEL that knows the person: for a sampler, or for another "
                                     "person's Apply Personalization.")],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, model: ModelPatcher, identity_adapter: Adapter | None, gamma: float, mask: Tensor | None = None,
        coarse: float = 1.0, middle: float = 1.0, fine: float = 1.0, start_percent: float = 0.0,
        end_percent: float = 1.0,
    ) -> io.NodeOutput:  # fmt: skip
        if not isinstance(model.model, RestorerModel):
            raise ValueError(
                f"This MODEL is a {type(model.model).__name__}, which knows no identities: connect the MODEL "
                "of Load Base Restorer."
            )
        if identity_adapter is None:  # nobody's face, of ChooseIdentity
            return io.NodeOutput(model.clone())
        area = area_of(mask)
        if identity_adapter.kinds - {"sites", "context"}:
            check_no_mask(mask, identity_adapter.header.method)
        factors = {4: coarse, 2: middle, 1: fine}
        identity = Identity(identity_adapter, gamma, area, factors)
        identity_adapter.check_base(model.model.fingerprint, "this MODEL")
        unet = cast(UNet, model.model.diffusion_model)
        identity_adapter.check_fit(unet, model.model.header.image_size, "this MODEL")
        if not gamma:
            return io.NodeOutput(model.clone())
        return io.NodeOutput(personalized(model, identity, start_percent, end_percent))
