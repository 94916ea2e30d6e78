"""Data sets as they come from other machines and other people: handled, or a fault that names the place."""

import io
import json
import math
import os
import socket
import tarfile
import time
import tracemalloc
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trip.data.sets import shards as module
from trip.data.sets.check import check_examples
from trip.data.sets.datasets import choose_layout, read_examples, shard_urls
from trip.data.sets.decoding import ClipFault, Decoding, decode_clip
from trip.data.sets.examples import Example, TarMember, Unusable, read_bytes
from trip.data.sets.shards import index_shards, unpacked, write_shards

CAPTION = "镜头 é"
DECODING = Decoding(num_frames=4, fps=8, size=(16, 16))


def put(folder: Path, files: Mapping[str, str | bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def tar(path: Path, members: list[tuple[str, bytes]], mode: Any = "w") -> str:
    with tarfile.open(path, mode) as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return str(path)


def jsonl(folder: Path, *rows: object) -> Path:
    return put(folder, {"metadata.jsonl": "".join(json.dumps(row) + "\n" for row in rows)})


def captions(source: Path | str, **options) -> dict[str, str]:
    """{key: caption} of what can be used."""
    return {e.key: e.caption for e in read_examples(source, **options) if not isinstance(e.video, Unusable)}


def faults(source: Path | str, **options) -> dict[str, str]:
    """{key: reason and message} of what cannot."""
    found = read_examples(source, **options)
    return {e.key: f"{e.video.reason}: {e.video.message}" for e in found if isinstance(e.video, Unusable)}


# ----------------------------------------------------------------------------------------------- text of any kind

MSRVTT = {"videos": [{"video_id": "a"}], "sentences": [{"video_id": "a", "caption": CAPTION}]}
LISTS = {
    "prompts": {"videos.txt": "a.mp4\n", "prompts.txt": CAPTION + "\n"},
    "pairs": {"a.txt": CAPTION},
    "msrvtt": {"list.json": json.dumps(MSRVTT, ensure_ascii=False)},
    "csv": {"metadata.csv": f"file_name,text\na.mp4,{CAPTION}\n"},
    "webvid": {"list.csv": f"videoid,page_dir,name\na,.,{CAPTION}\n"},
    "jsonl": {"metadata.jsonl": json.dumps({"file_name": "a.mp4", "text": CAPTION}, ensure_ascii=False)},
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "cp1252"])
@pytest.mark.parametrize("kind", [*LISTS, "shard", "shard json"])
def test_every_list_is_read_in_unicode_or_named(tmp_path, kind, encoding):
    """cp1252 has é and not the rest."""
    wanted = "é" if encoding == "cp1252" else CAPTION

    def written(text: str) -> bytes:
        return text.replace(CAPTION, wanted).encode(encoding)

    if kind.startswith("shard"):
        record = json.dumps({"caption": CAPTION}, ensure_ascii=False)
        text = ("a.txt", written(CAPTION)) if kind == "shard" else ("a.json", written(record))
        source = tar(tmp_path / "x.tar", [("a.mp4", b"x"), text])
    else:
        source = put(tmp_path, {name: written(text) for name, text in LISTS[kind].items()} | {"a.mp4": b""})
    if encoding != "cp1252":
        assert list(captions(source).values()) == [CAPTION]
        return
    name = "a.txt" if kind == "shard" else "a.json" if kind == "shard json" else next(reversed(LISTS[kind]))
    try:
        told = str(faults(source))
    except ValueError as error:
        told = str(error)
    assert f"{name} is not text in UTF-8" in told


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (
            "list.json",
            json.dumps(MSRVTT, ensure_ascii=False).replace(CAPTION, "é").encode("cp1252"),
            "not text in UTF-8",
        ),
        ("list.json", json.dumps(MSRVTT).encode()[:-9], "is not JSON"),
        ("list.json", json.dumps(MSRVTT).encode("utf-16-le"), "holds NUL characters"),
        ("list.csv", "videoid,page_dir,name\na,.,é\n".encode("cp1252"), "not text in UTF-8"),
        ("list.csv", "videoid,page_dir,name\n".encode("utf-16-be"), "holds NUL characters"),
        ("list.csv", b'"videoid"x,page_dir,name\n', "is not CSV"),
        ("videos.txt", b"sea/a.mp4\n", "has no prompts.txt beside it"),
        ("prompt.txt", b"a cat\n", "has no videos.txt beside it"),
    ],
)
def test_a_damaged_list_is_not_passed_over_for_folder_names(tmp_path, name, content, words):
    put(tmp_path, {name: content, "sea/a.mp4": ""})
    with pytest.raises(ValueError, match=f"/{name} .*{words}"):
        read_examples(tmp_path)
    assert captions(tmp_path, layout="classes") == {"sea/a.mp4": "sea"}


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c"])
@pytest.mark.parametrize("kind", ["jsonl", "prompts"])
def test_only_line_feeds_end_the_lines_of_a_list(tmp_path, kind, mark):
    text = f"a{mark if kind == 'prompts' or mark > ' ' else '/'}b"
    files = {name: content.replace(CAPTION, text) for name, content in LISTS[kind].items()}
    assert list(captions(put(tmp_path, files)).values()) == [text]


