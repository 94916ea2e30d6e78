"""The lists of jobs: what depends on what, and what the paper's sets are asked for."""

import json
from dataclasses import replace

import numpy as np
import pytest

from trip.data.sets.decoding import ClipFault, Decoding, decode_clip
from trip.evaluation.protocols import PROTOCOLS, FixedStart, Protocol, list_jobs, start_of


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


@pytest.fixture
def pairs(tmp_path):
    """Ten clips with captions beside them."""
    for i in range(10):
        touch(tmp_path, f"clip{i}.mp4")
        (tmp_path / f"clip{i}.txt").write_text(f"caption {i}")
    return tmp_path


FOLDER = PROTOCOLS["folder"]


def test_jobs_are_named_by_number_and_seeded_by_key(pairs):
    jobs = list_jobs(replace(FOLDER, samples=2), pairs, seed=3)
    assert [job.name for job in jobs[:3]] == ["00000-0", "00000-1", "00001-0"] and len(jobs) == 20
    assert len({job.seed for job in jobs}) == 20 and all(0 <= job.seed < 2**31 for job in jobs)
    assert {(job.key, job.prompt) for job in jobs} == {(f"clip{i}.mp4", f"caption {i}") for i in range(10)}
    assert jobs[0].as_dict() == {"name": "00000-0", "key": jobs[0].key, "prompt": jobs[0].prompt, "seed": jobs[0].seed}
    assert jobs == list_jobs(replace(FOLDER, samples=2), pairs, seed=3)
    assert [job.key for job in jobs] != [job.key for job in list_jobs(replace(FOLDER, samples=2), pairs, seed=4)]


def test_fewer_clips_are_a_part_of_more_and_other_clips_change_nothing(pairs):
    everything = list_jobs(FOLDER, pairs)
    assert list_jobs(replace(FOLDER, count=4), pairs) == everything[:4]
    (pairs / "clip3.mp4").unlink()
    left = {job.key: (job.seed, job.prompt) for job in list_jobs(FOLDER, pairs)}
    assert left == {job.key: (job.seed, job.prompt) for job in everything if job.key != "clip3.mp4"}


def test_msrvtt_takes_the_test_split_and_one_caption_by_lot(tmp_path):
    videos = [{"video_id": f"video{i}", "split": "test" if i % 2 else "train"} for i in range(8)]
    sentences = [{"video_id": v["video_id"], "caption": f"{v['video_id']} {k}"} for v in videos for k in range(20)]
    (tmp_path / "test.json").write_text(json.dumps({"videos": videos, "sentences": sentences}))
    jobs = list_jobs(PROTOCOLS["msrvtt"], tmp_path)
    assert sorted(job.key for job in jobs) == ["video1", "video3", "video5", "video7"]
    assert all(job.prompt.startswith(f"{job.key} ") and job.source.name == f"{job.key}.mp4" for job in jobs)
    assert len({job.prompt.split()[1] for job in jobs}) > 1
    first = list_jobs(replace(PROTOCOLS["msrvtt"], captions="first"), tmp_path)
    assert {job.prompt for job in first} == {f"video{i} 0" for i in (1, 3, 5, 7)}
    assert [job.seed for job in first] == [job.seed for job in jobs]


def test_dtdb_takes_four_classes_whose_names_are_the_prompts(tmp_path):
    for name in ("Fire", "Vegetation", "Clouds", "Waterfall", "Boiling_water"):
        touch(tmp_path, f"{name}/a.mp4", f"{name}/b.mp4")
    prompts = [job.prompt for job in list_jobs(PROTOCOLS["dtdb"], tmp_path)]
    assert sorted(prompts) == sorted(["fire", "vegetation", "clouds", "waterfall"] * 2)
    every = list_jobs(replace(PROTOCOLS["dtdb"], classes=(), prompt="a video of {caption}"), tmp_path)
    assert len(every) == 10 and "a video of boiling water" in {job.prompt for job in every}
    with pytest.raises(ValueError, match=r"no class 'smoke'; its classes are boiling water, clouds, fire"):
        list_jobs(replace(PROTOCOLS["dtdb"], classes=("smoke",)), tmp_path)


def test_a_class_folder_behind_a_link_is_named_and_stops_nothing(tmp_path):
    names = ("fire", "vegetation", "clouds")
    touch(tmp_path / "data", *(f"{name}/a.mp4" for name in names))
    touch(tmp_path / "elsewhere", "a.mp4")
    (tmp_path / "data" / "Waterfall_1").symlink_to(tmp_path / "elsewhere")
    jobs = {job.key: job for job in list_jobs(PROTOCOLS["dtdb"], tmp_path / "data")}
    assert sorted(jobs) == sorted([*(f"{name}/a.mp4" for name in names), "Waterfall_1"])
    with pytest.raises(ClipFault, match=r"Waterfall_1: .*leads out of"):
        decode_clip(jobs["Waterfall_1"].source, Decoding(), np.random.default_rng(), key="Waterfall_1")


def test_bad_rows_with_one_message_are_all_named(tmp_path):
    rows = [{"file_name": f"../{name}.mp4", "text": ["x", "y"]} for name in "ab"] + [
        {"file_name": "c.mp4", "text": "z"}
    ]
    (tmp_path / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    protocol = replace(PROTOCOLS["folder"], captions="random")
    assert sorted(job.key for job in list_jobs(protocol, tmp_path)) == ["../a.mp4", "../b.mp4", "c.mp4"]


def test_a_clip_without_a_caption_is_named(pairs):
    (pairs / "clip3.txt").unlink()
    with pytest.raises(ValueError, match=r"clip clip3.mp4 of .* has no caption; write NAME.txt beside it, or give all"):
        list_jobs(FOLDER, pairs)
    assert {job.prompt for job in list_jobs(replace(FOLDER, prompt="it moves"), pairs)} == {"it moves"}


def test_starts():
    assert [FixedStart(place).integers(9) for place in (0.0, 0.5)] == [0, 4]
    assert FixedStart(0.5).integers(1) == 0
    draws = [start_of(FOLDER, key, 0).integers(10**6) for key in ("a", "b", "a")]
    assert draws[0] == draws[2] != draws[1]
    assert start_of(replace(FOLDER, start="first"), "a", 0).integers(5) == 0
    assert isinstance(start_of(replace(FOLDER, start="middle"), "a", 0), np.random.Generator)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"count": 0}, r"count \(=0\) must be at least 1"),
        ({"num_frames": 1}, r"num_frames \(=1\) must be at least 2"),
        ({"start": "last"}, r"start \(='last'\) is unknown; choose one of first, middle, random"),
    ],
)
def test_what_a_protocol_refuses(changes, words):
    with pytest.raises(ValueError, match=words):
        Protocol(name="mine", metrics=("fvd",), **changes)
