"""U-Net and LQ encoder with weights by formula, at Stable Diffusion's own level widths."""

import torch

from harness.stand_ins import formula
from pfstorer_core.models import Conditioning, LQEncoder, UNet
from pfstorer_core.models.ops import Backend

from . import golden
from .formula import PREFIXES, filled
from .networks import lq_encoder_config, unet_config

FORMULA = "stablesr_formula_1244"


def formula_networks() -> tuple[torch.nn.Module, torch.nn.Module]:
    header = golden.metadata(FORMULA)
    meta = Backend(device="meta")
    unet = UNet(unet_config(header["unet_config"]), meta)
    encoder = LQEncoder(lq_encoder_config(header["structcond_config"]), meta)
    seed = int(header["formula_seed"])
    return filled(unet, PREFIXES["unet"], seed), filled(encoder, PREFIXES["lq_encoder"], seed)


def test_formula_weights_are_the_reference_s():
    seed = int(golden.metadata(FORMULA)["formula_seed"])
    state = {
        prefix + key: tuple(value.shape)
        for module, prefix in zip(formula_networks(), (PREFIXES["unet"], PREFIXES["lq_encoder"]), strict=True)
        for key, value in module.state_dict().items()
    }
    probes = golden.group(FORMULA, "probe")
    assert probes
    for name, expected in probes.items():
        ours = formula(name, state[name], seed).flatten()[: len(expected)]
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-7)


def test_networks_with_formula_weights():
    unet, encoder = formula_networks()
    given = golden.tensors(FORMULA)
    features = encoder(given["lq_latent"], given["t"])
    for ours, theirs in zip(features, golden.by_level(golden.group(FORMULA, "struct")), strict=True):
        golden.assert_near(ours, theirs)
    golden.assert_near(unet(given["x"], given["t"], given["context"], Conditioning(features)), given["out"])
