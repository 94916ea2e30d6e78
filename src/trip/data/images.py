"""Still pictures in: what a camera or an editor writes becomes an 8 bit sRGB picture of a model's size.

``load_image`` reads, ``output_size`` chooses the size of the clip, ``fit_image`` brings the picture to it.
"""

import io
import math
import os
import re
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops, ImageCms, ImageOps, UnidentifiedImageError

MIN_SIDE = 16
"""Shortest side accepted, pixels: two latents of an f8 autoencoder."""

MAX_PIXELS = 150_000_000
"""Most pixels accepted (12,247 squared); checked in the header, before anything is decoded."""

FORMATS = (
    *("AVIF", "BMP", "GIF", "HEIF", "ICO", "JPEG", "JPEG2000"),
    *("MPO", "PNG", "PPM", "TGA", "TIFF", "WEBP"),
)
"""Pillow's names of the formats tried. HEIF works once a plug-in has registered it; EPS, which would start
another program, is left out on purpose."""

Size = tuple[int, int]
"""(width, height) in pixels, as Pillow has it."""

# EXIF tag 0x0112 -> what brings the picture upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def load_image(
    path: str | os.PathLike[str],
    *,
    background: tuple[int, int, int] = (255, 255, 255),
    min_side: int = MIN_SIDE,
    max_pixels: int = MAX_PIXELS,
) -> Image.Image:
    """Read a still picture as upright 8 bit RGB.

    EXIF orientation is applied, an embedded colour profile converted to sRGB, transparency laid over
    `background` (white), 16 bit scaled (not clipped) to 8, CMYK converted (Adobe's inverted kind too); of an
    animated file the first frame is taken.

    Args:
        path: JPEG, PNG, WebP, TIFF, BMP, GIF, AVIF, JPEG 2000, PPM, TGA or ICO, told by content.
        background: 8 bit RGB colour behind transparent pixels.
        min_side: shortest side accepted, pixels.
        max_pixels: most pixels accepted.

    Raises:
        ValueError: missing, a folder, empty, not a picture, damaged, too small or too large.
    """
    path = Path(path)
    _check_file(path)
    with warnings.catch_warnings():
        # Odd EXIF, bomb and metadata warnings: what matters of them is checked here and said in one line.
        warnings.simplefilter("ignore")
        try:
            with Image.open(path, formats=_known_formats()) as image:
                _check_size(image.size, min_side, max_pixels)
                image.load()
                return to_rgb(image, background)
        except Image.DecompressionBombError as error:
            pixels = re.search(r"\d{7,}", str(error))
            value = f"{int(pixels[0]):,} pixels" if pixels else "more pixels than Pillow accepts"
            raise ValueError(f"{path} {_too_large(value, max_pixels)}") from None
        except UnidentifiedImageError:
            raise ValueError(
                f"{path} is not a picture of a known format (JPEG, PNG, WebP, TIFF, BMP, GIF, AVIF, ...); "
                "convert it, for example to PNG"
            ) from None
        except PermissionError as error:
            raise ValueError(f"{path} cannot be read ({error.strerror}); check its permissions") from None
        except _Refused as error:
            raise ValueError(f"{path} {error}") from None
        except (MemoryError, KeyboardInterrupt):
            raise
        except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, ...
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(f"{path} is damaged or incomplete ({reason}); copy or export the picture again") from None


class _Refused(ValueError):
    """What is wrong with the picture, to follow its name; as opposed to a decoder's complaint."""


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


def _known_formats() -> list[str]:
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


# --------------------------------------------------------------------------------------------- pixel formats