@pytest.mark.parametrize("caption", ["half \ud800", "\udfff", "nul \0", "x" * 30_000])
def test_a_caption_that_is_no_text_is_a_fault_of_its_clip(tmp_path, caption):
    (tmp_path / "metadata.jsonl").write_text(
        json.dumps({"file_name": "a.mp4", "text": caption}) + '\n{"file_name": "b.mp4", "text": "good"}\n'
    )
    assert captions(tmp_path) == {"b.mp4": "good"} and list(faults(tmp_path)) == ["a.mp4"]
    record = json.dumps({"caption": caption}).encode()
    source = tar(tmp_path / "x.tar", [("a.mp4", b"x"), ("a.json", record), ("b.mp4", b"x"), ("b.txt", b"good")])
    assert captions(source) == {"b": "good"} and list(faults(source)) == ["a"]


# --------------------------------------------------------------------------------- shards and folders of others


def test_members_of_a_streamed_shard_need_not_be_adjacent(tmp_path):
    members = [("a.mp4", b"1"), ("b.mp4", b"2"), ("c.txt", b"C"), ("b.txt", b"B"), ("a.txt", b"A"), ("c.mp4", b"3")]
    members[2:2] = [("._a.mp4", b"?"), ("__MACOSX/._a.txt", b"?"), (".DS_Store", b"?"), ("._a.txt", b"?")]
    source = tar(tmp_path / "x.tar.gz", members, "w:gz")
    with unpacked([str(source)], tmp_path) as plain:
        found = {e.key: (read_bytes(e.video), e.caption) for e in index_shards(plain)}
    assert found == {"a": (b"1", "A"), "b": (b"2", "B"), "c": (b"3", "C")}
    assert captions(tar(tmp_path / "x.tar", members)) == {"a": "A", "b": "B", "c": "C"}


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (("v1.5 take.mp4", "v1.5 take.txt", "v1.6 take.mp4", "v1.6 take.txt"), ["v1.5 take", "v1.6 take"]),
        (("A.MP4", "A.TXT"), ["A"]),
        (("dir.v2/x.y.z.webm", "dir.v2/x.y.z.TXT"), ["dir.v2/x.y.z"]),
    ],
)
def test_names_with_dots_and_capitals_keep_their_captions(tmp_path, names, wanted):
    members = [(name, name.encode()) for name in names]
    folder = put(tmp_path / "folder", dict(members))
    texts = [name for name in names if name.lower().endswith(".txt")]
    assert list(captions(folder).values()) == texts
    assert captions(tar(tmp_path / "x.tar", members)) == dict(zip(wanted, texts, strict=True))


