"""The mean of two runs."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lab.average import average, mean_state
from torch import nn

from tiny_run import tiny_run
from trip.pipeline import TripPipeline
from trip.training.run import train


def test_the_mean_of_two_runs(tmp_path: Path) -> None:
    config = tiny_run(tmp_path)
    folders = (tmp_path / "0", tmp_path / "1")
    for seed, folder in enumerate(folders):
        train(replace(config, steps=1, seed=seed, export_dtype="float32"), folder, quiet=True, cpu=True)
    finals = tuple(folder / "final" for folder in folders)
    average(finals, tmp_path / "mean", dtype="float32")
    one, two, mean = (TripPipeline.from_pretrained(f, dtype=torch.float32) for f in (*finals, tmp_path / "mean"))
    for part in ("unet", "fusion"):
        states = [getattr(pipeline, part).state_dict() for pipeline in (one, two, mean)]
        for name, value in states[2].items():
            torch.testing.assert_close(value, (states[0][name] + states[1][name]) / 2)
    assert str(tmp_path) not in "".join(path.read_text() for path in (tmp_path / "mean").rglob("*.json"))
    with pytest.raises(ValueError, match="is there already"):
        average(finals, tmp_path / "mean")
    with pytest.raises(ValueError, match="1 folder has no mean"):
        average(finals[:1], tmp_path / "other")


def test_other_shapes_have_no_mean() -> None:
    with pytest.raises(ValueError, match="differ in names or shapes"):
        mean_state([nn.Linear(2, 2), nn.Linear(2, 3)])
