"""How frames of every kind of clip are shown, the same by both readers; expected values are computed here."""

import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from trip.data.sets.decoding import ClipFault, Decoding, decode_clip
from trip.data.video.frames import tone_mapped
from trip.data.video.reading import read_video

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
PALETTE = np.array([RED, GREEN, BLUE, WHITE, (0, 0, 0), (128, 128, 128), (200, 120, 40), (30, 90, 160)])


def shown(path: Path) -> np.ndarray:
    """The first frame, after both readers agreed on it."""
    frames = read_video(path).frames
    decoding = Decoding(num_frames=len(frames), fps=None, size=frames.shape[1:3])
    np.testing.assert_array_equal(decode_clip(path, decoding, np.random.default_rng(0)), frames)
    return frames[0].astype(int)


def refused(path: Path, reason: str) -> str:
    """What both readers say of a clip."""
    with pytest.raises(ValueError, match=";") as read:
        read_video(path)
    with pytest.raises(ClipFault) as fault:
        decode_clip(path, Decoding(num_frames=1, fps=None), np.random.default_rng(0))
    assert fault.value.reason == reason and fault.value.message in str(read.value)
    return fault.value.message


Setting = Callable[[av.VideoStream], object]


def quadrants(width: int = 64, height: int = 48) -> np.ndarray:
    picture = np.empty((height, width, 3), np.uint8)
    picture[: height // 2, : width // 2], picture[: height // 2, width // 2 :] = RED, GREEN
    picture[height // 2 :, : width // 2], picture[height // 2 :, width // 2 :] = BLUE, WHITE
    return picture


def encode(
    path: Path, frames: list[av.VideoFrame], codec: str, options: dict[str, str] | None = None, setting: Setting = id
) -> Path:
    """Write frames at 8 a second, in their own pixel format and with their own tags."""
    first = frames[0]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=8, options=options or {})
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = first.width, first.height, first.format.name
        context = stream.codec_context
        context.colorspace, context.color_range = first.colorspace, first.color_range
        context.color_trc, context.color_primaries = first.color_trc, first.color_primaries
        setting(stream)
        for number, frame in enumerate(frames):
            frame.pts, frame.time_base = number, Fraction(1, 8)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def of_quadrants(path: Path, codec: str, setting: Setting) -> Path:
    frames = [av.VideoFrame.from_ndarray(quadrants()).reformat(format="yuv420p") for _ in range(3)]
    return encode(path, frames, codec, setting=setting)


def corners(picture: np.ndarray) -> list[list[int]]:
    """Colours near the four corners, row by row."""
    height, width = picture.shape[:2]
    return [picture[y, x].tolist() for y in (4, height - 5) for x in (4, width - 5)]


# -------------------------------------------------------------------------------------------------- geometry


@pytest.mark.parametrize(
    ("name", "codec", "aspect", "width"),
    [
        ("a.mp4", "libx264", Fraction(2), 128),
        ("a.mp4", "libx264", Fraction(1, 2), 32),
        ("a.mkv", "libx264", Fraction(4, 3), 85),
        ("a.mpg", "mpeg2video", Fraction(4, 3), 85),  # 16:9 is one of the four that MPEG-2 knows
        ("a.avi", "mpeg4", Fraction(16, 11), 93),
    ],
)
def test_pixels_that_are_not_square_are_made_so(tmp_path, name, codec, aspect, width):
    def setting(stream: av.VideoStream) -> None:
        stream.codec_context.sample_aspect_ratio = stream.sample_aspect_ratio = aspect

    picture = shown(of_quadrants(tmp_path / name, codec, setting))
    assert picture.shape == (48, width, 3)
    np.testing.assert_allclose(corners(picture), [RED, GREEN, BLUE, WHITE], atol=8)


def test_absurd_pixels_are_refused(tmp_path):
    def setting(stream: av.VideoStream) -> None:
        stream.codec_context.sample_aspect_ratio = stream.sample_aspect_ratio = Fraction(20)

    assert "times as wide as high" in refused(of_quadrants(tmp_path / "a.mp4", "libx264", setting), "bad_picture")


def matrix(angle: float, mirrored: bool = False) -> list[int]:
    """FFmpeg's display matrix of a turn to the right by `angle` degrees, then a mirror image left to right."""
    cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    left = -1 if mirrored else 1
    a, b, c, d = (round(value * 65536) for value in (left * cosine, sine, -left * sine, cosine))
    return [a, b, 0, c, d, 0, 0, 0, 1 << 30]


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("angle", [0, 90, 180, 270])
def test_the_whole_display_matrix_counts(tmp_path, angle, mirrored):
    path = of_quadrants(
        tmp_path / "a.mp4", "libx264", lambda stream: stream.set_display_matrix(matrix(angle, mirrored))
    )
    expected = np.rot90(quadrants(), -angle // 90)
    expected = expected[:, ::-1] if mirrored else expected
    picture = shown(path)
    assert picture.shape == expected.shape
    np.testing.assert_allclose(corners(picture), corners(expected), atol=8)


@pytest.mark.parametrize("angle", [45, 100])
def test_odd_angles_are_refused(tmp_path, angle):
    path = of_quadrants(tmp_path / "a.mp4", "libx264", lambda stream: stream.set_display_matrix(matrix(angle)))
    assert "no multiple of 90 degrees" in refused(path, "bad_picture")


# ------------------------------------------------------------------------------------------------ transparency


def veiled() -> np.ndarray:
    """Red that is half covered, hidden and whole in thirds from the left."""
    picture = np.zeros((48, 48, 4), np.uint8)
    picture[..., 0] = 255
    picture[:, :16, 3], picture[:, 32:, 3] = 128, 255
    return picture


def assert_on_white(picture: np.ndarray, atol: int = 3) -> None:
    at = [picture[24, x] for x in (8, 24, 40)]
    np.testing.assert_allclose(at, [(255, 127, 127), WHITE, RED], atol=atol)


@pytest.mark.parametrize(
    ("name", "codec", "pixels"),
    [
        ("a.mov", "qtrle", "argb"),
        ("b.mov", "prores_ks", "yuva444p10le"),
        ("c.mov", "png", "rgba"),
        ("a.mkv", "ffv1", "yuva420p"),
        ("b.mkv", "ffv1", "yuva444p16le"),
        ("c.mkv", "ffv1", "bgra"),
        ("a.webm", "libvpx-vp9", "yuva420p"),
        ("b.mkv", "libvpx-vp9", "yuva420p"),
        ("a.apng", "apng", "rgba"),
    ],
)
def test_alpha_lies_on_white(tmp_path, name, codec, pixels):
    frames = [av.VideoFrame.from_ndarray(veiled(), format="rgba").reformat(format=pixels) for _ in range(3)]
    options = {"prores_ks": {"profile": "4444"}, "libvpx-vp9": {"crf": "4", "b": "0"}}.get(codec)
    assert_on_white(shown(encode(tmp_path / name, frames, codec, options)))


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png"])
def test_transparent_animations_lie_on_white(tmp_path, name):
    pictures = [Image.fromarray(np.roll(veiled(), shift, 0)) for shift in range(3)]
    for number, picture in enumerate(pictures):
        picture.putpixel((40, 2 * number), (0, 0, 255, 255))  # so that all three are kept
    options = {"lossless": True} if name == "a.webp" else {}
    pictures[0].save(tmp_path / name, save_all=True, append_images=pictures[1:], duration=120, disposal=2, **options)
    picture = shown(tmp_path / name)
    if name == "a.gif":  # which knows no half
        picture[:, :16] = (255, 127, 127)
    assert_on_white(picture)


# ----------------------------------------------------------------------------------------------------- colours

KR_KB = {"601": (0.299, 0.114), "709": (0.2126, 0.0722), "2020": (0.2627, 0.0593)}
TAGS = {"601": 6, "709": 1, "2020": 9}


def planes(space: str, full: bool, bits: int, height: int = 16) -> np.ndarray:
    """Y, Cb and Cr of `PALETTE` in columns of 8 pixels, by the definition of BT.601, 709 and 2020."""
    kr, kb = KR_KB[space]
    red, green, blue = PALETTE.T / 255
    luma = kr * red + (1 - kr - kb) * green + kb * blue
    chroma = (blue - luma) / (2 - 2 * kb), (red - luma) / (2 - 2 * kr)
    unit = 2 ** (bits - 8)
    scale = (2**bits - 1, 2**bits - 1, 0) if full else (219 * unit, 224 * unit, 16 * unit)
    levels = [scale[0] * luma + scale[2], *(scale[1] * part + 128 * unit for part in chroma)]
    levels = np.rint(levels).clip(0, 2**bits - 1).astype(np.uint16 if bits > 8 else np.uint8)
    return np.repeat(np.repeat(levels, 8, 1)[:, None], height, 1)


def of_planes(levels: np.ndarray, pixels: str) -> av.VideoFrame:
    frame = av.VideoFrame(levels.shape[2], levels.shape[1], pixels)
    for plane, values in zip(frame.planes, levels, strict=True):
        padded = np.zeros((values.shape[0], plane.line_size // values.itemsize), values.dtype)
        padded[:, : values.shape[1]] = values
        plane.update(padded.tobytes())
    return frame


@pytest.mark.parametrize("bits", [8, 10])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("space", TAGS)
def test_matrix_and_range_follow_the_tags(tmp_path, space, full, bits):
    frame = of_planes(planes(space, full, bits), "yuv444p" if bits == 8 else "yuv444p10le")
    frame.colorspace, frame.color_range = TAGS[space], 2 if full else 1
    picture = shown(encode(tmp_path / "a.mkv", [frame], "ffv1"))
    np.testing.assert_allclose(picture[8, 4::8], PALETTE, atol=1)


@pytest.mark.parametrize(("height", "space"), [(16, "601"), (720, "709")])
def test_untagged_clips_follow_players(tmp_path, height, space):
    frame = of_planes(planes(space, False, 8, height), "yuv444p")
    picture = read_video(encode(tmp_path / "a.mkv", [frame], "ffv1")).frames[0].astype(int)
    np.testing.assert_allclose(picture[8, 4::8], PALETTE, atol=1)


def test_spaces_without_a_conversion_are_refused(tmp_path):
    frame = of_planes(planes("709", False, 8), "yuv444p")
    frame.colorspace = 14  # ICtCp
    assert "cannot be converted" in refused(encode(tmp_path / "a.mkv", [frame], "ffv1"), "bad_picture")


# --------------------------------------------------------------------------------------- high dynamic range


def pq_signal(light: float) -> float:
    """ST 2084: signal of candela per square metre."""
    power = (light / 10_000) ** 0.1593017578125
    return ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375


def hlg_signal(light: float) -> float:
    """BT.2100: signal of grey that a display of 1000 candela shows as bright as this."""
    scene = (light / 1000) ** (1 / 1.2)
    return math.sqrt(3 * scene) if scene <= 1 / 12 else 0.17883277 * math.log(12 * scene - 0.28466892) + 0.55991073


SIGNALS = {"pq": (pq_signal, 16), "hlg": (hlg_signal, 18)}


def srgb(share: float) -> float:
    return 255 * (12.92 * share if share <= 0.0031308 else 1.055 * share ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("kind", SIGNALS)
def test_dark_and_middle_tones_keep_their_light(kind):
    """Below the knee, 93 candela, light is shown as it is: the share of a white of 203."""
    signal, _ = SIGNALS[kind]
    light = [0.5, 2, 10, 40, 90]
    coded = np.array([[[round(65535 * signal(value))] * 3 for value in light]], np.uint16)
    expected = [[srgb(value / 203)] * 3 for value in light]
    np.testing.assert_allclose(tone_mapped(coded, kind == "hlg")[0], expected, atol=1)


@pytest.mark.parametrize("kind", SIGNALS)
def test_highlights_are_compressed_and_keep_their_order(kind):
    """Paper white at 203 stays below white, the brightest reach it, and nothing is clipped before 600."""
    signal, _ = SIGNALS[kind]
    coded = np.array([[[round(65535 * signal(value))] * 3 for value in (93, 203, 300, 400, 1000)]], np.uint16)
    grey = tone_mapped(coded, kind == "hlg")[0, :, 0].astype(int)
    assert 215 < grey[1] < 240 and grey[-1] == 255 and (np.diff(grey) > 0).all()


def test_colours_come_from_bt2020():
    """sRGB's green at 50 candela, which is a mixture in BT.2020 (its primaries by BT.2087)."""
    light = 50 * np.array([0.3293, 0.9195, 0.0880])
    coded = np.array([[[round(65535 * pq_signal(value)) for value in light]]], np.uint16)
    np.testing.assert_allclose(tone_mapped(coded, False)[0, 0], [0, srgb(50 / 203), 0], atol=6)


@pytest.mark.parametrize(("name", "codec", "options"), [("a.mkv", "ffv1", {}), ("a.mp4", "libx264", {"qp": "0"})])
@pytest.mark.parametrize("kind", SIGNALS)
def test_high_dynamic_range_clips_are_tone_mapped(tmp_path, kind, name, codec, options):
    """10 bit, limited range, 4:2:0: a grey that shows 50 candela."""
    signal, tag = SIGNALS[kind]
    frame = av.VideoFrame(32, 32, "yuv420p10le")
    for plane, value in zip(frame.planes, (round(64 + 876 * signal(50)), 512, 512), strict=True):
        plane.update(np.full(plane.buffer_size // 2, value, np.uint16).tobytes())
    frame.colorspace, frame.color_range, frame.color_trc, frame.color_primaries = 9, 1, tag, 9
    picture = shown(encode(tmp_path / name, [frame], codec, options))
    np.testing.assert_allclose(picture, np.full((32, 32, 3), srgb(50 / 203)), atol=2)


@pytest.mark.parametrize("kind", SIGNALS)
def test_alpha_of_high_dynamic_range_clips_lies_on_white(tmp_path, kind):
    """Hidden and whole in halves from the left, over a grey that shows 50 candela."""
    signal, tag = SIGNALS[kind]
    alpha = np.repeat(np.uint16([[0] * 16 + [1023] * 16]), 32, 0)
    planes = [np.full((32, 32), level, np.uint16) for level in (round(64 + 876 * signal(50)), 512, 512)]
    frame = av.VideoFrame(32, 32, "yuva444p10le")
    for plane, values in zip(frame.planes, [*planes, alpha], strict=True):
        plane.update(values.tobytes())
    frame.colorspace, frame.color_range, frame.color_trc, frame.color_primaries = 9, 1, tag, 9
    picture = shown(encode(tmp_path / "a.mkv", [frame], "ffv1"))
    np.testing.assert_allclose([picture[8, 8], picture[8, 24]], [WHITE, [srgb(50 / 203)] * 3], atol=2)
