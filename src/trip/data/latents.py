"""Latent cache: clips rendered or read once, encoded once, then streamed by the trainer.

A cache is a folder of shards `clips-00000.safetensors` (latents, float16, n f c h w) with `clips-00000.jsonl` beside
each (one description a clip), and `cache.json`, which says what the latents are of. A shard appears only when both
of its files are complete, so a killed run resumes at the first missing shard.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor


def shard_paths(folder: Path, index: int) -> tuple[Path, Path]:
    """(latents, descriptions) of shard `index`."""
    return folder / f"clips-{index:05d}.safetensors", folder / f"clips-{index:05d}.jsonl"


def write_shard(folder: Path, index: int, latents: Tensor, descriptions: list[dict]) -> None:
    """Write one shard atomically: descriptions first, latents last, each renamed into place."""
    assert len(latents) == len(descriptions), f"{len(latents)} clips with {len(descriptions)} descriptions"
    tensors, lines = shard_paths(folder, index)
    _replace(lines, lambda path: path.write_text("".join(json.dumps(d) + "\n" for d in descriptions)))
    _replace(tensors, lambda path: save_file({"latents": latents.half().contiguous()}, path))


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def open_cache(folder: Path, describe: dict) -> None:
    """Create a cache, or check that an existing one is of the same thing.

    Raises:
        ValueError: names every setting in which the existing cache differs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    manifest = folder / "cache.json"
    if not manifest.exists():
        _replace(manifest, lambda path: path.write_text(json.dumps(describe, indent=2) + "\n"))
        return
    found, describe = json.loads(manifest.read_text()), json.loads(json.dumps(describe))
    different = [k for k in sorted(found.keys() | describe.keys()) if found.get(k) != describe.get(k)]
    if different:
        changes = ", ".join(f"{k}: {found.get(k)!r} there, {describe.get(k)!r} wanted" for k in different)
        raise ValueError(f"the cache {folder} is of something else ({changes}); choose another folder or delete it")


class LatentClips(torch.utils.data.Dataset):
    """Clips of a cache: item i is (latents float16 c f h w, description)."""

    def __init__(self, folder: Path | str):
        self.folder = Path(folder)
        self.latents, self.descriptions = [], []
        for path in sorted(self.folder.glob("clips-*.safetensors")):
            with safe_open(path, framework="np") as shard:
                self.latents.append(shard.get_tensor("latents"))
            lines = path.with_suffix(".jsonl").read_text().splitlines()
            self.descriptions += [json.loads(line) for line in lines]
        if not self.latents:
            raise ValueError(f"{folder} holds no latent shards; make them with python -m trip.training.cache")
        self.starts = np.cumsum([0, *(len(part) for part in self.latents)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, index: int) -> tuple[Tensor, dict]:
        index = range(len(self))[index]
        shard = int(np.searchsorted(self.starts, index, side="right")) - 1
        latents = self.latents[shard][index - self.starts[shard]]
        return torch.from_numpy(latents).movedim(0, 1), self.descriptions[index]


def shuffled(length: int, seed: int, start: int = 0) -> Iterator[int]:
    """Endless epochs of shuffled indices; `start` skips that many, so a resumed run sees the same order."""
    epoch, skip = divmod(start, length)
    while True:
        yield from np.random.default_rng((seed, epoch)).permutation(length)[skip:].tolist()
        epoch, skip = epoch + 1, 0


def batched(items: Iterable, size: int) -> Iterator[list]:
    """Lists of `size` consecutive items."""
    iterator = iter(items)
    while batch := [item for _, item in zip(range(size), iterator, strict=False)]:
        yield batch
