import errno
import json
import math
import os
import resource
import shutil
import subprocess
import sys
from fractions import Fraction

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

import trip.data.video.writing as video
from permissions import unprivileged
from trip.data.images import load_image
from trip.data.video.metadata import sidecar_path
from trip.data.video.reading import read_video
from trip.data.video.writing import check_output, write_video
from trip.files import sweep

FILES = ("clip.mp4", "clip.webm", "clip.gif", "clip.webp")
NAMES = (*FILES, "frames/", "frames")
COLOURS = np.array(
    [
        [255, 0, 0],
        [0, 255, 0],
        [0, 0, 255],
        [255, 255, 255],
        [0, 0, 0],
        [128, 128, 128],
        [200, 120, 40],
        [30, 90, 160],
    ],
    np.uint8,
)


def moving(frames: int = 16, height: int = 64, width: int = 64) -> np.ndarray:
    """A bright disc on a gradient, moving right: smooth, so that codecs keep it well."""
    y, x = np.mgrid[:height, :width] + 0.5
    clip = np.empty((frames, height, width, 3), np.uint8)
    for i in range(frames):
        disc = 1 / (1 + np.exp(np.hypot(x - 12 - 2 * i, y - height / 2) - 10))
        clip[i] = np.stack([60 + 120 * disc, 40 + 100 * y / height, 140 - 60 * disc], -1).round()
    return clip


def flat(size: int = 64) -> np.ndarray:
    return np.broadcast_to(COLOURS[:, None, None], (len(COLOURS), size, size, 3))


def left_in(folder) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(-10 * np.log10(np.mean((a.astype(float) - b) ** 2) / 255**2 + 1e-12))


# ----------------------------------------------------------------------------------------------- round trips


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("fps", [8, 12.5, Fraction(24)])
def test_round_trip(tmp_path, name, fps):
    clip = moving()
    write_video(str(tmp_path / "x")[:-1] + name, clip, fps)
    assert left_in(tmp_path) == [name.rstrip("/")]
    frames, rate, metadata = read_video(tmp_path / name)
    assert frames.dtype == np.uint8 and frames.shape == clip.shape and metadata is None
    assert rate == pytest.approx(float(fps), rel=0.01)
    assert psnr(frames, clip) > (30 if name == "clip.gif" else 38)
    if name.startswith("frames"):
        np.testing.assert_array_equal(frames, clip)
        assert left_in(tmp_path / "frames")[:2] == ["frame_0000.png", "frame_0001.png"]


@pytest.mark.parametrize(("name", "levels"), [("c.mp4", 2), ("c.webm", 2), ("c.gif", 0), ("c.webp", 3), ("c/", 0)])
def test_flat_colours_come_back(tmp_path, name, levels):
    write_video(f"{tmp_path}/{name}", flat(), 8)
    frames = read_video(tmp_path / name).frames.astype(int)
    error = np.abs(frames - flat())
    assert error.max() <= levels, error.max(axis=(1, 2, 3))


@pytest.mark.parametrize("name", NAMES)
def test_iterators_and_pillow_pictures(tmp_path, name):
    pulled = []

    def frames():
        for index, frame in enumerate(moving(5)):
            pulled.append(index)
            yield Image.fromarray(frame)

    write_video(f"{tmp_path}/{name}", frames(), 8)
    assert len(read_video(tmp_path / name).frames) == len(pulled) == 5


def test_mp4_encodes_while_frames_arrive(tmp_path, monkeypatch):
    """Each frame goes to the encoder before the next is asked for."""
    events = []
    convert = video._yuv420
    monkeypatch.setattr(video, "_yuv420", lambda frame: events.append("encode") or convert(frame))

    def frames():
        for frame in moving(4):
            events.append("make")
            yield frame

    write_video(tmp_path / "a.mp4", frames(), 8)
    assert events == ["make", "encode"] * 4


@pytest.mark.parametrize("name", NAMES)
def test_one_frame(tmp_path, name):
    write_video(f"{tmp_path}/{name}", moving(1), 8)
    assert read_video(tmp_path / name).frames.shape == (1, 64, 64, 3)


@pytest.mark.parametrize("name", NAMES)
def test_a_still_clip_keeps_its_length_when_its_rate_is_recorded(tmp_path, name):
    clip = np.repeat(moving(1), 6, 0)
    write_video(f"{tmp_path}/{name}", clip, 8, {"fps": 8})
    frames, fps, _ = read_video(tmp_path / name)
    assert fps == 8
    assert len(frames) == (1 if name == "clip.webp" else 6)


