"""Both streams through a whole U-Net, against ViCo."""

import torch

from pfstorer_core.models import UNet, UNetConfig
from pfstorer_core.models.transformer import CrossAttention
from pfstorer_core.personalization.pfstorer.block import Influence
from pfstorer_core.personalization.pfstorer.reference import (
    attention_loss,
    otsu_mask,
    reference_features,
    token_maps,
)
from pfstorer_core.restorers.changes import sum_at

from . import golden
from .vico import IMAGE, block_of, split, weights

VICO_UNET = "vico_unet"


def test_both_streams():
    given, out = golden.group(VICO_UNET, "in"), golden.group(VICO_UNET, "out")
    meta = golden.metadata(VICO_UNET)
    tensors = weights(VICO_UNET)
    sites = meta["image_attention_blocks"]
    blocks = {}
    for site in sites:
        own, tensors = split(tensors, f"{site}.{IMAGE}")
        blocks[site] = block_of(own, meta["num_heads"])
    unet = UNet(
        UNetConfig(
            in_channels=given["x"].shape[1],
            out_channels=given["x"].shape[1],
            model_channels=meta["model_channels"],
            channel_mult=tuple(meta["channel_mult"]),
            num_res_blocks=meta["num_res_blocks"],
            attention_resolutions=tuple(meta["attention_resolutions"]),
            num_head_channels=meta["model_channels"],
            context_dim=given["context"].shape[-1],
            sft_channels=0,
        )
    )
    unet.load_state_dict(tensors)
    unet.requires_grad_(False)
    for module in unet.modules():
        if isinstance(module, CrossAttention):
            module.heads = meta["num_heads"]  # SD 1.x: as many heads at every width

    t, context = given["t"], given["context"]
    words = given["token_index"].long(), given["eot_index"].long()
    features = reference_features(unet, given["ref"], t, context, sites)
    personalization, losses = {}, []
    for site in sites:
        person, end = token_maps(unet, site, features[site], context, *words)
        expected = golden.group(VICO_UNET, f"mid.{site}")
        assert torch.equal(otsu_mask(person), expected["mask"].bool()), site
        losses.append(attention_loss(person, end))
        golden.assert_near(losses[-1], expected["loss_reg"].squeeze(), 1e-3)
        reference = blocks[site].read(features[site].tokens, otsu_mask(person))
        personalization[site] = sum_at([Influence(blocks[site], reference)])
    golden.assert_near(torch.stack(losses).sum(), out["loss_reg_sum"].squeeze(), 1e-3)
    plain = unet(given["x"], t, context)
    golden.assert_near(plain, out["eps_without_image_attn"], 1e-3)
    golden.assert_near(unet(given["x"], t, context, sites=personalization), out["eps"], 1e-3)

    idle = {
        site: sum_at([Influence(block.requires_grad_(False), block.read(features[site].tokens), 0.0)])
        for site, block in blocks.items()
        if site in sites
    }
    assert torch.equal(unet(given["x"], t, context, sites=idle), plain)
