"""Rebuild the committed held-out set and the example photographs from a prepared folder.

Usage: python -m benchmarks.heldout.build PHOTOS_DIR   (a folder made by `python -m lab.photographs`)
"""

import argparse
import json
import shutil
from pathlib import Path

from lab.photographs import attribution, object_recipe, photograph_recipe
from PIL import Image, ImageOps

HERE = Path(__file__).resolve().parent
EXAMPLES = HERE.parents[1] / "examples" / "photos"
PHOTOS = (
    "bison",
    "books",
    "chicken",
    "cow",
    "crab",
    "fort-sumter",
    "great-wallof-china",
    "hawa-mahal",
    "hedgehog",
    "horse",
    "kingfisher",
    "lemur",
    "machu-picchu",
    "moose",
    "mysore-palace",
    "neuschwanstein-castle",
    "orchestra",
    "pancakes",
    "parrot",
    "petra",
    "pontdu-gard",
    "red-panda",
    "sea3",
    "sheep",
    "sunflower",
)
OBJECTS = ("fox", "owl", "penguin", "pineapple", "sailing-boat", "taxi", "teddy-bear", "tractor")
NOTE = (
    "Photographs are cropped to the middle square and reduced to 256 pixels. "
    "Objects are bitmaps of the Noto Color Emoji font (SIL Open Font License 1.1), trimmed."
)
PROMPTS = {
    "neuschwanstein-castle": ("castle", "the camera pans left", 0.5),
    "red-panda": ("red-panda", "the camera zooms in", 0.5),
    "great-wallof-china": ("great-wall", "the camera tilts up", 0.5),
    "parrot": ("parrot", "the picture rotates clockwise", 0.5),
}


def square(path: Path, size: int, focus: float = 0.5) -> Image.Image:
    """Returns the middle square of a picture; `focus` moves it along the longer side (0 to 1)."""
    with Image.open(path) as image:
        return ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS, centering=(focus, focus))


def build_heldout(photos_dir: Path) -> None:
    """Writes photos/, objects/, heldout.jsonl and ATTRIBUTION.md beside this file."""
    pictures = {p.name: p for p in photograph_recipe()}
    cutouts = {p.name: p for p in object_recipe()}
    chosen = [pictures[name] for name in PHOTOS] + [cutouts[name] for name in OBJECTS]
    assert all(picture.split == "heldout" for picture in chosen)
    for folder in ("photos", "objects"):
        (HERE / folder).mkdir(exist_ok=True)
    for name in PHOTOS:
        square(photos_dir / pictures[name].file, 256).save(HERE / pictures[name].file, quality=90, optimize=True)
    for name in OBJECTS:
        shutil.copyfile(photos_dir / cutouts[name].file, HERE / cutouts[name].file)
    keys = ("file", "kind", "caption", "licence", "author", "source", "package", "path")
    lines = [json.dumps({key: getattr(p, key) for key in keys}, ensure_ascii=False) for p in chosen]
    (HERE / "heldout.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (HERE / "ATTRIBUTION.md").write_text(f"{attribution(chosen)}\n{NOTE}\n", encoding="utf-8")


def build_examples(photos_dir: Path) -> None:
    """Writes examples/photos: four held-out photographs at 512 pixels, their prompts and credits."""
    EXAMPLES.mkdir(parents=True, exist_ok=True)
    pictures = {p.name: p for p in photograph_recipe()}
    rows, credits = [], []
    for name, (short, prompt, focus) in PROMPTS.items():
        square(photos_dir / pictures[name].file, 512, focus).save(EXAMPLES / f"{short}.jpg", quality=90, optimize=True)
        rows.append(json.dumps({"image": f"{short}.jpg", "prompt": prompt}))
        credits.append(attribution([pictures[name]]).splitlines()[-1].replace(f"photos/{name}", short))
    (EXAMPLES / "prompts.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    heading = attribution([]).rstrip("\n")
    (EXAMPLES / "ATTRIBUTION.md").write_text("\n".join([heading, *credits]) + "\n", encoding="utf-8")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos_dir", type=Path)
    photos_dir = parser.parse_args().photos_dir
    build_heldout(photos_dir)
    build_examples(photos_dir)


if __name__ == "__main__":
    main()
