"""Whole runs as a person starts them: killed, ended, resumed, on two processes, on a full disk."""

import dataclasses
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from made_clips import broken_clips, numbered
from tiny_models import tiny_vae
from trip.apps.cli import main
from trip.pipeline import TripPipeline
from trip.training.config import TrainingConfig
from trip.training.sharding import set_up_fsdp2
from trip.training.zero import set_up_zero

KILL_WHILE_SAVING = """
import os, signal, sys
from trip.apps.cli import main
from trip.training import checkpoint
real, calls = checkpoint.save_file, []
def save_file(*arguments):
    calls.append(arguments)
    if len(calls) == 7:  # the second file of the second checkpoint
        os.kill(os.getpid(), signal.SIGKILL)
    real(*arguments)
checkpoint.save_file = save_file
sys.exit(main(sys.argv[1:]))
"""


ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1"}
"""The bits of a sum depend on the number of threads; all processes that are compared have one."""

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


@pytest.fixture
def small(config: TrainingConfig, tmp_path: Path) -> Path:
    """The settings of a run of ten steps, as a file."""
    path = tmp_path / "settings.json"
    dataclasses.replace(config, steps=10, checkpoint_every=3, keep_checkpoints=0).save(path)
    return path


def command(settings: Path, folder: Path, *flags: str) -> list[str]:
    return ["train", "--config", str(settings), "--output-dir", str(folder), "--cpu", "--quiet", *flags]


def trip(*arguments: str, program: tuple[str, ...] = ("-m", "trip.apps.cli"), check: bool = True):
    """Run the command line in a process of its own."""
    result = subprocess.run([sys.executable, *program, *arguments], capture_output=True, text=True, env=ONE_THREAD)
    if check:
        assert result.returncode == 0, result.stderr
    return result


