"""`trip evaluate` and `trip weights`: what is printed, what is written."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from trip.apps import weights as weights_module
from trip.apps.cli import main
from trip.apps.evaluate import evaluate
from trip.apps.evaluate_options import Evaluate, Weights
from trip.apps.weights import weights
from trip.data.video.writing import write_video
from trip.evaluation import networks
from trip.evaluation import report as report_module
from trip.evaluation.clips import frame_count
from trip.evaluation.features.base import FrameFeatures, VideoFeatures, squash


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Generated and real clips, and a toy network."""
    for name, seeds in (("fake", range(3)), ("real", range(3, 8))):
        (tmp_path / name).mkdir()
        for seed in seeds:
            clip = np.random.default_rng(seed).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
            write_video(f"{tmp_path / name}/{seed}/", clip)

    def load(file, device):
        network = lambda x: x.flatten(1)[:, :5] + torch.arange(5)  # noqa: E731
        return FrameFeatures(name="Toy", size=4, network=network, prepare=lambda frames: squash(frames, 4))

    monkeypatch.setattr(networks, "LOADERS", dict.fromkeys(("i3d", "inception", "efficientnet-lite0"), load))
    monkeypatch.setattr(networks, "find_weights", lambda name, folder: name)
    monkeypatch.setattr(networks, "sha256_of", lambda file: "hash")
    return tmp_path / "fake", tmp_path / "real"


def test_table_and_report(folders, tmp_path, capsys):
    fake, real = folders
    floor, out = shutil.copytree(real, tmp_path / "floor"), tmp_path / "out.json"
    options = Evaluate(generated=fake, reference=real, floor=floor, json=out, device="cpu", quiet=True)
    assert evaluate(options) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["metric", "value", "95", "%", "interval", "n", "features"]
    names = [line.split("  ")[0] for line in lines[1:]]
    assert "F-Consistency_4 (Toy)" in names and "F-Consistency_4 (Toy), real clips" in names
    assert "FVD, real against real" in names and not any(name == "F-Consistency_4" for name in names)
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["n"] == 3 and set(found["metrics"]["FVD"]) == {"value", "n", "interval", "features", "note"}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["fake", "floor", "out.json", "real"]


def test_few_clips_and_bad_places_are_one_line(folders, tmp_path):
    fake, real = folders
    with pytest.raises(ValueError, match=r"--json .* cannot be written"):
        evaluate(Evaluate(generated=fake, reference=real, json=tmp_path / "no" / "out.json"))
    with pytest.raises(ValueError, match="holds no clips"):
        evaluate(Evaluate(generated=tmp_path / "fake" / "0", reference=real))
    for seed in ("1", "2"):
        for file in (fake / seed).iterdir():
            file.unlink()
    with pytest.raises(ValueError, match="1 clips against 5 real ones"):
        evaluate(Evaluate(generated=fake, reference=real, metrics="fvd", device="cpu", quiet=True))


