"""VBench-I2V's file layout (Huang et al. 2024, https://github.com/Vchitect/VBench, vbench2_beta_i2v).

Its list, ``vbench2_i2v_full_info.json``, has one object a prompt: ``prompt_en``, ``dimension`` (a list), ``image_type``
and ``image_name``; prompts of the dimension ``camera_motion`` may lack the picture and then share that of the prompt
before ", camera ...". Pictures lie in ``data/crop/RATIO``, in four aspect ratios. It expects five clips a prompt, named
``PROMPT-0.mp4`` to ``PROMPT-4.mp4``, in one folder with nothing else in it, H.264 at crf 10.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trip.data.text import printable, read_json
from trip.evaluation.protocols import Job, seed_of

INFO = "vbench2_i2v_full_info.json"
RATIOS = ("1-1", "8-5", "7-4", "16-9")
SAMPLES = 5
CRF = 10
CAMERA = ", camera "
LONGEST_NAME = 255
"""Bytes that file systems allow."""


def vbench_jobs(data: Path, ratio: str = "1-1", seed: int = 0, count: int | None = None) -> list[Job]:
    """Five clips of every prompt of the list.

    Args:
        data: VBench's folder vbench2_beta_i2v, or its list. ratio: of the pictures, one of `RATIOS`.
        seed: that the clips' own depend on. count: only the first so many prompts.

    Raises:
        ValueError: no list, a list of another kind, missing pictures, or prompts that no file can be named after.
    """
    if ratio not in RATIOS:
        raise ValueError(f"crop ratio {ratio!r} is unknown; choose one of {', '.join(RATIOS)}")
    file = data / INFO if data.is_dir() else data
    rows = read_info(file)
    folder = picture_folder(file.parent, ratio)
    pictures = {row["prompt_en"]: row["image_name"] for row in rows if "image_name" in row}
    prompts = list(dict.fromkeys(row["prompt_en"] for row in rows))[:count]
    try:
        return jobs_of(prompts, pictures, folder, seed)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None


def jobs_of(prompts: Sequence[str], pictures: dict[str, str], folder: Path, seed: int) -> list[Job]:
    """Five clips of every prompt, each from its picture.

    Raises:
        ValueError: a missing picture, or a prompt that no file can be named after.
    """
    return [
        Job(
            name=file_stem(prompt, sample),
            number=number,
            key=prompt,
            prompt=prompt,
            seed=seed_of(seed, prompt, sample),
            source=picture_of(prompt, pictures, folder),
        )
        for number, prompt in enumerate(prompts)
        for sample in range(SAMPLES)
    ]


def read_info(file: Path) -> list[dict[str, Any]]:
    """Rows of the list."""
    if not file.is_file():
        raise ValueError(f"there is no {file}; name VBench's folder vbench2_beta_i2v with --data")
    rows = read_json(file)
    if not (isinstance(rows, list) and rows and all(is_row(row) for row in rows)):
        raise ValueError(f"{file} is no list of objects with prompt_en and image_name; get VBench's {INFO} again")
    return rows


def is_row(row: Any) -> bool:
    """Whether an entry names a prompt and, if anything, a picture: a file name, and no path out of the folder."""
    if not isinstance(row, dict) or not isinstance(row.get("prompt_en"), str) or not row["prompt_en"]:
        return False
    name = row.get("image_name", "picture")
    return isinstance(name, str) and name not in ("", ".", "..") and not set(name) & set("/\\\0")


def picture_folder(data: Path, ratio: str) -> Path:
    """Where the pictures of one aspect ratio lie."""
    places = [data / "data" / "crop" / ratio, data / "crop" / ratio]
    found = next((place for place in places if place.is_dir()), None)
    if found is None:
        raise ValueError(f"there is no folder of pictures {places[0]}; get it with VBench's download_data.sh")
    return found


def picture_of(prompt: str, pictures: dict[str, str], folder: Path) -> Path:
    """The picture of a prompt, or of the prompt that it adds a camera move to."""
    name = pictures.get(prompt) or pictures.get(prompt.rpartition(CAMERA)[0])
    if name is None:
        raise ValueError(f"prompt {prompt!r} has no image_name, nor has the prompt without its camera move; correct it")
    if not (folder / name).is_file():
        raise ValueError(f"there is no picture {folder / printable(name)}; get it with VBench's download_data.sh")
    return folder / name


def file_stem(prompt: str, sample: int) -> str:
    """``PROMPT-0``, exactly: VBench finds clips by it."""
    stem = f"{prompt}-{sample}"
    if "/" in prompt or not prompt.isprintable() or len(f"{stem}.mp4".encode()) > LONGEST_NAME:
        raise ValueError(
            f"prompt {prompt[:40]!r}... cannot name a file (a slash, an invisible character, or over {LONGEST_NAME} "
            "bytes); drop it"
        )
    return stem
