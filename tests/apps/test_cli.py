"""The command line, run in process on a tiny random pipeline: what it makes, and every way it can fail."""

import json
import os
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from peft import LoraConfig
from PIL import Image
from safetensors.torch import load_file, save_file

from permissions import unprivileged
from trip.apps.cli import main
from trip.apps.jobs import collect_jobs
from trip.apps.options import Animate
from trip.data.video.metadata import encode_metadata, read_metadata, sidecar_path
from trip.data.video.reading import read_video
from trip.data.video.writing import write_video
from trip.files import MARK
from trip.pipeline import TripPipeline
from trip.presets import PRESETS, SCHEDULERS, SamplingPreset
from trip.request import ClipRequest, ModelRequest, animate_command
from trip.studio import MadeClip, Studio

pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")


@pytest.fixture
def run(model, capsys):
    """Run `trip`; returns (exit code, stdout lines, stderr lines)."""

    def call(*argv, with_model=True):
        arguments = [str(a) for a in argv]
        if with_model:
            arguments += ["--model", str(model)]
        if arguments[0] == "animate" and "--steps" not in arguments:
            arguments += ["--steps", "2"]
        code = main(arguments)
        captured = capsys.readouterr()
        return code, captured.out.splitlines(), captured.err.splitlines()

    return call


@pytest.fixture
def fails(run, tmp_path):
    """Run `trip`, which must say one line with the given words, exit with 2 and leave nothing in tmp_path/out."""
    out = tmp_path / "out"
    out.mkdir()

    def call(*words, argv, **options):
        code, _, err = run(*argv, **options)
        assert code == 2
        assert len(err) == 1 and err[0].startswith("trip: error: "), err
        for word in words:
            assert word in err[0]
        assert "Traceback" not in err[0]
        assert os.listdir(out) == []
        return err[0]

    return call


# ------------------------------------------------------------------------------------------------ what it makes


def test_one_picture_becomes_a_clip_with_its_record(run, picture, tmp_path):
    out = tmp_path / "new" / "clip.mp4"
    code, stdout, stderr = run("animate", picture, "--prompt", "pan left", "--output", out, "--seed", 3)
    assert (stderr, code, stdout) == ([], 0, [str(out)])
    video = read_video(out)
    assert len(video.frames) == 4 and video.fps == 8
    height, width = video.frames.shape[1:3]
    assert (width, height) == (20, 14)  # 3:2 at the area of 16x16, even sides
    record = read_metadata(out)
    assert record["prompt"] == "pan left" and record["seed"] == 3 and record["steps"] == 2
    assert record["guidance_scale"] == 7.5 and record["dtype"] == "float32"
    assert sidecar_path(out).exists()
    assert sorted(os.listdir(out.parent)) == ["clip.mp4", "clip.mp4.json"]


def test_the_recorded_command_makes_the_same_bytes(run, picture, tmp_path, capsys):
    out = tmp_path / "clip.webp"
    assert run("animate", picture, "--prompt", "pan", "--output", out, "--preset", "draft")[0] == 0
    before = out.read_bytes()
    code, stdout, _ = run("info", out, "--json", with_model=False)
    record = json.loads("\n".join(stdout))
    assert code == 0 and record["command"].startswith("trip animate ")
    out.unlink()

    assert main(shlex.split(record["command"])[1:]) == 0
    assert out.read_bytes() == before
    code, stdout, _ = run("info", out, with_model=False)
    assert code == 0 and stdout[-2:] == [
        record["command"],
        f"# {record['warning']}",
    ]  # the model is not the bundled one


def test_no_metadata_leaves_no_record(run, picture, tmp_path):
    out = tmp_path / "clip.mp4"
    assert run("animate", picture, "--prompt", "pan", "--output", out, "--no-metadata")[0] == 0
    assert os.listdir(tmp_path) == ["clip.mp4"]
    code, _, stderr = run("info", out, with_model=False)
    assert code == 2 and len(stderr) == 1 and "no record" in stderr[0]


def test_count_makes_consecutive_seeds(run, picture, tmp_path):
    out = tmp_path / "clip.gif"
    code, stdout, _ = run("animate", picture, "--prompt", "pan", "--output", out, "--count", 2, "--seed", 7)
    assert code == 0 and stdout == [str(tmp_path / "clip-1.gif"), str(tmp_path / "clip-2.gif")]
    assert [read_metadata(path)["seed"] for path in stdout] == [7, 8]


