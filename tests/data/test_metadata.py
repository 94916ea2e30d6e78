import json
import math
import os
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trip.data.video.metadata import MAX_BYTES, decode_metadata, encode_metadata, read_metadata, sidecar_path
from trip.data.video.writing import write_video

NAMES = ("clip.mp4", "clip.webm", "clip.gif", "clip.webp", "frames/")
HARD = 'a "cat"\'s\n\tünïcödé 😀 日本語 \\ $HOME `ls` %s <b>&amp;</b> = ; # \x00\x1f \u202e\u2028'

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
records = st.dictionaries(st.text().filter(lambda name: name not in ("schema", "version")), json_values)


def clip() -> np.ndarray:
    frames = np.zeros((3, 16, 16, 3), np.uint8)
    frames[1:, 4:8], frames[2, 9:12] = 99, 199
    return frames


@settings(max_examples=40, deadline=None)
@given(records)
def test_any_record_survives_the_encoding(record):
    text = encode_metadata(record)
    assert text.isascii() and "\n" not in text
    assert decode_metadata(text) == record
    assert decode_metadata(encode_metadata(record, indent=2)) == record


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(prompt=st.text(max_size=200), seed=st.integers(0, 2**64))
def test_any_prompt_survives_every_format(tmp_path, name, prompt, seed):
    record = {"prompt": prompt, "seed": seed}
    write_video(str(tmp_path) + "/" + name, clip(), 8, record)
    sidecar_path(tmp_path / name).unlink()
    assert read_metadata(tmp_path / name) == record


@pytest.mark.parametrize("name", NAMES)
def test_long_and_hard_prompts_and_the_side_car(tmp_path, name):
    path = tmp_path / name
    record = {
        "prompt": HARD * (10_240 // len(HARD) + 1),
        "seed": 2**64 - 1,
        "extra": {"list": [1, 2.5, None]},
    }
    write_video(str(tmp_path) + "/" + name, clip(), 8, record)
    assert read_metadata(path) == record
    beside = sidecar_path(path)
    assert beside.name == path.name + ".json"
    written = json.loads(beside.read_text(encoding="utf-8"))
    assert written == {"schema": "trip-clip", "version": 1, **record}
    assert read_metadata(beside) == record
    beside.unlink()
    assert read_metadata(path) == record


@pytest.mark.parametrize("name", NAMES)
def test_side_car_is_the_fallback_and_opt_out_leaves_nothing(tmp_path, name):
    path = tmp_path / name
    write_video(str(tmp_path) + "/" + name, clip(), 8, None)
    assert not sidecar_path(path).exists()
    with pytest.raises(ValueError, match="holds no record") as caught:
        read_metadata(path)
    assert "\n" not in str(caught.value)
    raw = b"".join(file.read_bytes() for file in ([path] if path.is_file() else path.iterdir()))
    assert b"schema" not in raw and str(tmp_path).encode() not in raw
    sidecar_path(path).write_text(encode_metadata({"seed": 3}))
    assert read_metadata(path) == {"seed": 3}


@pytest.mark.parametrize("name", NAMES)
def test_file_names_that_are_not_utf8_survive(tmp_path, name):
    record = {"image": os.fsdecode(b"caf\xe9.jpg")}
    write_video(str(tmp_path) + "/" + name, clip(), 8, record)
    assert read_metadata(tmp_path / name) == record


def test_opting_out_removes_only_trips_own_stale_side_car(tmp_path):
    path = tmp_path / "a.mp4"
    write_video(path, clip(), 8, {"prompt": "secret"})
    write_video(path, clip(), 8, None)
    assert not sidecar_path(path).exists()
    sidecar_path(path).write_text('{"mine": 1}')
    write_video(path, clip(), 8, None)
    assert sidecar_path(path).read_text() == '{"mine": 1}'


def test_errors(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        read_metadata(tmp_path / "no.mp4")
    (tmp_path / "broken.mp4").write_bytes(b"junk" * 99)
    (tmp_path / "broken.webp").write_bytes(b"junk" * 99)
    for name in ("broken.mp4", "broken.webp"):
        with pytest.raises(ValueError, match="holds no record"):
            read_metadata(tmp_path / name)
    with pytest.raises(ValueError, match="reserved name 'version'"):
        encode_metadata({"version": 2})
    for bad in (math.nan, math.inf, object(), {1, 2}):
        with pytest.raises(ValueError, match="cannot be stored as JSON"):
            encode_metadata({"x": bad})
    with pytest.raises(ValueError, match=f"more than {MAX_BYTES}"):
        encode_metadata({"prompt": "x" * MAX_BYTES})
    later = encode_metadata({}).replace('"version": 1', '"version": 2')
    with pytest.raises(ValueError, match="upgrade"):
        decode_metadata(later)


@pytest.mark.parametrize(
    "text", ["", "{}", "[1]", "null", "not json", '{"schema": "trip-clip"}', b"\xff\xfe", "[" * 9999]
)
def test_foreign_texts_are_no_record(text):
    assert decode_metadata(text) is None


def test_plain_values():
    record = {"image": Path("a/b.jpg"), "fps": Fraction(15, 2), "seed": np.int64(4), "g": np.float32(0.5)}
    assert decode_metadata(encode_metadata(record)) == {"image": "a/b.jpg", "fps": 7.5, "seed": 4, "g": 0.5}