def to_rgb(image: Image.Image, background: tuple[int, int, int] = (255, 255, 255)) -> Image.Image:
    """Convert a Pillow picture of any mode to upright 8 bit sRGB; see `load_image`."""
    orientation = _orientation(image)
    profile = image.info.get("icc_profile")
    if image.mode.startswith("I") or image.mode == "F":
        image = _eight_bit(image)
    elif image.mode == "CMYK":
        image = _ink(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        coloured = _to_srgb(image.convert("RGB"), profile)
        coloured.putalpha(image.getchannel("A"))
        image = Image.alpha_composite(Image.new("RGBA", image.size, (*background, 255)), coloured)
    elif image.mode not in ("RGB", "CMYK", "L"):
        image = _to_srgb(image.convert("RGB"), profile)
    else:
        image = _to_srgb(image, profile)
    image = image.convert("RGB")
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image.copy()


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(0x0112, 1)
    except Exception:  # damaged EXIF is no reason to refuse the pixels
        return 1


def _eight_bit(image: Image.Image) -> Image.Image:
    """Scale 16 bit integers (I;16, I) and floats in [0, 1] (F) to 8 bit grey, rounding."""
    pixels = np.asarray(image)
    if image.mode == "F":
        if not (np.isfinite(pixels).all() and pixels.min() >= 0 and pixels.max() <= 1):
            raise _Refused(
                f"holds float values {pixels.min():g} to {pixels.max():g}, which must lie in 0 to 1; "
                "save it as 8 or 16 bit"
            )
        return Image.fromarray(np.rint(pixels * 255).astype(np.uint8))
    tags = getattr(image, "tag_v2", {})
    bits = tags.get(258, (16,))
    highest = (1 << (bits[0] if isinstance(bits, tuple) else bits)) - 1 if image.mode != "I" else 65535
    if pixels.min() < 0 or pixels.max() > highest:
        raise _Refused(
            f"holds integer values {pixels.min()} to {pixels.max()}, which must lie in 0 to {highest}; "
            "save it as 8 or 16 bit"
        )
    grey = np.rint(pixels.astype(np.float32) * (255 / highest)).astype(np.uint8)
    white_is_zero = tags.get(262) == 0
    return Image.fromarray(255 - grey if white_is_zero else grey)


def _ink(image: Image.Image) -> Image.Image:
    """Undo Pillow's inversion of JPEG CMYK where there is no Adobe marker: only Adobe inverts the inks."""
    plain = image.format == "JPEG" and "adobe" not in image.info
    return ImageChops.invert(image) if plain else image


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Convert from the embedded profile (Display P3, Adobe RGB, inks, ...); one that fails is ignored."""
    if not profile or image.mode not in ("RGB", "CMYK", "L"):
        return image
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "srgb" in ImageCms.getProfileDescription(source).lower():
            return image
        converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError):
        return image
    return converted if converted is not None else image


# -------------------------------------------------------------------------------------------------- geometry


def fit_image(
    image: Image.Image,
    width: int,
    height: int,
    mode: str = "cover",
    background: tuple[int, int, int] = (0, 0, 0),
) -> Image.Image:
    """Bring a picture to width x height pixels without distorting it.

    Args:
        image: RGB picture.
        width: pixels of the result.
        height: pixels of the result.
        mode: "cover" fills the frame and cuts what sticks out, centred; "contain" shows all of the picture,
            centred on `background`.
        background: 8 bit RGB of the bars of "contain".

    The Lanczos kernel is widened by the reduction factor, so shrinking does not alias.

    Raises:
        ValueError: a side below 1 or an unknown mode.
    """
    if min(width, height) < 1:
        raise ValueError(f"size (={width}x{height}) must be at least 1x1; pass a larger width and height")
    if mode == "cover":
        scale = max(width / image.width, height / image.height)
        left = max(image.width - width / scale, 0.0) / 2
        top = max(image.height - height / scale, 0.0) / 2
        box = (left, top, image.width - left, image.height - top)
        return image.resize((width, height), Image.Resampling.LANCZOS, box=box)
    if mode == "contain":
        scale = min(width / image.width, height / image.height)
        inner = max(round(image.width * scale), 1), max(round(image.height * scale), 1)
        resized = image.resize(inner, Image.Resampling.LANCZOS)
        left, top = (width - inner[0]) // 2, (height - inner[1]) // 2
        border = (left, top, width - inner[0] - left, height - inner[1] - top)
        return ImageOps.expand(resized, border, fill=background) if any(border) else resized
    raise ValueError(f'mode (={mode!r}) is unknown; choose "cover" or "contain"')


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
        max_aspect: longer pictures (panoramas) get this ratio; `fit_image` cuts or pads the rest.

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
