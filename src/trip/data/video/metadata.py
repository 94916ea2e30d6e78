"""What made a clip, kept with the clip: embedded in the file and in a side-car JSON beside it.

The record is a flat JSON object. Where it lies:

=========  ==================================================================================
mp4        container tag ``trip`` (the JSON) and ``comment`` (the command, for players)
webm       the same, as Matroska tags ``TRIP`` and ``COMMENT``
gif        comment block
webp       EXIF ImageDescription
png        text chunk ``trip``, in every frame of a folder
side-car   ``out.mp4.json`` beside ``out.mp4``; ``frames.json`` beside the folder ``frames/``
=========  ==================================================================================

All of it is ASCII (JSON escapes), so no container's idea of text encoding can hurt a prompt. What is embedded names
the photograph, the clip and local models by their names only, since clips are passed on; the side-car stays and keeps
their paths.
"""

import json
import math
import os
import re
import shlex
import warnings
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from trip.data.images import open_still
from trip.data.text import open_regular, printable
from trip.data.video.containers import Fault, read_tags

SCHEMA = "trip-clip"
VERSION = 1
"""Raised when a record written today could be misread by an older reader."""

TAG = "trip"
MAX_BYTES = 512 * 1024
"""Longest record, bytes: below the 1 MB at which Pillow refuses a text chunk."""

EXIF_IMAGE_DESCRIPTION = 0x010E
PILLOW_SUFFIXES = (".gif", ".webp", ".png")

Metadata = Mapping[str, Any]
"""A record: settings by the names of `trip animate`'s flags, and anything else that JSON can hold."""

PATHS = ("image", "last_image", "keyframe", "mask", "output", "model", "fusion", "lora")
"""What a record says of its maker's disk."""

# -------------------------------------------------------------------------------------------------- records


def encode_metadata(metadata: Metadata, *, indent: int | None = None) -> str:
    """Record as an ASCII JSON object with ``schema`` and ``version`` in front.

    Paths become strings, fractions floats, NumPy scalars Python's.

    Raises:
        ValueError: not JSON (NaN, infinity, arbitrary objects), a reserved name, or more than `MAX_BYTES`.
    """
    record = dict(metadata)
    for reserved in ("schema", "version"):
        if reserved in record:
            raise ValueError(f"metadata must not have the reserved name {reserved!r}; rename it")
    try:
        text = json.dumps(
            {"schema": SCHEMA, "version": VERSION, **record}, default=_plain, allow_nan=False, indent=indent
        )
    except (TypeError, ValueError) as error:
        raise ValueError(f"metadata cannot be stored as JSON ({error}); pass plain finite values") from None
    if len(text) > MAX_BYTES:
        raise ValueError(f"metadata has {len(text)} bytes, more than {MAX_BYTES}; shorten the prompt")
    return text


def names_only(metadata: Metadata) -> dict[str, Any]:
    """The record with names in the place of paths; hub ids (user/name) stay."""
    record = dict(metadata)
    for key in PATHS:
        value = record.get(key)
        hub = key in ("model", "lora")
        if isinstance(value, str | os.PathLike):
            record[key] = _name(os.fspath(value), hub)
        elif isinstance(value, list | tuple):
            record[key] = [_name(item, hub) if isinstance(item, str) else item for item in value]
    return record


def _name(path: str, hub: bool) -> str:
    """The last part of a path of any system, with its trailing slash, and with the FRAME= before it."""
    if frame := re.match(r"\d+=", path):
        return frame[0] + _name(path[frame.end() :], hub)
    if hub and re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", path):
        return path
    whole = path.rstrip("/\\")
    return re.split(r"[/\\]", whole)[-1] + path[len(whole) :][:1]


def _plain(value: Any) -> Any:
    match value:
        case os.PathLike():
            return os.fspath(value)
        case Fraction():
            return float(value)
        case np.generic():
            return value.item()
    raise TypeError(f"{type(value).__name__} {value!r}")


def decode_metadata(text: str | bytes) -> dict[str, Any] | None:
    """Record of an `encode_metadata` text without ``schema`` and ``version``; None for any other text.

    Raises:
        ValueError: written by a later version of trip.
    """
    try:
        record = json.loads(text, parse_constant=_not_json, parse_float=_finite)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or record.pop("schema", None) != SCHEMA:
        return None
    version = record.pop("version", None)
    if not isinstance(version, int):
        return None
    if version > VERSION:
        raise ValueError(
            f"metadata version {printable(version, 20)} is later than {VERSION}, this trip's; upgrade trip-i2v"
        )
    return record