def test_another_case_counts_where_it_is_not_ambiguous(tmp_path):
    folder = put(
        tmp_path, {name: name for name in ("B.MP4", "b.txt", "c.mp4", "C.mp4", "c.txt", "d.mp4", "d.TXT", "d.txt")}
    )
    assert captions(folder) == {"B.MP4": "b.txt", "C.mp4": "", "c.mp4": "c.txt", "d.mp4": "d.txt"}


@pytest.mark.parametrize(
    ("clip", "text"),
    [("a.mp4", "A.txt"), ("d//a.mp4", "d/a.txt"), ("e/./a.mp4", "e/a.txt"), ("caf\xe9.mp4", "cafe\u0301.txt")],
)
def test_names_are_paired_alike_in_tars_and_folders(tmp_path, clip, text):
    content = [(clip, b"x"), (text, CAPTION.encode())]
    assert list(captions(tar(tmp_path / "x.tar", content)).values()) == [CAPTION]
    assert list(captions(put(tmp_path / "folder", dict(content))).values()) == [CAPTION]
    two = [("b.mp4", b"x"), ("B.mp4", b"x"), ("B.txt", b"large")]
    assert captions(tar(tmp_path / "y.tar", two)) == {"b": "", "B": "large"}


def test_webdatasets_own_names_share_a_caption(tmp_path):
    members = [("a.left.mp4", b"l"), ("a.right.mp4", b"r"), ("a.txt", b"both"), ("a.b.mp4", b"x"), ("a.b.txt", b"own")]
    assert captions(tar(tmp_path / "x.tar", members)) == {"a.left": "both", "a.right": "both", "a.b": "own"}


def test_keys_that_restart_in_every_shard_stay_apart(tmp_path):
    for shard in range(3):
        members = [(f"{i:03d}.mp4", bytes([shard, i])) for i in range(2)] + [("000.txt", f"caption {shard}".encode())]
        tar(tmp_path / f"shard-{shard}.tar", members)
        (tmp_path / f"._shard-{shard}.tar").write_bytes(b"macOS")
    found = [(e.key, e.caption) for e in read_examples(tmp_path)]
    assert found == [
        ("000", "caption 0"), ("001", ""), ("shard-1/000", "caption 1"), ("shard-1/001", ""),
        ("shard-2/000", "caption 2"), ("shard-2/001", ""),
    ]  # fmt: skip


@pytest.mark.parametrize("members", [["a.mp4", "a.mp4"], ["a.mp4", "a.webm"], ["a.mp4", "a.txt", "a.txt"]])
def test_a_key_twice_in_a_shard_is_a_fault_of_that_clip(tmp_path, members):
    source = tar(tmp_path / "x.tar", [("b.mp4", b"x"), *((name, b"x") for name in members)])
    assert list(captions(source)) == ["b"] and list(faults(source)) == ["a"]


@pytest.mark.parametrize("record", [b"{", b"[" * 100_000, b"[1]", b'{"caption": 5}', b'{"caption": {"a": 1}}', b"\xff"])
def test_a_record_that_is_none_is_a_fault_of_its_clip(tmp_path, record):
    source = tar(tmp_path / "x.tar", [("a.mp4", b"x"), ("a.json", record), ("b.mp4", b"x")])
    assert list(captions(source)) == ["b"] and faults(source)["a"].startswith("bad_entry: ")


def test_hidden_files_are_no_lists_and_no_clips(tmp_path):
    table = "videoid,page_dir,name\n1,p,one\n"
    put(tmp_path / "webvid", {"list.csv": table, "._list.csv": table, "p/1.mp4": ""})
    assert captions(tmp_path / "webvid") == {"p/1": "one"}
    content = json.dumps(MSRVTT)
    put(tmp_path / "msrvtt", {"l.json": content, "._l.json": content})
    assert captions(tmp_path / "msrvtt") == {"a": CAPTION}
    put(tmp_path / "classes", {"sea/a.mp4": "", "sea/._a.mp4": "", "__MACOSX/sea/._a.mp4": "", ".git/b.mp4": ""})
    assert captions(tmp_path / "classes") == {"sea/a.mp4": "sea"}


