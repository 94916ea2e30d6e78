"""Data sets as people have them: one list of examples from any of seven layouts.

============  ==================================================================================================
metadata      folder with metadata.jsonl, .csv or .parquet, or such a file: `file_name` and a caption column
pairs         folder (of folders) of clips, each with a .txt of the same name beside it
prompts       finetrainers: videos.txt and prompts.txt (or prompt.txt), one line a clip
webvid        CSV with the columns videoid, page_dir, name; clips at {page_dir}/{videoid}.mp4, or that below videos/
msrvtt        JSON with the lists "videos" and "sentences"; clips named {video_id}.mp4
classes       DTDB, UCF-101: a folder of folders of clips, each folder's name the caption
shards        WebDataset tars: a folder of them, a path, a pattern (``{000..099}``), a URL, or `pipe:COMMAND`
============  ==================================================================================================

"auto" takes the first that fits, in this order (shards in a folder before classes). Reading a list looks at names,
not at clips: what is missing or broken is found by `trip.data.check`.
"""

import csv
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trip.data.examples import Example, Location, TarMember, is_video, unique
from trip.data.shards import CAPTION_KEYS, expand_braces, index_shards, is_shards, stream_shards

VIDEO_COLUMNS = ("file_name", "video")
TABLE_SUFFIXES = (".jsonl", ".csv", ".parquet")
WEBVID_COLUMNS = ("videoid", "page_dir", "name")
MSRVTT_FOLDERS = ("", "videos", "video", "videos/all", "TrainValVideo", "TestVideo")
CAPTIONS = ("first", "all")

Table = list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class _Wish:
    """What the caller asked for beside the source."""

    video_column: str | None
    caption_column: str | None
    split: str | None


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """A clip with all of its captions."""

    key: str
    video: Location
    captions: tuple[str, ...]


def read_examples(
    source: str | os.PathLike[str],
    *,
    layout: str = "auto",
    video_column: str | None = None,
    caption_column: str | None = None,
    captions: str = "first",
    split: str | None = None,
) -> list[Example]:
    """List the examples of a data set, in the order of the source (sorted by name where it has none).

    Keys are paths relative to the source for files, ids for WebVid and MSR-VTT, WebDataset's keys for shards.

    Args:
        source: folder, table, tar, pattern or URL.
        layout: one of the module's table, or "auto".
        video_column: column of `metadata` tables that names the clip; `file_name`, else `video`, by default.
        caption_column: column of `metadata` tables with the caption (text or a list); `text`, `caption` or `prompt`
            by default.
        captions: of clips with several, "first" takes one; "all" makes an example of each, with keys KEY#0, KEY#1, ...
        split: keep the rows of `metadata` and MSR-VTT whose `split` is this.

    Raises:
        ValueError: nothing there, no layout fits, a column is missing, or a key occurs twice.
    """
    if captions not in CAPTIONS:
        raise ValueError(f"captions (={captions!r}) is not one of {CAPTIONS}")
    wish = _Wish(video_column=video_column, caption_column=caption_column, split=split)
    name = choose_layout(source) if layout == "auto" else layout
    if name == "shards":
        return index_shards(shard_urls(source))
    if name not in LAYOUTS:
        raise ValueError(f"layout (={layout!r}) is unknown; choose auto, shards, {', '.join(LAYOUTS)}")
    entries = _entries(name, Path(source), wish)
    found = unique((example for entry in entries for example in _examples(entry, captions)), source)
    if not found:
        raise ValueError(f"{source} lists no clips in the layout {name!r}; check the source")
    return found


def stream_examples(source: str | os.PathLike[str], **options: Any) -> Iterator[Example]:
    """The examples of any source in its own order; those of shards come with their bytes.

    The way to read what can only be read once, such as `pipe:` commands; `options` are those of `read_examples`.

    Raises:
        ValueError: as `read_examples`, or a stream that breaks off.
    """
    layout = options.get("layout", "auto")
    if layout == "shards" or (layout == "auto" and choose_layout(source) == "shards"):
        yield from stream_shards(shard_urls(source))
    else:
        yield from read_examples(source, **options)


