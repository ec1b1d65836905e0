"""CLR-Face (Suin & Chellappa 2024), as far as its paper tells: diffusion among the latents of a VQ
autoencoder, which sees that of the bad picture and starts from that of a cleaned one."""

from ..registry import Architecture
from .variants import NOTES, VARIANTS, published

ARCHITECTURE = Architecture(
    "clr_face",
    condition=("concat", "pixels", "none"),
    start=("cleaned", "lq", "noise"),
    size_rule=("fixed", "tiled"),
    published=published,
    variants=tuple(VARIANTS),
    notes=NOTES,
)
