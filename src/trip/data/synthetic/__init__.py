"""Synthetic motion: seeded clips of camera moves, moving objects and effects, with their captions."""
