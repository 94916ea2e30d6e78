"""The built wheel works by itself: `python tests/wheel.py [--empty] [--model FOLDER]`.

Builds the wheel, checks that it carries every file of the package, the bundled model included, installs it into a
new environment and animates a photograph there, offline. The environment borrows the dependencies of the running
one, or, with --empty, installs them all from the package index.
"""

import argparse
import os
import subprocess
import sys
import sysconfig
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "trip"
MODEL_BYTES = 24 * 2**20
IGNORED = ("__pycache__",)


def run(*command, **options) -> str:
    """Run a command; its output, or an end with all it said."""
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True, **options)
    if result.returncode:
        sys.exit(f"{' '.join(map(str, command))}\nfailed with {result.returncode}\n{result.stdout}{result.stderr}")
    return result.stdout


def build(folder: Path) -> Path:
    """The wheel, checked for completeness."""
    run(sys.executable, "-m", "pip", "wheel", "-qq", "--no-deps", "--wheel-dir", folder, ROOT)
    (wheel,) = folder.glob("trip_i2v-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        inside = set(archive.namelist())
        model = sum(item.file_size for item in archive.infolist() if item.filename.startswith("trip/models/"))
    files = (p for p in PACKAGE.rglob("*") if p.is_file() and not set(IGNORED) & set(p.parts))
    missing = sorted({str(p.relative_to(PACKAGE.parent)) for p in files} - inside)
    if missing:
        sys.exit(f"{wheel.name} lacks {len(missing)} files: {', '.join(missing[:5])}")
    if model > MODEL_BYTES:
        sys.exit(f"the bundled model has {model:,} bytes, more than {MODEL_BYTES:,}")
    print(f"{wheel.name}: {wheel.stat().st_size:,} bytes, {len(inside)} files, models {model:,} bytes")
    return wheel


def environment(folder: Path, wheel: Path, empty: bool) -> Path:
    """Its python, with the wheel installed."""
    venv.create(folder, with_pip=empty)
    python = folder / "bin" / "python"
    if empty:
        run("bash", ROOT / "requirements" / "torch.sh", folder)
        constraints = ROOT / "requirements" / "constraints.txt"
        run(python, "-m", "pip", "install", "-qq", "--constraint", constraints, wheel)
        return python
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    run(sys.executable, "-m", "pip", "--python", python, "install", "-qq", "--no-deps", "--force-reinstall", wheel)
    return python


def animate(folder: Path, python: Path, model: str | None) -> None:
    """Make and read a clip with the installed package alone."""
    photograph = next(iter(sorted((ROOT / "examples" / "photos").glob("*.jpg"))))
    offline = {**os.environ, "HF_HUB_OFFLINE": "1"}
    offline.pop("PYTHONPATH", None)
    where = run(python, "-c", "import trip; print(trip.__file__)", cwd=folder, env=offline).strip()
    if not Path(where).is_relative_to(folder):
        sys.exit(f"the wheel is not what is imported, but {where}")
    flags = ["--model", model] if model else []
    trip = python.with_name("trip")
    command = [trip, "animate", photograph, "--prompt", "the camera pans left", "--output", "clip.mp4", "--steps", "4"]
    print("animated", run(*command, *flags, cwd=folder, env=offline).strip(), "with", where)
    run(trip, "info", "clip.mp4", cwd=folder, env=offline)


def main() -> None:
    """Build, install, animate."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--empty", action="store_true", help="install the dependencies anew")
    parser.add_argument("--model", help="model folder in place of the bundled one")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="trip-wheel-") as name:
        folder = Path(name).resolve()
        wheel = build(folder)
        python = environment(folder / "venv", wheel, options.empty)
        animate(folder, python, options.model and str(Path(options.model).resolve()))


if __name__ == "__main__":
    main()
