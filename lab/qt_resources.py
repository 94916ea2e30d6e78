"""Reader of Qt resource bundles (`.rcc`), the container in which some Debian packages keep their pictures.

The layout is the one of Qt's own resource compiler, all integers big-endian::

    header   "qres", version, tree offset, data offset, names offset[, flags (version 3)]
    node     name offset u32, flags u16, then for a folder: children u32, first child u32,
             for a file: country u16, language u16, data offset u32; then mtime u64 (version 2 and later)
    name     length u16, hash u32, UTF-16BE characters
    data     size u32, bytes; zlib-compressed bytes start with the unpacked size as u32
"""

import struct
import subprocess
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ZLIB, FOLDER, ZSTD = 1, 2, 4


@dataclass(frozen=True)
class _Bundle:
    blob: bytes
    version: int
    tree: int
    data: int
    names: int

    @property
    def node_size(self) -> int:
        return 14 if self.version == 1 else 22

    def name(self, offset: int) -> str:
        start = self.names + offset
        (length,) = struct.unpack_from(">H", self.blob, start)
        return self.blob[start + 6 : start + 6 + 2 * length].decode("utf-16-be")

    def walk(self, node: int = 0, prefix: str = "") -> Iterator[tuple[str, int, int]]:
        """Yields (path, flags, data offset) of every file below a node."""
        start = self.tree + node * self.node_size
        name_offset, flags = struct.unpack_from(">IH", self.blob, start)
        path = prefix if node == 0 else f"{prefix}/{self.name(name_offset)}".lstrip("/")
        if not flags & FOLDER:
            yield path, flags, struct.unpack_from(">I", self.blob, start + 10)[0]
            return
        count, first = struct.unpack_from(">II", self.blob, start + 6)
        for child in range(first, first + count):
            yield from self.walk(child, path)

    def content(self, flags: int, offset: int) -> bytes:
        start = self.data + offset
        (size,) = struct.unpack_from(">I", self.blob, start)
        return _unpack(self.blob[start + 4 : start + 4 + size], flags)


def _unpack(payload: bytes, flags: int) -> bytes:
    if flags & ZLIB:
        return zlib.decompress(payload[4:])
    return _unpack_zstd(payload) if flags & ZSTD else payload


def _unpack_zstd(payload: bytes) -> bytes:
    try:
        return subprocess.run(["zstd", "-dc"], input=payload, capture_output=True, check=True).stdout
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        raise ValueError("the bundle holds zstd-compressed files; install the `zstd` command to unpack them") from error


def read_bundle(path: str | Path) -> Iterator[tuple[str, bytes]]:
    """Yields (path inside the bundle, bytes) of every file in a Qt resource bundle.

    Raises:
        ValueError: not a bundle of version 1 to 3, or damaged.
    """
    blob = Path(path).read_bytes()
    if blob[:4] != b"qres" or len(blob) < 20:
        raise ValueError(f"{path} is not a Qt resource bundle (it starts with {blob[:4]!r}, not b'qres')")
    version, tree, data, names = struct.unpack_from(">4I", blob, 4)
    if not 1 <= version <= 3:
        raise ValueError(f"{path} has bundle version {version}; versions 1 to 3 can be read")
    bundle = _Bundle(blob, version, tree, data, names)
    try:
        for name, flags, offset in bundle.walk():
            yield name, bundle.content(flags, offset)
    except (struct.error, zlib.error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged ({error}); download the package again") from error
