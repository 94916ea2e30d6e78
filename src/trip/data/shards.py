"""WebDataset shards: tars of KEY.mp4 beside KEY.txt (the caption) or KEY.json, as video2dataset writes them.

Uncompressed tars that can be searched (local, or on a file system that fsspec knows) are indexed once: afterwards
the bytes of an example are read alone, in any order, which makes shuffling and exact resumption trivial. What comes
through a `pipe:` command, or compressed, can only be streamed in its own order.
"""

import hashlib
import io
import json
import os
import re
import subprocess
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, Any

import fsspec.core

from trip.data.examples import Example, Location, TarMember, is_video, read_bytes, unique

CAPTION_KEYS = ("text", "caption", "prompt")
MAX_PATTERN = 1_000_000


def is_shards(source: str) -> bool:
    """Whether a source names tars: a tar, a pattern of them, a URL or a command."""
    return source.startswith("pipe:") or "://" in source or bool(re.search(r"\.tar(\.(gz|bz2|xz))?$", source))


def expand_braces(pattern: str) -> list[str]:
    """``a-{000..002}.tar`` and ``{train,test}.tar`` as the shell would write them out; commands are left alone.

    Raises:
        ValueError: more than a million names.
    """
    if pattern.startswith("pipe:"):
        return [pattern]
    names, match = [pattern], re.compile(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}")
    while names and match.search(names[0]):
        names = list(islice((name for whole in names for name in _expanded(whole, match)), MAX_PATTERN + 1))
        if len(names) > MAX_PATTERN:
            raise ValueError(f"{pattern} names more than {MAX_PATTERN} shards; give a smaller range")
    return names


def _expanded(name: str, pattern: re.Pattern) -> Iterator[str]:
    found = pattern.search(name)
    assert found is not None
    first, last, words = found.groups()
    if words is None:
        parts = (f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1))
    else:
        parts = words.split(",")
    yield from (name[: found.start()] + part + name[found.end() :] for part in parts)


def index_shards(urls: Sequence[str]) -> list[Example]:
    """The examples of uncompressed tars, in order; captions are read, clips are not.

    Raises:
        ValueError: a tar that is missing, damaged or can only be streamed, a key twice, or no clips.
    """
    return _some((example for url in urls for example in _index(url)), urls)


def _index(url: str) -> Iterator[Example]:
    if url.startswith("pipe:"):
        raise ValueError(f"{url} can only be streamed, not read at random; cache its latents, or save it as .tar files")
    with _opened(url) as file, _tar_errors(url), tarfile.open(fileobj=file, mode="r:") as tar:
        parts: dict[str, _Parts] = {}
        for member in filter(tarfile.TarInfo.isfile, tar):
            key, kind = _split(member.name)
            video = TarMember(archive=url, name=member.name, offset=member.offset_data, size=member.size)
            parts.setdefault(key, _Parts(key, url)).add(kind, video, tar, member)
    yield from (found.example() for found in parts.values() if found.video is not None)


def stream_shards(urls: Sequence[str]) -> Iterator[Example]:
    """The examples of tars one after the other, with their clips' bytes; for `pipe:` commands and compressed tars.

    Raises:
        ValueError: a tar that is missing or damaged, or a command that fails.
    """
    for url in urls:
        with _piped(url) if url.startswith("pipe:") else _opened(url) as file, _tar_errors(url):
            with tarfile.open(fileobj=file, mode="r|*") as tar:
                yield from _grouped(tar, url)
            while file.read(1 << 20):  # padding after the end: an unread command would be broken off
                pass


def _grouped(tar: tarfile.TarFile, url: str) -> Iterator[Example]:
    """Examples of members that follow each other with one key."""
    parts = None
    for member in filter(tarfile.TarInfo.isfile, tar):
        key, kind = _split(member.name)
        if parts is None or parts.key != key:
            if parts is not None and parts.video is not None:
                yield parts.example()
            parts = _Parts(key, url)
        content = _content(tar, member) if is_video(member.name) else b""
        parts.add(kind, content, tar, member)
    if parts is not None and parts.video is not None:
        yield parts.example()


