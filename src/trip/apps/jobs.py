"""From what the user names (a picture, a folder, a list) to the clips to make."""

import csv
import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from trip.apps.options import Animate

LIST_SUFFIXES = (".csv", ".jsonl")
COLUMNS = ("image", "prompt", "seed", "output")
PICTURE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".avif", ".jp2"),
    *(".ppm", ".pgm", ".tga", ".ico", ".heic", ".heif"),
)
MAX_SEED = 2**63 - 1


@dataclass(frozen=True, kw_only=True)
class Job:
    """One clip to make. `output` is text: a trailing slash means a folder of PNGs."""

    image: Path
    prompt: str
    output: str
    seed: int


def is_batch(options: Animate) -> bool:
    """Whether `image` names many pictures."""
    return options.image.is_dir() or options.image.suffix.lower() in LIST_SUFFIXES


def collect_jobs(options: Animate) -> list[Job]:
    """All clips that the options ask for, existing or not.

    Raises:
        ValueError: an unreadable list, no pictures, no prompt, two clips of one name, a seed out of range.
    """
    if options.count < 1:
        raise ValueError(f"--count (={options.count}) must be at least 1")
    rows = [row for row in _rows(options) for row in _repeated(row, options.count)]
    taken: dict[str, Path] = {}
    for job in rows:
        if not 0 <= job.seed <= MAX_SEED:
            raise ValueError(f"seed (={job.seed}) must lie in 0 to 2^63 - 1; choose another")
        if job.output in taken:
            raise ValueError(
                f"{taken[job.output]} and {job.image} would both become {job.output}; give them a column output"
            )
        taken[job.output] = job.image
    return rows


def _rows(options: Animate) -> Iterator[Job]:
    if not is_batch(options):
        prompt = _prompt(options.prompt, "give one with --prompt")
        yield Job(image=options.image, prompt=prompt, output=options.output, seed=_seed(options.seed))
        return
    folder = Path(options.output)
    if folder.suffix:
        raise ValueError(f"--output (={options.output}) must be a folder for many pictures; leave out the suffix")
    if folder.is_file():
        raise ValueError(f"--output (={options.output}) is a file; name a folder for many pictures")
    if options.image.is_dir():
        yield from _of_folder(options, folder)
    else:
        yield from _of_list(options, folder)


def _of_folder(options: Animate, folder: Path) -> Iterator[Job]:
    pictures = sorted(p for p in options.image.iterdir() if p.suffix.lower() in PICTURE_SUFFIXES)
    if not pictures:
        raise ValueError(f"{options.image} holds no pictures (.jpg, .png, .webp, ...); name another folder")
    prompt = _prompt(options.prompt, "give one for all pictures with --prompt, or a .csv with one for each")
    for picture in pictures:
        output = str(folder / f"{picture.stem}.{options.format}")
        yield Job(image=picture, prompt=prompt, output=output, seed=_seed(options.seed))


def _of_list(options: Animate, folder: Path) -> Iterator[Job]:
    read = _read_csv if options.image.suffix.lower() == ".csv" else _read_jsonl
    count = 0
    for line, row in read(options.image):
        where = f"{options.image} line {line}"
        unknown = sorted(map(str, row.keys() - set(COLUMNS)))
        if unknown:
            raise ValueError(f"{where} has the unknown column {unknown[0]!r}; the columns are {', '.join(COLUMNS)}")
        if not row.get("image"):
            raise ValueError(f"{where} has no image; give its path, relative to the list's folder")
        picture = options.image.parent / str(row["image"])
        seed = row.get("seed")
        try:
            seed = options.seed if seed in (None, "") else int(seed)
        except (TypeError, ValueError):
            raise ValueError(f"{where} has the seed {seed!r}, which is no whole number; correct it") from None
        prompt = _prompt(row.get("prompt") or options.prompt, f"give one in {where}, or for all with --prompt")
        name = row.get("output") or f"{picture.stem}.{options.format}"
        yield Job(image=picture, prompt=prompt, output=str(folder / str(name)), seed=_seed(seed))
        count += 1
    if not count:
        raise ValueError(f"{options.image} lists no pictures; add lines with the columns image, prompt")


def _read_csv(path: Path) -> Iterator[tuple[int, dict]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True, strict=True)
            if "image" not in (reader.fieldnames or ()):
                raise ValueError(f"{path} has no column image; its first line must name the columns image,prompt")
            for row in reader:
                if None in row:
                    raise ValueError(
                        f"{path} line {reader.line_num} has more values than columns; quote prompts with commas"
                    )
                yield reader.line_num, row
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is not a CSV in UTF-8 ({error}); save it again as one") from None


def _read_jsonl(path: Path) -> Iterator[tuple[int, dict]]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error}); save it again as text") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{path} line {number} is not JSON ({error}); correct it") from None
        if not isinstance(row, dict):
            raise ValueError(f'{path} line {number} is not an object; write {{"image": ..., "prompt": ...}}')
        yield number, row


def _prompt(prompt: object, remedy: str) -> str:
    if not isinstance(prompt, str) or not prompt.strip():
        raise ValueError(f"there is no prompt; {remedy}")
    return prompt


def _seed(seed: int | None) -> int:
    return secrets.randbelow(2**31) if seed is None else seed


def _repeated(job: Job, count: int) -> list[Job]:
    """`count` jobs with consecutive seeds; out.mp4 -> out-1.mp4, out-2.mp4, ..."""
    if count == 1:
        return [job]
    path = Path(job.output)
    slash = "/" if job.output.endswith("/") else ""
    names = [str(path.with_name(f"{path.stem}-{k}{path.suffix}")) + slash for k in range(1, count + 1)]
    return [Job(image=job.image, prompt=job.prompt, output=n, seed=job.seed + k) for k, n in enumerate(names)]
