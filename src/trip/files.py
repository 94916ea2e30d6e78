"""Writing to disk: a result is there whole or not at all, and one folder has one writer.

Everything is written inside a private folder beside its target (`.trip-RANDOM`, mode 700), flushed to the disk and
renamed into place. So a crash or a full disk leaves what was there before, nobody can plant a link where a file is
about to be written, and a link or a pipe that stands in the target's place is replaced, not followed or waited for.
The private folder is locked as long as its process lives and marked by a file in it; what a killed process left is told
by the mark and by its lock being free, and swept by the next one that writes there.
"""

import errno
import fcntl
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

PREFIX = ".trip-"
"""Names of the private folders start with this."""

PRIVATE = re.compile(re.escape(PREFIX) + "[a-z0-9_]{8}")
"""Whole names of the private folders, as `tempfile` makes them."""

MARK = ".trip-private"
"""Empty file that tells a private folder from one that somebody else has named so."""

STREAMS = re.compile(r"/dev/(stdin|stdout|stderr|fd/[0-9]+)|/proc/(self|[0-9]+)/fd/[0-9]+")
"""Paths that stand for what a process has open."""

WRITE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
"""Errors that can only be of what is written; writing to an open file names no file."""

_swept: set[Path] = set()
_held: set[int] = set()
"""Descriptors of locks; a forked process closes its copies, or it would hold them after its parent's death."""


# ------------------------------------------------------------------------------------------------------- writing


@contextmanager
def atomic(path: str | os.PathLike[str], mode: str = "w", *, named: bool = False) -> Iterator[IO[Any]]:
    """Open a file for writing that takes its name once the block ends without an error.

    Args:
        path: the file; its folder is made if need be. A device is written as it is.
        mode: "w" for text in UTF-8, "wb" for bytes.
        named: the user typed this very path: a pipe is written too, and a link to one or to a device followed. They
            are replaced otherwise, since anybody may have put them there.

    Raises:
        OSError: it cannot be written; `filename` is `path`.
    """
    path, encoding = Path(path), None if "b" in mode else "utf-8"
    if _is_special(path, named):
        with _naming(path), path.open(mode, encoding=encoding) as file:
            yield file
        return
    with atomic_path(path) as temporary, temporary.open(mode, encoding=encoding) as file:
        yield file


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A path of the same file name to write a file or a folder at, which takes its place once the block ends.

    A folder replaces a folder of that name whole. Nothing written is not an error: then nothing is replaced.

    Raises:
        OSError: it cannot be written; `filename` is `path`.
    """
    path = Path(path)
    with _naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with private_folder(path.parent) as private:
            temporary = private / path.name
            yield temporary
            if os.path.lexists(temporary):
                _flush(temporary)
                _publish(temporary, path, private)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Errors of writing name the target, also those of libraries in Rust, which only tell the system's number."""
    try:
        yield
    except OSError as error:
        private = error.filename is not None and PREFIX in os.fsdecode(error.filename)
        if private or (error.filename is None and error.errno in WRITE_ERRORS):
            raise OSError(error.errno, error.strerror, os.fspath(path)) from error
        raise
    except Exception as error:
        found = re.search(r"\(os error (\d+)\)", str(error))
        if found and (code := int(found[1])) in WRITE_ERRORS:
            raise OSError(code, os.strerror(code), os.fspath(path)) from error
        raise


def check_target(path: str | os.PathLike[str]) -> None:
    """Find out before the work whether a file or folder can be written at a path; missing folders are not made.

    Raises:
        OSError: it cannot; `filename` is `path`.
    """
    path = Path(path)
    if _is_special(path, named=True):
        return
    above = next(folder for folder in Path(os.path.abspath(path)).parents if os.path.lexists(folder))
    try:
        tempfile.TemporaryFile(dir=above).close()
    except OSError as error:
        raise OSError(error.errno, error.strerror, os.fspath(path)) from None


def discard(path: str | os.PathLike[str]) -> None:
    """Remove a file or folder; its name goes first, so that a kill leaves no part of it under that."""
    path = Path(path)
    with private_folder(path.parent) as private:
        os.replace(path, private / path.name)


def write_text(path: str | os.PathLike[str], text: str, *, named: bool = False) -> None:
    """Write a text in UTF-8, as `atomic` does."""
    with atomic(path, "wb", named=named) as file:
        file.write(text.encode("utf-8", "backslashreplace"))  # a lone surrogate becomes the escape JSON has for it


