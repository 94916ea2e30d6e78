"""The recipe of pictures (licences, splits), the Qt bundle reader and the handling of packages."""

import hashlib
import io
import struct
import zlib
from pathlib import Path

import pytest
from lab.photographs import (
    PACKAGES,
    Package,
    attribution,
    check_package,
    object_recipe,
    obtain_package,
    photograph_recipe,
    read_members,
    shrink,
)
from lab.qt_resources import FOLDER, ZLIB, read_bundle
from PIL import Image

FREE = ("public domain", "CC0-1.0", "CC-BY-2.0", "CC-BY-3.0", "CC-BY-4.0")


def bundle(version: int, files: dict[str, bytes], packed: bool = False) -> bytes:
    """Writes a Qt bundle of files in one folder `art/`, as the documented format says."""
    names, data = io.BytesIO(), io.BytesIO()

    def name_of(text: str) -> int:
        offset = names.tell()
        names.write(struct.pack(">HI", len(text), 0) + text.encode("utf-16-be"))
        return offset

    tail = b"" if version == 1 else struct.pack(">Q", 0)
    nodes = [struct.pack(">IHII", 0, FOLDER, 1, 1) + tail]
    nodes.append(struct.pack(">IHII", name_of("art"), FOLDER, len(files), 2) + tail)
    for name, content in files.items():
        payload = struct.pack(">I", len(content)) + zlib.compress(content) if packed else content
        nodes.append(struct.pack(">IHHHI", name_of(name), ZLIB * packed, 0, 1, data.tell()) + tail)
        data.write(struct.pack(">I", len(payload)) + payload)
    size = 20 if version < 3 else 24
    tree = b"".join(nodes)
    header = b"qres" + struct.pack(">4I", version, size, size + len(tree), size + len(tree) + len(data.getvalue()))
    return header + b"\0" * (size - 20) + tree + data.getvalue() + names.getvalue()


@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.parametrize("packed", [False, True])
def test_bundle_round_trip(tmp_path: Path, version: int, packed: bool) -> None:
    files = {"lion.txt": b"roar" * 50, "größe.bin": bytes(range(256)), "empty": b""}
    path = tmp_path / "made.rcc"
    path.write_bytes(bundle(version, files, packed))
    assert dict(read_bundle(path)) == {f"art/{name}": content for name, content in files.items()}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK\3\4 not a bundle at all", "not a Qt resource bundle"),
        (b"", "not a Qt resource bundle"),
        (b"qres" + struct.pack(">4I", 9, 20, 20, 20), "version 9"),
        (bundle(2, {"a": b"abc"})[:60], "damaged"),
    ],
)
def test_bad_bundles_are_explained(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.rcc"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        list(read_bundle(path))


def test_members_come_from_bundles_and_folders(tmp_path: Path) -> None:
    root = tmp_path / "package"
    root.mkdir()
    (root / "made.rcc").write_bytes(bundle(2, {"a.txt": b"one", "b.txt": b"two"}))
    (root / "plain.txt").write_bytes(b"three")
    files = read_members(root, ["made.rcc!art/a.txt", "plain.txt"], tmp_path / "work")
    assert {path: file.read_bytes() for path, file in files.items()} == {
        "made.rcc!art/a.txt": b"one",
        "plain.txt": b"three",
    }


def test_recipe_is_free_complete_and_split_by_name() -> None:
    photos, objects = photograph_recipe(), object_recipe()
    packages = {package.name for package in PACKAGES}
    assert all(p.licence in FREE and p.author and p.source for p in photos)
    assert {p.package for p in photos + objects} == packages
    assert len({p.file for p in photos + objects}) == len(photos + objects)
    assert sum(p.split == "heldout" for p in photos) >= 40
    assert len({p.caption for p in objects if p.split == "heldout"}) >= 30
    train, heldout = ({p.caption for p in objects if p.split == split} for split in ("train", "heldout"))
    assert not train & heldout


def test_object_names_do_not_speak_of_the_camera() -> None:
    words = {word for p in object_recipe() for word in p.caption.split()}
    assert not words & {"camera", "picture", "view", "left", "right", "up", "down"}


def test_shrink_keeps_aspect_and_never_enlarges() -> None:
    assert shrink(Image.new("RGBA", (1920, 1080))).size == (1138, 640)
    assert shrink(Image.new("L", (320, 213))).size == (320, 213)
    assert shrink(Image.new("RGBA", (10, 10))).mode == "RGB"


def test_wrong_or_missing_packages_are_explained(tmp_path: Path) -> None:
    archive = tmp_path / "fonts_1_all.deb"
    archive.write_bytes(b"something")
    good = Package(name="fonts", version="1", sha256=hashlib.sha256(b"something").hexdigest())
    check_package(archive, good)
    with pytest.raises(ValueError, match="the recipe needs"):
        check_package(archive, Package(name="fonts", version="1", sha256="0" * 64))
    with pytest.raises(ValueError, match=r"no other_\*\.deb"):
        obtain_package(Package(name="other", version="2", sha256="0" * 64), tmp_path, tmp_path)


def test_attribution_credits_every_picture() -> None:
    page = attribution(photograph_recipe()[:3])
    assert all(p.author in page and p.licence in page for p in photograph_recipe()[:3])
