"""Training: the autoencoder with its CFW, and the base restorer."""
