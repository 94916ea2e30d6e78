"""The run of seconds of `tiny_run`."""

from pathlib import Path

import pytest

from tiny_run import tiny_run
from trip.training.config import TrainingConfig


@pytest.fixture
def config(tmp_path: Path) -> TrainingConfig:
    return tiny_run(tmp_path)