def start(*arguments: str) -> subprocess.Popen:
    """The same, not waited for, as the leader of a process group."""
    program = [sys.executable, "-m", "trip.apps.cli", *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(program, **pipes, text=True, env=ONE_THREAD, start_new_session=True)


def wait_for_step(process: subprocess.Popen, folder: Path, step: int) -> None:
    """Until the log has a step, or the process ends."""
    log = folder / "log.jsonl"
    while process.poll() is None and not (log.is_file() and f'"step": {step},' in log.read_text()):
        time.sleep(0.002)


def records(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "checkpoints" / "step-10" / "model.safetensors")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_killed_runs_resume_to_the_same_weights(small: Path, tmp_path: Path) -> None:
    """SIGKILL in the first steps, between checkpoints, and while a checkpoint is written."""
    trip(*command(small, tmp_path / "whole"))
    for step in (1, 5):
        folder = tmp_path / f"killed-{step}"
        process = start(*command(small, folder))
        wait_for_step(process, folder, step)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        trip(*command(small, folder, "--resume", "latest"))
        assert same(weights(folder), weights(tmp_path / "whole"))
    folder = tmp_path / "killed-saving"
    killed = trip(*command(small, folder), program=("-c", KILL_WHILE_SAVING), check=False)
    assert killed.returncode == -signal.SIGKILL
    assert [p.name for p in (folder / "checkpoints").iterdir() if not p.name.startswith(".")] == ["step-3"]
    trip(*command(small, folder, "--resume", "latest"))
    assert same(weights(folder), weights(tmp_path / "whole"))
    losses = [[record["loss"] for record in records(f)] for f in (folder, tmp_path / "whole")]
    assert losses[0] == losses[1] and len(losses[0]) == 10
    assert TripPipeline.from_pretrained(folder / "final").text_encoder is not None
    assert len({path.stat().st_mode for path in (folder / "final").rglob("*") if path.is_file()}) == 1
    assert not (folder / "final" / "text_encoder").exists()
    assert str(tmp_path) not in "".join(path.read_text() for path in (folder / "final").rglob("*.json"))


@pytest.mark.slow
def test_killed_smoke_runs_end_as_whole_ones(tmp_path: Path) -> None:
    """The preset itself: killed at two random steps and while saving, resumed, every file of final/ is the same."""
    flags = ("--preset", "smoke", "--cpu", "--quiet", "--output-dir")
    trip("train", *flags, str(tmp_path / "whole"))
    first, second = random.Random().sample(range(1, 39), 2)
    for step in (first, second):
        process = start("train", *flags, str(tmp_path / f"killed-{step}"))
        wait_for_step(process, tmp_path / f"killed-{step}", step)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    saving = trip("train", *flags, str(tmp_path / "saving"), program=("-c", KILL_WHILE_SAVING), check=False)
    assert saving.returncode == -signal.SIGKILL
    for name in (f"killed-{first}", f"killed-{second}", "saving"):
        trip("train", *flags, str(tmp_path / name), "--resume", "latest")
        assert contents(tmp_path / name / "final") == contents(tmp_path / "whole" / "final"), name


def contents(folder: Path) -> dict[str, bytes]:
    """Every file by its name."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_sigterm_saves_and_ends_well(small: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = start(*command(small, folder, "--steps", "100000"))
    wait_for_step(process, folder, 2)
    process.terminate()
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    assert "as asked; go on with --resume latest" in output + errors and not (folder / "final").exists()
    saved = max(int(p.name.removeprefix("step-")) for p in (folder / "checkpoints").iterdir())
    assert saved == len(records(folder))


def loaders(process: subprocess.Popen) -> list[int]:
    """Processes that load clips: copies of the one that trains."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    line = Path(f"/proc/{process.pid}/cmdline").read_text()
    return [int(child) for child in children if Path(f"/proc/{child}/cmdline").read_text() == line]


def test_a_killed_loader_ends_the_run_in_one_line(small: Path, tmp_path: Path) -> None:
    """As the kernel does when memory is short."""
    folder = tmp_path / "run"
    process = start(*command(small, folder, "--steps", "100000", "--workers", "2"))
    wait_for_step(process, folder, 4)
    os.kill(loaders(process)[0], signal.SIGKILL)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2 and len(errors.splitlines()) == 1, errors
    assert re.search(
        r"loading clips failed: DataLoader worker .*(: Killed|unexpectedly); with too little memory", errors
    )
    assert (folder / "checkpoints" / "step-3").is_dir() and "go on with --resume latest" in errors


def test_sigterm_for_all_processes_still_saves(small: Path, tmp_path: Path) -> None:
    """Batch systems send it to the processes that load, too."""
    folder = tmp_path / "run"
    process = start(*command(small, folder, "--steps", "100000", "--workers", "2"))
    wait_for_step(process, folder, 2)
    os.killpg(process.pid, signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0 and "as asked; go on with --resume latest" in errors, errors
    assert (folder / "checkpoints" / f"step-{len(records(folder))}").is_dir()


def test_broken_files_are_named_once_and_trained_around(config: TrainingConfig, tmp_path: Path, capsys) -> None:
    """90 clips, one in ten broken, each in another way; an epoch of all of them, in samples that meet all damage."""
    clips = tmp_path / "clips"
    clips.mkdir()
    broken = broken_clips(clips)
    if os.geteuid() == 0:
        broken["private.mp4"] = "too_short"  # root may read it
    good = numbered(clips / "good-00.mp4", count=40, size=16)
    for index in range(1, 81):
        shutil.copyfile(good, clips / f"good-{index:02d}.mp4")
    rows = [{"file_name": path.name, "text": "it gets lighter"} for path in sorted(clips.glob("*.mp4"))]
    (clips / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tiny_vae().save_pretrained(tmp_path / "tiny")
    settings = {"steps": 9, "batch_size": 10, "num_frames": 4, "size": 16, "fps": 1.0, "sigma_clips": 4}
    places = {"data": str(clips), "vae": str(tmp_path / "tiny")}
    dataclasses.replace(config, **settings, **places, checkpoint_every=9).save(tmp_path / "settings.json")
    assert main(command(tmp_path / "settings.json", tmp_path / "run")) == 0
    log, errors = records(tmp_path / "run"), capsys.readouterr().err.splitlines()
    notes = [note for record in log for note in record.get("notes", [])]
    assert len(rows) == 90 and len(broken) == 9 and [record["step"] for record in log] == list(range(1, 10))
    assert sorted(note.split(":")[0] for note in notes) == sorted(f"leaving out {name}" for name in broken)
    assert sorted(line for line in errors if "leaving out" in line) == sorted(f"trip: {note}" for note in notes)
    assert log[-1]["faults"] == dict(Counter(broken.values())) and log[-1]["skipped"] == 0
    assert TripPipeline.from_pretrained(tmp_path / "run" / "final").fusion.concat == "channel"


@pytest.mark.parametrize(("optimizer", "of_losses", "of_norms"), [("adamw", 1e-5, 1e-4), ("muon", 1e-4, 1e-2)])
def test_two_processes_reach_the_weights_of_one(
    optimizer: str, of_losses: float, of_norms: float, small: Path, tmp_path: Path
) -> None:
    """Relative differences of losses, and of every tensor's norm after 20 steps; Muon's iteration is in bfloat16."""
    flags = ("--steps", "20", "--optimizer", optimizer, "--batch-size", "8", "--accumulation", "2")
    trip(*command(small, tmp_path / "one", *flags))
    trip(*command(small, tmp_path / "two", *flags), program=(*TORCHRUN, "-m", "trip.apps.cli"))
    one, two = (load_file(tmp_path / n / "checkpoints" / "step-20" / "model.safetensors") for n in ("one", "two"))
    for name, weight in one.items():
        assert abs(weight.norm() - two[name].norm()) <= of_norms * weight.norm().clamp_min(1e-6), name
    for a, b in zip(records(tmp_path / "one"), records(tmp_path / "two"), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=of_losses)


def test_sharded_processes_reach_the_weights_of_one(small: Path, tmp_path: Path) -> None:
    """FSDP2 over two CPU processes: weights and moments as in one process, a resumed run, a pipeline that loads."""
    flags = ("--steps", "6", "--optimizer", "adamw", "--validation-every", "6", "--validation-steps", "2")
    trip(*command(small, tmp_path / "one", *flags))
    launcher = (*TORCHRUN, str(Path(__file__).with_name("sharded_run.py")))
    trip(*command(small, tmp_path / "two", *flags), program=launcher)
    for file in ("model", "ema", "optimizer-0"):
        one, two = (load_file(tmp_path / n / "checkpoints" / "step-6" / f"{file}.safetensors") for n in ("one", "two"))
        assert one.keys() == two.keys()
        for name, value in one.items():
            torch.testing.assert_close(two[name], value, atol=1e-5, rtol=1e-3)
    trip(*command(small, tmp_path / "two", *flags, "--steps", "8", "--resume", "latest"), program=launcher)
    trip(*command(small, tmp_path / "one", *flags, "--steps", "8", "--resume", "latest"))
    assert records(tmp_path / "two")[-1]["loss"] == pytest.approx(records(tmp_path / "one")[-1]["loss"], rel=1e-4)
    assert TripPipeline.from_pretrained(tmp_path / "two" / "final").fusion.concat == "channel"


def test_sharded_processes_see_exact_inputs_in_bfloat16(small: Path, tmp_path: Path) -> None:
    """Timesteps, noise levels and latents stay float32 (sharded_run.py looks); the loss is that of one process."""
    flags = ("--steps", "1", "--optimizer", "adamw", "--mixed-precision", "bf16")
    trip(*command(small, tmp_path / "one", *flags))
    launcher = (*TORCHRUN, str(Path(__file__).with_name("sharded_run.py")))
    trip(*command(small, tmp_path / "two", *flags), program=launcher)
    one, two = (records(tmp_path / name)[0] for name in ("one", "two"))
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-4)
    assert two["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-3)


@pytest.mark.skipif(find_spec("deepspeed") is None, reason="DeepSpeed is not installed")
def test_zero_processes_reach_the_weights_of_one(small: Path, tmp_path: Path) -> None:
    """ZeRO-2 over two CPU processes, gradients clipped, one update left out; a resumed run ends in the same bits."""
    flags = ("--steps", "6", "--optimizer", "adamw", "--accumulation", "2", "--grad-clip", "0.2")
    program = str(Path(__file__).with_name("zero_run.py"))
    one, two = tmp_path / "one", tmp_path / "two"
    trip(*command(small, one, *flags), program=(program,))
    trip(*command(small, two, *flags), program=(*TORCHRUN, program))
    for a, b in zip(records(one), records(two), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5, nan_ok=True)
        assert a["skipped"] == b["skipped"] == (a["step"] >= 3)
    names = ("model", "ema", "optimizer-0")
    whole = {n: load_file(two / "checkpoints" / "step-6" / f"{n}.safetensors") for n in names}
    for name, state in whole.items():
        torch.testing.assert_close(
            state, load_file(one / "checkpoints" / "step-6" / f"{name}.safetensors"), atol=5e-5, rtol=1e-3
        )
    shutil.rmtree(two / "checkpoints" / "step-6")
    trip(*command(small, two, *flags, "--resume", "latest"), program=(*TORCHRUN, program))
    for name, state in whole.items():
        assert same(state, load_file(two / "checkpoints" / "step-6" / f"{name}.safetensors")), name
    assert TripPipeline.from_pretrained(two / "final").fusion.concat == "channel"


def test_muon_is_not_sharded(config: TrainingConfig) -> None:
    with pytest.raises(ValueError, match=r"^optimizer \(='muon'\) needs whole matrices, .*; choose 'adamw', or"):
        set_up_fsdp2(SimpleNamespace(), dataclasses.replace(config, optimizer="muon"))


@pytest.mark.parametrize(
    ("stage", "settings", "message"),
    [
        (3, {}, r"zero_stage \(=3\) is not what DeepSpeed does here; choose 2"),
        (2, {"optimizer": "muon"}, r"optimizer \(='muon'\) is not what DeepSpeed does here; choose 'adamw'"),
        (2, {"mixed_precision": "fp16"}, r"mixed_precision \(='fp16'\) is not .* choose 'bf16' or 'no'"),
    ],
)
def test_what_deepspeed_cannot_do_is_one_line(stage: int, settings: dict, message: str, config: TrainingConfig) -> None:
    plugin = SimpleNamespace(zero_stage=stage, deepspeed_config={})
    with pytest.raises(ValueError, match=message):
        set_up_zero(plugin, dataclasses.replace(config, **{"optimizer": "adamw", **settings}), processes=2)
    assert not plugin.deepspeed_config


def test_a_folder_with_a_run_is_not_overwritten(small: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    trip(*command(small, folder))
    again = trip(*command(small, folder), check=False)
    assert again.returncode == 2 and "holds a run at step 10; go on with --resume latest" in again.stderr
    other = trip(*command(small, folder, "--resume", "step-5"), check=False)
    assert other.returncode == 2 and "there are: step-3, step-6, step-9, step-10" in other.stderr
    more = trip(*command(small, folder, "--resume", "latest", "--steps", "12"))
    assert "steps: 10 -> 12" in more.stderr
    assert records(folder)[-1]["step"] == 12


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--preset", "smoke", "--config", "x.json"], "exclude each other"),
        (["--config", "nowhere.json"], "nowhere.json cannot be read (No such file or directory); check the path"),
        (["--preset", "smoke", "--caption-dropout", "1.5"], "--caption-dropout (=1.5) must lie in 0 to 1"),
        (["--preset", "smoke", "--trackers", "paper"], "tracker 'paper' is unknown; choose from"),
        (["--preset", "smoke", "--data", "nowhere"], "nowhere"),
        (
            ["--preset", "smoke", "--mixed-precision", "fp16"],
            "optimizer (='muon') is several; choose optimizer 'adamw'",
        ),
        (
            ["--preset", "smoke", "--mixed-precision", "fp16", "--optimizer", "adamw"],
            "mixed_precision (='fp16') needs an accelerator, and this run has a CPU; choose 'bf16' or 'no'",
        ),
        (["--preset", "smoke", "--initial", "nowhere"], "there is no initial folder 'nowhere'"),
    ],
)
def test_bad_settings_are_one_line(flags: list[str], message: str, tmp_path: Path, capsys) -> None:
    assert main(["train", "--output-dir", str(tmp_path / "run"), "--cpu", *flags]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and message in lines[0], lines
    assert not (tmp_path / "run").exists()


def test_a_dry_run_says_what_would_be_done(small: Path, tmp_path: Path, capsys) -> None:
    assert main(command(small, tmp_path / "run", "--dry-run")) == 0
    output = capsys.readouterr().out
    assert "40 in 10 steps of 4 (3.3 epochs)" in output and "parameters   UNet" in output
    assert sorted(os.listdir(tmp_path / "run")) == ["first-batch.png", "trip-run.json"]
