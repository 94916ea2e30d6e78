"""WebDataset shards: bytes in, the same bytes out; read at random, streamed, resumed."""

import io
import json
import subprocess
import sys
import tarfile

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trip.data import text
from trip.data.sets import shards as module
from trip.data.sets.datasets import read_examples, shard_urls
from trip.data.sets.examples import Example, TarMember, read_bytes
from trip.data.sets.shards import index_shards, is_shards, shard_key, unpacked, write_shards
from trip.data.text import expand_braces
from trip.files import lock_folder


def some(folder, count=7):
    """Examples whose clips are files of different made-up bytes: shards do not look into them."""
    examples = []
    for i in range(count):
        path = folder / f"clip-{i}.MP4"
        path.write_bytes(bytes([i]) * (1000 * i + 1))
        examples.append(Example(key=f"sub/clip.{i}.MP4", video=path, caption=f"caption {i} é\n" if i else ""))
    return examples


def tar(path, members, mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def test_round_trip(tmp_path):
    examples = some(tmp_path)
    paths = list(write_shards(examples[::-1], tmp_path / "out", clips_per_shard=3))
    assert [path.name for path in paths] == ["shard-000000.tar", "shard-000001.tar", "shard-000002.tar"]
    with tarfile.open(paths[0]) as archive:
        assert archive.getnames()[:3] == ["sub/clip_0.mp4", "sub/clip_0.json", "sub/clip_0.txt"]
        assert {(m.mtime, m.uid, m.uname) for m in archive} == {(0, 0, "")}
        record = archive.extractfile("sub/clip_1.json")
        assert record is not None
        assert json.load(record) == {"caption": "caption 1 é\n", "key": "sub/clip.1.MP4"}
    found = read_examples(tmp_path / "out")
    assert [e.key for e in found] == [f"sub/clip_{i}" for i in range(7)]
    assert [e.caption for e in found] == [e.caption.strip() for e in examples]
    for index in (6, 0, 3):  # in any order
        assert read_bytes(found[index].video) == read_bytes(examples[index].video)


def test_same_examples_same_bytes(tmp_path):
    examples = some(tmp_path)
    first, second = (
        [path.read_bytes() for path in write_shards(order, tmp_path / name, clips_per_shard=4)]
        for name, order in (("a", examples), ("b", examples[::-1]))
    )
    assert first == second


def test_a_stopped_run_goes_on(tmp_path, monkeypatch):
    examples = some(tmp_path)
    expected = [path.read_bytes() for path in write_shards(examples, tmp_path / "whole", clips_per_shard=3)]
    add, calls = module._add_example, []

    def stop(*arguments):
        calls.append(arguments)
        if len(calls) == 5:
            raise KeyboardInterrupt
        add(*arguments)

    out = tmp_path / "out"
    monkeypatch.setattr(module, "_add_example", stop)
    with pytest.raises(KeyboardInterrupt):
        list(write_shards(examples, out, clips_per_shard=3))
    assert sorted(path.name for path in out.iterdir()) == ["shard-000000.tar", "shards.json"]
    assert [path.read_bytes() for path in write_shards(examples, out, clips_per_shard=3)] == expected
    assert len(calls) == 5 + 4  # the first shard was not written again


def test_a_killed_run_leaves_nothing_behind_the_next_one(tmp_path):
    """Killed while it writes its second shard, where no handler runs."""
    some(tmp_path)
    code = f"""
import os
from pathlib import Path
from trip.data.sets import shards
from trip.data.sets.examples import Example
add = shards._add_example
shards._add_example = lambda tar, name, clip: os.kill(os.getpid(), 9) if name == "clip-4" else add(tar, name, clip)
paths = [Path({str(tmp_path)!r}) / f"clip-{{i}}.MP4" for i in range(7)]
examples = [Example(key=path.name, video=path, caption="") for path in paths]
list(shards.write_shards(examples, Path({str(tmp_path / "out")!r}), clips_per_shard=3))
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    left = [path.name for path in (tmp_path / "out").iterdir()]
    assert len(left) == 3 and any(name.startswith(".trip-") for name in left)
    examples = [Example(key=f"clip-{i}.MP4", video=tmp_path / f"clip-{i}.MP4", caption="") for i in range(7)]
    list(write_shards(examples, tmp_path / "out", clips_per_shard=3))
    names = [f"shard-{i:06d}.tar" for i in range(3)]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [*names, "shards.json"]


def test_two_runs_do_not_write_one_folder(tmp_path):
    with lock_folder(tmp_path / "out"), pytest.raises(ValueError, match="by another process"):
        list(write_shards(some(tmp_path), tmp_path / "out"))


def test_a_note_that_is_none_is_an_error(tmp_path):
    (tmp_path / "out").mkdir()
    for content in ("[1]", "{", "[" * 100_000):
        (tmp_path / "out" / "shards.json").write_text(content)
        with pytest.raises(ValueError, match=r"shards\.json is n"):
            list(write_shards(some(tmp_path), tmp_path / "out"))


def test_shards_of_something_else_are_not_mixed(tmp_path):
    examples = some(tmp_path)
    list(write_shards(examples, tmp_path / "out"))
    with pytest.raises(ValueError, match="choose another folder"):
        list(write_shards(examples[:-1], tmp_path / "out"))
    with pytest.raises(ValueError, match="clips_per_shard"):
        list(write_shards(examples, tmp_path / "out", clips_per_shard=5))


def test_what_cannot_be_written(tmp_path):
    clip = some(tmp_path, 1)[0].video
    clash = [Example(key=key, video=clip, caption="") for key in ("a.b.mp4", "a_b.mp4")]
    gone = [Example(key="k", video=tmp_path / "gone.mp4", caption="")]
    for examples, words in ((clash, "becomes 'a_b', as 'a.b.mp4' does"), (gone, "cannot be read"), ([], "no clips")):
        with pytest.raises(ValueError, match=words):
            list(write_shards(examples, tmp_path / words[:4]))
    with pytest.raises(ValueError, match="at least 1"):
        list(write_shards(clash, tmp_path / "x", clips_per_shard=0))


@given(st.text(max_size=40))
def test_shard_keys_survive_webdataset(key):
    name = shard_key(key)
    assert name and "." not in name and not name.startswith("/") and "//" not in name
    assert module._split(f"{name}.mp4") == (name, "mp4")
    assert shard_key(name) == name


def test_video2dataset_layout(tmp_path):
    """Captions in JSON, other members, hidden files and groups without a clip."""
    record = json.dumps({"caption": "from json", "url": "x"}).encode()
    members = [("000.mp4", b"a"), ("000.json", record), ("001.json", record), ("002.webm", b"b"), ("002.txt", b" t \n")]
    found = index_shards([str(tar(tmp_path / "x.tar", [*members, ("._002.mp4", b"?"), ("002.m4a", b"?")]))])
    assert [(e.key, e.caption, read_bytes(e.video)) for e in found] == [("000", "from json", b"a"), ("002", "t", b"b")]


def test_random_access_reads_only_the_member(tmp_path):
    path = next(iter(write_shards(some(tmp_path), tmp_path / "out")))
    member = index_shards([str(path)])[5].video
    assert isinstance(member, TarMember)
    content = bytearray(path.read_bytes())
    content[: member.offset] = bytes(member.offset)  # everything before it is gone
    path.write_bytes(content)
    assert read_bytes(member) == bytes([5]) * 5001


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("a.tar", ["a.tar"]),
        ("a-{08..11}.tar", ["a-08.tar", "a-09.tar", "a-10.tar", "a-11.tar"]),
        ("{x,y}/{0..1}.tar", ["x/0.tar", "x/1.tar", "y/0.tar", "y/1.tar"]),
        ("pipe:cat {a,b}.tar", ["pipe:cat {a,b}.tar"]),
        ("{3..1}.tar", []),
    ],
)
def test_braces(pattern, names):
    assert expand_braces(pattern) == names


def test_endless_braces(monkeypatch):
    monkeypatch.setattr(text, "MAX_PATTERN", 1000)
    with pytest.raises(ValueError, match="more than"):
        expand_braces("{0..99999999}{0..9}.tar")


def test_a_member_too_large_to_pack_is_left_out_beforehand(tmp_path):
    with (tmp_path / "big.tar").open("wb") as file:
        member = tarfile.TarInfo("a.mp4")
        member.size = 3 << 30
        file.write(member.tobuf())
        file.truncate(512 + member.size + 1024)  # of holes
    faults, examples = [], [*index_shards([str(tmp_path / "big.tar")]), *some(tmp_path, 2)]
    paths = list(write_shards(examples, tmp_path / "out", on_fault=lambda example, why: faults.append(why)))
    assert len(index_shards([str(path) for path in paths])) == 2
    assert len(faults) == 1 and "more than the 512 MiB that are read" in faults[0]


def test_schemes_hide_in_no_braces():
    for source in ("{ftp://127.0.0.1:1/a,x}.tar", "ht{tp,tp}://127.0.0.1:1/a.tar"):
        with pytest.raises(ValueError, match="is a URL; name it yourself"):
            read_examples(source)


def test_what_names_shards():
    assert all(map(is_shards, ("a.tar", "x/a-{0..3}.tar", "s3://b/a.tar", "pipe:cat a", "a.tar.gz", "{a,b}.tar")))
    assert not any(map(is_shards, ("a.csv", "folder", "tar", "a.tar.json")))


def test_patterns_and_urls(tmp_path):
    paths = list(write_shards(some(tmp_path), tmp_path / "out", clips_per_shard=4))
    assert len(read_examples(tmp_path / "out" / "shard-{000000..000001}.tar")) == 7
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/trip-test/a.tar", paths[1].read_bytes())
    with pytest.raises(ValueError, match="is a URL; name it yourself"):
        read_examples("memory://trip-test/a.tar")
    found = read_examples("memory://trip-test/a.tar", schemes=("memory",))
    assert [e.key for e in found] == ["sub/clip_4", "sub/clip_5", "sub/clip_6"]
    assert read_bytes(found[2].video) == bytes([6]) * 6001
    memory.rm("/trip-test", recursive=True)


def test_streams(tmp_path):
    """A command, a compressed tar and plain tars give the same examples."""
    examples = some(tmp_path)
    plain = next(iter(write_shards(examples, tmp_path / "out")))
    packed = tmp_path / "x.tar.gz"
    packed.write_bytes(subprocess.run(["gzip", "-c", plain], capture_output=True, check=True).stdout)
    expected = [(f"sub/clip_{i}", read_bytes(e.video), e.caption.strip()) for i, e in enumerate(examples)]
    for source in (f"pipe:cat '{plain}'", packed, plain, tmp_path / "out"):
        with unpacked(shard_urls(source), tmp_path) as plain_tars:
            found = index_shards(plain_tars)
            assert [(e.key, read_bytes(e.video), e.caption) for e in found] == expected
    for source in (f"pipe:cat '{plain}'", packed):
        with pytest.raises(ValueError, match=r"only be read once.*trip data shard"):
            read_examples(source)


def test_streams_that_fail(tmp_path):
    plain = next(iter(write_shards(some(tmp_path), tmp_path / "out")))
    for command, words in (("cat '{}'; exit 3", "failed with exit code 3"), ("head -c 12000 '{}'", "no complete tar")):
        with pytest.raises(ValueError, match=words), unpacked([f"pipe:{command.format(plain)}"], tmp_path) as tars:
            index_shards(tars)


def test_tars_that_cannot_be_read(tmp_path):
    plain = next(iter(write_shards(some(tmp_path), tmp_path / "out")))
    (tmp_path / "cut.tar").write_bytes(plain.read_bytes()[:20000])
    (tmp_path / "text.tar").write_text("this is no tar")
    tar(tmp_path / "none.tar", [("a.txt", b"x")])
    cases = {
        "cut": "no complete tar", "text": "no complete tar", "none": "no clips", "gone": "cannot be opened",
    }  # fmt: skip
    for name, words in cases.items():
        with pytest.raises(ValueError, match=words):
            read_examples(tmp_path / f"{name}.tar")
    with pytest.raises(ValueError, match="cannot be opened"):
        read_examples("nosuch://a/b.tar", schemes=("nosuch",))
    with pytest.raises(ValueError, match="named twice"):
        index_shards([str(plain), str(plain)])
