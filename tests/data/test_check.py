"""The check names every clip that cannot be used, measures the others, and lists them for training."""

import json
import shutil
from pathlib import Path

import pytest

from permissions import unprivileged
from trip.data.sets import check as module
from trip.data.sets.check import check_examples
from trip.data.sets.datasets import read_examples
from trip.data.sets.decoding import FAULTS, Decoding
from trip.data.sets.examples import Example
from trip.data.sets.shards import write_shards
from trip.data.workers import Lost

DECODING = Decoding(num_frames=4, fps=8, size=(16, 16))


@pytest.fixture
def folder(clips, open_folder):
    """90 clips, 9 of them broken in 9 ways, and their list; returns (folder, {broken: reason})."""
    broken = clips.broken_clips(open_folder)
    good = clips.numbered(open_folder / "good-00.mp4", count=6, size=16)
    for index in range(1, 81):
        shutil.copyfile(good, open_folder / f"good-{index:02d}.mp4")
    names = sorted(path.name for path in open_folder.glob("*.mp4"))
    lines = [json.dumps({"file_name": name, "text": f"a clip called {name}"}) + "\n" for name in names]
    (open_folder / "metadata.jsonl").write_text("".join(lines))
    return open_folder, broken


def test_every_broken_file_is_named(clips, folder, tmp_path):
    where, broken = folder
    examples = read_examples(where)
    with unprivileged():
        report = check_examples(examples, DECODING, workers=0)
    assert {fault.key: fault.reason for fault in report.faults} == broken
    assert len(report.good) == 81 and len(broken) == 9
    text = str(report)
    assert text.startswith("81 of 90 clips are good\n")
    for name, reason in broken.items():
        assert f"\n{reason} (1): {FAULTS[reason]}\n  {name}: " in text
    report.write_manifest(tmp_path / "good.jsonl")
    again = read_examples(tmp_path / "good.jsonl", root=Path("/"))
    assert [e.key for e in again] == [e.key for e in examples if e.key not in broken]
    assert not check_examples(again[:3], DECODING, workers=0).faults


def test_statistics(clips, tmp_path):
    """Grey levels rise by 5 a frame; 24 fps are seen at 8."""
    examples = []
    for count, fps, size in ((8, 8, 16), (10, 8, 32), (48, 24, 64)):
        path = clips.numbered(tmp_path / f"{count}.mp4", count=count, fps=fps, size=size)
        examples.append(Example(key=path.name, video=path, caption="word " * count))
    report = check_examples(examples, DECODING, workers=0)
    found = report.statistics()
    assert found["seconds"] == pytest.approx({"min": 1, "median": 1.25, "max": 2})
    assert found["frames"] == found["words"] == {"min": 8, "median": 10, "max": 48}
    assert found["width"] == found["height"] == {"min": 16, "median": 32, "max": 64}
    assert found["motion"] == pytest.approx({"min": 5, "median": 5, "max": 15}, abs=0.6)
    assert found["fps"] == pytest.approx({"min": 8, "median": 8, "max": 24})
    assert json.loads(json.dumps(report.to_dict()))["statistics"]["seconds"]["max"] == pytest.approx(2)


def test_captions_are_checked(clips, tmp_path):
    path = clips.numbered(tmp_path / "a.mp4")
    report = check_examples([Example(key="a", video=path, caption=" ")], DECODING, workers=0)
    assert [fault.reason for fault in report.faults] == ["no_caption"]
    assert str(report).startswith("0 of 1 clips are good\n\nno_caption (1)") and report.statistics() == {}


def test_in_processes_and_from_shards(clips, tmp_path):
    """Two processes, members of a tar; the result is that of one process and files, in order."""
    examples = []
    for count in (8, 3, 9):
        path = clips.numbered(tmp_path / f"clip-{count}.mp4", count=count)
        examples.append(Example(key=f"clip-{count}", video=path, caption="c"))
    shards = list(write_shards(examples, tmp_path / "shards"))
    packed, calls = read_examples(shards[0]), []
    report = check_examples(packed, DECODING, workers=2, on_result=lambda: calls.append(1))
    assert [(e.key, facts.frames) for e, facts in report.good] == [("clip-8", 8), ("clip-9", 9)]
    assert [(fault.key, fault.reason) for fault in report.faults] == [("clip-3", "too_short")]
    assert len(calls) == 3
    report.write_manifest(tmp_path / "good.jsonl")
    assert [e.key for e in read_examples(tmp_path / "good.jsonl")] == ["clip-8", "clip-9"]
    assert len(check_examples(read_examples(tmp_path / "good.jsonl"), DECODING, workers=0).good) == 2


def test_hangs_and_crashes_are_faults(clips, tmp_path, monkeypatch):
    examples = [Example(key=key, video=tmp_path / key, caption="c") for key in ("a", "b")]
    lost = [(1, Lost("crashed")), (0, Lost("hung"))]
    monkeypatch.setattr(module, "guarded_map", lambda *_, **__: iter(lost))
    report = check_examples(examples, DECODING, workers=2)
    assert [(fault.key, fault.reason) for fault in report.faults] == [("a", "too_slow"), ("b", "crashed")]


def test_shared_clips(shared):
    """Most of 12 real clips can be used, and move about as much as their list says."""
    examples = read_examples(shared / "clips" / "train")[:12]
    report = check_examples(examples, Decoding(size=(128, 128)), workers=0)
    assert not report.faults
    assert report.statistics()["motion"]["min"] > 0.3 and report.statistics()["motion"]["max"] < 40