@pytest.mark.parametrize("suffix", [".3gp", ".M2TS", ".mts", ".ogv", ".f4v", ".mxf", ".vob", ".qt", ".asf", ".apng"])
def test_clips_of_every_container_are_listed(tmp_path, suffix):
    assert captions(put(tmp_path / "set", {f"a{suffix}": "", "a.txt": "one"})) == {f"a{suffix}": "one"}
    assert captions(tar(tmp_path / "x.tar", [(f"a{suffix}", b"x"), ("a.txt", b"one")])) == {"a": "one"}


def test_folders_behind_links_are_read_or_named(tmp_path):
    data = put(tmp_path / "data", {"fire/a.mp4": "", "real/deep/b.mp4": ""})
    put(tmp_path / "elsewhere", {"c.mp4": ""})
    (data / "waves").symlink_to(tmp_path / "elsewhere")
    (data / "fire" / "up").symlink_to(data)
    (data / "self").symlink_to("self")
    (data / "broken").symlink_to("nowhere")
    (data / "twice").symlink_to("real")
    assert captions(data) == {"fire/a.mp4": "fire", "real/deep/b.mp4": "deep"}
    found = faults(data)
    assert set(found) == {"waves", "fire/up", "twice", "self", "broken"}
    assert found["broken"] == found["self"] == "bad_entry: is a link that leads nowhere; correct or remove it"
    assert found["waves"].startswith("outside: ") and "read already" in found["fire/up"] and "already" in found["twice"]
    assert captions(data, root=tmp_path)["waves/c.mp4"] == "waves"


def test_names_that_are_no_utf8_are_named(tmp_path):
    folder = put(tmp_path, {"sea/a.mp4": ""})
    Path(os.fsdecode(os.fsencode(folder) + b"/sea/caf\xe9.mp4")).touch()
    assert list(captions(folder)) == ["sea/a.mp4"]
    assert list(faults(folder)) == [r"sea/caf\udce9.mp4"]


def test_a_choice_that_the_layout_has_not_is_refused(tmp_path):
    put(tmp_path, {"a.mp4": "", "a.txt": "text"})
    for name in ("split", "video_column", "caption_column"):
        with pytest.raises(ValueError, match=rf"{name} \(='x'\) is of the layout metadata.* is of 'pairs'"):
            read_examples(tmp_path, **{name: "x"})  # pyright: ignore


# ------------------------------------------------------------------------------------------------------- bad rows

MEMBER = {"file_name": "x.tar", "member": "a.mp4", "offset": 512, "size": 9, "text": "t"}
BAD_ROWS = [
    *({**MEMBER, field: value} for field in ("offset", "size") for value in
      ("x", None, math.nan, math.inf, 2**70, -5, 1.5, True, [1], {"a": 1}, "٣", "9" * 5000)),
    {**MEMBER, "member": None}, {**MEMBER, "member": 3}, {"file_name": "x.tar", "offset": 5, "text": "t"},
    *({"file_name": value, "text": "t"} for value in ("a\0b", "", " ", None, 3, [], {"a": 1}, math.nan)),
    *({"file_name": name, "key": "k", "text": "t"} for name in ("a\0b", "a\ud800b", "\udfff")),
    {**MEMBER, "file_name": "a\0b", "key": "k"},
    *({"file_name": "a.mp4", "text": value} for value in (5, {"a": 1}, [["x"]], [1], True)),
    *({"file_name": "a.mp4", "text": "t", "key": value} for value in ([1], {"a": 1}, 1.5, "k\ud800")),
    [1], 7, None, "text",
]  # fmt: skip


