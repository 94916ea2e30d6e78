"""From what the user names (a picture, a folder, a list) to the clips to make."""

import csv
import os
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trip.apps.options import Animate
from trip.data.text import OnFault, has_surrogates, printable, read_csv, read_jsonl, read_lines
from trip.request import ClipRequest, plain

LIST_SUFFIXES = (".csv", ".jsonl")
COLUMNS = ("image", "prompt", "seed", "output")
PICTURE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".avif", ".jp2"),
    *(".ppm", ".pgm", ".tga", ".ico", ".heic", ".heif"),
)
DEVICE_NAMES = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]|conin\$|conout\$)\s*(\..*)?", re.IGNORECASE)
"""Names that Windows gives to devices, with any suffix and in any folder."""


@dataclass(frozen=True)
class Job:
    """One clip to make. `output` is text: a trailing slash means a folder of PNGs."""

    request: ClipRequest
    output: str


def is_batch(options: Animate) -> bool:
    """Whether `image` names many pictures."""
    return options.image.is_dir() or options.image.suffix.lower() in LIST_SUFFIXES


def collect_jobs(options: Animate) -> tuple[list[Job], list[ValueError]]:
    """All clips that the options ask for, existing or not, and what is wrong with the others.

    Raises:
        ValueError: an unreadable list, no pictures, or nothing in them that could be made.
    """
    if options.prompt is not None:
        check_prompt(options.prompt, "--prompt")
    jobs, faults, taken = [], [], {}
    for row in _rows(options):
        if isinstance(row, ValueError):
            faults.append(row)
            continue
        try:
            jobs += [_named_once(job, taken) for job in _repeated(row, options.count)]
        except ValueError as error:
            faults.append(error)
    if not jobs:
        first, more = faults[0], len(faults) - 1
        line = str(first) if str(options.image) in str(first) else f"{options.image}: {first}"
        raise ValueError(f"{line} (and {more} more rows)" if more else line)
    return jobs, faults


def _named_once(job: Job, taken: dict[str, Path]) -> Job:
    """The job, whose clip no other one makes."""
    name, image = os.path.normpath(job.output), job.request.image
    if name in taken:
        raise ValueError(f"{taken[name]} and {image} would both become {job.output}; give them a column output")
    taken[name] = image
    return job


def _job(options: Animate, image: Path, prompt: str, output: str, seed: int | None) -> Job:
    """A clip with the settings that all have."""
    seed = secrets.randbelow(2**31) if seed is None else seed
    return Job(replace(plain(ClipRequest, options), image=image, prompt=prompt, seed=seed), output)


def check_prompt(prompt: str, where: str) -> None:
    """Raise ValueError for halves of characters, which no tokenizer takes."""
    if has_surrogates(prompt):
        raise ValueError(f"{where} (={printable(prompt, 60)}) holds bytes that are not UTF-8; write it again")


def _rows(options: Animate) -> Iterator[Job | ValueError]:
    """The clip of every picture, once, or what is wrong with it."""
    if not is_batch(options):
        prompt = _prompt(options.prompt, "give one with --prompt")
        yield _job(options, options.image, prompt, options.output, options.seed)
        return
    folder = Path(options.output)
    if folder.suffix:
        raise ValueError(f"--output (={options.output}) must be a folder for many pictures; leave out the suffix")
    if folder.is_file():
        raise ValueError(f"--output (={options.output}) is a file; name a folder for many pictures")
    yield from _of_folder(options, folder) if options.image.is_dir() else _of_list(options, folder)


def _of_folder(options: Animate, folder: Path) -> Iterator[Job | ValueError]:
    """Hidden files are left out: macOS puts one beside every picture of an archive."""
    names = sorted(p for p in options.image.iterdir() if p.suffix.lower() in PICTURE_SUFFIXES and p.name[0] != ".")
    if not names:
        raise ValueError(f"{options.image} holds no pictures (.jpg, .png, .webp, ...); name another folder")
    prompt = _prompt(options.prompt, "give one for all pictures with --prompt, or a .csv with one for each")
    for picture in names:
        try:
            output = inside(folder, f"{picture.stem}.{options.format}")
        except ValueError as error:
            yield error
        else:
            yield _job(options, picture, prompt, output, options.seed)


