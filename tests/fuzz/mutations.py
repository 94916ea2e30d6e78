"""Ways to spoil a file: of any bytes, and of what is inside JSON, tables, tars, safetensors and pictures."""

import io
import json
import struct
import tarfile
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

Rng = np.random.Generator

DEEP = "\ufdd0deep"
"""Stands for a value nested too deeply for `json.dumps`."""

HOSTILE_TEXTS = (
    *("", " ", "\x00", "\x1b[2J\x1b]0;owned\x07", "a\nb\rtrip: done", "\u202etxt.exe", "\u2028", "\ud800"),
    *("../../../etc/passwd", "/etc/passwd", "/dev/zero", "/dev/stdin", "~/.ssh/id_rsa", "..", ".", "x" * 70_000),
    *("http://127.0.0.1:9/x", "webhdfs://h/x", "ftp://h/x", "simplecache::http://h/x", "reference::x", "zip://a::b"),
    *("concat:/etc/passwd|/etc/passwd", "subfile,,start,0,end,0,,:/etc/passwd", "cache:/etc/passwd", "data:,x"),
    *("<script>alert(1)</script>", "$(touch owned)", "; rm -rf /", "--output=/tmp/x", "file:///etc/passwd", "%s%n"),
    *("NaN", "1e999", "0", "-1", "null", "true", "\udfff\ud800", "é" * 300, "{0.__class__}"),
)

HOSTILE_VALUES: tuple[Any, ...] = (
    *(None, True, False, [], {}, 0, -1, 1, 2**31, 2**63, 2**70, -(2**70), 10**400, 0.5, 1e308, -1e308, 5e-324),
    *(float("nan"), float("inf"), -float("inf"), DEEP, [None], [[]], {"": None}, [0] * 50, {"a": {"b": {"c": 1}}}),
)


def pick(rng: Rng, options: Any) -> Any:
    """One of a sequence."""
    return options[int(rng.integers(len(options)))]


def hostile(rng: Rng) -> Any:
    """A value that does not belong where it is put."""
    return pick(rng, HOSTILE_TEXTS) if rng.random() < 0.5 else pick(rng, HOSTILE_VALUES)


# --------------------------------------------------------------------------------------------------------- bytes


def spoil(data: bytes, rng: Rng, others: list[bytes] | None = None) -> bytes:
    """One to three changes anywhere."""
    for _ in range(int(rng.integers(1, 4))):
        data = pick(rng, CHANGES)(data, rng, others or [data])
    return data


def _truncate(data: bytes, rng: Rng, others: list[bytes]) -> bytes:
    return data[: int(rng.integers(len(data) + 1))]


def _flip(data: bytes, rng: Rng, others: list[bytes]) -> bytes:
    changed = bytearray(data)
    for place in rng.integers(0, max(len(data), 1), int(rng.integers(1, 40))):
        if changed:
            changed[int(place)] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def _splice(data: bytes, rng: Rng, others: list[bytes]) -> bytes:
    other = pick(rng, others)
    return data[: int(rng.integers(len(data) + 1))] + other[int(rng.integers(len(other) + 1)) :]


def _repeat(data: bytes, rng: Rng, others: list[bytes]) -> bytes:
    start, stop = sorted(rng.integers(0, len(data) + 1, 2).tolist())
    return data[:start] + data[start:stop] * int(rng.integers(2, 6)) + data[stop:]


def _cut(data: bytes, rng: Rng, others: list[bytes]) -> bytes:
    start, stop = sorted(rng.integers(0, len(data) + 1, 2).tolist())
    return data[:start] + data[stop:]


def _number(data: bytes, rng: Rng, others: list[bytes]) -> bytes:
    """An extreme number in the place of two, four or eight bytes, most often near the beginning."""
    size = pick(rng, (2, 4, 8))
    reach = min(len(data), 256) if rng.random() < 0.7 else len(data)
    place = int(rng.integers(max(reach - size, 0) + 1))
    value = pick(rng, (0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1, 65535, 40000)) % 256**size
    return data[:place] + value.to_bytes(size, pick(rng, ("little", "big"))) + data[place + size :]


def _nothing(data: bytes, rng: Rng, others: list[bytes]) -> bytes:
    return pick(rng, (b"", b"\0" * 64, b"\xff" * 64, data + b"\0" * 4096, rng.bytes(200)))


CHANGES = (_truncate, _flip, _flip, _splice, _repeat, _cut, _number, _number, _nothing)


# ------------------------------------------------------------------------------------------------- JSON and tables


def spoil_json(value: Any, rng: Rng) -> str:
    """JSON with one to three values, keys or lists changed; sometimes broken as a text, too."""
    for _ in range(int(rng.integers(1, 4))):
        value = _changed(value, rng)
    return dumped(value, rng)