@pytest.mark.parametrize("name", ["a.webm", "a.gif", "a.webp", "a/"])
def test_odd_sizes(tmp_path, name):
    write_video(f"{tmp_path}/{name}", moving(3, 33, 47), 8)
    assert read_video(tmp_path / name).frames.shape == (3, 33, 47, 3)


@pytest.mark.parametrize("name", NAMES)
def test_same_frames_give_the_same_bytes(tmp_path, name):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        write_video(f"{tmp_path / folder}/{name}", moving(), 8, {"prompt": "x", "seed": 1})
    files = [[p.read_bytes() for p in sorted((tmp_path / f).rglob("*")) if p.is_file()] for f in ("one", "two")]
    assert files[0] == files[1]


@settings(max_examples=25, deadline=None)
@given(st.floats(0.1, 50))
def test_durations_add_up(fps):
    rate = video._frame_rate(fps, "gif")
    for unit in (1, 10):
        durations = video._durations(40, rate, unit)
        assert min(durations) > 0 and all(d % unit == 0 for d in durations)
        assert abs(sum(durations) - 40_000 / rate) <= unit


def test_max_frames(tmp_path):
    for name in NAMES:
        write_video(f"{tmp_path}/{name}", moving(6), 8)
        assert len(read_video(tmp_path / name, max_frames=4).frames) == 4
    with pytest.raises(ValueError, match=r"max_frames \(=0\)"):
        read_video(tmp_path / "clip.mp4", max_frames=0)


def test_gif_has_one_palette_and_still_areas_do_not_flicker(tmp_path):
    clip = moving()
    write_video(tmp_path / "a.gif", clip, 8)
    frames = read_video(tmp_path / "a.gif").frames
    np.testing.assert_array_equal(frames[:, :12], np.broadcast_to(frames[:1, :12], frames[:, :12].shape))


def test_unequal_durations_become_a_constant_rate(tmp_path):
    pictures = [Image.fromarray(frame) for frame in moving(3)]
    for durations, count, fps in [
        ([100, 200, 100], 4, 10),
        ([50, 50, 50], 3, 20),
        ([10, 600_000, 10], 3, 0.005),
    ]:
        pictures[0].save(tmp_path / "a.gif", save_all=True, append_images=pictures[1:], duration=durations)
        frames, rate, _ = read_video(tmp_path / "a.gif")
        assert len(frames) == count and rate == pytest.approx(fps, rel=1e-3)


def test_clip_of_this_name_is_replaced(tmp_path):
    for name in NAMES:
        write_video(f"{tmp_path}/{name}", moving(5), 8)
        write_video(f"{tmp_path}/{name}", moving(3), 8)
        assert len(read_video(tmp_path / name).frames) == 3
    assert left_in(tmp_path) == sorted([*FILES, "frames"])


def test_files_have_ordinary_permissions(tmp_path):
    mask = os.umask(0o022)
    try:
        write_video(tmp_path / "a.mp4", moving(2), 8, {})
        write_video(tmp_path / "a", moving(2), 8)
    finally:
        os.umask(mask)
    modes = {name: (tmp_path / name).stat().st_mode & 0o777 for name in left_in(tmp_path)}
    assert modes == {"a.mp4": 0o644, "a.mp4.json": 0o644, "a": 0o755}


# -------------------------------------------------------------------------------------------- other programs


def probe(path) -> dict:
    if shutil.which("ffprobe") is None:
        pytest.skip("needs ffprobe")
    command = [
        "ffprobe",
        "-v",
        "error",
        "-count_frames",
        "-show_streams",
        "-show_format",
        "-of",
        "json",
        str(path),
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stderr == ""
    return json.loads(result.stdout)


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "h264"), ("a.webm", "vp9")])
def test_ffprobe_agrees(tmp_path, name, codec):
    write_video(tmp_path / name, moving(), Fraction(30000, 1001), {"prompt": "pan 'left' 😀", "seed": 5})
    report = probe(tmp_path / name)
    (stream,) = report["streams"]
    expected = {
        "codec_name": codec, "pix_fmt": "yuv420p", "width": 64, "height": 64, "avg_frame_rate": "30000/1001",
        "nb_read_frames": "16", "color_space": "bt709", "color_primaries": "bt709", "color_transfer": "bt709",
        "color_range": "tv",
    }  # fmt: skip
    assert {key: stream.get(key) for key in expected} == expected
    assert float(report["format"]["duration"]) == pytest.approx(16 * 1001 / 30000, abs=0.002)
    tags = {key.lower(): value for key, value in report["format"]["tags"].items()}
    assert json.loads(tags["trip"])["prompt"] == "pan 'left' 😀"
    assert tags["comment"].startswith("trip animate IMAGE --prompt")


