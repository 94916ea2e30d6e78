"""What a stranger's clip may not do: reach other files, the network, gigabytes or minutes."""

import os
import resource
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import made_clips
from trip.apps.data_options import DataCheck
from trip.data.sets.decoding import ClipFault, Decoding, decode_clip, inspect_clip
from trip.data.video.containers import MAX_PIXELS, Fault, open_video, read_tags
from trip.data.video.metadata import find_metadata
from trip.data.video.reading import MAX_FRAMES, read_video

DECODING = Decoding(num_frames=2, fps=None, size=(16, 16), timeout=20)


def decoded(path: Path) -> np.ndarray:
    return decode_clip(path, DECODING, np.random.default_rng(0))


def refusals(path: Path) -> list[str]:
    """What every reader of clips says of a file that all must refuse."""
    said = []
    for read in (read_video, decoded, lambda path: inspect_clip(path, DECODING)):
        with pytest.raises(ValueError, match=";") as caught:
            read(path)
        assert "\n" not in str(caught.value)
        said.append(str(caught.value))
    assert find_metadata(path) is None
    return said


@pytest.fixture
def within(tmp_path: Path) -> Iterator[Path]:
    """The current folder, so that relative names are taken as they are."""
    before = Path.cwd()
    os.chdir(tmp_path)
    yield tmp_path
    os.chdir(before)


# ---------------------------------------------------------------------------------------------- names and lists


@pytest.mark.parametrize(
    "name",
    [
        "http:/127.0.0.1/a.mp4",
        "concat:a.mp4|b.mp4",
        "subfile,,start,0,end,0,,:a.mp4",
        "cache:a.mp4",
        "file:a.mp4",
        "data:video,a.mp4",
        "frame%03d.mp4",
        "pipe:0",
        "-.mp4",
        "clip.m3u8",
        "clip.sdp",
        "clip.png",
    ],
)
def test_names_mean_nothing_but_the_file(within, name):
    """The file of that name is read, whatever its name means to FFmpeg."""
    made_clips.numbered(within / "a.mp4", count=3)
    Path(name).parent.mkdir(exist_ok=True, parents=True)
    content = made_clips.numbered(within / "two.mp4", count=5).read_bytes()
    Path(name).write_bytes(content)
    assert made_clips.numbers(read_video(name).frames) == [0, 1, 2, 3, 4]
    assert inspect_clip(Path(name), DECODING).frames == 5
    assert find_metadata(Path(name)) is None and "encoder" in read_tags(Path(name))


def sdp(port: int) -> str:
    session = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
    return f"{session}m=video {port} RTP/AVP 96\na=rtpmap:96 H264/90000\n"


def mpd(source: str) -> str:
    return (
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
        'mediaPresentationDuration="PT1S">'
        f'<Period><AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1"><BaseURL>{source}</BaseURL>'
        "</Representation></AdaptationSet></Period></MPD>"
    )


LISTS = {
    "hls": lambda source, port: f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{source}\n#EXT-X-ENDLIST\n",
    "ffconcat": lambda source, port: f"ffconcat version 1.0\nfile '{source}'\n",
    "sdp": lambda source, port: sdp(port),
    "dash": lambda source, port: mpd(source),
    "image list": lambda source, port: f"{source}\n{source}\n",
}


@pytest.mark.parametrize("remote", [False, True])
@pytest.mark.parametrize("suffix", [".mp4", ".m3u8", ".ffconcat", ".sdp", ".mpd", ".txt"])
@pytest.mark.parametrize("kind", LISTS)
def test_lists_of_other_files_are_no_clips(within, kind, suffix, remote):
    made_clips.numbered(within / "private.mpg", count=3)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0)
        port = server.getsockname()[1]
        source = f"http://127.0.0.1:{port}/x.ts" if remote else "private.mpg"
        path = within / f"list{suffix}"
        path.write_text(LISTS[kind](source, port))
        for said in refusals(path):
            assert "no format fits" in said
        with pytest.raises(Fault):
            read_tags(path)
        with pytest.raises(BlockingIOError):
            server.accept()


def test_a_reference_in_an_mp4_is_not_followed(within):
    """QuickTime may keep its pictures in another file."""
    content = bytearray(made_clips.numbered(within / "a.mp4", count=5).read_bytes())
    entry = content.index(b"url \0\0\0\1")
    content[entry + 7] = 0  # no longer "in this file"
    (within / "b.mov").write_bytes(content)
    (within / "a.mp4").unlink()
    assert made_clips.numbers(read_video(within / "b.mov").frames) == [0, 1, 2, 3, 4]


# ---------------------------------------------------------------------------------------------- special files


def test_what_is_no_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.gif")
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "zero.mp4").symlink_to("/dev/zero")
    (tmp_path / "null.webp").symlink_to("/dev/null")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket.mp4"))
        start = time.monotonic()
        for name in ("pipe.gif", "pipe.mp4", "zero.mp4", "null.webp", "socket.mp4"):
            assert all("is no regular file" in said for said in refusals(tmp_path / name))
        assert time.monotonic() - start < 5


