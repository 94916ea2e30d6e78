"""Batches depend on (seed, position) alone; clips that cannot be used give way, and are named."""

import dataclasses
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from trip.data.sets.decoding import ClipFault
from trip.data.sources import CachedClips, ExampleClips, Sample, SyntheticClips, kept
from trip.data.video.writing import write_video
from trip.training import batches
from trip.training.batches import Faults, Positions, make_loader, open_source
from trip.training.config import TrainingConfig
from trip.training.loaders import lost_workers


class Numbers:
    """Ten clips that hold their own number; some are broken."""

    captions: list[str] = []

    def __init__(self, broken: tuple[int, ...] = ()):
        self.broken = broken

    def __len__(self) -> int:
        return 10

    def draw(self, index: int, rng: np.random.Generator) -> Sample:
        if index in self.broken:
            raise ClipFault(f"clip-{index}", "corrupt", "damaged data")
        return Sample(torch.tensor([float(index)]), f"clip {index}")


def clips(loader) -> list[list[int]]:
    return [[int(sample.clip) for sample in samples] for samples in loader]


@pytest.mark.parametrize("workers", [0, 2])
def test_processes_and_resumed_runs_see_the_same_batches(config: TrainingConfig, workers: int) -> None:
    config = dataclasses.replace(config, steps=6, batch_size=4, workers=workers)
    whole = clips(make_loader(Numbers(), config, 0))
    assert len(whole) == 6 and sorted(x for batch in whole for x in batch[:4])[:2] != [0, 0, 0]
    assert clips(make_loader(Numbers(), config, 2)) == whole[2:]
    halves = [clips(make_loader(Numbers(), config, 0, rank, 2)) for rank in (0, 1)]
    assert [[a[0], b[0], a[1], b[1]] for a, b in zip(*halves, strict=True)] == whole


def test_an_epoch_sees_every_clip_once(config: TrainingConfig) -> None:
    config = dataclasses.replace(config, steps=5, batch_size=4)
    seen = [x for batch in clips(make_loader(Numbers(), config, 0)) for x in batch]
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10)) and seen[:10] != seen[10:]


def test_broken_clips_give_way_and_are_named_once(config: TrainingConfig) -> None:
    config = dataclasses.replace(config, steps=20)
    faults, notes = Faults(), []
    for samples in make_loader(Numbers(broken=(3, 7)), config, 0):
        assert not {int(sample.clip) for sample in samples} & {3, 7} and len(samples) == 4
        notes += faults.add(samples)
    assert sorted(notes) == ["leaving out clip-3: damaged data", "leaving out clip-7: damaged data"]
    assert faults.counts == {"corrupt": 2}
    with pytest.raises(ValueError, match=r"10 clips in a row cannot be used, the last: clip-.*; run trip data check"):
        Positions(Numbers(broken=tuple(range(10))), config)[0]


def first_batch(source: Numbers, config: TrainingConfig) -> None:
    """What a run does at its start, with a process that loads."""
    with lost_workers():
        next(iter(make_loader(source, dataclasses.replace(config, workers=1), 0)))


def test_the_error_of_a_loading_process_is_told_without_its_traceback(config: TrainingConfig) -> None:
    words = r"^10 clips in a row cannot be used, the last: clip-.: damaged data; run trip data check$"
    with pytest.raises(ValueError, match=words):
        first_batch(Numbers(broken=tuple(range(10))), config)


def test_a_loading_process_that_hangs_is_one_line(config: TrainingConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    class Hanging(Numbers):
        def draw(self, index: int, rng: np.random.Generator) -> Sample:
            time.sleep(600)
            raise AssertionError

    monkeypatch.setattr(batches, "LONGEST_WAIT", 1.0)
    began = time.monotonic()
    with pytest.raises(ValueError, match=r"^loading clips failed: DataLoader timed out after 1.0 seconds; with"):
        first_batch(Hanging(), config)
    assert time.monotonic() - began < 60


def test_captions_are_dropped_at_their_rate(config: TrainingConfig) -> None:
    positions = Positions(Numbers(), dataclasses.replace(config, caption_dropout=0.25))
    dropped = [positions[p].caption == "" for p in range(400)]
    assert 0.18 < sum(dropped) / 400 < 0.32


def test_cached_synthetic_clips_are_also_played_backwards(config: TrainingConfig) -> None:
    source = open_source(config)
    assert isinstance(source, CachedClips) and len(source) == 12
    drawn = [source.draw(0, np.random.default_rng(k)) for k in range(40)]
    forwards = {sample.caption for sample in drawn if torch.equal(sample.clip, drawn[0].clip)}
    backwards = [sample for sample in drawn if sample.caption not in forwards]
    assert backwards and all(torch.equal(s.clip, drawn[0].clip.flip(1)) for s in backwards)
    sides = ({"left", "leftwards"}, {"right", "rightwards"})
    both = [any(side & set(c.lower().strip(".").split()) for c in forwards) for side in sides]
    assert both.count(True) == 1


def test_shares_are_kept_evenly() -> None:
    part = [kept(i, "snow", {"snow": 0.3}) for i in range(1000)]
    assert 290 <= sum(part) <= 310 and all(kept(i, "rain", {"snow": 0.3}) for i in range(9))


def test_sources_are_told_apart(config: TrainingConfig, tmp_path: Path) -> None:
    drawn = open_source(dataclasses.replace(config, data="procedural", size=16, num_frames=4))
    assert isinstance(drawn, SyntheticClips)
    sample = drawn.draw(3, np.random.default_rng(0))
    assert sample.clip.shape == (4, 16, 16, 3) and sample.clip.dtype == torch.uint8 and sample.caption
    frames = np.random.default_rng(0).integers(0, 255, (9, 32, 32, 3), np.uint8)
    write_video(tmp_path / "clip.mp4", frames, 8)
    (tmp_path / "clip.txt").write_text("noise")
    files = open_source(dataclasses.replace(config, data=str(tmp_path), size=16, num_frames=4, fps=4.0))
    assert isinstance(files, ExampleClips)
    sample = files.draw(0, np.random.default_rng(0))
    assert sample.clip.shape == (4, 16, 16, 3) and sample.caption == "noise"
