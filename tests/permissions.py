"""Tests as root of what only other users are refused."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NOBODY = 65534


@contextmanager
def unprivileged() -> Iterator[None]:
    """Root ignores permissions: become nobody for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@contextmanager
def folder_for_all(mode: int = 0o755) -> Iterator[Path]:
    """A scratch folder that unprivileged users can enter (pytest's own is private)."""
    folder = Path(tempfile.mkdtemp(prefix="trip-test-"))
    folder.chmod(mode)
    yield folder
    shutil.rmtree(folder)