def test_a_folder_is_resumed_and_survives_a_bad_picture(run, picture, tmp_path):
    folder, out = tmp_path / "photos", tmp_path / "clips"
    folder.mkdir()
    for name in "ac":
        shutil.copy(picture, folder / f"{name}.png")
    (folder / "b.png").write_text("this is a text")
    (folder / "notes.txt").write_text("not a picture")
    argv = ("animate", folder, "--prompt", "pan", "--output", out, "--seed", 1)
    code, stdout, stderr = run(*argv)
    assert code == 2 and stdout == [str(out / "a.mp4"), str(out / "c.mp4")]
    assert len(stderr) == 2 and "b.png" in stderr[0] and "1 of 3 clips failed" in stderr[1]
    assert sorted(os.listdir(out)) == ["a.mp4", "a.mp4.json", "c.mp4", "c.mp4.json"]
    before = (out / "a.mp4").stat().st_mtime_ns
    code, stdout, stderr = run(*argv)
    assert code == 2 and stdout == [] and "skipping 2 of 3" in stderr[0]
    shutil.copy(picture, folder / "b.png")
    code, stdout, _ = run(*argv)
    assert code == 0 and stdout == [str(out / "b.mp4")]
    assert (out / "a.mp4").stat().st_mtime_ns == before
    code, stdout, stderr = run(*argv)
    assert (code, stdout) == (0, []) and "skipping 3 of 3" in stderr[0]
    assert run(*argv, "--overwrite")[1] == [str(out / f"{name}.mp4") for name in "abc"]


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_a_list_gives_prompts_seeds_and_outputs(run, picture, tmp_path, suffix):
    shutil.copy(picture, tmp_path / "one.png")
    rows = [{"image": "one.png", "prompt": "pan, left", "seed": 5, "output": "first.webp"}, {"image": "one.png"}]
    path = tmp_path / f"list.{suffix}"
    if suffix == "csv":
        path.write_text('\ufeffimage,prompt,seed,output\none.png,"pan, left",5,first.webp\none.png,,,\n', "utf-8")
    else:
        path.write_text("\n\n".join(map(json.dumps, rows)))
    code, stdout, _ = run("animate", path, "--prompt", "zoom", "--output", tmp_path / "clips", "--format", "gif")
    assert code == 0
    assert stdout == [str(tmp_path / "clips" / "first.webp"), str(tmp_path / "clips" / "one.gif")]
    first, second = map(read_metadata, stdout)
    assert (first["prompt"], first["seed"], second["prompt"]) == ("pan, left", 5, "zoom")


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler_runs(run, picture, tmp_path, name):
    out = tmp_path / "clip.webp"
    argv = ("animate", picture, "--prompt", "pan", "--output", out, "--scheduler", name, "--steps", 4)
    code, _, stderr = run(*argv, "--guidance-scale", 1)
    assert code == 0, stderr
    assert read_metadata(out)["scheduler"] == name


def test_quality_is_what_no_preset_means(run, picture, tmp_path):
    argv = ("animate", picture, "--prompt", "pan", "--seed", 3, "--no-metadata", "--output")
    whole = ("--preset", "quality", "--guidance-interval", "0,1", "--guidance-every", 1)
    for name, flags in {"plain": (), "whole": whole, "fast": ("--preset", "fast")}.items():
        assert run(*argv, tmp_path / f"{name}.webp", *flags)[0] == 0
    plain, whole, fast = ((tmp_path / f"{name}.webp").read_bytes() for name in ("plain", "whole", "fast"))
    assert plain == whole != fast


def test_a_preset_is_recorded_with_what_it_set(run, picture, tmp_path):
    out = tmp_path / "clip.webp"
    argv = ("animate", picture, "--prompt", "pan", "--output", out)
    assert run(*argv, "--preset", "draft", "--guidance-interval", "0.25,1")[0] == 0
    record = read_metadata(out)
    assert (record["preset"], record["guidance_interval"]) == ("draft", "0.25,1")
    assert record["guidance_every"] == PRESETS["draft"].guidance_every
    assert run(*argv)[0] == 0
    record = read_metadata(out)
    assert (record["preset"], record["guidance_interval"], record["guidance_every"]) == ("quality", "0,1", 1)


def test_float8_weights_are_recorded_and_the_size_of_chunks_does_not_matter(run, picture, tmp_path):
    for name, flags in {"a": [], "b": ["--decode-chunk-size", 3], "c": ["--weights-dtype", "float8"]}.items():
        common = ["--prompt", "pan", "--seed", 1, "--output", tmp_path / f"{name}.gif"]
        assert run("animate", picture, *common, *flags)[0] == 0
    plain, chunked, small = (read_video(tmp_path / f"{name}.gif").frames for name in "abc")
    assert np.array_equal(plain, chunked) and not np.array_equal(plain, small)
    assert read_metadata(tmp_path / "c.gif")["weights_dtype"] == "float8"
    assert "--weights-dtype float8" in animate_command(read_metadata(tmp_path / "c.gif"))


def test_flags_take_precedence_over_the_preset(tmp_path):
    plain = {"image": tmp_path / "a.png", "output": "a.mp4", "preset": "fast"}
    assert Animate(**plain).sampling() == PRESETS["fast"]
    flags = {"steps": 3, "guidance_interval": "0.1,0.9", "guidance_every": 4, "scheduler": "ddim"}
    expected = SamplingPreset(steps=3, guidance_interval=(0.1, 0.9), guidance_every=4)
    assert Animate(**plain, **flags).sampling() == expected


def test_motion_strength_zero_is_the_still(run, picture, tmp_path):
    assert run("animate", picture, "--prompt", "pan", "--output", tmp_path / "f/", "--motion-strength", 0)[0] == 0
    frames = read_video(tmp_path / "f").frames
    assert np.abs(frames.astype(int) - frames[:1]).max() <= 1


