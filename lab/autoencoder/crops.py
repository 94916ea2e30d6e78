"""Photographs and cut-outs to square crops of 64 pixels: read, cropped, and for training varied."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

PIXELS = 64


def read_index(photos: Path) -> dict[str, list[Path]]:
    """Files of a folder: "train", "validation" and "heldout" photographs, and "objects" to paste in training.

    `index.jsonl` has one object a line with `file`, `split` ("train" or "heldout") and, unless it is "photo",
    `kind` ("object": an RGBA cut-out). Without it every eighth image is held out and there are no objects.
    Every sixteenth training photograph becomes the split "validation", on which decisions are taken.
    """
    index = photos / "index.jsonl"
    if index.is_file():
        rows = [json.loads(line) for line in index.read_text().splitlines() if line.strip()]
    else:
        files = sorted(p for p in photos.rglob("*") if p.suffix.lower() in {".jpg", ".jpeg", ".png"})
        rows = [
            {"file": file.relative_to(photos), "split": "heldout" if i % 8 == 7 else "train"}
            for i, file in enumerate(files)
        ]

    def select(kind: str, split: str) -> list[Path]:
        return [photos / row["file"] for row in rows if row.get("kind", "photo") == kind and row["split"] == split]

    train = select("photo", "train")
    if not train:
        raise ValueError(f"photos (={photos}) holds no training images; add some or mend index.jsonl.")
    return {
        "train": [file for i, file in enumerate(train) if i % 16 != 15],
        "validation": train[15::16],
        "heldout": select("photo", "heldout"),
        "objects": select("object", "train"),
    }


def read_rgb(path: Path, longest: int = 1024) -> np.ndarray:
    """Image as uint8 (H, W, 3) RGB whose longer side is at most `longest` pixels, shrunk by area."""
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError(f"image (={path}) cannot be decoded; replace the file or drop it from the folder.")
    ratio = longest / max(image.shape[:2])
    if ratio < 1:
        image = cv2.resize(image, None, fx=ratio, fy=ratio, interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def read_rgba(path: Path, longest: int = 128) -> np.ndarray:
    """Cut-out as uint8 (H, W, 4) RGBA whose longer side is at most `longest` pixels."""
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if image is None or image.ndim != 3 or image.shape[2] != 4 or image.dtype != np.uint8:
        raise ValueError(f"object (={path}) is not an 8-bit RGBA image; convert it or drop it.")
    ratio = min(1.0, longest / max(image.shape[:2]))
    image = cv2.resize(image, None, fx=ratio, fy=ratio, interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(image, cv2.COLOR_BGRA2RGBA)


def pyramid(image: np.ndarray) -> list[np.ndarray]:
    """The image and its halvings by area, down to 64 pixels on the shorter side."""
    levels = [image]
    while min(levels[-1].shape[:2]) >= 2 * PIXELS:
        levels.append(cv2.resize(levels[-1], None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA))
    return levels


def center_crop(image: np.ndarray, size: int = PIXELS) -> np.ndarray:
    """Largest centred square of the image, shrunk by area to uint8 (size, size, 3)."""
    side = min(image.shape[:2])
    top, left = ((length - side) // 2 for length in image.shape[:2])
    return cv2.resize(image[top : top + side, left : left + side], (size, size), interpolation=cv2.INTER_AREA)


def random_crop(levels: Sequence[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """A square crop of 35 to 100 % of the shorter side, sometimes turned or mirrored, as uint8 (64, 64, 3).

    Half of the crops are rendered at 128 pixels and shrunk by area, half are sampled at 64.
    """
    size = PIXELS * (2 if rng.random() < 0.5 else 1)
    height, width = levels[0].shape[:2]
    side = min(height, width) * math.exp(rng.uniform(math.log(0.35), 0))
    angle = rng.normal(0, 12) if rng.random() < 0.4 else 0.0
    center = [rng.uniform(side / 2, max(length - side / 2, side / 2)) for length in (width, height)]
    level = max(0, min(len(levels) - 1, int(math.log2(max(side / size, 1)))))
    ratio = levels[level].shape[1] / width
    scale = side * ratio / size
    cos, sin = scale * math.cos(math.radians(angle)), scale * math.sin(math.radians(angle))
    mirror = -1 if rng.random() < 0.5 else 1
    linear = np.array([[cos * mirror, -sin], [sin * mirror, cos]])
    offset = np.array(center) * ratio - linear @ np.array([(size - 1) / 2] * 2)
    crop = cv2.warpAffine(
        levels[level],
        np.column_stack([linear, offset]),
        (size, size),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REFLECT_101,
    )
    return crop if size == PIXELS else cv2.resize(crop, (PIXELS, PIXELS), interpolation=cv2.INTER_AREA)


def jitter_colors(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Random gamma, contrast, saturation and white balance of a float image in [0, 1]."""
    image = np.clip(image, 0, 1) ** math.exp(rng.normal(0, 0.2))
    image = (image - 0.5) * math.exp(rng.normal(0, 0.15)) + 0.5
    grey = image.mean(-1, keepdims=True)
    image = grey + (image - grey) * math.exp(rng.normal(0, 0.25))
    return np.clip(image * (1 + rng.normal(0, 0.06, 3)) + rng.normal(0, 0.04), 0, 1)


