"""Licensed photographs and cut-out objects, prepared from Debian packages for synthetic motion.

The repository holds the recipe, not the pictures: `photographs.csv` lists every photograph (package, path,
licence, author, source, split) and `objects.csv` every emoji glyph that serves as a moving object. Only
public-domain, CC0, CC-BY, OFL and Apache material is listed; the licences are those of the packages' own
credits.

Run `python -m lab.photographs FOLDER` to fetch the packages with `apt-get download` (any Debian or
Ubuntu machine whose archive carries them, no root needed) or add `--packages DIR` for a folder with the
`.deb` files. The result::

    FOLDER/index.jsonl          one JSON object a line: kind ("photo" | "object"), name, caption, file,
                                licence, author, source, package, path, split ("train" | "heldout")
    FOLDER/photos/NAME.jpg      photographs, short side at most 640 pixels
    FOLDER/objects/NAME.png     objects with alpha, trimmed, about 128 pixels
    FOLDER/ATTRIBUTION.md       credits of all of it
"""

import argparse
import csv
import hashlib
import json
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from lab.qt_resources import read_bundle

RECIPE = Path(__file__).parent
SHORT_SIDE = 640
EMOJI_PIXELS = 109  # the one bitmap size in the font
EMOJI_PACKAGE = "fonts-noto-color-emoji"
EMOJI_FONT = "usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"


@dataclass(frozen=True, kw_only=True)
class Package:
    """A Debian package at the version whose contents the recipe describes."""

    name: str
    version: str
    sha256: str


PACKAGES = (
    Package(
        name="gcompris-qt-data",
        version="3.1-2",
        sha256="e9cf06ab2105529068df73085784e835d2ff03f870d2a8091f09125d40abac9f",
    ),
    Package(
        name="lomiri-wallpapers-16.04",
        version="20.04.0-2",
        sha256="a99ff6a3bfe451e4cc0682ecb3cc82e71740626d59e4845ae34a0a0e45421eab",
    ),
    Package(
        name="plasma-workspace-data",
        version="4:5.27.5-2+deb12u2",
        sha256="057cda470bd0baf616b3e873bcaf993018d96c8ad30b09535c487f88554e6ea2",
    ),
    Package(
        name=EMOJI_PACKAGE,
        version="2.042-0+deb12u1",
        sha256="a5ab0f69c7938423862320d9aca5dd187b3fd879d6a9a57dd52e17c3fa8d2751",
    ),
)


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One line of `index.jsonl`: where a prepared picture came from and how it may be used."""

    kind: str
    name: str
    caption: str
    file: str
    licence: str
    author: str
    source: str
    package: str
    path: str
    split: str


def photograph_recipe() -> list[Picture]:
    """Returns the photographs of `photographs.csv`, in file order."""
    rows = csv.DictReader((RECIPE / "photographs.csv").read_text(encoding="utf-8").splitlines())
    return [Picture(kind="photo", file=f"photos/{row['name']}.jpg", **row) for row in rows]


def object_recipe() -> list[Picture]:
    """Returns the emoji of `objects.csv`; `path` holds the code point, names may repeat (same split)."""
    rows = csv.DictReader((RECIPE / "objects.csv").read_text(encoding="utf-8").splitlines())
    seen: Counter[str] = Counter()
    return [_object(row["codepoint"], row["name"], row["split"], seen) for row in rows]


def _object(codepoint: str, caption: str, split: str, seen: Counter[str]) -> Picture:
    seen[caption] += 1
    slug = caption.lower().replace(" ", "-") + (f"-{seen[caption]}" if seen[caption] > 1 else "")
    return Picture(
        kind="object",
        name=slug,
        caption=caption,
        file=f"objects/{slug}.png",
        licence="OFL-1.1",
        author="Google Inc., Noto Emoji",
        source="https://github.com/googlefonts/noto-emoji",
        package=EMOJI_PACKAGE,
        path=f"U+{codepoint}",
        split=split,
    )


def check_package(archive: Path, package: Package) -> None:
    """Raises ValueError when a `.deb` is not the one the recipe describes."""
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    if digest != package.sha256:
        raise ValueError(
            f"{archive.name} has SHA-256 {digest[:12]}..., the recipe needs {package.sha256[:12]}...; "
            f"fetch {package.name} {package.version}, for example from snapshot.debian.org"
        )


def obtain_package(package: Package, work: Path, packages: Path | None = None) -> Path:
    """Downloads (or finds in `packages`), verifies and unpacks a package; returns the unpacked root.

    Raises:
        ValueError: the archive cannot be had, or its hash differs from the recipe's.
    """
    if packages is None:
        _apt_download(package, work)
    archive = next((packages or work).glob(f"{package.name}_*.deb"), None)
    if archive is None:
        raise ValueError(f"no {package.name}_*.deb in {packages or work}; put version {package.version} there")
    check_package(archive, package)
    root = work / package.name
    subprocess.run(["dpkg", "-x", str(archive), str(root)], check=True)
    return root


def _apt_download(package: Package, work: Path) -> None:
    command = ["apt-get", "download", f"{package.name}={package.version}"]
    try:
        subprocess.run(command, cwd=work, check=True, capture_output=True, text=True)
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        raise ValueError(
            f"apt-get could not download {package.name} {package.version}; "
            "add a Debian 12 source, or pass --packages DIR"
        ) from error


def read_members(root: Path, paths: Iterable[str], work: Path) -> dict[str, Path]:
    """Maps recipe paths to files on disk; `bundle.rcc!member` paths are unpacked below `work`."""
    wanted = list(paths)
    members = {path: root / path for path in wanted if "!" not in path}
    for bundle in dict.fromkeys(path.split("!")[0] for path in wanted if "!" in path):
        members.update(_unpack_bundle(root, bundle, set(wanted), work))
    return members


def _unpack_bundle(root: Path, bundle: str, wanted: set[str], work: Path) -> dict[str, Path]:
    found = {}
    for member, content in read_bundle(root / bundle):
        path = f"{bundle}!{member}"
        if path in wanted:
            found[path] = work / "bundles" / member
            found[path].parent.mkdir(parents=True, exist_ok=True)
            found[path].write_bytes(content)
    return found


def shrink(image: Image.Image, short_side: int = SHORT_SIDE) -> Image.Image:
    """Returns the picture in RGB with its short side at most `short_side` pixels; never enlarges."""
    scale = min(1.0, short_side / min(image.size))
    size = (round(image.width * scale), round(image.height * scale))
    return image.convert("RGB").resize(size, Image.Resampling.LANCZOS)


def render_emoji(font: ImageFont.FreeTypeFont, character: str) -> Image.Image:
    """Returns the glyph's own bitmap, RGBA, trimmed to its opaque pixels."""
    canvas = Image.new("RGBA", (160, 160))
    ImageDraw.Draw(canvas).text((10, 10), character, font=font, embedded_color=True)
    box = canvas.getbbox()
    if box is None:
        raise ValueError(f"the font has no glyph for U+{ord(character):X}; check the package version")
    return canvas.crop(box)