def test_calibrate_writes_a_fusion_that_animate_takes(run, picture, text_to_video, tmp_path):
    data, fusion, out = tmp_path / "clips", tmp_path / "fusion", tmp_path / "clip.webp"
    data.mkdir()
    for k, frames in enumerate((4, 4, 2)):
        shade = np.linspace(0, 40 * k + 40, frames, dtype=np.uint8)[:, None, None, None]
        write_video(data / f"{k}.gif", np.full((frames, 20, 30, 3), 100, np.uint8) + shade)
    (data / "1.txt").write_text("it gets bright")
    code, stdout, stderr = run(
        *("calibrate", "--model", text_to_video, "--data", data, "--output", fusion),
        *("--num-frames", 4, "--timesteps", 3),
        with_model=False,
    )
    assert code == 0 and stdout == [str(fusion)]
    assert "leaving out" in stderr[0] and "2.gif" in stderr[0] and "measured 2 clips" in stderr[1]
    config = json.loads((fusion / "config.json").read_text())
    assert len(config["sigma"]) == 4 and config["sigma"][0] == 0 < config["sigma"][3]
    assert config["tau_timesteps"] == [0, 500, 999] and config["tau"][0] < config["tau"][2]
    argv = ("animate", picture, "--prompt", "pan", "--output", out, "--model", text_to_video, "--fusion", fusion)
    assert run(*argv, with_model=False)[0] == 0
    assert read_metadata(out)["fusion"] == str(fusion)
    assert len(read_video(out).frames) == 4


def test_calibrate_refuses_a_model_that_sees_the_image(fails, model, tmp_path):
    data = tmp_path / "clips"
    data.mkdir()
    fails("no clips", argv=("calibrate", "--data", data, "--output", tmp_path / "out"))
    write_video(data / "a.gif", np.zeros((4, 20, 30, 3), np.uint8))
    fails("sees the image", argv=("calibrate", "--data", data, "--output", tmp_path / "out"))


def test_calibrate_leaves_nothing_and_replaces_only_what_it_wrote(fails, run, picture, text_to_video, tmp_path):
    data, out = tmp_path / "clips", tmp_path / "out"
    data.mkdir()
    write_video(data / "a.mp4", np.random.default_rng(0).integers(0, 255, (4, 20, 30, 3), np.uint8))
    argv = ("calibrate", "--model", text_to_video, "--data", data)
    code, _, stderr = run(*argv, "--output", out / "new", with_model=False)
    assert code == 2 and "4 frames, 16 are needed" in stderr[0]
    assert stderr[1].startswith(f"trip: error: {data} has no clip of 16 frames; give longer ones") and not any(
        out.iterdir()
    )
    few = ("--num-frames", 3, "--timesteps", 2)
    fails(
        "--timesteps (=1) must be at least 2", argv=(*argv, "--output", out / "new", "--timesteps", 1), with_model=False
    )
    other = tmp_path / "other"
    for name, text in (("config.json", '{"mine": 1}'), ("diffusion_pytorch_model.safetensors", "x")):
        other.mkdir(exist_ok=True)
        (other / name).write_text(text)
        fails(f"holds other files ({name})", argv=(*argv, "--output", other, *few), with_model=False)
        (other / name).unlink()
    (tmp_path / "photo.png").touch()
    for place in (tmp_path / "photo.png" / "fusion", "/proc/fusion"):
        line = fails(f"{place}: ", argv=(*argv, "--output", place, *few), with_model=False)
        assert "measur" not in line
    for _ in range(2):  # the second time it is its own
        assert run(*argv, "--output", out / "new", *few, with_model=False)[0] == 0
    assert sorted(path.name for path in (out / "new").iterdir()) == [
        "config.json",
        "diffusion_pytorch_model.safetensors",
    ]
    animate = ("animate", picture, "--prompt", "pan", "--output", tmp_path / "clip.webp", "--model", text_to_video)
    code, _, stderr = run(*animate, "--fusion", out / "new", "--num-frames", 4, with_model=False)
    assert code == 2 and "num_frames (=4) exceeds the fusion's 3; shorten the clip, or calibrate" in stderr[-1]


# ------------------------------------------------------------------------------------------------- how it fails


def truncated(path, picture):
    Image.open(picture).resize((64, 64)).save(path, "JPEG")
    path.write_bytes(path.read_bytes()[:400])


