"""A run's folder: files of others stay, one run at a time writes, and what is damaged is named in one line."""

import dataclasses
import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tiny_run import tiny_run
from trip.apps.cli import main
from trip.data.sources import CachedClips
from trip.pipeline import TripPipeline
from trip.training.batches import open_source
from trip.training.config import TrainingConfig
from trip.training.encoders import module_sha256
from trip.training.folder import claimed
from trip.training.monitor import check_log
from trip.training.parts import build_pipeline, load_start
from trip.training.run import about_cache, make_accelerator, train
from trip.training.trainer import Run, resume, start_run


def tree(folder: Path) -> dict[str, bytes]:
    """Every file by its name."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "name",
    [
        "final/thesis.txt",
        "checkpoints/step-5/photo.jpg",
        "checkpoints/step-5/counters.json",
        "config.json",
        "log.jsonl",
        "lora/a",
        "validation/step-1.png",
        "trackers/notes",
        "first-batch.png",
        ".final/hidden",
        "notes.txt",
        "trip-run.json/in a folder",
        ".trip-mine/thesis.txt",
    ],
)
def test_files_of_others_are_not_touched(name: str, tmp_path: Path) -> None:
    path = tmp_path / "home" / name
    path.parent.mkdir(parents=True)
    path.write_text('{"step": 5}\n' if name.endswith(("counters.json", "log.jsonl")) else "{}")
    before = tree(tmp_path)
    for resume_from in (None, "latest"):
        with pytest.raises(ValueError, match=r"home\) holds files that are no run's \(.*; choose another folder"):
            train(TrainingConfig(), tmp_path / "home", resume_from=resume_from, quiet=True, cpu=True)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("flags", [[], ["--resume", "latest"], ["--dry-run"]])
def test_they_are_not_touched_from_the_command_line(flags: list[str], tmp_path: Path, capsys) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert main(["train", "--preset", "smoke", "--cpu", "--quiet", "--output-dir", str(tmp_path), *flags]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "holds files that are no run's (config.json)" in line
    assert tree(tmp_path) == {"config.json": b"{}"}


def test_a_file_is_no_folder(tmp_path: Path, config: TrainingConfig) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match=r"file\) is a file; name a folder"):
        train(config, tmp_path / "file", quiet=True, cpu=True)
    assert (tmp_path / "file").read_text() == "x"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the settings of `tiny_run` and, in "run", a run of two steps."""
    folder = tmp_path_factory.mktemp("finished")
    train(short(folder), folder / "run", quiet=True, cpu=True)
    return folder


def short(folder: Path) -> TrainingConfig:
    """Two steps with AdamW."""
    if (folder / "config.json").is_file():
        return TrainingConfig.load(folder / "config.json")
    config = dataclasses.replace(tiny_run(folder), steps=2, optimizer="adamw", keep_checkpoints=1)
    config.save(folder / "config.json")
    return config


