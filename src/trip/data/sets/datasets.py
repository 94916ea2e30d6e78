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
not at clips: what is missing or broken is found by `trip.data.sets.check`. What is wrong with one row or one name makes
one unusable example, which stands in the list with the reason; what is wrong with the whole list is an error.
"""

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trip.data.places import Outside, Root
from trip.data.sets.examples import Example, Location, TarMember, Unusable, is_video, unique, visible
from trip.data.sets.folders import Folder, walk
from trip.data.sets.shards import CAPTION_KEYS, check_schemes, index_shards, is_shards, is_tar
from trip.data.text import (
    expand_braces,
    open_regular,
    printable,
    read_columns,
    read_csv,
    read_json,
    read_jsonl,
    read_text,
)
from trip.files import write_text

VIDEO_COLUMNS = ("file_name", "video")
TABLE_SUFFIXES = (".jsonl", ".csv", ".parquet")
WEBVID_COLUMNS = ("videoid", "page_dir", "name")
MSRVTT_FOLDERS = ("", "videos", "video", "videos/all", "TrainValVideo", "TestVideo")
CAPTIONS = ("first", "all")
MOST_ROWS = 100_000_000
MOST_BYTES = 2**62
"""Of an offset or a size."""


@dataclass(frozen=True, kw_only=True)
class _Wish:
    """What the caller asked for beside the source, and where its names may lead."""

    video_column: str | None
    caption_column: str | None
    split: str | None
    source: Path
    root: Root

    def listed(self, file: Path) -> Path:
        """A list that the source is or holds; only the user may name one that leads out.

        Raises:
            Outside: a link out of the folder.
        """
        return file if file == self.source else self.root.check(file)

    def chosen(self, row: object) -> bool:
        """Whether a row is of the split; what is no row stays, to be named as a fault."""
        return self.split is None or not isinstance(row, dict) or str(row.get("split")) == self.split


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """A clip with all of its captions."""

    key: str
    video: Location
    captions: tuple[str, ...]


class _Bad(ValueError):
    """What is wrong with one row."""


def read_examples(
    source: str | os.PathLike[str],
    *,
    layout: str = "auto",
    video_column: str | None = None,
    caption_column: str | None = None,
    captions: str = "first",
    split: str | None = None,
    root: Path | None = None,
    schemes: tuple[str, ...] = (),
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
        root: folder that names in the set must not lead out of; by default the source, or the folder that holds it.
        schemes: of URLs that may be read, as the source or as a tar that a table names; by default none.

    Raises:
        ValueError: nothing there, no layout fits, a list that cannot be read, a column is missing, or a choice that
            the layout has not.
    """
    if captions not in CAPTIONS:
        raise ValueError(f"captions (={captions!r}) is not one of {CAPTIONS}")
    check_schemes(os.fspath(source), schemes)
    name = choose_layout(source) if layout == "auto" else layout
    choices = {"video_column": video_column, "caption_column": caption_column, "split": split}
    _check_choices(name, choices, source)
    if name == "shards":
        return index_shards(shard_urls(source, root))
    if name not in LAYOUTS:
        raise ValueError(f"layout (={layout!r}) is unknown; choose auto, shards, {', '.join(LAYOUTS)}")
    path = Path(source)
    wish = _Wish(**choices, source=path, root=Root(root or (path if path.is_dir() else path.parent), schemes))
    entries = _entries(name, path, wish)
    found = unique(example for entry in entries for example in _examples(entry, captions))
    if not found:
        raise ValueError(f"{source} lists no clips in the layout {name!r}; check the source")
    return found


