"""Folders of clips as they lie on a disk: links, hidden files, upper case, folders that may not be read."""

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from trip.data.places import Outside, Root
from trip.data.sets.examples import Unusable, is_hidden, is_video, paired


@dataclass(frozen=True, kw_only=True)
class Folder:
    """What one folder holds.

    Attributes:
        path: of the folder.
        clips: names of its clips, sorted.
        others: names of its other files.
        faults: names of what cannot be looked into; "" is the folder itself.
    """

    path: Path
    clips: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    faults: dict[str, Unusable] = field(default_factory=dict)

    @cached_property
    def texts(self) -> dict[str, str]:
        """{clip: the .txt of the same name}, see `paired`; a .TXT counts where there is no .txt."""
        texts = {_stem(name): name for name in self.others if name.lower().endswith(".txt")}  # .txt sorts after .TXT
        names = paired(map(_stem, self.clips), texts)
        return {clip: texts[names[_stem(clip)]] for clip in self.clips if _stem(clip) in names}


def _stem(name: str) -> str:
    return name[: name.rindex(".")]


def walk(top: Path, root: Root) -> Iterator[Folder]:
    """A folder and all below it, but hidden ones.

    Links to folders are followed after all real folders, unless they lead out of `root` or to a folder that was read
    already; both are faults, as are folders that may not be read and links that lead nowhere.
    """
    seen, links = set(), []
    waiting = [top]
    while waiting or links:
        real = bool(waiting)
        path = waiting.pop() if waiting else links.pop(0)
        if not real and (fault := _bad_link(path, root, seen)):
            yield Folder(path=path.parent, faults={path.name: fault})
            continue
        seen.add(os.path.realpath(path))
        folder, below, linked = _listed(path)
        yield folder
        waiting += reversed(below)
        links += linked


def _bad_link(path: Path, root: Root, seen: set[str]) -> Unusable | None:
    try:
        root.check(path)
    except Outside as error:
        return Unusable(reason="outside", message=str(error))
    if os.path.realpath(path) in seen:
        return Unusable(reason="bad_entry", message="is a link to a folder that is read already; remove it")
    return None


def _listed(path: Path) -> tuple[Folder, list[Path], list[Path]]:
    """(what a folder holds, folders in it, links to folders in it)."""
    try:
        entries = sorted((e for e in os.scandir(path) if not is_hidden(e.name)), key=lambda entry: entry.name)
    except OSError as error:
        fault = Unusable(reason="unreadable", message=f"the folder may not be read ({error.strerror})")
        return Folder(path=path.parent, faults={path.name: fault}), [], []
    folders = [entry for entry in entries if _is_folder(entry)]
    names = [entry.name for entry in entries if not _is_folder(entry)]
    others = tuple(name for name in names if not is_video(name))
    return (
        Folder(
            path=path,
            clips=tuple(name for name in names if is_video(name)),
            others=others,
            faults={name: _DANGLING for name in others if not os.path.exists(path / name)},
        ),
        [path / entry.name for entry in folders if not entry.is_symlink()],
        [path / entry.name for entry in folders if entry.is_symlink()],
    )


_DANGLING = Unusable(reason="bad_entry", message="is a link that leads nowhere; correct or remove it")


def _is_folder(entry: os.DirEntry) -> bool:
    with suppress(OSError):  # a link that leads to itself
        return entry.is_dir()
    return False
