"""A training example: a key, where its clip's bytes are, and a caption."""

import errno
import os
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import fsspec.core

from trip.data.text import has_surrogates, open_file, printable

VIDEO_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".qt", ".3gp", ".3g2", ".f4v", ".mkv", ".webm", ".avi", ".divx", ".wmv", ".asf", ".flv"),
    *(".mpg", ".mpeg", ".mpe", ".m2v", ".vob", ".ts", ".mts", ".m2ts", ".ogv", ".mxf", ".gif", ".apng"),
)
"""Not those of pictures that may move (.webp, .png, .avif): beside clips they are thumbnails."""
LONGEST_CAPTION = 20_000
"""Characters; what is longer is no caption."""
MOST_IN_MEMORY = 512 * 2**20
"""Bytes of a clip that is read whole; files are not, members of tars and streams are."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TarMember:
    """A stretch of an uncompressed tar: its bytes are read without the rest of the archive.

    Attributes:
        archive: path, or URL of a file system that fsspec knows.
        name: the member's name, with its suffix.
        offset: first byte of the member's content in the archive.
        size: bytes of the content.
    """

    archive: str
    name: str
    offset: int
    size: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Unusable:
    """In place of a clip: what is wrong with the row, the name or the record that should say where it is.

    Attributes:
        reason: one of `trip.data.sets.decoding.FAULTS`.
        message: in one line, with the place.
    """

    reason: str
    message: str


Location = Path | TarMember | bytes | Unusable
"""A file, a member of a tar, or the bytes themselves (of a stream); or why there is none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One clip with its caption.

    Attributes:
        key: stable, unique in its set.
        video: where the clip's bytes are.
        caption: "" where the source has none.
    """

    key: str
    video: Location
    caption: str


def is_video(name: str) -> bool:
    """Whether a file's name has the suffix of a clip; hidden files (``._clip.mp4``) have not."""
    return name.lower().endswith(VIDEO_SUFFIXES) and not is_hidden(name.rpartition("/")[2])


def is_hidden(name: str) -> bool:
    """Whether a file or folder is none of the data: hidden, or what macOS packs beside it."""
    return name.startswith(".") or name == "__MACOSX"


def paired(clips: Iterable[str], texts: Iterable[str]) -> dict[str, str]:
    """{clip: the text of the same name}, of names without suffix.

    Another case or Unicode form of it does where only one clip and one text have that name.
    """
    mine, theirs = _alike(clips), _alike(texts)
    found = {}
    for form, names in mine.items():
        there = theirs.get(form, [])
        alone = there[0] if len(names) == len(there) == 1 else None
        found |= {name: text for name in names if (text := name if name in there else alone) is not None}
    return found


def _alike(names: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        found.setdefault(unicodedata.normalize("NFC", name.casefold()), []).append(name)
    return found


def visible(folder: Path, suffix: str) -> list[Path]:
    """Files of a folder with a suffix, in any case, sorted; hidden ones are left out."""
    there = (path for path in folder.iterdir() if path.suffix.lower() == suffix and not path.is_dir())
    return sorted(path for path in there if not is_hidden(path.name))


# ------------------------------------------------------------------------------------------------------- reading


@contextmanager
def open_clip(video: Location) -> Iterator[tuple[Any | None, int]]:
    """(a file at the clip's first byte, bytes of the clip) of a file; of others (None, bytes), see `read_bytes`.

    Raises:
        OSError: it cannot be read.
    """
    if isinstance(video, TarMember):
        _check_size(video.size, video.archive)
    if isinstance(video, TarMember) and "://" not in video.archive:
        with open_file(video.archive) as file:
            _check_stretch(video, os.fstat(file.fileno()).st_size)
    if not isinstance(video, Path):
        yield None, video.size if isinstance(video, TarMember) else len(read_bytes(video))
        return
    with open_file(video) as file:
        yield file, os.fstat(file.fileno()).st_size


def read_bytes(video: Location) -> bytes:
    """All bytes of a clip.

    Raises:
        OSError: the file or archive cannot be read, or is shorter or longer than can be.
        ValueError: the location is none.
    """
    match video:
        case bytes():
            return video
        case Unusable():
            raise ValueError(video.message)
        case Path():
            with open_file(video) as file:
                return _read(file, 0, os.fstat(file.fileno()).st_size, str(video))
        case TarMember():
            with opened_archive(video.archive) as file:
                return _read(file, video.offset, video.size, video.archive)


def _check_stretch(video: TarMember, size: int) -> None:
    if video.offset + video.size > size:
        raise OSError(errno.EIO, f"ends before the {video.size} bytes at {video.offset}", video.archive)


def _check_size(size: int, name: str) -> None:
    if size > MOST_IN_MEMORY:
        raise OSError(errno.EFBIG, f"{size} bytes are more than the {MOST_IN_MEMORY >> 20} MiB that are read", name)


def _read(file: Any, offset: int, size: int, name: str) -> bytes:
    _check_size(size, name)
    file.seek(offset)
    content = file.read(size)
    if len(content) != size:
        raise OSError(errno.EIO, f"ends before the {size} bytes at {offset}", name)
    return content


def opened_archive(name: str) -> Any:
    """A local file, or what fsspec opens for a URL, that can be searched.

    Raises:
        OSError: it cannot be opened, or is no regular file.
    """
    name = name.removeprefix("file://")
    if "://" not in name:
        return open_file(name)
    try:
        system, path = fsspec.core.url_to_fs(name)
        return system.open(path, "rb")
    except (ValueError, ImportError) as error:  # ImportError: a protocol whose package is missing
        raise OSError(errno.EINVAL, " ".join(str(error).split()), name) from None


# -------------------------------------------------------------------------------------------------------- listing


def checked(example: Example) -> Example:
    """The example; an unusable one where its key or caption is no text."""
    problem = _problem(example)
    if problem is None:
        return example
    return replace(example, key=printable(example.key), caption="", video=Unusable(reason="bad_entry", message=problem))


def _problem(example: Example) -> str | None:
    """What is wrong with key or caption."""
    if isinstance(example.video, Unusable):
        return example.video.message if has_surrogates(example.key) or has_surrogates(example.caption) else None
    for what, text, remedy in (("name", example.key, "rename it"), ("caption", example.caption, "write it again")):
        if has_surrogates(text):
            return f"its {what} holds a character that is no text; {remedy} in UTF-8"
        if "\0" in text:
            return f"its {what} holds a NUL character; {remedy}"
    if len(example.caption) > LONGEST_CAPTION:
        return f"its caption has {len(example.caption)} characters, more than {LONGEST_CAPTION}; shorten it"
    return None


def unique(examples: Iterable[Example]) -> list[Example]:
    """The examples as a list, with keys that are all different: a key that comes again makes an unusable example."""
    found: dict[str, Example] = {}
    for example in map(checked, examples):
        key, number = example.key, 1
        while key in found:
            number += 1
            key = f"{example.key} ({number})"
        if key != example.key and not isinstance(example.video, Unusable):
            message = f"the key {printable(example.key)!r} is taken by an earlier clip; give every clip its own"
            example = replace(example, video=Unusable(reason="bad_entry", message=message), caption="")
        found[key] = example if key == example.key else replace(example, key=key)
    return list(found.values())
