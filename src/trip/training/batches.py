"""Batches for training: any source of clips, addressed by position, so that a resumed run sees the same ones.

Position p of a run is clip ``order(p)`` of a shuffled epoch, drawn with a generator of (seed, p). Nothing else enters,
so batches do not depend on the number of processes or loaders, and resuming at step n is starting at position
n x batch_size: no state of an iterator has to be saved. A clip that cannot be read gives way to another one, also
drawn from (seed, p), and the fault is reported.
"""

import pickle
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from trip.codec import codec_of
from trip.data.cache.latents import LatentClips
from trip.data.sets.datasets import read_examples
from trip.data.sets.decoding import ClipFault, Decoding
from trip.data.sets.shards import named_schemes
from trip.data.sources import CachedClips, ExampleClips, Sample, Source, SyntheticClips, drawn_motion, is_drawn
from trip.inputs import require_finite
from trip.pipeline import TripPipeline
from trip.training.config import TrainingConfig
from trip.training.loaders import LONGEST_WAIT, begin_worker
from trip.training.objective import measure_sigma

TRIES = 10


def open_source(config: TrainingConfig) -> Source:
    """The clips that `config.data` names (see there).

    Raises:
        ValueError: a folder of no known layout.
    """
    folder = Path(config.data)
    if (folder / "cache.json").is_file():
        return CachedClips(LatentClips(folder), config.shares)
    if is_drawn(config.data):
        return SyntheticClips(drawn_motion(config.data, config.size, config.num_frames, config.seed))
    examples = read_examples(
        config.data,
        video_column=config.video_column,
        caption_column=config.caption_column,
        schemes=named_schemes(config.data),  # files of settings name none, see trip.apps.settings
    )
    size = (config.size, config.size)
    return ExampleClips(examples, Decoding(num_frames=config.num_frames, fps=config.fps, size=size, flip=config.flip))


# ------------------------------------------------------------------------------------------------- positions


class Positions(Dataset):
    """Item p is the clip of position p of a run."""

    def __init__(self, source: Source, config: TrainingConfig):
        self.source, self.seed, self.dropout = source, config.seed, config.caption_dropout
        self.empty_text = getattr(getattr(source, "clips", None), "empty_text", None)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, position: int) -> Sample:
        rng = np.random.default_rng((self.seed, 1, position))
        faults: list[ClipFault] = []
        epoch, place = divmod(position, len(self.source))
        index = int(shuffled(len(self.source), self.seed, epoch)[place])
        for _ in range(TRIES):
            try:
                sample = self.source.draw(index, rng)
            except ClipFault as fault:
                faults.append(fault)
                index = int(rng.integers(len(self.source)))
                continue
            dropped = rng.random() < self.dropout
            caption, text = ("", self.empty_text) if dropped else (sample.caption, sample.text)
            return Sample(sample.clip, caption, text if sample.text is not None else None, tuple(faults))
        raise ValueError(f"{TRIES} clips in a row cannot be used, the last: {faults[-1]}; run trip data check")


@lru_cache(maxsize=2)
def shuffled(length: int, seed: int, epoch: int) -> np.ndarray:
    """Order of the clips in an epoch."""
    return np.random.default_rng((seed, epoch)).permutation(length)


@dataclass(frozen=True)
class Shares:
    """Positions of this process from step `start` on: every world-th of each global batch, in passes."""

    start: int
    stop: int
    batch_size: int
    rank: int = 0
    world: int = 1

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.start, self.stop):
            yield list(range(step * self.batch_size + self.rank, (step + 1) * self.batch_size, self.world))

    def __len__(self) -> int:
        return max(0, self.stop - self.start)


def make_loader(
    source: Source, config: TrainingConfig, start: int, rank: int = 0, world: int = 1
) -> Iterator[list[Sample]]:
    """Lists of samples, one a step from step `start` on; this process's share of each global batch.

    They travel pickled: torch's own way between processes puts tensors into /dev/shm, which containers keep small,
    and fails in many ways where the process that made them is gone.
    """
    loader = DataLoader(
        Positions(source, config),
        batch_sampler=Shares(start, config.steps, config.batch_size, rank, world),
        collate_fn=pickle.dumps,
        num_workers=config.workers,
        worker_init_fn=begin_worker,
        prefetch_factor=2 if config.workers else None,
        timeout=LONGEST_WAIT if config.workers else 0,
    )
    yield from map(pickle.loads, loader)


# --------------------------------------------------------------------------------------------------- encoding


@dataclass(frozen=True)
class Batch:
    """Latents b c f h w in float32, text features b n d, and 0 where the backbone sees no image (b,); None: always."""

    latents: Tensor
    text: Tensor
    seen: Tensor | None = None


@torch.no_grad()
def encode(samples: list[Sample], pipeline: TripPipeline, device: torch.device) -> Batch:
    """Samples on the device; pixels and captions pass the pipeline's frozen encoders, unless cached."""
    latents = encode_clips(samples, pipeline.vae, device)
    cached = [sample.text for sample in samples if sample.text is not None]
    if len(cached) == len(samples):
        return Batch(latents, torch.stack(cached).to(device).float())
    features, _ = pipeline.encode_prompt([sample.caption for sample in samples], do_classifier_free_guidance=False)
    assert features is not None
    return Batch(latents, features)


@torch.no_grad()
def encode_clips(samples: list[Sample], vae: Any, device: torch.device) -> Tensor:
    """Latents b c f h w on the device; pixels pass the autoencoder, which is there.

    Raises:
        ValueError: latents that are not finite.
    """
    clips = torch.stack([sample.clip for sample in samples]).to(device)
    if clips.is_floating_point():
        return clips.float()
    latents = codec_of(vae).encode(rearrange(clips, "b f H W c -> b c f H W").float() / 127.5 - 1)
    require_finite(latents, "the clips' latents")
    return latents


def clips_sigma(source: Source, config: TrainingConfig, vae: Any, device: torch.device) -> Tensor:
    """sigma of `config.sigma_clips` clips spread over the source, see `trip.training.objective.measure_sigma`."""
    order, count = Positions(source, config), min(len(source), config.sigma_clips)
    clips = (order[int(index)] for index in np.linspace(0, len(source) - 1, count).astype(int))
    latents = torch.cat([encode_clips([clip], vae, device).cpu() for clip in clips])
    return measure_sigma(latents - latents[:, :, :1])


# ----------------------------------------------------------------------------------------------------- faults


@dataclass
class Faults:
    """Clips that could not be used so far: each named once, counted by reason."""

    reasons: dict[str, str] = field(default_factory=dict)

    def add(self, samples: list[Sample]) -> list[str]:
        """Lines for the faults not seen before."""
        new = {f.key: f for sample in samples for f in sample.faults if f.key not in self.reasons}
        self.reasons |= {key: fault.reason for key, fault in new.items()}
        return [f"leaving out {fault}" for fault in new.values()]

    @property
    def counts(self) -> dict[str, int]:
        """How many clips by reason."""
        return dict(Counter(self.reasons.values()))