def _not_json(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _finite(digits: str) -> float:
    value = float(digits)
    return value if math.isfinite(value) else _not_json(digits)


# ---------------------------------------------------------------------------------------------------- files


def sidecar_path(path: str | os.PathLike[str]) -> Path:
    """``out.mp4`` -> ``out.mp4.json``: the whole name is kept, so out.mp4 and out.gif do not share one."""
    path = Path(path)
    return path.with_name(path.name + ".json")


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Record of a clip: from the file itself, else from its side-car. `path` may be a side-car, too.

    Raises:
        ValueError: no such file, not readable, or without a record.
    """
    path = Path(path)
    if not os.path.exists(path):  # unlike Path.exists, False for names that the system refuses
        raise ValueError(f"{path} does not exist; check the path of the clip")
    record = find_metadata(path)
    if record is None:
        raise ValueError(
            f"{path} holds no record of how it was made and has no {sidecar_path(path).name} beside it; "
            "it was saved without metadata or edited since"
        )
    return record


def find_metadata(path: Path) -> dict[str, Any] | None:
    """As `read_metadata`, but None where nothing is recorded. A side-car of the same clip adds the paths."""
    try:
        record, beside = _embedded(path), _of_json(sidecar_path(path))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return beside if record is None or (beside is not None and names_only(beside) == record) else record


def is_foreign(path: Path) -> bool:
    """Whether something stands in a side-car's place that trip did not write."""
    if not os.path.lexists(path):
        return False
    try:
        return path.is_symlink() or _of_json(path) is None
    except ValueError:  # of a later version
        return False


def is_recorded(picture: Path) -> bool:
    """Whether a picture holds a record of trip, of whatever version."""
    try:
        return _of_picture(picture) is not None
    except ValueError:  # of a later version
        return True


def _embedded(path: Path) -> dict[str, Any] | None:
    if path.is_dir():
        first = min(path.glob("*.png"), default=None)
        return _of_picture(first) if first else None
    if path.suffix.lower() == ".json":
        return _of_json(path)
    return _of_picture(path) if path.suffix.lower() in PILLOW_SUFFIXES else _of_container(path)


def _of_json(path: Path) -> dict[str, Any] | None:
    try:
        with open_regular(path) as file:
            content = file.read(2 * MAX_BYTES + 1)
    except ValueError:
        return None
    return decode_metadata(content) if len(content) <= 2 * MAX_BYTES else None


def _of_picture(path: Path) -> dict[str, Any] | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with open_still(path) as file, Image.open(file, formats=["GIF", "WEBP", "PNG"]) as image:
                candidates = (
                    image.info.get(TAG),
                    image.info.get("comment"),
                    image.getexif().get(EXIF_IMAGE_DESCRIPTION),
                )
        except Exception:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error, ...
            return None
    return _first_record(candidates)


def _of_container(path: Path) -> dict[str, Any] | None:
    try:
        tags = {name.lower(): value for name, value in read_tags(path).items()}
    except (Fault, ValueError, LookupError):
        return None
    return _first_record((tags.get(TAG), tags.get("comment")))


def _first_record(candidates: tuple[Any, ...]) -> dict[str, Any] | None:
    texts = (text for text in candidates if isinstance(text, str | bytes))
    return next((record for record in map(decode_metadata, texts) if record is not None), None)


# -------------------------------------------------------------------------------------------------- command


def terminal_quote(word: str) -> str:
    r"""As `shlex.quote`, but what a terminal would not print is escaped, in bash's and zsh's form ``$'\x1b'``."""
    if word.isprintable():
        return shlex.quote(word)
    return "$'" + "".join(map(_ansi_c, word)) + "'"


def _ansi_c(character: str) -> str:
    if character in "\\'":
        return "\\" + character
    if character.isprintable():
        return character
    return "".join(
        f"\\x{byte:02x}"
        for byte in character.encode(
            "utf-8", "surrogateescape" if "\udc80" <= character <= "\udcff" else "surrogatepass"
        )
    )
