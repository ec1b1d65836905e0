"""Noise schedules, samplers and guidance: what holds for every diffusion model."""
