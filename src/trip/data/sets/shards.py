"""WebDataset shards: tars of KEY.mp4 beside KEY.txt (the caption) or KEY.json, as video2dataset writes them.

Uncompressed tars that can be searched (local, or on a file system that fsspec knows) are indexed once: afterwards
the bytes of an example are read alone, in any order, which makes shuffling and exact resumption trivial. What comes
through a `pipe:` command, or compressed, is unpacked to a temporary file first (`unpacked`) and read in the same way.

A shard may be anybody's: nothing is extracted, links and devices in it are not followed, and headers, texts and the
number of members have limits. What is wrong with one clip is a fault of that clip, what is wrong with the tar an error.
"""

import bz2
import gzip
import hashlib
import io
import json
import lzma
import os
import posixpath
import re
import subprocess
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from trip.data.places import schemes_of
from trip.data.sets.examples import (
    Example,
    Location,
    TarMember,
    Unusable,
    is_hidden,
    is_video,
    open_clip,
    opened_archive,
    paired,
    read_bytes,
    unique,
)
from trip.data.text import decode, expand_braces, parse_json, printable, read_json
from trip.files import atomic, lock_folder, private_folder, write_json

CAPTION_KEYS = ("text", "caption", "prompt")
MOST_CLIPS = 50_000
"""Of a shard that is written; one that is read may have `MOST_MEMBERS` members."""
MOST_MEMBERS = 4 * MOST_CLIPS
LONGEST_TEXT = 4 * 2**20
"""Bytes of a .txt or .json."""
LONGEST_TEXTS = 256 * 2**20
"""Characters of all captions of a shard."""
LONGEST_HEADER = 2**20
"""Bytes of an extended header."""
BOMB = 100
"""No clips are packed more densely than this."""


_TAR = re.compile(r"\.tar(\.(gz|bz2|xz))?$", re.IGNORECASE)


def is_shards(source: str) -> bool:
    """Whether a source names tars: a tar, a pattern of them, a URL or a command."""
    return source.startswith("pipe:") or "://" in source or (is_tar(source) and not os.path.isdir(source))


def is_tar(name: str) -> bool:
    """Whether a name is that of a tar, packed or not."""
    return bool(_TAR.search(name)) and not is_hidden(name.rpartition("/")[2])


def named_schemes(source: str) -> tuple[str, ...]:
    """Schemes of all URLs that a source stands for once its braces are written out."""
    return tuple({scheme: None for name in expand_braces(source) for scheme in schemes_of(name)})


def check_schemes(source: str, allowed: tuple[str, ...]) -> None:
    """Raise ValueError for a source that stands for a URL whose schemes the user did not name."""
    if not set(named_schemes(source)) <= set(allowed):
        raise ValueError(f"{printable(source)} is a URL; name it yourself on the command line, or give a local path")


def index_shards(urls: Sequence[str]) -> list[Example]:
    """The examples of uncompressed tars, in order; captions are read, clips are not.

    Raises:
        ValueError: a tar that is missing, damaged, named twice or can only be streamed, or no clips.
    """
    return _some(_all(urls), urls)


def only_streams(url: str) -> bool:
    """Whether a shard must be unpacked before its members can be found."""
    return url.startswith("pipe:") or bool(re.search(r"\.(gz|bz2|xz)$", url, re.IGNORECASE))


