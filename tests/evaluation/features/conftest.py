"""Clips for the feature networks, and their reference values where the shared folder is there."""

from pathlib import Path

import numpy as np
import pytest
import torch


@pytest.fixture
def clips() -> torch.Tensor:
    """Two random clips of 16 frames, 40 x 24 pixels."""
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 16, 24, 40, 3), dtype=np.uint8))


@pytest.fixture
def weights(shared) -> Path:
    """Folder of converted weights and reference outputs."""
    return shared / "weights"


def relative_error(found, expected) -> float:
    """L2 norm of the difference over that of the expected."""
    return float(np.linalg.norm(np.asarray(found) - expected) / np.linalg.norm(expected))


@pytest.fixture(name="relative_error")
def relative_error_fixture():
    return relative_error
