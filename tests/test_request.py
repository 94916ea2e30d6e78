"""Requests: one line a setting makes flag, record, schema and command; and what makes a clip again."""

import importlib.util
import inspect
import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import tyro
from hypothesis import given
from hypothesis import strategies as st

import trip.request
from trip.apps.options import Animate
from trip.data.video.frames import FPS_RANGE
from trip.fields import annotations
from trip.pipeline import TripPipeline
from trip.request import ClipRequest, ModelRequest, animate_command, foreign_flags, json_schema, record_of

HARD = 'a "cat"\'s\n\tünïcödé 😀 日本語 \\ $HOME `ls` %s <b>&amp;</b> = ; # \x00\x1f \u202e\u2028'

NEW_SETTING = '''
    wind: Annotated[float, within(0, 12)] = 3.0
    """How hard it blows, Beaufort."""
'''


@pytest.fixture
def windy(tmp_path: Path):
    """`trip.request` with one more line."""
    source = inspect.getsource(trip.request)
    line = '    negative_prompt: Annotated[str, arg(metavar="TEXT")] = ""'
    assert source.count(line) == 1
    file = tmp_path / "windy_request.py"
    file.write_text(source.replace(line, NEW_SETTING.strip("\n") + "\n" + line))
    spec = importlib.util.spec_from_file_location("windy_request", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["windy_request"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["windy_request"]


def test_one_line_makes_flag_record_schema_and_command(windy, capsys) -> None:
    request = tyro.cli(windy.ClipRequest, args=["a.jpg", "--wind", "7"])
    assert request.wind == 7.0
    record = windy.record_of(request)
    assert record["wind"] == 7.0 and "--wind 7.0" in windy.animate_command(record)
    assert windy.json_schema()["properties"]["wind"] == {
        "type": "number", "minimum": 0, "maximum": 12, "default": 3.0, "description": "How hard it blows, Beaufort.",
    }  # fmt: skip
    with pytest.raises(ValueError, match=r"wind \(=13.0\) must be in 0 to 12; correct it"):
        windy.ClipRequest(image=Path("a.jpg"), wind=13.0)
    with pytest.raises(SystemExit):
        tyro.cli(windy.ClipRequest, args=["--help"])
    assert "How hard it blows, Beaufort." in capsys.readouterr().out


def test_settings_are_the_flags_of_animate_and_none_has_two_meanings() -> None:
    requests = annotations(ClipRequest) | annotations(ModelRequest)
    assert len(requests) == len(annotations(ClipRequest)) + len(annotations(ModelRequest))
    assert requests.keys() < annotations(Animate).keys()


def test_what_the_pipeline_has_by_the_same_name_is_passed() -> None:
    own = {"image", "preset", "steps", "scheduler", "seed", "fps", "keyframe", "drag", "observe", "upscale"}
    assert annotations(ClipRequest).keys() - own <= inspect.signature(TripPipeline.__call__).parameters.keys()


def test_the_schema_is_json_and_takes_what_a_request_takes() -> None:
    schema = json.loads(json.dumps(json_schema()))
    assert schema["required"] == ["image"]
    assert schema["properties"]["preset"]["enum"][0] == "quality"
    assert schema["properties"]["scheduler"]["enum"][-1] is None
    assert all(one["description"] for one in schema["properties"].values())
    assert json_schema(ModelRequest)["properties"]["lora"]["type"] == "array"


@pytest.mark.parametrize(
    "setting, value, rule",
    [
        ("steps", 0, "at least 1"),
        ("guidance_rescale", 1.5, "in 0 to 1"),
        ("guidance_interval", "0.9,0.1", "LOW,HIGH with"),
        ("scheduler", "magic", "one of ddim, "),
        ("preset", "best", "one of quality, "),
        ("seed", -1, "in 0 to 9223372036854775807"),
        ("width", "wide", "a whole number or left out"),
    ],
)
def test_a_request_says_what_does_not_fit(setting: str, value: object, rule: str) -> None:
    with pytest.raises(ValueError, match=rf"^{setting} \(=.*\) must be {rule}"):
        ClipRequest(image=Path("a.jpg"), **{setting: value})


def test_frame_rates_are_those_that_clips_are_written_with() -> None:
    fps = json_schema()["properties"]["fps"]
    assert (fps["minimum"], fps["maximum"]) == FPS_RANGE


def test_a_record_holds_what_was_said() -> None:
    record = record_of(ClipRequest(image=Path("a/b.jpg"), seed=0), ModelRequest(device="cpu", lora=("x:0.5",)))
    assert (record["image"], record["seed"], record["lora"], record["preset"]) == ("a/b.jpg", 0, ("x:0.5",), "quality")
    assert not {"device", "prompt", "negative_prompt", "steps", "decode_chunk_size"} & record.keys()


def test_a_record_chooses_what_is_loaded_by_named_flags_alone() -> None:
    assert foreign_flags({"model": "trip-mini", "fusion": "f", "lora": ["a"], "fusion_module": "evil.py"}) == [
        "--fusion", "--lora",
    ]  # fmt: skip
    assert "evil" not in animate_command({"fusion_module": "evil.py", "debug": True})


# --------------------------------------------------------------------------------------------------- command


def test_command_lists_what_is_recorded_in_order():
    record = {
        "seed": 1, "prompt": "the camera pans left", "image": "my photo.jpg", "output": "out.mp4",
        "model": "x/y", "num_frames": 16, "steps": 25, "scheduler": "ddim", "guidance_scale": 7.5,
        "image_guidance_scale": 1.0, "motion_strength": 0.8, "fps": 8, "width": 72, "height": 56,
        "dtype": "bf16", "negative_prompt": "blurry", "device": "cpu", "unknown": 1,
    }  # fmt: skip
    assert animate_command(record) == (
        "trip animate 'my photo.jpg' --prompt 'the camera pans left' --output out.mp4 --negative-prompt blurry "
        "--num-frames 16 --steps 25 --scheduler ddim --guidance-scale 7.5 --image-guidance-scale 1.0 "
        "--motion-strength 0.8 --seed 1 --fps 8 --width 72 --height 56 --model x/y --dtype bf16"
    )
    assert animate_command({"image": "a.jpg", "seed": 0}) == "trip animate a.jpg --seed 0"
    assert animate_command({}) == "trip animate IMAGE"


def test_command_protects_leading_dashes_and_empty_texts():
    words = shlex.split(animate_command({"image": "-rf.jpg", "prompt": "--help me", "negative_prompt": ""}))
    assert words == ["trip", "animate", "./-rf.jpg", "--prompt=--help me", "--negative-prompt", ""]


@given(st.text(), st.text(min_size=1))
def test_command_splits_back(prompt, image):
    words = shlex.split(animate_command({"prompt": prompt, "image": image}))
    assert words[2].removeprefix("./") == image.removeprefix("./")
    assert (words[4] if len(words) == 5 else words[3].removeprefix("--prompt=")) == prompt


@pytest.mark.parametrize("prompt", [HARD.replace("\x00", ""), "it's\n'$(exit 3)' !! \"", "-x", "~"])
def test_a_real_shell_reads_the_command_back(prompt):
    command = animate_command({"image": "i.jpg", "prompt": prompt}).removeprefix("trip animate i.jpg ")
    shown = subprocess.run(["sh", "-c", f"printf '%s\\0' {command}"], capture_output=True, check=True, text=True)
    words = shown.stdout.split("\0")[:-1]
    assert words in (["--prompt", prompt], [f"--prompt={prompt}"])
