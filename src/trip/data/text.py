"""Reading text that somebody else wrote: plain text, JSON, JSON lines and CSV; and showing it in a terminal.

Text is UTF-8, with or without a byte order mark, or UTF-16 with one; anything else, NUL characters too, is a fault that
names the file, since a guess would make other words of it. Lines end with LF, CR LF or CR and with nothing
else. Only regular files are read, with limits on what is held in memory.
"""

import codecs
import csv
import errno
import io
import json
import os
import re
import stat
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

MAX_TEXT = 256 * 2**20
"""Bytes of a file that is read whole."""

MAX_LINE = 2**24
"""Characters of one line."""

_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose mark it starts with
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}

Source = str | os.PathLike[str]
OnFault = Callable[[int, str], object]
"""Told of a line that cannot be used, by its number and what is wrong."""


# ------------------------------------------------------------------------------------------------------- reading


def read_text(path: Source) -> str:
    """A whole file as text, line ends as LF.

    Raises:
        ValueError: not UTF-8 or UTF-16, larger than `MAX_TEXT`, no regular file, or not readable.
    """
    with open_regular(path) as file:
        content = file.read(MAX_TEXT + 1)
    if len(content) > MAX_TEXT:
        raise ValueError(f"{path} is larger than the {MAX_TEXT >> 20} MiB a text may have; split it")
    return decode(content, path)


def decode(content: bytes, name: object) -> str:
    """Bytes as text, line ends as LF; `name` is what an error calls them."""
    try:
        text = content.decode(_encoding(content))
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} {_not_text(error)}") from None
    if "\0" in text:
        raise ValueError(f"{name} {NULS}")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_lines(path: Source, newline: str | None = None) -> Iterator[str]:
    """The lines of a file one by one, without their ends; `newline` as `open` has it (with "" the ends stay).

    Raises:
        ValueError: as `read_text`, but for the size; a line longer than `MAX_LINE`.
    """
    with open_regular(path) as file:
        text = io.TextIOWrapper(file, encoding=_encoding(file.peek(4)[:4]), newline=newline)
        try:
            while line := text.readline(MAX_LINE + 1):
                if len(line) > MAX_LINE:
                    raise ValueError(f"{path} has a line of more than {MAX_LINE:,} characters; it is no table of texts")
                if "\0" in line:
                    raise ValueError(f"{path} {NULS}")
                yield line if newline == "" else line.removesuffix("\n")
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} {_not_text(error)}") from None


def parse_json(text: str | bytes, name: object) -> Any:
    """A JSON value; `name` is what an error calls the text.

    Raises:
        ValueError: not JSON, or nested too deeply.
    """
    try:
        return json.loads(decode(text, name) if isinstance(text, bytes) else text)
    except RecursionError:
        raise ValueError(f"{name} is nested too deeply for JSON that anybody wrote; correct it") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{name} is not JSON ({error}); correct it") from None
    except ValueError as error:  # decode's own line, or an integer of too many digits
        line = str(error)
        raise ValueError(line if line.startswith(str(name)) else f"{name} is not JSON ({line}); correct it") from None


def read_json(path: Source) -> Any:
    """A JSON file.

    Raises:
        ValueError: as `read_text` and `parse_json`.
    """
    return parse_json(read_text(path), path)


def read_jsonl(path: Source, on_fault: OnFault | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number from 1, object) of a file with one JSON object a line; empty lines are passed over.

    Args:
        on_fault: told of lines that are no objects, which are then passed over.

    Raises:
        ValueError: at the first line that is no object, naming it, without `on_fault`; else as `read_lines`.
    """
    for number, line in enumerate(read_lines(path), 1):
        if not line.strip():
            continue
        try:
            row = parse_json(line, f"{path} line {number}")
            if not isinstance(row, dict):
                raise ValueError(f'{path} line {number} is not an object; write {{"name": value, ...}}')
        except ValueError as error:
            if on_fault is None:
                raise
            on_fault(number, str(error))
        else:
            yield number, row


def read_csv(path: Source, on_fault: OnFault | None = None) -> Iterator[tuple[int, dict[str, str]]]:
    """(line number, row by column) of a CSV whose first line names the columns.

    Args:
        on_fault: told of rows with more values than columns, which are then passed over.

    Raises:
        ValueError: a row with more values than columns, without `on_fault`; a broken quote; else as `read_lines`.
    """
    reader = csv.DictReader(read_lines(path, newline=""), skipinitialspace=True, strict=True)
    try:
        for row in reader:
            if None in row:
                problem = f"{path} line {reader.line_num} has more values than columns; quote texts that hold commas"
                if on_fault is None:
                    raise ValueError(problem)
                on_fault(reader.line_num, problem)
                continue
            yield reader.line_num, {name: value or "" for name, value in row.items()}
    except csv.Error as error:
        raise ValueError(f"{path} line {reader.line_num} is not CSV ({error}); save it again as one") from None


def read_columns(path: Source) -> list[str]:
    """The names in the first line of a CSV; none of an empty file.

    Raises:
        ValueError: as `read_csv`.
    """
    try:
        return next(csv.reader(read_lines(path, newline=""), skipinitialspace=True, strict=True), [])
    except csv.Error as error:
        raise ValueError(f"{path} line 1 is not CSV ({error}); save it again as one") from None


def open_regular(path: Source) -> io.BufferedReader:
    """A regular file, opened for reading bytes; never waits on a pipe, never reads a device.

    Raises:
        ValueError: missing, a folder, a device, a pipe, or not readable.
    """
    try:
        return open_file(path)
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); check the path and its permissions") from None


def open_file(path: Source) -> io.BufferedReader:
    """As `open_regular`.

    Raises:
        OSError: the same as the system says it, with the path as its file name.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | getattr(os, "O_CLOEXEC", 0))
    except ValueError:
        raise OSError(errno.EINVAL, "a name with a NUL character", os.fspath(path)) from None
    kind = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(kind):
        os.close(descriptor)
        what = "a folder, no file" if stat.S_ISDIR(kind) else "a device or a pipe, no regular file"
        raise OSError(errno.EINVAL, what, os.fspath(path))
    return io.BufferedReader(io.FileIO(descriptor))


def _encoding(start: bytes) -> str:
    return next((name for mark, name in _MARKS.items() if start.startswith(mark)), "utf-8")


NULS = "holds NUL characters: it is no text, or UTF-16 without a byte order mark; save it as UTF-8"


def _not_text(error: UnicodeDecodeError) -> str:
    byte = error.object[error.start] if error.start < len(error.object) else 0
    return f"is not text in UTF-8 (byte 0x{byte:02x} at {error.start}); save it as UTF-8"


def has_surrogates(text: str) -> bool:
    """Whether a text holds halves of characters, which no file and no tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


# ------------------------------------------------------------------------------------------------------- showing


def printable(text: object, limit: int | None = None) -> str:
    r"""A stranger's text for one line of a terminal: what is not printable is escaped, as "\n", "\x1b" or "\u202e".

    That covers control characters, line ends of all kinds, marks that turn the direction of writing, and halves of
    characters.

    Args:
        limit: characters shown; a longer text is cut and ends with "...".
    """
    text = str(text)
    if limit is not None and len(text) > limit:
        text = text[: max(limit - 3, 0)] + "..."
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


# ------------------------------------------------------------------------------------------------------ patterns

MAX_PATTERN = 1_000_000


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
