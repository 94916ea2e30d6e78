"""Importing torch, diffusers and transformers, which is most of what a short command waits for."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quick_imports() -> Iterator[None]:
    """Collect no garbage meanwhile: modules stay, and looking through them again and again is a third of the time."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
