"""What a run leaves behind to read."""

import dataclasses
import json
from pathlib import Path

import pytest
from accelerate.tracking import get_available_trackers
from PIL import Image

from trip.training import run as runs
from trip.training.config import TrainingConfig
from trip.training.monitor import Log, numbers
from trip.training.run import installed_trackers, train


def test_a_run_leaves_log_filmstrips_and_config(config: TrainingConfig, tmp_path: Path) -> None:
    config = dataclasses.replace(config, validation_every=2, validation_clips=2, validation_steps=2)
    assert train(config, tmp_path / "run", cpu=True, quiet=True)
    assert TrainingConfig.load(tmp_path / "run" / "config.json") == config
    for step in (2, 4):
        with Image.open(tmp_path / "run" / "validation" / f"step-{step}.png") as picture:
            assert picture.size == (4 * 8, 2 * 2 * 8)
    records = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [1, 2, 3, 4]
    assert {"loss", "lr", "grad_norm", "data_wait", "loss_frames", "skipped"} <= records[0].keys()


def test_the_log_goes_on_where_the_checkpoint_is(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"ste')
    log = Log(path, 2)
    log.write({"step": 3})
    log.close()
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n{"step": 3}\n'


def test_records_become_flat_numbers() -> None:
    record = {"loss": 1.0, "loss_frames": [0.5, 0.25], "faults": {"corrupt": 2}}
    assert numbers(record) == {"loss": 1.0, "loss_frames/2": 0.5, "loss_frames/3": 0.25, "faults/corrupt": 2}


@pytest.mark.skipif("tensorboard" not in map(str, get_available_trackers()), reason="tensorboard is not installed")
def test_tensorboard_gets_numbers_and_pictures(config: TrainingConfig, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings = {"validation_every": 4, "validation_clips": 1, "validation_steps": 2, "trackers": ("tensorboard",)}
    train(dataclasses.replace(config, **settings), tmp_path / "run", cpu=True, quiet=True)
    events = EventAccumulator(str(next((tmp_path / "run").rglob("*tfevents*")).parent)).Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3, 4]
    assert "validation" in events.Tags()["images"]


def test_tensorboard_may_be_missing_others_may_not(config: TrainingConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", list)
    assert installed_trackers(dataclasses.replace(config, trackers=("tensorboard",))) == []
    with pytest.raises(ValueError, match="tracker 'wandb' is not installed; pip install wandb"):
        installed_trackers(dataclasses.replace(config, trackers=("wandb",)))
    assert runs.choose_checkpoint(Path("nowhere"), "latest") is None