@pytest.mark.parametrize("name", ["frame_0.png", "frame_1.png"])
def test_a_pipe_among_frames_is_refused(tmp_path, name):
    for index in range(2):
        Image.new("RGB", (16, 16)).save(tmp_path / f"frame_{index}.png")
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    with pytest.raises(ValueError, match=rf"{name} cannot be read \(a device or a pipe"):
        read_video(tmp_path)


# -------------------------------------------------------------------------------------------- memory and time


def gif(width: int, height: int, delays: list[int]) -> bytes:
    """Frames of one pixel on a canvas; delays are hundredths of a second."""
    pixel = b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"
    frames = (b"\x21\xf9\x04\x00" + struct.pack("<H", delay) + b"\0\0" + pixel for delay in delays)
    header = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes([0, 0, 0, 255, 255, 255])
    return header + b"".join(frames) + b"\x3b"


def png(width: int, height: int) -> bytes:
    """All of one colour, a thousandth of its pixels in bytes."""
    squeezed = zlib.compressobj(9)
    row = bytes(1 + 4 * width)
    data = b"".join(squeezed.compress(row) for _ in range(height)) + squeezed.flush()
    content = b"\x89PNG\r\n\x1a\n"
    header = struct.pack(">2I5B", width, height, 8, 6, 0, 0, 0)
    for name, body in ((b"IHDR", header), (b"IDAT", data), (b"IEND", b"")):
        content += struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
    return content


def announcing(content: bytes, samples: int, timed: bool = True) -> bytes:
    """An mp4 whose index says in twelve bytes that it has so many samples of a byte each, with a time or without."""
    changed = bytearray(content)
    struct.pack_into(">II", changed, content.index(b"stsz") + 8, 1, samples)
    struct.pack_into(">I", changed, content.index(b"stsc") + 16, samples)
    if timed:
        struct.pack_into(">II", changed, content.index(b"stts") + 8, 1, samples)
    return bytes(changed)


def sparse(content: bytes, path: Path, size: int) -> None:
    """An mp4 whose first frame is a hole of so many bytes."""
    changed = bytearray(content)
    struct.pack_into(">I", changed, content.index(b"stsz") + 16, size)
    struct.pack_into(">I", changed, content.index(b"stco") + 12, len(content))
    path.write_bytes(changed)
    os.truncate(path, 3 << 30)


MEASURE = """
import resource, sys, time
from functools import partial
from pathlib import Path
import numpy as np
from trip.data.sets.decoding import Decoding, decode_clip
from trip.data.images import load_image
from trip.data.video.reading import read_video
how, rng = Decoding(num_frames=2, fps=None, size=(16, 16), timeout=9), np.random.default_rng(0)
start = time.monotonic()
for name in sys.argv[1:]:
    one, some = partial(read_video, max_frames=1), partial(decode_clip, decoding=how, rng=rng)
    for read in (read_video, load_image, one, some):
        try:
            read(Path(name))
        except ValueError as error:
            assert "\\n" not in str(error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, time.monotonic() - start)
"""


def test_bombs_take_neither_gigabytes_nor_minutes(tmp_path):
    mp4 = made_clips.numbered(tmp_path / "n.mp4").read_bytes()
    (tmp_path / "many.gif").write_bytes(gif(200, 200, [10] * 200_000))
    (tmp_path / "wide.gif").write_bytes(gif(13300, 13300, [10] * 3))
    (tmp_path / "slow.gif").write_bytes(gif(1000, 1000, [1, 9990]))
    (tmp_path / "samples.mp4").write_bytes(announcing(mp4, 2**32 - 1))
    (tmp_path / "untimed.mp4").write_bytes(announcing(mp4, 1_000_000, timed=False))
    (tmp_path / "still.png").write_bytes(png(5000, 5000))
    (tmp_path / "frames").mkdir()
    (tmp_path / "frames" / "frame_0.png").write_bytes(png(2000, 2000))
    for index in range(1, 60):
        os.link(tmp_path / "frames" / "frame_0.png", tmp_path / "frames" / f"frame_{index}.png")
    names = ["many.gif", "wide.gif", "slow.gif", "samples.mp4", "untimed.mp4", "still.png", "frames"]
    result = subprocess.run(
        [sys.executable, "-c", MEASURE, *names],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (60, 60)),
    )
    assert result.returncode == 0, result.stderr
    megabytes, seconds = map(float, result.stdout.split())
    assert megabytes < 1000 and seconds < 60


def test_one_frame_of_many_is_read_without_the_others(tmp_path):
    (tmp_path / "a.gif").write_bytes(gif(64, 64, [12] * 30_000))
    frames, fps, _ = read_video(tmp_path / "a.gif", max_frames=1)
    assert frames.shape == (1, 64, 64, 3) and fps == pytest.approx(1 / 0.12)