def dumped(value: Any, rng: Rng) -> str:
    """JSON of a value, with what `json.dumps` cannot write."""
    text = json.dumps(value, ensure_ascii=bool(rng.random() < 0.7))
    depth = int(pick(rng, (900, 5000, 200_000)))
    opened, closed = pick(rng, (("[", "]"), ('{"a":', "}")))
    return text.replace(json.dumps(DEEP), opened * depth + "1" + closed * depth)


def _changed(value: Any, rng: Rng) -> Any:
    """A copy with one place changed."""
    if not isinstance(value, dict | list) or not value or rng.random() < 0.05:
        return hostile(rng)
    if isinstance(value, list):
        place, copy = int(rng.integers(len(value))), list(value)
        kind = rng.random()
        if kind < 0.1:
            return copy * 2
        if kind < 0.2:
            del copy[place]
            return copy
        copy[place] = _changed(copy[place], rng)
        return copy
    key, copy = pick(rng, list(value)), dict(value)
    kind = rng.random()
    if kind < 0.1:
        del copy[key]
    elif kind < 0.2:
        copy[pick(rng, HOSTILE_TEXTS)] = copy[key]
    else:
        copy[key] = _changed(copy[key], rng)
    return copy


def spoil_table(rows: list[dict[str, Any]], rng: Rng, csv: bool) -> str:
    """Rows as CSV or JSON lines, with cells, columns or rows changed."""
    rows = [dict(row) for row in rows]
    for _ in range(int(rng.integers(1, 4))):
        row = pick(rng, rows)
        key = pick(rng, list(row)) if row else "x"
        kind = rng.random()
        if kind < 0.1:
            row.pop(key, None)
        elif kind < 0.2:
            row[pick(rng, HOSTILE_TEXTS)] = "x"
        elif kind < 0.3:
            rows.append(dict(row))
        else:
            row[key] = hostile(rng)
    if not csv:
        return "\n".join(dumped(row, rng) for row in rows) + "\n"
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [columns, *([row.get(column, "") for column in columns] for row in rows)]
    end = pick(rng, ("\n", "\r\n", "\r", "\u2028"))
    return end.join(",".join(_cell(value, rng) for value in line) for line in lines) + end


def _cell(value: Any, rng: Rng) -> str:
    text = str(value)
    if "," in text or '"' in text or "\n" in text:
        text = '"' + text.replace('"', '""') + pick(rng, ('"', '"', '"', ""))
    return text


def encoded(text: str, rng: Rng) -> bytes:
    """A text as bytes in an encoding of somebody's, sometimes spoilt after that."""
    name = pick(rng, ("utf-8",) * 6 + ("utf-8-sig", "utf-16", "utf-32", "cp1252", "utf-7"))
    data = text.encode("utf-8", "surrogatepass") if name == "utf-8" else text.encode(name, "replace")
    return spoil(data, rng) if rng.random() < 0.2 else data


# ------------------------------------------------------------------------------------------------- tars, tensors


def spoil_tar(members: list[tuple[str, bytes]], rng: Rng) -> bytes:
    """A tar with odd names, kinds, links, sizes and order; sometimes spoilt as bytes."""
    buffer, members = io.BytesIO(), list(members)
    if rng.random() < 0.3:
        rng.shuffle(members)  # pyright: ignore
    odd = int(rng.integers(len(members)))
    with tarfile.open(fileobj=buffer, mode="w", format=pick(rng, (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT))) as tar:
        for number, (name, content) in enumerate(members):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            if number == odd:
                _spoil_member(info, rng)
            try:
                tar.addfile(info, io.BytesIO(content.ljust(info.size, b"\0")) if info.isreg() else None)
            except (ValueError, OverflowError, UnicodeError, OSError):
                continue
    data = buffer.getvalue()
    if rng.random() < 0.3:
        data = _lying_size(data, rng)
    if rng.random() < 0.2:
        data = spoil(data, rng)
    return data


def _spoil_member(info: tarfile.TarInfo, rng: Rng) -> None:
    kind = rng.random()
    if kind < 0.4:
        suffix = info.name.rpartition(".")[2]
        info.name = pick(rng, [text for text in HOSTILE_TEXTS if text]) + pick(rng, (f".{suffix}", "", "/"))
    elif kind < 0.7:
        kinds = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE, b"S", b"x", b"L")
        info.type, info.linkname = pick(rng, kinds), pick(rng, ("/etc/passwd", "../../x", info.name, "/dev/zero"))
    elif kind < 0.8:
        info.pax_headers = {
            pick(rng, ("path", "size", "GNU.sparse.realsize", "GNU.sparse.map", "GNU.sparse.name")): "9" * 12
        }
    else:
        info.name = "._" + info.name


