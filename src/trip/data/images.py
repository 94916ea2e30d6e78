"""Still pictures in: what a camera or an editor writes becomes an 8 bit sRGB picture of a model's size.

``load_image`` reads, ``output_size`` chooses the size of the clip, ``fit_image`` brings the picture to it.
"""

import importlib.util
import io
import math
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops, ImageCms, UnidentifiedImageError

from trip.data.text import open_regular

MIN_SIDE = 16
"""Shortest side accepted, pixels: two latents of an f8 autoencoder."""

MAX_PIXELS = 50_000_000
"""Most pixels accepted (7,071 squared); checked in the header, before anything is decoded."""

SHARES = {"JPEG": 3.0, "MPO": 3.0, "JPEG2000": 0.5, "WEBP": 0.5}
"""So many times as many pixels may a picture of these formats have, by the memory that decoders take: a JPEG can be
reduced while it is decoded, if it is not progressive."""

MAX_FILE = 256 * 2**20
"""Most bytes of a file, since some decoders read all of it before they look at it."""

BAND = 1 << 22
"""Pixels converted at a time."""

HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")

FORMATS = (
    *("AVIF", "BMP", "GIF", "HEIF", "ICO", "JPEG", "JPEG2000"),
    *("MPO", "PNG", "PPM", "TGA", "TIFF", "WEBP"),
)
"""Pillow's names of the formats tried. HEIF comes with the extra `heif`; EPS, which would start another program, is
left out on purpose."""

Size = tuple[int, int]
"""(width, height) in pixels, as Pillow has it."""

Colour = tuple[int, int, int]
WHITE = (255, 255, 255)

UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF tag 0x0112 -> what brings the picture upright."""


def load_image(
    path: str | os.PathLike[str],
    *,
    background: Colour = WHITE,
    min_side: int = MIN_SIDE,
    max_pixels: int = MAX_PIXELS,
    formats: tuple[str, ...] = FORMATS,
) -> Image.Image:
    """Read a still picture as upright 8 bit RGB, see `to_rgb`; of an animated file the first frame.

    A JPEG of more than `MAX_PIXELS` is read at half, a quarter or an eighth of its size, which takes a fraction of
    the memory: `max_pixels` is multiplied by `SHARES` for it, unless it is a progressive one.

    Args:
        path: JPEG, PNG, WebP, TIFF, BMP, GIF, AVIF, HEIC (with pillow-heif), JPEG 2000, PPM, TGA or ICO, told by
            content.
        background: 8 bit RGB colour behind transparent pixels.
        min_side: shortest side accepted, pixels.
        max_pixels: most pixels accepted.
        formats: Pillow's names of the formats accepted.

    Raises:
        ValueError: missing, no regular file, empty, not a picture, damaged, too small or too large.
    """
    path = Path(path)
    _check_file(path)
    try:
        with (
            open_still(path) as file,
            _described(str(path)),
            Image.open(file, formats=_known(formats)) as image,
        ):
            _check_size(image.size, min_side, int(max_pixels * _share(image)))
            if image.width * image.height > max_pixels:
                image.draft(image.mode, _reduced(image.size, max_pixels))
            return _upright(image, background)
    except UnidentifiedImageError:
        raise ValueError(f"{path} {_unknown(path)}") from None


def open_still(path: str | os.PathLike[str]) -> io.BufferedReader:
    """A regular file for Pillow to read.

    Raises:
        ValueError: as `open_regular`, or larger than `MAX_FILE`.
    """
    file = open_regular(path)
    size = os.fstat(file.fileno()).st_size
    if size > MAX_FILE:
        file.close()
        raise ValueError(f"{path} has {size:,} bytes, more than the limit of {MAX_FILE >> 20} MiB; export it smaller")
    return file


class _Refused(ValueError):
    """What is wrong with the picture, to follow its name; as opposed to a decoder's complaint."""


