"""Fixtures of the whole suite. Shapes and types of every call into `trip` and `lab` are checked under pytest only."""

from pathlib import Path

import hypothesis
import pytest
import torch
from jaxtyping import install_import_hook

install_import_hook(["trip", "lab"], "typecheck.typecheck")  # must precede the first import of either

hypothesis.settings.register_profile("trip", deadline=None, derandomize=True, database=None, max_examples=40)
hypothesis.settings.load_profile("trip")


@pytest.fixture
def shared() -> Path:
    """Folder of clips, stills and feature-network weights that lies beside a developer's checkout."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("needs the shared data folder beside the checkout")
    return folder


@pytest.fixture
def rng() -> torch.Generator:
    """Seeded source of randomness."""
    return torch.Generator().manual_seed(0)
