"""The scripts that people copy from run, and show what they say they show."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from trip.data.images import load_image
from trip.data.video.reading import read_video
from trip.data.video.writing import write_video

FOLDER = Path(__file__).parents[1] / "examples"
PICTURE = FOLDER / "photos" / "castle.jpg"


def example(name: str) -> ModuleType:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", FOLDER / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """Two clips of 16 frames whose content shifts, with captions."""
    folder = tmp_path / "clips"
    folder.mkdir()
    picture = np.asarray(load_image(PICTURE).resize((96, 64)))
    for name in ("a", "b"):
        write_video(folder / f"{name}.mp4", np.stack([picture[:, k : k + 64] for k in range(16)]), 8)
    rows = [{"file_name": f"{name}.mp4", "text": "the camera pans right"} for name in ("a", "b")]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.mark.parametrize("script", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_an_example_fits_on_a_page(script: Path) -> None:
    assert 20 <= len(script.read_text().splitlines()) <= 70


def test_the_prior_halves_the_error_of_a_network_that_has_not_seen_the_picture(tmp_path: Path) -> None:
    errors = example("toy_prior").main(str(tmp_path / "toy.png"), steps=20)
    assert errors["image noise prior"] < 0.7 * errors["no prior"]
    assert load_image(tmp_path / "toy.png").size == (1024, 480)


@pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")
def test_animate(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    file = example("animate").main(str(PICTURE), "the camera pans left", str(tmp_path / "clip.gif"), steps=1)
    video = read_video(file)
    assert video.frames.shape[0] == 16 and video.metadata is not None and "done" in capsys.readouterr().out


def test_fine_tune(clips: Path, tmp_path: Path) -> None:
    pipeline = example("fine_tune").main(str(clips), str(tmp_path / "run"), steps=2, batch_size=2)
    assert pipeline.max_num_frames == 16
    assert len((tmp_path / "run" / "log.jsonl").read_text().splitlines()) >= 2


def test_evaluate(clips: Path, capsys: pytest.CaptureFixture) -> None:
    report = example("evaluate").main(str(clips))
    assert report.n == 2 and "of 2" in capsys.readouterr().out
