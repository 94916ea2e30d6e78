"""Where the names in a data set may lead: to local files below one folder.

Lists, links and records that somebody else made must not make a command read, pack or train on other files of the
user, or fetch anything. What leads elsewhere is a fault of its clip; `--root` on the command line widens the folder.
"""

import os
from pathlib import Path

from fsspec.registry import known_implementations

from trip.data.text import printable


class Outside(ValueError):
    """A name that leads out of the data's folder."""


class Root:
    """The folder that a data set's names must stay in.

    Attributes:
        folder: its real path.
        schemes: of the URLs that a list may name all the same.
    """

    def __init__(self, folder: Path, schemes: tuple[str, ...] = ()) -> None:
        self.folder = os.path.realpath(folder)
        self.schemes = schemes
        self._real: dict[str, str] = {}

    def locate(self, folder: Path, name: str) -> Path:
        """The file that a row in `folder` names.

        Raises:
            Outside: a URL, or a path that leads out.
        """
        if schemes_of(name):
            raise Outside(f"{printable(name)} is a URL; a list may name local files only")
        return self.check(folder / name)

    def archive(self, folder: Path, name: str) -> str:
        """As `locate`; URLs of the schemes that were allowed stay as they are."""
        schemes = schemes_of(name)
        if schemes and set(schemes) <= set(self.schemes):
            return name
        return str(self.locate(folder, name))

    def check(self, path: Path) -> Path:
        """The path as it is.

        Raises:
            Outside: it leads out, by `..`, a link, or as an absolute path.
        """
        if not _may_be(str(path)):
            raise Outside(f"{printable(path)} holds a character that no file's name has; correct it")
        if not self._contains(self._follow(str(path))):
            raise Outside(
                f"{printable(path)} leads out of {self.folder}; copy it there, or allow the folder with --root"
            )
        return path

    def _follow(self, path: str) -> str:
        """The real path; folders are looked up once."""
        folder, name = os.path.split(path)
        if name in ("", ".", "..") or os.path.islink(path):
            return os.path.realpath(path)
        if folder not in self._real:
            self._real[folder] = os.path.realpath(folder)
        return os.path.join(self._real[folder], name)

    def holds(self, path: Path) -> bool:
        """Whether a path lies in the folder."""
        return self._contains(os.path.realpath(path))

    def _contains(self, real: str) -> bool:
        if real == self.folder or real.startswith(self.folder.rstrip(os.sep) + os.sep):
            return True
        return any(_same(above, self.folder) for above in map(str, Path(real).parents))  # another spelling of it


def _may_be(name: str) -> bool:
    """Whether the system can have a file of this name: no NUL, no half of a character."""
    try:
        return b"\0" not in os.fsencode(name)
    except UnicodeEncodeError:
        return False


def _same(path: str, other: str) -> bool:
    try:
        return os.path.samefile(path, other)
    except OSError:
        return False


def schemes_of(name: str) -> tuple[str, ...]:
    """Schemes of a URL, or of a chain of them such as ``simplecache::s3://bucket/a.tar``; none for a local path."""
    if "://" not in name and name.partition("::")[0] not in known_implementations:
        return ()
    return tuple(part.partition("://")[0] for part in name.split("::") if part)