def choose_layout(source: str | os.PathLike[str]) -> str:
    """The layout of a source.

    Raises:
        ValueError: nothing there, or nothing that fits, with what was looked for.
    """
    if is_shards(os.fspath(source)):
        return "shards"
    path = Path(source)
    if not path.exists():
        raise ValueError(f"{path} does not exist; check the path of the data")
    for name, find in _FINDERS.items():
        if find(path):
            return name
    raise ValueError(
        f"{path} fits no layout; looked for metadata.jsonl, .csv or .parquet; clips with .txt beside them; videos.txt "
        f"with prompts.txt; a CSV with {', '.join(WEBVID_COLUMNS)}; a JSON with videos and sentences; .tar shards; "
        "and folders of clips"
    )


def shard_urls(source: str | os.PathLike[str]) -> list[str]:
    """The tars that a folder or pattern stands for."""
    if Path(source).is_dir():
        return [str(path) for path in sorted(Path(source).glob("*.tar"))]
    return expand_braces(os.fspath(source))


def _entries(layout: str, source: Path, wish: _Wish) -> Iterable[_Entry]:
    found = _FINDERS[layout](source)
    if not found:
        raise ValueError(f"{source} is not of the layout {layout!r}; try layout='auto' to see what is looked for")
    return LAYOUTS[layout](found, wish)


def _examples(entry: _Entry, captions: str) -> Iterator[Example]:
    if captions == "first" or len(entry.captions) < 2:
        yield Example(key=entry.key, video=entry.video, caption=next(iter(entry.captions), ""))
        return
    for number, caption in enumerate(entry.captions):
        yield Example(key=f"{entry.key}#{number}", video=entry.video, caption=caption)


# ------------------------------------------------------------------------------------------------ metadata


def _find_metadata(path: Path) -> Path | None:
    if path.is_file() and path.suffix.lower() in TABLE_SUFFIXES:
        return None if _find_webvid(path) else path
    return next((file for s in TABLE_SUFFIXES if (file := path / f"metadata{s}").is_file()), None)


def _read_metadata(path: Path, wish: _Wish) -> Iterator[_Entry]:
    rows = _of_split(read_table(path), wish.split, path)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    video = _column(columns, wish.video_column, VIDEO_COLUMNS, f"{path} has no column of clips", "video_column")
    text = _column(columns, wish.caption_column, CAPTION_KEYS, f"{path} has no column of captions", "caption_column")
    for number, row in enumerate(rows, 1):
        name = row.get(video)
        if not isinstance(name, str) or not name:
            raise ValueError(f"{path} row {number} has {name!r} as {video}; it must be a clip's path")
        yield _Entry(key=str(row.get("key") or name), video=_located(path, name, row), captions=_texts(row.get(text)))


def _located(table: Path, name: str, row: Mapping[str, Any]) -> Location:
    """A file beside the table, or a member of a tar there: a row with `member`, `offset` and `size`."""
    if {"member", "offset", "size"} <= row.keys():
        archive = name if "://" in name else str(table.parent / name)
        return TarMember(archive=archive, name=row["member"], offset=int(row["offset"]), size=int(row["size"]))
    return table.parent / name


def _texts(value: object) -> tuple[str, ...]:
    values = value if isinstance(value, list | tuple) else [value]
    return tuple(text.strip() for text in values if isinstance(text, str) and text.strip())


def _column(columns: list[str], asked: str | None, usual: tuple[str, ...], problem: str, argument: str) -> str:
    names = usual if asked is None else (asked,)
    found = next((name for name in names if name in columns), None)
    if found is None:
        have = ", ".join(columns) or "none"
        raise ValueError(f"{problem} ({' or '.join(names)}); the columns are {have}; pass {argument}=")
    return found


def _of_split(rows: Table, split: str | None, path: Path) -> Table:
    if split is None:
        return rows
    there = sorted({str(row.get("split")) for row in rows})
    if split not in there:
        raise ValueError(f"{path} has no rows of the split {split!r}; the splits are {', '.join(there)}")
    return [row for row in rows if str(row.get("split")) == split]


