"""`trip data`: make a set, check it, pack it; exit codes, and every refusal in one line."""

import json
import shutil

import pytest

from trip.apps.data import data
from trip.apps.data_options import DataCheck, DataShard, DataSynth
from trip.data.sets.datasets import read_examples

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


def test_synth_leaves_the_clips_of_others_alone(tmp_path):
    (tmp_path / "clip-000000.mp4").write_bytes(b"mine")
    with pytest.raises(ValueError, match="is there and not empty; choose a new folder"):
        data(DataSynth(output=tmp_path, count=1, quiet=True))
    assert (tmp_path / "clip-000000.mp4").read_bytes() == b"mine"


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


def test_captions_that_the_model_cuts_are_counted(clips, capsys):
    rows = [json.loads(line) for line in (clips / "metadata.jsonl").read_text().splitlines()]
    rows[0]["text"], rows[1]["text"] = "word " * 31, ""
    (clips / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data(DataCheck(source=str(clips), json=True, **SMALL))
    captured = capsys.readouterr()
    assert json.loads(captured.out)["captions"] == {"captions": 6, "limit": 32, "cut": 1, "empty": 1}
    assert captured.err.startswith("trip: of 6 captions 1 have more than the text encoder's 32 tokens and are cut")


def test_what_can_only_be_streamed_is_packed_first(clips, tmp_path, capsys):
    data(DataShard(source=str(clips), output=tmp_path / "plain", quiet=True))
    (plain,) = (tmp_path / "plain").glob("*.tar")
    command = f"pipe:gzip -c '{plain}'"
    with pytest.raises(ValueError, match="pack it first: trip data shard SOURCE --output DIR"):
        data(DataCheck(source=command, **SMALL))
    assert data(DataShard(source=command, output=tmp_path / "packed", quiet=True)) == 0
    (packed,) = (tmp_path / "packed").glob("*.tar")
    assert [(e.key, e.caption) for e in read_examples(packed)] == [(e.key, e.caption) for e in read_examples(plain)]
    assert data(DataCheck(source=str(packed), strict=True, **SMALL)) == 0


def test_one_bad_row_stops_neither_check_nor_shard_and_moves_no_cursor(clips, tmp_path, capsys):
    rows = [{"file_name": "a\x1b[31m\nb\u202e.mp4", "text": "t"}, {"file_name": "\0", "text": "t"}, {"file_name": 5}]
    with (clips / "metadata.jsonl").open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    assert data(DataCheck(source=str(clips), **SMALL)) == 0
    told = capsys.readouterr().out
    assert "6 of 9 clips are good" in told and "line 9 has 5 as file_name" in told
    assert all(line.isprintable() for line in told.split("\n"))
    assert data(DataCheck(source=str(clips), json=True, **SMALL)) == 0
    assert json.loads(capsys.readouterr().out)["faulty"] == 3
    assert data(DataShard(source=str(clips), output=tmp_path / "shards", quiet=True)) == 0
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 1 and len(read_examples(tmp_path / "shards")) == 6
    assert captured.err.count("left out") == 3 and captured.err.endswith("6 of 9 clips are packed\n")
    assert all(line.isprintable() for line in captured.err.split("\n"))


def test_refusals(made, clips, tmp_path):
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "a.mp4").write_bytes(b"")
    (bad / "a.txt").write_text("caption")
    cases = [
        (DataCheck(source=str(clips), output=clips / "metadata.jsonl", **SMALL), "is the list being checked"),
        (DataCheck(source=str(clips), output=clips / "good.csv", **SMALL), r"must end in \.jsonl"),
        (DataCheck(source=str(clips), output=tmp_path / "x" / "good.jsonl", **SMALL), "must lie in or above"),
        (DataCheck(source=str(bad), **SMALL), "no clip that can be used"),
        (DataCheck(source=str(tmp_path / "no"), **SMALL), "does not exist"),
        (DataCheck(source=str(clips), fps=-1, **SMALL), r"fps \(=-1"),
        (DataShard(source=str(clips), output=tmp_path / "s", clips_per_shard=0, quiet=True), "clips_per_shard"),
        (DataSynth(output=made, quiet=True), "is there and not empty; choose a new folder"),
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