class _Parts:
    """The members of one key, as they are found."""

    def __init__(self, key: str, url: str) -> None:
        self.key, self.url = key, url
        self.video: Location | None = None
        self.text: str | None = None
        self.record: dict = {}

    def add(self, kind: str, video: Location, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        if is_video(member.name):
            if self.video is not None:
                raise ValueError(f"{self.url} has two clips with the key {self.key!r}; give every clip its own")
            self.video = video
        elif kind == "txt":
            self.text = _content(tar, member).decode("utf-8", "replace").strip()
        elif kind == "json":
            self.record = self._parsed(_content(tar, member))

    def _parsed(self, content: bytes) -> dict:
        try:
            record = json.loads(content)
        except ValueError as error:
            raise ValueError(f"{self.url}: {self.key}.json is not JSON ({error}); write the shard again") from None
        return record if isinstance(record, dict) else {}

    def example(self) -> Example:
        assert self.video is not None
        texts = (self.record.get(name) for name in CAPTION_KEYS)
        caption = self.text or next((text for text in texts if isinstance(text, str) and text), "")
        return Example(key=self.key, video=self.video, caption=caption)


def _split(name: str) -> tuple[str, str]:
    """(key, kind): WebDataset's rule, the file's name up to its first dot."""
    folder, slash, file = name.removeprefix("./").rpartition("/")
    stem, _, kind = file.partition(".")
    return folder + slash + stem, kind.lower()


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file is not None  # only of regular files
    return file.read()


def _some(examples: Iterator[Example], urls: Sequence[str]) -> list[Example]:
    source = urls[0] if len(urls) == 1 else f"{urls[0]} ... {urls[-1]}"
    found = unique(examples, source)
    if not found:
        raise ValueError(f"{source} holds no clips; a shard holds KEY.mp4 beside KEY.txt or KEY.json")
    return found


@contextmanager
def _opened(url: str) -> Iterator[IO[bytes]]:
    try:
        system, path = fsspec.core.url_to_fs(url)
        opened = system.open(path, "rb")
    except (OSError, ValueError, ImportError) as error:  # ImportError: a protocol whose package is missing
        raise ValueError(f"{url} cannot be opened ({' '.join(str(error).split())}); check the name") from None
    with opened as file:
        yield file


@contextmanager
def _piped(url: str) -> Iterator[IO[bytes]]:
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
        raise ValueError(f"{url} failed with exit code {code}; run the command by hand to see why")


@contextmanager
def _tar_errors(url: str) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, EOFError) as error:
        remedy = "copy or write it again" if url.endswith(".tar") else "only plain .tar files can be read at random"
        raise ValueError(f"{url} is no complete tar ({error}); {remedy}") from None


# -------------------------------------------------------------------------------------------------- writing


def write_shards(examples: Sequence[Example], folder: Path, *, clips_per_shard: int = 1000) -> Iterator[Path]:
    """Write examples as shards ``shard-000000.tar``, ... sorted by key; yields each path when it is there.

    A shard holds KEY.SUFFIX (the clip, bytes unchanged), KEY.txt (the caption) and KEY.json (key, caption, file), where
    KEY is the example's without suffix and with `_` for what a WebDataset key may not hold. Same examples, same
    bytes. A shard appears only when it is complete, and those that exist are kept, so a killed run goes on
    where it was; `shards.json` says what the shards are of.

    Raises:
        ValueError: no examples, two that get one key, a folder of other shards, or a clip that cannot be read.
        OSError: the folder cannot be written.
    """
    if clips_per_shard < 1:
        raise ValueError(f"clips_per_shard (={clips_per_shard}) must be at least 1")
    named = _named(examples)
    listed = json.dumps([(name, example.caption) for name, example in named])
    digest = hashlib.sha256(listed.encode()).hexdigest()
    _claim(folder, {"clips": len(named), "clips_per_shard": clips_per_shard, "examples_sha256": digest})
    for number, start in enumerate(range(0, len(named), clips_per_shard)):
        path = folder / f"shard-{number:06d}.tar"
        if not path.exists():
            _write_shard(path, named[start : start + clips_per_shard])
        yield path


def _claim(folder: Path, describe: dict[str, Any]) -> None:
    """Note what the shards of a folder are of, or check that those there are of the same."""
    folder.mkdir(parents=True, exist_ok=True)
    note = folder / "shards.json"
    if not note.exists():
        _replace(note, lambda file: file.write(json.dumps(describe, indent=2).encode() + b"\n"))
    found = json.loads(note.read_bytes())
    different = ", ".join(
        f"{name}: {found.get(name)!r} there" for name in describe if found.get(name) != describe[name]
    )
    if different:
        raise ValueError(f"{folder} holds shards of something else ({different}); choose another folder or delete it")


def _replace(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file under a hidden name, then rename it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _named(examples: Sequence[Example]) -> list[tuple[str, Example]]:
    """(name in the tar, example), sorted."""
    if not examples:
        raise ValueError("there are no examples to write; check the source")
    named: dict[str, Example] = {}
    for example in examples:
        name = shard_key(example.key)
        if name in named:
            raise ValueError(f"{named[name].key!r} and {example.key!r} both become {name!r} in a shard; rename one")
        named[name] = example
    return sorted(named.items())


def shard_key(key: str) -> str:
    """A key as WebDataset can hold it: no suffix of a clip, no dots, no leading or doubled slash."""
    stem = key[: key.rindex(".")] if is_video(key) else key
    parts = (re.sub(r"[^\w-]+", "_", part) for part in stem.split("/"))
    return "/".join(part for part in parts if part and part != "_") or "_"


def _write_shard(path: Path, named: list[tuple[str, Example]]) -> None:
    def write(file: IO[bytes]) -> None:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for name, example in named:
                _add_example(tar, name, example)

    _replace(path, write)


def _add_example(tar: tarfile.TarFile, name: str, example: Example) -> None:
    try:
        content = read_bytes(example.video)
    except OSError as error:
        reason = error.strerror or error
        raise ValueError(f"{example.key} cannot be read ({reason}); leave out what `trip data check` names") from None
    record = {"key": example.key, "caption": example.caption}
    _add(tar, f"{name}{_suffix(example.video)}", content)
    _add(tar, f"{name}.json", json.dumps(record, ensure_ascii=False, sort_keys=True).encode())
    _add(tar, f"{name}.txt", example.caption.encode())


def _suffix(video: Location) -> str:
    """The clip's own suffix; bytes without a name are taken for mp4."""
    suffix = ".mp4" if isinstance(video, bytes) else Path(video.name).suffix.lower()
    return suffix if is_video(f"x{suffix}") else ".mp4"


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)  # mtime, owner and group are 0
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))