def test_a_bad_row_is_a_fault_of_that_row(tmp_path):
    lines = [json.dumps(row) for row in BAD_ROWS]
    lines += ["{oops", "[" * 100_000, '{"file_name": ' * 5000, '{"file_name": 1e999}']
    for number, line in enumerate(lines):
        good = [json.dumps({"file_name": f"good-{i}.mp4", "text": "g"}) for i in range(2)]
        (tmp_path / "metadata.jsonl").write_text("\n".join([good[0], line, good[1]]) + "\n")
        assert list(captions(tmp_path)) == ["good-0.mp4", "good-1.mp4"], (number, line[:80])
        (told,) = (read_examples(tmp_path)[1].video.message,)  # pyright: ignore
        assert "line 2" in told or "its name" in told, (line[:80], told)
        assert told.isprintable() and len(told) < 300


def test_bad_rows_of_other_lists_are_faults_too(tmp_path):
    put(tmp_path / "csv", {"metadata.csv": "file_name,text\na.mp4,x\nb.mp4,x,y\n,z\nc.mp4,x\n"})
    assert list(captions(tmp_path / "csv")) == ["a.mp4", "c.mp4"]
    assert list(faults(tmp_path / "csv")) == ["metadata.csv line 3", "metadata.csv line 4"]
    put(tmp_path / "webvid", {"l.csv": "videoid,page_dir,name\n1,p,x\n,p,x\n2,p,x,y\n../../../s,p,x\n3,p,\n"})
    assert list(captions(tmp_path / "webvid")) == ["p/1", "p/3"]
    assert list(faults(tmp_path / "webvid")) == ["p/", "l.csv line 4", "p/../../../s"]
    videos = [{"video_id": "a"}, 5, {}, {"video_id": None}, {"video_id": "../../s"}, {"video_id": "b"}]
    sentences = [{"video_id": "a", "caption": "A"}, {"video_id": "b", "caption": 3}, 7, {"caption": "x"}]
    put(tmp_path / "msrvtt", {"l.json": json.dumps({"videos": videos, "sentences": sentences})})
    assert captions(tmp_path / "msrvtt") == {"a": "A"} and len(faults(tmp_path / "msrvtt")) == 7
    put(tmp_path / "prompts", {"videos.txt": "a.mp4\n\n../s.mp4\n", "prompts.txt": "A\nB\nC\n"})
    assert captions(tmp_path / "prompts") == {"a.mp4": "A"}
    assert list(faults(tmp_path / "prompts")) == ["videos.txt line 2", "../s.mp4"]


# -------------------------------------------------------------------------------- nothing outside is read, or waits


@pytest.fixture
def secret(tmp_path) -> Path:
    """A file of the user, outside of the folder `data`."""
    (tmp_path / "data" / "sub").mkdir(parents=True)
    (tmp_path / "secret.mp4").write_bytes(b"SECRET")
    return tmp_path / "secret.mp4"


URLS = [
    "webhdfs://127.0.0.1:{port}/a.tar", "ftp://127.0.0.1:{port}/a.tar", "http://127.0.0.1:{port}/a.mp4",
    "simplecache::http://127.0.0.1:{port}/a.tar", "reference::http://127.0.0.1:{port}/a", "file:///{secret}",
    "zip://a.mp4::{secret}", "filecache::file://{secret}", "local://{secret}", "memory://a.tar", "FTP://127.0.0.1:{port}/",
]  # fmt: skip


@pytest.mark.parametrize("url", URLS)
def test_a_list_names_no_urls(secret, url):
    with socket.create_server(("127.0.0.1", 0)) as server:
        name = url.format(port=server.getsockname()[1], secret=secret)
        jsonl(secret.parent / "data", {"file_name": name, "text": "t"}, {**MEMBER, "file_name": name, "key": "tar"})
        examples = read_examples(secret.parent / "data")
        report = check_examples(examples, DECODING, workers=0)
        assert [fault.reason for fault in report.faults] == ["outside"] * 2 and "URL" in report.faults[0].message
        with pytest.raises(ValueError, match="no clips that can be packed"):
            list(write_shards(examples, secret.parent / "out", on_fault=lambda *_: None))
        with pytest.raises(ValueError, match="is a URL; name it yourself"):
            read_examples(name)
        server.settimeout(0)
        with pytest.raises(BlockingIOError):
            server.accept()


