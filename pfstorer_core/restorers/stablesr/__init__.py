"""StableSR (Wang et al. 2024): a frozen Stable Diffusion, steered by the features of the LQ latent."""