def _lying_size(data: bytes, rng: Rng) -> bytes:
    """Another size, in octal or base 256, and a checksum that fits, in one header."""
    headers = [place for place in range(0, len(data) - 512, 512) if data[place + 257 : place + 262] == b"ustar"]
    if not headers:
        return data
    place = pick(rng, headers)
    header = bytearray(data[place : place + 512])
    size = pick(rng, (0, 1, 3 << 30, 8**11 - 1, 2**62))
    header[124:136] = b"%011o\0" % size if size < 8**11 else b"\x80" + size.to_bytes(11, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return data[:place] + bytes(header) + data[place + 512 :]


def spoil_safetensors(data: bytes, rng: Rng) -> bytes:
    """A header that lies about names, types, shapes and places; or other bytes."""
    if rng.random() < 0.3:
        return spoil(data, rng)
    length = int.from_bytes(data[:8], "little")
    header, rest = json.loads(data[8 : 8 + length]), data[8 + length :]
    kind = rng.random()
    name = pick(rng, [key for key in header if key != "__metadata__"])
    if kind < 0.2:
        header[name]["shape"] = pick(rng, ([2**40], [2**62, 4], [-1], [0], [], [1] * 100, ["3"], None, [2**31, 2**31]))
    elif kind < 0.4:
        header[name]["data_offsets"] = pick(rng, ([0, 2**62], [-1, 4], [8, 0], [0], None, ["0", "4"], [0, 0]))
    elif kind < 0.5:
        header[name]["dtype"] = pick(rng, ("F64", "I8", "BOOL", "F8_E4M3", "X", None, 3, "BF16"))
    elif kind < 0.6:
        header[pick(rng, HOSTILE_TEXTS)] = header.pop(name)
    elif kind < 0.7:
        del header[name]
    else:
        text = spoil_json(header, rng).encode("utf-8", "surrogatepass")
        return len(text).to_bytes(8, "little") + text + rest
    text = json.dumps(header).encode()
    lie = len(text) if rng.random() < 0.8 else int(pick(rng, (0, 2**40, 2**63, len(text) - 1, len(text) + 9)))
    values = np.frombuffer(rest[: len(rest) // 4 * 4], np.float32).copy()
    if rng.random() < 0.1 and len(values):
        values[int(rng.integers(len(values)))] = pick(rng, (np.nan, np.inf, 3e38))
        rest = values.tobytes() + rest[len(rest) // 4 * 4 :]
    return lie.to_bytes(8, "little") + text + rest


# ------------------------------------------------------------------------------------------------------ pictures


def huge(data: bytes, rng: Rng) -> bytes:
    """A picture or clip whose header says that it is large."""
    width, height = pick(rng, ((13300, 13300), (65500, 65500), (2**31 - 1, 1), (1, 60000), (2**20, 2**20), (0, 0)))
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        chunk = b"IHDR" + struct.pack(">II", width, height) + data[24:29]
        return data[:8] + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk)) + data[33:]
    width, height = min(width, 65535), min(height, 65535)
    if data[:3] == b"GIF":
        changed = data[:6] + struct.pack("<HH", width, height) + data[10:]
        place = changed.find(b"\x2c", 13)
        if place > 0 and rng.random() < 0.5:
            changed = changed[: place + 5] + struct.pack("<HH", width, height) + changed[place + 9 :]
        return changed
    if data[:2] == b"\xff\xd8":
        place = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2"))
        return data[: place + 5] + struct.pack(">HH", height, width) + data[place + 9 :] if place > 0 else data
    if data[8:12] == b"WEBP" and data[12:16] == b"VP8X":
        sides = (width - 1).to_bytes(4, "little", signed=True)[:3] + (height - 1).to_bytes(4, "little", signed=True)[:3]
        return data[:24] + sides + data[30:]
    if data[:2] == b"BM":
        return data[:18] + struct.pack("<ii", width, height) + data[26:]
    for box in (
        b"tkhd",
        b"avc1",
        b"mvhd",
        b"stsz",
        b"stts",
        b"elst",
        b"ctts",
        b"mdhd",
    ):  # of mp4: extreme numbers in it
        place = data.find(box)
        if place > 0 and rng.random() < 0.4:
            at = place + 4 + 4 * int(rng.integers(0, 12))
            data = data[:at] + struct.pack(">I", pick(rng, (0, 1, 2**31 - 1, 2**32 - 1, 65535 << 16))) + data[at + 4 :]
    return data


Change = Callable[[bytes, Rng], bytes]