@contextmanager
def unpacked(urls: Sequence[str], folder: Path) -> Iterator[list[str]]:
    """The shards, those that can only be streamed as plain tars in a temporary folder inside `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    with private_folder(folder) as scratch:
        yield [_unpack(url, scratch / f"{n:06d}.tar") if only_streams(url) else url for n, url in enumerate(urls)]


def _all(urls: Sequence[str]) -> Iterator[Example]:
    """Examples of all shards. Where a shard has a key that an earlier one has, it is SHARD/KEY."""
    stems = [re.sub(r"\.tar.*$", "", url.rpartition("/")[2]) for url in urls]
    labels = stems if len(set(stems)) == len(stems) else [f"{stem}-{n}" for n, stem in enumerate(stems)]
    seen: set[str] = set()
    for number, (url, label) in enumerate(zip(urls, labels, strict=True)):
        if url in urls[:number]:
            raise ValueError(f"{printable(url)} is named twice; name every shard once")
        keys = set()
        for example in _searched(url):
            keys.add(example.key)
            yield replace(example, key=f"{label}/{example.key}") if example.key in seen else example
        seen |= keys


def _searched(url: str) -> Iterator[Example]:
    if only_streams(url):
        raise ValueError(
            f"{printable(url)} can only be read once, from one end to the other; pack it first: "
            "trip data shard SOURCE --output DIR"
        )
    with _opened(url) as file, _tar_errors(url), tarfile.open(fileobj=file, mode="r:", tarinfo=_Header) as tar:
        yield from _Shard(url).read(tar, file)


# ------------------------------------------------------------------------------------------------- one shard


class _Header(tarfile.TarInfo):
    """A header that is right, or an error; tarfile takes a damaged one for the end of the archive."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_Header":
        if not buf:
            raise tarfile.ReadError("unexpected end of data")
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.EOFHeaderError:  # pyright: ignore[reportAttributeAccessIssue]
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(str(error)) from None

    def _proc_member(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
        if self.size < 0 or (self.type in (b"L", b"K", b"x", b"g", b"X") and self.size > LONGEST_HEADER):
            raise tarfile.ReadError(f"a header of {self.size} bytes")
        return super()._proc_member(tar)  # pyright: ignore[reportAttributeAccessIssue]


@dataclass
class _Shard:
    """What a tar holds, as its members are gone through.

    Attributes:
        url: of the tar.
        clips: {key: (name of the member, where it is)}.
        captions: {"txt" or "json": {key: caption, or what is wrong with it}}.
    """

    url: str
    clips: dict[str, list[tuple[str, TarMember | Unusable]]] = field(default_factory=dict)
    captions: dict[str, dict[str, str | Unusable]] = field(default_factory=lambda: {"txt": {}, "json": {}})
    characters: int = 0

    def read(self, tar: tarfile.TarFile, file: Any) -> Iterator[Example]:
        """The examples, in the order of their clips."""
        for member in _members(tar):
            self._add(tar, member)
        file.seek(tar.offset)  # pyright: ignore[reportAttributeAccessIssue]
        if file.read(2**20).strip(b"\0"):
            raise tarfile.ReadError("more data after its end, as if several were joined")
        names = {kind: paired(self.clips, there) for kind, there in self.captions.items()}
        yield from (self._example(key, names) for key in self.clips)

    def _add(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        key, kind = _split(member.name)
        if member.isdir() or any(is_hidden(part) for part in key.split("/") if part not in (".", "..")):
            return
        if is_video(member.name):
            self.clips.setdefault(key, []).append((member.name, self._location(member)))
        elif kind in ("txt", "json"):
            found = self._caption(tar, member, kind)
            self.characters += len(found) if isinstance(found, str) else 0
            if self.characters > LONGEST_TEXTS:
                raise tarfile.ReadError(f"captions of more than {LONGEST_TEXTS >> 20} MiB")
            there = self.captions[kind]
            there[key] = found if key not in there else _bad(f"the shard has {key}.{kind} twice; write it again")

    def _location(self, member: tarfile.TarInfo) -> TarMember | Unusable:
        if problem := _no_file(member):
            return problem
        return TarMember(archive=self.url, name=member.name, offset=member.offset_data, size=member.size)

    def _caption(self, tar: tarfile.TarFile, member: tarfile.TarInfo, kind: str) -> str | Unusable:
        if problem := _no_file(member):
            return problem
        if member.size > LONGEST_TEXT:
            return _bad(f"{member.name} has {member.size} bytes, more than the {LONGEST_TEXT} of a text")
        opened = tar.extractfile(member)
        assert opened is not None  # only of regular files
        try:
            content = opened.read()
            return decode(content, member.name).strip() if kind == "txt" else _of_record(content, member.name)
        except ValueError as error:
            return _bad(str(error))

    def _example(self, key: str, names_of: dict[str, dict[str, str]]) -> Example:
        names = [name for name, _ in self.clips[key]]
        video: Location = self.clips[key][0][1]
        own = [there.get(names_of[kind].get(key, "")) for kind, there in self.captions.items()]
        shared = [there.get(_of_group(key, self.clips)) for there in self.captions.values()]
        captions = [text for text in (shared if own == [None, None] else own) if text]
        caption = captions[0] if captions else ""
        if len(names) > 1:
            video = _bad(f"the shard has {len(names)} clips of this key ({', '.join(names[:2])}); give each its own")
        elif isinstance(caption, Unusable) and not isinstance(video, Unusable):
            video = caption
        return Example(key=key, video=video, caption=caption if isinstance(caption, str) else "")


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """All members, of which tarfile keeps none."""
    before = -1
    for count in range(MOST_MEMBERS + 1):
        try:
            member = tar.next()
        except (OSError, OverflowError) as error:  # a size beyond what can be sought
            raise tarfile.ReadError(f"a header that leads out of the file ({error})") from None
        if member is None:
            return
        if member.offset_data <= before or member.size < 0:
            raise tarfile.ReadError(f"{member.name} lies before the member before it")
        before = member.offset_data
        tar.members.clear()  # pyright: ignore[reportAttributeAccessIssue]
        if count == MOST_MEMBERS:
            raise tarfile.ReadError(f"more than {MOST_MEMBERS} members")
        yield member


def _no_file(member: tarfile.TarInfo) -> Unusable | None:
    """Why a member has no bytes of its own."""
    if member.issym() or member.islnk():
        return _bad(f"{member.name} is a link, which is not followed; write the shard again with the file itself")
    if not member.isreg():
        return _bad(f"{member.name} is a device or a pipe; write the shard again without it")
    if member.issparse():
        return _bad(f"{member.name} is a sparse file; write the shard again without holes")
    return None


def _bad(message: str) -> Unusable:
    return Unusable(reason="bad_entry", message=printable(message))


def _of_record(content: bytes, name: str) -> str | Unusable:
    """The caption in a JSON record."""
    record = parse_json(content, name)
    if not isinstance(record, dict):
        return _bad(f"{name} is no object; write the shard again")
    for field_name in CAPTION_KEYS:
        value = record.get(field_name)
        if value is not None and not isinstance(value, str):
            return _bad(f"{name} has {printable(repr(value), 60)} as {field_name}; it must be a text")
        if value and value.strip():
            return value.strip()
    return ""


def _split(name: str) -> tuple[str, str]:
    """(key, kind). WebDataset ends the key at the first dot; here only the suffix is cut off, dots may be in names."""
    name = posixpath.normpath(name)
    folder, slash, file = name.rpartition("/")
    stem, dot, kind = file.rpartition(".")
    return (folder + slash + stem, kind.lower()) if dot else (name, "")


def _of_group(key: str, clips: dict[str, Any]) -> str:
    """WebDataset's key, which KEY.left.mp4 and KEY.txt share; the key itself where that is another clip's."""
    folder, slash, stem = key.rpartition("/")
    group = folder + slash + stem.partition(".")[0]
    return key if group in clips else group


def _some(examples: Iterator[Example], urls: Sequence[str]) -> list[Example]:
    found = unique(examples)
    if not found:
        source = "an empty range" if not urls else urls[0] if len(urls) == 1 else f"{urls[0]} ... {urls[-1]}"
        raise ValueError(f"{printable(source)} holds no clips; a shard holds KEY.mp4 beside KEY.txt or KEY.json")
    return found


@contextmanager
def _opened(url: str) -> Iterator[Any]:
    try:
        opened = opened_archive(url)
    except OSError as error:
        reason = " ".join(str(error.strerror or error).split())
        raise ValueError(f"{printable(url)} cannot be opened ({reason}); check the name") from None
    with opened as file:
        yield file


# ------------------------------------------------------------------------------------------------- streams

_PACKED: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
"""First bytes of a compressed file -> what reads it."""


def _unpack(url: str, target: Path) -> str:
    """Write the plain tar that a command prints, or that a file holds compressed."""
    with _piped(url) if url.startswith("pipe:") else _opened(url) as raw, _tar_errors(url), target.open("wb") as out:
        counted = _Counted(raw)
        packed = io.BufferedReader(counted, 1 << 16)
        start = packed.peek(6)[:6]
        opener = next((opener for mark, opener in _PACKED.items() if start.startswith(mark)), None)
        plain, written = packed if opener is None else opener(packed), 0
        while chunk := plain.read(1 << 20):
            written += out.write(chunk)
            if opener is not None and written > BOMB * counted.count + (64 << 20):
                raise tarfile.ReadError(f"more than {BOMB} times its packed size")
    return str(target)


class _Counted(io.RawIOBase):
    """A stream that knows how much was read of it."""

    def __init__(self, raw: Any) -> None:
        self.raw, self.count = raw, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        content = self.raw.read(len(buffer)) or b""
        buffer[: len(content)] = content
        self.count += len(content)
        return len(content)


@contextmanager
def _piped(url: str) -> Iterator[Any]:
    """Standard output of a shell command; ends the command when left early."""
    command = url.removeprefix("pipe:")
    process = subprocess.Popen(command, shell=True, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
    assert process.stdout is not None
    try:
        with process.stdout:
            yield process.stdout
    except BaseException:
        process.kill()
        process.wait()
        raise
    if code := process.wait():
        raise ValueError(f"{printable(url)} failed with exit code {code}; run the command by hand to see why")


@contextmanager
def _tar_errors(url: str) -> Iterator[None]:
    """Say what a damaged or hostile archive makes of tarfile and the decompressors as one line."""
    try:
        yield
    except (
        tarfile.TarError,
        EOFError,
        RecursionError,
        ArithmeticError,
        LookupError,
        zlib.error,
        lzma.LZMAError,
    ) as error:
        raise _no_tar(url, error) from None
    except ValueError as error:  # of numbers in headers
        raise _no_tar(url, error) from None
    except OSError as error:
        if error.filename is not None or error.errno is not None:
            raise
        raise _no_tar(url, error) from None  # gzip's


def _no_tar(url: str, error: Exception) -> ValueError:
    reason = printable(" ".join(str(error).split()) or type(error).__name__, 200)
    return ValueError(f"{printable(url)} is no complete tar ({reason}); copy or write it again")


# -------------------------------------------------------------------------------------------------- writing

OnFault = Callable[[Example, str], object]


def write_shards(
    examples: Sequence[Example], folder: Path, *, clips_per_shard: int = 1000, on_fault: OnFault | None = None
) -> Iterator[Path]:
    """Write examples as shards ``shard-000000.tar``, ... sorted by key; yields each path when it is there.

    A shard holds KEY.SUFFIX (the clip, bytes unchanged), KEY.txt (the caption) and KEY.json (key, caption), where
    KEY is the example's without suffix and with `_` for what a WebDataset key may not hold. Same examples, same
    bytes. A shard appears only when it is complete, and those that exist are kept, so a killed run goes on
    where it was; `shards.json` says what the shards are of.

    Args:
        examples: what to pack.
        folder: of the shards; one process at a time writes there.
        clips_per_shard: at most `MOST_CLIPS`.
        on_fault: told of the examples that cannot be packed and why; they are left out. Without it they are errors.

    Raises:
        ValueError: no examples, a folder of other shards, or one that another process writes.
        OSError: the folder cannot be written.
    """
    if not 1 <= clips_per_shard <= MOST_CLIPS:
        raise ValueError(f"clips_per_shard (={clips_per_shard}) must be at least 1 and at most {MOST_CLIPS}")
    named = _named(examples, on_fault or _refuse)
    if not named:
        raise ValueError(f"there are no clips that can be packed into {folder}; check the source with trip data check")
    listed = json.dumps([(name, example.caption) for name, example in named])
    digest = hashlib.sha256(listed.encode()).hexdigest()
    with lock_folder(folder):
        _claim(folder, {"clips": len(named), "clips_per_shard": clips_per_shard, "examples_sha256": digest})
        for number, start in enumerate(range(0, len(named), clips_per_shard)):
            path = folder / f"shard-{number:06d}.tar"
            if not path.exists():
                _write_shard(path, named[start : start + clips_per_shard])
            yield path


def _refuse(example: Example, problem: str) -> None:
    raise ValueError(f"{printable(example.key)} cannot be packed: {problem}")


def _claim(folder: Path, describe: dict[str, Any]) -> None:
    """Note what the shards of a folder are of, or check that those there are of the same."""
    note = folder / "shards.json"
    if not note.exists():
        if there := sorted(folder.glob("shard-*.tar")):
            raise ValueError(f"{folder} holds {there[0].name} and no shards.json; choose another folder or delete them")
        write_json(note, describe)
    found = read_json(note)
    if not isinstance(found, dict):
        raise ValueError(f"{note} is no note on shards; choose another folder or delete it")
    different = ", ".join(
        f"{name}: {found.get(name)!r} there" for name in describe if found.get(name) != describe[name]
    )
    if different:
        raise ValueError(f"{folder} holds shards of something else ({different}); choose another folder or delete it")


def _named(examples: Sequence[Example], on_fault: OnFault) -> list[tuple[str, Example]]:
    """(name in the tar, example), sorted, of those that can be read."""
    named: dict[str, Example] = {}
    for example in examples:
        name = shard_key(example.key)
        if problem := _problem(example.video):
            on_fault(example, problem)
        elif name in named:
            on_fault(example, f"in a shard it becomes {name!r}, as {printable(named[name].key)!r} does; rename one")
        else:
            named[name] = example
    return sorted(named.items())


def _problem(video: Location) -> str | None:
    """Why a clip cannot be packed; its file is opened and not read."""
    if isinstance(video, Unusable):
        return video.message
    try:
        with open_clip(video) as (file, size):
            if not size:
                return "0 bytes; make or copy it again"
            on_disk = size if file is None else 512 * os.fstat(file.fileno()).st_blocks
            return "a file of holes; copy it again" if size > BOMB * on_disk + (64 << 20) else None
    except OSError as error:
        return f"cannot be read ({error.strerror or error}); leave it out"


def shard_key(key: str) -> str:
    """A key as WebDataset can hold it: no suffix of a clip, no dots, no leading or doubled slash."""
    stem = key[: key.rindex(".")] if is_video(key) else key
    parts = (re.sub(r"[^\w-]+", "_", part) for part in stem.split("/"))
    return "/".join(part for part in parts if part and part != "_") or "_"


def _write_shard(path: Path, named: list[tuple[str, Example]]) -> None:
    with atomic(path, "wb") as file, tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, example in named:
            _add_example(tar, name, example)


def _add_example(tar: tarfile.TarFile, name: str, example: Example) -> None:
    record = {"key": example.key, "caption": example.caption}
    try:
        with open_clip(example.video) as (file, size):
            _add(tar, f"{name}{_suffix(example.video)}", file or io.BytesIO(read_bytes(example.video)), size)
    except OSError as error:
        if error.filename is None:  # of the shard, not of the clip
            raise
        reason = error.strerror or error
        raise ValueError(f"{printable(example.key)} cannot be read ({reason}); run trip data check") from None
    for kind, text in (("json", json.dumps(record, ensure_ascii=False, sort_keys=True)), ("txt", example.caption)):
        content = text.encode()
        _add(tar, f"{name}.{kind}", io.BytesIO(content), len(content))


def _suffix(video: Location) -> str:
    """The clip's own suffix; bytes without a name are taken for mp4."""
    suffix = Path(video.name).suffix.lower() if isinstance(video, Path | TarMember) else ".mp4"
    return suffix if is_video(f"x{suffix}") else ".mp4"


def _add(tar: tarfile.TarFile, name: str, content: Any, size: int) -> None:
    member = tarfile.TarInfo(name)  # mtime, owner and group are 0
    member.size = size
    tar.addfile(member, content)