@contextmanager
def _described(name: str) -> Iterator[None]:
    """Say whatever decoders raise in one line that starts with the picture's name."""
    with warnings.catch_warnings():
        # Odd EXIF, bomb and metadata warnings: what matters of them is checked here and said in one line.
        warnings.simplefilter("ignore")
        try:
            yield
        except Image.DecompressionBombError as error:
            pixels = re.search(r"\d{7,}", str(error))
            value = f"{int(pixels[0]):,} pixels" if pixels else "more pixels than Pillow accepts"
            raise ValueError(f"{name} {_too_large(value, MAX_PIXELS)}") from None
        except _Refused as error:
            raise ValueError(f"{name} {error}") from None
        except (UnidentifiedImageError, MemoryError):
            raise
        except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, ...
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(f"{name} is damaged or incomplete ({reason}); copy or export the picture again") from None


def _check_file(path: Path) -> None:
    if os.path.isdir(path):
        raise ValueError(f"{path} is a folder; name one picture in it")
    if not os.path.exists(path):  # unlike Path.exists, False for names that the system refuses
        raise ValueError(f"{path} does not exist; check the path of the picture")
    if os.path.isfile(path) and os.path.getsize(path) == 0:
        raise ValueError(f"{path} is empty (0 bytes); copy or export the picture again")


