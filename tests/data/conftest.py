"""Fixtures of the clips that the data tests make."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import made_clips
import permissions


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
    with permissions.folder_for_all() as folder:
        yield folder