def test_ffprobe_reads_gif(tmp_path):
    write_video(tmp_path / "a.gif", moving(), 8)
    (stream,) = probe(tmp_path / "a.gif")["streams"]
    assert (stream["codec_name"], stream["nb_read_frames"]) == ("gif", "16")
    assert float(stream["duration"]) == pytest.approx(2.0)


def test_ffmpeg_decodes_the_colours(tmp_path):
    """Another reader than ours, which converts by the tags: the tags are right."""
    if shutil.which("ffmpeg") is None:
        pytest.skip("needs ffmpeg")
    for name in ("a.mp4", "a.webm"):
        write_video(tmp_path / name, flat(), 8)
        scale = "scale=flags=accurate_rnd+full_chroma_int,format=rgb24"
        command = ["ffmpeg", "-v", "error", "-i", tmp_path / name, "-vf", scale, "-f", "rawvideo", "-"]
        raw = subprocess.run(command, capture_output=True, check=True).stdout
        frames = np.frombuffer(raw, np.uint8).reshape(flat().shape).astype(int)
        assert np.abs(frames - flat()).max() <= 3


def test_moov_comes_first(tmp_path):
    write_video(tmp_path / "a.mp4", moving(), 8)
    data = (tmp_path / "a.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


def test_phone_clips_are_turned_upright(tmp_path):
    clip = moving(2, 32, 64)
    with av.open(str(tmp_path / "turned.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=8, options={"crf": "10"})
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        stream.set_display_rotation(90)
        for frame in clip:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
        container.mux(stream.encode(None))
    frames = read_video(tmp_path / "turned.mp4").frames
    assert frames.shape == (2, 64, 32, 3)
    turned = {k: psnr(frames, np.rot90(clip, k, axes=(1, 2))) for k in (1, 3)}
    assert turned[1] > 30 > turned[3]
    if shutil.which("ffmpeg"):
        command = [
            "ffmpeg",
            "-v",
            "error",
            "-i",
            tmp_path / "turned.mp4",
            "-f",
            "rawvideo",
            "-pix_fmt",
            "rgb24",
            "-",
        ]
        raw = subprocess.run(command, capture_output=True, check=True).stdout
        assert psnr(frames, np.frombuffer(raw, np.uint8).reshape(frames.shape)) > 35


PICTURES = {
    "upright.png": (Image.fromarray(moving(1)[0]), {}),
    "turned.jpg": (
        Image.fromarray(moving(1)[0]),
        {"quality": 95, "exif": b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0"},
    ),
    "hidden.png": (Image.new("RGBA", (64, 64), (9, 8, 7, 0)), {}),
    "grey.png": (Image.fromarray(np.tile(np.linspace(0, 65535, 64).astype(np.uint16), (64, 1))), {}),
    "palette.png": (Image.fromarray(moving(1)[0]).quantize(8), {"transparency": 3}),
    "inks.jpg": (Image.new("CMYK", (64, 64), (0, 255, 255, 0)), {"quality": 95}),
}


@pytest.mark.parametrize("name", PICTURES)
def test_frames_in_a_folder_are_the_pictures_that_stills_are(tmp_path, name):
    """Upright, on white, 16 bit scaled: what `load_image` makes of them."""
    picture, options = PICTURES[name]
    picture.save(tmp_path / name, **options)
    (tmp_path / f"._{name}").write_bytes(b"\0\5\x16\7")  # what macOS leaves beside it
    (frame,) = read_video(tmp_path).frames
    np.testing.assert_array_equal(frame, np.asarray(load_image(tmp_path / name)))
    if name == "hidden.png":
        assert (frame == 255).all()
    if name == "turned.jpg":
        assert psnr(frame, np.rot90(moving(1)[0], -1)) > 30


@pytest.mark.parametrize("fps", ["nan", "-1", "1e999", "fast", "0", ""])
def test_a_senseless_rate_in_a_picture_is_no_rate(tmp_path, fps):
    texts = PngImagePlugin.PngInfo()
    texts.add_text("fps", fps)
    Image.new("RGB", (16, 16)).save(tmp_path / "frame_0.png", pnginfo=texts)
    assert read_video(tmp_path).fps == 8


def test_a_killed_writer_leaves_nothing_for_long(tmp_path):
    """What it left is swept by the next, and a link in the place of the clip is replaced, not followed."""
    code = (
        "import os, signal, sys, numpy as np; from trip.data.video.writing import write_video\n"
        "def frames():\n"
        "    yield np.zeros((32, 32, 3), np.uint8)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "write_video(sys.argv[1], frames(), 8, {'seed': 1})\n"
    )
    for name in ("a.mp4", "frames/"):
        subprocess.run([sys.executable, "-c", code, f"{tmp_path}/{name}"], check=False)
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "b.mp4").symlink_to("victim")
    sweep(tmp_path)
    write_video(tmp_path / "b.mp4", moving(2), 8, {"seed": 1})
    assert left_in(tmp_path) == ["b.mp4", "b.mp4.json", "victim"] and (tmp_path / "victim").read_text() == "mine"


def test_shared_clips(shared):
    for file in sorted((shared / "clips" / "test").glob("*.mp4"))[:4]:
        frames, fps, metadata = read_video(file)
        assert frames.shape[1:] == (128, 128, 3) and 16 <= len(frames) <= 33 and 5 <= fps <= 16
        assert metadata is None and frames.std() > 5


# ---------------------------------------------------------------------------------------------------- errors


def lines_of(error: BaseException) -> str:
    assert "\n" not in str(error) and ";" in str(error)
    return str(error)


@pytest.mark.parametrize(
    ("name", "frames", "options", "message"),
    [
        ("a.avi", moving(2), {}, r"suffix '.avi'.*choose .mp4"),
        ("a.mp4", moving(2, 33, 64), {}, r"64x33 has an odd side.*\.webm"),
        ("a.mp4", moving(2)[:0], {}, "at least 1 frame"),
        ("a.gif", moving(2)[:0], {}, "at least 1 frame"),
        ("a/", iter([]), {}, "at least 1 frame"),
        ("a.mp4", moving(2).astype(np.float32), {}, "dtype float32.*scale and round"),
        ("a.mp4", moving(2).transpose(0, 3, 1, 2), {}, r"\(3, 64, 64\).*channels last"),
        ("a.webm", [moving(1)[0], moving(1, 32, 32)[0]], {}, "64x64 to 32x32"),
        ("a.webm", moving(2), {"fps": 0}, r"fps \(=0\)"),
        ("a.webm", moving(2), {"fps": math.nan}, r"fps \(=nan\)"),
        ("a.gif", moving(2), {"fps": 60}, "choose .mp4"),
        ("a.mp4", moving(2), {"crf": 99}, r"crf \(=99\)"),
        ("a.mp4", moving(2), {"metadata": {"x": math.inf}}, "JSON"),
    ],
)
def test_bad_arguments_leave_nothing(tmp_path, name, frames, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        write_video(f"{tmp_path}/{name}", frames, **options)
    lines_of(caught.value)
    assert left_in(tmp_path) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError("NaN latents"), OSError("source"), SystemExit])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("after", [0, 1, 5])
def test_interrupts_and_errors_of_the_source_pass_through_and_leave_the_old_clip(tmp_path, name, error, after):
    def frames():
        yield from moving(after)
        raise error

    kind = error if isinstance(error, type) else type(error)
    with pytest.raises(kind) as caught:
        write_video(f"{tmp_path}/{name}", frames(), 8, {"seed": 1})
    assert isinstance(error, type) or caught.value is error
    assert left_in(tmp_path) == []
    write_video(f"{tmp_path}/{name}", moving(2), 8, {"seed": 2})
    with pytest.raises(kind):
        write_video(f"{tmp_path}/{name}", frames(), 8, {"seed": 3})
    assert read_video(tmp_path / name).metadata == {"seed": 2}
    assert left_in(tmp_path) == sorted([name.rstrip("/"), name.rstrip("/") + ".json"])


@pytest.mark.parametrize("name", NAMES)
def test_full_disk(tmp_path, name):
    """A limit on file sizes makes the kernel refuse to write, as a full disk does."""
    noise = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), dtype=np.uint8)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8000, before[1]))
    try:
        with pytest.raises(OSError) as caught:
            write_video(f"{tmp_path}/{name}", noise, 8, {"seed": 1})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "cannot write" in lines_of(caught.value)
    assert left_in(tmp_path) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EIO])
