"""Drawn pictures and objects for synthetic motion: nothing to download, any machine, seeded.

Pictures are fractal noise in two or three colours with soft-edged shapes on it: textured at every scale, so that
every motion shows. Objects are plain shapes with a texture and a name that says colour and form. They stand in for
photographs where there are none (tests, the first run of a trainer, CI) and are no substitute for them in training.
"""

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from trip.data.synthetic.bank import Cutout, Photo, SceneBank, make_cutout, make_photo

COLOURS = {
    "red": (214, 45, 38),
    "orange": (238, 140, 36),
    "yellow": (240, 214, 60),
    "green": (58, 160, 72),
    "blue": (44, 96, 204),
    "purple": (130, 62, 170),
    "white": (240, 240, 236),
    "black": (28, 28, 32),
}
SHAPES = ("ball", "square", "triangle", "star", "cross", "ring")
OBJECT_PIXELS = 96
OCTAVES = 5


def procedural_bank(seed: int, size: int = 64, *, photos: int = 32, objects: int = 24) -> SceneBank:
    """Draw a bank of pictures and objects; picture i depends on (seed, size, i) alone, object i on (seed, i).

    Args:
        seed: non-negative.
        size: width of the clips in pixels; pictures are 5 times as wide at their short side, as photographs are.
        photos: number of pictures.
        objects: number of objects.

    Raises:
        ValueError: a negative seed, or a count or size that is too small.
    """
    if seed < 0:
        raise ValueError(f"seed (={seed}) must not be negative")
    if size < 8:
        raise ValueError(f"size (={size}) must be at least 8 pixels")
    if min(photos, objects) < 1:
        raise ValueError(f"photos (={photos}) and objects (={objects}) must each be at least 1")
    pictures = tuple(_photo(np.random.default_rng([seed, 0, index]), index, 5 * size) for index in range(photos))
    return SceneBank(pictures, tuple(_cutout(np.random.default_rng([seed, 1, i]), i) for i in range(objects)))


def _photo(rng: np.random.Generator, index: int, short_side: int) -> Photo:
    width = round(short_side * rng.uniform(1.0, 1.5))
    names = [str(name) for name in rng.choice(list(COLOURS), 3, replace=False)]
    picture = _coloured(rng, names, short_side, width)
    for _ in range(int(rng.integers(6, 14))):
        picture = _with_shape(rng, picture)
    pixels = np.clip(np.rint(picture), 0, 255).astype(np.uint8)
    return make_photo(f"drawn-{index}", f"a {names[0]} and {names[1]} pattern", pixels, short_side)


def fractal_noise(rng: np.random.Generator, height: int, width: int) -> Float32[np.ndarray, "height width"]:
    """Smooth noise at octaves that halve in size and strength; values in [0, 1]."""
    total = np.zeros((height, width), np.float32)
    for octave in range(OCTAVES):
        cells = 3 * 2**octave
        grid = rng.uniform(-1, 1, (cells, max(2, cells * width // height))).astype(np.float32)
        total += cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC) * 0.65**octave
    low, high = float(total.min()), float(total.max())
    return (total - low) / max(high - low, 1e-6)


def _coloured(
    rng: np.random.Generator, names: list[str], height: int, width: int
) -> Float32[np.ndarray, "height width 3"]:
    """Noise between the first two colours, with a second noise that leans towards the third."""
    first, second, third = (np.array(COLOURS[name], np.float32) for name in names)
    mix, lean = (fractal_noise(rng, height, width)[..., None] for _ in range(2))
    return (first * (1 - mix) + second * mix) * (1 - 0.5 * lean) + third * (0.5 * lean)


def _with_shape(
    rng: np.random.Generator, picture: Float32[np.ndarray, "height width 3"]
) -> Float32[np.ndarray, "height width 3"]:
    height, width = picture.shape[:2]
    radius = height * float(rng.uniform(0.04, 0.16))
    centre = float(rng.uniform(0, width)), float(rng.uniform(0, height))
    outline = shape_outline(str(rng.choice(SHAPES)), float(rng.uniform(0, 2 * np.pi))) * radius + centre
    cover = _filled(outline, height, width)[..., None] * rng.uniform(0.5, 1.0)
    colour = np.array(COLOURS[str(rng.choice(list(COLOURS)))], np.float32)
    shade = 0.7 + 0.5 * fractal_noise(rng, height, width)[..., None]
    return (picture * (1 - cover) + colour * shade * cover).astype(np.float32)


def shape_outline(shape: str, turn: float = 0.0) -> np.ndarray:
    """Corners of a shape of radius 1 about the origin, (n, 2); a ring's is its outer circle."""
    count = {"square": 4, "triangle": 3, "star": 10, "cross": 12}.get(shape, 48)
    angles = turn - np.pi / 2 + 2 * np.pi * np.arange(count) / count
    radii = np.ones(count)
    if shape == "star":
        radii[1::2] = 0.45
    if shape == "cross":
        angles, radii = turn + np.arctan2(*_CROSS.T), np.hypot(*_CROSS.T)
    return np.column_stack([np.cos(angles), np.sin(angles)]) * radii[:, None]


_CROSS = np.array(
    [(1, 3), (1, 1), (3, 1), (3, -1), (1, -1), (1, -3), (-1, -3), (-1, -1), (-3, -1), (-3, 1), (-1, 1), (-1, 3)]
) / np.hypot(1, 3)


def _filled(outline: np.ndarray, height: int, width: int) -> Float32[np.ndarray, "height width"]:
    """Cover of a polygon, with smooth edges; values in [0, 1]."""
    mask = np.zeros((height, width), np.uint8)
    cv2.fillPoly(mask, [np.rint(outline * 16).astype(np.int32)], 255, cv2.LINE_AA, shift=4)
    return mask.astype(np.float32) / 255


def _cutout(rng: np.random.Generator, index: int) -> Cutout:
    """Colours and shapes go round, so that the first objects all differ."""
    colour, shape = list(COLOURS)[index % len(COLOURS)], SHAPES[(index + index // len(COLOURS)) % len(SHAPES)]
    return make_cutout(f"{colour} {shape}", draw_object(rng, colour, shape))


def draw_object(rng: np.random.Generator, colour: str, shape: str) -> UInt8[np.ndarray, "height width 4"]:
    """A textured shape, straight-alpha RGBA, in a square of 96 pixels."""
    side, middle = OBJECT_PIXELS, OBJECT_PIXELS / 2
    cover = _filled(shape_outline(shape) * (middle - 4) + middle, side, side)
    if shape == "ring":
        cover = cover * (1 - _filled(shape_outline("ball") * (middle - 4) * 0.5 + middle, side, side))
    shade = 0.65 + 0.55 * fractal_noise(rng, side, side)[..., None]
    pixels = np.concatenate([np.array(COLOURS[colour], np.float32) * shade, 255 * cover[..., None]], -1)
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
