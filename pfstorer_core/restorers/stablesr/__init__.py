"""StableSR (Wang et al. 2024): a frozen Stable Diffusion, steered by the features of the LQ latent."""

from ..registry import Architecture

ARCHITECTURE = Architecture("stablesr", condition=("sft",), start=("lq", "noise"), size_rule=("tiled",))