def prepare_photographs(roots: dict[str, Path], out: Path, work: Path) -> list[Picture]:
    """Writes the photographs of the recipe to `out`/photos and returns their index entries."""
    (out / "photos").mkdir(parents=True, exist_ok=True)
    pictures = photograph_recipe()
    for package in dict.fromkeys(picture.package for picture in pictures):
        chosen = [picture for picture in pictures if picture.package == package]
        files = read_members(roots[package], (picture.path for picture in chosen), work)
        for picture in chosen:
            with Image.open(files[picture.path]) as image:
                shrink(image).save(out / picture.file, quality=92, subsampling=0)
    return pictures


def prepare_objects(roots: dict[str, Path], out: Path) -> list[Picture]:
    """Writes the emoji of the recipe to `out`/objects and returns their index entries."""
    (out / "objects").mkdir(parents=True, exist_ok=True)
    font = ImageFont.truetype(roots[EMOJI_PACKAGE] / EMOJI_FONT, EMOJI_PIXELS)
    pictures = object_recipe()
    for picture in pictures:
        render_emoji(font, chr(int(picture.path[2:], 16))).save(out / picture.file)
    return pictures


def attribution(pictures: Iterable[Picture]) -> str:
    """Returns a Markdown page that credits every picture."""
    lines = ["# Attribution", "", "| file | author | licence | source | package |", "|---|---|---|---|---|"]
    lines += [f"| {p.file} | {p.author} | {p.licence} | {p.source} | {p.package} |" for p in pictures]
    return "\n".join(lines) + "\n"


def prepare(out: str | Path, packages: str | Path | None = None) -> Path:
    """Builds the folder that the module's docstring describes and returns the path of its index.

    Args:
        out: folder to fill; existing pictures are overwritten.
        packages: folder with the `.deb` files; None downloads them with apt-get.

    Raises:
        ValueError: a package cannot be had or is not the one the recipe describes.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="trip-photographs-"))
    try:
        source = None if packages is None else Path(packages)
        roots = {package.name: obtain_package(package, work, source) for package in PACKAGES}
        pictures = prepare_photographs(roots, out, work) + prepare_objects(roots, out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    (out / "ATTRIBUTION.md").write_text(attribution(pictures), encoding="utf-8")
    index = out / "index.jsonl"
    index.write_text("".join(json.dumps(asdict(p), ensure_ascii=False) + "\n" for p in pictures), encoding="utf-8")
    return index


def main() -> None:
    """Command line of `python -m lab.photographs`."""
    parser = argparse.ArgumentParser(description="Prepare the licensed photographs and objects for synthetic motion.")
    parser.add_argument("out", type=Path, help="folder to fill")
    parser.add_argument("--packages", type=Path, help="folder with the .deb files (default: apt-get download)")
    arguments = parser.parse_args()
    print(prepare(arguments.out, arguments.packages))


if __name__ == "__main__":
    main()