def test_a_list_may_name_the_schemes_that_the_user_named(tmp_path):
    jsonl(
        tmp_path, {**MEMBER, "file_name": "memory://a.tar"}, {**MEMBER, "file_name": "zip://a::memory://b", "key": "b"}
    )
    found = read_examples(tmp_path, schemes=("memory",))
    assert found[0].video == TarMember(archive="memory://a.tar", name="a.mp4", offset=512, size=9)
    assert isinstance(found[1].video, Unusable)


def ways_out(secret: Path) -> list[str]:
    """Names of the secret, relative to the folder `data`."""
    data = secret.parent / "data"
    (data / "link.mp4").symlink_to(secret)
    (data / "chain.mp4").symlink_to("link.mp4")
    (data / "up").symlink_to(secret.parent)
    (data / "down").symlink_to(data / "sub")
    return [
        "../secret.mp4", str(secret), "sub/../../secret.mp4", "link.mp4", "chain.mp4", "up/secret.mp4",
        "up/data/../secret.mp4", "down/../../secret.mp4", "./.././secret.mp4", "no/../../secret.mp4",
        f"/proc/self/root{secret}", f"//{secret}",
    ]  # fmt: skip


def test_no_way_leads_out_of_the_folder(secret):
    names, data = ways_out(secret), secret.parent / "data"
    (data / "in.mp4").write_bytes(b"inside")
    rows = [{"file_name": name, "text": "t"} for name in names]
    tars = [{**MEMBER, "file_name": name, "offset": 0, "size": 6, "key": f"tar {name}"} for name in names]
    jsonl(
        data,
        {"file_name": "sub/../in.mp4", "text": "t"},
        {"file_name": str(data / "in.mp4"), "text": "t"},
        *rows,
        *tars,
    )
    examples = read_examples(data)
    assert [e.key for e in examples if not isinstance(e.video, Unusable)] == ["sub/../in.mp4", str(data / "in.mp4")]
    list(write_shards(examples, secret.parent / "out", on_fault=lambda *_: None))
    assert all(b"SECRET" not in path.read_bytes() for path in (secret.parent / "out").iterdir())
    put(data, {"videos.txt": "\n".join(names), "prompts.txt": "\n".join("p" for _ in names)})
    assert captions(data, layout="prompts") == {}


def test_texts_and_lists_behind_links_are_not_read(secret):
    data = secret.parent / "data"
    (data / "a.mp4").write_bytes(b"x")
    (data / "a.txt").symlink_to(secret)
    assert captions(data) == {} and faults(data)["a.mp4"].startswith("outside: ")
    for name in ("metadata.jsonl", "prompts.txt", "list.json", "list.csv", "shard.tar"):
        folder = put(secret.parent / name, {"videos.txt" if name == "prompts.txt" else "notes": "a.mp4"})
        target = put(secret.parent / "lists", {name: json.dumps({"file_name": "a", "text": "t"} | MSRVTT)}) / name
        if name == "list.csv":
            target.write_text("videoid,page_dir,name\n1,p,secret\n")
        (folder / name).symlink_to(target)
        with pytest.raises(ValueError, match="leads out of"):
            read_examples(folder)


def special_files(folder: Path) -> list[Path]:
    """A pipe, a socket and a device, as files that a list or a folder may name."""
    os.mkfifo(folder / "pipe.mp4")
    server = socket.socket(socket.AF_UNIX)
    server.bind(os.path.relpath(folder / "socket.mp4"))
    server.close()
    (folder / "zero.mp4").symlink_to("/dev/zero")
    return [folder / "pipe.mp4", folder / "socket.mp4", folder / "zero.mp4"]


