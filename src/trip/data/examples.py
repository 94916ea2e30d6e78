"""A training example: a key, where its clip's bytes are, and a caption."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import fsspec.core

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".wmv", ".flv", ".ts", ".gif")


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


Location = Path | TarMember | bytes
"""A file, a member of a tar, or the bytes themselves (of a stream)."""


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
    return name.lower().endswith(VIDEO_SUFFIXES) and not name.rpartition("/")[2].startswith(".")


def read_bytes(video: Location) -> bytes:
    """All bytes of a clip.

    Raises:
        OSError: the file or archive cannot be read.
    """
    match video:
        case bytes():
            return video
        case Path():
            return video.read_bytes()
        case TarMember():
            system, path = fsspec.core.url_to_fs(video.archive)
            return system.cat_file(path, start=video.offset, end=video.offset + video.size)


def unique(examples: Iterable[Example], source: object) -> list[Example]:
    """The examples as a list.

    Raises:
        ValueError: two of them have one key.
    """
    found: dict[str, Example] = {}
    for example in examples:
        if example.key in found:
            raise ValueError(f"{source} has the key {example.key!r} twice; give every example a key of its own")
        found[example.key] = example
    return list(found.values())