def test_bad_input_is_one_line_each(folders, tmp_path, monkeypatch, capsys):
    fake, real = folders

    def loader(file, device):
        network = lambda x: x.flatten(1)[:, :5]  # noqa: E731
        return VideoFeatures(name="Toy", size=4, network=network, prepare=lambda frames: squash(frames, 4))

    monkeypatch.setattr(networks, "LOADERS", {"i3d": loader})
    for name, count in (("odd", 3), ("shorter", 3)):
        (tmp_path / name).mkdir()
        for seed in range(count):
            length = 3 if name == "shorter" or seed == 2 else 4
            write_video(f"{tmp_path / name}/{seed}.mp4", np.full((length, 16, 16, 3), 40 * seed, np.uint8))
    broken = tmp_path / "odd" / "1.mp4"
    (tmp_path / "empty").mkdir()
    cases = [
        (fake, tmp_path / "shorter", "motion", "have 3 frames, the generated ones 4; take the first 3 of all"),
        (tmp_path / "odd", real, "motion", "2.mp4 has 3 frames, 0.mp4 has 4; take the first 3 of all (--num-frames 3)"),
        (tmp_path / "empty", real, "motion", "empty holds no clips ("),
        (fake, tmp_path / "empty", "motion", "empty holds no clips ("),
        (fake, real, "fvd", "FVD of 3 clips against 5 real ones would be mostly sampling error, 5 features need"),
        (tmp_path / "odd", real, "motion --num-frames 3", "1.mp4 cannot be read as a clip"),
    ]
    for generated, reference, metrics, words in cases:
        if "--num-frames" in metrics:
            broken.write_bytes(b"no clip" * 40)
        flags = ["--generated", generated, "--reference", reference, "--device", "cpu", "--metrics"]
        assert main([*map(str, ["evaluate", *flags]), *metrics.split()]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1 and lines[0].startswith("trip: error: ") and words in lines[0], lines


def test_weights_of_another_hash_are_refused_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = tmp_path / "cache" / "trip" / "weights" / "i3d_kinetics400.safetensors"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"other weights")
    (tmp_path / "clips").mkdir()
    write_video(tmp_path / "clips" / "a.mp4", np.zeros((4, 16, 16, 3), np.uint8))
    clips = str(tmp_path / "clips")
    assert main(["evaluate", "--generated", clips, "--reference", clips, "--metrics", "fvd", "--device", "cpu"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert f"{file} has SHA-256 " in line and line.endswith("; delete it and run `trip weights get i3d`")


def test_weights_are_listed_and_got(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert weights(Weights(action="list", name="all")) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and all("not in the cache" in line for line in lines)

    monkeypatch.setattr(weights_module, "get_weights", lambda name, quiet: tmp_path / name)
    assert weights(Weights(action="get", name="i3d")) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'i3d'}\n"
    with pytest.raises(ValueError, match="names no weights"):
        weights(Weights(action="get", name="vgg"))


def test_what_is_wrong_with_clips_is_said_before_any_is_measured(folders, tmp_path, monkeypatch):
    """Lengths of all sides by their headers, counts and lengths by what the networks say of a black clip."""
    fake, real = folders
    monkeypatch.setattr(report_module, "measure", lambda *_, **__: pytest.fail("it measured"))
    shutil.copytree(real, tmp_path / "floor")
    write_video(f"{tmp_path}/floor/9.mp4", np.zeros((5, 16, 16, 3), np.uint8))
    flags = {"device": "cpu", "quiet": True, "generated": fake, "reference": real}
    with pytest.raises(ValueError, match=r"9\.mp4 has 5 frames, 3 has 4; take the first 4 of all"):
        evaluate(Evaluate(**flags, floor=tmp_path / "floor", metrics="fvd"))

    def loader(file, device):
        network = lambda x: x.flatten(1)[:, :40]  # noqa: E731
        return VideoFeatures(name="Toy", size=4, network=network, prepare=lambda frames: squash(frames, 4))

    monkeypatch.setattr(networks, "LOADERS", {"i3d": loader})
    with pytest.raises(ValueError, match=r"FVD of 3 clips against 5 real ones would be mostly sampling error, 40 feat"):
        evaluate(Evaluate(**flags, metrics="fvd"))


def test_every_folder_is_listed_once(folders, tmp_path, monkeypatch):
    fake, real = folders[0], shutil.copytree(folders[0], tmp_path / "copy")
    seen, iterdir = [], Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda self: seen.append(self) or iterdir(self))
    options = {"metrics": "motion,first-frame", "batch_size": 1, "html": tmp_path / "page.html"}
    assert evaluate(Evaluate(generated=fake, reference=real, device="cpu", quiet=True, **options)) == 0
    assert seen.count(fake) == seen.count(real) == 1


def test_lengths_are_those_that_are_read(tmp_path):
    for name in ("a.mp4", "a.webm", "a.gif", "a.webp", "a"):
        clip = np.zeros((7, 16, 16, 3), np.uint8) + np.arange(0, 210, 30, dtype=np.uint8)[:, None, None, None]
        write_video(f"{tmp_path}/{name}" + ("" if "." in name else "/"), clip)
        assert [frame_count(tmp_path / name, most) for most in (None, 3, 20)] == [7, 3, 7], name
