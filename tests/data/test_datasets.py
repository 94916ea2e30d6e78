"""Every layout that people have becomes the same list of examples, or one line that says why not."""

import csv
import json
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trip.data.sets.datasets import class_caption, read_examples, write_manifest
from trip.data.sets.examples import Example, TarMember, Unusable


def touch(folder: Path, *names: str) -> None:
    """Readers look at names only: empty files do."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def jsonl(path: Path, rows: list) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def table(path: Path, rows: list[dict]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


def fault(example: Example) -> str | None:
    """Why an example cannot be used."""
    return example.video.reason if isinstance(example.video, Unusable) else None


def listed(source, **options) -> list[tuple[str, Path, str]]:
    return [(e.key, e.video, e.caption) for e in read_examples(source, **options)]


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
ROWS = [{"file_name": "a/x.mp4", "text": "one, two"}, {"file_name": "b.webm", "text": " é "}]


def expected(folder: Path) -> list:
    return [("a/x.mp4", folder / "a/x.mp4", "one, two"), ("b.webm", folder / "b.webm", "é")]


# --------------------------------------------------------------------------------------------------- metadata


def test_metadata_tables(tmp_path):
    jsonl(tmp_path / "metadata.jsonl", ROWS)
    table(tmp_path / "metadata.csv", ROWS)
    assert listed(tmp_path) == expected(tmp_path)
    assert listed(tmp_path / "metadata.csv") == expected(tmp_path)
    assert listed(jsonl(tmp_path / "other.jsonl", ROWS)) == expected(tmp_path)


def test_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="needs pyarrow, an optional extra")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "metadata.parquet")
    assert listed(tmp_path) == expected(tmp_path)
    (tmp_path / "metadata.parquet").write_text("no table")
    with pytest.raises(ValueError, match="is no Parquet table"):
        read_examples(tmp_path)


def test_parquet_without_pyarrow(tmp_path, monkeypatch):
    touch(tmp_path, "metadata.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ValueError, match="needs pyarrow; install it with pip"):
        read_examples(tmp_path)


def test_columns_and_captions(tmp_path):
    rows = [{"clip": "a.mp4", "prompt": "p", "long": ["l1", "l2", ""]}, {"clip": "b.mp4", "prompt": None, "long": "l"}]
    source = jsonl(tmp_path / "metadata.jsonl", rows)
    assert [c for _, _, c in listed(source, video_column="clip")] == ["p", ""]
    assert [c for _, _, c in listed(source, video_column="clip", caption_column="long")] == ["l1", "l"]
    found = listed(source, video_column="clip", caption_column="long", captions="all")
    assert [(key, c) for key, _, c in found] == [("a.mp4#0", "l1"), ("a.mp4#1", "l2"), ("b.mp4", "l")]
    with pytest.raises(
        ValueError, match=r"no column of clips \(file_name or video\); the columns are clip, prompt, long"
    ):
        read_examples(source)
    with pytest.raises(ValueError, match=r"no column of captions \(nope\); the columns are clip, prompt, long"):
        read_examples(source, video_column="clip", caption_column="nope")


def test_splits(tmp_path):
    jsonl(tmp_path / "metadata.jsonl", [{**row, "split": s} for row, s in zip(ROWS, ("train", "test"), strict=True)])
    assert listed(tmp_path, split="test") == expected(tmp_path)[1:]
    with pytest.raises(ValueError, match="'val'; the splits are test, train"):
        read_examples(tmp_path, split="val")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("m.jsonl", "[1]\n[2]\n", "line 1 is not an object"),
        ("m.jsonl", "", "the columns are none"),
        ("m.csv", "file_name,text\na.mp4,x,y\n", "more values than columns"),
        ("m.csv", 'file_name,text\na.mp4,"x\n', "line . is not CSV"),
        ("m.csv", b"file_name,text\na.mp4,\xff\n", r"m.csv is not text in UTF-8"),
    ],
)
def test_tables_that_cannot_be_read(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=words) as caught:
        read_examples(tmp_path / name)
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------------------------------------- other layouts


def test_pairs(tmp_path):
    touch(tmp_path, "b.MP4", "sub/a.mov", "sub/lonely.mkv", ".hidden/x.mp4", "sub/._a.mov", "README.txt")
    (tmp_path / "b.txt").write_text(" a cat\nsits \n")
    (tmp_path / "sub" / "a.txt").write_text("a dog")
    assert listed(tmp_path) == [
        ("b.MP4", tmp_path / "b.MP4", "a cat sits"),
        ("sub/a.mov", tmp_path / "sub/a.mov", "a dog"),
        ("sub/lonely.mkv", tmp_path / "sub/lonely.mkv", ""),
    ]


@pytest.mark.parametrize("prompts", ["prompt.txt", "prompts.txt"])
def test_prompts(tmp_path, prompts):
    touch(tmp_path, "videos/1.mp4", "videos/2.mp4")
    (tmp_path / "videos.txt").write_text("videos/1.mp4\nvideos/2.mp4\n")
    (tmp_path / prompts).write_text("one\ntwo\n")
    found = listed(tmp_path)
    assert found == [(f"videos/{i}.mp4", tmp_path / f"videos/{i}.mp4", c) for i, c in ((1, "one"), (2, "two"))]
    (tmp_path / prompts).write_text("one\ntwo\nthree\n")
    with pytest.raises(ValueError, match=r"has 2 lines and .* 3; write one prompt a clip"):
        read_examples(tmp_path)


@pytest.mark.parametrize("below", ["", "videos"])
def test_webvid(tmp_path, below):
    rows = [{"videoid": i, "contentUrl": "u", "duration": "PT1S", "page_dir": "p1", "name": f"n {i}"} for i in (7, 8)]
    source = table(tmp_path / "results_2M_train.csv", rows)
    folder = tmp_path / below
    touch(folder, "p1/8.mp4")
    wanted = [(f"p1/{i}", folder / f"p1/{i}.mp4", f"n {i}") for i in (7, 8)]
    assert listed(source) == wanted and listed(tmp_path) == wanted
    table(tmp_path / "results_2M_val.csv", rows)
    with pytest.raises(ValueError, match="has 2 lists"):
        read_examples(tmp_path)
    again = read_examples(table(tmp_path / "twice.csv", rows * 2))
    assert [e.key for e in again] == ["p1/7", "p1/8", "p1/7 (2)", "p1/8 (2)"]
    assert [fault(e) for e in again] == [None, None, "bad_entry", "bad_entry"]


@pytest.mark.parametrize("below", ["", "TrainValVideo", "videos/all"])
def test_msrvtt(tmp_path, below):
    content = {
        "videos": [{"video_id": "video0", "split": "train"}, {"video_id": "video1", "split": "validate"}],
        "sentences": [{"video_id": f"video{i % 2}", "caption": f"c{i}", "sen_id": i} for i in range(5)],
    }
    source = tmp_path / "train_val_videodatainfo.json"
    source.write_text(json.dumps(content))
    (tmp_path / "other.json").write_text("[]")
    touch(tmp_path / below, "video1.mp4")
    folder = tmp_path / below
    assert listed(tmp_path) == [(f"video{i}", folder / f"video{i}.mp4", f"c{i}") for i in range(2)]
    assert [k for k, _, _ in listed(source, captions="all", split="validate")] == ["video1#0", "video1#1"]
    assert len(read_examples(source, captions="all")) == 5


def test_classes(tmp_path):
    touch(tmp_path, "Boiling_Water/b.avi", "Boiling_Water/a.avi", "waves-2/a.avi")
    assert [(k, c) for k, _, c in listed(tmp_path)] == [
        ("Boiling_Water/a.avi", "boiling water"),
        ("Boiling_Water/b.avi", "boiling water"),
        ("waves-2/a.avi", "waves"),
    ]
    assert class_caption("ApplyEyeMakeup") == "apply eye makeup" and class_caption("TV on") == "tv on"


# ---------------------------------------------------------------------------------------------------- choosing


def test_what_fits_nothing(tmp_path):
    touch(tmp_path, "notes.md", "a.csv")
    (tmp_path / "c.json").mkdir()
    (tmp_path / "b.json").write_text("[]")
    with pytest.raises(
        ValueError, match=r"looked for metadata\.jsonl.*videos\.txt.*videoid.*sentences.*\.tar"
    ) as caught:
        read_examples(tmp_path)
    assert "\n" not in str(caught.value)
    for source, options, words in (
        (tmp_path / "no", {}, "does not exist"),
        (tmp_path, {"layout": "nope"}, "choose auto, shards, metadata, pairs"),
        (tmp_path, {"layout": "webvid"}, "is not of the layout 'webvid'"),
        (tmp_path, {"captions": "some"}, "captions"),
    ):
        with pytest.raises(ValueError, match=words):
            read_examples(source, **options)


def test_a_layout_can_be_named(tmp_path):
    """A folder with both a table and pairs."""
    jsonl(tmp_path / "metadata.jsonl", ROWS)
    touch(tmp_path, "c.mp4")
    (tmp_path / "c.txt").write_text("pair")
    assert listed(tmp_path) == expected(tmp_path)
    assert listed(tmp_path, layout="pairs") == [("c.mp4", tmp_path / "c.mp4", "pair")]


def test_shared_clips(shared):
    found = read_examples(shared / "clips" / "train")
    assert len(found) == 182 and all(e.caption and isinstance(e.video, Path) and e.video.is_file() for e in found)


# ---------------------------------------------------------------------------------------------------- manifest


@given(st.lists(st.tuples(TEXTS.filter(bool), TEXTS), max_size=5, unique_by=lambda p: p[0]))
def test_manifests_come_back(tmp_path_factory, pairs):
    folder = tmp_path_factory.mktemp("manifest")
    examples = [Example(key=k, video=folder / "sub" / f"{i}.mp4", caption=c) for i, (k, c) in enumerate(pairs)]
    examples += [
        Example(key="\x01 tar", video=TarMember(archive="/x/y.tar", name="a.mp4", offset=512, size=9), caption="t")
    ]
    write_manifest(folder / "lists" / "good.jsonl", ((e, {"motion": 1.5}) for e in examples))
    found = read_examples(folder / "lists" / "good.jsonl", root=Path("/"))
    assert [(e.key, e.caption) for e in found] == [(e.key, e.caption.strip()) for e in examples]
    places = [e.video.resolve() if isinstance(e.video, Path) else Path(e.video.archive).resolve() for e in found]  # pyright: ignore
    assert places == [*(e.video for e in examples[:-1]), Path("/x/y.tar")]
    assert [path.name for path in (folder / "lists").iterdir()] == ["good.jsonl"]


def test_what_no_manifest_can_say(tmp_path):
    streamed = [(Example(key="k", video=b"bytes", caption=""), {})]
    with pytest.raises(ValueError, match="came through a stream"):
        write_manifest(tmp_path / "m.jsonl", streamed)
    with pytest.raises(ValueError, match=r"must end in \.jsonl"):
        write_manifest(tmp_path / "m.csv", [])
    assert list(tmp_path.iterdir()) == []