def choose_layout(source: str | os.PathLike[str]) -> str:
    """The layout of a source.

    Raises:
        ValueError: nothing there, or nothing that fits, with what was looked for; a list that may be the one meant and
            cannot be read, or lacks its other half.
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


def shard_urls(source: str | os.PathLike[str], root: Path | None = None) -> list[str]:
    """The tars that a folder or pattern stands for.

    Raises:
        ValueError: a link in the folder leads out of it, and out of `root`.
    """
    folder = Path(source)
    if folder.is_dir():
        inside = Root(root or folder)
        return [str(inside.check(path)) for path in _tars(folder)]
    return expand_braces(os.fspath(source))


def _tars(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if is_tar(path.name)) if folder.is_dir() else []


def _check_choices(layout: str, choices: Mapping[str, str | None], source: object) -> None:
    """A choice that the layout has not would be passed over in silence."""
    for name, value in choices.items():
        takers = [taker for taker, takes in _TAKES.items() if name in takes]
        if value is not None and layout not in takers:
            have = " or ".join(takers)
            raise ValueError(f"{name} (={value!r}) is of the layout {have}, {source} is of {layout!r}; leave it out")


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


# ------------------------------------------------------------------------------------------------- one row


def _guarded(key: str, place: str, make: Callable[[], _Entry]) -> _Entry:
    """The entry of a row or a file; an unusable one where it is at fault."""
    try:
        return make()
    except (_Bad, Outside) as error:
        reason = "outside" if isinstance(error, Outside) else "bad_entry"
        return _unusable(key, reason, f"{place}{error}")


def _unusable(key: str, reason: str, message: str) -> _Entry:
    return _Entry(key=printable(key), video=Unusable(reason=reason, message=message), captions=())


def _text(row: Mapping[str, Any], name: str, what: str) -> str:
    """A field that must be a text with something in it."""
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise _Bad(f"has {_shown(value)} as {name}; it must be {what}")
    return value


def _texts(value: object) -> tuple[str, ...]:
    """The captions of a field: a text, a list of them, or nothing."""
    values = value if isinstance(value, list | tuple) else [value]
    for text in values:
        if not (isinstance(text, str) or text is None or text != text):  # pandas writes NaN for nothing
            raise _Bad(f"has {_shown(text)} as a caption; it must be a text")
    return tuple(text.strip() for text in values if isinstance(text, str) and text.strip())


def _bytes(value: object, name: str) -> int:
    """An offset or a size."""
    number = int(value) if isinstance(value, str) and re.fullmatch(r"[0-9]{1,19}", value) else value
    if isinstance(number, float) and number.is_integer():  # pandas makes floats of columns with gaps
        number = int(number)
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number <= MOST_BYTES:
        raise _Bad(f"has {_shown(value)} as {name}; it must be a whole number of bytes")
    return number


def _shown(value: object) -> str:
    try:
        return printable(repr(value), 60)
    except (RecursionError, ValueError):  # nested without end, or an integer of too many digits
        return f"a {type(value).__name__}"


# ------------------------------------------------------------------------------------------------ metadata

Row = tuple[int, dict[str, Any] | str]
"""(number of a line or row, its fields or what is wrong with it)."""


def _find_metadata(path: Path) -> Path | None:
    if path.is_file() and path.suffix.lower() in TABLE_SUFFIXES:
        return None if _find_webvid(path) else path
    return _named(path, *(f"metadata{suffix}" for suffix in TABLE_SUFFIXES))


def _named(folder: Path, *names: str) -> Path | None:
    """The first of the files that a folder has, its name in any case."""
    if not folder.is_dir():
        return None
    there = {file.name.lower(): file for file in sorted(folder.iterdir(), reverse=True)}
    found = (there.get(name) for name in names)
    return next((file for file in found if file is not None and not file.is_dir()), None)


def _read_metadata(path: Path, wish: _Wish) -> Iterator[_Entry]:
    rows = list(read_table(wish.listed(path)))
    good = [row for _, row in rows if isinstance(row, dict)]
    if rows and not good:
        raise ValueError(rows[0][1])
    _check_split(good, wish.split, path)
    columns = list(dict.fromkeys(name for row in good for name in row))
    video = _column(columns, wish.video_column, VIDEO_COLUMNS, f"{path} has no column of clips", "video_column")
    text = _column(columns, wish.caption_column, CAPTION_KEYS, f"{path} has no column of captions", "caption_column")
    for number, row in rows:
        if isinstance(row, str):
            yield _unusable(f"{path.name} line {number}", "bad_entry", row)
        elif wish.chosen(row):
            yield _metadata_entry(path, number, row, video, text, wish.root)


def _metadata_entry(path: Path, number: int, row: dict[str, Any], video: str, text: str, root: Root) -> _Entry:
    place = f"{path.name} {_unit(path)} {number} "

    def make() -> _Entry:
        name = _text(row, video, "a clip's path")
        key = row.get("key") if row.get("key") not in (None, "") else name
        if not isinstance(key, str | int):
            raise _Bad(f"has {_shown(key)} as key; it must be a text")
        return _Entry(key=str(key), video=_located(path, name, row, root), captions=_texts(row.get(text)))

    name = row.get(video)
    return _guarded(name if isinstance(name, str) and name.strip() else place.strip(), place, make)


def _located(table: Path, name: str, row: Mapping[str, Any], root: Root) -> Location:
    """A file beside the table, or a member of a tar there: a row with `member`, `offset` and `size`."""
    given = {field: row.get(field) for field in ("member", "offset", "size")}
    if all(value in (None, "") or value != value for value in given.values()):
        return root.locate(table.parent, name)
    member = _text(row, "member", "the name of a member of the tar")
    offset, size = _bytes(given["offset"], "offset"), _bytes(given["size"], "size")
    return TarMember(archive=root.archive(table.parent, name), name=member, offset=offset, size=size)


def _column(columns: list[str], asked: str | None, usual: tuple[str, ...], problem: str, argument: str) -> str:
    names = usual if asked is None else (asked,)
    found = next((name for name in names if name in columns), None)
    if found is None:
        have = printable(", ".join(columns), 200) or "none"
        raise ValueError(f"{problem} ({' or '.join(names)}); the columns are {have}; pass {argument}=")
    return found


def _check_split(rows: Sequence[object], split: str | None, path: Path) -> None:
    """Raise ValueError for a split without rows."""
    values = (row.get("split") for row in rows if isinstance(row, dict))
    there = sorted({str(value) for value in values if not isinstance(value, dict | list)})
    if split is not None and split not in there:
        have = printable(", ".join(there), 200)
        raise ValueError(f"{path} has no rows of the split {split!r}; the splits are {have}")


def _unit(path: Path) -> str:
    return "row" if path.suffix.lower() == ".parquet" else "line"


def read_table(path: Path) -> Iterator[Row]:
    """Rows of a .jsonl, .csv or .parquet file.

    Raises:
        ValueError: not of its kind, or pyarrow is missing.
    """
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        yield from _read_parquet(path)
        return
    faults: list[Row] = []
    reader = read_jsonl if suffix == ".jsonl" else read_csv
    for row in reader(path, lambda number, problem: faults.append((number, problem))):
        yield from faults
        faults.clear()
        yield row
    yield from faults


def _read_parquet(path: Path) -> Iterator[Row]:
    try:
        from pyarrow import ArrowException, parquet  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ValueError(f"{path} needs pyarrow; install it with pip, or save the table as .jsonl") from None
    try:
        with open_regular(path) as file:
            table = parquet.ParquetFile(file)
            if table.metadata.num_rows > MOST_ROWS:
                raise ValueError(f"{path} has {table.metadata.num_rows} rows, more than {MOST_ROWS}; split it")
            rows = (row for batch in table.iter_batches(256) for row in batch.to_pylist())
            yield from enumerate(rows, 1)
    except (ArrowException, OSError) as error:
        raise ValueError(f"{path} is no Parquet table ({' '.join(str(error).split())}); save it again") from None


# ------------------------------------------------------------------------------------------ folders of clips


def _find_pairs(path: Path) -> Path | None:
    return path if path.is_dir() and any(folder.texts for folder in walk(path, Root(path))) else None


def _read_pairs(path: Path, wish: _Wish) -> Iterator[_Entry]:
    def captions(folder: Folder, clip: str) -> tuple[str, ...]:
        name = folder.texts.get(clip)
        return () if name is None else _texts(" ".join(_read_beside(wish.root.check(folder.path / name)).split()))

    return _clips(path, wish, captions)


def _read_beside(path: Path) -> str:
    try:
        return read_text(path)
    except ValueError as error:
        raise _Bad(str(error)) from None


def _clips(path: Path, wish: _Wish, captions: Callable[[Folder, str], tuple[str, ...]]) -> Iterator[_Entry]:
    """The clips below a folder, sorted, and what of it cannot be read."""
    entries = []
    for folder in walk(path, wish.root):
        for name, fault in folder.faults.items():
            entries.append(_unusable(_below(path, folder.path / name), fault.reason, fault.message))
        for name in folder.clips:
            entries.append(_clip(path, folder, name, wish, captions))
    yield from sorted(entries, key=lambda entry: Path(entry.key))


def _clip(
    path: Path, folder: Folder, name: str, wish: _Wish, captions: Callable[[Folder, str], tuple[str, ...]]
) -> _Entry:
    clip, key = folder.path / name, _below(path, folder.path / name)
    return _guarded(key, "", lambda: _Entry(key=key, video=wish.root.check(clip), captions=captions(folder, name)))


def _below(top: Path, path: Path) -> str:
    return path.relative_to(top).as_posix()


def _find_classes(path: Path) -> Path | None:
    if not path.is_dir() or any(map(is_video, os.listdir(path))):
        return None
    return path if any(folder.clips or folder.faults for folder in walk(path, Root(path))) else None


def _read_classes(path: Path, wish: _Wish) -> Iterator[_Entry]:
    return _clips(path, wish, lambda folder, clip: _texts(class_caption(folder.path.name)))


def class_caption(name: str) -> str:
    """Words of a class name: "Boiling_water-2" -> "boiling water", "ApplyLipstick" -> "apply lipstick"."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])|[_\W\d]+", " ", name)
    return " ".join(words.split()).lower()


