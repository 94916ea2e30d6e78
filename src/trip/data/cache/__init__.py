"""Latent caches: clips that were encoded once."""
