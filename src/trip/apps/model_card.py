"""What `trip info MODEL` says: size, length, licence, and what the model understands. Reads JSON, imports no torch."""

from pathlib import Path
from typing import Any

from trip.data.text import read_json
from trip.loading import read_index
from trip.models import BUNDLED_MODEL, bundled_model_path

INDEX = "model_index.json"
UNDERSTANDS = "understands.json"
"""What a model understands, in its folder, see `trip.wordings`."""


def find_card(path: Path) -> Path | None:
    """The folder of the model that a path names, or None."""
    if str(path) == BUNDLED_MODEL and not path.exists():
        return bundled_model_path()
    return path if (path / INDEX).is_file() else None


def model_card(folder: Path) -> dict[str, Any]:
    """Names and values to show.

    Raises:
        ValueError: a damaged file.
    """
    index = read_index(folder)
    unet, vae, fusion = (_object(folder / part / "config.json") for part in ("unet", "vae", "fusion"))
    said = _object(folder / UNDERSTANDS)
    motions = said.get("motions")
    motions = motions if isinstance(motions, dict) else {}
    card = {
        "model": folder.name,
        "pipeline": index.get("_class_name"),
        "size": _size(unet, vae),
        "frames": unet.get("max_num_frames"),
        "fusion": fusion.get("_class_name"),
        "guidance_scale": index.get("default_guidance_scale"),
        "megabytes": round(sum(file.stat().st_size for file in folder.glob("*/*.safetensors")) / 1e6, 1),
        "licence": said.get("licence"),
        "language": said.get("language"),
        "understands": [f"{name}: {_examples(wordings)}" for name, wordings in motions.items()] or None,
    }
    return {name: value for name, value in card.items() if value is not None}


def _object(path: Path) -> dict[str, Any]:
    """A JSON object, empty where there is no such file."""
    content = read_json(path) if path.exists() else {}
    if not isinstance(content, dict):
        raise ValueError(f"{path} is damaged (not an object); copy, download or save the model again")
    return content


def _size(unet: dict[str, Any], vae: dict[str, Any]) -> str | None:
    """ "WIDTHxHEIGHT" in pixels that it was trained at."""
    size, blocks = unet.get("sample_size"), vae.get("block_out_channels")
    sides = size if isinstance(size, list) else [size, size]
    if (
        len(sides) != 2
        or not all(type(side) is int and 0 < side < 10**6 for side in sides)
        or not isinstance(blocks, list)
    ):
        return None
    height, width = (side * 2 ** min(len(blocks) - 1, 10) for side in sides)
    return f"{width}x{height}"


def _examples(wordings: Any) -> str:
    wordings = wordings if isinstance(wordings, list) else [wordings]
    return ", ".join(f'"{wording}"' for wording in wordings)