def read_table(path: Path) -> Table:
    """Rows of a .jsonl, .csv or .parquet file.

    Raises:
        ValueError: not of its kind, or pyarrow is missing.
    """
    readers = {".jsonl": _read_jsonl, ".csv": _read_csv, ".parquet": _read_parquet}
    try:
        return readers[path.suffix.lower()](path)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error}); save it again as text") from None
    except csv.Error as error:
        raise ValueError(f"{path} is not a CSV ({error}); save it again as one") from None


def _read_jsonl(path: Path) -> Table:
    rows = []
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            try:
                row = json.loads(line) if line.strip() else None
            except ValueError as error:
                raise ValueError(f"{path} line {number} is not JSON ({error}); correct it") from None
            if row is not None and not isinstance(row, dict):
                raise ValueError(f'{path} line {number} is no object; write {{"file_name": ..., "text": ...}}')
            rows += [row] if row else []
    return rows


def _read_csv(path: Path) -> Table:
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, strict=True)
        rows = []
        for row in reader:
            if None in row:
                raise ValueError(f"{path} line {reader.line_num} has more values than columns; quote text with commas")
            rows.append(row)
    return rows


def _read_parquet(path: Path) -> Table:
    try:
        from pyarrow import ArrowException, parquet  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ValueError(f"{path} needs pyarrow; install it with pip, or save the table as .jsonl") from None
    try:
        return parquet.read_table(path).to_pylist()
    except ArrowException as error:
        raise ValueError(f"{path} is no Parquet table ({' '.join(str(error).split())}); save it again") from None


# --------------------------------------------------------------------------------------------- other layouts


def _clips(folder: Path) -> list[Path]:
    """All clips below a folder, sorted; hidden folders are left alone."""
    found = []
    for where, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(where) / name for name in files if is_video(name)]
    return sorted(found)


def _find_pairs(path: Path) -> Path | None:
    return path if path.is_dir() and any(clip.with_suffix(".txt").is_file() for clip in _clips(path)) else None


def _read_pairs(folder: Path, wish: _Wish) -> Iterator[_Entry]:
    for clip in _clips(folder):
        beside = clip.with_suffix(".txt")
        text = beside.read_text(encoding="utf-8", errors="replace") if beside.is_file() else ""
        yield _Entry(key=clip.relative_to(folder).as_posix(), video=clip, captions=_texts(" ".join(text.split())))


def _find_prompts(path: Path) -> tuple[Path, Path] | None:
    prompts = next((file for name in ("prompts.txt", "prompt.txt") if (file := path / name).is_file()), None)
    videos = path / "videos.txt"
    return (videos, prompts) if prompts is not None and videos.is_file() else None


def _read_prompts(files: tuple[Path, Path], wish: _Wish) -> Iterator[_Entry]:
    names, texts = (file.read_text(encoding="utf-8").strip("\n").split("\n") for file in files)
    if len(names) != len(texts):
        raise ValueError(f"{files[0]} has {len(names)} lines and {files[1]} {len(texts)}; write one prompt a clip")
    for name, text in zip(map(str.strip, names), texts, strict=True):
        if name:
            yield _Entry(key=name, video=files[0].parent / name, captions=_texts(text))


def _find_webvid(path: Path) -> Path | None:
    files = sorted(path.glob("*.csv")) if path.is_dir() else [path] if path.suffix.lower() == ".csv" else []
    found = [file for file in files if set(WEBVID_COLUMNS) <= set(_header(file))]
    if len(found) > 1:
        raise ValueError(f"{path} has {len(found)} lists ({found[0].name}, {found[1].name}, ...); name one of them")
    return found[0] if found else None


def _header(path: Path) -> list[str]:
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        return next(csv.reader(file), [])


def _read_webvid(path: Path, wish: _Wish) -> Iterator[_Entry]:
    rows = read_table(path)
    keys = {f"{row['page_dir']}/{row['videoid']}": row["name"] for row in rows}
    if len(keys) < len(rows):
        raise ValueError(f"{path} has a clip twice in {len(rows)} rows; keep one row of each")
    folder = _base(path.parent, ("", "videos"), list(keys))
    for key, text in keys.items():
        yield _Entry(key=key, video=folder / f"{key}.mp4", captions=_texts(text))


