"""Frames for training: which are taken, how they look, and what is said of clips that cannot be used."""

import io
import os
import pickle
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import trip.data.video.containers as containers
from permissions import unprivileged
from trip.data.images import fit_image
from trip.data.sets.decoding import (
    FAULTS,
    ClipFault,
    Decoding,
    decode_clip,
    decode_example,
    inspect_clip,
    may_flip,
    nearest,
)
from trip.data.sets.examples import Example
from trip.data.video.reading import read_video

SMALL = (16, 16)


def settings(**changes) -> Decoding:
    return Decoding(**{"num_frames": 4, "fps": 8, "size": SMALL, "timeout": 60, **changes})


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# --------------------------------------------------------------------------------------------- which frames


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm", ".avi", ".mpg"])
def test_rate_is_resampled_from_any_start(clips, tmp_path, suffix):
    """24 fps to 8: every third frame; 14 frames leave the starts 0 ... 4."""
    path = clips.numbered(tmp_path / f"clip{suffix}", count=14, fps=24)
    samples = [clips.numbers(decode_clip(path, settings(), rng(seed))) for seed in range(40)]
    assert {tuple(s) for s in samples} == {(s, s + 3, s + 6, s + 9) for s in range(5)}


@pytest.mark.parametrize(
    ("source", "target", "expected"), [(30, 8, [0, 4, 8, 11]), (12, 8, [0, 1, 3, 4]), (8, 8, [0, 1, 2, 3])]
)
def test_nearest_frame_of_each_time(clips, tmp_path, source, target, expected):
    """30 fps: times 0, 3.75, 7.5 (a tie, up to the rounding of the container's clock), 11.25 frames."""
    path = clips.numbered(tmp_path / "clip.mp4", count=expected[-1] + 1, fps=source)
    found = clips.numbers(decode_clip(path, settings(fps=target), rng()))
    assert all(abs(a - i * source / target) <= 0.51 for i, a in enumerate(found))
    assert found[:2] == expected[:2] and found[3] == expected[3]


def test_own_frames(clips, tmp_path):
    path = clips.numbered(tmp_path / "clip.mp4", count=6, fps=30)
    samples = {tuple(clips.numbers(decode_clip(path, settings(fps=None), rng(seed)))) for seed in range(30)}
    assert samples == {(s, s + 1, s + 2, s + 3) for s in range(3)}


def test_slower_source_shows_frames_twice_until_it_is_a_fault(clips, tmp_path):
    path = clips.numbered(tmp_path / "clip.mp4", count=5, fps=6)
    assert clips.numbers(decode_clip(path, settings(num_frames=6), rng())) == [0, 1, 1, 2, 3, 4]
    with pytest.raises(ClipFault, match="6 fps are too slow for 10") as caught:
        decode_clip(path, settings(fps=10), rng())
    assert caught.value.reason == "bad_fps"


def test_variable_rate_follows_the_times_in_the_file(clips, tmp_path):
    """Four frames at 16 fps, then six at 4: their times decide, not their order."""
    times = [0, 50, 100, 150, *range(200, 1400, 200)]
    path = clips.numbered(tmp_path / "clip.mkv", count=10, times=times)
    found = clips.numbers(decode_clip(path, settings(num_frames=12), rng()))
    wanted = times[found[0]] + np.arange(12) * 100  # ticks
    gaps = np.abs(wanted - np.array(times)[found])
    assert (gaps <= np.abs(wanted[:, None] - np.array(times)).min(1) + 1).all()


def test_far_starts_after_many_key_frames(clips, tmp_path):
    path = clips.numbered(tmp_path / "clip.mp4", count=50, gop=7)
    for seed in range(8):
        found = clips.numbers(decode_clip(path, settings(), rng(seed)))
        assert found == list(range(found[0], found[0] + 4))


def test_a_file_without_an_index_is_read_from_its_beginning(clips, tmp_path, monkeypatch):
    path = clips.numbered(tmp_path / "clip.mp4", count=20)
    expected = decode_clip(path, settings(), rng(3))
    monkeypatch.setattr(containers._FFmpegClip, "seek", lambda *_: False)
    np.testing.assert_array_equal(decode_clip(path, settings(), rng(3)), expected)