@pytest.mark.parametrize("root", [None, Path("/")])
def test_devices_pipes_and_sockets_are_faults_at_once(tmp_path, root):
    files = special_files(tmp_path)
    rows = [{"file_name": file.name, "text": "t"} for file in files]
    jsonl(tmp_path, *rows, *({**MEMBER, "file_name": file.name, "key": f"tar {file.name}"} for file in files))
    started = time.monotonic()
    examples = read_examples(tmp_path, root=root)
    assert len(check_examples(examples, DECODING, workers=0).faults) == 6
    with pytest.raises(ValueError, match="no clips that can be packed"):
        list(write_shards(examples, tmp_path / "out", on_fault=lambda *_: None))
    for file in files:
        for name in ("metadata.jsonl", "list.csv", "list.json", "x.tar", "x.tar.gz"):
            folder = tmp_path / f"{file.stem} {name}"
            folder.mkdir()
            os.link(file, folder / name, follow_symlinks=False)
            for source in (folder, folder / name):
                with pytest.raises(ValueError, match=r"cannot be (read|opened)|leads out|fits no layout"):
                    read_packed(source, tmp_path)
    assert time.monotonic() - started < 5


def test_a_file_of_holes_is_not_packed(tmp_path):
    with (tmp_path / "a.mp4").open("wb") as file:
        file.truncate(2**42)
    told = []
    with pytest.raises(ValueError, match="no clips that can be packed"):
        examples = [Example(key="a", video=tmp_path / "a.mp4", caption="t")]
        list(write_shards(examples, tmp_path / "out", on_fault=lambda *fault: told.append(fault)))
    assert "holes" in told[0][1]


# --------------------------------------------------------------------------------------------------- hostile tars


def member(name: str, kind: bytes = tarfile.REGTYPE, size: int = 0, linkname: str = "") -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, size, linkname
    return info.tobuf(tarfile.GNU_FORMAT)


END = bytes(1024)
GOOD = member("good.mp4", size=4) + b"good".ljust(512, b"\0") + member("good.txt", size=4) + b"text".ljust(512, b"\0")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
@pytest.mark.parametrize("name", ["a.mp4", "a.txt"])
def test_links_and_devices_in_a_tar_are_faults_of_their_clips(tmp_path, name, kind):
    clip = member("a.mp4", size=1) + b"x".ljust(512, b"\0") if name == "a.txt" else b""
    (tmp_path / "x.tar").write_bytes(GOOD + clip + member(name, kind, linkname="/etc/passwd") + END)
    assert captions(tmp_path / "x.tar") == {"good": "text"} and list(faults(tmp_path / "x.tar")) == ["a"]


@pytest.mark.parametrize("name", ["../../a.mp4", "/etc/a.mp4", "a\x1b[31m\nb\u202e.mp4", "x" * 300 + ".mp4"])
def test_names_in_a_tar_lead_nowhere(tmp_path, name):
    source = tar(tmp_path / "x.tar", [(name, b"x"), (name.replace(".mp4", ".txt"), b"text")])
    examples = read_examples(source)
    (shard,) = write_shards(examples, tmp_path / "out" / "deep")
    with tarfile.open(shard) as archive:
        assert all(not n.startswith("/") and ".." not in n and n.isprintable() for n in archive.getnames())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "x.tar"]
    assert str(ClipFault(examples[0].key, "empty", "m")).isprintable()


def sparse(name: str, size: int) -> bytes:
    """A GNU sparse member of 10 KB that unpacks to any size."""
    header = bytearray(member(name, b"S"))
    header[483:495] = b"%011o\0" % size  # its size; 386: its map, empty
    header[386:398] = header[398:410] = b"%011o\0" % 0
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


def holes(path: Path, content: bytes, size: int, tail: bytes = b"") -> str:
    """A file whose content is followed by zeros that take no space."""
    with path.open("wb") as file:
        file.write(content)
        file.truncate(len(content) + size)
        file.seek(0, 2)
        file.write(tail)
    return str(path)


