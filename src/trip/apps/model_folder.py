"""Which folder a model's name means, and whether it is whole. Reads headers only and imports no torch."""

from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from trip.data.text import open_regular, printable, read_json
from trip.models import BUNDLED_MODEL, bundled_model_path

WEIGHTLESS = ("tokenizer", "scheduler", "feature_extractor", "image_processor")
COPY_AGAIN = "copy, download or save the model again"


def find_model(name: str) -> str:
    """The folder of a model, checked, or a hub id as it is.

    Raises:
        ValueError: no such model, or a missing or damaged file in its folder.
    """
    folder = Path(name)
    if name == BUNDLED_MODEL and not folder.is_dir():
        folder = bundled_model_path()
    if folder.is_dir():
        check_model_folder(folder)
        return str(folder)
    if folder.exists():
        raise ValueError(f"model {name!r} is a file; name the folder with model_index.json")
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise ValueError(
            f"there is no model folder {name!r}; check the path, give a hub id (user/name), or leave --model out "
            f"for the bundled {BUNDLED_MODEL}"
        )
    return name


def check_model_folder(folder: Path) -> None:
    """Raise ValueError for what is missing or damaged, naming the file."""
    for part, kind in read_part(folder / "model_index.json", folder).items():
        if part.startswith("_") or not isinstance(kind, list) or not kind or kind[0] is None:
            continue
        if not (folder / part).is_dir():
            raise ValueError(f"model {folder} lacks the folder {printable(part)}; {COPY_AGAIN}")
        if part not in WEIGHTLESS:
            check_weights(folder, folder / part)


def check_weights(model: Path, part: Path) -> None:
    """Every safetensors file of a part must be whole, and there must be one."""
    files = sorted(part.glob("*.safetensors"))
    for index in part.glob("*.safetensors.index.json"):
        shards = read_part(index, model).get("weight_map")
        if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
            raise ValueError(f"{index} is damaged (weight_map names no files); {COPY_AGAIN}")
        files += [part / name for name in sorted(set(shards.values()))]
    if not files:
        raise ValueError(f"model {model} has no safetensors in {part.name}; {COPY_AGAIN}")
    for file in files:
        try:
            with open_regular(file), safe_open(file, "np") as weights:
                weights.keys()
        except (SafetensorError, OSError, ValueError) as error:
            raise ValueError(f"{file} is missing or damaged ({error}); {COPY_AGAIN}") from None


def read_part(path: Path, model: Path) -> dict[str, Any]:
    """A JSON object of a model folder."""
    if not path.exists():
        raise ValueError(f"{model} is no model folder, it has no {path.name}; check the path")
    try:
        content = read_json(path)
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({str(error).removeprefix(f'{path} ')}); {COPY_AGAIN}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} is damaged (not an object); {COPY_AGAIN}")
    return content