def write_json(path: str | os.PathLike[str], value: Any, indent: int | None = 2, *, named: bool = False) -> None:
    """Write a value as JSON in UTF-8, as `atomic` does."""
    write_text(path, json.dumps(value, indent=indent, ensure_ascii=False) + "\n", named=named)


def _is_special(path: Path, named: bool) -> bool:
    """Whether a path is written as it is; /dev/stdout is also where it leads to a file. See `atomic`."""
    if STREAMS.fullmatch(os.path.abspath(path)):
        return True
    try:
        kind = path.stat(follow_symlinks=named).st_mode
    except OSError:
        return False
    return stat.S_ISCHR(kind) or stat.S_ISBLK(kind) or (named and stat.S_ISFIFO(kind))


def _publish(temporary: Path, target: Path, private: Path) -> None:
    """Rename into place; a folder cannot be replaced in one step, so the earlier one steps aside first."""
    earlier = private / f"{target.name}.earlier"
    aside = temporary.is_dir() and target.is_dir() and not target.is_symlink()
    if aside:
        os.replace(target, earlier)
    try:
        os.replace(temporary, target)
    except BaseException:
        if aside:
            os.replace(earlier, target)
        raise
    _sync(target.parent)


def _flush(path: Path) -> None:
    """Wait for the disk, so that a late write error is an error and a rename never precedes its data."""
    if path.is_symlink():
        return
    for inner in path.iterdir() if path.is_dir() else ():
        _flush(inner)
    _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # file systems that cannot sync a folder
            raise
    finally:
        os.close(descriptor)


# ----------------------------------------------------------------------------------- private folders and sweeping


@contextmanager
def private_folder(parent: Path) -> Iterator[Path]:
    """A locked folder with a name nobody can guess, removed at the end."""
    if parent not in _swept:
        sweep(parent)
        _swept.add(parent)
    private = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
    lock = _lock(private)
    try:
        (private / MARK).touch()
        yield private
    finally:
        _remove(private)
        _unlock(lock)


def _remove(private: Path) -> None:
    """Remove a private folder; its mark goes last, so that a kill leaves one that can be told."""
    with suppress(OSError), os.scandir(private) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
            elif entry.name != MARK:
                os.unlink(entry.path)
    shutil.rmtree(private, ignore_errors=True)


def is_private(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a private folder: by its name, and by its mark; before and after that, it is empty."""
    path = Path(path)
    if not PRIVATE.fullmatch(path.name) or path.is_symlink():
        return False
    try:
        return not os.listdir(path) or stat.S_ISREG((path / MARK).lstat().st_mode)
    except OSError:
        return False


def contents(folder: str | os.PathLike[str]) -> list[str]:
    """Names in a folder, sorted, but for private folders; none where there is no folder."""
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    return sorted(name for name in names if not is_private(Path(folder, name)))


def sweep(folder: str | os.PathLike[str]) -> None:
    """Remove the private folders that killed processes left in a folder; those of living ones stay."""
    try:
        found = [Path(entry) for entry in os.scandir(folder) if is_private(entry)]
    except OSError:
        return
    for private in found:
        lock = _lock(private)
        if lock is not None:
            _remove(private)
            _unlock(lock)


def _lock(folder: Path) -> int | None:
    """An open descriptor that holds the folder's lock until it is closed; None if it is not to be had."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    _held.add(descriptor)
    return descriptor


def _unlock(descriptor: int | None) -> None:
    """Give back what `_lock` returned."""
    if descriptor in _held:
        _held.remove(descriptor)
        os.close(descriptor)


def _close_copies() -> None:
    """In a process that was just forked."""
    while _held:
        os.close(_held.pop())


os.register_at_fork(after_in_child=_close_copies)


@contextmanager
def lock_folder(folder: str | os.PathLike[str], use: str = "written") -> Iterator[None]:
    """Be the one process that writes into a folder, which is made if need be.

    The lock belongs to the open folder, not to a file in it: it ends with the process, however that ends.

    Args:
        use: what another process is doing to it, for the message.

    Raises:
        ValueError: another process has it.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    _held.add(descriptor)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"{folder} is being {use} by another process; wait for it, stop it, or choose another folder"
            ) from None
        except OSError:  # a file system without locks: nothing better is to be had
            pass
        yield
    finally:
        _unlock(descriptor)
