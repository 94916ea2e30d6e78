"""Latent cache: clips rendered or read once, encoded once, then read in any order by the trainer.

========================  ==========================================================================================
cache.json                what the latents are of; a cache is filled further only with the same
clips-00000.safetensors   `latents` n f c h w and, where captions are fixed, `text` n tokens d
clips-00000.jsonl         a description a clip: its caption, or what captions are drawn from
empty-text.safetensors    `text` tokens d of the empty caption
faults.jsonl              clips that were left out, with the reason
========================  ==========================================================================================

A shard appears only when both of its files are complete, so a killed run resumes at the first missing shard.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

MANIFEST, EMPTY_TEXT, FAULTS = "cache.json", "empty-text.safetensors", "faults.jsonl"


def shard_paths(folder: Path, index: int) -> tuple[Path, Path]:
    """(latents, descriptions) of shard `index`."""
    return folder / f"clips-{index:05d}.safetensors", folder / f"clips-{index:05d}.jsonl"


def write_shard(
    folder: Path,
    index: int,
    latents: Float[Tensor, "n f c h w"],
    descriptions: list[dict],
    *,
    text: Float[Tensor, "n tokens d"] | None = None,
    dtype: torch.dtype = torch.float16,
) -> None:
    """Write one shard atomically: descriptions first, tensors last, each renamed into place.

    Raises:
        ValueError: latents or text that are not finite in `dtype`.
    """
    assert len(latents) == len(descriptions), f"{len(latents)} clips with {len(descriptions)} descriptions"
    names = [str(about.get("key", number)) for number, about in enumerate(descriptions)]
    content = {"latents": cast_finite(latents, dtype, names, "latents")}
    if text is not None:
        content["text"] = cast_finite(text, dtype, names, "text features")
    tensors, lines = shard_paths(folder, index)
    replace_file(lines, lambda path: path.write_text("".join(json.dumps(d) + "\n" for d in descriptions)))
    replace_file(tensors, lambda path: save_file(content, path))


def write_empty_text(folder: Path, text: Float[Tensor, "tokens d"], dtype: torch.dtype = torch.float16) -> None:
    """Write the features of the empty caption."""
    content = {"text": cast_finite(text[None], dtype, [""], "text features")[0]}
    replace_file(folder / EMPTY_TEXT, lambda path: save_file(content, path))


def cast_finite(values: Tensor, dtype: torch.dtype, names: list[str], what: str) -> Tensor:
    """The values of n clips (n ...) in the dtype of a cache.

    Raises:
        ValueError: one clip's are not finite there; names the clip and what to do.
    """
    cast = values.to(dtype).contiguous()
    if cast.isfinite().all():
        return cast
    bad = next(i for i, clip in enumerate(cast) if not clip.isfinite().all())
    clip, label = values[bad], str(dtype).removeprefix("torch.")
    if clip.isfinite().all():
        raise ValueError(
            f"the {what} of clip {names[bad]!r} reach {clip.abs().max().item():.4g}, more than {label} holds; "
            "make the cache with dtype float32 or bfloat16"
        )
    raise ValueError(
        f"the {what} of clip {names[bad]!r} come out of the encoder as NaN or infinite; encode in float32 and "
        "check the encoder's weights"
    )


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a hidden file, then rename it to `path`."""
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
    manifest = folder / MANIFEST
    if not manifest.exists():
        replace_file(manifest, lambda path: path.write_text(json.dumps(describe, indent=2) + "\n"))
        return
    found, describe = json.loads(manifest.read_text()), json.loads(json.dumps(describe))
    different = [k for k in sorted(found.keys() | describe.keys()) if found.get(k) != describe.get(k)]
    if different:
        changes = ", ".join(f"{k}: {found.get(k)!r} there, {describe.get(k)!r} wanted" for k in different)
        raise ValueError(f"the cache {folder} is of something else ({changes}); choose another folder or delete it")


# --------------------------------------------------------------------------------------------------- reading


class LatentClips(torch.utils.data.Dataset):
    """Clips of a cache: item i is (latents c f h w, description).

    Shards are mapped into memory when they are first read, in every process anew; items are copies.

    Attributes:
        folder: the cache.
        manifest: content of cache.json, {} where there is none.
        descriptions: of all clips, without their latents.
        latent_shape: (c, f, h, w).
        empty_text: features of the empty caption (tokens d), None where the cache holds no text.

    Raises:
        ValueError: no clips, or shards that do not fit together.
    """

    def __init__(self, folder: Path | str):
        self.folder = Path(folder)
        self.paths = sorted(self.folder.glob("clips-*.safetensors"))
        self.descriptions = Descriptions([path.with_suffix(".jsonl") for path in self.paths])
        self.latent_shape = self._check_shapes()
        self.manifest = _read_manifest(self.folder / MANIFEST)
        empty = self.folder / EMPTY_TEXT
        self.empty_text: Tensor | None = load_file(empty)["text"] if empty.exists() else None
        self._mapped: dict[int, dict[str, Tensor]] = {}

    def _check_shapes(self) -> tuple[int, int, int, int]:
        shapes = set()
        for path, count in zip(self.paths, self.descriptions.counts, strict=True):
            with safe_open(path, framework="pt") as shard:
                clips, f, c, h, w = shard.get_slice("latents").get_shape()
            if clips != count:
                raise ValueError(
                    f"{path} holds {clips} clips with {count} descriptions; delete the shard and fill the cache again"
                )
            shapes |= {(c, f, h, w)} if clips else set()
        if not shapes:
            raise ValueError(f"{self.folder} holds no latent shards; make them with trip data cache")
        if len(shapes) > 1:
            raise ValueError(f"{self.folder} mixes latents c f h w of {sorted(shapes)}; fill a new cache")
        return shapes.pop()

    def __len__(self) -> int:
        return len(self.descriptions)

    def __getitem__(self, index: int) -> tuple[Tensor, dict]:
        shard, row = self.descriptions.locate(index)
        return self._tensors(shard)["latents"][row].movedim(0, 1).clone(), self.descriptions[index]

    def text(self, index: int) -> Float[Tensor, "tokens d"] | None:
        """Features of the clip's caption; None where captions are drawn afresh."""
        shard, row = self.descriptions.locate(index)
        found = self._tensors(shard).get("text")
        return None if found is None else found[row].clone()

    def _tensors(self, shard: int) -> dict[str, Tensor]:
        if shard not in self._mapped:
            with safe_open(self.paths[shard], framework="pt") as file:  # tensors are views of the mapped file
                self._mapped[shard] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return self._mapped[shard]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_mapped": {}}


class Descriptions(Sequence[dict]):
    """The lines of a cache's .jsonl files, parsed when asked for; takes 8 bytes of memory a clip."""

    def __init__(self, paths: list[Path]):
        self.paths = paths
        self.ends = [np.flatnonzero(np.fromfile(path, np.uint8) == ord("\n")) for path in paths]
        self.counts = [len(ends) for ends in self.ends]
        self.starts = np.cumsum([0, *self.counts])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def locate(self, index: int) -> tuple[int, int]:
        """(shard, row in it) of a clip."""
        index = range(len(self))[index]
        shard = int(np.searchsorted(self.starts, index, side="right")) - 1
        return shard, index - int(self.starts[shard])

    def __getitem__(self, index: int) -> dict:  # pyright: ignore[reportIncompatibleMethodOverride]
        shard, row = self.locate(index)
        start = int(self.ends[shard][row - 1]) + 1 if row else 0
        with self.paths[shard].open("rb") as file:
            file.seek(start)
            return json.loads(file.read(int(self.ends[shard][row]) - start))


def _read_manifest(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {}


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