# -------------------------------------------------------------------------------------------------- prompts


def _find_prompts(path: Path) -> tuple[Path, Path] | None:
    prompts, videos = _named(path, "prompts.txt", "prompt.txt"), _named(path, "videos.txt")
    if prompts is None and videos is None:
        return None
    if prompts is None or videos is None:
        there, lacks = (videos, "prompts.txt") if prompts is None else (prompts, "videos.txt")
        raise ValueError(f"{there} has no {lacks} beside it; write one, or rename the file if it is no list")
    return videos, prompts


def _read_prompts(files: tuple[Path, Path], wish: _Wish) -> Iterator[_Entry]:
    names, texts = (read_text(wish.listed(file)).rstrip("\n").split("\n") for file in files)
    if len(names) != len(texts):
        raise ValueError(f"{files[0]} has {len(names)} lines and {files[1]} {len(texts)}; write one prompt a clip")
    for number, (name, text) in enumerate(zip(map(str.strip, names), texts, strict=True), 1):
        if name or text.strip():
            yield _prompts_entry(files[0], number, name, text, wish.root)


def _prompts_entry(file: Path, number: int, name: str, text: str, root: Root) -> _Entry:
    place = f"{file.name} line {number} "

    def make() -> _Entry:
        if not name:
            raise _Bad("is empty, though there is a prompt for it; write the clip's path")
        return _Entry(key=name, video=root.locate(file.parent, name), captions=_texts(text))

    return _guarded(name or place.strip(), place, make)