@pytest.fixture(scope="module")
def started(finished: Path) -> Run:
    """The same run, not resumed yet."""
    config = short(finished)
    return start_run(config, open_source(config), make_accelerator(config, finished / "other", cpu=True))


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of the run."""
    return shutil.copytree(finished / "run", tmp_path / "run")


def resumed(finished: Path, run: Path, steps: int = 3) -> bool:
    """One more step."""
    return train(dataclasses.replace(short(finished), steps=steps), run, resume_from="latest", quiet=True, cpu=True)


@pytest.mark.parametrize("place", ["log.jsonl", "checkpoints", "checkpoints/step-9", "validation", "trackers/run"])
def test_planted_links_are_not_followed(place: str, finished: Path, run: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "precious").write_text("x")
    path = run / place
    shutil.rmtree(path, ignore_errors=True)
    path.unlink(missing_ok=True)
    path.parent.mkdir(exist_ok=True)
    path.symlink_to(victim / "precious" if place == "log.jsonl" else victim)
    with pytest.raises(ValueError, match=rf"{place} is a link, and a run writes into its own folder alone; remove the"):
        resumed(finished, run)
    assert tree(victim) == {"precious": b"x"}


def test_what_others_put_into_a_result_steps_aside(finished: Path, run: Path) -> None:
    (run / "final" / "unet" / "thesis.txt").write_text("years")
    (run / "mine.txt").write_text("stays")
    assert resumed(finished, run)
    assert (run / "final.kept-1" / "unet" / "thesis.txt").read_text() == "years"
    assert (run / "mine.txt").read_text() == "stays"
    assert not (run / "final" / "unet" / "thesis.txt").exists() and (run / "final" / "model_index.json").is_file()
    assert TripPipeline.from_pretrained(run / "final").unet is not None
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["step-3"]


def test_a_run_of_an_older_version_goes_on(finished: Path, run: Path) -> None:
    (run / "trip-run.json").unlink()
    older = json.loads((run / "config.json").read_text())
    older.pop("log_every")
    (run / "config.json").write_text(json.dumps(older))
    (run / "checkpoints" / ".step-1.old").mkdir()
    (run / ".final").mkdir()
    assert resumed(finished, run)
    assert {".final", "trip-run.json"} & set(os.listdir(run)) == {"trip-run.json"}
    assert os.listdir(run / "checkpoints") == ["step-3"]


def test_two_runs_do_not_share_a_folder(finished: Path, run: Path, tmp_path: Path) -> None:
    before = tree(run)
    with claimed(run), pytest.raises(ValueError, match=r"run is being trained in by another process; wait for it"):
        resumed(finished, run)
    assert tree(run) == before
    with claimed(tmp_path / "new"):
        pass
    assert not (tmp_path / "new").exists()


def test_the_lock_of_a_dead_run_is_not_in_the_way_even_where_its_loaders_live(run: Path) -> None:
    read, write = os.pipe()
    parent = os.fork()
    if parent == 0:
        try:
            with claimed(run):
                loader = os.fork()
                if loader == 0:
                    time.sleep(60)
                else:
                    os.write(write, loader.to_bytes(8, "little"))
                    time.sleep(60)
        finally:
            os._exit(1)
    loader = int.from_bytes(os.read(read, 8), "little")
    with pytest.raises(ValueError, match="another process"), claimed(run):
        pass
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    with claimed(run):
        os.kill(loader, 0)  # it lives
    os.kill(loader, signal.SIGKILL)


def test_a_finished_run_says_so_and_prints_its_result_once(finished: Path, run: Path, capsys) -> None:
    flags = ["--config", str(finished / "config.json"), "--output-dir", str(run), "--resume", "latest"]
    assert main(["train", "--cpu", "--quiet", *flags]) == 0
    said = capsys.readouterr()
    assert said.out.splitlines() == [str(run / "final")]
    assert said.err.splitlines() == ["trip: the run is at step 2 of 2 already; raise --steps to train on"]


def test_a_cache_of_another_autoencoder_is_told(finished: Path) -> None:
    config = short(finished)
    source = open_source(config)
    assert isinstance(source, CachedClips)
    pipeline = build_pipeline(config, load_start(config), torch.ones(4))
    assert about_cache(source, pipeline) == ""
    source.clips.manifest |= {"vae_sha256": module_sha256(pipeline.vae), "text_sha256": "0"}
    assert about_cache(source, pipeline) == ""  # its captions are drawn afresh
    source.clips.manifest["vae_sha256"] = "0"
    assert about_cache(source, pipeline).endswith("was made with another autoencoder than this run has")


def of_json(value: object) -> Callable[[Path], object]:
    return lambda path: path.write_text(json.dumps(value))


def tensors(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Callable[[Path], object]:
    return lambda path: save_file(change(load_file(path)), path)


COUNTERS = {"step": 2, "skipped": 0, "bad": 0, "seconds": 1.0, "scaler": None}
STEP = "checkpoints/step-2"


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        *((f"{STEP}/counters.json", of_json(value)) for value in (None, [], {}, "x", 3)),
        *(
            (f"{STEP}/counters.json", of_json(COUNTERS | change))
            for change in ({"step": "2"}, {"step": 1}, {"step": None}, {"bad": -1}, {"seconds": "x"}, {"scaler": 3})
        ),
        (f"{STEP}/counters.json", lambda path: path.write_text("[" * 100_000)),
        (f"{STEP}/counters.json", lambda path: path.write_bytes(b"\xff\xfe\x00")),
        (f"{STEP}/counters.json", lambda path: path.write_text('{"step": 2, "seconds": NaN}')),
        *(
            (f"{STEP}/{file}.safetensors", damage)
            for file in ("model", "ema", "optimizer-0")
            for damage in (
                lambda path: path.write_bytes(b""),
                lambda path: path.write_bytes(path.read_bytes()[:-7]),
                lambda path: path.write_bytes(b"\xff" * 64),
                lambda path: path.unlink(),
            )
        ),
        (STEP, lambda path: tensors(lambda _: {})(path / "model.safetensors")),
        (STEP, lambda path: tensors(lambda t: {k: v.to(torch.int64) for k, v in t.items()})(path / "ema.safetensors")),
        (STEP, lambda path: tensors(lambda t: {k: v[None] for k, v in t.items()})(path / "model.safetensors")),
        *(
            (f"{STEP}/optimizer-0.safetensors", tensors(change))
            for change in (
                lambda t: {"x": torch.zeros(1)},
                lambda t: {"0": torch.zeros(1)},
                lambda t: {"99999/exp_avg": torch.zeros(1)},
                lambda t: t | {"0/exp_avg": torch.zeros(3)},
                lambda t: t | {"0/other": t["0/exp_avg"].clone()},
                lambda t: {k: v for k, v in t.items() if k != "0/exp_avg_sq"},
                lambda t: {k: v for k, v in t.items() if not k.endswith("step")},
            )
        ),
        *(
            ("log.jsonl", lambda path, text=text: path.write_text(text))
            for text in ("null\n", "3\n", '{"loss": 1}\n', '{"step": "1"}\n', "[" * 9999 + "\n", "\0\n", "not json\n")
        ),
        ("log.jsonl", lambda path: path.write_bytes(b"\xff\xff\n")),
    ],
)
def test_a_damaged_run_is_one_line_that_names_the_file(
    name: str, damage: Callable[[Path], object], started: Run, run: Path
) -> None:
    damage(run / name)
    with pytest.raises(ValueError, match=rf"{name}[: ]") as error:
        check_log(run / "log.jsonl")
        resume(started, run / STEP)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500