def test_repetition_stays_within_limits(tmp_path):
    """9991 frames of a small picture, but two of a large one at the mean rate."""
    (tmp_path / "small.gif").write_bytes(gif(16, 16, [1, 9990]))
    (tmp_path / "large.gif").write_bytes(gif(1000, 1000, [1, 9990]))
    small, large = read_video(tmp_path / "small.gif"), read_video(tmp_path / "large.gif")
    assert (len(small.frames), small.fps) == (9991, pytest.approx(100))
    assert (len(large.frames), large.fps) == (2, pytest.approx(2 / 99.91))


@pytest.mark.parametrize("name", ["a.mp4", "a.gif", "a.webp", "a.png", "a.webm", "frames/"])
def test_the_total_is_limited_in_every_format(tmp_path, name):
    pictures = [Image.new("RGB", (32, 32), (9 * index, 0, 0)) for index in range(6)]
    if name == "frames/":
        (tmp_path / name).mkdir()
        for index, picture in enumerate(pictures):
            picture.save(tmp_path / name / f"frame_{index}.png")
    elif name.endswith(("mp4", "webm")):
        made_clips.numbered(tmp_path / name, count=6)
    else:
        pictures[0].save(tmp_path / name, save_all=True, append_images=pictures[1:], duration=100)
    assert len(read_video(tmp_path / name, max_total=6 * 32 * 32).frames) == 6
    assert len(read_video(tmp_path / name, max_frames=5, max_total=5 * 32 * 32).frames) == 5
    with pytest.raises(
        ValueError, match=r"more than 5 frames of 32x32, the most that are read at once; pass a smaller"
    ):
        read_video(tmp_path / name, max_total=6 * 32 * 32 - 1)


def test_the_number_of_frames_is_limited(tmp_path):
    (tmp_path / "a.gif").write_bytes(gif(16, 16, [10] * (MAX_FRAMES + 1)))
    with pytest.raises(ValueError, match=f"more than {MAX_FRAMES:,} frames of 16x16"):
        read_video(tmp_path / "a.gif")


@pytest.mark.parametrize("box", ["stsz", "trun"])
def test_samples_that_only_the_index_has_are_refused(tmp_path, box):
    mp4 = made_clips.numbered(tmp_path / "n.mp4").read_bytes()
    if box == "stsz":
        (tmp_path / "a.mp4").write_bytes(announcing(mp4, 100_000_000))
    else:
        run = struct.pack(">I4sII", 16, b"trun", 0, 100_000_000)
        traf = struct.pack(">I4s", 8 + len(run), b"traf") + run
        (tmp_path / "a.mp4").write_bytes(mp4 + struct.pack(">I4s", 8 + len(traf), b"moof") + traf)
    assert all("announces more than 5,000,000 samples" in said for said in refusals_of_content(tmp_path / "a.mp4"))


def refusals_of_content(path: Path) -> list[str]:
    """As `refusals`, from bytes too."""
    with pytest.raises(ClipFault) as caught:
        decode_clip(path.read_bytes(), DECODING, np.random.default_rng(0), key="k")
    return [*refusals(path), str(caught.value)]


def test_a_packet_of_gigabytes_is_not_read(tmp_path):
    mp4 = made_clips.numbered(tmp_path / "n.mp4").read_bytes()
    sparse(mp4, tmp_path / "hole.mp4", 300_000_000)
    start = time.monotonic()
    assert all("more than 128 MiB" in said for said in refusals(tmp_path / "hole.mp4"))
    sparse(mp4, tmp_path / "hole.mp4", 2_000_000_000)
    refusals(tmp_path / "hole.mp4")
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("cut", [1, 20])
def test_animations_that_are_cut_off_are_refused(tmp_path, cut):
    content = gif(16, 16, [10] * 5)
    (tmp_path / "a.gif").write_bytes(content[:-cut])
    with pytest.raises(ValueError, match="cut off"):
        read_video(tmp_path / "a.gif")


def test_readers_in_threads_do_not_disturb_each_other(tmp_path):
    paths = [made_clips.numbered(tmp_path / f"{size}.mp4", count=6, size=size) for size in (16, 32, 48, 64)]
    expected = [read_video(path).frames for path in paths]
    found: list[np.ndarray | None] = [None] * len(paths)

    def read(index: int) -> None:
        for _ in range(3):
            found[index] = read_video(paths[index]).frames

    threads = [threading.Thread(target=read, args=(index,)) for index in range(len(paths))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one, other in zip(found, expected, strict=True):
        assert one is not None
        np.testing.assert_array_equal(one, other)


def test_a_still_is_a_clip_of_one_frame(tmp_path):
    for name in ("a.png", "a.jpg", "a.webp", "a.bmp", "a.tif", "a.avif"):
        Image.new("RGB", (32, 32), (200, 120, 40)).save(tmp_path / name)
        frames, fps, _ = read_video(tmp_path / name)
        assert frames.shape == (1, 32, 32, 3) and fps == 8
        np.testing.assert_allclose(frames[0, 8, 8].astype(int), (200, 120, 40), atol=4)
        with open_video(tmp_path / name) as clip:
            assert not clip.animated and len(list(clip.stamps())) == 1


def test_the_flag_has_the_readers_limit():
    assert DataCheck(source=".").max_pixels == MAX_PIXELS