def test_a_tar_takes_no_more_memory_than_its_captions(tmp_path, monkeypatch):
    big = 3 * 2**30
    clip = member("a.mp4", size=1) + b"x".ljust(512, b"\0")
    monkeypatch.setattr(module, "MOST_MEMBERS", 1000)
    sources = [
        (holes(tmp_path / "0.tar", clip + sparse("a.txt", big) + END, 0), "sparse"),
        (holes(tmp_path / "1.tar", clip + member("a.txt", size=big), big, END), "bytes"),
        (holes(tmp_path / "2.tar", clip + member("a.json", size=big), big, END), "bytes"),
        (holes(tmp_path / "3.tar", GOOD + member("././@PaxHeader", b"x", big), big, GOOD + END), "a header of"),
        (holes(tmp_path / "4.tar", GOOD + member("././@LongLink", b"L", big), big, GOOD + END), "a header of"),
        (holes(tmp_path / "5.tar", member("g", b"g", 5) + b"5 a=b".ljust(512, b"\0"), big, END), "."),
        (holes(tmp_path / "6.tar", (member("x") * 2000) + GOOD + END, 0), "more than 1000 members"),
        (holes(tmp_path / "7.tar", member("p", b"x", 512) + b"0".ljust(512, b"0"), 0, END), "no complete tar"),
        (
            holes(tmp_path / "8.tar", b"".join(member("l", b"L", 1) + b"x".ljust(512) for _ in range(3000)), 0, END),
            "tar",
        ),
    ]
    tracemalloc.start()
    started = time.monotonic()
    for source, words in sources:
        try:
            told = str(faults(source))
        except ValueError as error:
            told = str(error)
        assert words in told and "\n" not in told, source
    assert tracemalloc.get_traced_memory()[1] < 100 * 2**20 and time.monotonic() - started < 8
    tracemalloc.stop()


def test_a_tar_that_goes_backwards_or_breaks_off_is_an_error(tmp_path):
    backwards = bytearray(member("a.mp4"))
    backwards[124:136] = b"\xff" * 4 + (2**64 - 1024).to_bytes(8, "big")  # a negative size
    backwards[148:156] = b" " * 8
    backwards[148:156] = b"%06o\0 " % sum(backwards)
    damaged = bytearray(GOOD + GOOD.replace(b"good", b"next") + END)
    damaged[2048 + 5] ^= 255
    cases = {
        "backwards": bytes(backwards) + GOOD + END, "damaged": bytes(damaged), "cut at a member": GOOD,
        "joined": GOOD + END + GOOD.replace(b"good", b"next") + END, "empty": b"", "binary": os.urandom(4096),
    }  # fmt: skip
    for name, content in cases.items():
        (tmp_path / "x.tar").write_bytes(content)
        with pytest.raises(ValueError, match=r"x\.tar is no complete tar \(") as caught:
            index_shards([str(tmp_path / "x.tar")])
        assert "\n" not in str(caught.value), name


def read_packed(source: Path, scratch: Path) -> None:
    """As `trip data shard` reads what may be compressed."""
    if choose_layout(source) != "shards":
        read_examples(source)
    with unpacked(shard_urls(source), scratch) as plain:
        index_shards(plain)


@pytest.mark.parametrize("suffix", ["gz", "bz2", "xz"])
def test_a_packed_tar_that_grows_without_end_is_an_error(tmp_path, suffix):
    source = tar(tmp_path / f"x.tar.{suffix}", [("a.bin", bytes(100 * 2**20)), ("a.mp4", b"x")], f"w:{suffix}")
    with pytest.raises(ValueError, match="more than 100 times its packed size"):
        read_packed(source, tmp_path)


def test_a_member_is_read_whole_or_not_at_all(tmp_path):
    (tmp_path / "x.tar").write_bytes(bytes(600))
    for offset, size in ((512, 89), (10**15, 1), (0, 2**60)):
        video = TarMember(archive=str(tmp_path / "x.tar"), name="a.mp4", offset=offset, size=size)
        with pytest.raises(ClipFault) as caught:
            decode_clip(video, DECODING, np.random.default_rng(), key="k")
        assert caught.value.reason in ("unreadable", "too_large")
