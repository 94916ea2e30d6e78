"""The folder of a run: whose it is, who writes into it, and what of it may be replaced.

A run writes into an empty folder, or into one that a run has marked, and one process at a time does. Files that no run
made are never deleted: where they lie in what is to be replaced, the whole of that steps aside under another name. Nor
is any link followed when writing, since it would lead out of the folder.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from trip.data.text import printable
from trip.files import atomic_path, contents, lock_folder, write_json
from trip.training.config import TrainingConfig

MARK = "trip-run.json"
"""File that tells a run's folder from others."""

CONFIG, LOG, CHECKPOINTS, FINAL, LORA = "config.json", "log.jsonl", "checkpoints", "final", "lora"
VALIDATION, TRACKERS, FIRST_BATCH = "validation", "trackers", "first-batch.png"
WRITTEN = (MARK, CONFIG, LOG, CHECKPOINTS, VALIDATION, TRACKERS, FIRST_BATCH)
"""What is written into, in contrast to what is replaced whole."""


def check_folder(folder: Path) -> None:
    """Refuse a folder that a run may not write into.

    Raises:
        ValueError: it holds files and no run, or links in places that are written.
    """
    if not folder.is_dir():
        if os.path.lexists(folder):
            raise ValueError(f"output_dir (={folder}) is a file; name a folder")
        return
    names = contents(folder)
    if names and not (folder / MARK).is_file() and not is_older_run(folder):
        some = ", ".join(printable(name, 60) for name in names[:3]) + (", ..." if len(names) > 3 else "")
        raise ValueError(
            f"output_dir (={folder}) holds files that are no run's ({some}); choose another folder, or an empty one"
        )
    for name in WRITTEN:
        for path in links(folder / name):
            raise ValueError(f"{path} is a link, and a run writes into its own folder alone; remove the link")


def is_older_run(folder: Path) -> bool:
    """Whether a version that left no mark trained here: its settings are whole and there is a checkpoint."""
    if not any((folder / CHECKPOINTS).glob("step-*/counters.json")):
        return False
    try:
        TrainingConfig.load(folder / CONFIG)
    except ValueError:
        return False
    return True


def links(path: Path) -> Iterator[Path]:
    """The path, if it is a link, and links below it."""
    if path.is_symlink():
        yield path
        return
    for parent, folders, files in os.walk(path):
        yield from (Path(parent, name) for name in (*folders, *files) if os.path.islink(os.path.join(parent, name)))


@contextmanager
def claimed(folder: Path, write: bool = True) -> Iterator[None]:
    """Be the one process that trains in a folder; made if need be, and not left behind empty.

    Args:
        write: False in the other processes of a run, which write nothing.

    Raises:
        ValueError: another process trains there, or it may not be written into.
    """
    if not write:
        yield
        return
    check_folder(folder)
    with lock_folder(folder, "trained in"):
        check_folder(folder)
        for leftover in (folder / ".final", *(folder / CHECKPOINTS).glob(".step-*")):  # of killed older versions
            shutil.rmtree(leftover, ignore_errors=True)
        try:
            yield
        finally:
            if not contents(folder):
                with suppress(OSError):
                    folder.rmdir()


def mark(folder: Path) -> None:
    """Make a folder a run's."""
    write_json(folder / MARK, {"written by": "trip train"})


@contextmanager
def replaced(folder: Path) -> Iterator[Path]:
    """A path to write a folder at, which takes the place of an earlier one; files of others in that are kept.

    They are those that the new folder does not have.
    """
    with atomic_path(folder) as temporary:
        yield temporary
        if strangers(folder, {name for name, _ in files(temporary)}):
            os.replace(folder, free_name(folder))


def strangers(folder: Path, own: set[str]) -> bool:
    """Whether a folder, if there is one, holds other files than these."""
    return any(name not in own or path.is_symlink() for name, path in files(folder))


def files(folder: Path) -> Iterator[tuple[str, Path]]:
    """(name relative to the folder, path) of everything but folders; a link is not followed."""
    for parent, folders, names in os.walk(folder):
        linked = [name for name in folders if os.path.islink(os.path.join(parent, name))]
        for name in (*names, *linked):
            path = Path(parent, name)
            yield str(path.relative_to(folder)), path


def free_name(folder: Path) -> Path:
    """FOLDER.kept-N that is not there yet."""
    number = 1
    while os.path.lexists(path := folder.with_name(f"{folder.name}.kept-{number}")):
        number += 1
    return path