def huge_header(path, picture):
    """A PNG whose header says 20,000 x 20,000."""
    import struct
    import zlib

    header = b"IHDR" + struct.pack(">IIBBBBB", 20000, 20000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT" + b"\x35\xaf\x06\x1e")


BAD_PICTURES = {
    "truncated.jpg": truncated,
    "empty.png": lambda path, picture: path.touch(),
    "text.png": lambda path, picture: path.write_text("hello"),
    "one_pixel.png": lambda path, picture: Image.new("RGB", (1, 1)).save(path),
    "huge.png": huge_header,
    "missing.png": lambda path, picture: None,
}


@pytest.mark.parametrize("name", BAD_PICTURES)
def test_bad_picture(fails, picture, tmp_path, name):
    path = tmp_path / name
    BAD_PICTURES[name](path, picture)
    fails(name, "; ", argv=("animate", path, "--prompt", "pan", "--output", tmp_path / "out" / "clip.mp4"))


CASES = {
    "prompt of 10,000 words": (["--prompt", "word " * 10_000], ["tokens", "32", "shorten"]),
    "no prompt": ([], ["--prompt"]),
    "unknown scheduler": (["--prompt", "pan", "--scheduler", "magic"], ["'magic'", *SCHEDULERS]),
    "unknown preset": (["--prompt", "pan", "--preset", "best"], ["'best'", *PRESETS]),
    "interval backwards": (
        ["--prompt", "pan", "--guidance-interval", "1,0.4"],
        ["--guidance-interval (='1,0.4')", "LOW"],
    ),
    "no interval": (["--prompt", "pan", "--guidance-interval", "half"], ["--guidance-interval (='half')", "0.4,1"]),
    "never guided": (["--prompt", "pan", "--guidance-every", "0"], ["--guidance-every", "0", "at least 1"]),
    "too many frames": (["--prompt", "pan", "--num-frames", "5"], ["num_frames", "5", "4"]),
    "no frames": (["--prompt", "pan", "--num-frames", "0"], ["--num-frames", "0"]),
    "no steps": (["--prompt", "pan", "--steps", "0"], ["--steps", "0"]),
    "width not allowed": (["--prompt", "pan", "--width", "17"], ["width", "17", "multiple of 2"]),
    "negative strength": (["--prompt", "pan", "--motion-strength=-1"], ["--motion-strength", "-1"]),
    "fps": (["--prompt", "pan", "--fps", "0"], ["fps"]),
    "seed": (["--prompt", "pan", "--seed=-1"], ["seed", "-1"]),
    "count": (["--prompt", "pan", "--count", "0"], ["--count", "0"]),
    "device": (["--prompt", "pan", "--device", "warp9"], ["warp9", "cpu"]),
    "fusion": (["--prompt", "pan", "--fusion", "nowhere"], ["nowhere"]),
    "offload from a CPU": (["--prompt", "pan", "--device", "cpu", "--offload", "group"], ["'group'", "a CPU"]),
    "compiled float8": (["--prompt", "pan", "--compile", "--weights-dtype", "float8"], ["float8", "not compiled"]),
    "nothing decoded": (["--prompt", "pan", "--decode-chunk-size", "0"], ["--decode-chunk-size", "0", "at least 1"]),
    "unknown flag": (["--prompt", "pan", "--bad", "1"], ["--bad"]),
    "no number": (["--prompt", "pan", "--num-frames", "many"], ["--num-frames", "many"]),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_setting(fails, picture, tmp_path, case):
    flags, words = CASES[case]
    fails(*words, argv=("animate", picture, "--output", tmp_path / "out" / "clip.mp4", *flags))


def test_bad_output(fails, picture, tmp_path):
    argv = ("animate", picture, "--prompt", "pan", "--output")
    fails("'.xyz'", ".mp4", argv=(*argv, tmp_path / "out" / "clip.xyz"))
    fails("picture.png", argv=(*argv, picture / "clip.mp4"))
    (tmp_path / "folder.mp4").mkdir()
    fails("is a folder", argv=(*argv, tmp_path / "folder.mp4"))
    fails("must be a folder", argv=("animate", picture.parent, *argv[2:], tmp_path / "out.mp4"))


BAD_LISTS = {
    "no_image.csv": ("picture,prompt\na.png,b\n", "image"),
    "unquoted.csv": ("image,prompt\na.png,pan, left\n", "quote"),
    "seed.jsonl": ('{"image": "a.png", "prompt": "b", "seed": "x"}', "'x'"),
    "column.jsonl": ('{"image": "a.png", "promt": "b"}', "'promt'"),
    "broken.jsonl": ('{"image": ', "line 1"),
    "array.jsonl": ("[1]", "line 1"),
    "empty.jsonl": ("", "no pictures"),
}


@pytest.mark.parametrize("name", BAD_LISTS)
def test_bad_list(fails, tmp_path, name):
    text, word = BAD_LISTS[name]
    (tmp_path / name).write_text(text)
    fails(word, argv=("animate", tmp_path / name, "--output", tmp_path / "out"))


def drop(path):
    path.unlink()


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def scramble(path):
    path.write_bytes(b"\xff" * 1000)


DAMAGE = {
    "missing weights": ("unet/diffusion_pytorch_model.safetensors", drop, "safetensors"),
    "truncated weights": ("vae/diffusion_pytorch_model.safetensors", cut, "vae"),
    "corrupt weights": ("text_encoder/model.safetensors", scramble, "text_encoder"),
    "missing index": ("model_index.json", drop, "model_index.json"),
    "corrupt index": ("model_index.json", scramble, "model_index.json"),
    "corrupt config": ("unet/config.json", scramble, "model"),
    "missing config": ("fusion/config.json", drop, "model"),
    "missing tokenizer": ("tokenizer", shutil.rmtree, "tokenizer"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_model(fails, picture, model, tmp_path, case):
    file, damage, word = DAMAGE[case]
    broken = tmp_path / "broken"
    shutil.copytree(model, broken)
    damage(broken / file)
    argv = ("animate", picture, "--prompt", "pan", "--output", tmp_path / "out" / "clip.mp4", "--model", broken)
    fails(word, argv=argv, with_model=False)


@pytest.mark.parametrize("name", ["./nowhere", "no/such/folder", "nowhere", "someone/no-such-model"])
def test_unknown_model(fails, picture, tmp_path, monkeypatch, name):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    argv = ("animate", picture, "--prompt", "pan", "--output", tmp_path / "out" / "clip.mp4", "--model", name)
    fails(name, argv=argv, with_model=False)


def test_nan_weights(fails, picture, model, tmp_path):
    broken = tmp_path / "nan"
    shutil.copytree(model, broken)
    file = broken / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    save_file({k: torch.full_like(v, torch.nan) if k == "conv_out.bias" else v for k, v in weights.items()}, file)
    argv = ("animate", picture, "--prompt", "pan", "--output", tmp_path / "out" / "clip.mp4", "--model", broken)
    fails("NaN", "conv_out.bias", argv=argv, with_model=False)


def test_read_only_folder(run, picture, world):
    locked = world / "locked"
    locked.mkdir(mode=0o555, exist_ok=True)
    for output in (locked / "clip.mp4", locked / "new" / "clip.mp4"):
        with unprivileged():
            code, _, stderr = run("animate", picture, "--prompt", "pan", "--output", output)
        assert code == 2 and len(stderr) == 1
        assert str(locked) in stderr[0] and "Permission denied; " in stderr[0]
    assert os.listdir(locked) == []


@contextmanager
def largest_file(size):
    """No file may grow beyond `size` bytes: writing fails as on a full disk (EFBIG for ENOSPC)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


@pytest.mark.parametrize("suffix", [".mp4", ".gif", ".webp", "/"])
def test_files_cannot_grow(fails, picture, tmp_path, suffix):
    with largest_file(200):
        output = f"{tmp_path / 'out' / 'clip'}{suffix}"
        fails("cannot write", argv=("animate", picture, "--prompt", "pan", "--output", output))


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".gif", "/"])
def test_full_folder(run, picture, tmp_path, suffix):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("mounting is not permitted here")
    try:
        (disk / "filler").write_bytes(b"x" * 12_000)
        code, _, stderr = run("animate", picture, "--prompt", "pan", "--output", disk / f"clip{suffix}")
        assert code == 2 and len(stderr) == 1
        assert "No space left" in stderr[0] and "free some space" in stderr[0]
        assert os.listdir(disk) == ["filler"]
    finally:
        subprocess.run(["umount", disk], check=True)


def interrupted(*arguments):
    raise KeyboardInterrupt


def interrupted_frames(clip, on_event):
    yield clip.frames[0]
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    "owner, method, replacement", [(Studio, "_sample", interrupted), (MadeClip, "_told", interrupted_frames)]
)
def test_interrupt_leaves_nothing(run, picture, tmp_path, monkeypatch, owner, method, replacement):
    out = tmp_path / "out"
    monkeypatch.setattr(owner, method, replacement)
    code, stdout, stderr = run("animate", picture, "--prompt", "pan", "--output", out / "clip.mp4")
    assert (code, stdout, stderr) == (130, [], ["trip: interrupted"])
    assert os.listdir(out) == []


def test_debug_shows_the_traceback(picture, tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        main(["animate", str(tmp_path / "none.png"), "--prompt", "x", "--output", str(tmp_path / "a.mp4"), "--debug"])


def test_info_of_a_foreign_file(fails, picture):
    fails("no record", argv=("info", picture), with_model=False)


# ------------------------------------------------------------------------------------------------- strangers' lists


def test_rows_that_cannot_be_made_do_not_stop_a_list(run, picture, tmp_path):
    """No prompt, no picture, no number, not JSON, no text: each is said, the rest is made."""
    rows = [
        {"image": str(picture)},
        {"image": str(picture), "prompt": "pan\u2028left", "output": "good.gif"},
        {"prompt": "pan"},
        {"image": str(picture), "prompt": "pan", "seed": 1.5},
        {"image": ["a"], "prompt": "pan"},
        {"image": str(picture), "prompt": "\ud800"},
        {"image": str(picture), "prompt": "pan", "output": "a.xyz"},
        {"image": str(picture), "prompt": "pan", "output": "./good.gif"},
    ]
    lines = [json.dumps(row, ensure_ascii=k != 1) for k, row in enumerate(rows)]
    (tmp_path / "list.jsonl").write_text("\n".join([*lines[:5], "{broken", *lines[5:]]), encoding="utf-8-sig")
    code, stdout, stderr = run("animate", tmp_path / "list.jsonl", "--output", tmp_path / "out")
    assert code == 2 and stdout == [str(tmp_path / "out" / "good.gif")]
    assert read_metadata(stdout[0])["prompt"] == "pan\u2028left"
    assert stderr[-1].startswith("trip: error: 8 of 9 clips failed")
    words = (
        "no prompt; give one in",
        "no image",
        "1.5",
        "is no text",
        "line 6 is not JSON",
        "not UTF-8",
        "'.xyz'",
        "both become",
    )
    assert len(stderr) == 9 and all(any(word in line for line in stderr) for word in words)


@pytest.mark.parametrize("text", ["image,prompt\n{},pan\n", 'prompt, image\r\n"a, b",{}\r\n'])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_lists_are_read_in_the_encodings_that_editors_save(tmp_path, picture, text, encoding):
    path = tmp_path / "list.csv"
    path.write_text(text.format(picture), encoding=encoding, newline="")
    (job,), faults = collect_jobs(Animate(image=path, output=str(tmp_path / "out")))
    assert job.request.image == picture and not faults


OUTSIDE = [
    *(
        "../x.gif",
        "a/../../x.gif",
        "/tmp/x.gif",
        "..\\x.gif",
        "C:\\x.gif",
        "c:x.gif",
        "\\\\host\\x.gif",
        "~/../x.gif/..",
    ),
    *(
        "link/x.gif",
        "nul.gif",
        "sub/CON",
        "com1.tar.gif",
        "aux .mp4",
        "x\n.gif",
        "\x1b[31m.gif",
        "\u202egif.x.gif",
        "..",
        ".",
    ),
]


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_list_writes_inside_its_output_folder_only(fails, picture, tmp_path, name):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "link").symlink_to(elsewhere)
    path = tmp_path / "list.jsonl"
    path.write_text(json.dumps({"image": str(picture), "prompt": "pan", "output": name}))
    before = sorted(tmp_path.rglob("*"))
    line = fails("line 1", argv=("animate", path, "--output", tmp_path / "clips"))
    assert line.isprintable() and sorted(tmp_path.rglob("*")) == before


def test_a_side_car_never_overwrites_a_strangers_file(fails, run, picture, tmp_path):
    stranger = tmp_path / "package.json"
    for text in ('{"name": "mine"}', "", "[" * 9999):
        stranger.write_text(text)
        for output in (f"{tmp_path / 'package'}/", tmp_path / "package"):
            fails("package.json", "--no-metadata", argv=("animate", picture, "--prompt", "x", "--output", output))
        assert stranger.read_text() == text
    assert run("animate", picture, "--prompt", "x", "--output", tmp_path / "package", "--no-metadata")[0] == 0
    assert stranger.exists() and (tmp_path / "package" / "frame_0000.png").exists()
    own = tmp_path / "clip.gif"
    for _ in range(2):  # one of ours is replaced
        assert run("animate", picture, "--prompt", "x", "--output", own)[0] == 0


def test_what_a_killed_run_left_is_swept_by_the_next(run, picture, tmp_path):
    left = tmp_path / "clips" / ".trip-ab12cd_3"
    left.mkdir(parents=True)
    for name in (MARK, "clip.mp4"):
        (left / name).write_bytes(b"half")
    assert run("animate", picture, "--prompt", "x", "--output", tmp_path / "clips" / "clip.gif")[0] == 0
    assert sorted(os.listdir(tmp_path / "clips")) == ["clip.gif", "clip.gif.json"]


# ------------------------------------------------------------------------------------------------------------ adapters


@pytest.fixture(scope="module")
def lora(model, tmp_path_factory):
    """What `trip train --trainable lora` writes, and the same by the pipeline's `save_lora_weights`."""
    folder = tmp_path_factory.mktemp("adapters")
    pipe = TripPipeline.from_pretrained(model)
    torch.manual_seed(0)
    pipe.unet.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    pipe.unet.save_lora_adapter(folder / "own")
    own = load_file(folder / "own" / "pytorch_lora_weights.safetensors")
    (folder / "c:\\whole").mkdir()
    save_file({f"unet.{key}": value for key, value in own.items()}, folder / "c:\\whole" / "a.safetensors")
    return folder


def test_adapters_change_the_clip_by_their_weight_and_are_recorded(run, picture, lora, tmp_path):
    own, whole = lora / "own", lora / "c:\\whole"
    cases = {
        "none": [],
        "off": ["--lora", f"{own}:0"],
        "own": ["--lora", own],
        "whole": ["--lora", f"{whole}:1.0"],
        "both": ["--lora", f"{own}:0.5", "--lora", f"{whole}:0.5"],
        "half": ["--lora", f"{own}:0.5"],
    }
    clips = {}
    for name, flags in cases.items():
        out = tmp_path / name
        code, _, stderr = run("animate", picture, "--prompt", "pan", "--seed", 1, "--output", f"{out}/", *flags)
        assert code == 0, stderr
        clips[name] = read_video(out).frames.astype(int)
    assert np.array_equal(clips["none"], clips["off"]) and np.array_equal(clips["own"], clips["whole"])
    assert np.abs(clips["both"] - clips["own"]).max() <= 1
    assert all(not np.array_equal(clips["half"], clips[name]) for name in ("none", "own"))
    record = read_metadata(tmp_path / "both")
    assert record["lora"] == [f"{own}:0.5", f"{whole}:0.5"]
    words = shlex.split(animate_command(record))
    assert [words[k + 1] for k, word in enumerate(words) if word == "--lora"] == record["lora"]


@pytest.mark.parametrize("value", ["nowhere", "nowhere:0.5", "{own}:nan", "{own}:much", "{model}/unet", "{picture}"])
def test_bad_adapters_are_said_before_the_model_is_loaded(fails, picture, model, lora, tmp_path, value):
    value = value.format(own=lora / "own", model=model, picture=picture)
    out = tmp_path / "out" / "clip.mp4"
    fails("; ", argv=("animate", picture, "--prompt", "pan", "--output", out, "--lora", value))


# ------------------------------------------------------------------------------------------------ strangers' records


def test_a_shared_clip_names_files_and_no_folders_of_its_maker(run, picture, model, tmp_path):
    out = tmp_path / "private" / "clip.gif"
    assert run("animate", picture, "--prompt", "x", "--output", out)[0] == 0
    for private in (picture.parent, out.parent, model.parent):
        assert str(private).encode() not in out.read_bytes()
    assert read_metadata(out)["image"] == str(picture)  # from the side-car, which stays
    sidecar_path(out).unlink()
    record = read_metadata(out)
    assert (record["image"], record["output"], record["model"]) == (picture.name, "clip.gif", model.name)


HOSTILE = {
    "escapes": {"image": "\x1b]0;owned\x07a.png", "prompt": "a\nb\u202e'$(id)`id`", "\x1b[2J": "\x9b31m"},
    "wrong types": {
        "image": ["x"],
        "prompt": {"a": 1},
        "seed": None,
        "fps": True,
        "output": 3,
        "model": [[]],
        "lora": 7,
    },
    "surrogates": {"image": "\ud800", "prompt": "\udcff", "model": "\udc80"},
    "huge": {"prompt": "x" * 400_000, "seed": 10**4000},
    "flags": {"prompt": "--output=/etc/passwd", "image": "--model", "scheduler": "-x"},
    "empty": {},
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_info_shows_a_strangers_record_without_harm(run, tmp_path, name, flags):
    path = tmp_path / "clip.gif.json"
    path.write_text(json.dumps({"schema": "trip-clip", "version": 1, **HOSTILE[name]}))
    code, stdout, stderr = run("info", path, *flags, with_model=False)
    assert (code, stderr) == (0, []) and all(line.isprintable() for line in stdout)
    if flags:
        words = shlex.split(json.loads("\n".join(stdout))["command"])
    else:
        command = next(line for line in stdout if line.startswith("trip animate"))
        script = f"printf '%s\\0' {command}".encode()
        made = subprocess.run(["bash"], input=script, capture_output=True, check=True)
        words = made.stdout.decode("utf-8", "surrogateescape").split("\0")[:-1]
    assert words[:2] == ["trip", "animate"] and not words[2].startswith("-")
    if name == "escapes":
        assert HOSTILE[name]["prompt"] in words and HOSTILE[name]["image"] in words
    if name == "flags":
        assert "--prompt=--output=/etc/passwd" in words and "--output" not in words


def test_the_command_never_passes_on_what_a_stranger_chose_without_a_word(run, tmp_path):
    record = {"image": "a.jpg", "prompt": "x", "output": "/home/you/.bashrc", "model": "evil/model", "fusion": "f"}
    path = tmp_path / "clip.gif"
    Image.new("RGB", (16, 16)).save(path, comment=encode_metadata(record).encode())
    code, stdout, _ = run("info", path, with_model=False)
    assert code == 0 and f"--output {path}" in stdout[-2] and ".bashrc" not in stdout[-2]
    assert stdout[-1].startswith("# --model, --fusion: the record chose what is loaded")
    _, stdout, _ = run("info", path, "--json", with_model=False)
    assert "--model, --fusion" in json.loads("\n".join(stdout))["warning"]


def test_info_of_a_model_lists_what_it_understands(run, fails, model, tmp_path):
    code, stdout, _ = run("info", "trip-mini", with_model=False)
    card = "\n".join(stdout)
    assert code == 0 and "64x64" in card and "16" in card and "Apache-2.0" in card and "English" in card
    assert all(word in card for word in ("the camera pans left", "zoom", "snow", "still"))
    code, stdout, _ = run("info", model, with_model=False)
    assert code == 0 and "16x16" in "\n".join(stdout)
    shutil.copytree(model, tmp_path / "hostile")
    (tmp_path / "hostile" / "understands.json").write_text(
        '{"motions": [[1]], "licence": "\\u001b[2J", "language": {}}'
    )
    (tmp_path / "hostile" / "unet" / "config.json").write_text('{"sample_size": [1e999, -1]}')
    code, stdout, _ = run("info", tmp_path / "hostile", with_model=False)
    assert code == 0 and all(line.isprintable() for line in stdout)
    (tmp_path / "hostile" / "model_index.json").write_text("[" * 9999)
    fails("model_index.json", argv=("info", tmp_path / "hostile"), with_model=False)


# --------------------------------------------------------------------------------------------------- as a program


STREAMS = {
    "a full disk": ("info {clip} > /dev/full", 2, "No space left"),
    "a full disk for help": ("animate --help > /dev/full", 2, "No space left"),
    "errors to a full disk": ("info none.mp4 2> /dev/full", 2, ""),
    "no output": ("info {clip} >&-", 0, ""),
    "no errors": ("info none.mp4 2>&-", 2, ""),
    "nothing open": ("info none.mp4 <&- >&- 2>&-", 2, ""),
    "a reader that has left": ("info {clip} | true", 141, ""),
    "errors to a reader that has left": ("info none.mp4 2>&1 >/dev/null | true", 2, ""),
}


@pytest.mark.parametrize("case", STREAMS)
def test_streams_that_cannot_be_written_end_in_one_line_or_none(tmp_path, case):
    arguments, code, word = STREAMS[case]
    record = {"prompt": "x" * 200_000}
    (tmp_path / "clip.gif.json").write_text(encode_metadata(record))
    line = f"{sys.executable} -m trip.apps.cli {arguments.format(clip=tmp_path / 'clip.gif.json')}"
    script = f"{line}; exit ${{PIPESTATUS[0]}}"
    result = subprocess.run(["bash", "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == code, result.stderr
    assert result.stderr.count("\n") == (1 if word else 0) and word in result.stderr
    assert "Traceback" not in result.stderr and "Exception" not in result.stderr


def test_version_and_help(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("trip ")
    for argv in ([], ["--help"], ["animate", "--help"], ["info", "--help"], ["calibrate", "--help"]):
        assert main(argv) == 0
        assert "trip" in capsys.readouterr().out


LIGHT = {
    "help": ["--help"],
    "missing picture": ["{missing}", "--prompt", "pan", "--output", "{out}.mp4"],
    "damaged picture": ["{text}", "--prompt", "pan", "--output", "{out}.mp4"],
    "no prompt": ["{picture}", "--output", "{out}.mp4"],
    "a flag's value": ["{picture}", "--prompt", "pan", "--output", "{out}.mp4", "--steps", "0"],
    "no such preset": ["{picture}", "--prompt", "pan", "--output", "{out}.mp4", "--preset", "best"],
    "no such scheduler": ["{picture}", "--prompt", "pan", "--output", "{out}.mp4", "--scheduler", "magic"],
    "bad list": ["{list}", "--output", "{out}"],
    "bad output": ["{picture}", "--prompt", "pan", "--output", "{out}.xyz"],
    "no such model": ["{picture}", "--prompt", "pan", "--output", "{out}.mp4", "--model", "./nowhere"],
    "no such fusion": ["{picture}", "--prompt", "pan", "--output", "{out}.mp4", "--fusion", "./nowhere"],
}


def test_what_needs_no_model_is_said_without_importing_torch(picture, tmp_path):
    """In one process, so that the test is quick; a module once imported would stay and fail it."""
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "list.jsonl").write_text("[1]")
    names = {"missing": tmp_path / "none.png", "picture": picture, "out": tmp_path / "clip"}
    names |= {"text": tmp_path / "text.png", "list": tmp_path / "list.jsonl"}
    cases = [["animate", *(part.format(**names) for part in case)] for case in LIGHT.values()]
    code = (
        f"import json, sys\nfrom trip.apps.cli import main\ncodes = [main(case) for case in {cases!r}]\n"
        "heavy = sorted({'torch', 'diffusers', 'transformers', 'peft', 'scipy', 'cv2'} & set(sys.modules))\n"
        "print(json.dumps([codes, heavy]), file=sys.stderr)"
    )
    started = time.monotonic()
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert time.monotonic() - started < 10  # 0.3 s on an idle machine; benchmarks/startup.py measures it
    *errors, last = result.stderr.splitlines()
    assert json.loads(last) == [[0] + [2] * (len(LIGHT) - 1), []]
    assert len(errors) == len(LIGHT) - 1 and all(line.startswith("trip: error: ") for line in errors)


def test_errors_reach_the_shell(tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "trip.apps.cli", "info", str(tmp_path / "none.mp4")], capture_output=True, text=True
    )
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr.startswith("trip: error: ") and result.stderr.count("\n") == 1


# ------------------------------------------------------------------------------------------------------- controls


def test_controls_are_made_recorded_and_made_again(run, picture, tmp_path):
    out, mask, other = tmp_path / "clip.webp", tmp_path / "mask.png", tmp_path / "b.png"
    Image.new("L", (24, 16), 255).save(mask)
    Image.new("RGB", (30, 20), "red").save(other)
    flags = ["--keyframe", f"2={other}", "--mask", mask, "--drag", "0.2,0.5:0.6,0.5", "--camera", "zoom 1.2"]
    assert run("animate", picture, "--prompt", "pan", "--output", out, *flags)[0] == 0
    before = out.read_bytes()
    record = read_metadata(out)
    assert record["keyframe"] == [f"2={other}"] and record["drag"] == ["0.2,0.5:0.6,0.5"]
    sidecar_path(out).rename(tmp_path / "away.json")
    assert read_metadata(out)["keyframe"] == ["2=b.png"] and read_metadata(out)["mask"] == "mask.png"
    out.unlink()
    assert main(shlex.split(animate_command(record))[1:]) == 0
    assert out.read_bytes() == before
    loop = tmp_path / "loop.webp"
    assert run("animate", picture, "--prompt", "pan", "--output", loop, "--loop")[0] == 0
    assert "--loop" in shlex.split(animate_command(read_metadata(loop)))


def test_a_clip_goes_on_from_its_last_frames(run, picture, tmp_path):
    first, second = tmp_path / "a.mp4", tmp_path / "b.mp4"
    assert run("animate", picture, "--prompt", "pan", "--output", first)[0] == 0
    assert run("animate", first, "--prompt", "pan", "--output", second, "--observe", 2)[0] == 0
    before, after = read_video(first).frames, read_video(second).frames
    assert after.shape == before.shape


CONTROL_CASES = {
    "no such picture": (["--last-image", "none.png"], ["none.png", "does not exist"]),
    "two for one frame": (["--keyframe", "2=a.png", "--keyframe", "2=b.png"], ["--keyframe", "two pictures"]),
    "no frame": (["--keyframe", "a.png"], ["--keyframe", "FRAME=FILE"]),
    "no drag": (["--drag", "left"], ["drag (='left')"]),
    "no path": (["--camera", "fly"], ["camera (='fly')"]),
    "a picture is not observed": (["--observe", "2"], ["observe (=2)", "is a picture"]),
    "loop with a path": (["--loop", "--camera", "zoom 2"], ["loop"]),
}


@pytest.mark.parametrize("case", CONTROL_CASES)
def test_bad_control(fails, picture, tmp_path, case):
    flags, words = CONTROL_CASES[case]
    fails(*words, argv=("animate", picture, "--prompt", "pan", "--output", tmp_path / "out" / "clip.mp4", *flags))


def test_a_list_is_named_with_the_line_that_is_wrong(run, picture, tmp_path):
    rows = [{"image": str(picture), "prompt": "pan", "seed": -5}, {"image": str(picture), "prompt": "a\u0000b"}]
    path = tmp_path / "list.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    code, _, stderr = run("animate", path, "--output", tmp_path / "out")
    assert code == 2 and f"{path} line 1: seed (=-5) must be" in stderr[0]
    wide = tmp_path / "wide.csv"
    wide.write_text("image," + "x" * 200_000)
    code, _, stderr = run("animate", wide, "--output", tmp_path / "out")
    assert code == 2 and "wide.csv line 1 is not CSV" in stderr[0]


def test_a_picture_in_memory_is_turned_upright(model, tmp_path):
    """As the file of the same phone would be."""
    photo = Image.new("RGB", (40, 20), "red")
    exif = photo.getexif()
    exif[0x0112] = 6
    photo.save(tmp_path / "phone.jpg", exif=exif)
    studio = Studio.open(ModelRequest(model=str(model)))
    request = ClipRequest(image=tmp_path / "phone.jpg", prompt="pan", steps=1)
    made = [studio.make(request).frames.shape, studio.make(request, Image.open(tmp_path / "phone.jpg")).frames.shape]
    assert made[0] == made[1] and made[0][1] > made[0][2]
