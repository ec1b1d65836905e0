"""DiffBIR (Lin et al. 2024): a control network on a frozen Stable Diffusion sees a cleaned picture."""

from ..registry import Architecture
from .variants import GUIDANCE, VARIANTS, published

ARCHITECTURE = Architecture(
    "diffbir",
    condition=("control",),
    start=("noise", "lq"),
    size_rule=("tiled", "fixed"),
    published=published,
    variants=tuple(VARIANTS),
    guidance=GUIDANCE,
)