def _of_list(options: Animate, folder: Path) -> Iterator[Job | ValueError]:
    empty = True
    for where, row in _read(options.image):
        empty = False
        try:
            yield ValueError(row) if isinstance(row, str) else _of_row(row, where, options, folder)
        except ValueError as error:
            yield error
    if empty:
        raise ValueError(f"{options.image} lists no pictures; add lines with the columns image, prompt")


def _of_row(row: dict[str, Any], where: str, options: Animate, folder: Path) -> Job:
    """The clip of a row of a list.

    Raises:
        ValueError: no picture, no prompt, a seed that is none, an output that leaves the folder, an unknown column.
    """
    if unknown := sorted(row.keys() - set(COLUMNS)):
        name = printable(unknown[0], 60)
        raise ValueError(f"{where} has the unknown column {name!r}; the columns are {', '.join(COLUMNS)}")
    texts = {name: row.get(name) for name in ("image", "prompt", "output")}
    for name, value in texts.items():
        if not (value is None or isinstance(value, str)):
            raise ValueError(f"{where} has the {name} {printable(value, 60)}, which is no text; write it in quotes")
    image, prompt, output = texts.values()
    if not image:
        raise ValueError(f"{where} has no image; give its path, relative to the list's folder")
    if prompt:
        check_prompt(prompt, f"the prompt of {where}")
    picture = options.image.parent / image
    try:
        output = inside(folder, output or f"{picture.stem}.{options.format}")
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    prompt = _prompt(prompt or options.prompt, f"give one in {where}, or for all with --prompt")
    seed = _row_seed(row.get("seed"), where, options.seed)
    try:
        return _job(options, picture, prompt, output, seed)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _row_seed(value: Any, where: str, default: int | None) -> int | None:
    if value is None or value == "":
        return default
    try:
        if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
            raise ValueError
        return int(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(
            f"{where} has the seed {printable(repr(value), 60)}, which is no whole number; correct it"
        ) from None


def inside(folder: Path, name: str) -> str:
    """The path of a clip that a list names, which must lie in the folder, whatever the system.

    Raises:
        ValueError: an absolute path, a step up, a link that leads out, a drive, a device, or control characters.
    """
    shown = printable(name, 120)
    if shown != name:
        raise ValueError(f"the output '{shown}' holds characters that cannot be printed, or too many; rename it")
    parts = [part for part in re.split(r"[/\\]", name) if part not in ("", ".")]
    leaves = name.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", name)
    bad = not parts or leaves or any(not part.strip(" .") or DEVICE_NAMES.fullmatch(part) for part in parts)
    path = os.fspath(folder / name) + "/" * name.endswith("/")
    if bad or not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
        raise ValueError(f"the output {shown!r} does not stay inside --output ({folder}); give a plain relative name")
    return path


def _read(path: Path) -> Iterator[tuple[str, dict[str, Any] | str]]:
    """(where it stands, row, or what is wrong with it) of a list."""
    faults: list[tuple[int, str]] = []
    read = _read_csv if path.suffix.lower() == ".csv" else read_jsonl
    for line, row in read(path, on_fault=lambda number, problem: faults.append((number, problem))):
        yield from ((f"{path} line {number}", problem) for number, problem in faults)
        faults.clear()
        yield f"{path} line {line}", row
    yield from ((f"{path} line {number}", problem) for number, problem in faults)


def _read_csv(path: Path, on_fault: OnFault) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        header = next(csv.reader(read_lines(path, newline=""), skipinitialspace=True), [])
    except csv.Error as error:
        raise ValueError(f"{path} line 1 is not CSV ({error}); save it again as one") from None
    if "image" not in header:
        raise ValueError(f"{path} has no column image; its first line must name the columns image,prompt")
    yield from read_csv(path, on_fault)


def _prompt(prompt: str | None, remedy: str) -> str:
    if prompt is None or not prompt.strip():
        raise ValueError(f"there is no prompt; {remedy}")
    return prompt


def _repeated(job: Job, count: int) -> list[Job]:
    """`count` jobs with consecutive seeds; out.mp4 -> out-1.mp4, out-2.mp4, ..."""
    if count == 1:
        return [job]
    path = Path(job.output)
    slash = "/" if job.output.endswith("/") else ""
    names = [str(path.with_name(f"{path.stem}-{k}{path.suffix}")) + slash for k in range(1, count + 1)]
    seed = job.request.seed or 0
    return [Job(replace(job.request, seed=seed + k), name) for k, name in enumerate(names)]