# --------------------------------------------------------------------------------------------------- webvid


def _find_webvid(path: Path) -> Path | None:
    files = visible(path, ".csv") if path.is_dir() else [path] if path.suffix.lower() == ".csv" else []
    return _only([file for file in files if set(WEBVID_COLUMNS) <= set(read_columns(file))], path)


def _only(found: list[Path], path: Path) -> Path | None:
    if len(found) > 1:
        raise ValueError(f"{path} has {len(found)} lists ({found[0].name}, {found[1].name}, ...); name one of them")
    return found[0] if found else None


def _read_webvid(path: Path, wish: _Wish) -> Iterator[_Entry]:
    rows = list(read_table(wish.listed(path)))
    keys = [f"{row['page_dir']}/{row['videoid']}" for _, row in rows[:1000] if isinstance(row, dict)]
    folder = _base(path.parent, ("", "videos"), keys, wish.root)
    for number, row in rows:
        place = f"{path.name} line {number} "
        if isinstance(row, str):
            yield _unusable(place.strip(), "bad_entry", row)
        else:
            yield _webvid_entry(place, row, folder, wish.root)


def _webvid_entry(place: str, row: dict[str, Any], folder: Path, root: Root) -> _Entry:
    def make() -> _Entry:
        key = f"{_text(row, 'page_dir', 'a folder')}/{_text(row, 'videoid', 'an id')}"
        return _Entry(key=key, video=root.locate(folder, f"{key}.mp4"), captions=_texts(row["name"]))

    return _guarded(f"{row['page_dir']}/{row['videoid']}", place, make)


