"""Feature networks: uint8 clips in, float32 features out, each with its own preprocessing and its name."""
