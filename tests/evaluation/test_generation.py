"""Runs in folders: resumed, shared among processes, refused; with a generator that needs no model."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from trip.data.video.reading import read_video
from trip.data.video.writing import write_video
from trip.evaluation.generation import (
    ReferenceStills,
    flat,
    generate_missing,
    held,
    left_out,
    score,
    shard,
)
from trip.evaluation.protocols import PROTOCOLS, list_jobs
from trip.evaluation.report import EvaluationSettings
from trip.files import MARK

PROTOCOL = replace(PROTOCOLS["folder"], num_frames=6, size=(32, 32), prompt="it moves", metrics=("motion",))

STEP = 5
"""Grey levels between frames."""


def numbered(path, count):
    """Frame i is flat grey of level STEP * i; `numbers` reads it back."""
    write_video(path, np.stack([np.full((32, 32, 3), STEP * i, np.uint8) for i in range(count)]), fps=8)


def numbers(frames):
    return np.rint(frames.reshape(len(frames), -1).mean(1) / STEP).astype(int).tolist()


@pytest.fixture
def data(tmp_path):
    """Four clips that differ."""
    folder = tmp_path / "data"
    folder.mkdir()
    for i in range(4):
        numbered(folder / f"{i}.mp4", count=12 + i)
    for i in range(4):
        (folder / f"{i}.txt").write_text("grey")
    return folder


class Generator:
    """Moves the picture down, further with another seed; remembers its calls, and fails when told to."""

    def __init__(self, fail_at: int | None = None) -> None:
        self.seeds, self.fail_at = [], fail_at

    def __call__(self, picture, prompt, seed):
        if len(self.seeds) == self.fail_at:
            raise KeyboardInterrupt
        self.seeds.append(seed)
        rows = np.arange(32)[:, None, None]
        return np.stack([np.clip(picture + rows * (1 + seed % 3) + i, 0, 255).astype(np.uint8) for i in range(6)])


def run(folder, data, generate, process=0, processes=1, protocol=PROTOCOL):
    jobs = list_jobs(protocol, data)
    with held(folder, {"protocol": protocol.record()}, jobs):
        stills = ReferenceStills(folder=folder, protocol=protocol, seed=0)
        mine = shard(jobs, process, processes)
        generate_missing(mine, lambda job: f"{folder / 'generated' / job.name}/", stills, generate, fps=protocol.fps)
    return jobs


def scored(folder, protocol=PROTOCOL):
    return json.dumps(score(folder, protocol, EvaluationSettings(metrics=protocol.metrics)).as_dict(), default=str)


def test_reference_and_generated_clips_are_lossless_and_of_one_length(tmp_path, data):
    jobs = run(tmp_path / "run", data, Generator())
    lines = [json.loads(line) for line in (tmp_path / "run" / "jobs.jsonl").read_text().splitlines()]
    assert lines == [job.as_dict() for job in jobs]
    for job in jobs:
        reference = read_video(tmp_path / "run" / "reference" / job.reference)
        clip = read_video(tmp_path / "run" / "generated" / job.name)
        assert np.diff(numbers(reference.frames)).tolist() == [1] * 5 and reference.fps == clip.fps == 8
        assert np.array_equal(clip.frames, Generator()(reference.frames[0], "", job.seed))
        assert clip.metadata == job.as_dict() | {"fps": 8.0}


def test_a_stopped_run_goes_on_and_ends_in_the_same_report(tmp_path, data):
    whole, stopped, rest = Generator(), Generator(fail_at=2), Generator()
    run(tmp_path / "whole", data, whole)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run", data, stopped)
    half = tmp_path / "run" / "generated" / ".trip-ab12cd_3"
    half.mkdir()
    (half / MARK).touch()
    Image.new("RGB", (32, 32)).save(half / "frame_0000.png")
    run(tmp_path / "run", data, rest)
    assert stopped.seeds + rest.seeds == whole.seeds and not half.exists()
    run(tmp_path / "run", data, again := Generator())
    assert again.seeds == []
    assert scored(tmp_path / "run") == scored(tmp_path / "whole")


def test_processes_share_clips_and_agree_with_one(tmp_path, data):
    protocol = replace(PROTOCOL, samples=2)
    jobs = list_jobs(protocol, data)
    shares = [shard(jobs, process, 3) for process in range(3)]
    assert sorted(job.name for share in shares for job in share) == sorted(job.name for job in jobs)
    assert [len({job.number for job in share}) for share in shares] == [2, 1, 1]
    for process in range(3):
        run(tmp_path / "three", data, Generator(), process, 3, protocol)
    run(tmp_path / "one", data, Generator(), protocol=protocol)
    assert scored(tmp_path / "three", protocol) == scored(tmp_path / "one", protocol)


def test_broken_and_short_clips_are_left_out_on_both_sides_and_named(tmp_path, data):
    numbered(data / "short.mp4", count=3)
    (data / "broken.mp4").write_bytes((data / "0.mp4").read_bytes()[:1000])
    run(tmp_path / "run", data, Generator())
    report = score(tmp_path / "run", PROTOCOL, EvaluationSettings(metrics=("motion",))).as_dict()
    assert {fault["key"]: fault["reason"] for fault in report["left_out"]} == {
        "short.mp4": "too_short",
        "broken.mp4": "truncated",
    }
    assert report["n"] == 4 and report["settings"]["reference"] == report["settings"]["generated"] | {
        "folder": "reference"
    }
    assert "2 real clips were left out, on both sides (" in report["warnings"][-1]
    assert len(left_out(tmp_path / "run")) == 2


def test_nothing_usable_is_one_line(tmp_path):
    (tmp_path / "data").mkdir()
    numbered(tmp_path / "data" / "short.mp4", count=3)
    (tmp_path / "data" / "short.txt").write_text("grey")
    run(tmp_path / "run", tmp_path / "data", Generator())
    with pytest.raises(
        ValueError, match=r"none of the 1 clips can be used: short.mp4: 3 frames \(0.38 s\) are too few"
    ):
        scored(tmp_path / "run")


def test_a_folder_of_another_run_is_refused_and_the_difference_named(tmp_path, data):
    run(tmp_path / "run", data, Generator())
    with pytest.raises(ValueError, match=r"run was made with protocol.fps 8.0, not 4.0; give the same settings, or"):
        run(tmp_path / "run", data, Generator(), protocol=replace(PROTOCOL, fps=4.0))
    with pytest.raises(ValueError, match=r"protocol.count None, not 2 and 1 more; give the same"):
        run(tmp_path / "run", data, Generator(), protocol=replace(PROTOCOL, count=2))
    (data / "3.mp4").unlink()
    with pytest.raises(ValueError, match=r"was made with jobs_sha256 '\w+', not '\w+'; give the same"):
        run(tmp_path / "run", data, Generator())
    with pytest.raises(ValueError, match="holds other files"):
        run(data, data, Generator())
    assert flat({"a": {"b": 1, "c": {"d": 2}}, "e": 3}) == {"a.b": 1, "a.c.d": 2, "e": 3}


def test_two_runs_in_one_folder_are_refused(tmp_path, data):
    jobs = list_jobs(PROTOCOL, data)
    with held(tmp_path / "run", {}, jobs):
        second = held(tmp_path / "run", {}, jobs)
        with pytest.raises(ValueError, match="is being filled by another process; wait for it"), second:
            pass