def paste_object(image: np.ndarray, rgba: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Blend an object of 10 to 45 pixels, tilted by up to 30 degrees, into a random place of an image."""
    size = rng.uniform(10, 45)
    height, width = rgba.shape[:2]
    scale = size / max(height, width)
    small = cv2.resize(rgba, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    small[..., :3] *= small[..., 3:]
    matrix = cv2.getRotationMatrix2D((small.shape[1] / 2, small.shape[0] / 2), rng.uniform(-30, 30), 1.0)
    matrix[:, 2] += rng.uniform(-size / 4, PIXELS - 0.75 * size, 2)
    layer = cv2.warpAffine(small, matrix, (PIXELS, PIXELS), flags=cv2.INTER_LINEAR)
    return image * (1 - layer[..., 3:]) + layer[..., :3]


def add_weather(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rain streaks or snow flakes over a float image."""
    layer = np.zeros((PIXELS * 2, PIXELS * 2), np.float32)
    length, slant = (rng.uniform(6, 20), rng.normal(0, 0.2)) if rng.random() < 0.5 else (0.0, 0.0)
    for x, y in rng.uniform(0, 2 * PIXELS, (rng.integers(20, 120), 2)):
        end = (int(x + slant * length), int(y + length))
        cv2.line(layer, (int(x), int(y)), end, rng.uniform(0.3, 1), 1 if length else int(rng.integers(1, 5)))
    layer = cv2.resize(layer, (PIXELS, PIXELS), interpolation=cv2.INTER_AREA)[..., None]
    return image * (1 - layer) + layer * rng.uniform(0.7, 1)


def render_pool(
    photos: Sequence[Path], objects: Sequence[np.ndarray], count: int, rng: np.random.Generator
) -> np.ndarray:
    """`count` augmented training crops as one uint8 array (count, 64, 64, 3)."""
    levels = [pyramid(read_rgb(path)) for path in photos]
    pool = np.empty((count, PIXELS, PIXELS, 3), np.uint8)
    for i in range(count):
        image = random_crop(levels[int(rng.integers(len(levels)))], rng).astype(np.float32) / 255
        if rng.random() < 0.7:
            image = jitter_colors(image, rng)
        while objects and rng.random() < 0.35:
            image = paste_object(image, objects[int(rng.integers(len(objects)))], rng)
        if rng.random() < 0.12:
            image = add_weather(image, rng)
        pool[i] = np.round(255 * np.clip(image, 0, 1))
    return pool


def to_pixels(images: np.ndarray) -> Float[Tensor, "b 3 h w"]:
    """uint8 (b, h, w, 3) to float32 in [-1, 1], channels first."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().float().div_(127.5).sub_(1)
