"""The photographs and objects of synthetic clips, out of a folder like the one that `lab.photographs` prepares."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image
from jaxtyping import Float32, UInt8

from trip.data.images import load_image
from trip.data.places import Outside, Root
from trip.data.synthetic.captions import SPLITS
from trip.data.text import has_surrogates, open_regular, read_jsonl
from trip.data.video.frames import Frame

SMALLEST_PHOTO = 24
"""Pixels of the short side."""
LARGEST_CUTOUT = 4_000_000
"""Pixels."""
LEVEL_STEP = math.sqrt(2)


@dataclass(frozen=True)
class Photo:
    """A photograph with pre-shrunk levels, each sqrt(2) smaller than the one before."""

    name: str
    caption: str
    levels: tuple[UInt8[np.ndarray, "_ _ 3"], ...]

    @property
    def width(self) -> int:
        return self.levels[0].shape[1]

    @property
    def height(self) -> int:
        return self.levels[0].shape[0]


@dataclass(frozen=True)
class Cutout:
    """An object with alpha: premultiplied float RGBA in [0, 255]."""

    name: str
    rgba: Float32[np.ndarray, "height width 4"]


def check_split(split: str) -> None:
    """Raise ValueError for a split that does not exist."""
    if split not in SPLITS:
        raise ValueError(f"split (={split!r}) is not one of {SPLITS}")


@dataclass(frozen=True)
class SceneBank:
    """The photographs and objects that clips are made of."""

    photos: tuple[Photo, ...]
    objects: tuple[Cutout, ...]

    @classmethod
    def load(cls, folder: str | Path, split: str = "train", size: int = 64) -> "SceneBank":
        """Reads one split of a prepared folder, shrunk to what clips of `size` pixels can use.

        Raises:
            ValueError: unknown split, no index in the folder, one that is wrong, or nothing in the split.
        """
        check_split(split)
        index = Path(folder) / "index.jsonl"
        if not index.is_file():
            raise ValueError(
                f"{folder} has no index.jsonl; write one, or run `python -m lab.photographs {folder}` in the repository"
            )
        root = Root(Path(folder))
        rows = [_Row.of(number, row, root.check(index), root) for number, row in read_jsonl(root.check(index))]
        rows = [row for row in rows if row.split == split]
        photos = tuple(_load_photo(row, 5 * size) for row in rows if row.kind == "photo")
        objects = tuple(_load_cutout(row) for row in rows if row.kind == "object")
        if not photos or not objects:
            raise ValueError(
                f"{index} lists {len(photos)} photos and {len(objects)} objects for {split!r}; it needs both"
            )
        return cls(photos, objects)


@dataclass(frozen=True, kw_only=True)
class _Row:
    """A picture that an index names."""

    kind: str
    name: str
    caption: str
    file: str
    split: str
    path: Path

    @classmethod
    def of(cls, number: int, row: dict[str, Any], index: Path, root: Root) -> "_Row":
        names = ("kind", "name", "caption", "file", "split")
        if wrong := [name for name in names if not isinstance(row.get(name), str) or has_surrogates(row[name])]:
            raise ValueError(f"{index} line {number} has no {wrong[0]} that is a text; prepare the folder again")
        try:
            return cls(**{name: row[name] for name in names}, path=root.locate(index.parent, row["file"]))
        except Outside as error:
            raise ValueError(f"{index} line {number}: {error}") from None


def _load_photo(row: _Row, short_side: int) -> Photo:
    return make_photo(row.name, row.caption, np.asarray(load_image(row.path, min_side=SMALLEST_PHOTO)), short_side)


def make_photo(name: str, caption: str, image: Frame, short_side: int = 320) -> Photo:
    """Builds the levels of a photograph from an RGB array, its short side reduced to `short_side`."""
    scale = min(1.0, short_side / min(image.shape[:2]))
    levels = []
    while min(image.shape[:2]) * scale >= SMALLEST_PHOTO:
        size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
        levels.append(cv2.resize(image, size, interpolation=cv2.INTER_AREA))
        scale /= LEVEL_STEP
    return Photo(name, caption, tuple(levels))


def _load_cutout(row: _Row) -> Cutout:
    with open_regular(row.path) as file:
        try:
            picture = PIL.Image.open(file, formats=("PNG", "WEBP"))
            if picture.width * picture.height > LARGEST_CUTOUT:
                raise ValueError(f"{picture.width}x{picture.height} pixels are more than {LARGEST_CUTOUT}")
            return make_cutout(row.caption, np.asarray(picture.convert("RGBA")))
        except (OSError, SyntaxError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(
                f"{row.path} is no cut-out that can be read ({reason}); prepare the folder again"
            ) from None


def make_cutout(name: str, rgba: UInt8[np.ndarray, "height width 4"]) -> Cutout:
    """Builds an object from straight-alpha RGBA."""
    pixels = rgba.astype(np.float32)
    pixels[..., :3] *= pixels[..., 3:] / 255
    return Cutout(name, pixels)
