"""PFStorer (Varanka et al., CVPR 2024): blocks that attend to photos of the person."""