def _base(folder: Path, names: Sequence[str], stems: list[str]) -> Path:
    """The subfolder that holds the clips: the first that has any of the first thousand; else the last."""
    for name in names:
        if any((folder / name / f"{stem}.mp4").is_file() for stem in stems[:1000]):
            return folder / name
    return folder / names[-1]


def _find_msrvtt(path: Path) -> Path | None:
    files = sorted(path.glob("*.json")) if path.is_dir() else [path] if path.suffix.lower() == ".json" else []
    found = [file for file in files if _is_msrvtt(file)]
    if len(found) > 1:
        raise ValueError(f"{path} has {len(found)} lists ({found[0].name}, {found[1].name}, ...); name one of them")
    return found[0] if found else None


def _is_msrvtt(path: Path) -> bool:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return isinstance(content, dict) and all(isinstance(content.get(k), list) for k in ("videos", "sentences"))


def _read_msrvtt(path: Path, wish: _Wish) -> Iterator[_Entry]:
    content = json.loads(path.read_text(encoding="utf-8"))
    texts: dict[str, list[str]] = {}
    for sentence in content["sentences"]:
        texts.setdefault(sentence["video_id"], []).append(sentence["caption"])
    names = [row["video_id"] for row in _of_split(content["videos"], wish.split, path)]
    folder = _base(path.parent, MSRVTT_FOLDERS, names)
    for name in names:
        yield _Entry(key=name, video=folder / f"{name}.mp4", captions=_texts(texts.get(name, [])))


def _find_classes(path: Path) -> Path | None:
    return path if path.is_dir() and _clips(path) and not any(map(is_video, os.listdir(path))) else None


def _read_classes(folder: Path, wish: _Wish) -> Iterator[_Entry]:
    for clip in _clips(folder):
        key = clip.relative_to(folder).as_posix()
        yield _Entry(key=key, video=clip, captions=_texts(class_caption(clip.parent.name)))


def class_caption(name: str) -> str:
    """Words of a class name: "Boiling_water-2" -> "boiling water", "ApplyLipstick" -> "apply lipstick"."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])|[_\W\d]+", " ", name)
    return " ".join(words.split()).lower()


_FINDERS: dict[str, Callable[[Path], Any]] = {
    "metadata": _find_metadata,
    "pairs": _find_pairs,
    "prompts": _find_prompts,
    "webvid": _find_webvid,
    "msrvtt": _find_msrvtt,
    "shards": lambda path: any(path.glob("*.tar")) if path.is_dir() else False,
    "classes": _find_classes,
}
LAYOUTS: dict[str, Callable[[Any, _Wish], Iterable[_Entry]]] = {
    "metadata": _read_metadata,
    "pairs": _read_pairs,
    "prompts": _read_prompts,
    "webvid": _read_webvid,
    "msrvtt": _read_msrvtt,
    "classes": _read_classes,
}


# ------------------------------------------------------------------------------------------------- manifest


def write_manifest(path: Path, rows: Iterable[tuple[Example, Mapping[str, Any]]]) -> None:
    """Write a `metadata` table (.jsonl) of examples and facts about them, atomically; `read_examples` reads it back.

    Paths are relative to the table's folder.

    Raises:
        ValueError: an example that is neither a file nor a member of a tar, or a name that is not .jsonl.
        OSError: the folder cannot be written.
    """
    if path.suffix.lower() != ".jsonl":
        raise ValueError(f"manifest {path} must end in .jsonl")
    lines = [json.dumps({**_row(path.parent, example), **facts}, ensure_ascii=False) + "\n" for example, facts in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text("".join(lines), encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _row(folder: Path, example: Example) -> dict[str, Any]:
    match example.video:
        case TarMember(archive=archive, name=name, offset=offset, size=size):
            file = archive if "://" in archive else os.path.relpath(archive, folder)
            place: dict[str, Any] = {"file_name": file, "member": name, "offset": offset, "size": size}
        case Path() as file:
            place = {"file_name": os.path.relpath(file, folder)}
        case _:
            raise ValueError(f"{example.key} came through a stream; write shards of it instead of a manifest")
    return {**place, "key": example.key, "text": example.caption}