def test_same_generator_same_sample(clips, tmp_path):
    path = clips.noisy(tmp_path / "clip.mp4")
    first, again, other = (decode_clip(path, settings(flip=True), rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@given(
    st.lists(st.integers(0, 500), min_size=1, max_size=30, unique=True),
    st.lists(st.integers(-50, 550), max_size=20, unique=True),
)
def test_nearest_is_the_nearest(times, wanted):
    times, wanted = sorted(times), sorted(wanted)
    found = [at for at, _ in nearest(((float(t), None) for t in times), [float(w) for w in wanted])]  # pyright: ignore
    assert found == [min(times, key=lambda t, w=w: (abs(t - w), t)) for w in wanted]


# ------------------------------------------------------------------------------------------------ how they look


@pytest.mark.parametrize("size", [(24, 24), (20, 40), (40, 20), (16, 64)])
def test_size_and_colours_are_those_of_the_package(clips, tmp_path, size):
    picture = np.zeros((48, 80, 3), np.uint8)
    picture[:, 20:60] = (200, 40, 30)
    picture[10:30] += 40
    path = clips.encode(tmp_path / "clip.mp4", [picture] * 4)
    frames = decode_clip(path, settings(size=size), rng())
    assert frames.shape == (4, *size, 3) and frames.dtype == np.uint8 and frames.flags.c_contiguous
    expected = fit_image(Image.fromarray(read_video(path).frames[2]), size[1], size[0])
    np.testing.assert_array_equal(frames[2], np.asarray(expected))


def test_flip_mirrors_half_of_the_clips_and_none_that_name_a_side(clips, tmp_path):
    picture = np.zeros((16, 16, 3), np.uint8)
    picture[:, 8:] = 255
    path = clips.encode(tmp_path / "clip.mp4", [picture] * 4)

    def mirrored(caption: str, flip: bool = True) -> int:
        chosen = settings(flip=flip)
        example = Example(key="x", video=path, caption=caption)
        return sum(decode_example(example, chosen, rng(seed))[0, 8, 2, 0] > 128 for seed in range(30))

    assert 6 < mirrored("a dog runs") < 24
    assert mirrored("a dog runs to the left") == 0
    assert mirrored("a dog runs", flip=False) == 0


@pytest.mark.parametrize(
    "caption",
    ["pans left", "RIGHT", "moves leftwards", "turns counterclockwise", "counter-clockwise", "anti-clockwise turn",
     "rotating clockwise.", "left-handed", "the rightmost cup", "on his right-hand side", "rightward"],
)  # fmt: skip
def test_sides_forbid_flipping(caption):
    assert not may_flip(caption)


@pytest.mark.parametrize("caption", ["", "a bright light", "copyrighted", "the clock is wise", "leftovers", "upright"])
def test_other_words_allow_flipping(caption):
    assert may_flip(caption)


# ------------------------------------------------------------------------------------------------------ faults


def test_every_kind_of_damage_has_its_reason(clips, open_folder):
    for name, reason in clips.broken_clips(open_folder).items():
        with unprivileged(), pytest.raises(ClipFault) as caught:
            decode_clip(open_folder / name, settings(), rng())
        fault = caught.value
        assert (fault.reason, fault.key) == (reason, str(open_folder / name)), fault
        assert "\n" not in str(fault) and fault.reason in FAULTS


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    for name, reason in {"pipe.mp4": "unreadable", "no.mp4": "missing", ".": "unreadable"}.items():
        with pytest.raises(ClipFault) as caught:
            decode_clip(tmp_path / name, settings(), rng(), key="k")
        assert (caught.value.reason, caught.value.key) == (reason, "k")


def test_too_short_at_the_rate(clips, tmp_path):
    path = clips.numbered(tmp_path / "clip.mp4", count=9, fps=24)
    with pytest.raises(ClipFault, match=r"9 frames \(0.38 s\) are too few for 4 at 8 fps") as caught:
        decode_clip(path, settings(), rng())
    assert caught.value.reason == "too_short"
    found = clips.numbers(decode_clip(path, settings(num_frames=3), rng()))
    assert found == [found[0], found[0] + 3, found[0] + 6]


def test_a_playlist_fetches_nothing(clips, tmp_path):
    (tmp_path / "list.mp4").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n")
    with pytest.raises(ClipFault):
        decode_clip(tmp_path / "list.mp4", settings(timeout=5), rng())


def test_limit_of_pixels(clips, tmp_path):
    path = clips.numbered(tmp_path / "clip.mp4", size=32)
    decode_clip(path, settings(max_pixels=32 * 32), rng())
    with pytest.raises(ClipFault, match="32x32 pixels exceed the limit of 1023") as caught:
        decode_clip(path, settings(max_pixels=32 * 32 - 1), rng())
    assert caught.value.reason == "too_large"


def test_slow_decoder_is_cut_off(clips, tmp_path, monkeypatch):
    path = clips.numbered(tmp_path / "clip.mp4", count=24)
    convert = containers.frame_to_rgb
    monkeypatch.setattr(containers, "frame_to_rgb", lambda *frame: (time.sleep(0.2), convert(*frame))[1])
    start = time.monotonic()
    with pytest.raises(ClipFault, match=r"not decoded within 0\.5 s") as caught:
        decode_clip(path, settings(num_frames=24, timeout=0.5), rng())
    assert caught.value.reason == "too_slow" and time.monotonic() - start < 2.4


class Slow(io.BytesIO):
    """Bytes that come as from a very slow drive."""

    def read(self, size=-1):
        time.sleep(0.1)
        return super().read(size if size < 0 else min(size, 2048))


def test_slow_reading_is_cut_off(clips, tmp_path, monkeypatch):
    content = clips.noisy(tmp_path / "clip.mp4").read_bytes()
    monkeypatch.setattr(containers.io, "BytesIO", Slow)
    start = time.monotonic()
    with pytest.raises(ClipFault) as caught:
        decode_clip(content, settings(timeout=0.5), rng(), key="k")
    assert caught.value.reason == "too_slow" and time.monotonic() - start < 2.4
    assert len(content) / 2048 * 0.1 > 3  # without a time-out it would take that long


def test_faults_travel_between_processes():
    fault = pickle.loads(pickle.dumps(ClipFault("a/b", "corrupt", "is damaged")))
    assert (fault.key, fault.reason, fault.message, str(fault)) == ("a/b", "corrupt", "is damaged", "a/b: is damaged")


@pytest.mark.parametrize(
    "change", [{"num_frames": 0}, {"size": (0, 4)}, {"fps": 0.0}, {"fps": float("nan")}, {"timeout": 0.0}]
)
def test_settings_out_of_range(change):
    with pytest.raises(ValueError, match=r"\(="):
        settings(**change)


# ------------------------------------------------------------------------------------------------------- facts


def test_facts(clips, tmp_path):
    """Grey levels rise by 5 a frame at 24 fps, hence by 15 a frame at 8."""
    path = clips.numbered(tmp_path / "clip.mp4", count=24, fps=24)
    facts = inspect_clip(path, settings())
    assert (facts.frames, facts.width, facts.height) == (24, 32, 32)
    assert facts.seconds == pytest.approx(1) and facts.fps == pytest.approx(24)
    assert facts.motion == pytest.approx(3 * clips.STEP, abs=0.5)
    assert inspect_clip(path, settings(fps=None)).motion == pytest.approx(clips.STEP, abs=0.3)


def test_damage_outside_the_sample_is_found(clips, tmp_path):
    """A sample from the start decodes; the whole clip does not."""
    content = clips.scrambled(clips.noisy(tmp_path / "clip.mp4").read_bytes())
    with pytest.raises(ClipFault) as caught:
        inspect_clip(content, settings(num_frames=2), key="k")
    assert caught.value.reason == "corrupt"
