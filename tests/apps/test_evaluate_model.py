"""`trip evaluate-model` and `trip vbench`: a tiny pipeline, killed for real, on two processes, for VBench."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image

from trip.apps import evaluate_model as generation
from trip.apps.cli import main
from trip.data.video.reading import read_video
from trip.data.video.writing import write_video
from trip.evaluation.vbench import INFO

THREADS = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
"""The bits of a sum depend on the number of threads; runs that are compared have the same."""


@pytest.fixture(scope="module")
def data(world):
    """Four captioned clips of 8 frames of 32x32."""
    folder = world / "evaluated"
    folder.mkdir()
    for i in range(4):
        clip = np.random.default_rng(i).integers(0, 256, (1, 32, 40, 3), dtype=np.uint8)
        write_video(folder / f"{i}.mp4", np.concatenate([np.roll(clip, k, axis=2) for k in range(8)]), fps=8)
        (folder / f"{i}.txt").write_text(f"it pans {'abcdef'[i]}")
    return folder


def arguments(model, data, output, *flags):
    size = ["--width", "32", "--height", "32", "--num-frames", "4", "--steps", "2"]
    run = ["--protocol", "folder", "--metrics", "motion,first-frame", "--data", data, "--output-dir", output]
    return [*map(str, ["evaluate-model", "--model", model, *run, *size, "--device", "cpu", "--quiet", *flags])]


def clips_of(folder):
    """The generated clips that are there, with the times at which they were written."""
    found = folder / "generated"
    clips = [path for path in found.iterdir() if path.is_dir() and path.name[0] != "."] if found.is_dir() else []
    return {path.name: path.stat().st_mtime_ns for path in clips}


def test_a_killed_run_resumes_to_the_same_bytes_and_makes_no_clip_twice(model, data, tmp_path, capsys):
    program = [sys.executable, "-m", "trip.apps.cli", *arguments(model, data, tmp_path / "killed")]
    process = subprocess.Popen(program, env=THREADS, stderr=subprocess.PIPE)
    while process.poll() is None and len(clips_of(tmp_path / "killed")) < 2:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, errors
    before = clips_of(tmp_path / "killed")
    assert 2 <= len(before) < 4 and not (tmp_path / "killed" / "report.json").exists()

    assert main(arguments(model, data, tmp_path / "killed")) == 0
    assert main(arguments(model, data, tmp_path / "whole")) == 0
    after = clips_of(tmp_path / "killed")
    assert len(after) == 4 and {name: after[name] for name in before} == before
    reports = [(tmp_path / name / "report.json").read_bytes() for name in ("killed", "whole")]
    assert reports[0] == reports[1]
    report = json.loads(reports[0])
    assert report["n"] == 4 and report["protocol"]["num_frames"] == 4 and report["model"]["steps"] == 2
    assert "First frame PSNR, dB" in capsys.readouterr().out
    assert not list((tmp_path / "killed").rglob(".trip-*"))

    assert main(arguments(model, data, tmp_path / "killed", "--steps", "3")) == 2
    assert "was made with steps 2, not 3; give the same settings, or another --output-dir" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_end_in_the_report_of_one(model, data, tmp_path):
    assert main(arguments(model, data, tmp_path / "one")) == 0
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "trip.apps.cli"]
    program = [sys.executable, *torchrun, *arguments(model, data, tmp_path / "two")]
    done = subprocess.run(program, env=THREADS, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("metric ") == 1
    assert (tmp_path / "one" / "report.json").read_bytes() == (tmp_path / "two" / "report.json").read_bytes()


def test_vbench_finds_five_clips_a_prompt_and_nothing_else(model, tmp_path, capsys):
    rows = [
        {"prompt_en": "a cat walks.", "dimension": ["i2v_subject"], "image_type": "animal", "image_name": "cat.jpg"}
    ]
    rows += [{"prompt_en": "a cat walks., camera pans left", "dimension": ["camera_motion"], "image_type": "animal"}]
    (tmp_path / "data" / "crop" / "1-1").mkdir(parents=True)
    (tmp_path / INFO).write_text(json.dumps(rows))
    Image.new("RGB", (24, 20), "teal").save(tmp_path / "data" / "crop" / "1-1" / "cat.jpg")
    flags = ["--data", tmp_path, "--output-dir", tmp_path / "run", "--num-frames", "4", "--count", "1"]
    program = [*map(str, ["vbench", "--model", model, *flags, "--steps", "1", "--device", "cpu", "--quiet"])]
    assert main(program) == 0
    videos = tmp_path / "run" / "videos"
    assert capsys.readouterr().out == f"{videos}\n"
    expected = {f"a cat walks.-{k}.mp4" for k in range(5)}
    assert {path.name for path in videos.iterdir()} == expected
    clip = read_video(videos / "a cat walks.-0.mp4")
    assert clip.frames.shape == (4, 16, 16, 3) and clip.fps == 8 and clip.metadata is None
    seeds = [json.loads(line)["seed"] for line in (tmp_path / "run" / "jobs.jsonl").read_text().splitlines()]
    assert len(set(seeds)) == 5


def test_prompts_that_are_too_long_lose_their_last_words(model, data, tmp_path, capsys):
    long = "abcdefghij " * 4
    assert main(arguments(model, data, tmp_path / "run", "--prompt", long + "x", "--count", "1")) == 0
    [job] = [json.loads(line) for line in (tmp_path / "run" / "jobs.jsonl").read_text().splitlines()]
    assert job["prompt"] == "abcdefghij abcdefghij abcdefghij"
    assert "1 prompts are longer than the model's 32 tokens and were cut" in capsys.readouterr().err


def test_what_scoring_lacks_is_said_before_clips_are_generated(model, data, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "none"))
    monkeypatch.setattr(generation, "generate_missing", lambda *_, **__: pytest.fail("it generated"))
    for flags, words in (
        (["--metrics", "fvd"], "i3d_kinetics400.safetensors is not in"),
        (["--metrics", "fdv"], "metric 'fdv' is unknown; choose of"),
        (["--metrics", "text"], "text needs CLIP"),
        (["--num-frames", "5"], "num_frames (=5) exceeds the model's 4"),
    ):
        assert main([*arguments(model, data, tmp_path / "run"), *flags]) == 2
        [line] = capsys.readouterr().err.splitlines()
        assert line.startswith("trip: error: ") and words in line
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "line, words",
    [
        ("evaluate --reference a", "Missing from trip evaluate: --generated DIR"),
        ("evaluate --generated a --protocol folder", "--protocol"),
        ("evaluate-model --model m --data d --output-dir o", "Missing from trip evaluate-model: --protocol NAME"),
        ("evaluate-model --model m --protocol dtdb --data d", "--output-dir DIR"),
        ("evaluate-model --model m --protocol dtdb --data d --output-dir o --floor f", "--floor"),
        ("vbench --model m --data d --output-dir o --html r.html", "--html"),
    ],
)
def test_half_a_command_is_one_line(line, words, capsys):
    assert main(line.split()) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("trip: error: ") and words in lines[0], lines
