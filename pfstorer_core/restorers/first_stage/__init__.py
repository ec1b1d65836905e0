"""Training of autoencoders, the first stage of every latent restorer."""
