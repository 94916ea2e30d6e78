"""A decoded frame as it is meant to be seen: upright, of its display size, 8 bit sRGB.

Colour. Frames are converted by their tags: matrix (BT.601, 709, 2020) and range. Untagged ones follow the convention of
players: BT.709 from 720 lines on, BT.601 below. Transparency lies on white, as for stills.

High dynamic range. PQ and HLG say how bright a display shows a pixel. That light is tone mapped to a display of
`SDR_WHITE` by BT.2390's curve, which keeps dark and middle tones and compresses what is brighter, and its BT.2020
colours are brought into sRGB.
"""

import threading
from collections.abc import Callable, Iterable
from functools import cache, partial
from typing import Any, cast

import av
import numpy as np
from av.video.reformatter import Colorspace, ColorTrc, Interpolation, VideoReformatter
from jaxtyping import Float, UInt8, UInt16
from PIL import Image

from trip.data.images import BAND

Frame = UInt8[np.ndarray, "H W 3"]
Frames = UInt8[np.ndarray, "f H W 3"]

FPS_RANGE = (0.1, 240.0)
DEFAULT_FPS = 8.0
"""Frames per second of the bundled model, and of a folder or picture that does not record its rate."""

AVCOL_SPC_BT2020_NCL = 9
AVCOL_SPC_UNSPECIFIED = (2, 3)  # "unspecified" and "reserved"
CONVERTIBLE = (0, 1, 2, 3, 4, 5, 6, 7, 9, 10)
"""Matrices that swscale has; not YCgCo, ICtCp and Dolby's."""

CONVERSION = (
    Interpolation.LANCZOS | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
)
WIDEST_PIXEL = 8.0
"""Greatest ratio of a pixel's sides."""

HDR_PEAK, SDR_WHITE = 1000.0, 203.0
"""Candela per square metre: HLG's brightest, which PQ is taken to be graded for too; and BT.2408's diffuse white."""


class Unshowable(ValueError):
    """Why nobody can say how a frame is to be seen."""


def frame_to_rgb(frame: av.VideoFrame, aspect: float | int = 1.0) -> Frame:
    """The frame as it is meant to be seen.

    Args:
        frame: decoded.
        aspect: width over height of a pixel, as stored.

    Raises:
        Unshowable: turned by an odd angle, pixels of an absurd shape, or a space of colours without a conversion.
    """
    turn, size = orientation(frame), display_size(frame, aspect)
    pixels = _coloured(frame)
    if pixels.shape[2] == 4:
        pixels = _on_white(pixels)
    if size != (frame.width, frame.height):
        pixels = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))
    return np.ascontiguousarray(turn(pixels))


