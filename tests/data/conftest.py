"""Fixtures of the clips that the data tests make."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import made_clips
import pytest


@pytest.fixture(name="numbered")
def numbered_fixture() -> Callable[..., Path]:
    return made_clips.numbered


@pytest.fixture(name="clips")
def clips_fixture() -> object:
    """The module `made_clips`, for tests that need several of its functions."""
    return made_clips


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A scratch folder that unprivileged users can enter (pytest's own is private)."""
    folder = Path(tempfile.mkdtemp(prefix="trip-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)
