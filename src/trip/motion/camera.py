r"""Camera paths: a similarity of the plane per frame, written as "zoom 1.3, pan 0.2 0, roll 10, ease in-out".

The view of frame i is a window on the still, with s = ease(i / (f - 1)) from 0 to 1:

    place in the still = centre + s pan + R(-s roll) (p - centre) / zoom^s

so a zoom is geometric, as a lens is heard and seen to run, and composition and inversion are products of matrices.

Directions are those of `trip.data.synthetic`: the *camera* pans, "pan 0.2 0" looks to the right by a fifth of the width
and the content moves left; the *picture* rolls, "roll 10" turns it clockwise as seen. y points down. Pans are in widths
of the picture, of the still before the zoom.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float64
from torch import Tensor

from trip.motion.fields import Field, Motion, from_matrices, inside

EASES: dict[str, Callable[[float], float]] = {
    "linear": lambda t: t,
    "in": lambda t: t * t,
    "out": lambda t: t * (2 - t),
    "in-out": lambda t: t * t * (3 - 2 * t),
}
"""Share of the way that is done at share t of the time: starts slowly, ends slowly, or both."""

DIRECTIONS = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0)}
LARGEST_ZOOM, LARGEST_PAN, LARGEST_ROLL = 16.0, 2.0, 720.0
EXAMPLE = '"zoom 1.3, pan 0.2 0, roll 10, ease in-out"'


@dataclass(frozen=True, kw_only=True)
class CameraPath:
    """Where the camera is at the end of the clip; it starts on the still as it is.

    Attributes:
        zoom: magnification, above 1 inwards. pan: way of the view in widths, (right, down).
        roll: turn of the picture in degrees, clockwise as seen. ease: one of `EASES`.
        centre: of zoom and roll, in shares of width and height.
    """

    zoom: float = 1.0
    pan: tuple[float, float] = (0.0, 0.0)
    roll: float = 0.0
    ease: str = "linear"
    centre: tuple[float, float] = (0.5, 0.5)

    def __post_init__(self) -> None:
        if not 1 / LARGEST_ZOOM <= self.zoom <= LARGEST_ZOOM:
            raise ValueError(
                f"zoom (={self.zoom:g}) must be between 1/{LARGEST_ZOOM:g} and {LARGEST_ZOOM:g}; 1 is none, 1.3 inwards"
            )
        if not all(abs(part) <= LARGEST_PAN for part in self.pan):
            raise ValueError(
                f"pan (={_words(self.pan)}) must be within {LARGEST_PAN:g} widths of the picture; 0.2 is a fifth of it"
            )
        if not abs(self.roll) <= LARGEST_ROLL:
            raise ValueError(f"roll (={self.roll:g}) must be within {LARGEST_ROLL:g} degrees; give it in degrees")
        if self.ease not in EASES:
            raise ValueError(f"ease (={self.ease!r}) is unknown; choose from {', '.join(EASES)}")
        if not all(0 <= part <= 1 for part in self.centre):
            raise ValueError(f"centre (={_words(self.centre)}) is outside the picture; give shares from 0 to 1")

    def __str__(self) -> str:
        """The text that `parse_camera` reads."""
        return (
            f"zoom {self.zoom!r}, pan {_words(self.pan)}, roll {self.roll!r}, ease {self.ease}, "
            f"centre {_words(self.centre)}"
        )

    def matrices(self, num_frames: int, height: int, width: int) -> Float64[Tensor, "f 3 3"]:
        """Place in frame i -> place in the still, in widths; the first is the identity."""
        ease = EASES[self.ease]
        shares = [ease(index / max(num_frames - 1, 1)) for index in range(num_frames)]
        middle = (self.centre[0], self.centre[1] * height / width)
        return torch.stack([self._view(share, middle) for share in shares])

    def _view(self, share: float, middle: tuple[float, float]) -> Float64[Tensor, "3 3"]:
        scale, turn = self.zoom**-share, math.radians(self.roll) * share
        linear = scale * torch.tensor(
            [[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]], dtype=torch.float64
        )
        centre, pan = torch.tensor([middle, self.pan], dtype=torch.float64)
        view = torch.eye(3, dtype=torch.float64)
        view[:2, :2], view[:2, 2] = linear, centre + share * pan - linear @ centre
        return view

    def field(self, num_frames: int, height: int, width: int) -> Field:
        """The path as displacement fields."""
        return from_matrices(self.matrices(num_frames, height, width), height, width)

    def motion(self, num_frames: int, height: int, width: int) -> Motion:
        """Fields, and what of the frames lies inside the still."""
        field = self.field(num_frames, height, width)
        return Motion(field, inside(field), torch.ones_like(field[:, :1]))


def parse_camera(text: str) -> CameraPath:
    """Read a camera path.

    Moves are separated by commas, each at most once:

        zoom FACTOR        also: zoom in FACTOR, zoom out FACTOR
        pan X [Y]          in widths, right and down; also: pan left|right|up|down X
        tilt Y             in widths, down; also: tilt up|down Y
        roll DEGREES       clockwise as seen; also: roll clockwise|counterclockwise DEGREES
        ease NAME          linear, in, out or in-out (also ease-in, ...)
        centre X Y         of zoom and roll, in shares of width and height

    Raises:
        ValueError: anything else, in one line.
    """
    path, seen = CameraPath(), set()
    for part in text.replace(";", ",").split(","):
        name, *words = part.lower().split() or [""]
        name = {"center": "centre", "rotate": "roll"}.get(name, name)
        if name.startswith("ease-") and not words:
            name, words = "ease", [name.removeprefix("ease-")]
        if name not in _READERS:
            raise ValueError(
                f"camera (={text!r}): {part.strip()!r} is no move; use {', '.join(_READERS)}, as in {EXAMPLE}"
            )
        if name in seen:
            raise ValueError(f"camera (={text!r}): {name} is given twice; give every move once")
        seen.add(name)
        try:
            path = _READERS[name](path, words)
        except ValueError as error:
            raise ValueError(f"camera (={text!r}): {error}") from None
    return path


def _zoom(path: CameraPath, words: list[str]) -> CameraPath:
    outwards = words[:1] == ["out"]
    (factor,) = _numbers("zoom", words[1:] if words[:1] in (["in"], ["out"]) else words, 1)
    if not 0 < factor <= LARGEST_ZOOM:
        raise ValueError(f"zoom (={factor:g}) must be above 0 and at most {LARGEST_ZOOM:g}; 1 is none, 1.3 inwards")
    if len(words) == 2 and factor < 1:
        raise ValueError(f"zoom {words[0]} (={factor:g}) must be at least 1; say zoom {factor:g}, or turn it round")
    return replace(path, zoom=1 / factor if outwards else factor)


def _pan(path: CameraPath, words: list[str]) -> CameraPath:
    if words[:1] and words[0] in DIRECTIONS:
        (amount,) = _numbers(f"pan {words[0]}", words[1:], 1)
        x, y = (amount * part for part in DIRECTIONS[words[0]])
    else:
        x, y = [*_numbers("pan", words, 1, 2), 0.0][:2]
    return replace(path, pan=(path.pan[0] + x, path.pan[1] + y))


def _tilt(path: CameraPath, words: list[str]) -> CameraPath:
    upwards = words[:1] == ["up"]
    (amount,) = _numbers("tilt", words[1:] if words[:1] in (["up"], ["down"]) else words, 1)
    return replace(path, pan=(path.pan[0], path.pan[1] + (-amount if upwards else amount)))


def _roll(path: CameraPath, words: list[str]) -> CameraPath:
    back = words[:1] == ["counterclockwise"]
    (degrees,) = _numbers("roll", words[1:] if words[:1] in (["clockwise"], ["counterclockwise"]) else words, 1)
    return replace(path, roll=-degrees if back else degrees)


def _ease(path: CameraPath, words: list[str]) -> CameraPath:
    return replace(path, ease=" ".join(words).removeprefix("ease-"))


def _centre(path: CameraPath, words: list[str]) -> CameraPath:
    x, y = _numbers("centre", words, 2)
    return replace(path, centre=(x, y))


_READERS = {"zoom": _zoom, "pan": _pan, "tilt": _tilt, "roll": _roll, "ease": _ease, "centre": _centre}


def _numbers(name: str, words: list[str], least: int, most: int | None = None) -> list[float]:
    """The finite numbers that a move takes."""
    most = most or least
    wanted = f"{least} or {most} numbers" if most > least else f"{least} number{'s' * (least > 1)}"
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        raise ValueError(f"{name} (={' '.join(words)!r}) is not {wanted}; see {EXAMPLE}") from None
    if not least <= len(numbers) <= most or not all(map(math.isfinite, numbers)):
        raise ValueError(f"{name} (={' '.join(words)!r}) takes {wanted}; see {EXAMPLE}")
    return [number + 0.0 for number in numbers]


def _words(pair: tuple[float, float]) -> str:
    return " ".join(repr(float(part)) for part in pair)