@pytest.mark.parametrize("call", ["replace", "fsync", "open"])
def test_system_errors_are_one_line(tmp_path, monkeypatch, code, call):
    def refuse(*args, **kwargs):
        raise OSError(code, os.strerror(code), "internal name")

    monkeypatch.setattr(video.os, call, refuse)
    with pytest.raises(OSError) as caught:
        write_video(tmp_path / "a.mp4", moving(2), 8, {"seed": 1})
    monkeypatch.undo()
    assert caught.value.errno == code
    assert str(tmp_path / "a.mp4") in lines_of(caught.value) and "internal name" not in str(caught.value)
    assert left_in(tmp_path) == []


@pytest.mark.parametrize("name", NAMES)
def test_read_only_folder(tmp_path, name):
    tmp_path.chmod(0o555)
    try:
        for call in (check_output, lambda path: write_video(path, moving(2), 8)):
            with unprivileged(), pytest.raises(OSError, match=r"choose a folder you may write to") as caught:
                call(f"{tmp_path}/{name}")
            assert "Permission denied" in lines_of(caught.value)
    finally:
        tmp_path.chmod(0o755)
    assert left_in(tmp_path) == []


def test_check_output(tmp_path):
    for name in NAMES:
        check_output(f"{tmp_path}/{name}")
    assert left_in(tmp_path) == []
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "album").mkdir()
    (tmp_path / "album" / "holiday.jpg").touch()
    (tmp_path / "file").touch()
    (tmp_path / "lnk").symlink_to(tmp_path / "missing")
    for name, kind, message in [
        ("missing/a.mp4", OSError, "there is no folder"),
        ("file/a.mp4", OSError, "there is no folder"),
        ("x" * 252 + ".mp4", OSError, "choose a shorter name"),
        ("folder.mp4", ValueError, "is a folder"),
        ("album/", ValueError, r"holds other files \(holiday.jpg\)"),
        ("file", ValueError, "is a file"),
        ("lnk/", ValueError, "is a link; name the folder itself"),
        ("a.mov", ValueError, "unknown"),
    ]:
        with pytest.raises(kind, match=message) as caught:
            check_output(f"{tmp_path}/{name}")
        lines_of(caught.value)
        with pytest.raises(kind, match=message):
            write_video(f"{tmp_path}/{name}", moving(2), 8)
    with pytest.raises(ValueError, match="names no file"):
        check_output("/")


