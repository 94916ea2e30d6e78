"""`trip data`: make a set, check it, pack it; exit codes, and every refusal in one line."""

import json
import shutil

import pytest

from trip.apps.data import data
from trip.apps.data_options import DataCheck, DataShard, DataSynth
from trip.data.datasets import read_examples

SMALL = {"num_frames": 8, "width": 32, "height": 32, "workers": 0, "quiet": True}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("synth") / "clips"
    assert data(DataSynth(output=folder, count=6, size=32, num_frames=8, seed=1, quiet=True)) == 0
    return folder


@pytest.fixture
def clips(made, tmp_path):
    """A copy to break."""
    return shutil.copytree(made, tmp_path / "clips")


def test_synth_makes_a_data_set(made, tmp_path):
    examples = read_examples(made)
    assert [e.key for e in examples] == [f"clip-{i:06d}.mp4" for i in range(6)] and all(e.caption for e in examples)
    again = tmp_path / "again"
    data(DataSynth(output=again, count=6, size=32, num_frames=8, seed=1, quiet=True))
    for path in made.iterdir():
        assert path.read_bytes() == (again / path.name).read_bytes()


def test_check_prints_and_lists(clips, capsys):
    (clips / "clip-000002.mp4").write_bytes(b"")
    output = clips / "good.jsonl"
    assert data(DataCheck(source=str(clips), output=output, **SMALL)) == 0
    printed = capsys.readouterr().out
    assert "5 of 6 clips are good" in printed and "clip-000002.mp4: 0 bytes" in printed and "motion" in printed
    assert len(read_examples(output)) == 5
    assert data(DataCheck(source=str(output), strict=True, **SMALL)) == 0


def test_strict_and_json(clips, capsys):
    (clips / "clip-000000.mp4").write_text("text")
    assert data(DataCheck(source=str(clips), strict=True, json=True, **SMALL)) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["good"], found["faulty"]) == (5, 1) and list(found["faults"]["not_video"]) == ["clip-000000.mp4"]


def test_shard_packs_the_clips(clips, tmp_path, capsys):
    out = tmp_path / "shards"
    assert data(DataShard(source=str(clips), output=out, clips_per_shard=4, quiet=True)) == 0
    assert capsys.readouterr().out.splitlines() == [str(out / f"shard-00000{i}.tar") for i in range(2)]
    assert [e.caption for e in read_examples(out)] == [e.caption for e in read_examples(clips)]
    assert data(DataCheck(source=str(out), strict=True, **SMALL)) == 0


def test_refusals(made, clips, tmp_path):
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "a.mp4").write_bytes(b"")
    (bad / "a.txt").write_text("caption")
    cases = [
        (DataCheck(source=str(clips), output=clips / "metadata.jsonl", **SMALL), "is the list being checked"),
        (DataCheck(source=str(clips), output=clips / "good.csv", **SMALL), r"must end in \.jsonl"),
        (DataCheck(source=str(bad), **SMALL), "no clip that can be used"),
        (DataCheck(source=str(tmp_path / "no"), **SMALL), "does not exist"),
        (DataCheck(source=str(clips), fps=-1, **SMALL), r"fps \(=-1"),
        (DataShard(source=str(clips), output=tmp_path / "s", clips_per_shard=0, quiet=True), "clips_per_shard"),
        (DataSynth(output=made, quiet=True), "holds a data set"),
        (DataSynth(output=tmp_path / "x", size=31, quiet=True), "must be even"),
        (DataSynth(output=tmp_path / "x", count=0, quiet=True), "--count"),
        (DataSynth(output=tmp_path / "x", seed=-1, quiet=True), "--seed"),
        (DataSynth(output=tmp_path / "x", num_frames=1, quiet=True), "--num-frames"),
        (DataSynth(output=tmp_path / "x", photos=tmp_path, quiet=True), "no index.jsonl"),
    ]
    for options, words in cases:
        with pytest.raises(ValueError, match=words) as caught:
            data(options)
        assert "\n" not in str(caught.value)