def _on_white(pixels: UInt8[np.ndarray, "H W 4"]) -> Frame:
    """Lay straight alpha on white, in bands that bound the memory."""
    laid, rows = pixels[..., :3].copy(), max(BAND // pixels.shape[1], 1)
    for top in range(0, len(pixels), rows):
        band = Image.fromarray(pixels[top : top + rows])
        white = Image.new("RGB", band.size, "white")
        white.paste(band, mask=band)
        laid[top : top + rows] = np.asarray(white)
    return laid


# ---------------------------------------------------------------------------------------------------- geometry


def display_size(frame: av.VideoFrame, aspect: float | int) -> tuple[int, int]:
    """(width, height) with square pixels, before it is turned.

    Raises:
        Unshowable: `aspect` is beyond `WIDEST_PIXEL`.
    """
    if not 1 / WIDEST_PIXEL <= aspect <= WIDEST_PIXEL:
        raise Unshowable(f"pixels {aspect:.3g} times as wide as high, beyond {WIDEST_PIXEL:g}; make the clip again")
    return max(round(frame.width * aspect), 1), frame.height


def orientation(frame: av.VideoFrame) -> Callable[[np.ndarray], np.ndarray]:
    """What brings the array of a frame upright, by the display matrix: a point (x, y) moves to (ax + cy, bx + dy).

    Raises:
        Unshowable: the matrix is no quarter turn, mirrored or not.
    """
    items = cast(Iterable[Any], frame.side_data)  # a mapping whose iterator gives values
    data = next((bytes(item) for item in items if item.type.name == "DISPLAYMATRIX"), None)
    if data is None or len(data) < 36:
        return partial(_turned, transposed=False, flip_x=False, flip_y=False)
    a, b, _, c, d, *_ = np.frombuffer(data[:36], np.int32).astype(float).tolist()
    straight, crossed = min(abs(a), abs(d)), min(abs(b), abs(c))
    if straight > 20 * max(abs(b), abs(c)):
        return partial(_turned, transposed=False, flip_x=a < 0, flip_y=d < 0)
    if crossed > 20 * max(abs(a), abs(d)):
        return partial(_turned, transposed=True, flip_x=c < 0, flip_y=b < 0)
    raise Unshowable("is to be turned by an angle that is no multiple of 90 degrees; turn it with a video editor")


def _turned(array: np.ndarray, *, transposed: bool, flip_x: bool, flip_y: bool) -> np.ndarray:
    array = array.swapaxes(0, 1) if transposed else array
    return array[:: -1 if flip_y else 1, :: -1 if flip_x else 1]


# ------------------------------------------------------------------------------------------------------ colours


def _has_alpha(frame: av.VideoFrame) -> bool:
    return frame.format.name == "pal8" or any(component.is_alpha for component in frame.format.components)


def _coloured(frame: av.VideoFrame) -> UInt8[np.ndarray, "H W c"]:
    """Red, green, blue and, where it has one, alpha as stored."""
    if frame.colorspace not in CONVERTIBLE:
        raise Unshowable("has colours in a space that cannot be converted; convert the clip to BT.709")
    if frame.color_trc in (ColorTrc.SMPTE2084, ColorTrc.ARIB_STD_B67):
        coded = _coded(frame)
        colours = tone_mapped(coded[..., :3], hlg=frame.color_trc == ColorTrc.ARIB_STD_B67)
        return np.concatenate([colours, (coded[..., 3:] >> 8).astype(np.uint8)], axis=2)
    pixel_format = "rgba" if _has_alpha(frame) else "rgb24"
    return _converted(frame, pixel_format, Colorspace.ITU709 if frame.height >= 720 else Colorspace.ITU601)


def _coded(frame: av.VideoFrame) -> UInt16[np.ndarray, "H W c"]:
    """Red, green and blue of BT.2020 before its transfer function is undone and, where it has one, alpha; 16 bit."""
    return _converted(frame, "rgba64le" if _has_alpha(frame) else "rgb48le", Colorspace(AVCOL_SPC_BT2020_NCL))


def _converted(frame: av.VideoFrame, pixel_format: str, guess: Colorspace) -> np.ndarray:
    untagged = frame.colorspace in AVCOL_SPC_UNSPECIFIED and not frame.format.is_rgb
    space = int(guess) if untagged else None
    return (
        _reformatter(pixel_format)
        .reformat(frame, format=pixel_format, interpolation=CONVERSION, src_colorspace=space, threads=1)
        .to_ndarray()
    )


_cached = threading.local()


def _reformatter(pixel_format: str) -> VideoReformatter:
    """The thread's own, since making one takes longer than converting a small frame."""
    if not hasattr(_cached, pixel_format):
        setattr(_cached, pixel_format, VideoReformatter())
    return getattr(_cached, pixel_format)


# ------------------------------------------------------------------------------------------ high dynamic range

_TO_709 = np.array(
    [[1.660491, -0.587641, -0.072850], [-0.124550, 1.132900, -0.008349], [-0.018151, -0.100579, 1.118730]]
)
"""Linear BT.2020 to linear BT.709 and sRGB (BT.2087)."""


def tone_mapped(coded: UInt16[np.ndarray, "H W 3"], hlg: bool) -> Frame:
    """PQ or HLG (BT.2100), 16 bit full range, as 8 bit sRGB."""
    rows = max(BAND // 4 // coded.shape[1], 1)
    bands = (coded[top : top + rows] for top in range(0, len(coded), rows))
    return np.concatenate([_shown(_light(band, hlg)) for band in bands])


def _light(coded: UInt16[np.ndarray, "H W 3"], hlg: bool) -> Float[np.ndarray, "H W 3"]:
    """Light of a display for BT.2020 signals, candela per square metre."""
    light = _transfer(hlg)[coded]
    if hlg:  # BT.2100's system gamma of 1.2 at 1000 candela
        luminance = light @ np.array([0.2627, 0.6780, 0.0593], np.float32)
        light *= HDR_PEAK * luminance[..., None] ** np.float32(0.2)
    return light


def _shown(light: Float[np.ndarray, "H W 3"]) -> Frame:
    """Tone map by the brightest of the three, so that hues stay, and encode for sRGB."""
    gains, encoded = _gains(), _srgb()
    brightest = np.sqrt(light.max(-1) / 10_000) * (len(gains) - 1)
    mapped = light * gains[brightest.astype(np.int32)][..., None] @ (_TO_709.T / SDR_WHITE).astype(np.float32)
    return encoded[(mapped.clip(0, 1) * (len(encoded) - 1)).astype(np.int32)]


@cache
def _transfer(hlg: bool) -> Float[np.ndarray, " n"]:
    """What a signal of 16 bit means: candela per square metre (PQ), or the share of the scene's white (HLG)."""
    signal = np.arange(65536) / 65535
    if not hlg:
        return _pq_light(signal).astype(np.float32)
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12).astype(np.float32)


def _pq_light(signal: np.ndarray) -> np.ndarray:
    power = signal ** (32 / 2523)
    return 10_000 * (np.maximum(power - 107 / 128, 0) / (2413 / 128 - 2392 / 128 * power)) ** (8192 / 1305)


def _pq_signal(light: np.ndarray) -> np.ndarray:
    power = (light / 10_000) ** (1305 / 8192)
    return ((107 / 128 + 2413 / 128 * power) / (1 + 2392 / 128 * power)) ** (2523 / 32)


@cache
def _gains() -> Float[np.ndarray, " n"]:
    """By how much light is multiplied, by the root of the light over 10,000 (BT.2390-11, 5.4.1)."""
    light = np.maximum(np.linspace(0, 1, 65536) ** 2 * 10_000, 1e-6)
    peak, white = _pq_signal(np.array([HDR_PEAK, SDR_WHITE]))
    brightest, knee = white / peak, 1.5 * white / peak - 0.5
    signal = np.minimum(_pq_signal(light) / peak, 1)
    t = np.maximum(signal - knee, 0) / (1 - knee)
    bent = (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + (3 * t**2 - 2 * t**3) * brightest
    return (_pq_light(np.where(signal < knee, signal, bent) * peak) / light).astype(np.float32)


@cache
def _srgb() -> UInt8[np.ndarray, " n"]:
    """8 bit sRGB of linear light in [0, 1]."""
    light = np.linspace(0, 1, 65536)
    return np.rint(255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)).astype(
        np.uint8
    )