def test_frames_of_others_are_not_replaced(tmp_path):
    folder = tmp_path / "mine"
    for fps in (8, 9):  # our own are
        write_video(folder / "", moving(2), fps, {"seed": 1})
    Image.fromarray(moving(1)[0]).save(folder / "frame_0002.png")  # as ffmpeg names them
    with pytest.raises(ValueError, match=r"frames without a record of trip \(frame_0002\.png\); choose a new"):
        check_output(f"{folder}/")
    (folder / "frame_0002.png").unlink()
    for number in (1, 2):
        (tmp_path / "theirs").mkdir(exist_ok=True)
        Image.fromarray(moving(1)[0]).save(tmp_path / "theirs" / f"frame_{number:04d}.png")
    with pytest.raises(ValueError, match=r"frames without a record of trip \(frame_0001\.png\)"):
        check_output(tmp_path / "theirs")
    (folder / "frame_notes.png").mkdir()
    with pytest.raises(ValueError, match=r"holds other files \(frame_notes\.png\)"):
        write_video(f"{folder}/", moving(2), 8, {"seed": 1})
    assert left_in(folder) == ["frame_0000.png", "frame_0001.png", "frame_notes.png"]


@pytest.mark.parametrize("name", FILES)
def test_damaged_clips(tmp_path, name):
    write_video(tmp_path / name, moving(), 8)
    data = (tmp_path / name).read_bytes()
    for fraction in (0.02, 0.1, 0.5, 0.9):
        (tmp_path / name).write_bytes(data[: int(len(data) * fraction)])
        with pytest.raises(ValueError, match=r"cannot be read|cut off|damaged") as caught:
            read_video(tmp_path / name)
        assert name in lines_of(caught.value)


def test_what_is_no_clip(tmp_path):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("hello\n" * 99)
    (tmp_path / "text.gif").write_text("hello\n" * 99)
    (tmp_path / "folder").mkdir()
    (tmp_path / "frames").mkdir()
    (tmp_path / "frames" / "frame_0000.png").write_text("hello")
    for name, message in [
        ("missing.mp4", "does not exist"),
        ("x" * 999 + ".mp4", "does not exist"),
        ("empty.mp4", "empty"),
        ("text.mp4", "cannot be read"),
        ("text.gif", "cannot be read"),
        ("folder", "holds no PNG"),
        ("frames", "frame_0000.png is not a picture"),
    ]:
        with pytest.raises(ValueError, match=message) as caught:
            read_video(tmp_path / name)
        lines_of(caught.value)


def test_sound_alone_is_no_clip(tmp_path):
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), format="fltp", layout="stereo")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(ValueError, match="holds no pictures, only sound"):
        read_video(tmp_path / "sound.mp4")


def test_side_car_appears_with_the_clip(tmp_path):
    write_video(tmp_path / "a.mp4", moving(2), 8, {"seed": 1})
    assert left_in(tmp_path) == ["a.mp4", sidecar_path(tmp_path / "a.mp4").name]