def _check_size(size: Size, min_side: int, max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise _Refused(_too_large(f"{width}x{height} pixels", max_pixels))
    if min(size) < min_side:
        raise _Refused(f"is {width}x{height} pixels, below the minimum side of {min_side}; use a larger picture")


def _too_large(value: str, max_pixels: int) -> str:
    side = math.isqrt(max_pixels)
    return f"has {value}, more than the limit of {max_pixels:,} (about {side}x{side}); scale it down first"


def _share(image: Image.Image) -> float:
    """Of the limit; a progressive JPEG is held whole before it can be reduced."""
    return 1.0 if "progressive" in image.info else SHARES.get(image.format or "", 1.0)


def _reduced(size: Size, max_pixels: int) -> Size:
    factor = next(factor for factor in (2, 4, 8) if math.prod(size) <= max_pixels * factor**2)
    return size[0] // factor, size[1] // factor


def _known(formats: tuple[str, ...]) -> list[str]:
    Image.init()
    if "HEIF" in formats and "HEIF" not in Image.OPEN and importlib.util.find_spec("pillow_heif"):
        importlib.import_module("pillow_heif").register_heif_opener()
    return [name for name in formats if name in Image.OPEN]


def _unknown(path: Path) -> str:
    with open_regular(path) as file:
        head = file.read(12)
    if head[4:8] == b"ftyp" and head[8:12] in HEIC_BRANDS and "HEIF" not in Image.OPEN:
        return "is a HEIC picture, which needs pillow-heif; pip install 'trip-i2v[heif]', or export it as JPEG"
    known = "JPEG, PNG, WebP, TIFF, BMP, GIF, AVIF, ..."
    return f"is not a picture of a known format ({known}); convert it, for example to PNG"


# --------------------------------------------------------------------------------------------- pixel formats


def to_rgb(image: Image.Image, background: Colour = WHITE, name: str = "image") -> Image.Image:
    """Convert a Pillow picture of any mode to upright 8 bit sRGB: the one place that decides what a picture is.

    EXIF orientation is applied, an embedded colour profile converted to sRGB, transparency of any kind laid over
    `background`, 16 bit scaled (not clipped) to 8, floats taken as 0 to 1, CMYK converted (Adobe's inverted kind
    too). The picture that was passed stays as it is; of an animated one its current frame is taken.

    Raises:
        ValueError: damaged, too large, or of values outside its range; the line starts with `name`.
    """
    with _described(name):
        if getattr(image, "fp", None) is not None:  # not decoded yet
            _check_size(image.size, 1, int(MAX_PIXELS * _share(image)))
        elif image.mode == "I" and image.format is None:
            _check_levels(image)
        return _upright(image, background)


def _check_levels(image: Image.Image) -> None:
    """Raise _Refused for 8 bit levels that a program put into mode I: read as 16 bit they are nearly black."""
    highest = np.asarray(image).max()
    if 0 < highest <= 255:
        raise _Refused(
            f'holds integers of at most {highest} in mode I, which is read as 16 bit; pass image.convert("L")'
        )


def _upright(image: Image.Image, background: Colour) -> Image.Image:
    image.load()  # before its tags are read: some decoders turn the picture themselves, and say so then
    turn = UPRIGHT.get(_orientation(image))
    convert = partial(_convert, background=background, levels=_levels(image), inverted_ink=_is_plain_jpeg(image))
    width, height = image.size
    rows = max(BAND // width, 1)
    if rows >= height:
        upright = convert(image)
    else:  # a large picture in bands: no step takes memory for all of it
        upright = Image.new("RGB", image.size)
        for top in range(0, height, rows):
            upright.paste(convert(image.crop((0, top, width, min(top + rows, height)))), (0, top))
    upright = upright.transpose(turn) if turn is not None else upright
    upright.info.clear()  # orientation and profile are applied: given again, the picture stays as it is
    return upright


def _convert(image: Image.Image, *, background: Colour, levels: "_Levels", inverted_ink: bool) -> Image.Image:
    profile, transparent = image.info.get("icc_profile"), image.info.get("transparency")
    mask = None
    if image.mode.startswith("I") or image.mode == "F":
        if isinstance(transparent, int):
            mask = Image.fromarray(np.where(np.asarray(image) == transparent, 0, 255).astype(np.uint8))
        image = levels.eight_bit(image)
    elif image.mode == "CMYK" and inverted_ink:
        image = ImageChops.invert(image)
    elif image.mode == "RGB" and isinstance(transparent, tuple):
        image, mask = image.copy(), _of_colour(image, transparent)
        del image.info["transparency"]
    elif image.mode == "La":  # premultiplied grey, which Pillow converts in one direction only
        image = image.convert("LA")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        mask = image.getchannel("A")
    if image.mode not in ("RGB", "CMYK", "L"):
        image = image.convert("RGB")
    coloured = _to_srgb(image, profile).convert("RGB")
    return coloured if mask is None else Image.composite(coloured, Image.new("RGB", image.size, background), mask)


def _of_colour(image: Image.Image, transparent: tuple[int, ...]) -> Image.Image:
    """Mask of an RGB picture with one transparent colour, which a 16 bit file gives in 16 bit."""
    colour = np.array(transparent[:3])
    colour = colour >> 8 if colour.max() > 255 else colour
    return Image.fromarray(np.where((np.asarray(image) == colour).all(-1), 0, 255).astype(np.uint8))


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(0x0112, 1)
    except Exception:  # damaged EXIF is no reason to refuse the pixels
        return 1


@dataclass(frozen=True)
class _Levels:
    """What the numbers of a picture of more than 8 bit mean: `highest` is white, or black if `inverted`."""

    highest: int
    inverted: bool

    def eight_bit(self, image: Image.Image) -> Image.Image:
        """Scale integers (I;16, I) and floats in [0, 1] (F) to 8 bit grey, rounding."""
        pixels, highest = np.asarray(image), 1 if image.mode == "F" else self.highest
        if not (np.isfinite(pixels).all() and pixels.min() >= 0 and pixels.max() <= highest):
            kind = "float" if image.mode == "F" else "integer"
            raise _Refused(
                f"holds {kind} values {pixels.min():g} to {pixels.max():g}, which must lie in 0 to {highest}; "
                "save it as 8 or 16 bit"
            )
        grey = np.rint(pixels.astype(np.float32) * (255 / highest)).astype(np.uint8)
        return Image.fromarray(255 - grey if self.inverted else grey)


def _levels(image: Image.Image) -> _Levels:
    tags = getattr(image, "tag_v2", {})  # of TIFF: 10, 12 or 14 bit in 16, and white may be 0
    bits = tags.get(258, (16,))
    bits = bits[0] if isinstance(bits, tuple) else bits
    return _Levels((1 << bits) - 1 if image.mode != "I" and 8 < bits <= 16 else 65535, tags.get(262) == 0)


def _is_plain_jpeg(image: Image.Image) -> bool:
    """Whether Pillow's inversion of JPEG CMYK has to be undone: only Adobe, which leaves a marker, inverts inks."""
    return image.format == "JPEG" and "adobe" not in image.info


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Convert RGB, CMYK or L from the embedded profile (Display P3, inks, ...); one that fails is ignored."""
    if not profile:
        return image
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "srgb" in ImageCms.getProfileDescription(source).lower():
            return image
        converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return image
    return converted if converted is not None else image


# -------------------------------------------------------------------------------------------------- geometry


def fit_image(image: Image.Image, width: int, height: int) -> Image.Image:
    """Bring an RGB picture to width x height pixels without distorting it: filled, what sticks out cut off, centred.

    The Lanczos kernel is widened by the reduction factor, so shrinking does not alias.

    Raises:
        ValueError: a side below 1.
    """
    if min(width, height) < 1:
        raise ValueError(f"size (={width}x{height}) must be at least 1x1; pass a larger width and height")
    scale = max(width / image.width, height / image.height)
    left = max(image.width - width / scale, 0.0) / 2
    top = max(image.height - height / scale, 0.0) / 2
    box = (left, top, image.width - left, image.height - top)
    return image.resize((width, height), Image.Resampling.LANCZOS, box=box)


def output_size(
    image: Image.Image | Size,
    multiple: int,
    area: int | Size,
    *,
    width: int | None = None,
    height: int | None = None,
    max_aspect: float | int = 4.0,
) -> Size:
    """Choose the (width, height) of a clip: the picture's aspect ratio, the model's number of pixels.

    Minimises ``|log(w/h / aspect)| + |log(w h / area)|`` over sides that are multiples of `multiple`.

    Args:
        image: the picture, or its (width, height) after EXIF orientation.
        multiple: both sides are multiples of this (8 for an f8 autoencoder and an undivided latent).
        area: pixels of a frame the model was trained at, or its default (width, height).
        width: fixed by the user; the height follows (and vice versa; with both given they are only checked).
        height: see `width`.
        max_aspect: longer pictures (panoramas) get this ratio; `fit_image` cuts the rest.

    Raises:
        ValueError: `area` below one multiple squared, or a given side that is no multiple.
    """
    source = image.size if isinstance(image, Image.Image) else image
    pixels = math.prod(area) if isinstance(area, tuple) else area
    if pixels < multiple**2:
        raise ValueError(f"area (={pixels}) is below {multiple}x{multiple} pixels; pass the model's frame size")
    for name, side in (("width", width), ("height", height)):
        if side is not None and (side < multiple or side % multiple):
            nearest = _nearest(side, multiple)
            raise ValueError(f"{name} (={side}) must be a positive multiple of {multiple}; try {nearest}")
    aspect = min(max(source[0] / source[1], 1 / max_aspect), max_aspect)
    if width is not None:
        return width, height if height is not None else _nearest(width / aspect, multiple)
    if height is not None:
        return _nearest(height * aspect, multiple), height
    ideal = math.sqrt(pixels * aspect), math.sqrt(pixels / aspect)

    def misfit(size: Size) -> float:
        w, h = size
        return abs(math.log(w / h / aspect)) + abs(math.log(w * h / pixels))

    widths, heights = (_neighbours(side, multiple) for side in ideal)
    return min(((w, h) for w in widths for h in heights), key=misfit)


def _nearest(side: float, multiple: int) -> int:
    return max(round(side / multiple), 1) * multiple


def _neighbours(side: float, multiple: int) -> tuple[int, int]:
    below = max(math.floor(side / multiple), 1) * multiple
    return below, below + multiple