def _base(folder: Path, names: Sequence[str], stems: Sequence[str], root: Root) -> Path:
    """The subfolder that holds the clips: the first that has any of them; else the last."""
    for name in names:
        for stem in stems:
            try:
                if root.locate(folder / name, f"{stem}.mp4").is_file():
                    return folder / name
            except (Outside, OSError):  # OSError: a name that is too long
                continue
    return folder / names[-1]


# --------------------------------------------------------------------------------------------------- msrvtt


def _find_msrvtt(path: Path) -> Path | None:
    files = visible(path, ".json") if path.is_dir() else [path] if path.suffix.lower() == ".json" else []
    return _only([file for file in files if _is_msrvtt(file)], path)


def _is_msrvtt(path: Path) -> bool:
    content = read_json(path)
    return isinstance(content, dict) and all(isinstance(content.get(k), list) for k in ("videos", "sentences"))


def _read_msrvtt(path: Path, wish: _Wish) -> Iterator[_Entry]:
    content = read_json(wish.listed(path))
    texts: dict[str, list[object]] = {}
    for number, sentence in enumerate(content["sentences"], 1):
        name = sentence.get("video_id") if isinstance(sentence, dict) else None
        if isinstance(name, str) and "caption" in sentence:
            texts.setdefault(name, []).append(sentence["caption"])
        else:
            problem = f"{path.name} sentence {number} has no video_id or no caption; correct it"
            yield _unusable(f"{path.name} sentence {number}", "bad_entry", problem)
    _check_split(content["videos"], wish.split, path)
    rows = [row for row in content["videos"] if wish.chosen(row)]
    names = [name for row in rows[:1000] if isinstance(row, dict) and isinstance(name := row.get("video_id"), str)]
    folder = _base(path.parent, MSRVTT_FOLDERS, names, wish.root)
    for number, row in enumerate(rows, 1):
        yield _msrvtt_entry(f"{path.name} video {number} ", row, texts, folder, wish.root)


def _msrvtt_entry(place: str, row: object, texts: Mapping[str, list[object]], folder: Path, root: Root) -> _Entry:
    def make() -> _Entry:
        if not isinstance(row, dict):
            raise _Bad(f"is {_shown(row)}; it must be an object")
        name = _text(row, "video_id", "an id")
        return _Entry(key=name, video=root.locate(folder, f"{name}.mp4"), captions=_texts(texts.get(name, [])))

    name = row.get("video_id") if isinstance(row, dict) else None
    return _guarded(name if isinstance(name, str) and name.strip() else place.strip(), place, make)


_FINDERS: dict[str, Callable[[Path], Any]] = {
    "metadata": _find_metadata,
    "pairs": _find_pairs,
    "prompts": _find_prompts,
    "webvid": _find_webvid,
    "msrvtt": _find_msrvtt,
    "shards": _tars,
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
_TAKES = {"metadata": ("video_column", "caption_column", "split"), "msrvtt": ("split",)}
"""Layout -> the choices it knows."""


# ------------------------------------------------------------------------------------------------- manifest


def write_manifest(path: Path, rows: Iterable[tuple[Example, Mapping[str, Any]]], *, named: bool = False) -> None:
    """Write a `metadata` table (.jsonl) of examples and facts about them, atomically; `read_examples` reads it back.

    Paths are relative to the table's folder; `named` as in `trip.files.atomic`.

    Raises:
        ValueError: an example that is neither a file nor a member of a tar, or a name that is not .jsonl.
        OSError: the folder cannot be written.
    """
    if path.suffix.lower() != ".jsonl":
        raise ValueError(f"manifest {path} must end in .jsonl")
    lines = [json.dumps({**_row(path.parent, example), **facts}, ensure_ascii=False) + "\n" for example, facts in rows]
    write_text(path, "".join(lines), named=named)


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
